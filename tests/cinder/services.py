"""A whole Cinder on a simulated pool: API, scheduler and cinder-volume as processes, in databases of this run's own."""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import requests
from click.testing import CliRunner

from tests.cinder.glance import Glance
from tests.cinder.processes import LIMIT, Process, path_with_sudo, running, wait_for
from tests.cinder.scratch import Scratch, scratch
from xenvol.cli.app import app

T = TypeVar("T")

BIN = Path(sys.executable).parent
HOST, BACKEND = "cinder-host", "xen"
VOLUME_QUEUES = (f"cinder-volume.{HOST}@{BACKEND}", f"cinder-volume.{HOST}@{BACKEND}.{HOST}")
QUEUES = ("cinder-scheduler", *VOLUME_QUEUES)
TAIL = 40  # lines of each log that a failure shows
VOLATILE = [
    # A copy leaves a hidden ancestor of VHDs, which a real SR's collector takes away in its time, and the simulator's
    # leaves (docs/background/recordings.md, file and nfs). A VHD that is not hidden has a VDI once its SR was scanned.
    "storage.servers.*.vhd",
    "storage.servers.*/filelog.txt",
    "SR.physical_utilisation",
]
POLLING = re.compile(r"INFO (cinder\.api|cinder\.volume\.api|eventlet\.wsgi)")  # of which there are hundreds

WORLD = {
    "pool": {"name": "pool"},
    "hosts": [{"name": "xen1"}, {"name": "xen2"}],
    "vms": [{"name": "web", "power_state": "Running", "resident_on": "xen1"}],
    "storage": {
        "shares": {
            "nfs": [
                {
                    "addresses": ["10.0.0.20"],
                    "exports": {"/export/gold": {"size": "100 GiB"}, "/export/silver": {"size": "400 GiB"}},
                }
            ]
        }
    },
}
FLAVORS = {"gold": "/export/gold", "silver": "/export/silver"}

CONF = """\
[DEFAULT]
auth_strategy = noauth
glance_api_servers = {glance}
transport_url = {transport_url}
host = {host}
enabled_backends = {backend}
state_path = {directory}/state
api_paste_config = {paste}
resource_query_filters_file = {filters}
osapi_volume_listen = 127.0.0.1
# a free one
osapi_volume_listen_port = 0
osapi_volume_workers = 1
# what the scheduler knows of the pools is seconds old
backend_stats_polling_interval = 3
# a volume whose cinder-volume is killed counts until its reservation expires
quota_volumes = -1
[database]
connection = {cinder_database}
# each service would take up to 55 connections, and MariaDB has 151 for all that run beside each other
max_overflow = 5
[oslo_concurrency]
lock_path = {directory}/locks
[coordination]
backend_url = file://{directory}/coordination
[{backend}]
volume_driver = xenvol.cinder.XenSMDriver
volume_backend_name = {backend}
xenvol_url = {pool}
xenvol_password_file = {directory}/password
xenvol_database = {sm_database}
"""


