"""Nova's services as processes, beside the Cinder of `tests.cinder.services` and on the same simulated pool.

Nova's API, conductor and scheduler, a nova-compute for each host of the pool, and placement. Keystone and Neutron are
stand-ins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.cinder.processes import LIMIT, Process, running, wait_for
from tests.cinder.services import BIN, Refused, Services, services, syncing, tails
from tests.nova import databases
from tests.nova.standins import SERVICE_TOKEN, StandIns, stand_ins

HOSTS = ("xen1", "xen2")
MICROVERSION = "2.96"
FLAVOR = "small"
PAUSE = 0.2  # seconds between two questions to nova's API: its answers take CPU time, which the services need
DATABASES = ("placement", "nova_api", "nova", "nova_cell0")
MIGRATIONS = [
    ("placement-manage", "db", "sync"),
    ("nova-manage", "api_db", "sync"),
    ("nova-manage", "cell_v2", "map_cell0"),
    ("nova-manage", "db", "sync"),
    ("nova-manage", "cell_v2", "create_cell", "--name", "cell1"),
]
MADE_BY = ("nova", "openstack-placement", "cinder")
"""The distributions whose programs make the tables."""

IDENTITY = """\
[{section}]
auth_type = password
auth_url = {keystone}
username = {user}
password = secret
project_name = service
user_domain_id = default
project_domain_id = default
"""
MIDDLEWARE = """\
www_authenticate_uri = {keystone}
service_token_roles = service
service_token_roles_required = true
"""
CINDER = """\
[DEFAULT]
auth_strategy = keystone
"""
NOVA = """\
[DEFAULT]
concurrency_backend = threading
transport_url = {transport_url}
my_ip = 127.0.0.1
state_path = {directory}/state
# a service's first periodic tasks run when it has started, not up to a minute later
periodic_fuzzy_delay = 0
# on a busy machine an answer or a heartbeat may come late; the tests say themselves which service is down
rpc_response_timeout = {limit}
service_down_time = {limit}
[oslo_concurrency]
lock_path = {directory}/locks
[conductor]
workers = 1
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 1
[vnc]
enabled = false
[service_user]
# only for a service does Cinder delete an attachment that a server has
send_service_user_token = true
"""
NOVA_DATABASES = """\
[database]
connection = {database}
max_overflow = 5
[api_database]
connection = {api_database}
max_overflow = 5
"""
PLACEMENT = """\
[placement_database]
connection = {database}
max_overflow = 5
"""
COMPUTE = """\
[DEFAULT]
host = {host}
state_path = {directory}
compute_driver = xenvol.Driver
[xenvol]
url = {pool}
password_file = {password_file}
# the simulator's word for a guest that has the drivers to take a disk while it runs
platform = sim-pv:true
"""


@dataclass
class NovaAPI:
    """Plain HTTP, as an administrator."""

    root: str
    project: str

    def request(self, method: str, path: str, body: object = None) -> Any:
        headers = {
            "X-Auth-Token": f"admin:{self.project}",
            "OpenStack-API-Version": f"compute {MICROVERSION}",
        }
        answer = requests.request(method, f"{self.root}{path}", json=body, headers=headers, timeout=LIMIT)
        if not answer.ok:
            raise Refused(answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def post(self, path: str, **body: object) -> Any:
        return self.request("POST", path, body)

    def act(self, server_id: str, action: str, **arguments: object) -> None:
        self.request("POST", f"/servers/{server_id}/action", {action: arguments or None})

    def create_server(self, root_id: str, host: str | None = None, *data_ids: str) -> str:
        """A server with these volumes, which boots from the first, on this host or on the scheduler's choice."""
        disks = [
            {"boot_index": index, "uuid": each, "source_type": "volume", "destination_type": "volume"}
            for index, each in zip([0, *[-1] * len(data_ids)], [root_id, *data_ids], strict=True)
        ]
        wanted = {
            "name": "server",
            "flavorRef": FLAVOR,
            "networks": "none",
            "block_device_mapping_v2": disks,
            **({} if host is None else {"host": host}),
        }
        made: str = self.post("/servers", server=wanted)["server"]["id"]
        return made

    def host_of(self, server_id: str) -> str:
        return str(self.request("GET", f"/servers/{server_id}")["server"]["OS-EXT-SRV-ATTR:host"])

    def volumes_of(self, server_id: str) -> dict[str, str]:
        """By volume id, the id of the attachment, as nova has it."""
        shown = self.request("GET", f"/servers/{server_id}/os-volume_attachments")["volumeAttachments"]
        return {each["volumeId"]: each["attachment_id"] for each in shown}

    def until(self, server_id: str, status: str) -> None:
        """Wait until the server has this status, and nova is doing nothing with it."""

        def has_it() -> bool | None:
            shown = self.request("GET", f"/servers/{server_id}")["server"]
            assert shown["status"] != "ERROR", f"{server_id} is in an error: {shown.get('fault')}"
            return (shown["status"], shown["OS-EXT-STS:task_state"]) == (status, None) or None

        wait_for(f"server {server_id} to be {status}", has_it, pause=PAUSE)

    def delete(self, *server_ids: str) -> None:
        """And wait until they are gone."""
        for each in server_ids:
            self.request("DELETE", f"/servers/{each}")
        for each in server_ids:
            wait_for(
                f"server {each} to be gone", lambda each=each: each not in self.left() or None, pause=PAUSE
            )

    def left(self) -> list[str]:
        """The ids of all servers there are."""
        return [each["id"] for each in self.request("GET", "/servers")["servers"]]

    def attach(self, server_id: str, volume_id: str) -> None:
        """Ask for it. When it is done, the volume is in use."""
        wanted = {"volumeId": volume_id}
        self.post(f"/servers/{server_id}/os-volume_attachments", volumeAttachment=wanted)

    def detach(self, server_id: str, volume_id: str) -> None:
        """Ask for it. When it is done, the volume is available."""
        self.request("DELETE", f"/servers/{server_id}/os-volume_attachments/{volume_id}")

    def migrate(self, server_id: str, host: str) -> str:
        """Migrate it live to this host; return the status in which the migration ends."""
        earlier = len(self.migrations(server_id))
        self.begin_migration(server_id, host)
        return self.until_migrated(server_id, earlier)

    def begin_migration(self, server_id: str, host: str) -> None:
        self.act(server_id, "os-migrateLive", host=host, block_migration="auto")

    def until_migrated(self, server_id: str, earlier: int = 0) -> str:
        """Wait until the migration after so many earlier ones has ended; return its status."""

        def ended() -> str | None:
            statuses = self.migrations(server_id)[earlier:]
            return statuses[0] if statuses and statuses[0] in ("completed", "failed", "error") else None

        status = wait_for(f"the migration of {server_id} to end", ended, pause=PAUSE)
        self.until(server_id, "ACTIVE")
        return status

    def migrations(self, server_id: str) -> list[str]:
        """Their statuses, the first one first. Evacuations count."""
        shown = self.request("GET", f"/os-migrations?instance_uuid={server_id}")["migrations"]
        return [each["status"] for each in sorted(shown, key=lambda each: int(each["id"]))]

    def service_id(self, host: str) -> str:
        (service,) = self.request("GET", f"/os-services?binary=nova-compute&host={host}")["services"]
        return str(service["id"])


