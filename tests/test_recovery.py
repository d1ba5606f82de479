"""Whatever died, an attempt, a host or an owner's patience, the next call goes on from what is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import (
    CHAP,
    IQN,
    NFS_XENSM,
    arrange_nfs,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.errors import (
    AttachmentFenced,
    DiskNotReleased,
    TemplateGiven,
    UnknownVM,
    WrongVolume,
    XapiError,
    XapiUnreachable,
)
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.usefixtures("impatient")

BY_TWO_PORTALS: dict[str, Any] = {
    "driver_volume_type": "iscsi",
    "data": {
        "volume_id": "volume-0",
        "target_portals": ["10.0.0.9:3260", "10.0.0.1:3260"],
        "target_iqns": [IQN, IQN],
        "target_luns": [0, 0],
    },
}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    return xapi


def die_after(xapi: Simulator, method: str, *, calls_before: int) -> None:
    """The next process is cut off once it has called the method, and cannot clean up after itself."""
    xapi.faults.lose_answer(method)
    xapi.faults.lose_request("*", nth=calls_before + 1, every=True)


def mark_dead(xapi: Simulator, host: str) -> None:
    """As xapi does when the host's heartbeat stops."""
    with xapi.xapi.lock:
        xapi.db.set("host_metrics", xapi.db.get("host", host, "metrics"), live=False)


