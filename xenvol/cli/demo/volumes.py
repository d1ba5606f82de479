"""The connection_info that a block-storage service would send for each volume of the world `demo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

VM = "web"

TARGET = {"portal": "10.0.0.10", "port": "3260", "iqn": "iqn.2010-10.org.openstack:volumes"}
CHAP = ("cinder", "chap-password")
NFS = {"server": "10.0.0.20", "path": "/export/volumes", "sr_uuid": "6f1f3a3e-3a0f-4e0a-9a3e-0c1f6f8f0a01"}
GLUSTER = {"server": "10.0.0.30", "volume": "volumes", "sr_uuid": "6f1f3a3e-3a0f-4e0a-9a3e-0c1f6f8f0a02"}


class Volume(NamedTuple):
    """What the service sends, and a short description."""

    connection_info: Mapping[str, Any]
    about: str

    @property
    def driver(self) -> str:
        return str(self.connection_info["driver_volume_type"])


def _volume(driver: str, about: str, **data: Any) -> Volume:
    return Volume({"driver_volume_type": driver, "data": data}, about)


ISCSI_VOLUME = _volume(
    "iscsi",
    "LUN 0 of an iSCSI target, with CHAP",
    volume_id="volume-iscsi",
    target_portal=f"{TARGET['portal']}:{TARGET['port']}",
    target_iqn=TARGET["iqn"],
    target_lun=0,
    auth_method="CHAP",
    auth_username=CHAP[0],
    auth_password=CHAP[1],
)
NFS_VOLUME = _volume(
    "nfs",
    "a disk file on an NFS export",
    volume_id="volume-nfs",
    export=f"{NFS['server']}:{NFS['path']}",
    name=f"{NFS['sr_uuid']}/7a1d5f6e-9f2b-4d0c-8b2f-5e6c7d8e9f01.vhd",
)
GLUSTER_VOLUME = _volume(
    "gluster",
    "a disk file on a gluster volume",
    volume_id="volume-gluster",
    export=f"{GLUSTER['server']}:/{GLUSTER['volume']}",
    name=f"{GLUSTER['sr_uuid']}/7a1d5f6e-9f2b-4d0c-8b2f-5e6c7d8e9f02.vhd",
)


def xensm_volume(sr_uuid: str, vdi_uuid: str) -> Volume:
    """Return a volume that is a disk of an SR of the pool."""
    return _volume(
        "xensm",
        "a disk of an SR already there",
        volume_id="volume-xensm",
        sr_uuid=sr_uuid,
        vdi_uuid=vdi_uuid,
    )
