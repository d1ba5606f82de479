"""The disk in the VM is the volume that was asked for, whatever its number or file name meant before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import (
    GIB,
    IQN,
    SCENARIOS,
    SR_UUID,
    VDI_UUID,
    Scenario,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.attaching.attachment import Attachment
from xenvol.errors import (
    AttachmentFenced,
    VolumeInUse,
    VolumeNotFound,
    WrongVolume,
    XapiError,
    XapiUnreachable,
)
from xenvol.simulator import Simulator
from xenvol.storage.users import is_held
from xenvol.volumeops import VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """A target with LUNs 0, 1 and 2, and VMs that run."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    xapi.add_vm("db")
    return xapi


def sm_config(xapi: Simulator, vdi: str) -> dict[str, str]:
    config: dict[str, str] = xapi.db.get("VDI", vdi, "sm_config")
    return config


def give_number_1_to_another_volume(xapi: Simulator) -> str:
    """Its SCSI id; the pool has still the records of the old one."""
    xapi.storage.san.replace_lun(IQN, 1, 2 * GIB, scsi_id=scsi_id(77))
    return scsi_id(77)


def without_an_id(lun: int | str, **more: Any) -> dict[str, Any]:
    info = iscsi(lun, **more)
    del info["data"]["volume_id"]
    return info


def xensm_lun(lun: int) -> dict[str, Any]:
    return {
        "driver_volume_type": "xensm",
        "data": {
            "volume_id": f"volume-{lun}",
            "sr_uuid": SR_UUID,
            "sr_type": "iscsi",
            "target": "10.0.0.1",
            "targetIQN": IQN,
            "target_lun": lun,
            "introduce_sr_keys": ["sr_type", "target", "targetIQN"],
        },
    }


