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
from tests.nova.standins import StandIns, stand_ins

HOSTS = ("xen1", "xen2")
MICROVERSION = "2.96"
PROJECT = "7e570000000000000000000000000000"
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
# Cinder lets nobody else end an attachment of a server
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
compute_driver = fake.FakeDriver
"""


@dataclass
class NovaAPI:
    """Plain HTTP, as an administrator."""

    root: str
    project: str

    def request(self, method: str, path: str, body: object = None) -> Any:
        headers = {"X-Auth-Token": f"admin:{self.project}", "OpenStack-API-Version": f"compute {MICROVERSION}"}
        answer = requests.request(method, f"{self.root}/v2.1{path}", json=body, headers=headers, timeout=LIMIT)
        if not answer.ok:
            raise Refused(answer.status_code, answer.text)
        return answer.json() if answer.content else None


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

    def knows_hosts(self) -> bool | None:
        """Whether each host is up, and mapped to the cell so that the scheduler chooses it."""
        shown = self.api.request("GET", "/os-hypervisors")["hypervisors"]
        return {each["hypervisor_hostname"] for each in shown if each["state"] == "up"} == set(HOSTS) or None

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
            services(directory / "cinder", settings=settings, databases=DATABASES, tables=tables)
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
        "nova.conf": NOVA.format(directory=directory, transport_url=scratch.transport_url)
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
        texts[f"{host}/compute.conf"] = COMPUTE.format(host=host, directory=directory / host)
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
    for name in ("nova-conductor", "nova-scheduler"):
        made.start(name, [*program(name, made.directory), "--config-file", made.directory / "databases.conf"])
    urls = {
        name: wait_for(f"{name} to listen", lambda: process.said(r"wsgi\.\w+: (http\S+)"), alive=[process])
        for name, process in applications.items()
    }
    made.api = NovaAPI(urls["nova-api"], made.cinder.api.project)
    made.stand_ins.catalogue |= {
        "placement": urls["placement"],
        "compute": f"{urls['nova-api']}/v2.1",
        "block-storage": f"{made.cinder.api.root}/v3",
    }
    for host in HOSTS:
        made.start_compute(host)
    made.cinder.start_volume({})
    wait_for("the scheduler to know both hosts", made.knows_hosts, alive=[*made.processes.values()], pause=0.3)
