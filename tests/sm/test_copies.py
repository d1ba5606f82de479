"""A copy holds what its source held, is made once, and no other tool's disk is taken for one."""

from __future__ import annotations

import time

import pytest

from tests.sm.conftest import (
    DEVICE,
    GIB,
    MIB,
    Paused,
    marks,
    on_every_database,
    vdi_uuids,
)
from xenvol.errors import VolumeInUse, XapiError, XapiUnreachable
from xenvol.pool.marks import CONNECTED
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager, creation, vdis
from xenvol.sm.database import Database
from xenvol.sm.errors import (
    NoBackendFits,
    NotSupported,
    UnknownVolume,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.records import Backend, Volume
from xenvol.sm.vdis import AT_WORK, Mark


@pytest.fixture
def source(manager: StorageManager, nfs: Backend) -> Volume:
    return manager.create_volume("v1", "gold", GIB)


def vdi_of(pool: Simulator, volume: Volume) -> str:
    ref = pool.db.by_uuid("VDI", volume.vdi_uuid or "")
    assert ref is not None
    return ref


def call(manager: StorageManager, name: str, *params: object) -> str:
    """Make a call as an operator, or a backup tool."""
    return str(manager._context.session.call(name, *params))


@on_every_database
class TestASnapshot:
    def test_is_a_disk_of_its_own_that_says_whose_it_is(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        snapshot = manager.create_snapshot("s1", "v1", name="before")
        ref = vdi_of(pool, snapshot)
        assert (snapshot.snapshot_of, snapshot.size, snapshot.state) == ("v1", GIB, "available")
        assert pool.db.get("VDI", ref, "is_a_snapshot")
        assert pool.db.get("VDI", ref, "name_label") == "before"
        assert pool.db.get("VDI", ref, "other_config")["xenvol:managed"] == "s1"
        assert marks(pool) == []
        assert manager.audit().findings == []

    def test_is_made_once(self, pool: Simulator, manager: StorageManager, source: Volume) -> None:
        snapshot = manager.create_snapshot("s1", "v1")
        with pool.journal.recording() as calls:
            assert manager.create_snapshot("s1", "v1") == snapshot
        assert calls.methods() == []

    def test_is_made_while_a_vm_writes_to_the_volume(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        pool.add_vm("web", disks=[vdi_of(pool, source)])
        assert manager.create_snapshot("s1", "v1").state == "available"

    def test_keeps_its_volume_from_being_deleted_or_unmanaged(
        self, manager: StorageManager, source: Volume
    ) -> None:
        manager.create_snapshot("s1", "v1")
        with pytest.raises(NotSupported, match="snapshots: s1"):
            manager.delete_volume("v1")
        with pytest.raises(NotSupported, match="snapshots: s1"):
            manager.unmanage_volume("v1")
        assert manager.get_volume("v1").state == "available"
        manager.delete_volume("s1")
        manager.delete_volume("v1")

    def test_can_be_cloned_but_not_snapshot_extended_or_attached(
        self, manager: StorageManager, source: Volume
    ) -> None:
        manager.create_snapshot("s1", "v1")
        with pytest.raises(NotSupported, match="clone it"):
            manager.create_snapshot("s2", "s1")
        with pytest.raises(NotSupported, match="it is a snapshot: clone it with the size instead"):
            manager.extend_volume("s1", 2 * GIB)
        with pytest.raises(NotSupported, match="attach the clone"):
            manager.initialize_connection("s1")
        assert manager.clone_volume("c1", "s1").source_id == "s1"

    def test_of_an_id_that_is_something_else_is_refused(
        self, manager: StorageManager, source: Volume
    ) -> None:
        manager.create_volume("v2", "gold", GIB)
        manager.create_snapshot("s1", "v1")
        for snapshot_id, volume_id in (("v2", "v1"), ("s1", "v2"), ("v1", "v2")):
            with pytest.raises(VolumeExists, match="no snapshot"):
                manager.create_snapshot(snapshot_id, volume_id)
        with pytest.raises(VolumeExists, match="no clone"):
            manager.clone_volume("s1", "v1")
        with pytest.raises(UnknownVolume):
            manager.create_snapshot("s3", "v3")

    def test_needs_as_much_room_as_its_volume(self, manager: StorageManager, source: Volume) -> None:
        """A thin one takes nothing at first, and may later take all of it."""
        manager.create_volume("v2", "gold", 60 * GIB)
        with pytest.raises(NoBackendFits, match=r"flavor 'gold'.*the copy takes"):
            manager.create_snapshot("s2", "v2")
        with pytest.raises(UnknownVolume):
            manager.get_volume("s2")

    def test_finds_the_room_that_has_been_made_behind_its_back(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        """The backend's row says that there is no room; the pool is asked once."""
        manager.create_volume("v2", "gold", 60 * GIB)
        vdi = vdi_of(pool, manager.create_volume("v3", "gold", 30 * GIB))
        call(manager, "VDI.destroy", vdi)
        assert manager.create_snapshot("s1", "v1").size == GIB
        call(manager, "VDI.destroy", vdi_of(pool, manager.get_volume("s1")))


@on_every_database
class TestAClone:
    def test_has_what_its_source_had(self, pool: Simulator, manager: StorageManager, source: Volume) -> None:
        clone = manager.clone_volume("c1", "v1")
        assert (clone.source_id, clone.snapshot_of, clone.size) == ("v1", None, GIB)
        assert pool.db.get("VDI", vdi_of(pool, clone), "name_label") == "volume-c1"
        assert marks(pool) == []
        manager.delete_volume("v1")
        assert manager.clone_volume("c1", "v1") == clone, "the same call again, its source gone"
        assert manager.audit().findings == []

    def test_may_be_larger_and_is_never_seen_smaller(
        self, pool: Simulator, manager: StorageManager, source: Volume, database: Database
    ) -> None:
        paused = Paused(pool, "VDI.resize", lambda m: m.clone_volume("c1", "v1", size=2 * GIB), database)
        assert manager.get_volume("c1").state == "creating"
        with pytest.raises(VolumeNotReady):
            manager.initialize_connection("c1")
        assert paused.go_on() == manager.get_volume("c1")
        assert manager.get_volume("c1").virtual_size == 2 * GIB
        assert manager.clone_volume("c1", "v1", size=2 * GIB).size == 2 * GIB
        with pytest.raises(VolumeExists, match="GiB"):
            manager.clone_volume("c1", "v1", size=3 * GIB)

    def test_that_cannot_grow_is_taken_back(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        pool.faults.refuse("VDI.resize", "SR_BACKEND_FAILURE_44", "", "full", "")
        with pytest.raises(XapiError, match="44"):
            manager.clone_volume("c1", "v1", size=2 * GIB)
        assert vdi_uuids(pool) == [source.vdi_uuid]
        assert marks(pool) == []
        assert manager.audit().findings == []
        assert manager.clone_volume("c1", "v1", size=2 * GIB).virtual_size == 2 * GIB

    def test_is_never_smaller_than_its_source(self, manager: StorageManager, source: Volume) -> None:
        with pytest.raises(NotSupported, match="do not shrink"):
            manager.clone_volume("c1", "v1", size=MIB)

    def test_is_not_held_by_what_holds_its_source(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        """A disk that was connected without a VM is marked so, and its copy inherits the mark."""
        call(manager, "VDI.add_to_other_config", vdi_of(pool, source), CONNECTED, "")
        clone = manager.clone_volume("c1", "v1")
        assert CONNECTED not in pool.db.get("VDI", vdi_of(pool, clone), "other_config")
        manager.delete_volume("c1")
        with pytest.raises(VolumeInUse):
            manager.delete_volume("v1")

    def test_keeps_what_others_say_of_its_source(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        call(manager, "VDI.add_to_other_config", vdi_of(pool, source), "folder", "/a")
        clone = manager.clone_volume("c1", "v1")
        assert pool.db.get("VDI", vdi_of(pool, clone), "other_config")["folder"] == "/a"


class TestAFullCopy:
    """xapi clones a raw disk by copying it, and the new disk is in the pool before it is complete."""

    @pytest.fixture
    def raw(self, pool: Simulator, manager: StorageManager) -> Volume:
        manager.add_backend("gold", "lvm", {"device": DEVICE, "type": "raw"}, format_device=DEVICE)
        return manager.create_volume("v1", "gold", 8 * MIB)

    def test_is_made_into_a_disk_of_ours(self, pool: Simulator, manager: StorageManager, raw: Volume) -> None:
        assert pool.db.get("VDI", vdi_of(pool, raw), "sm_config").get("vdi_type") == "aio"
        with pool.journal.recording() as calls:
            clone = manager.clone_volume("c1", "v1")
        assert "VDI.copy" in calls.methods()
        assert "VDI.clone" not in calls.methods()
        assert clone.virtual_size == 8 * MIB
        assert marks(pool) == []
        assert manager.audit().findings == []

    def test_is_made_of_a_raw_disk_among_others_that_are_not(
        self, pool: Simulator, manager: StorageManager, lvm: Backend
    ) -> None:
        """An older raw disk, on a backend that makes VHDs and clones those by itself."""
        sr = pool.db.by_uuid("SR", lvm.sr_uuid or "")
        disk = {"SR": sr, "virtual_size": str(8 * MIB), "type": "user", "sharable": False, "read_only": False}
        vdi = call(manager, "VDI.create", {**disk, "other_config": {}, "sm_config": {"type": "raw"}})
        manager.manage_volume("v1", pool.db.get("VDI", vdi, "uuid"))
        with pool.journal.recording() as calls:
            manager.clone_volume("c1", "v1")
        assert "VDI.copy" in calls.methods()
        with pytest.raises(XapiError, match="UNIMPLEMENTED"):
            manager.create_snapshot("s1", "v1")
        assert marks(pool) == []
        assert manager.audit().findings == []

    def test_that_was_broken_off_is_not_taken_for_the_whole(
        self, pool: Simulator, manager: StorageManager, raw: Volume
    ) -> None:
        pool.faults.die(before="VDI.copy")
        with pytest.raises(XapiUnreachable):
            manager.clone_volume("c1", "v1")
        pool.faults.come_back()
        (half,) = set(vdi_uuids(pool)) - {raw.vdi_uuid}
        with pool.journal.recording() as calls:
            clone = manager.clone_volume("c1", "v1")
        assert clone.vdi_uuid != half
        assert calls.methods().count("VDI.copy") == 1
        assert manager.audit().findings == []
        assert set(vdi_uuids(pool)) == {raw.vdi_uuid, clone.vdi_uuid}


@on_every_database
class TestAnAttemptThatDied:
    """It died at VDI.clone: the answer is lost, and no later call gets through."""

    @pytest.fixture(params=["VDI.clone", "VDI.snapshot"])
    def died(
        self, request: pytest.FixtureRequest, pool: Simulator, manager: StorageManager, source: Volume
    ) -> str:
        pool.faults.lose_answer(request.param)
        order = pool.faults.lose_request("*", nth=7, every=True)  # it is the sixth call
        with pytest.raises(XapiUnreachable):
            make(manager, request.param, "c1", "v1")
        pool.faults.cancel(order.number)
        assert len(vdi_uuids(pool)) == 2
        assert len(marks(pool)) == 2
        return str(request.param)

    def test_is_gone_on_with(self, pool: Simulator, manager: StorageManager, died: str) -> None:
        copy = make(manager, died, "c1", "v1")
        assert copy.state == "available"
        assert len(vdi_uuids(pool)) == 2
        assert marks(pool) == []

    def test_is_ended_by_an_audit(self, pool: Simulator, manager: StorageManager, died: str) -> None:
        assert [finding.kind for finding in manager.audit().findings] == ["half_made"]
        assert manager.audit(repair=True).agrees
        assert manager.audit().findings == []
        assert len(vdi_uuids(pool)) == len(manager.list_volumes())

    def test_is_taken_away_by_a_delete_and_its_source_stays(
        self, pool: Simulator, manager: StorageManager, source: Volume, died: str
    ) -> None:
        manager.delete_volume("c1")
        assert vdi_uuids(pool) == [source.vdi_uuid]
        assert manager.audit().agrees


def make(manager: StorageManager, method: str, copy_id: str, source_id: str, **more: str) -> Volume:
    if method == "VDI.clone":
        return manager.clone_volume(copy_id, source_id, **more)  # type: ignore[arg-type]  # the keywords are of several types
    return manager.create_snapshot(copy_id, source_id, **more)


class TestADiskOfSomebodyElses:
    """If another tool copies a disk while we do, its copy has our mark, and must not be erased for it."""

    def begin(
        self, pool: Simulator, manager: StorageManager, method: str, copy_id: str = "c1", **more: str
    ) -> None:
        """Begin an attempt that marks its source, and dies."""
        before = len(marks(pool))
        pool.faults.lose_request(method)
        with pytest.raises(XapiUnreachable):
            make(manager, method, copy_id, "v1", **more)
        assert len(marks(pool)) == before + 1

    @pytest.mark.parametrize("ours", ["VDI.clone", "VDI.snapshot"])
    def test_that_a_vm_has_is_left(
        self, pool: Simulator, manager: StorageManager, source: Volume, ours: str
    ) -> None:
        """A backup tool makes a snapshot of a VM: its disks are in the slots of the snapshot."""
        vm = pool.add_vm("web", disks=[vdi_of(pool, source)])
        self.begin(pool, manager, ours)
        call(manager, "VM.snapshot", vm, "backup")
        before = vdi_uuids(pool)
        make(manager, ours, "c1", "v1")
        manager.delete_volume("c1")
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == before

    @pytest.mark.parametrize(
        ("ours", "theirs"), [("VDI.clone", "VDI.snapshot"), ("VDI.snapshot", "VDI.clone")]
    )
    def test_that_was_made_by_another_call_is_left(
        self, pool: Simulator, manager: StorageManager, source: Volume, ours: str, theirs: str
    ) -> None:
        self.begin(pool, manager, ours)
        call(manager, theirs, vdi_of(pool, source), {})
        before = vdi_uuids(pool)
        assert make(manager, ours, "c1", "v1").vdi_uuid not in before
        manager.delete_volume("c1")
        assert manager.audit(repair=True).agrees
        assert manager.audit().findings == []
        assert vdi_uuids(pool) == before

    def test_that_was_made_at_another_time_is_left(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        """The mark of a dead attempt stays on its source until the next attempt; a backup is made meanwhile."""
        self.begin(pool, manager, "VDI.snapshot")
        taken = call(manager, "VDI.snapshot", vdi_of(pool, source), {})
        with pool.xapi.lock:
            later = time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(time.time() + AT_WORK + 1))
            pool.db.set("VDI", taken, snapshot_time=later)
        manager.delete_volume("c1")
        assert manager.audit(repair=True).agrees
        assert pool.db.exists("VDI", taken)

    def test_that_is_a_backup_of_a_volume_made_by_one_who_died_is_left(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """The disk of an available volume has no mark of its making, so no copy of it has one."""
        pool.faults.lose_request("VDI.remove_from_other_config")
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        volume = manager.create_volume("v1", "gold", GIB)
        taken = call(manager, "VDI.snapshot", vdi_of(pool, volume), {})
        assert manager.audit(repair=True).findings == []
        assert pool.db.exists("VDI", taken)

    @pytest.mark.parametrize("ours", ["VDI.clone", "VDI.snapshot"])
    def test_is_the_source_itself_also_where_it_has_the_name_of_the_copy(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, ours: str
    ) -> None:
        """The source is marked as being copied, and has the name that the copy will have."""
        source = manager.create_volume("v1", "gold", GIB, name="data")
        self.begin(pool, manager, ours, name="data")
        manager.delete_volume("c1")
        assert vdi_uuids(pool) == [source.vdi_uuid]
        self.begin(pool, manager, ours, name="data")
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == [source.vdi_uuid]
        assert manager.get_volume("v1") == source

    def test_is_a_volume_that_was_let_go_of_while_somebody_died_copying_it(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        self.begin(pool, manager, "VDI.clone")
        with pytest.raises(NotSupported, match="being copied: c1"):
            manager.unmanage_volume("v1")
        manager.audit(repair=True)
        manager.unmanage_volume("v1")
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == [source.vdi_uuid]

    def test_that_is_another_copy_made_at_the_same_time_is_left(
        self, pool: Simulator, manager: StorageManager, source: Volume, database: Database
    ) -> None:
        """Two copies of one source inherit each other's marks."""
        first = Paused(pool, "VDI.clone", lambda m: m.clone_volume("c1", "v1"), database)
        second = manager.clone_volume("c2", "v1")
        first.go_on()
        assert marks(pool) == []
        self.begin(pool, manager, "VDI.snapshot", "s1")
        manager.delete_volume("s1")
        manager.delete_volume("c1")
        assert set(vdi_uuids(pool)) == {source.vdi_uuid, second.vdi_uuid}
        assert manager.audit(repair=True).agrees
        assert manager.get_volume("c2") == second


class TestTwoCopiersOfWhomOneDied:
    def test_the_other_takes_no_disk_that_is_named(
        self, pool: Simulator, manager: StorageManager, source: Volume, database: Database
    ) -> None:
        """The first copy has the second's mark, and its service died before it removed it."""
        pool.faults.lose_request("VDI.clone")
        second = Paused(pool, "VDI.clone", lambda m: m.clone_volume("c2", "v1"), database)
        order = pool.faults.lose_request("VDI.set_name_label", every=True)
        with pytest.raises(XapiUnreachable):
            manager.clone_volume("c1", "v1")
        pool.faults.cancel(order.number)
        with pytest.raises(XapiUnreachable):
            second.go_on()
        assert any(made.count(":") > 2 for made in marks(pool))
        c2 = manager.clone_volume("c2", "v1")
        c1 = manager.clone_volume("c1", "v1")
        assert len({c1.vdi_uuid, c2.vdi_uuid, source.vdi_uuid}) == 3
        assert len(vdi_uuids(pool)) == 3


class TestAttemptsThatDiedOneAfterTheOther:
    @pytest.mark.parametrize("method", ["VDI.clone", "VDI.snapshot"])
    def test_at_one_source_leave_nothing_when_an_audit_has_mended(
        self, pool: Simulator, manager: StorageManager, source: Volume, method: str
    ) -> None:
        """Each copy has the marks of all attempts that died before it at this source."""
        for number in range(4):
            pool.faults.die(after=method)
            with pytest.raises(XapiUnreachable):
                make(manager, method, f"c{number}", "v1")
            pool.faults.come_back()
            manager._context.database.write(
                creation.drop_unmade, manager.get_volume(f"c{number}")
            )  # as an audit does while a slow service continues
        assert len(vdi_uuids(pool)) == 5
        assert [finding.kind for finding in manager.audit().findings] == ["orphan_vdi"] * 4
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == [source.vdi_uuid]
        assert manager.audit().findings == []

    @pytest.mark.parametrize("method", ["VDI.clone", "VDI.snapshot"])
    @pytest.mark.parametrize("nonces", [("0", "f"), ("f", "0")], ids=str)
    def test_of_whom_the_first_is_served_late_leave_one_copy(
        self,
        pool: Simulator,
        manager: StorageManager,
        source: Volume,
        database: Database,
        method: str,
        nonces: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Both attempts marked the source in the same second, and the second copy has both marks: their order does not
        say which is its own."""
        now = pool.xapi.clock()
        monkeypatch.setattr(pool.xapi, "clock", lambda: now)
        nonce = iter(nonces)
        monkeypatch.setattr(vdis.secrets, "token_hex", lambda size: next(nonce) * 2 * size)
        pool.faults.lose_request(method)
        with pytest.raises(XapiUnreachable):
            make(manager, method, "c1", "v1")
        second = Paused(
            pool, "VDI.add_to_other_config", lambda m: make(m, method, "c1", "v1"), database
        )  # it has looked for the copy of the first
        call(manager, method, vdi_of(pool, source), {})  # the first's
        copy = second.go_on()
        assert isinstance(copy, Volume)
        assert manager.audit(repair=True).agrees
        assert manager.audit().findings == []
        assert set(vdi_uuids(pool)) == {source.vdi_uuid, copy.vdi_uuid}

    @pytest.mark.parametrize("method", ["VDI.clone", "VDI.snapshot"])
    @pytest.mark.parametrize("end", ["the same call", "an audit"])
    def test_that_had_just_said_which_copy_is_theirs_leave_one_or_none(
        self, pool: Simulator, manager: StorageManager, source: Volume, method: str, end: str
    ) -> None:
        pool.faults.die(after="VDI.add_to_other_config", nth=2)  # the first marks the source
        with pytest.raises(XapiUnreachable):
            make(manager, method, "c1", "v1")
        pool.faults.come_back()
        (made,) = set(vdi_uuids(pool)) - {source.vdi_uuid}
        if end == "the same call":
            assert make(manager, method, "c1", "v1").vdi_uuid == made
        else:
            manager._context.database.write(creation.drop_unmade, manager.get_volume("c1"))
            assert manager.audit(repair=True).agrees
            assert vdi_uuids(pool) == [source.vdi_uuid]
        assert manager.audit().findings == []

    def test_that_cannot_be_told_from_somebodys_copy_are_told_and_left(
        self, pool: Simulator, manager: StorageManager, source: Volume
    ) -> None:
        pool.faults.die(after="VDI.clone")
        with pytest.raises(XapiUnreachable):
            manager.clone_volume("c1", "v1")
        pool.faults.come_back()
        call(manager, "VDI.clone", vdi_of(pool, source), {})
        before = vdi_uuids(pool)
        for _ in range(2):
            report = manager.audit(repair=True)
            assert vdi_uuids(pool) == before
        assert not report.agrees
        assert [finding.kind for finding in report.findings] == ["orphan_vdi"] * 2
        assert "cannot be told apart: destroy it, or manage it" in report.findings[0].text


class TestMarks:
    VDI = {
        "uuid": "u1",
        "VBDs": [],
        "managed": True,
        "type": "user",
        "is_a_snapshot": False,
        "snapshot_time": "20261126T11:30:48Z",
        "other_config": {},
    }

    def test_say_what_they_are_of(self) -> None:
        made = Mark("k", "t", "v")
        copied = Mark("k", "t", "v", "u0", "VDI.clone", 1795692648)
        assert made.is_of(self.VDI)
        assert copied.is_of(self.VDI)
        assert not copied.is_of({**self.VDI, "is_a_snapshot": True})
        assert not copied.is_of({**self.VDI, "snapshot_time": "20261126T11:50:48Z"})
        assert not copied.is_of({**self.VDI, "snapshot_time": "19700101T00:00:00Z"})
        for mark in (made, copied):
            assert not mark.is_of({**self.VDI, "VBDs": ["OpaqueRef:x"]})
            assert not mark.is_of({**self.VDI, "managed": False})
            assert not mark.is_of({**self.VDI, "type": "cbt_metadata"})
        on_source = Mark("k", "t", "v", "u1", "VDI.clone", 1795692648)
        assert on_source.is_on_source(self.VDI)
        assert not on_source.is_of(self.VDI)
