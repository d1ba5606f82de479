"""A VM starts from a volume: the volume is connected before there is a VM, and disconnected after it."""

from __future__ import annotations

import pytest

from tests.meanwhile import another_process, interrupted
from tests.scenarios import IQN, SCENARIOS, Scenario, arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.xapi(hosts=3)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@pytest.mark.parametrize("host", [0, 2], ids=["master", "slave"])
def test_a_vm_starts_from_it_on_any_host(
    xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, host: int
) -> None:
    scenario.arrange(xapi)
    touch_hosts(xapi)
    before = xapi.snapshot()
    volume = volume_ops.connect_volume(scenario.connection_info)
    assert volume.virtual_size == 1 << 30
    assert volume == volume_ops.connect_volume(scenario.connection_info)
    assert volume.as_dict()["vdi_uuid"] == xapi.db.get("VDI", volume.vdi_ref, "uuid")
    vm = xapi.add_vm("web", disks=[volume.vdi_ref], resident_on=xapi.db.refs("host")[host])
    (vbd,) = xapi.db.children(vm, "VBDs")
    assert xapi.db.get("VBD", vbd, "currently_attached")

    volume_ops.disconnect_volume(scenario.connection_info)  # too early: the VM has it
    assert xapi.db.get("VBD", vbd, "currently_attached")
    volume_ops._session.call("VM.hard_shutdown", vm)
    volume_ops.disconnect_volume(scenario.connection_info)  # still too early: the VM may start again
    assert xapi.db.exists("VDI", volume.vdi_ref)
    volume_ops._session.call("VM.destroy", vm)
    volume_ops.disconnect_volume(scenario.connection_info)
    volume_ops.disconnect_volume(scenario.connection_info)
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.xapi(hosts=3)
def test_only_the_hosts_that_are_named_see_it_and_the_master(xapi: Simulator, volume_ops: VolumeOps) -> None:
    """xapi runs what concerns a shared SR on the master."""
    arrange_target(xapi)
    master, _, other = xapi.db.refs("host")
    volume = volume_ops.connect_volume(iscsi(0), hosts=[other])
    pbds = [xapi.db.record("PBD", pbd) for pbd in xapi.db.children(volume.sr_ref, "PBDs")]
    assert {pbd["host"] for pbd in pbds if pbd["currently_attached"]} == {master, other}


def test_what_is_attached_to_a_vm_as_well_stays_there(xapi: Simulator, volume_ops: VolumeOps) -> None:
    """Whichever of the two comes first."""
    arrange_target(xapi)
    xapi.add_vm("web")
    volume = volume_ops.connect_volume(iscsi(0))
    attachment = volume_ops.attach_volume(iscsi(0), "web")
    assert attachment.vdi_ref == volume.vdi_ref
    volume_ops.disconnect_volume(iscsi(0))
    assert xapi.db.get("VBD", attachment.vbd_ref, "currently_attached")


def test_a_volume_that_is_not_there_leaves_nothing(xapi: Simulator, volume_ops: VolumeOps) -> None:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.storage.san.remove_lun(IQN, 0)
    before = xapi.snapshot()
    with pytest.raises(VolumeNotFound):
        volume_ops.connect_volume(iscsi(0))
    xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_141", "", "no route", "")
    with pytest.raises(XapiError):
        volume_ops.connect_volume(iscsi(1))
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_vm_is_made_then_given_its_disk_and_then_started(
    xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario
) -> None:
    """What a hypervisor driver's spawn does."""
    scenario.arrange(xapi)
    touch_hosts(xapi)
    vm = xapi.add_vm("web", power_state="Halted")
    before = xapi.snapshot()
    attachment = volume_ops.attach_volume(scenario.connection_info, "web", bootable=True)
    assert attachment.userdevice == "0"
    assert xapi.db.get("VBD", attachment.vbd_ref, "bootable")
    assert volume_ops.attach_volume(scenario.connection_info, "web", bootable=True) == attachment
    volume_ops._session.call("VM.start", vm, False, False)
    assert xapi.db.get("VBD", attachment.vbd_ref, "currently_attached")
    volume_ops._session.call("VM.hard_shutdown", vm)
    volume_ops.detach_volume(scenario.connection_info, "web")
    assert [line for line in changes(before, xapi.snapshot()) if not line.startswith("VM")] == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@pytest.mark.parametrize("after", ["PBD.plug", "VDI.get_all_records_where", "VDI.add_to_other_config"])
