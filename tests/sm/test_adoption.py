"""A disk becomes a volume, and a volume a disk, and the data is not touched."""

from __future__ import annotations

import pytest

from tests.scenarios import changes
from tests.sm.conftest import GIB, NFS, Paused, marks, on_every_database, vdi_uuids
from xenvol.errors import UnmanagedVDI, VolumeNotFound, XapiUnreachable
from xenvol.pool.marks import CREATING, MANAGED
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.database import Database
from xenvol.sm.errors import NotSupported, UnknownVolume, VDIMarked, VDITaken, VolumeExists, VolumeNotReady
from xenvol.sm.records import Backend

UNKNOWN = "0badcafe-0000-4000-8000-000000000001"


@pytest.fixture
def disk(pool: Simulator, manager: StorageManager, nfs: Backend) -> str:
    """The uuid of a disk in the backend's SR that is no volume."""
    sr = pool.db.by_uuid("SR", nfs.sr_uuid or "")
    assert sr is not None
    return str(pool.db.get("VDI", pool.add_vdi(sr, "payroll", size=3 * GIB), "uuid"))


def other_config(pool: Simulator, uuid: str) -> dict[str, str]:
    ref = pool.db.by_uuid("VDI", uuid)
    assert ref is not None
    found: dict[str, str] = pool.db.get("VDI", ref, "other_config")
    return found


