"""The table of SR types: the only place that knows an SR type by its name.

The pool's SM objects say what a storage driver can do (snapshot, clone, resize). The table has the facts that no SM
object has. Sources: the storage drivers themselves (sm, drivers/); for sizes, the sizes that they made
(docs/background/storage-drivers.md). A type that is not in the table may be a vendor's, and has no limits here.
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
    """Return the size that a VHD gets, in bytes: 1 byte is 2 MiB, 3,000,001 are 4 MiB (trace sm/21#17-26)."""
    return round_up(max(size, VHD_BLOCK), VHD_BLOCK)


def thick_vhd(size: int) -> int:
    """Return the space that a VHD takes of a volume group, in bytes: 100 MiB take 108 MiB (trace sm/24#15;
    sm/lvhdutil.py)."""
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
    """Whether every host of a pool sees such an SR; if not, it is local to one host."""
    required: tuple[str, ...] = ()
    """Keys of device_config without which the driver does nothing."""
    optional: tuple[str, ...] | None = None
    """The other keys of device_config that the driver reads; None: not known here, so any key may be right."""
    listed: tuple[str, ...] = ()
    """Those of them that a probe may leave out, to list their possible values."""
    where: Callable[[Config], Collection[str]] | None = None
    """Returns the names of the storage of a config: two configs with a common name mean the same storage.
    None: every key counts."""
    formats: str | None = None
    """The key that names the device that `SR.create` erases; None: it erases nothing."""
    has_uuid: bool = True
    """Whether the storage records the uuid of its SR; if not, it can be introduced under any uuid."""
    luns: bool = False
    """Whether the SR has one VDI for each existing LUN. VDI.create would hand out a LUN with its old data, so xenvol
    never sends it. xenvol introduces such an SR, and never creates it."""
    has_lun_numbers: bool = False
    """Whether the driver finds a LUN by its number; the driver of ``hba`` does not."""
    on_lvm: bool = False
    """Whether the disks are logical volumes. Such a driver replaces the SR's sm_config, whose ``devserial`` names the
    LUNs of the volume group."""
    is_thin: bool = False
    """Whether disks are sparse although the driver lacks the feature THIN_PROVISIONING."""
    begins_blank: bool = True
    """Whether a new disk reads as zeros (xapi's must_write_zeroes, ocaml/xapi/sm_fs_ops.ml); see `begins_blank`."""
    in_control_domain: bool = True
    """Whether a control domain can attach the disks; storage managers since 4.0 give it no address of a LUN."""
    not_for_volumes: str | None = None
    """Why volumes cannot be made on such an SR; None: they can."""
    rounded: Callable[[int], int] = vhd_size
    """Returns the virtual size of a disk that is created with so many bytes."""
    taken: Callable[[int], int] = vhd_size
    """Returns the bytes that a thick disk takes of the SR; a thin disk takes at most this."""
    max_size: int | None = VHD_MAX
    can_probe: bool = True

    def locations(self, config: Config) -> frozenset[str]:
        """Return the names of the storage behind a device_config: ``nfs 10.0.0.2:/vols``."""
        if self.where is None:
            return frozenset([" ".join([self.name, *(f"{key}={config[key]}" for key in sorted(config))])])
        return frozenset(self.where(config))

    def raw_lacks(self) -> frozenset[str]:
        """Return the features that raw disks lack, even if the driver has them."""
        copies = {"VDI_SNAPSHOT", "VDI_CLONE"}
        return frozenset(copies if self.on_lvm else copies | {"VDI_RESIZE", "VDI_RESIZE_ONLINE"})


# ---- the types

_OF_FILES: Final = ("type",)
_OF_LVM: Final = ("allocation", "type")
_CHAP: Final = ("chapuser", "chappassword", "incoming_chapuser", "incoming_chappassword")
_OF_ISCSI: Final = (
    *("port", *_CHAP, "multihomed", "multihomelist", "multiSession", "usediscoverynumber"),
    *("localIQN", "targetlist", "LUNid", "multipathing", "multipathhandle"),
)

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
        optional=_OF_LVM if taken is thick_vhd else _OF_FILES,
        where=locations.devices,
        formats="device",
        taken=taken,
        on_lvm=taken is thick_vhd,
    )