def test_a_volume_that_another_process_disconnects_meanwhile_is_connected_anew(
    xapi: Simulator, scenario: Scenario, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """That the SR shows no disk any more is no proof that the storage has none, and no undo fails over it."""
    scenario.arrange(xapi)
    info = scenario.connection_info
    with (
        another_process(xapi) as other,
        interrupted(xapi, after, lambda: other.disconnect_volume(info)) as ops,
    ):
        volume = ops.connect_volume(info)
    assert xapi.db.exists("VDI", volume.vdi_ref)
    assert "not undone" not in caplog.text


class TestADiskThatItsCallerPutIntoAVM:
    """Connected without a VM, then given a VBD by the caller: no mark of ours is on that."""

    @pytest.fixture
    def vm(self, xapi: Simulator, volume_ops: VolumeOps) -> str:
        arrange_target(xapi)
        volume = volume_ops.connect_volume(iscsi(0))
        vm: str = xapi.add_vm("web", disks=[volume.vdi_ref])
        return vm

    def test_is_listed_as_the_volume(self, vm: str, volume_ops: VolumeOps) -> None:
        (volume,) = volume_ops.list_volumes(vm)
        assert (volume.volume_id, volume.driver, volume.is_plugged) == ("volume-0", "iscsi", True)

    def test_is_detached_where_its_vm_is_halted_and_never_passed_over(
        self, xapi: Simulator, volume_ops: VolumeOps, vm: str
    ) -> None:
        volume_ops.detach_volume(iscsi(0), vm)
        assert (xapi.db.refs("VBD"), xapi.db.refs("SR")) == ([], [])

    def test_is_detached_although_its_lun_has_vanished(
        self, xapi: Simulator, volume_ops: VolumeOps, vm: str
    ) -> None:
        """No host can prove it any more; the disk says as which volume it was connected."""
        volume_ops._session.call("VM.hard_shutdown", vm)
        xapi.storage.san.remove_lun(IQN, 0)
        volume_ops.detach_volume(iscsi(0), vm)
        assert (xapi.db.refs("VBD"), xapi.db.refs("SR")) == ([], [])

    @pytest.mark.xapi(hosts=2)
    def test_is_made_visible_where_its_vm_moves_to(
        self, xapi: Simulator, volume_ops: VolumeOps, vm: str
    ) -> None:
        _, other = xapi.db.refs("host")
        (sr,) = [ref for ref in xapi.db.refs("SR") if xapi.db.get("SR", ref, "type") == "iscsi"]
        for pbd in xapi.db.children(sr, "PBDs"):
            if xapi.db.get("PBD", pbd, "host") == other:
                volume_ops._session.call("PBD.unplug", pbd)
        assert volume_ops.prepare_migration(vm, other) == [xapi.db.get("SR", sr, "uuid")]
        volume_ops._session.call("VM.pool_migrate", vm, other, {})
        assert xapi.db.get("VM", vm, "resident_on") == other


class TestADiskThatIsHeldAsAnotherVolume:
    """One LUN under two ids: who disconnects one of them would take the disk of the other."""

    def test_is_not_connected(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        arrange_target(xapi)
        volume = volume_ops.connect_volume(iscsi(0, volume_id="V1"))
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="volume V1"):
            volume_ops.connect_volume(iscsi(0, volume_id="V2"))
        assert changes(before, xapi.snapshot()) == []
        assert volume_ops.connect_volume(iscsi(0, volume_id="V1")) == volume

    def test_is_not_attached(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        arrange_target(xapi)
        xapi.add_vm("web")
        volume_ops.connect_volume(iscsi(0, volume_id="V1"))
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="volume V1"):
            volume_ops.attach_volume(iscsi(0, volume_id="V2"), "web")
        assert changes(before, xapi.snapshot()) == []

    def test_is_not_connected_where_another_process_is_faster(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        arrange_target(xapi)
        other = volume_ops.connect_volume(iscsi(1))
        first = iscsi(0, volume_id="V1")
        with (
            interrupted(xapi, "VDI.get_all_records_where", lambda: volume_ops.connect_volume(first)) as ops,
            pytest.raises(VolumeInUse, match="volume V1"),
        ):
            ops.connect_volume(iscsi(0, volume_id="V2"))
        assert volume_ops.connect_volume(first).sr_ref == other.sr_ref
        volume_ops.disconnect_volume(first)
        volume_ops.disconnect_volume(iscsi(1))
        assert xapi.db.refs("SR") == []