class TestALunNumberThatIsReused:
    """The plug of the SR made records of all LUNs, which say what their numbers meant then."""

    def test_leaves_no_record_of_the_lun_that_had_it(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """It would stand for a LUN that has left the target, in an SR of ours that stays."""
        volume_ops.attach_volume(iscsi(0), "db")
        give_number_1_to_another_volume(target)
        volume_ops.attach_volume(iscsi(1), "web")
        known = {sm_config(target, vdi)["SCSIid"] for vdi in target.db.refs("VDI")}
        assert scsi_id(77) in known
        assert scsi_id(1) not in known

    def test_leaves_the_record_of_a_lun_that_another_process_attaches_by_its_new_number_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("old", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "db")
        give_number_1_to_another_volume(target)
        target.storage.san.add_lun(IQN, 5, GIB, scsi_id=scsi_id(1))

        def attach_the_old_one() -> None:
            volume_ops.attach_volume({**iscsi(5), "volume_id": "old"}, "old")

        with interrupted(target, "VDI.introduce", attach_the_old_one) as ops:
            ops.attach_volume(iscsi(1), "web")
        (old,) = volume_ops.list_volumes("old")
        assert target.db.exists("VDI", old.vdi_ref)
        assert sm_config(target, old.vdi_ref)["SCSIid"] == scsi_id(1)

    @pytest.mark.parametrize("more", [{}, {"wwn": scsi_id(77)[1:]}], ids=["unproven", "proven"])
    def test_while_another_lun_is_attached_means_the_new_volume(
        self, target: Simulator, volume_ops: VolumeOps, more: dict[str, str]
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        new = give_number_1_to_another_volume(target)
        attachment = volume_ops.attach_volume(iscsi(1, **more), "db")
        assert sm_config(target, attachment.vdi_ref)["SCSIid"] == new

    def test_means_the_new_volume_although_a_halted_vm_had_the_old_one(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("old", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.attach_volume(iscsi(1), "old")
        new = give_number_1_to_another_volume(target)
        attachment = volume_ops.attach_volume({**iscsi(1), "serial": "another-volume"}, "db")
        assert sm_config(target, attachment.vdi_ref)["SCSIid"] == new

    def test_means_the_new_volume_after_detach_all(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.attach_volume(iscsi(1), "db")
        volume_ops.detach_all("db")
        new = give_number_1_to_another_volume(target)
        assert sm_config(target, volume_ops.attach_volume(iscsi(1), "db").vdi_ref)["SCSIid"] == new

    def test_means_the_new_volume_through_xensm(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(xensm_lun(0), "web")
        volume_ops.attach_volume(xensm_lun(1), "db")
        volume_ops.detach_volume(xensm_lun(1), "db")
        new = give_number_1_to_another_volume(target)
        assert sm_config(target, volume_ops.attach_volume(xensm_lun(1), "db").vdi_ref)["SCSIid"] == new

    @pytest.mark.parametrize("through", [iscsi, xensm_lun])
    def test_under_a_plugged_disk_is_told_and_the_new_volume_not_plugged(
        self, target: Simulator, volume_ops: VolumeOps, through: Callable[[int], dict[str, Any]]
    ) -> None:
        """The guest of the first VM already writes to the new volume, or will after its next log-in (CVE-2023-2088)."""
        volume_ops.attach_volume(through(1), "web")
        give_number_1_to_another_volume(target)
        before = target.snapshot()
        info = through(1)
        info["data"]["volume_id"] = "another-volume"
        with pytest.raises(VolumeInUse, match="web"):
            volume_ops.attach_volume(info, "db")
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []

    def test_is_no_other_volume_where_the_volume_has_only_grown(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.attach_volume(iscsi(1, size=1), "db")
        volume_ops.detach_volume(iscsi(1, size=1), "db")
        target.storage.san.resize_lun(IQN, 1, 2 * GIB)
        assert volume_ops.attach_volume(iscsi(1, size=2), "db").is_plugged


class TestAVolumeThatMovedToAnotherLun:
    @pytest.mark.parametrize("hotplug", [True, False])
    def test_is_not_taken_for_the_disk_that_is_in_its_slot(
        self, target: Simulator, volume_ops: VolumeOps, hotplug: bool
    ) -> None:
        volume_ops.attach_volume(iscsi(0, volume_id="moved"), "web", hotplug=hotplug)
        before = target.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume(iscsi(1, volume_id="moved"), "web")
        assert [line for line in changes(before, target.snapshot()) if line.startswith("VBD")] == []


class TestAnUUIDInAnotherSR:
    def test_is_not_the_file_of_another_server(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        """The copy of an export that stands by for a disaster has files of the same names."""
        infos = []
        for server in ("10.0.0.2", "10.0.0.7"):
            export = xapi.storage.shares.add_nfs(server).export("/export/vols", size=100 * GIB)
            export.filesystem.root.add_vhd(VDI_UUID, GIB)
            data = {"volume_id": server, "export": f"{server}:/export/vols", "name": f"{VDI_UUID}.vhd"}
            infos.append({"driver_volume_type": "nfs", "data": data, "access_mode": "ro"})
        touch_hosts(xapi)
        xapi.add_vm("web")
        xapi.add_vm("db")
        volume_ops.attach_volume(infos[0], "web")
        before = xapi.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume(infos[1], "db")
        assert [line for line in changes(before, xapi.snapshot()) if line.startswith("VBD")] == []

    def test_is_not_the_disk_of_the_sr_that_xensm_was_told(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        xapi.add_vm("web")
        one, other = xapi.add_sr("one"), xapi.add_sr("other")
        vdi = xapi.add_vdi(one)
        data = {
            "volume_id": "volume",
            "sr_uuid": xapi.db.get("SR", other, "uuid"),
            "vdi_uuid": xapi.db.get("VDI", vdi, "uuid"),
        }
        before = xapi.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume({"driver_volume_type": "xensm", "data": data}, "web")
        assert changes(before, xapi.snapshot()) == []


class TestSeveralSRsOnOneTarget:
    @pytest.mark.parametrize("is_the_first_plugged_later", [True, False])
    def test_are_searched_for_the_one_that_has_the_lun(
        self, target: Simulator, volume_ops: VolumeOps, is_the_first_plugged_later: bool
    ) -> None:
        """Only the one that was plugged first has any (docs/background/recordings.md, finding 12 (storage))."""
        plugged_later = is_the_first_plugged_later
        kwargs: dict[str, Any] = {"type": "iscsi", "device_config": THEIRS, "content_type": ""}
        first = target.add_sr("first", plugged=not plugged_later, **kwargs)
        second = target.add_sr("second", plugged=True, **kwargs)
        if plugged_later:
            for pbd in target.db.children(first, "PBDs"):
                volume_ops._session.call("PBD.plug", pbd)
        attachment = volume_ops.attach_volume(iscsi(1), "web")
        assert attachment.is_plugged
        assert attachment.sr_ref == (second if plugged_later else first)

    def test_are_searched_although_one_is_ours_of_an_attempt_that_died(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The attempt died after SR.introduce; then the operator made an SR of the same target."""
        target.faults.lose_answer("SR.introduce")
        target.faults.lose_request("*", nth=5, every=True)
        with pytest.raises(XapiUnreachable):
            volume_ops.attach_volume(iscsi(1), "web")
        target.faults.clear()
        assert len(target.db.refs("SR")) == 1
        theirs = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        attachment = volume_ops.attach_volume(iscsi(1), "web")
        assert (attachment.sr_ref, attachment.is_plugged) == (theirs, True)

    def test_that_have_no_pbd_are_left_alone(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """Whoever introduced one and plugged it nowhere has not said how a host reaches its storage."""
        record = ("", "theirs", "", "iscsi", "", True, {"targetIQN": IQN})
        theirs = volume_ops._session.call("SR.introduce", *record)
        before = target.snapshot()
        assert volume_ops.attach_volume(iscsi(0), "web").sr_ref != theirs
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_are_not_made_for_an_iqn_in_another_case(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """The storage driver compares the IQNs letter by letter, and refuses."""
        volume_ops.attach_volume(iscsi(0), "web")
        before = target.snapshot()
        with pytest.raises(XapiError) as caught:
            volume_ops.attach_volume(iscsi(1, target_iqn="IQN" + IQN[3:]), "db")
        assert caught.value.code == "SR_BACKEND_FAILURE_83"
        assert changes(before, target.snapshot()) == []


class TestALunThatIsNewToSomebodyElsesSR:
    def test_is_brought_in_without_a_scan_and_taken_out_again(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The host goes on seeing the LUN as long as it is logged in."""
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        before = target.snapshot()
        with target.journal.recording() as calls:
            volume_ops.attach_volume(iscsi(9), "web")
            volume_ops.detach_volume(iscsi(9), "web")
        assert "SR.scan" not in calls.methods()
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []


class TestAVolumeWithoutAnId:
    @pytest.mark.parametrize(
        ("attached", "detached"),
        [
            (without_an_id(1), without_an_id("1")),
            (without_an_id(1), without_an_id(1, target_discovered=False)),
            (iscsi(1), without_an_id(1)),
        ],
        ids=["lun-as-text", "further-key", "id-at-attach-only"],
    )
    def test_is_detached_however_the_detach_spells_it(
        self, target: Simulator, volume_ops: VolumeOps, attached: dict[str, Any], detached: dict[str, Any]
    ) -> None:
        volume_ops.attach_volume(attached, "web")
        volume_ops.detach_volume(detached, "web")
        assert target.db.refs("VBD") == []


class TestALocalSR:
    """A disk that only one host can reach."""

    @pytest.mark.xapi(hosts=2)
    @pytest.mark.parametrize("power_state", ["Halted", "Running"])
    def test_is_used_on_its_host_and_left_as_it_was(
        self, xapi: Simulator, volume_ops: VolumeOps, power_state: str
    ) -> None:
        touch_hosts(xapi)
        host = xapi.db.refs("host")[1]
        sr = xapi.add_sr("local", type="dummy", shared=False, hosts=[host])
        vdi = xapi.add_vdi(sr)
        xapi.add_vm("web", power_state=power_state, resident_on=host if power_state == "Running" else None)
        data = {
            "volume_id": "volume",
            "sr_uuid": xapi.db.get("SR", sr, "uuid"),
            "vdi_uuid": xapi.db.get("VDI", vdi, "uuid"),
        }
        info = {"driver_volume_type": "xensm", "data": data}
        before = xapi.snapshot()
        assert volume_ops.attach_volume(info, "web").vdi_ref == vdi
        volume_ops.detach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("by", ["vdi_uuid", "target_lun"])
def test_a_lun_that_an_sr_of_the_pool_lies_on_is_refused_through_xensm(
    target: Simulator, volume_ops: VolumeOps, by: str
) -> None:
    """However xensm is told the LUN: a guest that writes to it destroys the SR."""
    target.storage.san.add_lun(IQN, 5, 100 * GIB, scsi_id=scsi_id(5))
    sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
    config = {"target": "10.0.0.1", "targetIQN": IQN, "SCSIid": scsi_id(5)}
    target.add_sr("production", type="lvmoiscsi", device_config=config, create=True)
    (vdi,) = [vdi for vdi in target.db.refs("VDI") if sm_config(target, vdi).get("SCSIid") == scsi_id(5)]
    told = {"vdi_uuid": target.db.get("VDI", vdi, "uuid"), "target_lun": 5}[by]
    data = {"volume_id": "volume", "sr_uuid": target.db.get("SR", sr, "uuid"), by: told}
    before = target.snapshot()
    with pytest.raises(VolumeInUse, match="production"):
        volume_ops.attach_volume({"driver_volume_type": "xensm", "data": data}, "web")
    assert changes(before, target.snapshot()) == []


class TestADiskOfASleepingVM:
    def test_is_given_to_nobody_else(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """It is not plugged, and its VM goes on writing when it wakes."""
        root = target.add_sr("root")
        sleeper = target.add_vm("sleeper", disks=[target.add_vdi(root)])
        with target.xapi.lock:
            target.db.set("VM", sleeper, suspend_SR=root)
        volume_ops.attach_volume(iscsi(0), "sleeper")
        volume_ops._session.call("VM.suspend", sleeper)
        with pytest.raises(VolumeInUse, match="sleeper"):
            volume_ops.attach_volume(iscsi(0), "db")


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s.name in ("nfs", "gluster")], ids=str)
class TestCopiedMarks:
    """A clone, a revert or a copy shows another disk, to which the marks of the original came along."""

    @pytest.fixture
    def original(self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario) -> Attachment:
        scenario.arrange(xapi)
        xapi.add_vm("web", power_state="Halted")
        info = {**scenario.connection_info, "attachment_id": "first"}
        return volume_ops.attach_volume(info, "web", "xvdb")

    def test_never_make_the_disk_of_a_clone_the_volume(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, original: Attachment
    ) -> None:
        clone = volume_ops._session.call("VM.clone", original.vm_ref, "clone")
        assert volume_ops.list_volumes(clone) == []
        attachment = volume_ops.attach_volume(scenario.connection_info, clone)
        assert attachment.vdi_ref == original.vdi_ref
        assert attachment.userdevice != original.userdevice

    def test_never_answer_for_a_fence(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, original: Attachment
    ) -> None:
        clone = volume_ops._session.call("VM.clone", original.vm_ref, "clone")
        vbds = xapi.db.children(clone, "VBDs")
        volume_ops.detach_volume({**scenario.connection_info, "attachment_id": "first"}, clone)
        assert xapi.db.children(clone, "VBDs") == vbds
        assert xapi.db.exists("VBD", original.vbd_ref)

    def test_are_no_answer_to_a_fence_on_the_disk_that_is_the_volume(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, original: Attachment
    ) -> None:
        """A tool has copied the marks of another disk's VBD to the VBD of this one."""
        marks = xapi.db.get("VBD", original.vbd_ref, "other_config")
        copied = {**marks, "xenvol:vdi": "OpaqueRef:another"}
        volume_ops._session.call("VBD.set_other_config", original.vbd_ref, copied)
        before = xapi.snapshot()
        with pytest.raises(AttachmentFenced):
            volume_ops.detach_volume({**scenario.connection_info, "attachment_id": "first"}, "web")
        assert changes(before, xapi.snapshot()) == []
        volume_ops.detach_volume(scenario.connection_info, "web")
        assert not xapi.db.exists("VBD", original.vbd_ref)

    def test_never_make_the_disk_of_a_revert_the_volume(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, original: Attachment
    ) -> None:
        snapshot = volume_ops._session.call("VM.snapshot", original.vm_ref, "snapshot")
        volume_ops._session.call("VM.revert", snapshot)  # destroys the disk that the VM had
        with pytest.raises(VolumeNotFound):
            volume_ops.attach_volume(scenario.connection_info, original.vm_ref)
        assert volume_ops.list_volumes(original.vm_ref) == []

    def test_never_hold_a_copy_of_a_disk_that_is_held(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, original: Attachment
    ) -> None:
        volume_ops.detach_volume(scenario.connection_info, "web")
        volume = volume_ops.connect_volume(scenario.connection_info)
        copy = volume_ops._session.call("VDI.copy", volume.vdi_ref, volume.sr_ref)
        assert not is_held(xapi.db.record("VDI", copy))
        assert is_held(xapi.db.record("VDI", volume.vdi_ref))


class TestTheMode:
    @pytest.mark.parametrize(("there", "asked"), [("rw", "ro"), ("ro", "rw")])
    def test_of_a_disk_that_is_there_is_never_another_than_the_one_asked_for(
        self, target: Simulator, volume_ops: VolumeOps, there: str, asked: str
    ) -> None:
        volume_ops.attach_volume(iscsi(0, access_mode=there), "web")
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match=r"web.*mode"):
            volume_ops.attach_volume(iscsi(0, access_mode=asked), "web")
        assert changes(before, target.snapshot()) == []


class TestOneLunUnderTwoIds:
    @pytest.mark.parametrize("vm", ["web", "db"])
    def test_is_told_for_what_it_is(self, target: Simulator, volume_ops: VolumeOps, vm: str) -> None:
        volume_ops.attach_volume(iscsi(0, volume_id="first"), "web", "xvdb")
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="web"):
            volume_ops.attach_volume(iscsi(0, volume_id="second"), vm)
        assert changes(before, target.snapshot()) == []
