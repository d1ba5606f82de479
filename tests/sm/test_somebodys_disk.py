"""A disk or an SR of another owner is not erased, formatted or lost, by a later process or under another name."""

from __future__ import annotations

import pytest
from backend_lab import group_on, host_names, the_device

from tests.sm.conftest import DEVICE, GIB, NFS_2, Paused, log_in, marks, vdi_uuids
from xenvol.errors import VolumeInUse, XapiUnreachable
from xenvol.pool.marks import CONNECTED, COPIED_BY
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.errors import BackendExists, DeviceNotBlank, InvalidConfig, NotSupported
from xenvol.sm.records import Backend
from xenvol.sm.tables import volumes
from xenvol.storage.srtypes import sr_type_of
from xenvol.volumeops import VolumeOps


def uuid_of(xapi: Simulator, ref: str) -> str:
    return str(xapi.db.get("VDI", ref, "uuid"))


class TestAnAudit:
    def test_does_not_erase_a_managed_disk_that_the_pool_has_forgotten(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """Its row is unfinished, since its service died; its data is older than the row."""
        sr = pool.db.by_uuid("SR", nfs.sr_uuid)
        disk = uuid_of(pool, pool.add_vdi(sr, "payroll", size=3 * GIB))
        pool.faults.lose_request("VDI.add_to_other_config")
        with pytest.raises(XapiUnreachable):
            manager.manage_volume("v1", disk)
        with log_in(pool) as session:
            session.call("VDI.forget", session.call("VDI.get_by_uuid", disk))
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == [disk]
        assert manager.get_volume("v1").state == "available"

    def test_does_not_erase_a_backup_that_was_made_while_its_source_was_marked(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        ours = Paused(pool, "event.from", lambda other: other.create_snapshot("s1", "v1"), database)
        with log_in(pool) as session:
            theirs = session.call("VDI.snapshot", session.call("VDI.get_by_uuid", volume.vdi_uuid), {})
        ours.go_on()
        assert marks(pool)  # on the backup, which inherited it
        report = manager.audit(repair=True)
        assert [finding.kind for finding in report.findings] == ["unsettled"]
        assert uuid_of(pool, theirs) in vdi_uuids(pool)
        assert marks(pool) == []

    def test_tells_of_a_disk_that_was_a_volume_of_a_database_that_is_lost(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        with database.transaction() as connection:
            connection.execute(volumes.delete())
        report = manager.audit(repair=True)
        assert [(finding.kind, finding.vdi_uuid) for finding in report.findings] == [
            ("unknown_vdi", volume.vdi_uuid)
        ]
        assert not report.agrees
        assert manager.manage_volume("v1", str(volume.vdi_uuid)).state == "available"
        assert manager.audit().findings == []

    def test_does_not_take_somebodys_clone_of_a_volume_for_a_lost_one(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        with log_in(pool) as session:
            session.call("VDI.clone", session.call("VDI.get_by_uuid", volume.vdi_uuid), {})
        assert manager.audit().findings == []

    def test_says_what_a_disk_has_where_the_row_says_more(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        with database.transaction() as connection:
            connection.execute(volumes.update().values(virtual_size=2 * GIB))
        assert [finding.kind for finding in manager.audit(repair=True).findings] == ["size_differs"]
        assert manager.audit().findings == []
        assert manager.get_volume("v1").virtual_size == GIB


class TestADevice:
    def allowed(self, pool: Simulator, manager: StorageManager) -> None:
        """A registration that may format the device, and whose call never arrives."""
        pool.faults.lose_request("SR.create")
        with pytest.raises(XapiUnreachable):
            manager.add_backend("gold", "lvm", {"device": DEVICE}, format_device=DEVICE)
        the_device(pool).content = "the payroll, which somebody has put there meanwhile"

    def test_is_not_formatted_later_by_what_a_command_was_allowed_that_died(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        self.allowed(pool, manager)
        (report,) = manager.do_setup()
        assert isinstance(report.error, DeviceNotBlank)
        assert not manager.audit(repair=True).agrees
        assert "payroll" in str(the_device(pool).content)

    def test_is_formatted_by_the_same_command_again(self, pool: Simulator, manager: StorageManager) -> None:
        self.allowed(pool, manager)
        backend = manager.add_backend("gold", "lvm", {"device": DEVICE}, format_device=DEVICE)
        assert backend.state == "ready"
        assert group_on(the_device(pool)) == f"VG_XenStorage-{backend.sr_uuid}"

    def test_is_set_up_as_what_was_allowed_or_not_at_all(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        self.allowed(pool, manager)
        with pytest.raises(BackendExists):
            manager.add_backend("gold", "ext", {"device": DEVICE}, format_device=DEVICE)

    @pytest.mark.parametrize(("first", "second"), [("ext", "lvm"), ("lvm", "ext")])
    def test_with_an_sr_of_another_type_is_not_formatted_under_another_name(
        self, pool: Simulator, manager: StorageManager, first: str, second: str
    ) -> None:
        alias = "/dev/disk/by-id/scsi-1"
        disk = the_device(pool)
        pool.storage.host(host_names(pool)[0]).mounts.devices[alias] = disk
        pool.add_sr("theirs", type=first, device_config={"device": DEVICE}, create=True, shared=False)
        before = repr(disk.content)
        with pytest.raises(InvalidConfig, match="which this pool uses"):
            manager.add_backend("gold", second, {"device": alias}, format_device=alias)
        assert repr(disk.content) == before
        assert manager.list_backends() == []


class TestAVolume:
    def test_that_a_vm_got_while_it_was_being_deleted_is_as_good_as_before(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        pool.add_vm("web")
        info = manager.initialize_connection("v1")
        late = Paused(pool, "VDI.get_record", lambda other: other.delete_volume("v1"), database)
        with log_in(pool) as session:
            VolumeOps(session).attach_volume(info, "web")
            with pytest.raises(VolumeInUse):
                late.go_on()
            assert manager.get_volume("v1").state == "available"
            VolumeOps(session).detach_volume(info, "web")
        assert manager.audit(repair=True).findings == []
        assert vdi_uuids(pool) == [volume.vdi_uuid]

    def test_that_is_finished_keeps_what_others_say_of_it_when_a_slow_service_comes(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        slow = Paused(pool, "VDI.set_name_label", lambda other: other.clone_volume("c1", "v1"), database)
        clone = manager.clone_volume("c1", "v1")
        with log_in(pool) as session:
            VolumeOps(session).connect_volume(manager.initialize_connection("c1"))
        slow.go_on()
        said = pool.db.get("VDI", pool.db.by_uuid("VDI", clone.vdi_uuid), "other_config")
        assert CONNECTED in said
        assert COPIED_BY in said
        with pytest.raises(VolumeInUse):
            manager.delete_volume("c1")

    def test_is_made_elsewhere_by_the_same_call_where_its_backend_gave_no_answer(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        other = manager.add_backend("gold", "nfs", NFS_2)
        pool.faults.lose_request("VDI.create")
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        assert manager.get_volume("v1").backend_id == nfs.id
        assert manager.create_volume("v1", "gold", GIB).backend_id == other.id
        assert manager.audit().findings == []

    def test_is_not_made_of_a_snapshot_that_somebody_keeps(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        with log_in(pool) as session:
            theirs = session.call("VDI.snapshot", session.call("VDI.get_by_uuid", volume.vdi_uuid), {})
        with pytest.raises(NotSupported, match="snapshot"):
            manager.manage_volume("v2", uuid_of(pool, theirs))

    def test_is_not_deleted_while_a_copy_of_it_is_being_made(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        copying = Paused(pool, "VDI.clone", lambda other: other.clone_volume("c1", "v1"), database)
        with pytest.raises(NotSupported, match="being copied: c1"):
            manager.delete_volume("v1")
        copying.go_on()
        manager.delete_volume("v1")


@pytest.mark.parametrize("sr_type", ["iscsi", "rawiscsi", "hba", "rawhba"])
def test_every_type_whose_disks_are_luns_is_known(sr_type: str) -> None:
    assert sr_type_of(sr_type).luns