class Refused(Exception):
    """The API said no: `status` and its words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass
class Pool:
    """The simulator, through its control interface."""

    url: str

    def control(self, method: str, path: str, body: object = None) -> Any:
        answer = requests.request(method, f"{self.url}/simulator{path}", json=body, timeout=LIMIT)
        assert answer.ok, answer.text
        return answer.json()

    def snapshot(self) -> Any:
        return self.control("GET", "/snapshot")

    def changes_since(self, before: object) -> list[str]:
        compared = self.control("POST", "/compare", {"before": before, "ignore": VOLATILE})
        changes: list[str] = compared["differences"]
        return changes

    def order(self, fault: str, method: str, **arguments: object) -> None:
        self.control("POST", "/faults", {"fault": fault, "method": method, **arguments})

    def orders(self) -> list[Any]:
        """Those that have not struck yet."""
        left: list[Any] = self.control("GET", "/faults")["faults"]
        return left

    def forget_orders(self) -> None:
        self.control("DELETE", "/faults")


@dataclass
class CinderAPI:
    """Plain HTTP, as an administrator: with noauth everybody is one."""

    root: str
    scratch: Scratch
    type_ids: list[str] = field(default_factory=list)
    """The volume types that were created, in this order."""
    project: str = field(default_factory=lambda: uuid.uuid4().hex)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Any:
        version = {"OpenStack-API-Version": "volume 3.71"}
        headers = {"X-Auth-Token": f"admin:{self.project}", **version, **headers}
        url = f"{self.root}/v3/{self.project}{path}"
        answer = requests.request(method, url, json=body, headers=headers, timeout=LIMIT)
        if not answer.ok:
            raise Refused(answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def post(self, path: str, **body: object) -> Any:
        return self.request("POST", path, body)

    def act(self, path: str, action: str, **arguments: object) -> Any:
        return self.request("POST", f"{path}/action", {action: arguments})

    def create_type(self, name: str, **extra_specs: str) -> None:
        made = self.post("/types", volume_type={"name": name, "extra_specs": extra_specs})
        self.type_ids.append(made["volume_type"]["id"])

    def create_volume(self, size: int, volume_type: str | None = "gold", **source: str) -> str:
        wanted = {"size": size, "volume_type": volume_type, **source}
        made: str = self.post("/volumes", volume=wanted)["volume"]["id"]
        return made

    def create_snapshot(self, volume_id: str) -> str:
        wanted = {"volume_id": volume_id, "force": True}  # an attached one as well
        made: str = self.post("/snapshots", snapshot=wanted)["snapshot"]["id"]
        return made

    def attach(self, volume_id: str, connector: object) -> dict[str, Any]:
        """An attachment, with its connection_info. Of no instance: to end one of those, Cinder would ask Nova."""
        wanted = {"volume_uuid": volume_id, "connector": connector}
        made: dict[str, Any] = self.post("/attachments", attachment=wanted)["attachment"]
        return made

    def manage(self, pool: str, volume_type: str, **reference: str) -> str:
        wanted = {"host": pool, "volume_type": volume_type, "ref": reference}
        made: str = self.post("/manageable_volumes", volume=wanted)["volume"]["id"]
        return made

    def volume(self, volume_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.request("GET", f"/volumes/{volume_id}")["volume"]
        return shown

    def attachments_of(self, volume_id: str) -> list[str]:
        """The ids of all its attachments, also of those that are reserved only."""
        shown = self.request("GET", f"/attachments?volume_id={volume_id}")["attachments"]
        return [each["id"] for each in shown]

    def pool_of(self, volume_id: str) -> str:
        """The part of its host after #."""
        return str(self.volume(volume_id)["os-vol-host-attr:host"]).partition("#")[2]

    def find(self, path: str) -> dict[str, Any] | None:
        """A volume or snapshot by its path; None once there is none."""
        kind = path.strip("/").partition("/")[0].removesuffix("s")
        try:
            shown: dict[str, Any] = self.request("GET", path)[kind]
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return shown

    def until(self, path: str, *statuses: str) -> dict[str, Any]:
        """Wait until it has one of these; an error that is none of them ends the wait."""

        def has_it(shown: dict[str, Any] | None) -> dict[str, Any] | None:
            assert shown is not None, f"{path} is gone"
            if shown["status"] in statuses:
                return shown
            assert not shown["status"].startswith("error"), f"{path} is {shown['status']}"
            return None

        return wait_for(f"{path} to be {' or '.join(statuses)}", self._when_changed(path, has_it))

    def until_retyped(self, volume_id: str, volume_type: str) -> None:
        """Wait until the volume is of this type, and can be used or is. An error ends the wait."""

        def is_it() -> bool | None:
            shown = self.volume(volume_id)
            assert not shown["status"].startswith("error"), f"{volume_id} is {shown['status']}"
            assert shown["migration_status"] != "error", f"the migration of {volume_id} failed"
            is_idle = shown["status"] in ("available", "in-use")
            return (is_idle and shown["volume_type"] == volume_type) or None

        wait_for(f"volume {volume_id} to be of type {volume_type}", is_it, pause=0.2)

    def until_gone(self, path: str) -> None:
        def is_gone(shown: dict[str, Any] | None) -> bool | None:
            assert shown is None or not shown["status"].startswith("error_"), f"{path} is {shown['status']}"
            return shown is None or None

        wait_for(f"{path} to be gone", self._when_changed(path, is_gone))

    def _when_changed(
        self, path: str, judge: Callable[[dict[str, Any] | None], T | None]
    ) -> Callable[[], T | None]:
        """Return a function that asks the API, and has `judge` judge the answer, when Cinder changed the status.

        Many requests to the API would take the CPU time that the service needs to do what the test waits for.
        """
        kind, row_id = path.strip("/").split("/")
        seen: list[str | None] = []

        def look() -> T | None:
            status = self.scratch.status(kind, row_id)
            if seen == [status]:
                return None
            seen[:] = [status]
            return judge(self.find(path))

        return look

    def delete(self, path: str) -> None:
        """And wait until it is gone."""
        self.request("DELETE", path)
        self.until_gone(path)

    def delete_again(self, path: str) -> None:
        """As an administrator does with what could not be deleted at first."""
        self.act(path, "os-force_delete")
        self.until_gone(path)

    def left(self) -> list[str]:
        """The paths of all there is, snapshots before their volumes."""
        return [
            f"/{kind}/{each['id']}"
            for kind in ("snapshots", "volumes")
            for each in self.request("GET", f"/{kind}")[kind]
        ]


