"""What the Storage Manager costs with 10 backends and 1,000 volumes, and with 1,000 and 1,000,000: prints the ratios.

    python benchmarks/storage_manager.py [--small 10 1000] [--large 1000 1000000] [--rounds 20] [--only SQLite]

All backends have one flavor. Once all but the last ten of them are full, so that whoever walked them would be seen
to; once all have room. Both worlds take turns, so that a busy machine disturbs both alike; what counts is the median.
The pool is the simulator, whose calls are counted, and so are the statements that the database gets.

SQLite is always there; PostgreSQL and MariaDB are used where a server answers, on the loopback or where
XENVOL_TEST_POSTGRESQL and XENVOL_TEST_MARIADB say, in databases of their own, which are dropped at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

import xenvol
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager, backend_rows, placement, policies
from xenvol.sm.placement import Request
from xenvol.sm.records import now
from xenvol.sm.tables import backends, flavors, moment, volumes

GIB = 1 << 30
SERVER = "10.0.0.2"
FLAVOR, POLICIES = "gold", ("first_fit", "most_free", "round_robin", "weighted")
WITH_ROOM = 10
PAGE = 100
SERVERS = {
    "PostgreSQL": ("XENVOL_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "MariaDB": ("XENVOL_TEST_MARIADB", "mariadb+pymysql://root@127.0.0.1:3306/"),
}
PRIME, STEP = 1_000_003, 2_003
"""Ids in no order, as uuids are: the n-th is (n * STEP) modulo PRIME, which an integer of 32 bits can hold."""

statements = 0


@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count_statement(*_: object) -> None:
    global statements
    statements += 1


@dataclass
class World:
    """A pool, and a database that knows very many backends and volumes of it."""

    manager: StorageManager
    xapi: Simulator
    database: Database
    backends: int
    volumes: int
    made: list[str] = field(default_factory=list)

    @classmethod
    def build(cls, stack: contextlib.ExitStack, url: str, backend_count: int, volume_count: int) -> World:
        xapi = stack.enter_context(Simulator())
        session = stack.enter_context(xenvol.connect(xapi.url, xapi.user, xapi.password))
        database = Database(url)
        stack.callback(database.close)
        database.upgrade()
        world = cls(StorageManager(session, database), xapi, database, backend_count, volume_count)
        world.manager.create_flavor(FLAVOR, "backups are possible")
        server = xapi.storage.shares.add_nfs(SERVER)
        rows = []
        for number in range(backend_count):
            path = f"/volumes-{number}"
            server.export(path, size=1000 * GIB + number * GIB)
            place = {"server": SERVER, "serverpath": path}
            sr = xapi.add_sr(path, type="nfs", device_config=place, create=True)
            if number >= backend_count - WITH_ROOM:
                for other in range(volume_count // backend_count):
                    xapi.add_vdi(sr, f"other-{other}", size=1)
            rows.append(_backend(xapi.db.get("SR", sr, "uuid"), path))
        with database.transaction() as connection:
            connection.execute(backends.insert(), rows)
            connection.execute(_volumes(backend_count, volume_count))
        _gather_statistics(url)
        return world

    def set_policy(self, policy: str) -> None:
        with self.database.transaction() as connection:
            connection.execute(flavors.update().values(policy=policy))

    def set_room(self, *, is_everywhere: bool) -> None:
        """Else in the last few alone; the full ones were filled longest ago."""
        self.manager.stats()  # as the pool has it
        with self.database.transaction() as connection:
            connection.execute(backends.update().values(placed_at=backends.c.id))
            if not is_everywhere:
                full = backends.update().where(backends.c.id <= self.backends - WITH_ROOM)
                connection.execute(full.values(free=GIB // 2))

    # ---- what is measured

    def place(self, policy: str) -> None:
        """What a create does to choose its first backend."""
        request = Request(volume_id=str(uuid.uuid4()), size=GIB)
        chosen = policies.get_policy(policy)
        page = self.database.read(backend_rows.with_room, 1, request.size, order=chosen.order_by, limit=50)
        fitting = [backend for backend in page if placement.obstacle(backend, request) is None]
        assert chosen.order(fitting, request)

    def create(self) -> None:
        self.made.append(str(uuid.uuid4()))
        self.manager.create_volume(self.made[-1], FLAVOR, GIB)

    def get(self) -> None:
        self.manager.get_volume(self.made[-1])

    def delete(self) -> None:
        self.manager.delete_volume(self.made.pop())

    def list_all(self) -> None:
        assert len(self.manager.list_volumes(after="volume-5", limit=PAGE)) == PAGE

    def list_of_backend(self) -> None:
        self.manager.list_volumes(backend_id=self.backends, limit=PAGE)

    def list_of_flavor(self) -> None:
        assert len(self.manager.list_volumes(flavor_label=FLAVOR, after="volume-5", limit=PAGE)) == PAGE


def _backend(sr_uuid: str, path: str) -> dict[str, Any]:
    return {
        "flavor_id": 1, "sr_uuid": sr_uuid, "sr_type": "nfs", "config_params": f"server={SERVER} serverpath={path}",
        "token": str(uuid.uuid4()), "place": sr_uuid, "origin": "found", "state": "ready", "features": "",
        "physical_size": 0, "physical_utilisation": 0, "virtual_allocation": 0, "free": 0, "weight": 1.0,
        "placed_at": 0, "created_at": now(), "deleted": 0,
    }  # fmt: skip  # because the values are of no interest


def _volumes(backend_count: int, volume_count: int) -> sa.Insert:
    """All in one statement, that the three databases understand."""
    digits = " UNION ALL ".join(f"SELECT {n} AS n" for n in range(10))
    places = [f"digit{power}" for power in range(len(str(volume_count - 1)))]
    number = " + ".join(f"{place}.n * {10**power}" for power, place in enumerate(places))
    every = " CROSS JOIN ".join(f"({digits}) {place}" for place in places)
    query = sa.text(f"SELECT {number} AS n FROM {every} WHERE {number} < {volume_count}")
    rows = query.columns(sa.column("n", sa.Integer)).subquery("row_numbers")

    def volume_id(n: Any) -> Any:
        return sa.literal_column("'volume-'", sa.String) + sa.cast((n * STEP) % PRIME, sa.String(20))

    text = sa.cast(rows.c.n, sa.String(20))
    values: dict[str, Any] = {
        "id": volume_id(rows.c.n),
        "backend_id": rows.c.n % backend_count + 1,
        "vdi_uuid": sa.literal_column("'vdi-'", sa.String) + text,
        "token": sa.literal_column("'token-'", sa.String) + text,
        "state": sa.literal_column("'available'"),
        "name": sa.literal_column("''"),
        "size": sa.literal_column(str(GIB)),
        "virtual_size": sa.literal_column(str(GIB)),
        "cost": sa.literal_column(str(GIB)),
        "snapshot_of": sa.case((rows.c.n % 10 == 9, volume_id(rows.c.n - 1)), else_=sa.null()),
        "created_at": sa.literal(now(), moment()),
        "deleted": sa.literal_column("0"),
    }
    return volumes.insert().from_select(list(values), sa.select(*values.values()).order_by(values["id"]))


def _gather_statistics(url: str) -> None:
    """As a server does by itself after some minutes; a SQLite file never has any."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    kind = engine.dialect.name
    with engine.connect() as connection:
        for table in ("sm_volume", "sm_backend_config"):
            if kind == "postgresql":
                connection.execute(sa.text(f"VACUUM ANALYZE {table}"))
            elif kind != "sqlite":
                connection.execute(sa.text(f"ANALYZE TABLE {table}"))
    engine.dispose()


