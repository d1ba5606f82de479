"""The table of SR types: everything that xenvol knows of an SR type by its name is here, and nowhere else.

What a storage driver *can* do (snapshot, clone, resize) is asked of the pool, whose SM objects say it; the table has
what no SM object says. Sources: the storage drivers themselves (sm, drivers/); for sizes what they made when they were
asked (docs/background/storage-drivers.md). A type that is not in the table may be a vendor's: it has no limits here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from xenvol.storage import locations

MIB: Final = 1 << 20
GIB: Final = 1 << 30
VHD_BLOCK: Final = 2 * MIB
VHD_MAX: Final = 2040 * GIB
EXTENT: Final = 4 * MIB
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
    """One VDI for each LUN that is there already. VDI.create would hand out a LUN with the data that is on it, so
    xenvol never sends it; such an SR is introduced, not made."""
    has_lun_numbers: bool = False
    """Whether a LUN can be asked for by its number; the driver of ``hba`` knows none."""
    on_lvm: bool = False
    """Whether the disks are logical volumes. Such a driver writes the SR's sm_config anew, and says in its
    ``devserial`` on which LUNs the volume group lies."""
    is_thin: bool = False
    """Whether its disks are sparse although its driver does not name the feature THIN_PROVISIONING."""
    begins_blank: bool = True
    """Whether a new disk reads as zeros (xapi's must_write_zeroes, ocaml/xapi/sm_fs_ops.ml); see `begins_blank`."""
    in_control_domain: bool = True
    """Whether a control domain can attach its disks: of a LUN it gets no address (storage managers since 4.0)."""
    not_for_volumes: str | None = None
    """Why no volume can be made on it; None: volumes can be made."""
    rounded: Callable[[int], int] = vhd_size
    """The virtual size that a disk gets which is asked for with so many bytes."""
    taken: Callable[[int], int] = vhd_size
    """What a disk takes of the SR where it is thick; at most that where it is thin."""
    max_size: int | None = VHD_MAX
    can_probe: bool = True

    def locations(self, config: Config) -> frozenset[str]:
        """Return the names of the storage that a device_config leads to: ``nfs 10.0.0.2:/vols``."""
        if self.where is None:
            return frozenset([" ".join([self.name, *(f"{key}={config[key]}" for key in sorted(config))])])
        return frozenset(self.where(config))

    def raw_lacks(self) -> frozenset[str]:
        """Return the features that its raw disks lack, whatever its driver has."""
        copies = {"VDI_SNAPSHOT", "VDI_CLONE"}
        return frozenset(copies if self.on_lvm else copies | {"VDI_RESIZE", "VDI_RESIZE_ONLINE"})


# ---- the types

_LUN_PER_VDI: Final[dict[str, Any]] = {
    "has_uuid": False,
    "luns": True,
    "begins_blank": False,
    "in_control_domain": False,
    "max_size": None,
}


def _on_device(name: str, taken: Callable[[int], int] = vhd_size) -> SRType:
    return SRType(
        name=name,
        is_shared=False,
        required=("device",),
        where=locations.devices,
        formats="device",
        taken=taken,
        on_lvm=taken is thick_vhd,
    )


def _on_lun(name: str) -> SRType:
    return SRType(
        name=name,
        required=("SCSIid",),
        listed=("SCSIid",),
        where=locations.lun,
        formats="SCSIid",
        taken=thick_vhd,
        on_lvm=True,
    )


def _in_directory(name: str) -> SRType:
    return SRType(
        name=name,
        is_shared=False,
        required=("location",),
        where=locations.directory,
        has_uuid=False,
        can_probe=False,
    )


def _of_target(name: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "targetIQN"),
        listed=("targetIQN",),
        where=locations.target,
        has_lun_numbers=True,
        **_LUN_PER_VDI,
    )


def _on_demand(name: str, pool: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "username", "password", pool),
        where=locations.array(name, pool),
        rounded=_whole_mib,
        taken=_whole_mib,
        max_size=None,
    )


_ALL: tuple[SRType, ...] = (
    SRType(name="nfs", required=("server", "serverpath"), listed=("serverpath",), where=locations.export),
    SRType(name="smb", required=("server",), where=locations.smb_share),
    SRType(name="cephfs", required=("server", "serverpath"), where=locations.ceph, is_thin=True),
    SRType(name="glusterfs", required=("server",), where=locations.gluster, is_thin=True),
    SRType(name="moosefs", required=("masterhost", "rootpath"), where=locations.moosefs, is_thin=True),
    SRType(
        name="linstor",
        required=("group-name",),
        where=locations.linstor_group,
        can_probe=False,
        max_size=None,
    ),
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
        where=locations.lun,
        formats="SCSIid",
        taken=thick_vhd,
        on_lvm=True,
    ),
    _on_lun("lvmohba"),
    _on_lun("lvmofcoe"),
    _of_target("iscsi"),
    _of_target(
        "rawiscsi"
    ),  # what sm's own Makefile calls it (docs/background/recordings.md, Working recipes)
    SRType(name="hba", where=locations.adapters, **_LUN_PER_VDI),
    SRType(name="rawhba", where=locations.adapters, **_LUN_PER_VDI),
    _on_demand("netapp", "aggregate"),
    _on_demand("equal", "storagepool"),
    SRType(name="dummy", has_uuid=False, rounded=_as_it_is, taken=_as_it_is, max_size=None, can_probe=False),
    SRType(name="cslg", begins_blank=False, max_size=None),
    SRType(name="iso", not_for_volumes="holds CD images"),
    SRType(
        name="udev",
        is_shared=False,
        begins_blank=False,
        in_control_domain=False,
        not_for_volumes="shows the devices of a host",
        max_size=None,
    ),
    SRType(name="shm", is_shared=False, not_for_volumes="lies in a host's memory"),
)

_ALIASES: Final = {"lvhd": "lvm", "lvhdoiscsi": "lvmoiscsi", "lvhdohba": "lvmohba", "lvhdofcoe": "lvmofcoe"}
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
    """Return the types that volumes can be made on, as help texts list them."""
    return [kind.name for kind in _ALL if kind.not_for_volumes is None]


def names_of_types_on_lvm() -> list[str]:
    """Return every name of a type whose SRs keep a volume group, those of earlier releases as well."""
    names = [kind.name for kind in _ALL if kind.on_lvm]
    return names + [old for old, name in _ALIASES.items() if name in names]


def begins_blank(sr_rec: Mapping[str, Any], vdi_sm_config: Mapping[str, Any]) -> bool:
    """Tell whether a new disk of this SR reads as zeros; if not, a writer must write the zeros."""
    kind, sm_config = sr_type_of(sr_rec["type"]), sr_rec["sm_config"]
    if kind.name == "equal":
        return bool(sm_config.get("allocation", "").lower() != "thick")
    if kind.on_lvm and (vdi_sm_config.get("type") == "raw" or sm_config.get("use_vhd") != "true"):
        return False
    return kind.begins_blank
