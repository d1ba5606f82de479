"""A row is changed only while it is in the expected state, and the second of two services learns that it has
changed.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from tests.sm.conftest import GIB, on_every_database
from xenvol.sm import backend_rows, flavor_rows, volume_rows
from xenvol.sm.database import Database
from xenvol.sm.errors import UnknownBackend, UnknownFlavor, UnknownVolume
from xenvol.sm.records import Volume

FLAVOR = {"description": "", "policy": "first_fit", "over_subscription": 1.0, "reserved_percentage": 0}
BACKEND = {
    "sr_type": "nfs",
    "config_params": "",
    "origin": "created",
    "host_uuid": None,
    "weight": 1.0,
    "problem": None,
}


@pytest.fixture
def backend_id(database: Database) -> int:
    """The id of a backend with room for 10 GiB."""

    def add(connection: sa.Connection) -> int:
        flavor_id = flavor_rows.add(connection, label="gold", **FLAVOR)  # type: ignore[arg-type]  # the keywords are of several types
        added = backend_rows.add(connection, flavor_id=flavor_id, token="t", place="p", **BACKEND)
        backend_rows.update(connection, added, state="ready", sr_uuid="sr", free=10 * GIB)
        return added

    return database.write(add)


@pytest.fixture
def volume(database: Database, backend_id: int) -> Volume:
    return database.write(volume_rows.add, "v1", backend_id=backend_id, size=GIB, cost=GIB)


def named(database: Database, volume: Volume, vdi_uuid: str = "u1") -> Volume:
    where = {"backend_id": volume.backend_id, "vdi_uuid": vdi_uuid, "virtual_size": GIB}
    assert database.write(volume_rows.name_vdi, volume, **where)
    return database.read(volume_rows.get, volume.id)


def finished(database: Database, volume: Volume) -> Volume:
    assert database.write(volume_rows.finish_making, volume, virtual_size=GIB)
    return database.read(volume_rows.get, volume.id)


@on_every_database
class TestAVolume:
    def test_has_one_disk_for_ever(self, database: Database, volume: Volume) -> None:
        first = named(database, volume)
        again = {"backend_id": volume.backend_id, "vdi_uuid": "u2", "virtual_size": GIB}
        assert not database.write(volume_rows.name_vdi, volume, **again)
        assert not database.write(volume_rows.name_vdi, first, **again)
        assert not database.write(volume_rows.move, first, backend_id=volume.backend_id, cost=GIB)
        assert not database.write(volume_rows.drop, first)
        assert finished(database, first).vdi_uuid == "u1"

    def test_is_not_available_before_it_has_its_disk(self, database: Database, volume: Volume) -> None:
        assert not database.write(volume_rows.finish_making, volume, virtual_size=GIB)
        assert database.read(volume_rows.get, "v1").state == "creating"

    def test_has_a_disk_that_no_other_has(self, database: Database, volume: Volume) -> None:
        other = database.write(volume_rows.add, "v2", backend_id=volume.backend_id, size=GIB, cost=GIB)
        named(database, volume)
        with pytest.raises(IntegrityError):
            named(database, other)
        with pytest.raises(IntegrityError):
            database.write(volume_rows.claim_for_erasing, backend_id=volume.backend_id, vdi_uuid="u1")

    def test_cannot_have_a_disk_that_is_being_erased(self, database: Database, volume: Volume) -> None:
        claim = database.write(volume_rows.claim_for_erasing, backend_id=volume.backend_id, vdi_uuid="u1")
        assert volume_rows.is_claim(claim)
        assert not volume_rows.is_claim(volume)
        with pytest.raises(IntegrityError):
            named(database, volume)
        database.write(volume_rows.drop_claim, claim)
        named(database, volume)

    def test_frees_its_disk_and_its_id_when_it_goes(self, database: Database, volume: Volume) -> None:
        there = finished(database, named(database, volume))
        assert database.write(volume_rows.begin_deleting, there)
        assert database.write(volume_rows.finish_deleting, there)
        assert database.read(volume_rows.find, "v1") is None
        assert database.read(volume_rows.by_vdi, "u1") is None
        again = database.write(volume_rows.add, "v1", backend_id=volume.backend_id, size=GIB, cost=GIB)
        assert again.token != volume.token
        named(database, again)

    def test_that_was_read_before_a_change_is_not_deleted_by_it(
        self, database: Database, volume: Volume
    ) -> None:
        """It was read when it had no disk: a deletion by that state would not erase the disk."""
        now = named(database, volume)
        assert not database.write(volume_rows.begin_deleting, volume)
        there = finished(database, now)
        assert not database.write(volume_rows.begin_deleting, now)
        assert database.write(volume_rows.begin_deleting, there)

    def test_of_an_id_that_is_used_again_is_not_changed_by_who_means_the_old_one(
        self, database: Database, volume: Volume
    ) -> None:
        old = finished(database, named(database, volume))
        database.write(volume_rows.begin_deleting, old)
        database.write(volume_rows.finish_deleting, old)
        database.write(volume_rows.add, "v1", backend_id=volume.backend_id, size=GIB, cost=GIB)
        for change in (
            volume_rows.begin_deleting,
            volume_rows.keep_after_all,
            volume_rows.finish_deleting,
            volume_rows.release,
        ):
            assert not database.write(change, old)
        assert not database.write(volume_rows.grow, old, size=GIB, virtual_size=GIB, cost=GIB)
        assert database.read(volume_rows.by_token, old.token, "v1") is None

    def test_whose_disk_is_gone_goes_also_where_somebody_has_kept_it_meanwhile(
        self, database: Database, volume: Volume
    ) -> None:
        """Two services delete it: one finds it in use and keeps it, the other has erased it before a VM could get
        it."""
        there = finished(database, named(database, volume))
        assert database.write(volume_rows.begin_deleting, there)
        assert database.write(volume_rows.keep_after_all, there)
        assert database.read(volume_rows.get, "v1").state == "available"
        assert database.write(volume_rows.finish_deleting, there)
        assert database.read(volume_rows.find, "v1") is None

    def test_grows_and_never_shrinks(self, database: Database, volume: Volume) -> None:
        there = finished(database, named(database, volume))
        for size in (3 * GIB, 2 * GIB):
            assert database.write(volume_rows.grow, there, size=size, virtual_size=size, cost=size)
        now = database.read(volume_rows.get, "v1")
        assert (now.size, now.virtual_size, now.cost) == (3 * GIB, 3 * GIB, 3 * GIB)

    def test_that_lives_has_its_id_alone(self, database: Database, volume: Volume) -> None:
        with pytest.raises(IntegrityError):
            database.write(volume_rows.add, "v1", backend_id=volume.backend_id, size=GIB, cost=GIB)

    def test_that_is_unknown_says_so(self, database: Database, volume: Volume) -> None:
        with pytest.raises(UnknownVolume):
            database.read(volume_rows.get, "v2")

    def test_promises_room_until_the_pool_can_show_it(self, database: Database, volume: Volume) -> None:
        assert database.read(volume_rows.promised, volume.backend_id) == GIB
        named(database, volume)
        assert database.read(volume_rows.promised, volume.backend_id) == 0
        assert database.read(volume_rows.unnamed, {"u1", "u2"}) == {"u2"}

    def test_tells_of_copies_that_are_being_made(self, database: Database, volume: Volume) -> None:
        there = finished(database, named(database, volume))
        more = {"backend_id": there.backend_id, "size": GIB, "cost": GIB, "source_id": "v1"}
        copy = database.write(volume_rows.add, "c1", **more)
        database.write(volume_rows.add, "s1", **more, snapshot_of="v1")
        assert sorted(database.read(volume_rows.copies_being_made, "v1", limit=9)) == ["c1", "s1"]
        finished(database, named(database, copy, "u2"))
        assert database.read(volume_rows.copies_being_made, "v1", limit=9) == ["s1"]
        assert [v.id for v in database.read(volume_rows.list_of, snapshot_of="v1")] == ["s1"]


@on_every_database
class TestABackend:
    def test_gives_no_more_room_than_it_has(self, database: Database, backend_id: int) -> None:
        assert database.write(backend_rows.reserve, backend_id, 6 * GIB)
        assert not database.write(backend_rows.reserve, backend_id, 6 * GIB)
        database.write(backend_rows.give_back, backend_id, 2 * GIB)
        assert database.write(backend_rows.reserve, backend_id, 6 * GIB)
        assert database.read(backend_rows.get, backend_id).free == 0

    @pytest.mark.parametrize("values", [{"problem": "dead"}, {"state": "new"}], ids=str)
    def test_that_is_not_well_gives_none(
        self, database: Database, backend_id: int, values: dict[str, str]
    ) -> None:
        database.write(backend_rows.update, backend_id, **values)
        assert not database.write(backend_rows.reserve, backend_id, GIB)

    def test_that_is_gone_is_unknown_and_its_place_is_free(self, database: Database, backend_id: int) -> None:
        flavor_id = database.read(backend_rows.get, backend_id).flavor_id
        with pytest.raises(IntegrityError):
            database.write(backend_rows.add, flavor_id=flavor_id, token="t", place="p", **BACKEND)
        database.write(backend_rows.delete, backend_id)
        with pytest.raises(UnknownBackend):
            database.read(backend_rows.get, backend_id)
        assert not database.write(backend_rows.reserve, backend_id, GIB)
        again = database.write(backend_rows.add, flavor_id=flavor_id, token="t", place="p", **BACKEND)
        assert [backend.id for backend in database.read(backend_rows.all_of)] == [again]


@on_every_database
def test_a_flavor_that_is_gone_frees_its_label_as_often_as_it_is_used(database: Database) -> None:
    for _ in range(3):
        database.write(flavor_rows.add, label="gold", **FLAVOR)  # type: ignore[arg-type]  # the keywords are of several types
        flavor = database.read(flavor_rows.get, "gold")
        database.write(flavor_rows.delete, flavor)
        assert database.read(flavor_rows.by_id, flavor.id) == flavor
    with pytest.raises(UnknownFlavor):
        database.read(flavor_rows.get, "gold")
