"""Storage for backends of every type: what a pool reaches, and the config that an administrator would give."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xenvol
from tests.sm.sqlite_file import with_tables
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.session.refs import is_uuid
from xenvol.simulator import Simulator
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.initiator import HBA
from xenvol.simulator.sm.san import Target
from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.sm import Database, StorageManager

MIB = 1 << 20
GIB = 1 << 30
SERVER = "10.0.0.2"
PORTAL = "10.0.0.1"
ARRAY = "10.0.1.1"
IQN = "iqn.2010-10.org.example:store"
LUN = "36001405000000000000000000000000a"
"""The SCSI id of the LUN on which an SR is made."""
PASSWORD = "canary-5ecret-p4ssword"
CHAP = ("initiator", PASSWORD)
FC_PORT, HOST_PORT = "50:00:00:00:00:00:00:01", "21:00:00:00:00:00:00:0{}"
DEVICE = "/dev/sdb"
UNKNOWN_UUID = "0badcafe-0000-4000-8000-000000000001"

Config = Mapping[str, str | Secret]


@dataclass(frozen=True, kw_only=True)
class StorageWorld:
    """A back end that can be registered. `arrange` builds its storage, and makes no call."""

    name: str
    """The row of the matrix."""
    sr_type: str
    config: Config
    arrange: Callable[[Simulator], None]
    format_device: str | None = None
    is_local: bool = False
    luns: tuple[str, ...] = ()
    """SCSI ids, for types whose VDIs are LUNs."""
    sm_types: tuple[str, ...] | None = None
    """The storage drivers that the pool has; None: all."""
    disk: Callable[[Simulator], BlockDevice] | None = field(default=None)
    """The device that making the SR erases."""

    @property
    def formats(self) -> bool:
        return self.format_device is not None

    @property
    def plain_config(self) -> dict[str, str]:
        """Return the config as a careless client gives it, with passwords in plain text."""
        return {key: v.reveal() if isinstance(v, Secret) else v for key, v in self.config.items()}

    def __str__(self) -> str:
        return self.name


def _nfs(xapi: Simulator) -> None:
    xapi.storage.shares.add_nfs(SERVER, "filer.example.org").export("/vols", size=100 * GIB)


def _smb(xapi: Simulator) -> None:
    xapi.storage.shares.add_smb("10.0.0.4", "vols", size=100 * GIB, credentials=("user", PASSWORD))


def _gluster(xapi: Simulator) -> None:
    xapi.storage.shares.add_gluster("vols", "10.0.0.5", "10.0.0.6", size=100 * GIB)


def _cephfs(xapi: Simulator) -> None:
    xapi.storage.shares.add_cephfs("10.0.0.7", "10.0.0.8", size=100 * GIB)


def _directory(xapi: Simulator) -> None:
    for host in host_names(xapi):
        xapi.storage.host(host).mounts.make_directory("/srv/vols", size=100 * GIB)


def _device(xapi: Simulator) -> None:
    for host in host_names(xapi):
        mounts = xapi.storage.host(host).mounts
        mounts.devices[DEVICE] = xapi.storage.shares.new_device(100 * GIB, serial=f"disk-of-{host}")


def _iscsi(**target: Any) -> Callable[[Simulator], None]:
    def arrange(xapi: Simulator) -> None:
        xapi.storage.san.add_target(IQN, f"{PORTAL}:3260", **target)
        xapi.storage.san.add_lun(IQN, 0, 100 * GIB, scsi_id=LUN)
        xapi.storage.san.add_lun(IQN, 1, GIB)

    return arrange


def _fibre_channel(xapi: Simulator) -> None:
    xapi.storage.san.fc_targets[FC_PORT] = Target(FC_PORT)
    xapi.storage.san.add_lun(FC_PORT, 0, 100 * GIB, scsi_id=LUN)
    for number, host in enumerate(host_names(xapi), 1):
        xapi.storage.host(host).hbas.append(HBA(HOST_PORT.format(number), "", "FC"))


def _array(kind: Any) -> Callable[[Simulator], None]:
    def arrange(xapi: Simulator) -> None:
        xapi.storage.san.add_array(ARRAY, kind, "admin", PASSWORD, {"pool0": 100 * GIB})

    return arrange


def host_names(xapi: Simulator) -> list[str]:
    return [xapi.db.get("host", ref, "name_label") for ref in xapi.db.refs("host")]


def the_lun(xapi: Simulator) -> BlockDevice:
    return xapi.storage.san.volumes[LUN]


def the_device(xapi: Simulator) -> BlockDevice:
    return xapi.storage.host(host_names(xapi)[0]).mounts.devices[DEVICE]


_CHAP_CONFIG = {"chapuser": CHAP[0], "chappassword": Secret(CHAP[1])}
_TARGET = {"target": PORTAL, "targetIQN": IQN}
_LOGIN = {"target": ARRAY, "username": "admin", "password": Secret(PASSWORD)}

WORLDS: tuple[StorageWorld, ...] = (
    StorageWorld(name="nfs", sr_type="nfs", config={"server": SERVER, "serverpath": "/vols"}, arrange=_nfs),
    StorageWorld(
        name="smb",
        sr_type="smb",
        config={"server": r"\\10.0.0.4\vols", "username": "user", "password": Secret(PASSWORD)},
        arrange=_smb,
    ),
    StorageWorld(
        name="cephfs",
        sr_type="cephfs",
        config={"server": "10.0.0.7,10.0.0.8", "serverpath": "/"},
        arrange=_cephfs,
    ),
    StorageWorld(
        name="glusterfs", sr_type="glusterfs", config={"server": "10.0.0.5:/vols"}, arrange=_gluster
    ),
    StorageWorld(
        name="file", sr_type="file", config={"location": "/srv/vols"}, arrange=_directory, is_local=True
    ),
    StorageWorld(
        name="ext",
        sr_type="ext",
        config={"device": DEVICE},
        arrange=_device,
        format_device=DEVICE,
        is_local=True,
        disk=the_device,
    ),
    StorageWorld(
        name="lvm",
        sr_type="lvm",
        config={"device": DEVICE},
        arrange=_device,
        format_device=DEVICE,
        is_local=True,
        disk=the_device,
    ),
    StorageWorld(
        name="lvmoiscsi",
        sr_type="lvmoiscsi",
        config={**_TARGET, "SCSIid": LUN},
        arrange=_iscsi(),
        format_device=LUN,
        disk=the_lun,
    ),
    StorageWorld(
        name="lvmoiscsi with CHAP",
        sr_type="lvmoiscsi",
        config={**_TARGET, "SCSIid": LUN, **_CHAP_CONFIG},
        arrange=_iscsi(chap=CHAP),
        format_device=LUN,
        disk=the_lun,
    ),
    StorageWorld(
        name="lvmohba",
        sr_type="lvmohba",
        config={"SCSIid": LUN},
        arrange=_fibre_channel,
        format_device=LUN,
        disk=the_lun,
    ),
    StorageWorld(
        name="lvmofcoe",
        sr_type="lvmofcoe",
        config={"SCSIid": LUN},
        arrange=_fibre_channel,
        format_device=LUN,
        disk=the_lun,
    ),
    StorageWorld(
        name="iscsi",
        sr_type="iscsi",
        config={**_TARGET, **_CHAP_CONFIG},
        arrange=_iscsi(chap=CHAP),
        luns=(LUN,),
    ),
    StorageWorld(name="hba", sr_type="hba", config={"type": "FC"}, arrange=_fibre_channel, luns=(LUN,)),
    StorageWorld(
        name="netapp", sr_type="netapp", config={**_LOGIN, "aggregate": "pool0"}, arrange=_array("netapp")
    ),
    StorageWorld(
        name="equal", sr_type="equal", config={**_LOGIN, "storagepool": "pool0"}, arrange=_array("equal")
    ),
)
BY_NAME: Mapping[str, StorageWorld] = {world.name: world for world in WORLDS}
FORMATTING = [world for world in WORLDS if world.formats]


@contextlib.contextmanager
def session_of(xapi: Simulator) -> Iterator[Session]:
    """Return a session that does not wait between attempts."""
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        yield Session(session, sleep=lambda seconds: None)


def database_in(directory: Path) -> str:
    return with_tables(directory / "sm.sqlite")


def manager_of(session: Session, place: Path | Database) -> StorageManager:
    """Return a manager with a flavor ``gold``, on this database, or on a new one in a directory."""
    manager = StorageManager(session, database_in(place) if isinstance(place, Path) else place)
    manager.create_flavor("gold", "backups are possible")
    return manager


def somebodys_sr(xapi: Simulator, world: StorageWorld, name: str = "of somebody else") -> str:
    """Make and plug an SR by hand, without xenvol, and return its uuid."""
    ref = xapi.add_sr(
        name,
        type=world.sr_type,
        device_config=world.plain_config,
        create=True,
        shared=not world.is_local,
    )
    return str(xapi.db.get("SR", ref, "uuid"))


def forgotten(session: Session, sr_uuid: str) -> str:
    """Forget the SR in the pool, so that only the storage has it."""
    sr_ref = session.call("SR.get_by_uuid", sr_uuid)
    for pbd_ref in session.call("SR.get_PBDs", sr_ref):
        session.call("PBD.unplug", pbd_ref)
    session.call("SR.forget", sr_ref)
    return sr_uuid


def group_on(disk: BlockDevice) -> str | None:
    """Return the name of the volume group on a disk."""
    return disk.content.name if isinstance(disk.content, VolumeGroup) else None


def arrays_of(xapi: Simulator) -> dict[str, list[str]]:
    """Return the SRs and disks of arrays that make LUNs on demand; a pool's snapshot does not have them."""
    return {
        sr_uuid: sorted(sr.luns)
        for array in xapi.storage.san.arrays.values()
        for sr_uuid, sr in array.srs.items()
    }


@contextlib.contextmanager
def another_pool(first: Simulator, host: str = "other1") -> Iterator[Simulator]:
    """A pool of one host, on the same storage as the first."""
    spec = {"name": host, "iscsi_iqn": f"iqn.2001-01.com.example:{host}"}
    with Simulator(world={"hosts": [spec]}) as second:
        second.storage.close()
        second.xapi.world = first.storage
        yield second


def secrets_of(xapi: Simulator) -> dict[str, str]:
    """Return the pool's passwords by the uuid of their secrets. The pool's own secret, whose value is a uuid, is left
    out."""
    rows = (xapi.db.row("secret", ref) for ref in xapi.db.refs("secret"))
    return {row["uuid"]: row["value"] for row in rows if not is_uuid(row["value"])}
