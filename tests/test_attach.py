"""Attaching: which VM, which position, which state; what is refused before anything is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import (
    CHAP,
    GIB,
    IQN,
    SCENARIOS,
    SR_UUID,
    VDI_UUID,
    Scenario,
    arrange_nfs,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.errors import (
    AmbiguousVM,
    HostNotReady,
    InvalidConnectionInfo,
    MountpointInUse,
    NoFreeMountpoint,
    NotHotpluggable,
    ReadOnlyNotSupported,
    UnknownVM,
    UnsupportedSRType,
    VMBusy,
    VolumeInUse,
    VolumeNotFound,
    WrongPowerState,
    WrongVolume,
    XapiError,
    XenVolError,
)
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """A pool that reaches a target with LUNs 0, 1 and 2."""
    arrange_target(xapi)
    touch_hosts(xapi)
    return xapi


def refused(
    xapi: Simulator, ops: VolumeOps, error: type[XenVolError], info: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """The error of an attach that changed nothing, not even for a moment."""
    before = xapi.snapshot()
    with pytest.raises(error) as caught, xapi.journal.recording() as calls:
        ops.attach_volume(info, *args, **kwargs)
    assert changes(before, xapi.snapshot()) == []
    assert not [call for call in calls.methods() if ".get_" not in call and call != "event.from"]
    return caught.value


class TestTheDiskThatIsAttached:
    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_is_a_running_vms_at_once(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario
    ) -> None:
        scenario.arrange(xapi)
        vm = xapi.add_vm("web")
        attachment = volume_ops.attach_volume(scenario.connection_info, "web", "/dev/xvdc")
        vbd = xapi.db.record("VBD", attachment.vbd_ref)
        assert (vbd["VM"], vbd["VDI"], vbd["currently_attached"]) == (vm, attachment.vdi_ref, True)
        assert (vbd["userdevice"], vbd["device"], vbd["mode"]) == ("2", "xvdc", "RW")
        assert (attachment.userdevice, attachment.device, attachment.mode) == ("2", "xvdc", "RW")
        assert attachment.volume_id == scenario.connection_info["data"]["volume_id"]
        for cls, ref, uuid in (
            ("VM", attachment.vm_ref, attachment.vm_uuid),
            ("VBD", attachment.vbd_ref, attachment.vbd_uuid),
            ("VDI", attachment.vdi_ref, attachment.vdi_uuid),
            ("SR", attachment.sr_ref, attachment.sr_uuid),
        ):
            assert xapi.db.get(cls, ref, "uuid") == uuid
        assert json.loads(json.dumps(attachment.as_dict()))["device"] == "xvdc"

    @pytest.mark.parametrize("lun", [0, "0", 1, "2"])
    def test_is_the_lun_that_was_asked_for_also_when_that_is_lun_0(
        self, target: Simulator, volume_ops: VolumeOps, lun: int | str
    ) -> None:
        target.add_vm("web")
        attachment = volume_ops.attach_volume(iscsi(lun), "web")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(int(lun))

    def test_is_a_halted_vms_at_its_next_start(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(1), "web", 1)
        assert not attachment.is_plugged
        assert attachment.device == ""
        volume_ops._session.call("VM.start", vm, False, False)
        assert target.db.get("VBD", attachment.vbd_ref, "currently_attached")

    def test_is_not_plugged_without_hotplug(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        attachment = volume_ops.attach_volume(iscsi(1), "web", hotplug=False)
        assert not target.db.get("VBD", attachment.vbd_ref, "currently_attached")

    def test_is_read_only_for_access_mode_ro(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web", kind="pv")
        assert volume_ops.attach_volume(iscsi(1, access_mode="ro"), "web").mode == "RO"

    def test_has_the_io_priority_of_its_qos_specs(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        attachment = volume_ops.attach_volume(iscsi(1, qos_specs={"sched": "rt", "class": "5"}), "web")
        vbd = target.db.record("VBD", attachment.vbd_ref)
        assert (vbd["qos_algorithm_type"], vbd["qos_algorithm_params"]) == (
            "ionice",
            {"sched": "rt", "class": "5"},
        )

    def test_comes_over_an_ipv6_portal_with_a_group_tag(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        xapi.storage.san.add_target(IQN, "[fd00::1]:3260")
        xapi.storage.san.add_lun(IQN, 0, GIB)
        xapi.add_vm("web")
        info = iscsi(0, target_portal="[fd00::1]:3260,1")
        assert volume_ops.attach_volume(info, "web").is_plugged

    def test_comes_by_the_second_portal_where_the_first_is_dead(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.storage.san.add_portal("10.0.0.9:3260", IQN, state="refuses")
        target.add_vm("web")
        info = iscsi(
            0, target_portals=["10.0.0.9:3260", "10.0.0.1:3260"], target_iqns=[IQN, IQN], target_luns=[0, 0]
        )
        del info["data"]["target_portal"], info["data"]["target_iqn"], info["data"]["target_lun"]
        attachment = volume_ops.attach_volume(info, "web")
        (pbd,) = target.db.children(attachment.sr_ref, "PBDs")
        assert target.db.get("PBD", pbd, "device_config")["target"] == "10.0.0.1"

    def test_carries_what_it_is_and_the_caller_s_dict_is_as_it_was(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        info = iscsi(0)
        sent = json.dumps(info)
        attachment = volume_ops.attach_volume(info, "web")
        assert json.dumps(info) == sent
        assert target.db.get("VBD", attachment.vbd_ref, "other_config") == {
            "backend-kind": "vbd",
            "xenvol:volume": "volume-0",
            "xenvol:disk": f"{IQN}/0",
            "xenvol:sr": attachment.sr_ref,
            "xenvol:vdi": attachment.vdi_ref,
            "xenvol:attachment": attachment.attachment_id,
            "xenvol:driver": "iscsi",
        }


class TestAttachingAgain:
    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_gives_the_same_attachment(
        self, target: Simulator, volume_ops: VolumeOps, power_state: str
    ) -> None:
        target.add_vm("web", power_state=power_state)
        first = volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        before = target.snapshot()
        assert volume_ops.attach_volume(iscsi(0), "web", "xvdb") == first
        assert volume_ops.attach_volume(iscsi(0), "web") == first
        assert target.snapshot().difference(before) == []

    def test_at_another_position_is_refused_with_the_one_it_is_at(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        with pytest.raises(XenVolError, match="xvdb"):
            volume_ops.attach_volume(iscsi(0), "web", "xvdc")

    def test_plugs_what_an_attempt_that_died_has_left_unplugged(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        unplugged = volume_ops.attach_volume(iscsi(0), "web", hotplug=False)
        plugged = volume_ops.attach_volume(iscsi(0), "web")
        assert plugged.attachment_id == unplugged.attachment_id
        assert plugged.is_plugged


class TestThePosition:
    def test_that_is_taken_is_refused_with_the_free_ones(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web")
        sr = target.add_sr()
        target.add_vbd(vm, target.add_vdi(sr), userdevice="1")
        error = refused(target, volume_ops, MountpointInUse, iscsi(0), "web", "/dev/vdb")
        assert error.free[:3] == ["xvda", "xvdc", "xvdd"]

    def test_3_is_the_cd_drives_unless_asked_for(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        sr = target.add_sr()
        for userdevice in "012":
            target.add_vbd(vm, target.add_vdi(sr), userdevice=userdevice)
        assert volume_ops.attach_volume(iscsi(0), "web", "auto").userdevice == "4"
        assert volume_ops.attach_volume(iscsi(1), "web", "/dev/xvdd").userdevice == "3"

    def test_may_be_the_last_but_there_is_none_after_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web", power_state="Halted")
        sr = target.add_sr()
        target.add_vbds(vm, target.add_vdis(sr, 254))
        last = volume_ops.attach_volume(iscsi(0), "web", "xvdiu")
        assert last.userdevice == "254"
        refused(target, volume_ops, NoFreeMountpoint, iscsi(1), "web", "auto")


class TestTheVM:
    def test_is_meant_by_reference_uuid_or_name(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        uuid = target.db.get("VM", vm, "uuid")
        attachments = {volume_ops.attach_volume(iscsi(0), name) for name in (vm, uuid, uuid.upper(), "web")}
        assert len(attachments) == 1

    def test_whose_name_two_have_is_ambiguous_and_both_are_listed(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vms = [target.add_vm("web"), target.add_vm("web", power_state="Halted")]
        error = refused(target, volume_ops, AmbiguousVM, iscsi(0), "web")
        assert {uuid for uuid, _, _ in error.candidates} == {target.db.get("VM", vm, "uuid") for vm in vms}

    def test_may_have_a_name_with_a_quote_in_it(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm('the "web"')
        assert volume_ops.attach_volume(iscsi(0), 'the "web"').is_plugged

    @pytest.mark.parametrize("name", ["nobody", "OpaqueRef:nobody", "11111111-2222-3333-4444-555555555555"])
    def test_that_is_unknown_is_an_error(self, target: Simulator, volume_ops: VolumeOps, name: str) -> None:
        refused(target, volume_ops, UnknownVM, iscsi(0), name)

    @pytest.mark.parametrize("power_state", ["Paused", "Suspended"])
    def test_that_sleeps_is_refused(self, target: Simulator, volume_ops: VolumeOps, power_state: str) -> None:
        vm = target.add_vm("web", power_state="Running" if power_state == "Suspended" else power_state)
        if power_state == "Suspended":
            with target.xapi.lock:
                target.db.set("VM", vm, power_state="Suspended")
        assert refused(target, volume_ops, WrongPowerState, iscsi(0), "web").power_state == power_state

    def test_that_is_paused_may_get_a_disk_for_its_next_start(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", power_state="Paused")
        assert not volume_ops.attach_volume(iscsi(0), "web", hotplug=False).is_plugged

    def test_that_is_hvm_without_pv_drivers_takes_no_disk_while_it_runs(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", kind="hvm", pv_drivers=False)
        refused(target, volume_ops, NotHotpluggable, iscsi(0), "web")
        assert not volume_ops.attach_volume(iscsi(0), "web", hotplug=False).is_plugged

    @pytest.mark.parametrize("kind", ["pv", "hvm", "pvh"])
    def test_with_pv_drivers_takes_a_disk_while_it_runs(
        self, target: Simulator, volume_ops: VolumeOps, kind: str
    ) -> None:
        target.add_vm("web", kind=kind)
        assert volume_ops.attach_volume(iscsi(0), "web").is_plugged

    def test_that_is_hvm_takes_no_read_only_disk(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web", kind="hvm")
        refused(target, volume_ops, ReadOnlyNotSupported, iscsi(0, access_mode="ro"), "web")

    def test_that_migrates_is_busy(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vm = target.add_vm("web")
        with target.xapi.lock:
            target.db.map_add("VM", vm, "current_operations", "OpaqueRef:task", "pool_migrate")
        assert refused(target, volume_ops, VMBusy, iscsi(0), "web").operation == "pool_migrate"


class TestTheStorage:
    def test_type_that_no_host_offers_is_an_error_before_anything_is_made(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        with target.xapi.lock:
            for sm in target.db.refs("SM"):
                if target.db.get("SM", sm, "type") == "iscsi":
                    target.db.delete("SM", sm)
        target.add_vm("web")
        error = refused(target, volume_ops, UnsupportedSRType, iscsi(0), "web")
        assert error.sr_type == "iscsi"
        assert "nfs" in error.offered

    def test_without_the_lun_says_what_is_there(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        before = target.snapshot()
        with pytest.raises(VolumeNotFound) as caught:
            volume_ops.attach_volume(iscsi(7), "web")
        assert len(caught.value.found) == 3
        assert "LUNid 1" in str(caught.value)
        assert changes(before, target.snapshot()) == []

    def test_with_several_luns_needs_to_be_told_which(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        info = iscsi(0)
        del info["data"]["target_lun"]
        with pytest.raises(VolumeNotFound, match="no LUN number"):
            volume_ops.attach_volume(info, "web")
        target.storage.san.remove_lun(IQN, 1)
        target.storage.san.remove_lun(IQN, 2)
        assert volume_ops.attach_volume(info, "web").is_plugged

    @pytest.mark.parametrize(
        "proof",
        [
            {"wwn": scsi_id(1)[1:]},
            {"scsi_wwn": scsi_id(1)},
            {"size": 2},
            {"vdi_uuid": "11111111-2222-3333-4444-555555555555"},
        ],
        ids=lambda proof: next(iter(proof)),
    )
    def test_that_shows_another_disk_than_the_one_described_is_not_plugged(
        self, target: Simulator, volume_ops: VolumeOps, proof: dict[str, Any]
    ) -> None:
        target.add_vm("web")
        before = target.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume(iscsi(0, **proof), "web")
        assert changes(before, target.snapshot()) == []
        assert not target.db.refs("VBD")

    def test_that_proves_to_be_the_one_described_is(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        assert volume_ops.attach_volume(iscsi(0, wwn=scsi_id(0)[1:], size=1), "web").is_plugged

    def test_host_without_an_initiator_name_is_named(self, target: Simulator, volume_ops: VolumeOps) -> None:
        host = target.db.refs("host")[0]
        other_config = {
            k: v for k, v in target.db.get("host", host, "other_config").items() if k != "iscsi_iqn"
        }
        with target.xapi.lock:
            target.db.set("host", host, iscsi_iqn="", other_config=other_config)
        target.add_vm("web")
        before = target.snapshot()
        with pytest.raises(HostNotReady, match="set_iscsi_iqn"):
            volume_ops.attach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_refusal_leaves_as_xapi_said_it_and_with_a_hint(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        arrange_target(xapi, chap=CHAP)
        touch_hosts(xapi)
        xapi.add_vm("web")
        before = xapi.snapshot()
        with pytest.raises(XapiError) as caught:
            volume_ops.attach_volume(iscsi(0), "web")
        assert (caught.value.code, caught.value.call) == ("SR_BACKEND_FAILURE_68", "PBD.plug")
        assert caught.value.hint
        assert "CHAP" in caught.value.hint
        assert changes(before, xapi.snapshot()) == []

    def test_disk_that_another_vm_writes_is_in_use(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        target.add_vm("db")
        volume_ops.attach_volume(iscsi(0), "db")
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="db"):
            volume_ops.attach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_disk_that_is_multiattach_is_shared(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_vm("web")
        target.add_vm("db")
        info = {**iscsi(0), "multiattach": True}
        one, other = volume_ops.attach_volume(info, "db"), volume_ops.attach_volume(info, "web")
        assert one.vdi_ref == other.vdi_ref
        assert target.db.get("VDI", one.vdi_ref, "sharable")
        volume_ops.detach_volume(info, "db")
        assert target.db.get("VBD", other.vbd_ref, "currently_attached")

    def test_disks_that_all_read_only_may_be_in_several_vms(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        target.add_vm("db")
        info = iscsi(0, access_mode="ro")
        assert volume_ops.attach_volume(info, "db").vdi_ref == volume_ops.attach_volume(info, "web").vdi_ref


def test_a_request_that_cannot_be_parsed_changes_nothing(target: Simulator, volume_ops: VolumeOps) -> None:
    target.add_vm("web")
    info = {"driver_volume_type": "iscsi", "data": {"target_portal": "10.0.0.1"}}
    error = refused(target, volume_ops, InvalidConnectionInfo, info, "web")
    assert (error.key, error.driver) == ("target_iqn", "iscsi")


class TestAnAttemptThatDied:
    def test_and_whose_disk_has_gone_since_is_replaced_in_its_slot(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The SR was forgotten under a halted VM, and xapi has not yet collected the VBD that dangles."""
        target.add_vm("web", power_state="Halted")
        old = volume_ops.attach_volume(iscsi(0), "web", "xvdc")
        (pbd,) = target.db.children(old.sr_ref, "PBDs")
        volume_ops._session.call("PBD.unplug", pbd)
        volume_ops._session.call("SR.forget", old.sr_ref)
        new = volume_ops.attach_volume(iscsi(0), "web")
        assert (new.vdi_uuid, new.userdevice) == (old.vdi_uuid, "2")
        assert target.db.refs("VBD") == [new.vbd_ref]

    def test_and_whose_disk_somebody_has_replaced_is_left_alone(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web", power_state="Halted")
        old = volume_ops.attach_volume(iscsi(0), "web", "xvdc")
        with target.xapi.lock:
            target.db.set("VBD", old.vbd_ref, VDI=target.add_vdi(target.add_sr("elsewhere")))
        """Its marks are about the disk that it showed, and say nothing of the one that it shows now."""
        before = target.db.record("VBD", old.vbd_ref)
        attachment = volume_ops.attach_volume(iscsi(0), vm)
        assert (attachment.vbd_ref, attachment.vdi_ref) != (old.vbd_ref, before["VDI"])
        assert target.db.record("VBD", old.vbd_ref) == before


def test_a_vm_that_is_destroyed_meanwhile_is_unknown_and_nothing_is_left(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    arrange_target(xapi)
    touch_hosts(xapi)
    vm = xapi.add_vm("web", power_state="Halted")

    def destroy() -> None:
        volume_ops._session.call("VM.destroy", vm)

    with interrupted(xapi, "event.from", destroy) as ops, pytest.raises(UnknownVM):
        ops.attach_volume(iscsi(0), "web")
    assert [xapi.db.refs(cls) for cls in ("SR", "PBD", "VDI", "VBD")] == [[], [], [], []]


def test_an_sr_without_a_pbd_of_which_nothing_says_where_its_storage_is(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """An administrator has introduced it, and no more."""
    arrange_nfs(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    volume_ops._session.call("SR.introduce", SR_UUID, "theirs", "", "nfs", "user", True, {})
    data = {"volume_id": "v", "sr_uuid": SR_UUID, "vdi_uuid": VDI_UUID}
    info = {"driver_volume_type": "xensm", "data": data}
    before = xapi.snapshot()
    with pytest.raises(HostNotReady, match=f"has no PBD of SR {SR_UUID}"):
        volume_ops.attach_volume(info, "web")
    assert changes(before, xapi.snapshot()) == []