@dataclass
class Services:
    """What runs, and how to speak to it."""

    directory: Path
    scratch: Scratch
    pool: Pool
    glance: Glance
    undo: ExitStack
    threading: Mapping[str, str] = field(default_factory=dict)
    """What the environment tells cinder-volume of threads."""
    processes: dict[str, Process] = field(default_factory=dict)
    api: CinderAPI = field(init=False)

    @property
    def path(self) -> str:
        return path_with_sudo(self.directory / "bin")

    def xenvol(self, *arguments: str) -> Any:
        """The command line, on the same pool and the same Storage Manager; what it says as JSON.

        In this process: a test runs several commands, and a new process spends half a second on imports.
        """
        env = {
            "XENVOL_URL": self.pool.url,
            "XENVOL_PASSWORD_FILE": str(self.directory / "password"),
            "XENVOL_SM_DATABASE": self.scratch.sm_database,
        }
        done = CliRunner().invoke(app, [*arguments, "--json"], env=env)
        assert done.exit_code == 0, f"xenvol {' '.join(arguments)}: {done.stderr or done.exception}"
        return json.loads(done.stdout)

    def start(self, name: str) -> None:
        """Again, too; its output goes on in the same file.

        At the end it is killed: a graceful shutdown of Cinder takes seconds, and the scratch goes anyway.
        """
        command = [BIN / name, "--config-file", self.directory / "cinder.conf"]
        env = {**self.threading, "PATH": self.path} if name == "cinder-volume" else {}
        self.processes[name] = Process(name, command, self.directory / f"{name}.log", env)
        self.undo.callback(self.processes[name].kill)

    def start_volume(self, threading: Mapping[str, str]) -> None:
        """Start cinder-volume with this in its environment, and wait until it serves."""
        self.threading = threading
        self.start("cinder-volume")
        self._wait_for_queues()
        alive = list(self.processes.values())
        wait_for("the scheduler to know the pools", self._knows_pools, alive=alive, pause=0.3)

    def stop_volume(self) -> None:
        """Wait until the broker has noticed: a message goes to the next cinder-volume then."""
        self.processes.pop("cinder-volume").kill()
        wait_for("cinder-volume to leave its queues", lambda: not self._consumed(VOLUME_QUEUES) or None)

    def wait_for_api(self) -> None:
        listening = r"wsgi starting up on (http://127\.0\.0\.1:\d+)"
        api = self.processes["cinder-api"]
        url = wait_for("cinder-api to listen", lambda: api.said(listening), alive=[api])
        self.api = CinderAPI(url, self.scratch)

    def _wait_for_queues(self) -> None:
        alive = list(self.processes.values())
        wait_for(
            "the services to take messages",
            lambda: self._consumed(QUEUES) == set(QUEUES) or None,
            alive=alive,
        )

    def _consumed(self, queues: Sequence[str]) -> set[str]:
        return {queue for queue in queues if self.scratch.is_consumed(queue)}

    def _knows_pools(self) -> bool | None:
        pools = self.api.request("GET", "/scheduler-stats/get_pools")["pools"]
        return {pool["name"] for pool in pools} >= {f"{HOST}@{BACKEND}#{label}" for label in FLAVORS} or None

    def tails(self) -> str:
        return tails(self.directory)


