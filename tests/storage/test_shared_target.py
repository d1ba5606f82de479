"""Several volumes, VMs, hosts and owners share one iSCSI target, which a pool can have in one SR only."""

from __future__ import annotations

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import (
    CHAP,
    GIB,
    IQN,
    NFS_XENSM,
    SR_UUID,
    VDI_UUID,
    arrange_nfs,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.errors import VolumeInUse, WrongVolume
from xenvol.pool.marks import MARK
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    xapi.add_vm("db")
    return xapi


class TestSeveralLuns:
    def test_share_one_sr_which_the_last_one_out_forgets(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = target.snapshot()
        first, second = volume_ops.attach_volume(iscsi(0), "web"), volume_ops.attach_volume(iscsi(1), "db")
        assert first.sr_ref == second.sr_ref
        volume_ops.detach_volume(iscsi(0), "web")
        assert target.db.get("VBD", second.vbd_ref, "currently_attached")
        volume_ops.detach_volume(iscsi(1), "db")
        assert changes(before, target.snapshot()) == []

    def test_that_were_mapped_later_come_without_a_scan(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "web")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        with target.journal.recording() as calls:
            attachment = volume_ops.attach_volume(iscsi(9), "db")
        assert "SR.scan" not in calls.methods()
        assert "PBD.plug" not in calls.methods()
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(9)
        volume_ops.detach_volume(iscsi(9), "db")
        volume_ops.detach_volume(iscsi(0), "web")
        target.storage.san.remove_lun(IQN, 9)
        assert [line for line in changes(before, target.snapshot()) if "storage.luns" not in line] == []

    def test_whose_number_is_given_to_another_volume_are_not_mixed_up(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """A detach drops the LUN's record, so the next volume with that number is read from the storage."""
        volume_ops.attach_volume(iscsi(0), "web")
        old = volume_ops.attach_volume(iscsi(1), "db")
        volume_ops.detach_volume(iscsi(1), "db")
        target.storage.san.replace_lun(IQN, 1, 2 * GIB, scsi_id=scsi_id(77))
        new = volume_ops.attach_volume(iscsi(1, wwn=scsi_id(77)[1:]), "db")
        assert new.vdi_uuid != old.vdi_uuid

    @pytest.mark.xapi(hosts=2)
    @pytest.mark.parametrize("host", [0, 1], ids=["on-the-master", "on-a-slave"])
    def test_that_vanish_under_a_plugged_disk_spoil_no_neighbour_and_cause_no_scan(
        self, target: Simulator, volume_ops: VolumeOps, host: int
    ) -> None:
        """While a vanished LUN has a device, the storage driver attaches no LUN. The probe drops the device. A scan
        would drop the record of the vanished disk."""
        resident_on = target.db.refs("host")[host]
        target.add_vm("here", resident_on=resident_on)
        target.add_vm("neighbour", resident_on=resident_on)
        attached = volume_ops.attach_volume(iscsi(0), "here")
        target.storage.san.remove_lun(IQN, 0)
        with target.journal.recording() as calls:
            assert volume_ops.attach_volume(iscsi(1), "neighbour").is_plugged
        assert not {"SR.scan", "VDI.introduce"} & set(calls.methods())
        assert target.db.exists("VDI", attached.vdi_ref)
        (bad,) = volume_ops.find_bad_volumes("here")
        assert "does not show LUN 0" in bad.reason
        volume_ops.detach_volume(iscsi(1), "neighbour")

    def test_that_were_unmapped_after_a_detach_let_a_vm_start_with_its_neighbour(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        halted = target.add_vm("halted", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "halted")
        volume_ops.attach_volume(iscsi(1), "web")
        volume_ops.detach_volume(iscsi(1), "web")
        target.storage.san.remove_lun(IQN, 1)
        volume_ops.attach_volume(iscsi(2), "web")
        volume_ops._session.call("VM.start", halted, False, False)
        assert volume_ops.list_volumes("halted")[0].is_plugged

    def test_of_which_one_is_attached_fail_without_harm_to_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """In nova's driver, a failed second attach forgot the SR of the first."""
        volume_ops.attach_volume(iscsi(0), "web")
        before = target.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume(iscsi(1, wwn=scsi_id(77)), "db")
        assert changes(before, target.snapshot()) == []

    def test_grown_are_seen_when_no_disk_of_the_target_is_plugged(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        target.storage.san.resize_lun(IQN, 0, 3 * GIB)
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="web"):
            volume_ops.extend_volume(iscsi(0))
        assert changes(before, target.snapshot()) == []
        vm = target.db.by_name("VM", "web")[0]
        volume_ops._session.call("VM.hard_shutdown", vm)
        assert volume_ops.extend_volume(iscsi(0)) == 3 * GIB
        assert volume_ops.list_volumes("web")[0].vdi_uuid

    def test_grown_are_in_use_where_a_vm_plugs_one_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.connect_volume(iscsi(0))
        with (
            interrupted(
                target, "VDI.get_all_records_where", lambda: volume_ops.attach_volume(iscsi(1), "web")
            ) as ops,
            pytest.raises(VolumeInUse, match="web"),
        ):
            ops.extend_volume(iscsi(0))
        assert volume_ops.list_volumes("web")[0].is_plugged


class TestAnotherOwnersSR:
    """A second SR on a target stays empty and breaks the scans of both (recordings.md, finding 12 (storage))."""

    def test_is_used_and_left_as_it_was(self, target: Simulator, volume_ops: VolumeOps) -> None:
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        before = target.snapshot()
        attachment = volume_ops.attach_volume(iscsi(1), "web")
        assert attachment.sr_ref == sr
        assert target.db.refs("SR") == [sr]
        volume_ops.detach_volume(iscsi(1), "web")
        assert changes(before, target.snapshot()) == []
        volume_ops._session.call("SR.scan", sr)

    def test_is_left_also_with_a_copy_of_our_mark(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """An operator has introduced the SR anew, with the sm_config of the one that xenvol had introduced."""
        ours = volume_ops.connect_volume(iscsi(1))
        mark = {MARK: target.db.get("SR", ours.sr_ref, "sm_config")[MARK]}
        volume_ops.disconnect_volume(iscsi(1))
        assert target.db.refs("SR") == []
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="", sm_config=mark)
        before = target.snapshot()
        assert volume_ops.attach_volume(iscsi(1), "web").sr_ref == sr
        volume_ops.detach_volume(iscsi(1), "web")
        assert changes(before, target.snapshot()) == []

    def test_that_an_earlier_release_introduced_is_forgotten_with_its_last_volume(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """It wrote an empty mark."""
        target.add_sr("old", type="iscsi", device_config=THEIRS, content_type="", sm_config={MARK: ""})
        volume_ops.attach_volume(iscsi(1), "web")
        volume_ops.detach_volume(iscsi(1), "web")
        assert target.db.refs("SR") == []

    def test_that_is_not_plugged_is_plugged_and_unplugged_again(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        (pbd,) = target.db.children(sr, "PBDs")
        volume_ops._session.call("PBD.unplug", pbd)
        before = target.snapshot()
        assert volume_ops.attach_volume(iscsi(1), "web").sr_ref == sr
        volume_ops.detach_volume(iscsi(1), "web")
        assert [line for line in changes(before, target.snapshot()) if "[dirty]" not in line] == []

    @pytest.mark.xapi(hosts=2)
    def test_stays_plugged_under_a_volume_that_is_connected_without_a_vm(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The detach of another volume leaves every PBD; the disconnect of this one takes them back."""
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        for pbd in target.db.children(sr, "PBDs"):
            volume_ops._session.call("PBD.unplug", pbd)
        operators = target.snapshot()
        volume_ops.connect_volume(iscsi(1))
        connected = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(connected, target.snapshot()) == []
        volume_ops.disconnect_volume(iscsi(1))
        assert [line for line in changes(operators, target.snapshot()) if "[dirty]" not in line] == []

    @pytest.mark.xapi(hosts=2)
    def test_is_given_back_on_the_hosts_that_are_up_and_on_another_when_it_has_come_back(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """A host that is down keeps no volume attached: the same detach again, later, takes back its PBD."""
        target.add_vm("halted", power_state="Halted")
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        on_slave, on_master = sorted(
            target.db.children(sr, "PBDs"),
            key=lambda pbd: target.db.get("PBD", pbd, "host") == target.xapi.master,
        )
        for pbd in (on_slave, on_master):
            volume_ops._session.call("PBD.unplug", pbd)
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "halted")
        metrics = target.db.get("host", target.db.get("PBD", on_slave, "host"), "metrics")
        with target.xapi.lock:
            target.db.set("host_metrics", metrics, live=False)
        volume_ops.detach_volume(iscsi(0), "halted")
        assert not target.db.get("PBD", on_master, "currently_attached")
        assert target.db.get("PBD", on_slave, "other_config")[MARK] == "plugged"
        with target.xapi.lock:
            target.db.set("host_metrics", metrics, live=True)
        volume_ops.detach_volume(iscsi(0), "halted")
        assert [line for line in changes(before, target.snapshot()) if "[dirty]" not in line] == []

    @pytest.mark.parametrize("driver", ["nfs", "xensm"])
    def test_of_files_is_used_and_left_as_it_was(
        self, xapi: Simulator, volume_ops: VolumeOps, driver: str
    ) -> None:
        arrange_nfs(xapi)
        xapi.add_vm("web")
        xapi.add_sr(
            "theirs",
            type="nfs",
            sr_uuid=SR_UUID,
            device_config={"server": "10.0.0.2", "serverpath": "/export/vols"},
        )
        before = xapi.snapshot()
        info = {
            "driver_volume_type": "nfs",
            "data": {"export": "10.0.0.2:/export/vols", "name": f"{SR_UUID}/{VDI_UUID}.vhd"},
        }
        if driver == "xensm":
            info = NFS_XENSM
        attachment = volume_ops.attach_volume(info, "web")
        assert attachment.sr_uuid == SR_UUID
        volume_ops.detach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []

    def test_that_has_a_disk_of_that_uuid_from_another_place_is_not_taken_for_it(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The file was copied: the copy at the root of the export is not the one in the SR's directory."""
        arrange_nfs(xapi)
        xapi.add_vm("web")
        config = {"server": "10.0.0.2", "serverpath": "/export/vols"}
        xapi.add_sr("theirs", type="nfs", sr_uuid=SR_UUID, device_config=config)
        before = xapi.snapshot()
        with pytest.raises(WrongVolume, match="theirs"):
            volume_ops.attach_volume(
                {"driver_volume_type": "nfs", "data": {"export": "10.0.0.2:/export/vols", "name": VDI_UUID}},
                "web",
            )
        assert changes(before, xapi.snapshot()) == []


class TestTheWholePool:
    @pytest.mark.xapi(hosts=3)
    def test_sees_the_volume_of_a_halted_vm(self, target: Simulator, volume_ops: VolumeOps) -> None:
        before = target.snapshot()
        target.add_vm("halted", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "halted")
        pbds = target.db.children(attachment.sr_ref, "PBDs")
        assert [target.db.get("PBD", pbd, "currently_attached") for pbd in pbds] == [True] * 3
        volume_ops.detach_volume(iscsi(0), "halted")
        volume_ops._session.call("VM.destroy", attachment.vm_ref)
        assert changes(before, target.snapshot()) == []

    @pytest.mark.xapi(hosts=3)
    def test_has_the_sr_plugged_on_the_vms_host_and_on_the_master_and_nowhere_else(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        hosts = target.db.refs("host")
        target.add_vm("far", resident_on=hosts[2])
        attachment = volume_ops.attach_volume(iscsi(0), "far")
        plugged = {target.db.get("PBD", pbd, "host") for pbd in target.db.children(attachment.sr_ref, "PBDs")}
        assert plugged == {hosts[0], hosts[2]}

    @pytest.mark.xapi(hosts=2)
    def test_gets_the_sr_of_one_host_for_a_vm_on_another(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """An existing SR without a PBD on this host does not serve this VM."""
        before = target.snapshot()
        hosts = target.db.refs("host")
        target.add_vm("here", resident_on=hosts[0])
        target.add_vm("there", resident_on=hosts[1])
        volume_ops.attach_volume(iscsi(0), "here")
        assert volume_ops.attach_volume(iscsi(1), "there").is_plugged
        volume_ops.detach_volume(iscsi(0), "here")
        volume_ops.detach_volume(iscsi(1), "there")
        assert not [line for line in changes(before, target.snapshot()) if "SR" in line or "PBD" in line]


class TestMigration:
    @pytest.mark.xapi(hosts=3)
    def test_needs_the_volumes_on_the_other_host_first(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        arrange_target(xapi, chap=CHAP)
        touch_hosts(xapi)
        hosts = xapi.db.refs("host")
        vm = xapi.add_vm("web", resident_on=hosts[0])
        chap = {"auth_method": "CHAP", "auth_username": CHAP[0], "auth_password": CHAP[1]}
        before = xapi.snapshot()
        attachment = volume_ops.attach_volume(iscsi(0, **chap), "web")
        volume_ops.attach_volume(iscsi(1, **chap), "web")
        attached = xapi.snapshot()
        assert volume_ops.prepare_migration("web", hosts[1]) == [attachment.sr_uuid]
        assert volume_ops.prepare_migration("web", hosts[1]) == [attachment.sr_uuid]
        volume_ops.undo_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(attached, xapi.snapshot()) == []

        volume_ops.prepare_migration("web", xapi.db.get("host", hosts[1], "name_label"))
        volume_ops._session.call("VM.pool_migrate", vm, hosts[1], {"live": "true"})
        assert xapi.db.get("VM", vm, "resident_on") == hosts[1]
        volume_ops.undo_migration("web", hosts[1])  # late: the VM lives there now
        assert all(xapi.db.get("VBD", vbd, "currently_attached") for vbd in xapi.db.refs("VBD"))
        for lun in (0, 1):
            volume_ops.detach_volume(iscsi(lun, **chap), "web")
        assert not [line for line in changes(before, xapi.snapshot()) if not line.startswith("VM ")]
