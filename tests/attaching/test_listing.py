"""A VM's volumes are listed, those that it cannot start with are named, and other users of a disk are."""

from __future__ import annotations

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import UnmanagedVDI, VolumeInUse
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web", resident_on=xapi.db.refs("host")[-1])
    xapi.add_vm("db")
    return xapi


def test_volumes_are_listed_by_position_and_not_by_its_spelling(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    for lun, position in enumerate((10, 2, 1)):
        volume_ops.attach_volume(iscsi(lun), "web", position)
    assert [volume.userdevice for volume in volume_ops.list_volumes("web")] == ["1", "2", "10"]


@pytest.mark.xapi(hosts=2)
def test_a_volume_that_is_plugged_only_on_another_host_than_the_vms_is_bad(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    attachment = volume_ops.attach_volume(iscsi(0), "web", hotplug=False)
    resident_on = target.db.get("VM", attachment.vm_ref, "resident_on")
    for pbd in target.db.children(attachment.sr_ref, "PBDs"):
        if target.db.get("PBD", pbd, "host") == resident_on:
            volume_ops._session.call("PBD.unplug", pbd)
    (bad,) = volume_ops.find_bad_volumes("web")
    assert "not plugged on the host of the VM" in bad.reason


class TestADiskThatIsNotFree:
    def test_is_in_use_for_a_reader_as_well_while_another_vm_writes(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        with pytest.raises(VolumeInUse, match="db"):
            volume_ops.attach_volume(iscsi(0, access_mode="ro"), "web")

    def test_is_in_use_for_a_writer_while_another_vm_reads(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0, access_mode="ro"), "db")
        with pytest.raises(VolumeInUse, match="db"):
            volume_ops.attach_volume(iscsi(0), "web")

    def test_is_unmanaged_until_it_is_adopted(self, target: Simulator, volume_ops: VolumeOps) -> None:
        vdi = volume_ops.connect_volume(iscsi(0)).vdi_ref
        with target.xapi.lock:
            target.db.set("VDI", vdi, managed=False)
        before = target.snapshot()
        with pytest.raises(UnmanagedVDI):
            volume_ops.attach_volume(iscsi(0), "web")
        assert [line for line in changes(before, target.snapshot()) if line.startswith("VBD")] == []


@pytest.mark.parametrize("userdevice", ["xvdf", "sdf", "05", "0x5", "4096"])
def test_a_disk_whose_position_another_tool_spelled_in_its_own_way_is_like_any_other(
    target: Simulator, volume_ops: VolumeOps, userdevice: str
) -> None:
    """xapi keeps the userdevice as it is spelled (docs/background/recordings.md, VBD.create)."""
    before = target.snapshot()
    volume_ops.attach_volume(iscsi(0), "db", 7)
    disk = volume_ops.connect_volume(iscsi(1))
    api = volume_ops._session.xenapi
    (vm,) = api.VM.get_by_name_label("db")
    vbd = {"VM": vm, "VDI": disk.vdi_ref, "userdevice": userdevice, "bootable": False, "mode": "RW"}
    rest = {"type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": ""}
    api.VBD.create({**vbd, **rest, "qos_algorithm_params": {}})
    listed = [volume.volume_id for volume in volume_ops.list_volumes("db")]
    assert sorted(listed) == ["volume-0", "volume-1"]
    assert volume_ops.find_bad_volumes("db") == []
    assert volume_ops.attach_volume(iscsi(1), "db", hotplug=False).userdevice == userdevice
    volume_ops.detach_all("db")
    assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("after", ["VM.get_all_records_where", "VBD.get_all_records_where", "event.from"])
def test_a_volume_that_another_process_detaches_meanwhile_is_not_listed(
    target: Simulator, volume_ops: VolumeOps, after: str
) -> None:
    volume_ops.attach_volume(iscsi(0), "web")
    with interrupted(target, after, lambda: volume_ops.detach_volume(iscsi(0), "web")) as ops:
        assert ops.list_volumes("web") == []
    volume_ops.attach_volume(iscsi(0), "web")
    with interrupted(target, after, lambda: volume_ops.detach_volume(iscsi(0), "web")) as ops:
        assert [bad.reason for bad in ops.find_bad_volumes("web")] in ([], ["its disk is gone from the pool"])
