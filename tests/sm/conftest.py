"""Fixtures of the Storage Manager's tests: databases, a pool with storage, a manager on both."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

import xenvol
from tests.sm import servers
from tests.sm.sqlite_file import new_file
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.records import Backend
from xenvol.sm.tables import metadata

GIB = 1 << 30
MIB = 1 << 20
NFS = {"server": "10.0.0.2", "serverpath": "/vols"}
NFS_2 = {"server": "10.0.0.2", "serverpath": "/more"}
NFS_SMALL = {"server": "10.0.0.2", "serverpath": "/small"}
DEVICE = "/dev/sdb"


@pytest.fixture(scope="session")
def new_database() -> Iterator[Callable[[str], str]]:
    """Make an empty database on a server, and return its URL; it is dropped when the tests end."""
    with ExitStack() as undo:
        connections: dict[str, tuple[sa.Connection, sa.URL]] = {}

        def make(kind: str) -> str:
            if kind not in connections:
                connections[kind] = undo.enter_context(servers.serving(kind))
                servers.sweep(connections[kind][0])
            connection, url = connections[kind]
            name = servers.create(connection)
            undo.callback(servers.drop, connection, name)
            return url.set(database=name).render_as_string(hide_password=False)

        yield make


@pytest.fixture(scope="session")
def server_url(new_database: Callable[[str], str]) -> Callable[[str], str]:
    """Return the URL of this worker's database on a server, with tables."""
    urls: dict[str, str] = {}

    def get(kind: str) -> str:
        if kind not in urls:
            url = new_database(kind)
            database = Database(url)
            database.upgrade()
            database.close()
            urls[kind] = url
        return urls[kind]

    return get


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path at which each test finds a SQLite file with empty tables."""
    return tmp_path_factory.mktemp("database") / "sm.sqlite"


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, sqlite_file: Path, server_url: Callable[[str], str]
) -> Iterator[str]:
    """An empty database: SQLite, or what the test is parametrized with (see `on_every_database`)."""
    kind = getattr(request, "param", "sqlite")
    if kind == "sqlite":
        yield new_file(sqlite_file)
        return
    url = server_url(kind)
    yield url
    database = Database(url)
    with database.transaction() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    database.close()


on_every_database = pytest.mark.parametrize(
    "database_url", ["sqlite", "postgresql", "mariadb"], indirect=True
)
on_servers = pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """One object for all tests with SQLite, so that SQLAlchemy compiles each statement once, and not in every test."""
    database = opened(database_url) if database_url.startswith("sqlite") else Database(database_url)
    yield database
    database.close()  # its connections; it can be used again


opened = functools.cache(Database)
"""One object for each URL, so that SQLAlchemy keeps what it has compiled."""


def arrange_storage(xapi: Simulator) -> None:
    """Add two exports of 100 GiB, one of 1 GiB, and a disk of 50 GiB in each host."""
    server = xapi.storage.shares.add_nfs("10.0.0.2")
    server.export("/vols", size=100 * GIB)
    server.export("/more", size=100 * GIB)
    server.export("/small", size=GIB)
    for host in xapi.db.refs("host"):
        name = xapi.db.get("host", host, "name_label")
        xapi.storage.host(name).mounts.devices[DEVICE] = xapi.storage.shares.new_device(50 * GIB)


def log_in(xapi: Simulator) -> Session:
    """Return a session that does not wait between attempts."""
    return Session(xenvol.connect(xapi.url, xapi.user, xapi.password), sleep=lambda seconds: None)


@pytest.fixture
def pool(xapi: Simulator) -> Simulator:
    """`xapi`, with storage."""
    arrange_storage(xapi)
    return xapi


@pytest.fixture
def manager(pool: Simulator, database: Database) -> Iterator[StorageManager]:
    """A manager with only a flavor ``gold``."""
    with log_in(pool) as session:
        manager = StorageManager(session, database)
        manager.create_flavor("gold", "backups are possible")
        yield manager


@pytest.fixture
def nfs(manager: StorageManager) -> Backend:
    """A thin backend of ``gold``, of 100 GiB."""
    return manager.add_backend("gold", "nfs", NFS)


@pytest.fixture
def lvm(manager: StorageManager) -> Backend:
    """A thick backend of ``gold``, of 50 GiB."""
    return manager.add_backend("gold", "lvm", {"device": DEVICE}, format_device=DEVICE)


def vdi_uuids(xapi: Simulator) -> list[str]:
    """Return the uuids of all VDIs, without the base copies that the storage driver leaves under snapshots."""
    return sorted(
        xapi.db.get("VDI", ref, "uuid") for ref in xapi.db.refs("VDI") if xapi.db.get("VDI", ref, "managed")
    )


def marks(xapi: Simulator) -> list[str]:
    """Return the marks of VDIs in the making."""
    return [
        f"{xapi.db.get('VDI', ref, 'uuid')} {key}"
        for ref in xapi.db.refs("VDI")
        for key in xapi.db.get("VDI", ref, "other_config")
        if key.startswith("xenvol:creating:")
    ]


class Finished(Exception):
    """The work ended before it reached the call."""


class Paused:
    """A service in a thread that stops at its n-th call of a method, until it is released."""

    def __init__(
        self,
        pool: Simulator,
        method: str,
        work: Callable[[StorageManager], object],
        database: Database,
        *,
        nth: int = 1,
        answer: bool = False,
    ) -> None:
        self.session = log_in(pool)
        self.order = pool.faults.hang(method, nth=nth, answer=answer)
        self.executor = ThreadPoolExecutor(1)
        self.future = self.executor.submit(work, StorageManager(self.session, database))
        while not self.order.hits:
            if self.future.done():
                self.go_on()
                raise Finished(f"there was no such call of {method}")
            threading.Event().wait(0.002)

    def go_on(self) -> object:
        self.order.release()
        try:
            return self.future.result(60)
        finally:
            self.executor.shutdown()
            self.session.close()