@dataclass
class Cloud:
    """What runs, and how to speak to it."""

    directory: Path
    cinder: Services
    stand_ins: StandIns
    undo: ExitStack
    processes: dict[str, Process] = field(default_factory=dict)
    api: NovaAPI = field(init=False)

    def start(self, name: str, command: Sequence[str | Path], **env: str) -> Process:
        """At the end it is killed: a graceful shutdown takes seconds, and the databases go anyway."""
        process = Process(name, command, self.directory / f"{name}.log", env)
        self.processes[name] = process
        self.undo.callback(process.kill)
        return process

    def start_compute(self, host: str) -> None:
        configuration = ("--config-file", self.directory / host / "compute.conf")
        self.start(f"nova-compute-{host}", [*program("nova-compute", self.directory), *configuration])

    def stop_compute(self, host: str) -> None:
        """As a crash does. Wait until the broker has noticed: a message waits for the next nova-compute then."""
        self.processes.pop(f"nova-compute-{host}").kill()
        queue = f"compute.{host}"
        wait_for(f"{queue} to be left", lambda: not self.cinder.scratch.is_consumed(queue) or None)

    def wait_for_hosts(self) -> None:
        """Until each of them takes messages, is up, and is mapped to the cell, so that the scheduler chooses it."""
        alive = [*self.processes.values()]
        wait_for("nova-compute to serve on both hosts", self._serves_both, alive=alive, pause=PAUSE)

    def _serves_both(self) -> bool | None:
        if not all(self.cinder.scratch.is_consumed(f"compute.{host}") for host in HOSTS):
            return None
        shown = self.api.request("GET", "/os-hypervisors")["hypervisors"]
        return {each["hypervisor_hostname"] for each in shown if each["state"] == "up"} == set(HOSTS) or None

    def used(self) -> int:
        """How much of the hosts' processors and memory placement counts as used, in sum."""

        def ask(path: str) -> Any:
            url = f"{self.stand_ins.catalogue['placement']}{path}"
            return requests.get(url, headers={"X-Auth-Token": SERVICE_TOKEN}, timeout=LIMIT).json()

        providers = [each["uuid"] for each in ask("/resource_providers")["resource_providers"]]
        return sum(sum(ask(f"/resource_providers/{each}/usages")["usages"].values()) for each in providers)

    def tails(self) -> str:
        """The end of every log, for whoever reads that a test failed."""
        return tails(self.directory) + self.cinder.tails()


