"""If a LUN vanishes from a target, the other LUNs attach and detach as before, and an error names the vanished LUN.

The storage driver reads every LUN of a target before each attach and detach, and refuses all of them while a device of
a LUN that is gone is on the host (`_loadvdis`, called by RAWVDI.attach and RAWVDI.detach in libs/sm/LUNperVDI.py of
xapi-project/sm; trace sm/20c#66 for the attach).
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import GIB, IQN, arrange_target, changes, iscsi, scsi_id, touch_hosts
from xenvol.errors import VolumeNotFound, XapiError
from xenvol.simulator import Simulator
from xenvol.simulator.sm.lunpervdi import vdi_uuid
from xenvol.simulator.snapshot import Snapshot
from xenvol.volumeops import VolumeOps


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """LUNs 0 to 3, and a VM on the last host."""
    arrange_target(xapi, luns=4)
    touch_hosts(xapi)
    xapi.add_vm("web", resident_on=xapi.db.refs("host")[-1])
    return xapi


def vanish(xapi: Simulator, number: int) -> None:
    xapi.storage.san.remove_lun(IQN, number)


def appear(xapi: Simulator, number: int) -> None:
    xapi.storage.san.add_lun(IQN, number, GIB, scsi_id=scsi_id(number))


def left(before: Snapshot, xapi: Simulator) -> list[str]:
    """Return what has changed in the pool, without the device of the vanished LUN."""
    return [line for line in changes(before, xapi.snapshot()) if ".iscsi_sessions." not in line]


@pytest.mark.parametrize("hosts", [pytest.param(n, marks=pytest.mark.xapi(hosts=n)) for n in (1, 2)])
class TestANeighbour:
    def test_is_detached(self, target: Simulator, volume_ops: VolumeOps, hosts: int) -> None:
        before = target.snapshot()
        for number in (0, 1):
            volume_ops.attach_volume(iscsi(number), "web")
        vanish(target, 1)
        volume_ops.detach_volume(iscsi(0), "web")
        assert [volume.volume_id for volume in volume_ops.list_volumes("web")] == ["volume-1"]
        appear(target, 1)
        volume_ops.detach_volume(iscsi(1), "web")
        assert changes(before, target.snapshot()) == []

    @pytest.mark.parametrize("is_by_uuid", [False, True])
    def test_is_attached(
        self, target: Simulator, volume_ops: VolumeOps, hosts: int, is_by_uuid: bool
    ) -> None:
        """The service names the disk by its number, for which the host lists its LUNs, or by its uuid."""
        first = volume_ops.attach_volume(iscsi(0), "web")
        before = target.snapshot()
        vanish(target, 2)
        info: dict[str, Any] = iscsi(3)
        if is_by_uuid:
            data = {"volume_id": "volume-3", "sr_uuid": first.sr_uuid, "vdi_uuid": vdi_uuid(scsi_id(3))}
            info = {"driver_volume_type": "xensm", "data": data}
        assert volume_ops.attach_volume(info, "web").is_plugged
        volume_ops.detach_volume(info, "web")
        assert {volume.volume_id for volume in volume_ops.list_volumes("web")} == {"volume-0"}
        if is_by_uuid:
            assert left(before, target) == []

    def test_whose_attach_fails_later_is_taken_out_again(
        self, target: Simulator, volume_ops: VolumeOps, hosts: int
    ) -> None:
        before = target.snapshot()

        def vanish_and_refuse() -> None:
            vanish(target, 2)
            target.faults.refuse("event.from", "SR_BACKEND_FAILURE_1200", "", "ordered", "")

        with (
            interrupted(target, "VBD.plug", vanish_and_refuse) as ops,
            pytest.raises(XapiError, match="ordered") as caught,
        ):
            ops.attach_volume(iscsi(0), "web")
        assert getattr(caught.value, "__notes__", []) == []
        appear(target, 2)
        assert changes(before, target.snapshot()) == []


class TestTheLunItself:
    def test_is_taken_out_since_the_guest_lets_go_of_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The service has unexported the LUN too early."""
        before = target.snapshot()
        for number in (0, 1):
            volume_ops.attach_volume(iscsi(number), "web")
        vanish(target, 1)
        volume_ops.detach_volume(iscsi(1), "web")
        assert [volume.volume_id for volume in volume_ops.list_volumes("web")] == ["volume-0"]
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []

    def test_is_named_where_it_cannot_be_plugged(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """The data names the uuid, so no step has listed the LUNs before."""
        first = volume_ops.attach_volume(iscsi(0), "web")
        vanish(target, 3)
        before = target.snapshot()
        data = {"volume_id": "volume-3", "sr_uuid": first.sr_uuid, "vdi_uuid": vdi_uuid(scsi_id(3))}
        with pytest.raises(VolumeNotFound, match=rf"LUN 3 \(SCSI id {scsi_id(3)}\) on host host1"):
            volume_ops.attach_volume({"driver_volume_type": "xensm", "data": data}, "web")
        assert left(before, target) == []

    def test_is_told_in_the_words_of_xapi_where_the_host_cannot_be_asked(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        first = volume_ops.attach_volume(iscsi(0), "web")
        vanish(target, 3)
        before = target.snapshot()
        data = {"volume_id": "volume-3", "sr_uuid": first.sr_uuid, "vdi_uuid": vdi_uuid(scsi_id(3))}
        target.faults.refuse("SR.probe", "SR_BACKEND_FAILURE_141", "", "no route", "")
        with pytest.raises(XapiError, match="The VDI is not available") as caught:
            volume_ops.attach_volume({"driver_volume_type": "xensm", "data": data}, "web")
        assert "no route" in str(caught.value.__notes__)
        assert changes(before, target.snapshot()) == []