# ---- databases


@contextlib.contextmanager
def sqlite() -> Iterator[Callable[[str], str]]:
    with tempfile.TemporaryDirectory() as directory:
        yield lambda name: f"sqlite:///{Path(directory) / name}.sqlite"


@contextlib.contextmanager
def server(url: str) -> Iterator[Callable[[str], str]]:
    """URLs of databases that are made for the purpose. Raises SQLAlchemyError or ImportError without a server."""
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect():
        pass
    made = []

    def make(name: str) -> str:
        database = f"xenvol_bench_{os.getpid()}_{name}"
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {database}"))
        made.append(database)
        return admin.url.set(database=database).render_as_string(hide_password=False)

    try:
        yield make
    finally:
        with admin.connect() as connection:
            for database in made:
                connection.execute(sa.text(f"DROP DATABASE {database}"))
        admin.dispose()


# ---- measuring


def compare(small: World, large: World, rounds: int) -> list[float]:
    """Prints a line per operation; the ratios."""
    ratios = []

    def measure(name: str, work: Callable[[World], object], *, before: Any = None, after: Any = None) -> None:
        taken: dict[int, list[float]] = {0: [], 1: []}
        counts: list[tuple[int, int]] = [(0, 0), (0, 0)]
        for _ in range(rounds):
            for which, world in enumerate((small, large)):
                if before is not None:
                    before(world)
                said, mark = statements, world.xapi.journal.mark()
                start = time.perf_counter()
                work(world)
                taken[which].append(time.perf_counter() - start)
                counts[which] = (statements - said, len(world.xapi.journal.since(mark)))
                if after is not None:
                    after(world)
        few, many = (median(taken[which]) * 1000 for which in (0, 1))
        ratios.append(many / few)
        same = "" if counts[0] == counts[1] else f"; there {counts[1][0]} and {counts[1][1]}"
        said = f"{counts[0][0]} statements, {counts[0][1]} calls{same}"
        print(f"  {name:38} {few:9.2f} ms {many:9.2f} ms {many / few:7.2f}   {said}")

    for is_everywhere in (False, True):
        what = "all have room" if is_everywhere else f"all but {WITH_ROOM} are full"
        for world in (small, large):
            world.set_room(is_everywhere=is_everywhere)
        for policy in POLICIES:
            for world in (small, large):
                world.set_policy(policy)
            place, create = _placing(policy), World.create
            measure(f"place, {policy}, {what}", place)
            measure(f"create, {policy}, {what}", create, after=World.delete)
    for world in (small, large):
        world.set_policy(POLICIES[0])
    measure("delete", World.delete, before=World.create)
    for world in (small, large):
        world.create()
    measure("get", World.get)
    measure(f"list {PAGE}", World.list_all)
    measure(f"list {PAGE} of a backend", World.list_of_backend)
    measure(f"list {PAGE} of a flavor", World.list_of_flavor)
    return ratios


