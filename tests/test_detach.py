"""Detaching: what is gone stays quiet, what others use stays, and a late one does no harm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import (
    GIB,
    IQN,
    PORTAL,
    SCENARIOS,
    Scenario,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.errors import (
    AttachmentFenced,
    ChangedMeanwhile,
    DiskNotReleased,
    InvalidMountpoint,
    UnknownVM,
    VMBusy,
    VolumeInUse,
    WrongPowerState,
    WrongVolume,
    XapiError,
)
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    return xapi


@pytest.mark.parametrize("hosts", [1, 3])
@pytest.mark.parametrize("power_state", ["Running", "Halted"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_was_attached_is_gone_without_a_trace(scenario: Scenario, power_state: str, hosts: int) -> None:
    import xenvol

    with Simulator(hosts=hosts) as xapi:
        scenario.arrange(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web", power_state=power_state)
        before = xapi.snapshot()
        with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
            ops = VolumeOps(session)
            ops.attach_volume(scenario.connection_info, "web", "xvdb")
            assert changes(before, xapi.snapshot())
            ops.detach_volume(scenario.connection_info, "web", "xvdb")
        assert changes(before, xapi.snapshot()) == []


class TestWhatIsGone:
    def test_is_detached_again_in_silence(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        before = target.snapshot()
        volume_ops.detach_volume(iscsi(0), "web", "xvdb")
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_is_told_from_what_was_taken_out(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        uuid = target.db.get("VM", vm, "uuid")
        assert volume_ops.detach_volume(iscsi(0), uuid) is False
        volume_ops.attach_volume(iscsi(0), uuid)
        assert volume_ops.detach_volume(iscsi(0), uuid) is True
        assert volume_ops.detach_volume(iscsi(0), uuid) is False
        target.faults.refuse(
            "SR.forget", "HANDLE_INVALID", "SR", "OpaqueRef:gone"
        )  # so it is tried once more
        volume_ops.attach_volume(iscsi(0), uuid)
        assert volume_ops.detach_volume(iscsi(0), uuid) is True
        with target.xapi.lock:
            target.db.delete("VM", vm)
        assert volume_ops.detach_volume(iscsi(0), uuid) is False

    def test_may_be_the_vm_itself(self, target: Simulator, volume_ops: VolumeOps) -> None:
        before = target.snapshot()
        vm = target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VM.destroy", vm)
        with pytest.raises(
            UnknownVM
        ):  # of a name nobody knows whether the VM is gone, or has another one now
            volume_ops.detach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), attachment.vm_uuid)
        assert changes(before, target.snapshot()) == []

    def test_may_be_the_vbd_alone_and_the_rest_is_released(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        before = target.snapshot()
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VBD.unplug", attachment.vbd_ref)
        volume_ops._session.call("VBD.destroy", attachment.vbd_ref)
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("order", ["late_error", "lose_answer"])
def test_an_sr_that_is_forgotten_although_xapi_says_an_error_is_released(
    target: Simulator, volume_ops: VolumeOps, order: str
) -> None:
    """xapi says INTERNAL_ERROR also after the deed (docs/background/recordings.md, finding 3 (xapi))."""
    target.add_vm("web")
    before = target.snapshot()
    volume_ops.attach_volume(iscsi(0), "web")
    strike = getattr(target.faults, order)
    strike("SR.forget", *(["INTERNAL_ERROR", "late"] if order == "late_error" else []))
    volume_ops.detach_volume(iscsi(0), "web")
    assert changes(before, target.snapshot()) == []


class TestTheRightOne:
    def test_is_not_touched_by_a_detach_that_names_an_older_attachment(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        old = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web", attachment_id=old.attachment_id)
        new = volume_ops.attach_volume(iscsi(0), "web")
        before = target.snapshot()
        with pytest.raises(AttachmentFenced) as caught:
            volume_ops.detach_volume(iscsi(0), "web", attachment_id=old.attachment_id)
        assert caught.value.current == new.attachment_id
        assert changes(before, target.snapshot()) == []
        volume_ops.detach_volume(iscsi(0), "web", attachment_id=new.attachment_id)
        assert not target.db.refs("VBD")

    def test_has_the_attachment_id_that_the_service_gave(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        info = {**iscsi(0), "attachment_id": "cinder-1"}
        assert volume_ops.attach_volume(info, "web").attachment_id == "cinder-1"
        with pytest.raises(AttachmentFenced):
            volume_ops.detach_volume({**info, "attachment_id": "cinder-0"}, "web")
        volume_ops.detach_volume(info, "web")

    def test_is_at_another_position_than_the_one_named(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web", "xvdc")
        before = target.snapshot()
        with pytest.raises(InvalidMountpoint, match="xvdc"):
            volume_ops.detach_volume(iscsi(0), "web", "xvdb")
        assert changes(before, target.snapshot()) == []

    def test_is_the_volume_and_not_whoever_sits_at_its_position(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web")
        vbd = target.add_vbd(vm, target.add_vdi(target.add_sr()), userdevice="1")
        volume_ops.detach_volume(iscsi(0), "web", "xvdb")
        assert target.db.get("VBD", vbd, "currently_attached")

    def test_is_known_without_a_volume_id(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        before = target.snapshot()
        infos = [iscsi(0), iscsi(1)]
        for info in infos:
            del info["data"]["volume_id"]
            volume_ops.attach_volume(info, "web")
        volume_ops.detach_volume(infos[1], "web")
        (left,) = volume_ops.list_volumes("web")
        assert target.db.get("VDI", left.vdi_ref, "sm_config")["LUNid"] == "0"
        volume_ops.detach_volume(infos[0], "web")
        assert changes(before, target.snapshot()) == []


class TestTheVM:
    def test_that_keeps_the_disk_keeps_all_of_it(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web")
        target.guest(vm).refuses_unplug = True
        before = target.snapshot()
        with pytest.raises(DiskNotReleased, match="xvda"):
            volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []
        target.guest(vm).refuses_unplug = False
        volume_ops.detach_volume(iscsi(0), "web")
        assert not target.db.refs("VBD")

    def test_that_is_paused_keeps_the_disk(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VM.pause", vm)
        before = target.snapshot()
        with pytest.raises(WrongPowerState, match="Paused"):
            volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_that_migrates_keeps_the_disk(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web")
        with target.xapi.lock:
            target.db.map_add("VM", vm, "current_operations", "OpaqueRef:task", "pool_migrate")
        with pytest.raises(VMBusy):
            volume_ops.detach_volume(iscsi(0), "web")

    def test_that_was_shut_down_gives_it_back_without_being_asked(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VM.hard_shutdown", vm)
        volume_ops.detach_volume(iscsi(0), "web")
        assert not target.db.refs("SR")


class TestDetachAll:
    def test_takes_out_every_volume_of_ours_and_no_disk_of_others(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web")
        theirs = target.add_vbd(vm, target.add_vdi(target.add_sr("theirs")))
        before = target.snapshot()
        for lun in range(3):
            volume_ops.attach_volume(iscsi(lun), "web")
        assert [gone.volume_id for gone in volume_ops.detach_all("web")] == [
            "volume-0",
            "volume-1",
            "volume-2",
        ]
        assert changes(before, target.snapshot()) == []
        assert target.db.refs("VBD") == [theirs]
        assert volume_ops.detach_all("web") == []


class TestCleanup:
    def test_releases_what_shows_the_disks_and_raises_nothing(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = target.snapshot()
        volume = volume_ops.connect_volume(iscsi(0))
        volume_ops.safe_cleanup_from_vdis(["OpaqueRef:nothing", volume.vdi_ref])
        assert changes(before, target.snapshot()) == []

    def test_spares_what_is_in_use_and_what_was_there_before(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        used = volume_ops.attach_volume(iscsi(0), "web")
        theirs = target.add_vdi(target.add_sr("theirs"))
        before = target.snapshot()
        volume_ops.safe_cleanup_from_vdis([used.vdi_ref, theirs])
        assert changes(before, target.snapshot()) == []


class TestWhatAnotherProcessIsAboutTo:
    """A refusal that passes by itself is no error: the operation looks again."""

    @pytest.mark.parametrize("method", ["PBD.unplug", "VBD.destroy"])
    def test_is_waited_for_by_detach_all(self, target: Simulator, volume_ops: VolumeOps, method: str) -> None:
        """And all volumes are named that were there when it began."""
        target.add_vm("web")
        before = target.snapshot()
        for lun in range(3):
            volume_ops.attach_volume(iscsi(lun), "web")
        target.faults.refuse(method, "OTHER_OPERATION_IN_PROGRESS", "SR", "OpaqueRef:x")
        gone = volume_ops.detach_all("web")
        assert [volume.volume_id for volume in gone] == ["volume-0", "volume-1", "volume-2"]
        assert changes(before, target.snapshot()) == []

    def test_leaves_no_record_of_a_disk_whose_neighbour_stays(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The slot is empty already when xapi refuses to drop the record."""
        target.add_vm("web")
        target.add_vm("db")
        volume_ops.attach_volume(iscsi(0), "db")
        volume_ops.attach_volume(iscsi(1), "web")
        target.faults.refuse("VDI.forget", "OTHER_OPERATION_IN_PROGRESS", "SR", "OpaqueRef:x")
        assert [volume.volume_id for volume in volume_ops.detach_all("web")] == ["volume-1"]
        numbers = {target.db.get("VDI", vdi, "sm_config")["LUNid"] for vdi in target.db.refs("VDI")}
        assert "1" not in numbers

    def test_is_told_by_detach_all_where_it_goes_on(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """With the error of a disk that cannot go at all, and the others are out."""
        target.add_vm("web")
        for lun in range(3):
            volume_ops.attach_volume(iscsi(lun), "web")
        target.faults.refuse("VBD.destroy", "OTHER_OPERATION_IN_PROGRESS", "VBD", "OpaqueRef:x", every=True)
        with pytest.raises(ChangedMeanwhile) as caught:
            volume_ops.detach_all("web")
        assert caught.value.is_transient
        assert len(caught.value.__notes__) == 2
        target.faults.clear()
        assert len(volume_ops.list_volumes("web")) == 3
        assert all(volume.is_plugged for volume in volume_ops.list_volumes("web"))

    def test_is_waited_for_by_a_cleanup(
        self, target: Simulator, volume_ops: VolumeOps, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = target.snapshot()
        volume = volume_ops.connect_volume(iscsi(0))
        target.faults.refuse("PBD.unplug", "OTHER_OPERATION_IN_PROGRESS", "SR", "OpaqueRef:x")
        volume_ops.safe_cleanup_from_vdis([volume.vdi_ref])
        assert changes(before, target.snapshot()) == []
        assert caplog.text == ""

    def test_is_logged_by_a_cleanup_where_it_goes_on(
        self, target: Simulator, volume_ops: VolumeOps, caplog: pytest.LogCaptureFixture
    ) -> None:
        volume = volume_ops.connect_volume(iscsi(0))
        before = target.snapshot()
        target.faults.refuse("PBD.unplug", "OTHER_OPERATION_IN_PROGRESS", "SR", "OpaqueRef:x", every=True)
        volume_ops.safe_cleanup_from_vdis([volume.vdi_ref])
        assert "could not be released: clean up: another process" in caplog.text
        assert changes(before, target.snapshot()) == []


class TestBadVolumes:
    def test_are_those_whose_storage_does_not_answer(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        assert volume_ops.find_bad_volumes("web") == []
        host = target.db.get("host", target.db.refs("host")[0], "name_label")
        target.storage.host(host).initiator.logout(IQN)
        target.storage.san.unreachable(PORTAL)
        (bad,) = volume_ops.find_bad_volumes("web")
        assert (bad.mountpoint, bad.volume_id) == ("/dev/xvdb", "volume-0")
        assert "LUN 0" in bad.reason

    def test_are_those_whose_disk_is_gone(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        with target.xapi.lock:
            target.db.delete("VDI", attachment.vdi_ref)
        (bad,) = volume_ops.find_bad_volumes("web")
        assert "gone" in bad.reason

    def test_are_those_whose_lun_is_no_longer_exported(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """A scan would succeed, and drop the record."""
        target.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        volume_ops.attach_volume(iscsi(1), "web", "xvdc")
        target.storage.san.remove_lun(IQN, 0)
        (bad,) = volume_ops.find_bad_volumes("web")
        assert (bad.mountpoint, bad.volume_id) == ("/dev/xvdb", "volume-0")
        assert "storage" in bad.reason

    def test_are_told_of_a_plugged_disk_as_well_without_a_scan(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The device of a plugged disk is dead, although xapi knows nothing of it."""
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web")
        target.storage.san.remove_lun(IQN, 0)
        with target.journal.recording() as calls:
            (bad,) = volume_ops.find_bad_volumes("web")
        assert "nothing" in bad.reason
        assert not {"SR.scan", "VDI.introduce"} & set(calls.methods())

    def test_are_those_whose_number_is_another_luns_now(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        target.storage.san.replace_lun(IQN, 0, GIB, scsi_id=scsi_id(77))
        before = target.snapshot()
        (bad,) = volume_ops.find_bad_volumes("web")
        assert scsi_id(77) in bad.reason
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []


class TestEveryVBDOfTheDisk:
    """A detach that says that it is done has left none, whoever made it: the service unmaps the LUN next."""

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_is_taken_out_although_its_marks_were_wiped(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario
    ) -> None:
        scenario.arrange(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web")
        before = xapi.snapshot()
        attachment = volume_ops.attach_volume(scenario.connection_info, "web")
        volume_ops._session.call("VBD.set_other_config", attachment.vbd_ref, {})
        volume_ops.detach_volume(scenario.connection_info, "web")
        assert changes(before, xapi.snapshot()) == []

    def test_is_left_where_it_is_not_at_the_position_that_was_named(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """Its marks were wiped, so that only the disk tells what it is."""
        target.add_vm("web")
        there = volume_ops.attach_volume(iscsi(0), "web", "/dev/xvdb")
        volume_ops._session.call("VBD.set_other_config", there.vbd_ref, {})
        before = target.snapshot()
        with pytest.raises(InvalidMountpoint, match="xvdb"):
            volume_ops.detach_volume(iscsi(0), "web", "/dev/xvdc")
        assert changes(before, target.snapshot()) == []
        volume_ops.detach_volume(iscsi(0), "web", "/dev/xvdb")
        assert not target.db.refs("VBD")

    def test_is_taken_out_where_another_tool_made_a_second_one(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        target.add_vbd(vm, attachment.vdi_ref)
        volume_ops.detach_volume(iscsi(0), "web")
        assert target.db.refs("VBD") == []
        assert target.db.refs("SR") == []

    def test_is_taken_out_where_a_migration_of_the_service_renamed_the_volume(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The VBD has the temporary id of the new volume, and the service calls it by the old one from then on."""
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(1, volume_id="temporary"), "web")
        volume_ops.detach_volume(iscsi(1, volume_id="renamed"), "web")
        assert target.db.refs("VBD") == []

    def test_is_no_vbd_of_a_lun_that_had_the_number_before(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        old = volume_ops.attach_volume(iscsi(1, volume_id="old"), "web")
        target.storage.san.replace_lun(IQN, 1, GIB, scsi_id=scsi_id(77))
        volume_ops.detach_volume(iscsi(1, volume_id="new"), "web")
        assert target.db.exists("VBD", old.vbd_ref)

    def test_is_adopted_by_an_attach_where_its_marks_were_wiped(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        first = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VBD.set_other_config", first.vbd_ref, {"note": "mine"})
        again = volume_ops.attach_volume(iscsi(0), "web")
        assert (again.vbd_ref, again.is_plugged) == (first.vbd_ref, True)
        assert target.db.get("VBD", first.vbd_ref, "other_config")["note"] == "mine"
        assert [volume.volume_id for volume in volume_ops.list_volumes("web")] == ["volume-0"]

    def test_keeps_an_attachment_id_when_the_take_over_is_refused(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        volume_ops.attach_volume({**iscsi(0), "attachment_id": "first"}, "web")
        target.faults.refuse("VBD.set_other_config", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError, match="ordered"):
            volume_ops.attach_volume({**iscsi(0), "attachment_id": "second"}, "web")
        assert [each.attachment_id for each in volume_ops.list_volumes("web")] == ["first"]


class TestAVolumeOfSeveralTargets:
    OTHER = "iqn.2010-10.org.openstack:volume-b"

    def info(self, order: str, volume_id: str | None) -> dict[str, Any]:
        iqns = [{"a": IQN, "b": self.OTHER}[each] for each in order]
        info = iscsi(0, target_iqns=iqns, target_portals=[PORTAL] * 2, target_luns=[0, 0], target_iqn=iqns[0])
        del info["data"]["volume_id"]
        if volume_id is not None:
            info["data"]["volume_id"] = volume_id
        return info

    @pytest.mark.parametrize("volume_id", [None, "volume"])
    def test_is_one_volume_in_whatever_order_they_are_named(
        self, target: Simulator, volume_ops: VolumeOps, volume_id: str | None
    ) -> None:
        target.storage.san.add_target(self.OTHER, PORTAL)
        target.storage.san.add_lun(self.OTHER, 0, GIB, scsi_id=scsi_id(0))
        target.add_vm("web")
        first = volume_ops.attach_volume(self.info("ab", volume_id), "web")
        assert volume_ops.attach_volume(self.info("ba", volume_id), "web").vbd_ref == first.vbd_ref
        volume_ops.detach_volume(self.info("ba", volume_id), "web")
        assert (target.db.refs("VBD"), target.db.refs("SR")) == ([], [])

    def test_is_released_where_the_detach_names_only_the_target_that_no_sr_holds(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        san = target.storage.san
        san.add_target(self.OTHER, PORTAL)
        san.add_lun(self.OTHER, 0, GIB, scsi_id=scsi_id(0))
        ways = {"target_iqns": [IQN, self.OTHER], "target_portals": [PORTAL] * 2, "target_luns": [0, 0]}
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0, **ways), "web")
        volume_ops.detach_volume(iscsi(0, target_iqn=self.OTHER), "web")
        assert changes(before, target.snapshot()) == []


class TestAVolumeThatMoved:
    """The same id at another target: the service migrated it."""

    OTHER = "iqn.2010-10.org.openstack:volume-b"

    @pytest.fixture
    def moved(self, target: Simulator, volume_ops: VolumeOps) -> dict[str, Any]:
        target.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        target.storage.san.remove_lun(IQN, 0)
        target.storage.san.add_target(self.OTHER, PORTAL)
        target.storage.san.add_lun(self.OTHER, 0, GIB, scsi_id=scsi_id(0))
        return iscsi(0, target_iqn=self.OTHER)

    @pytest.mark.parametrize("is_by_the_old_place", [True, False])
    def test_is_detached_by_either_place_with_nothing_left_and_attached_at_the_new_one(
        self, target: Simulator, volume_ops: VolumeOps, moved: dict[str, Any], is_by_the_old_place: bool
    ) -> None:
        volume_ops.detach_volume(iscsi(0) if is_by_the_old_place else moved, "web")
        assert (target.db.refs("VBD"), target.db.refs("SR")) == ([], [])
        attachment = volume_ops.attach_volume(moved, "web")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(0)


class TestStaleData:
    def test_takes_nothing_from_a_volume_that_is_connected_under_the_number(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        volume = volume_ops.connect_volume(iscsi(2, volume_id="other"))
        before = target.snapshot()
        volume_ops.detach_volume(iscsi(2, volume_id="stale"), "web")
        volume_ops.disconnect_volume(iscsi(2, volume_id="stale"))
        assert changes(before, target.snapshot()) == []
        assert target.db.exists("VDI", volume.vdi_ref)

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_takes_nothing_from_a_volume_that_is_held_in_the_place_that_it_names(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario
    ) -> None:
        """Of whichever driver."""
        scenario.arrange(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web")
        info = scenario.connection_info
        stale = {**info, "data": {**info["data"], "volume_id": "stale"}}
        volume_ops.connect_volume(info)
        before = xapi.snapshot()
        volume_ops.detach_volume(stale, "web")
        volume_ops.disconnect_volume(stale)
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize("proof", [{}, {"scsi_id": scsi_id(1)}], ids=["", "proved"])
    def test_that_names_one_volume_of_the_vm_and_the_place_of_another_is_refused(
        self, target: Simulator, volume_ops: VolumeOps, proof: dict[str, str]
    ) -> None:
        """As after a migration that swapped two ids, or with a mapping that is out of date."""
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(1), "web")
        volume_ops.attach_volume(iscsi(2), "web")
        before = target.snapshot()
        with pytest.raises(WrongVolume, match="volume-1 at xvda"):
            volume_ops.detach_volume(iscsi(1, volume_id="volume-2", **proof), "web")
        assert changes(before, target.snapshot()) == []

    @pytest.mark.parametrize("detach", ["detach", "detach all"])
    def test_leaves_a_disk_of_another_owners_sr_as_sharable_as_it_was(
        self, target: Simulator, volume_ops: VolumeOps, detach: str
    ) -> None:
        target.add_vm("web")
        config = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}
        target.add_sr("theirs", type="iscsi", device_config=config, content_type="")
        before = target.snapshot()
        volume = iscsi(0, multiattach=True)
        volume_ops.attach_volume(volume, "web")
        if detach == "detach":
            volume_ops.detach_volume(volume, "web")
        else:
            volume_ops.detach_all("web")
        assert changes(before, target.snapshot()) == []

    def test_leaves_a_disk_held_that_a_volume_of_another_id_holds(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(2), "web")
        held = volume_ops.connect_volume(iscsi(2, volume_id="holder"))
        volume_ops.detach_all("web")
        assert volume_ops.connect_volume(iscsi(2, volume_id="holder")) == held
        volume_ops.disconnect_volume(iscsi(2, volume_id="holder"))
        assert changes(before, target.snapshot()) == []


class TestADiskInADrive:
    """Another tool has put the volume's disk into a CD drive of the VM."""

    @pytest.mark.parametrize("is_attached", [True, False], ids=["attached", "connected"])
    def test_is_named_by_the_detach_and_nothing_is_touched(
        self, target: Simulator, volume_ops: VolumeOps, is_attached: bool
    ) -> None:
        target.add_vm("web")
        connect = (
            (lambda info: volume_ops.attach_volume(info, "web")) if is_attached else volume_ops.connect_volume
        )
        vdi = connect(iscsi(0)).vdi_ref
        put_into_a_drive(volume_ops, vdi)
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match=r"drive xvdf \(CD\)"):
            volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_is_not_adopted_by_an_attach(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        put_into_a_drive(volume_ops, volume_ops.connect_volume(iscsi(0)).vdi_ref)
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match=r"drive xvdf \(CD\)"):
            volume_ops.attach_volume(iscsi(0, access_mode="ro"), "web")
        assert changes(before, target.snapshot()) == []


def put_into_a_drive(ops: VolumeOps, vdi: str) -> None:
    api = ops._session.xenapi
    (vm,) = api.VM.get_by_name_label("web")
    drive = {"VM": vm, "VDI": vdi, "userdevice": "5", "bootable": False, "mode": "RO", "type": "CD"}
    rest = {"empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    api.VBD.create({**drive, **rest})