class TestAnAttemptThatDied:
    def test_at_a_portal_that_is_dead_does_not_keep_the_next_from_the_other_portal(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.storage.san.add_portal("10.0.0.9:3260", IQN, state="refuses")
        target.add_vm("web")
        before = target.snapshot()
        die_after(target, "PBD.create", calls_before=6)
        with pytest.raises(XapiUnreachable):
            volume_ops.attach_volume(BY_TWO_PORTALS, "web")
        target.faults.clear()
        (pbd,) = target.db.refs("PBD")
        assert target.db.get("PBD", pbd, "device_config")["target"] == "10.0.0.9"
        assert volume_ops.attach_volume(BY_TWO_PORTALS, "web").is_plugged
        volume_ops.detach_volume(BY_TWO_PORTALS, "web")
        assert changes(before, target.snapshot()) == []

    def test_with_a_wrong_password_does_not_keep_the_next_from_using_the_right_one(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        arrange_target(xapi, chap=CHAP)
        touch_hosts(xapi)
        xapi.add_vm("web")
        wrong = iscsi(0, auth_method="CHAP", auth_username=CHAP[0], auth_password="wrong-wrong-wrong")
        right = iscsi(0, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])
        before = xapi.snapshot()
        die_after(xapi, "PBD.plug", calls_before=8)
        with pytest.raises(XapiUnreachable):
            volume_ops.attach_volume(wrong, "web")
        xapi.faults.clear()
        assert xapi.db.refs("PBD")
        assert volume_ops.attach_volume(right, "web").is_plugged
        volume_ops.detach_volume(right, "web")
        assert changes(before, xapi.snapshot()) == []


@pytest.mark.xapi(hosts=3)
class TestAHostThatIsDead:
    def test_does_not_keep_a_halted_vm_from_its_disk(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """The others see the volume, and the VM starts on one of those."""
        dead = target.db.refs("host")[2]
        mark_dead(target, dead)
        target.die(dead)
        vm = target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        pbds = [target.db.record("PBD", ref) for ref in target.db.children(attachment.sr_ref, "PBDs")]
        assert {pbd["host"] for pbd in pbds if pbd["currently_attached"]} == set(target.db.refs("host")[:2])
        volume_ops._session.call("VM.start", vm, False, False)

    def test_does_not_keep_a_vm_from_giving_its_disk_back(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        mark_dead(target, target.db.refs("host")[2])
        volume_ops.detach_volume(iscsi(0), "web")
        assert target.db.refs("VBD") == []


class TestDetachAll:
    def test_completes_on_the_second_call_what_the_first_could_not(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        arrange_nfs(target)
        target.add_vm("web")
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "web", "xvdb")
        volume_ops.attach_volume(NFS_XENSM, "web", "xvdc")
        target.faults.refuse("VBD.unplug", "DEVICE_DETACH_REJECTED", "VBD", "x", "busy", nth=2)
        with pytest.raises(DiskNotReleased, match="xvdc"):
            volume_ops.detach_all("web")
        volume_ops.detach_all("web")
        assert changes(before, target.snapshot()) == []

    def test_takes_the_slot_of_a_disk_that_is_gone_and_the_sr_with_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        with target.xapi.lock:
            target.db.delete("VDI", attachment.vdi_ref)
        volume_ops.detach_all("web")
        assert (target.db.refs("VBD"), target.db.refs("SR")) == ([], [])


class TestAVolumeThatIsConnectedWithoutAVM:
    """No VBD says that somebody needs it, for the VM that shall start from it does not exist yet."""

    def test_stays_when_another_lun_of_its_target_is_detached(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume = volume_ops.connect_volume(iscsi(0))
        target.add_vm("web")
        volume_ops.attach_volume(iscsi(1), "web")
        volume_ops.detach_volume(iscsi(1), "web")
        assert target.db.exists("VDI", volume.vdi_ref)

    def test_stays_when_another_lun_of_its_target_is_disconnected(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = target.snapshot()
        volume = volume_ops.connect_volume(iscsi(0))
        volume_ops.connect_volume(iscsi(1))
        volume_ops.disconnect_volume(iscsi(1))
        assert target.db.exists("VDI", volume.vdi_ref)
        volume_ops.disconnect_volume(iscsi(0))
        assert changes(before, target.snapshot()) == []

    def test_stays_when_the_attach_of_another_lun_fails(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume = volume_ops.connect_volume(iscsi(0))
        target.add_vm("web")
        before = target.snapshot()
        with pytest.raises(WrongVolume):
            volume_ops.attach_volume(iscsi(1, wwn=scsi_id(77)), "web")
        target.faults.refuse("VBD.plug", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError):
            volume_ops.attach_volume(iscsi(1), "web")
        assert changes(before, target.snapshot()) == []
        assert target.db.exists("VDI", volume.vdi_ref)


class TestAFence:
    def test_is_taken_over_by_an_attach_with_a_newer_id(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The service has forgotten the first attempt; its late detach takes nothing from the second."""
        target.add_vm("web")
        first, second = ({**iscsi(0), "attachment_id": name} for name in ("first", "second"))
        old = volume_ops.attach_volume(first, "web")
        new = volume_ops.attach_volume(second, "web")
        assert (new.vbd_ref, new.attachment_id) == (old.vbd_ref, "second")
        with pytest.raises(AttachmentFenced) as caught:
            volume_ops.detach_volume(first, "web")
        assert caught.value.current == "second"
        volume_ops.detach_volume(second, "web")
        assert target.db.refs("VBD") == []


class TestAVMThatChanged:
    def test_its_name_is_unknown_and_nothing_is_detached_in_silence(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VM.set_name_label", vm, "renamed")
        with pytest.raises(UnknownVM):
            volume_ops.detach_volume(iscsi(0), "web")
        assert target.db.get("VBD", attachment.vbd_ref, "currently_attached")

    def test_into_a_template_gives_its_disk_back_by_uuid_and_not_by_name(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        vm = target.add_vm("web", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        volume_ops._session.call("VM.set_is_a_template", vm, True)
        with pytest.raises(UnknownVM):
            volume_ops.detach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), attachment.vm_uuid)
        assert target.db.refs("VBD") == []

    def test_into_a_sleeper_gives_back_a_disk_that_it_does_not_have_yet(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """It was attached for the next start, so the image of the VM knows nothing of it."""
        root = target.add_sr("root")
        vm = target.add_vm("web", disks=[target.add_vdi(root)])
        with target.xapi.lock:
            target.db.set("VM", vm, suspend_SR=root)
        attachment = volume_ops.attach_volume(iscsi(0), "web", hotplug=False)
        volume_ops._session.call("VM.suspend", vm)
        volume_ops.detach_volume(iscsi(0), "web")
        assert not target.db.exists("VBD", attachment.vbd_ref)


class TestATemplate:
    @pytest.mark.parametrize("is_a_snapshot", [False, True])
    def test_takes_no_disk(self, target: Simulator, volume_ops: VolumeOps, is_a_snapshot: bool) -> None:
        vm = target.add_vm("web", power_state="Halted")
        with target.xapi.lock:
            target.db.set("VM", vm, is_a_template=True, is_a_snapshot=is_a_snapshot)
        before = target.snapshot()
        with pytest.raises(TemplateGiven):
            volume_ops.attach_volume(iscsi(0), target.db.get("VM", vm, "uuid"))
        assert changes(before, target.snapshot()) == []