@contextmanager
def cloud(directory: Path) -> Iterator[Cloud]:
    """All services, serving."""
    with ExitStack() as undo:
        others = undo.enter_context(stand_ins())

        @contextmanager
        def tables(cinder: Services) -> Iterator[None]:
            _configure(directory, cinder, others.keystone_url)
            _make_tables(directory, cinder)
            yield

        (directory / "cinder").mkdir()
        settings = CINDER + _identities(others.keystone_url, "cinder", "nova", "service_user")
        cinder = undo.enter_context(
            services(
                directory / "cinder",
                simulator=("--host-assumed-dead-interval", "1"),
                settings=settings,
                databases=DATABASES,
                tables=tables,
            )
        )
        made = Cloud(directory, cinder, others, undo)
        try:
            _start(made)
        except BaseException as error:
            error.add_note(made.tails())
            raise
        yield made


def program(name: str, directory: Path) -> list[str | Path]:
    """A program of nova, with the configuration that all of them share."""
    return [BIN / name, "--config-file", directory / "nova.conf"]


def _identities(keystone_url: str, user: str, *sections: str) -> str:
    """As which user a service speaks to the others, and how it asks who speaks to it."""
    both = [
        IDENTITY.format(section=section, keystone=keystone_url, user=user)
        for section in (*sections, "keystone_authtoken")
    ]
    return "".join(both) + MIDDLEWARE.format(keystone=keystone_url)


def _configure(directory: Path, cinder: Services, keystone_url: str) -> None:
    scratch = cinder.scratch
    clients = ("placement", "cinder", "neutron", "service_user")
    texts = {
        "nova.conf": NOVA.format(directory=directory, transport_url=scratch.transport_url, limit=LIMIT)
        + _identities(keystone_url, "nova", *clients),
        "databases.conf": NOVA_DATABASES.format(
            database=scratch.database("nova"),
            api_database=scratch.database("nova_api"),
        ),
        "placement.conf": PLACEMENT.format(database=scratch.database("placement"))
        + _identities(keystone_url, "placement"),
    }
    for host in HOSTS:
        (directory / host).mkdir()
        texts[f"{host}/compute.conf"] = COMPUTE.format(
            host=host,
            directory=directory / host,
            pool=cinder.pool.url,
            password_file=cinder.directory / "password",
        )
    for name, text in texts.items():
        (directory / name).write_text(text)


def _make_tables(directory: Path, cinder: Services) -> None:
    kept = databases.kept_in(MADE_BY, repr(MIGRATIONS))
    if kept.exists():
        databases.restore(cinder.scratch, kept)
        return
    with syncing(cinder):  # which takes as long as all of these, on a core of its own
        for name, *arguments in MIGRATIONS:
            _migrate(directory, name, arguments)
    databases.keep(cinder.scratch, kept)


def _migrate(directory: Path, name: str, arguments: Sequence[str]) -> None:
    if name == "nova-manage":
        command = [*program(name, directory), "--config-file", directory / "databases.conf", *arguments]
    else:
        command = [BIN / name, "--config-file", directory / "placement.conf", *arguments]
    with running(name, command, directory / f"{name}.log") as process:
        status = process.wait()
    assert status == 0, f"{name} {' '.join(arguments)} ended with status {status}"


def _start(made: Cloud) -> None:
    wsgi = (sys.executable, "-m", "tests.nova.wsgi")
    here = str(made.directory)
    applications = {
        "placement": made.start("placement", [*wsgi, "placement.wsgi.api"], OS_PLACEMENT_CONFIG_DIR=here),
        "nova-api": made.start(
            "nova-api",
            [*wsgi, "nova.wsgi.osapi_compute"],
            OS_NOVA_CONFIG_DIR=here,
            OS_NOVA_CONFIG_FILES=f"{Path(sys.prefix)}/etc/nova/api-paste.ini;nova.conf;databases.conf",
        ),
    }
    urls = {name: _address(process) for name, process in applications.items()}
    made.api = NovaAPI(f"{urls['nova-api']}/v2.1", made.cinder.api.project)
    made.stand_ins.catalogue |= {
        "placement": urls["placement"],
        "compute": made.api.root,
        "block-storage": f"{made.cinder.api.root}/v3",
    }
    # from here on, since each of these asks for the catalogue once
    for name in ("nova-conductor", "nova-scheduler"):
        made.start(name, [*program(name, made.directory), "--config-file", made.directory / "databases.conf"])
    for host in HOSTS:
        made.start_compute(host)
    made.cinder.start_volume({})
    made.wait_for_hosts()
    made.api.post("/flavors", flavor={"id": FLAVOR, "name": FLAVOR, "ram": 512, "vcpus": 1, "disk": 0})


def _address(process: Process) -> str:
    said = r"wsgi\.\w+: (http\S+)"
    return wait_for(f"{process.name} to listen", lambda: process.said(said), alive=[process])
