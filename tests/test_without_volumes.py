"""Where there is nothing of xenvol's there is nothing to list, to judge or to take out, and no driver nothing to do."""

from __future__ import annotations

import pytest

from tests.scenarios import changes
from xenvol.errors import UnknownDriver
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.mark.parametrize("power_state", ["Running", "Halted", "Paused"])
@pytest.mark.parametrize("disks", [0, 2])
def test_a_vm_with_disks_of_its_own_has_no_volumes(
    xapi: Simulator, volume_ops: VolumeOps, power_state: str, disks: int
) -> None:
    """They are left alone in whatever state it is."""
    vdis = xapi.add_vdis(xapi.add_sr(), disks)
    vm = xapi.add_vm("web", power_state=power_state, disks=vdis)
    before = xapi.snapshot()
    assert volume_ops.list_volumes("web") == []
    assert volume_ops.find_bad_volumes("web") == []
    assert volume_ops.detach_all("web") == []
    volume_ops.safe_cleanup_from_vdis([])
    assert changes(before, xapi.snapshot()) == []
    assert len(xapi.db.children(vm, "VBDs")) == disks


def test_a_type_that_nobody_serves_is_refused_before_anything_changes(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """By attach as by detach, with the types that are served."""
    xapi.add_vm("web")
    info = {"driver_volume_type": "nonexist", "data": {"volume_id": "1"}}
    with xapi.journal.recording() as calls:
        with pytest.raises(UnknownDriver, match="gluster, iscsi, nfs, xensm"):
            volume_ops.attach_volume(info, "web")
        with pytest.raises(UnknownDriver):
            volume_ops.connect_volume(info)
        with pytest.raises(UnknownDriver):
            volume_ops.detach_volume(info, "web")
    changing = [call for call in calls.methods() if ".get_" not in call and call != "event.from"]
    assert changing == []
