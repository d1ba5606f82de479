"""What is known of each SR type before anybody asks a pool: what it needs, what it would format, how it rounds sizes.

What a driver *can* do (snapshot, clone, resize) is asked of the pool, whose SM objects say it; here is only what
no SM object tells. Sources: facts/sm-drivers.json; for sizes facts/sm-truth.md (file and nfs, lvm) and
facts/xapi.md 5.5. A type that is not here may be one that a vendor ships: it is taken as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30
VHD_BLOCK: Final = 2 * MIB
VHD_MAX: Final = 2040 * GIB
EXTENT: Final = 4 * MIB
_LARGEST_VHD = 2 << 40  # LVM's VHDs have tables for this size, so that they can grow (sm/vhdutil.py)


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


@dataclass(frozen=True, kw_only=True)
class SRType:
    """One SR type. Sizes are bytes."""

    name: str
    is_shared: bool = True
    """Whether every host of a pool sees it; else it is local to one."""
    required: tuple[str, ...] = ()
    """Keys of device_config without which the driver does nothing."""
    place: tuple[str, ...] = ()
    """Keys that say where the storage is: two backends with the same values are one."""
    formats: str | None = None
    """The key that names the device which making an SR erases; None: making one erases nothing."""
    luns: bool = False
    """One VDI for each LUN that is there already: VDI.create hands out a LUN with whatever is on it."""
    rounded: Callable[[int], int] = vhd_size
    """The virtual size that a disk gets which is asked for with so many bytes."""
    taken: Callable[[int], int] = vhd_size
    """What a disk takes of the SR where it is thick; at most that where it is thin."""
    max_size: int | None = VHD_MAX
    can_probe: bool = True

    def place_of(self, config: Mapping[str, str]) -> str:
        """``nfs server=… serverpath=…``: the same for the same storage, whatever else is set."""
        keys = self.place or tuple(sorted(config))
        told = [f"{key}={_plain(config[key])}" for key in keys if key in config]
        return " ".join([self.name, *told])


def _plain(value: str) -> str:
    """Paths without a trailing slash, lists of devices in one order."""
    return ",".join(sorted(part.strip().rstrip("/") or "/" for part in value.split(",")))


def _local(name: str, key: str, *, formats: bool, can_probe: bool = True) -> SRType:
    return SRType(
        name=name,
        is_shared=False,
        required=(key,),
        place=(key,),
        formats=key if formats else None,
        can_probe=can_probe,
    )


def _share(name: str, *keys: str, can_probe: bool = True) -> SRType:
    return SRType(name=name, required=keys, place=keys, can_probe=can_probe)


def _on_demand(name: str, pool: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "username", pool),
        place=("target", pool),
        rounded=lambda size: round_up(max(size, MIB), MIB),
        taken=lambda size: round_up(max(size, MIB), MIB),
        max_size=None,
    )


_ALL: tuple[SRType, ...] = (
    _share("nfs", "server", "serverpath"),
    _share("smb", "server"),
    _share("cephfs", "server", "serverpath"),
    _share("glusterfs", "server"),
    _share("moosefs", "masterhost", "rootpath"),
    SRType(name="linstor", required=("group-name",), place=("group-name",), can_probe=False, max_size=None),
    _local("file", "location", formats=False, can_probe=False),
    _local("zfs", "location", formats=False, can_probe=False),
    _local("ext", "device", formats=True),
    _local("xfs", "device", formats=True),
    _local("largeblock", "device", formats=True),
    SRType(
        name="lvm",
        is_shared=False,
        required=("device",),
        place=("device",),
        formats="device",
        taken=thick_vhd,
    ),
    SRType(
        name="lvmoiscsi",
        required=("target", "targetIQN", "SCSIid"),
        place=("SCSIid",),
        formats="SCSIid",
        taken=thick_vhd,
    ),
    SRType(name="lvmohba", required=("SCSIid",), place=("SCSIid",), formats="SCSIid", taken=thick_vhd),
    SRType(name="lvmofcoe", required=("SCSIid",), place=("SCSIid",), formats="SCSIid", taken=thick_vhd),
    SRType(name="iscsi", required=("target", "targetIQN"), place=("targetIQN",), luns=True, max_size=None),
    SRType(name="hba", place=("type",), luns=True, max_size=None),
    _on_demand("netapp", "aggregate"),
    _on_demand("equal", "storagepool"),
    SRType(name="dummy", rounded=_as_it_is, taken=_as_it_is, max_size=None, can_probe=False),
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
