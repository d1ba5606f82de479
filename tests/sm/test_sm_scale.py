"""Among a thousand backends a volume costs as many calls and statements as among ten, and indexes serve them.

Seconds are measured by benchmarks/storage_manager.py.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from tests.sm.conftest import log_in
from tests.sm.values import ALL_FEATURES
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.records import now
from xenvol.sm.tables import backends, flavors, volumes

GIB = 1 << 30
POLICIES = ["first_fit", "most_free", "round_robin", "weighted"]
every_policy = pytest.mark.parametrize("policy", POLICIES)


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Return the statements that databases get during the block, with their values."""
    told: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        told.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield told
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def a_row(flavor_id: int, sr_uuid: str, number: int) -> dict[str, Any]:
    return {
        "flavor_id": flavor_id,
        "sr_uuid": sr_uuid,
        "sr_type": "dummy",
        "config_params": f"sr_uuid={sr_uuid}",
        "token": f"token-{number}",
        "place": f"place-{number}",
        "origin": "found",
        "state": "ready",
        "features": ALL_FEATURES,
        "physical_size": 2000 * GIB,
        "physical_utilisation": 0,
        "virtual_allocation": 0,
        "free": 100 * GIB,
        "weight": 1.0,
        "placed_at": number,
        "created_at": now(),
        "deleted": 0,
    }


@pytest.fixture
def crowd(xapi: Simulator, database: Database) -> Iterator[Callable[[str, int], StorageManager]]:
    """A flavor ``policy-count`` with so many backends, which all have room; in one pool and one database."""
    with log_in(xapi) as session:
        manager = StorageManager(session, database)

        def make(policy: str, count: int) -> StorageManager:
            flavor = manager.create_flavor(f"{policy}-{count}", "", policy=policy)
            srs = [xapi.db.get("SR", ref, "uuid") for ref in xapi.add_srs(count, type="dummy")]
            rows = [a_row(flavor.id, sr_uuid, uuid.uuid4().int >> 70) for sr_uuid in srs]
            with database.transaction() as connection:
                connection.execute(backends.insert(), rows)
            return manager

        yield make


def fill(database: Database, flavor_label: str, *, but: int) -> None:
    """Fill all backends of the flavor except the last so many."""
    with database.transaction() as connection:
        its_id = sa.select(flavors.c.id).where(flavors.c.label == flavor_label).scalar_subquery()
        its = backends.c.flavor_id == its_id
        last = sa.select(backends.c.id).where(its).order_by(backends.c.id.desc()).limit(but)
        connection.execute(backends.update().where(its, backends.c.id.not_in(last)).values(free=GIB // 2))


def kinds(told: list[tuple[str, Any]]) -> list[str]:
    """Return each statement without its values; those of a list are as many as there were."""
    return [re.sub(r"\s+", " ", statement) for statement, _ in told]


@every_policy
@pytest.mark.parametrize("are_full", [True, False], ids=["all but ten full", "all with room"])
def test_a_create_tells_the_database_and_the_pool_the_same_among_10_and_1000(
    policy: str,
    are_full: bool,
    crowd: Callable[[str, int], StorageManager],
    xapi: Simulator,
    database: Database,
) -> None:
    """Statement for statement, call for call; so do a second create, a read, a list, a delete."""
    seen = {}
    for count in (10, 1000):
        manager, flavor = crowd(policy, count), f"{policy}-{count}"
        if are_full:
            fill(database, flavor, but=10)
        with statements() as told, xapi.journal.recording() as calls:
            volume = manager.create_volume(f"volume-{count}", flavor, GIB)
            assert manager.create_volume(f"volume-{count}", flavor, GIB) == volume
            assert manager.get_volume(volume.id) == volume
            assert manager.list_volumes(flavor_label=flavor, limit=10) == [volume]
            manager.delete_volume(volume.id)
        seen[count] = (kinds(told), calls.methods())
    assert seen[10] == seen[1000]
    assert seen[10][1].count("VDI.create") == 1
    assert len(seen[10][1]) <= 12


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        ("first_fit", {"free": 99 * GIB}),
        ("most_free", {"free": 1000 * GIB}),
        ("round_robin", {"placed_at": -1}),
    ],
)
def test_the_backend_that_a_policy_wants_is_found_however_far_away(
    policy: str,
    values: dict[str, int],
    crowd: Callable[[str, int], StorageManager],
    database: Database,
) -> None:
    """Also if it would be on a later page in another order."""
    manager = crowd(policy, 200)
    with database.transaction() as connection:
        (wanted,) = connection.execute(
            sa.select(backends.c.id).order_by(backends.c.id).offset(149).limit(1)
        ).one()
        connection.execute(backends.update().where(backends.c.id == wanted).values(**values))
        if policy == "first_fit":
            connection.execute(backends.update().where(backends.c.id < wanted).values(free=0))
    assert manager.create_volume("volume", f"{policy}-200", GIB).backend_id == wanted