def tails(directory: Path) -> str:
    """The end of every log in the directory, for whoever reads that a test failed."""
    parts = []
    for log in sorted(directory.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if not POLLING.search(line)]
        parts += [f"--- {log.name}", *telling[-TAIL:]]
    return "\n".join(parts)


@contextmanager
def syncing(made: Services) -> Iterator[None]:
    """Make Cinder's tables, while the caller does something else."""
    command = [BIN / "cinder-manage", "--config-file", made.directory / "cinder.conf", "db", "sync"]
    with running("cinder-manage", command, made.directory / "cinder-manage.log") as process:
        yield
        status = process.wait()
    assert status == 0, f"cinder-manage ended with status {status}"


@contextmanager
def services(
    directory: Path,
    *,
    simulator: Sequence[str] = (),
    settings: str = "",
    databases: Sequence[str] = (),
    tables: Callable[[Services], AbstractContextManager[None]] = syncing,
) -> Iterator[Services]:
    """API and scheduler, started; cinder-volume starts with `start_volume`.

    A caller that runs further services beside them says in which `databases` and how their `tables` are made, what
    `settings` Cinder has more or else, and further options of the `simulator`.
    """
    with ExitStack() as undo:
        mine = undo.enter_context(scratch(*databases))
        pool, glance, glance_url = _serve(undo, directory, simulator)
        made = Services(directory, mine, pool, glance, undo)
        try:
            _configure(made, glance_url, settings)
            with tables(made):
                _make_flavors(made)
            for name in ("cinder-scheduler", "cinder-api"):
                made.start(name)
            made.wait_for_api()
        except BaseException as error:
            error.add_note(made.tails())
            raise
        yield made


def _serve(undo: ExitStack, directory: Path, options: Sequence[str]) -> tuple[Pool, Glance, str]:
    """A simulated pool and an image service, which start at the same time."""
    world = directory / "world.json"
    world.write_text(json.dumps(WORLD))
    (directory / "password").write_text("secret\n")
    command = [sys.executable, "-m", "xenvol.simulator", "serve", "--world", world, "-v", *options]
    simulator = undo.enter_context(running("simulator", command, directory / "simulator.log"))
    images = Glance(directory / "images")
    images.directory.mkdir()
    command = [sys.executable, "-m", "tests.cinder.glance", images.directory]
    glance = undo.enter_context(running("glance", command, directory / "glance.log"))
    pool_url = wait_for("the simulator", lambda: simulator.said(r"simulator: (\S+)"), alive=[simulator])
    glance_url = wait_for("the image service", lambda: glance.said(r"glance: (\S+)"), alive=[glance])
    return Pool(pool_url), images, glance_url


def _configure(made: Services, glance_url: str, settings: str) -> None:
    etc = Path(sys.prefix) / "etc" / "cinder"
    for name in ("state", "locks", "coordination"):
        (made.directory / name).mkdir()
    text = CONF.format(
        directory=made.directory,
        host=HOST,
        backend=BACKEND,
        paste=etc / "api-paste.ini",
        filters=etc / "resource_filters.json",
        pool=made.pool.url,
        glance=glance_url,
        transport_url=made.scratch.transport_url,
        cinder_database=made.scratch.cinder_database,
        sm_database=made.scratch.sm_database,
    )
    (made.directory / "cinder.conf").write_text(text + settings)


def _make_flavors(made: Services) -> None:
    """The Storage Manager's tables, and a flavor on each export."""
    made.xenvol("sm", "db_upgrade")
    for label, path in FLAVORS.items():
        made.xenvol("sm", "flavor_create", label, f"{label} for tests")
        made.xenvol("sm", "backend_add", label, "nfs", "server=10.0.0.20", f"serverpath={path}")