def _on_lun(name: str) -> SRType:
    return SRType(
        name=name,
        required=("SCSIid",),
        optional=(*_OF_LVM, "device"),
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
        optional=_OF_FILES,
        where=locations.directory,
        has_uuid=False,
        can_probe=False,
    )


def _of_target(name: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "targetIQN"),
        optional=(*_OF_ISCSI, "force_tapdisk"),
        listed=("targetIQN",),
        where=locations.target,
        has_lun_numbers=True,
        **_LUN_PER_VDI,
    )


def _on_demand(name: str, pool: str, *others: str) -> SRType:
    return SRType(
        name=name,
        required=("target", "username", "password", pool),
        optional=("chapuser", "chappassword", "allocation", *others),
        where=locations.array(name, pool),
        rounded=_whole_mib,
        taken=_whole_mib,
        max_size=None,
    )


_ALL: tuple[SRType, ...] = (
    SRType(
        name="nfs",
        required=("server", "serverpath"),
        optional=("nfsversion", "options", "probeversion", "useUDP", *_OF_FILES),
        listed=("serverpath",),
        where=locations.export,
    ),
    SRType(
        name="smb",
        required=("server",),
        optional=("username", "password", *_OF_FILES),
        where=locations.smb_share,
    ),
    SRType(
        name="cephfs",
        required=("server", "serverpath"),
        optional=("serverport", "options", *_OF_FILES),
        where=locations.ceph,
        is_thin=True,
    ),
    SRType(
        name="glusterfs",
        required=("server",),
        optional=("backupservers", "fetchattempts", *_OF_FILES),
        where=locations.gluster,
        is_thin=True,
    ),
    SRType(
        name="moosefs",
        required=("masterhost", "rootpath"),
        optional=("masterport", "options", *_OF_FILES),
        where=locations.moosefs,
        is_thin=True,
    ),
    SRType(
        name="linstor",
        required=("group-name",),
        optional=("redundancy", "provisioning", "monitor-db-quorum", "hosts"),
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
        optional=(*_OF_ISCSI, *_OF_LVM, "device"),
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
    SRType(name="hba", optional=("type",), where=locations.adapters, **_LUN_PER_VDI),
    SRType(name="rawhba", optional=("type",), where=locations.adapters, **_LUN_PER_VDI),
    _on_demand("netapp", "aggregate", "FlexVols", "asis"),
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
    """Return the row of a type; letter case does not matter. An unknown type is shared and has no limits."""
    name = name.lower()
    known = _BY_NAME.get(_ALIASES.get(name, name))
    if known is None:
        return SRType(name=name, rounded=_as_it_is, taken=_as_it_is, max_size=None)
    return known


def known_types() -> list[str]:
    """Return the types on which volumes can be made, as help texts list them."""
    return [kind.name for kind in _ALL if kind.not_for_volumes is None]


def names_of_types_on_devices() -> list[str]:
    """Return the names of all types whose SRs lie on a whole device or LUN, also the names of earlier releases."""
    names = [kind.name for kind in _ALL if kind.formats is not None]
    return names + [old for old, name in _ALIASES.items() if name in names]


def begins_blank(sr_rec: Mapping[str, Any], vdi_sm_config: Mapping[str, Any]) -> bool:
    """Whether a new disk of this SR reads as zeros; if not, a writer must write the zeros."""
    kind, sm_config = sr_type_of(sr_rec["type"]), sr_rec["sm_config"]
    if kind.name == "equal":
        return bool(sm_config.get("allocation", "").lower() != "thick")
    if kind.on_lvm and (vdi_sm_config.get("type") == "raw" or sm_config.get("use_vhd") != "true"):
        return False
    return kind.begins_blank