@every_policy
def test_backends_that_are_out_of_order_cost_nothing(
    policy: str, crowd: Callable[[str, int], StorageManager], xapi: Simulator, database: Database
) -> None:
    """The database, and not a loop, passes over 990 dead backends with room."""
    seen = {}
    for count in (10, 1000):
        manager, flavor = crowd(policy, count), f"{policy}-{count}"
        with database.transaction() as connection:
            last = sa.select(backends.c.id).order_by(backends.c.id.desc()).limit(10)
            dead = backends.update().where(backends.c.id.not_in(last))
            connection.execute(
                dead.values(problem="its SR is plugged on no host", free=200 * GIB, placed_at=0)
            )
        with statements() as told, xapi.journal.recording() as calls:
            manager.create_volume(f"volume-{count}", flavor, GIB)
        seen[count] = (kinds(told), calls.methods())
    assert seen[10] == seen[1000]


def plans(database: Database, told: list[tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Return SQLite's plan for each statement on our tables."""
    with database.transaction() as connection:
        for statement, parameters in told:
            if re.search(r"\bsm_(volume|backend_config|flavors)\b", statement):
                for plan in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    yield statement, plan.detail


def is_walk(plan: str) -> bool:
    """Return True if the plan reads a whole table, or all its live rows."""
    return plan.startswith("SCAN sm_") or plan.endswith("(deleted=?)")


def measured(database: Database, work: Callable[[], object]) -> list[str]:
    with statements() as told:
        work()
    found = list(plans(database, told))
    assert any(plan.startswith("SEARCH sm_") for _, plan in found)
    return [f"{plan}: {statement}" for statement, plan in found if is_walk(plan)]


@pytest.fixture
def manager(crowd: Callable[[str, int], StorageManager], database: Database) -> StorageManager:
    """Twenty backends of each policy, and a thousand volumes on them."""
    for policy in POLICIES:
        manager = crowd(policy, 20)
    common = {"token": "", "state": "available", "name": "", "created_at": now(), "deleted": 0}
    sizes = {"size": GIB, "virtual_size": GIB, "cost": GIB}
    rows = [
        {"id": f"there-{n}", "backend_id": n % 80 + 1, "vdi_uuid": f"vdi-{n}", **common, **sizes}
        for n in range(1000)
    ]
    with database.transaction() as connection:
        connection.execute(volumes.insert(), rows)
    return manager


class TestPlan:
    @every_policy
    def test_of_a_create_walks_no_table(
        self, policy: str, manager: StorageManager, database: Database
    ) -> None:
        flavor = f"{policy}-20"
        assert measured(database, lambda: manager.create_volume("volume", flavor, GIB)) == []

    def test_of_a_volume_that_is_looked_up_walks_no_table(
        self, manager: StorageManager, database: Database
    ) -> None:
        manager.create_volume("volume", "first_fit-20", GIB)
        assert measured(database, lambda: manager.get_volume("volume")) == []
        assert measured(database, lambda: manager.initialize_connection("volume")) == []

    def test_of_a_list_goes_on_where_the_last_page_ended(
        self, manager: StorageManager, database: Database
    ) -> None:
        def page(**values: Any) -> Callable[[], object]:
            return lambda: manager.list_volumes(after="there-5", limit=10, **values)

        assert measured(database, page()) == []
        assert measured(database, page(backend_id=7)) == []
        assert measured(database, page(flavor_label="first_fit-20")) == []

    @pytest.mark.parametrize("of", [{"backend_id": 7}], ids=str)
    def test_of_a_list_of_some_reads_those_alone(
        self, of: dict[str, Any], manager: StorageManager, database: Database
    ) -> None:
        """It does not read the volumes of other backends."""
        with statements() as told:
            manager.list_volumes(after="there-5", limit=10, **of)
        (plan,) = [plan for statement, plan in plans(database, told) if "FROM sm_volume" in statement]
        assert plan.endswith(f"({next(iter(of)).replace('label', 'id')}=? AND deleted=? AND id>?)")

    def test_of_a_delete_walks_no_table(self, manager: StorageManager, database: Database) -> None:
        manager.create_volume("volume", "first_fit-20", GIB)
        assert measured(database, lambda: manager.delete_volume("volume")) == []

    def test_of_a_snapshot_a_clone_and_an_extension_walks_no_table(
        self, manager: StorageManager, database: Database
    ) -> None:
        manager.create_volume("volume", "first_fit-20", GIB)
        assert measured(database, lambda: manager.create_snapshot("snapshot", "volume")) == []
        assert measured(database, lambda: manager.clone_volume("clone", "volume")) == []
        assert measured(database, lambda: manager.extend_volume("volume", 2 * GIB)) == []
