"""What is known of each SR type before anybody asks a pool: what it needs, what it would format, how it rounds sizes.

What a driver *can* do (snapshot, clone, resize) is asked of the pool, whose SM objects say it; here is only what
no SM object tells. Sources: facts/sm-drivers.json; for sizes facts/sm-truth.md (file and nfs, lvm) and
facts/xapi.md 5.5. A type that is not here may be one that a vendor ships: it is taken as it comes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
VHD_BLOCK: Final = 2 * MIB
VHD_MAX: Final = 2040 * GIB
EXTENT: Final = 4 * MIB
_ADAPTERS = ("fc", "iscsi", "sas")  # kinds that SM knows
_LARGEST_VHD = 2 << 40  # LVM's VHDs have tables for this size, so that they can grow (sm/vhdutil.py)

Config = Mapping[str, str]


def round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _as_it_is(size: int) -> int:
    return size


def vhd_size(size: int) -> int:
    """The size that a VHD gets: 1 byte is 2 MiB, 3,000,001 are 4 MiB (trace sm/21#17-26)."""
    return round_up(max(size, VHD_BLOCK), VHD_BLOCK)


def thick_vhd(size: int) -> int:
    """What a VHD takes of a volume group: 100 MiB take 108 MiB (trace sm/24#15; sm/lvhdutil.py)."""
    blocks = _LARGEST_VHD // VHD_BLOCK
    tables = round_up(round_up(3 * 1024 + blocks * 4, 512) + blocks // 8, 4096)
    return round_up(vhd_size(size) + tables + vhd_size(size) // VHD_BLOCK * 4096, EXTENT)


def _whole_mib(size: int) -> int:
    return round_up(max(size, MIB), MIB)


@dataclass(frozen=True, kw_only=True)
class SRType:
    """One SR type. Sizes are bytes."""

    name: str
    is_shared: bool = True
    """Whether every host of a pool sees it; else it is local to one."""
    required: tuple[str, ...] = ()
    """Keys of device_config without which the driver does nothing."""
    listed: tuple[str, ...] = ()
    """Those of them that may be left out, to be told what there is."""
    where: Callable[[Config], Collection[str]] | None = None
    """Under which names the storage of a config is known: two configs that share one mean the same storage.
    None: every key counts."""
    formats: str | None = None
    """The key that names the device which making an SR erases; None: making one erases nothing."""
    has_uuid: bool = True
    """Whether the storage knows the uuid of the SR on it; else it is an SR under whichever uuid it is introduced."""
    luns: bool = False
    """One VDI for each LUN that is there already: VDI.create hands out a LUN with whatever is on it. There is nothing
    to make, so such an SR is introduced."""
    rounded: Callable[[int], int] = vhd_size
    """The virtual size that a disk gets which is asked for with so many bytes."""
    taken: Callable[[int], int] = vhd_size
    """What a disk takes of the SR where it is thick; at most that where it is thin."""
    max_size: int | None = VHD_MAX
    can_probe: bool = True

    def places(self, config: Config) -> frozenset[str]:
        """The names of the storage, in one spelling each: ``nfs 10.0.0.2:/vols``."""
        if self.where is None:
            return frozenset([" ".join([self.name, *(f"{key}={config[key]}" for key in sorted(config))])])
        return frozenset(self.where(config))


# ---- where it is: the same storage has the same name, however its config is spelled


def _host(name: str) -> str:
    """Names of hosts have no case; an IPv6 address may stand in brackets."""
    return name.strip().lower().rstrip(".").removeprefix("[").removesuffix("]")


def _path(path: str) -> str:
    """Without doubled or trailing slashes."""
    return posixpath.normpath(f"/{path.strip()}").replace("//", "/")


def _each(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _export(config: Config) -> list[str]:
    return [f"nfs {_host(config.get('server', ''))}:{_path(config.get('serverpath', ''))}"]


def _smb_share(config: Config) -> list[str]:
    """Server and share have no case; what follows them the driver does not look at."""
    server, _, share = config.get("server", "").replace("\\", "/").strip("/").partition("/")
    return [f"smb //{_host(server)}/{share.strip('/').partition('/')[0].lower()}"]


def _ceph(config: Config) -> list[str]:
    """Each monitor knows all of the cluster."""
    port, path = config.get("serverport") or "6789", _path(config.get("serverpath", ""))
    return [f"cephfs {_host(monitor)}:{port}:{path}" for monitor in _each(config.get("server", ""))]


def _gluster(config: Config) -> list[str]:
    """Each server knows all of the volume."""
    server, _, volume = config.get("server", "").rpartition(":")
    servers = [server, *_each(config.get("backupservers", ""), ":")]
    return [f"glusterfs {_host(name)}:{_path(volume)}" for name in servers]


def _moosefs(config: Config) -> list[str]:
    port, path = config.get("masterport") or "9421", _path(config.get("rootpath", ""))
    return [f"moosefs {_host(config.get('masterhost', ''))}:{port}:{path}"]


def _directory(config: Config) -> list[str]:
    return [f"directory {_path(config.get('location', ''))}"]


def _devices(config: Config) -> list[str]:
    """Of whichever type: a device holds one SR."""
    return [f"device {_path(device)}" for device in _each(config.get("device", ""))]


def _lun(config: Config) -> list[str]:
    """Of whichever type, and through whichever portal."""
    return [f"LUN {config.get('SCSIid', '').strip().lower()}"]


def _target(config: Config) -> list[str]:
    """Through whichever portal: a pool can hold a target in one SR only (facts/sm-truth.md finding 12)."""
    return [f"target {config.get('targetIQN', '').strip().lower()}"]


def _adapters(config: Config) -> list[str]:
    kind = config.get("type", "").strip().lower() or "any"
    return [f"adapters of type {each}" for each in ((kind, *_ADAPTERS) if kind == "any" else (kind,))]


def _array(name: str, pool: str) -> Callable[[Config], list[str]]:
    return lambda config: [f"{name} {_host(config.get('target', ''))} {config.get(pool, '')}"]


def _group(config: Config) -> list[str]:
    return [f"linstor {config.get('group-name', '')}"]


# ---- the types


def _on_device(name: str, taken: Callable[[int], int] = vhd_size) -> SRType:
    return SRType(
        name=name, is_shared=False, required=("device",), where=_devices, formats="device", taken=taken
    )


def _on_lun(name: str) -> SRType:
    return SRType(
        name=name,
        required=("SCSIid",),
        listed=("SCSIid",),
        where=_lun,
        formats="SCSIid",
        taken=thick_vhd,
    )


def _in_directory(name: str) -> SRType:
    return SRType(
        name=name,
        is_shared=False,
        required=("location",),
        where=_directory,
        has_uuid=False,
        can_probe=False,
    )


def _of_target(name: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "targetIQN"),
        listed=("targetIQN",),
        where=_target,
        has_uuid=False,
        luns=True,
        max_size=None,
    )


def _on_demand(name: str, pool: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "username", "password", pool),
        where=_array(name, pool),
        rounded=_whole_mib,
        taken=_whole_mib,
        max_size=None,
    )


_ALL: tuple[SRType, ...] = (
    SRType(name="nfs", required=("server", "serverpath"), listed=("serverpath",), where=_export),
    SRType(name="smb", required=("server",), where=_smb_share),
    SRType(name="cephfs", required=("server", "serverpath"), where=_ceph),
    SRType(name="glusterfs", required=("server",), where=_gluster),
    SRType(name="moosefs", required=("masterhost", "rootpath"), where=_moosefs),
    SRType(name="linstor", required=("group-name",), where=_group, can_probe=False, max_size=None),
    _in_directory("file"),
    _in_directory("zfs"),
    _on_device("ext"),
    _on_device("xfs"),
    _on_device("largeblock"),
    _on_device("lvm", thick_vhd),
    SRType(
        name="lvmoiscsi",
        required=("target", "targetIQN", "SCSIid"),
        listed=("targetIQN", "SCSIid"),
        where=_lun,
        formats="SCSIid",
        taken=thick_vhd,
    ),
    _on_lun("lvmohba"),
    _on_lun("lvmofcoe"),
    _of_target("iscsi"),
    _of_target("rawiscsi"),  # what sm's own Makefile calls it (facts/sm-truth.md)
    SRType(name="hba", where=_adapters, has_uuid=False, luns=True, max_size=None),
    SRType(name="rawhba", where=_adapters, has_uuid=False, luns=True, max_size=None),
    _on_demand("netapp", "aggregate"),
    _on_demand("equal", "storagepool"),
    SRType(name="dummy", has_uuid=False, rounded=_as_it_is, taken=_as_it_is, max_size=None, can_probe=False),
)

_ALIASES: Final = {"lvhd": "lvm", "lvhdoiscsi": "lvmoiscsi", "lvhdohba": "lvmohba", "lvhdofcoe": "lvmofcoe"}
NOT_FOR_VOLUMES: Final = {
    "iso": "holds CD images",
    "udev": "shows the devices of a host",
    "shm": "lies in a host's memory",
}
"""Types that no volume can be made on, with the reason."""
NO_LONGER_SHIPPED: Final = frozenset({"netapp", "equal", "cslg"})

_BY_NAME: Final = {sr_type.name: sr_type for sr_type in _ALL}


def sr_type_of(name: str) -> SRType:
    """What is known of a type, in any case of letters; an unknown one is a vendor's, shared and without limits."""
    name = name.lower()
    known = _BY_NAME.get(_ALIASES.get(name, name))
    if known is None:
        return SRType(name=name, rounded=_as_it_is, taken=_as_it_is, max_size=None)
    return known


def known_types() -> list[str]:
    """For help texts."""
    return [sr_type.name for sr_type in _ALL]
