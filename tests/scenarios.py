"""One volume of each kind, and the storage that it lies on: what the tests of the whole road have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenvol.simulator import Simulator
from xenvol.simulator.sm.vhd import Vhd
from xenvol.simulator.sm.volumegroup import MANAGEMENT, LogicalVolume, VolumeGroup
from xenvol.testing.residue import changes as changes
from xenvol.testing.residue import touch_hosts as touch_hosts

GIB = 1024**3
MIB = 1024**2
IQN = "iqn.2010-10.org.openstack:volume-a"
PORTAL = "10.0.0.1:3260"
CHAP = ("user1", "canary-5ecret-p4ssword")
SR_UUID = "5a000000-0000-4000-8000-000000000001"
VDI_UUID = "d1500000-0000-4000-8000-000000000001"


def scsi_id(number: int) -> str:
    return f"36001405{number:025d}"


@dataclass(frozen=True)
class Scenario:
    name: str
    arrange: Callable[[Simulator], None]
    """Builds the storage; makes no call."""
    connection_info: dict[str, Any]
    grow: Callable[[Simulator], None]
    """The service makes the volume twice as large, to 2 GiB."""

    def __str__(self) -> str:
        return self.name


def arrange_target(xapi: Simulator, *, luns: int = 3, **target: Any) -> None:
    """A target with LUNs 0, 1, … of 1 GiB."""
    xapi.storage.san.add_target(IQN, PORTAL, **target)
    for number in range(luns):
        xapi.storage.san.add_lun(IQN, number, GIB, scsi_id=scsi_id(number))


def arrange_nfs(xapi: Simulator) -> None:
    """An export with an SR's directory and a disk file in it, and another disk right in the export."""
    export = xapi.storage.shares.add_nfs("10.0.0.2").export("/export/vols", size=100 * GIB)
    export.filesystem.root.make_directory(SR_UUID).add_vhd(VDI_UUID, GIB)
    export.filesystem.root.add_vhd(VDI_UUID, GIB)


def arrange_gluster(xapi: Simulator) -> None:
    volume = xapi.storage.shares.add_gluster("vols", "10.0.0.3", size=100 * GIB)
    volume.filesystem.root.make_directory(SR_UUID).add_vhd(VDI_UUID, GIB)


def arrange_lvm(xapi: Simulator) -> None:
    """A LUN with an SR of LVM on it, and a disk in that."""
    arrange_target(xapi, luns=1)
    lun = xapi.storage.san.volumes[scsi_id(0)]
    lun.resize(100 * GIB)
    group = VolumeGroup(f"VG_XenStorage-{SR_UUID}", [lun])
    group.add(MANAGEMENT, LogicalVolume(4 * MIB))
    group.add_disk(VDI_UUID, LogicalVolume(2 * GIB, Vhd(GIB)))


def _grow_lvm(xapi: Simulator) -> None:
    group = xapi.storage.san.volumes[scsi_id(0)].content
    assert isinstance(group, VolumeGroup)
    disk = group.disk(VDI_UUID)
    assert disk is not None
    assert disk.vhd is not None
    disk.vhd.virtual_size = 2 * GIB


def _grow_lun(xapi: Simulator) -> None:
    xapi.storage.san.resize_lun(IQN, 0, 2 * GIB)


def _grow_file(directory: Callable[[Simulator], Any]) -> Callable[[Simulator], None]:
    def grow(xapi: Simulator) -> None:
        place = directory(xapi)
        place.remove(f"{VDI_UUID}.vhd")
        place.add_vhd(VDI_UUID, 2 * GIB)

    return grow


def iscsi_data(lun: int | str = 0, **more: Any) -> dict[str, Any]:
    return {
        "volume_id": f"volume-{lun}",
        "target_portal": PORTAL,
        "target_iqn": IQN,
        "target_lun": lun,
        **more,
    }


def iscsi(lun: int | str = 0, **more: Any) -> dict[str, Any]:
    return {"driver_volume_type": "iscsi", "data": iscsi_data(lun, **more)}


NFS_XENSM = {
    "driver_volume_type": "xensm",
    "data": {
        "volume_id": "volume-xensm",
        "sr_uuid": SR_UUID,
        "vdi_uuid": VDI_UUID,
        "sr_type": "nfs",
        "server": "10.0.0.2",
        "serverpath": "/export/vols",
        "introduce_sr_keys": ["sr_type", "server", "serverpath"],
    },
}

LVM_XENSM = {
    "driver_volume_type": "xensm",
    "data": {
        "volume_id": "volume-lvm",
        "sr_uuid": SR_UUID,
        "vdi_uuid": VDI_UUID,
        "sr_type": "lvmoiscsi",
        "target": "10.0.0.1",
        "targetIQN": IQN,
        "SCSIid": scsi_id(0),
        "introduce_sr_keys": ["sr_type", "target", "targetIQN", "SCSIid"],
    },
}
"""LVM's drivers rewrite what an SR's sm_config says."""

SCENARIOS = [
    Scenario("iscsi", arrange_target, iscsi(), _grow_lun),
    Scenario(
        "iscsi-chap",
        lambda xapi: arrange_target(xapi, chap=CHAP),
        iscsi(auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1]),
        _grow_lun,
    ),
    Scenario(
        "nfs",
        arrange_nfs,
        {
            "driver_volume_type": "nfs",
            "data": {"volume_id": "volume-nfs", "export": "10.0.0.2:/export/vols", "name": f"{VDI_UUID}.vhd"},
        },
        _grow_file(
            lambda xapi: xapi.storage.shares.nfs_server("10.0.0.2").exports["/export/vols"].filesystem.root
        ),
    ),
    Scenario(
        "gluster",
        arrange_gluster,
        {
            "driver_volume_type": "gluster",
            "data": {
                "volume_id": "volume-gluster",
                "export": "10.0.0.3:/vols",
                "name": f"{SR_UUID}/{VDI_UUID}.vhd",
            },
        },
        _grow_file(
            lambda xapi: xapi.storage.shares.gluster_volume("10.0.0.3", "vols").filesystem.root.directory(
                SR_UUID
            )
        ),
    ),
    Scenario(
        "xensm-nfs",
        arrange_nfs,
        NFS_XENSM,
        _grow_file(
            lambda xapi: (
                xapi.storage.shares.nfs_server("10.0.0.2")
                .exports["/export/vols"]
                .filesystem.root.directory(SR_UUID)
            )
        ),
    ),
    Scenario("xensm-lvmoiscsi", arrange_lvm, LVM_XENSM, _grow_lvm),
]