@on_every_database
class TestManaging:
    def test_makes_a_disk_a_volume_that_can_be_worked_with(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        volume = manager.manage_volume("v1", disk.upper(), name="payroll")
        assert (volume.vdi_uuid, volume.size, volume.state) == (disk, 3 * GIB, "available")
        assert other_config(pool, disk) == {MANAGED: "v1"}
        assert manager.extend_volume("v1", 4 * GIB).virtual_size == 4 * GIB
        assert manager.audit().findings == []

    def test_again_is_the_same(self, manager: StorageManager, disk: str) -> None:
        assert manager.manage_volume("v1", disk) == manager.manage_volume("v1", disk)

    def test_by_another_id_or_of_another_disk_is_refused(self, manager: StorageManager, disk: str) -> None:
        volume = manager.manage_volume("v1", disk)
        with pytest.raises(VDITaken, match="'v1'"):
            manager.manage_volume("v2", disk)
        other = manager.create_volume("v3", "gold", GIB)
        manager.unmanage_volume("v3")
        with pytest.raises(VolumeExists, match=volume.vdi_uuid):
            manager.manage_volume("v1", other.vdi_uuid or "")

    def test_of_what_is_there_for_nobody_is_refused_with_the_reason(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        with pytest.raises(VolumeNotFound, match=UNKNOWN):
            manager.manage_volume("v1", UNKNOWN)
        elsewhere = pool.add_vdi(pool.add_sr("elsewhere"), "disk")
        with pytest.raises(NotSupported, match="no backend: register it first"):
            manager.manage_volume("v1", pool.db.get("VDI", elsewhere, "uuid"))
        manager.manage_volume("v2", disk)
        manager.create_snapshot("s1", "v2")
        (base,) = [ref for ref in pool.db.refs("VDI") if not pool.db.get("VDI", ref, "managed")]
        with pytest.raises(UnmanagedVDI):
            manager.manage_volume("v1", pool.db.get("VDI", base, "uuid"))
        with pytest.raises(UnknownVolume):
            manager.get_volume("v1")

    def test_while_its_id_is_being_made_or_deleted_is_refused(
        self, pool: Simulator, manager: StorageManager, disk: str, database: Database
    ) -> None:
        paused = Paused(pool, "VDI.create", lambda m: m.create_volume("v1", "gold", GIB), database)
        with pytest.raises(VolumeExists, match="is being made"):
            manager.manage_volume("v1", disk)
        paused.go_on()
        paused = Paused(pool, "VDI.destroy", lambda m: m.delete_volume("v1"), database)
        with pytest.raises(VolumeNotReady):
            manager.manage_volume("v1", disk)
        paused.go_on()

    def test_of_a_disk_that_somebody_is_making_a_volume_costs_nobody_a_disk(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        """An operator finds it in the pool before its service has recorded it: the service makes another."""
        paused = Paused(pool, "event.from", lambda m: m.create_volume("v1", "gold", GIB), database)
        (found,) = vdi_uuids(pool)
        managed = manager.manage_volume("v2", found, marked_as="v1")
        paused.go_on()
        made = manager.get_volume("v1")
        assert sorted([managed.vdi_uuid or "", made.vdi_uuid or ""]) == vdi_uuids(pool)
        assert marks(pool) == []
        assert manager.audit().findings == []

    def test_takes_from_a_disk_what_it_has_inherited(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        """A copy of a volume's disk has the volume's marks, and perhaps the mark of its making."""
        call = manager._context.session.call
        ref = pool.db.by_uuid("VDI", disk)
        call("VDI.add_to_other_config", ref, MANAGED, "v9")
        call("VDI.add_to_other_config", ref, f"{CREATING}token", "v9")
        manager.manage_volume("v1", disk, marked_as="v9")
        assert other_config(pool, disk) == {MANAGED: "v1"}

    def test_of_a_disk_that_is_marked_as_another_volume_is_refused_with_its_name(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        """The database may have lost that volume, and the id may be mistyped."""
        ref = pool.db.by_uuid("VDI", disk)
        manager._context.session.call("VDI.add_to_other_config", ref, MANAGED, "web data")
        before = pool.snapshot()
        for told in ({}, {"marked_as": "web"}):
            with pytest.raises(VDIMarked, match=r"'web data'.*--marked-as 'web data'"):
                manager.manage_volume("web-dat", disk, **told)
        assert changes(before, pool.snapshot()) == []
        assert manager.list_volumes() == []
        assert manager.manage_volume("web data", disk).vdi_uuid == disk

    def test_of_another_tools_copy_of_a_volume_needs_no_word_of_the_mark_that_it_inherited(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        """The volume is another disk, so the mark is none of this one's."""
        manager.manage_volume("v1", disk)
        clone = manager._context.session.call("VDI.clone", pool.db.by_uuid("VDI", disk), {})
        assert pool.db.get("VDI", clone, "other_config") == {MANAGED: "v1"}
        manager.manage_volume("v2", pool.db.get("VDI", clone, "uuid"))
        assert pool.db.get("VDI", clone, "other_config") == {MANAGED: "v2"}


@on_every_database
class TestUnmanaging:
    def test_leaves_the_disk_and_says_nothing_on_it(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        manager.manage_volume("v1", disk)
        manager.unmanage_volume("v1")
        assert vdi_uuids(pool) == [disk]
        assert other_config(pool, disk) == {}
        assert manager.list_volumes() == []
        assert manager.audit().findings == []

    def test_of_an_unknown_volume_says_so(self, manager: StorageManager, disk: str) -> None:
        manager.manage_volume("v1", disk)
        manager.unmanage_volume("v1")
        with pytest.raises(UnknownVolume):
            manager.unmanage_volume("v1")

    def test_that_was_broken_off_is_put_right_or_gone_on_with(
        self, pool: Simulator, manager: StorageManager, disk: str
    ) -> None:
        manager.manage_volume("v1", disk)
        pool.faults.lose_answer("VDI.remove_from_other_config")
        with pytest.raises(XapiUnreachable):
            manager.unmanage_volume("v1")
        assert [finding.kind for finding in manager.audit().findings] == ["unsettled"]
        assert manager.audit(repair=True).agrees
        assert other_config(pool, disk) == {MANAGED: "v1"}
        manager.unmanage_volume("v1")
        assert vdi_uuids(pool) == [disk]

    def test_waits_for_copies_that_are_being_made(
        self, pool: Simulator, manager: StorageManager, disk: str, database: Database
    ) -> None:
        manager.manage_volume("v1", disk)
        paused = Paused(pool, "VDI.clone", lambda m: m.clone_volume("c1", "v1"), database)
        with pytest.raises(NotSupported, match="being copied: c1"):
            manager.unmanage_volume("v1")
        paused.go_on()
        manager.unmanage_volume("v1")
        assert manager.audit().findings == []


def test_a_backend_may_be_removed_and_registered_again_and_its_volumes_managed(
    pool: Simulator, manager: StorageManager, nfs: Backend
) -> None:
    """SR.forget keeps the data, and each disk's uuid."""
    volume = manager.create_volume("v1", "gold", GIB)
    manager.unmanage_volume("v1")
    manager.remove_backend(nfs.id)
    assert pool.db.refs("SR") == []
    again = manager.add_backend("gold", "nfs", {**NFS, "sr_uuid": nfs.sr_uuid or ""})
    managed = manager.manage_volume("v1", volume.vdi_uuid or "")
    assert (managed.vdi_uuid, managed.backend_id) == (volume.vdi_uuid, again.id)