def _placing(policy: str) -> Callable[[World], None]:
    return lambda world: world.place(policy)


def run(name: str, urls: Callable[[str], str], options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        start = time.monotonic()
        small = World.build(stack, urls("small"), *options.small)
        large = World.build(stack, urls("large"), *options.large)
        print(
            f"\n{name}: {large.backends:,} backends, {large.volumes:,} rows in {time.monotonic() - start:.0f} s"
        )
        titles = [f"{world.backends:,} / {world.volumes:,}" for world in (small, large)]
        print(f"  {'backends / volumes':38} {titles[0]:>12} {titles[1]:>12}   ratio")
        ratios = compare(small, large, options.rounds)
        print(f"  ratios: median {median(ratios):.2f}, worst {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", type=int, nargs=2, default=[10, 1000], metavar=("BACKENDS", "VOLUMES"))
    parser.add_argument(
        "--large", type=int, nargs=2, default=[1000, 1_000_000], metavar=("BACKENDS", "VOLUMES")
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=["SQLite", *SERVERS])
    options = parser.parse_args()
    if options.only in (None, "SQLite"):
        with sqlite() as urls:
            run("SQLite", urls, options)
    for name, (variable, default) in SERVERS.items():
        if options.only not in (None, name):
            continue
        with contextlib.ExitStack() as stack:
            try:
                urls = stack.enter_context(server(os.environ.get(variable, default)))
            except (SQLAlchemyError, ImportError) as error:
                reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
                print(f"\n{name}: skipped, no server answers; {variable} may name one ({reason})")
                continue
            run(name, urls, options)


if __name__ == "__main__":
    main()
