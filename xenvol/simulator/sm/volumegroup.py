"""LVM as stored on the disks: a group of disks with logical volumes, found by name on any disk that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.filesystem import FileSystem, ext4_on
from xenvol.simulator.sm.vhd import EXTENT, MIB, Vhd, data_blocks, length_on_lvm
from xenvol.simulator.sm.xmlout import Tree, pretty

MANAGEMENT = "MGT"
"""The volume in which an SR keeps its own records: names and kinds of its disks."""
_VHD, _RAW = "VHD-", "LV-"
_METADATA = 11 * MIB
"""Bytes that LVM takes of each disk: SM asks for 10 MiB, and data starts on the next one (trace sm/24#8)."""

GROUP_PREFIX = "VG_XenStorage-"
EXT_PREFIX = "XSLocalEXT-"
"""The names of SRs' volume groups: one of these prefixes, then the SR's uuid."""


@dataclass(eq=False)
class LogicalVolume:
    size: int
    vhd: Vhd | None = None
    data: Path | None = None
    """The guest's bytes; as in `File`."""
    filesystem: FileSystem | None = None

    @property
    def kind(self) -> str:
        """The value of ``vdi_type`` in VDI.sm_config."""
        return "aio" if self.vhd is None else "vhd"

    @property
    def virtual_size(self) -> int:
        return self.vhd.virtual_size if self.vhd else self.size

    @property
    def length(self) -> int:
        """Bytes of the volume that a VHD needs."""
        return length_on_lvm(self.vhd, data_blocks(self.data)) if self.vhd else self.size

    def bytes_in(self, new_file: Callable[[int], Path]) -> Path:
        if self.data is None:
            self.data = new_file(self.virtual_size)
        elif self.data.stat().st_size != self.virtual_size:
            os.truncate(self.data, self.virtual_size)
        return self.data


class VolumeGroup:
    def __init__(self, name: str, disks: Iterable[BlockDevice]) -> None:
        """Make the group, overwriting the disks."""
        self.name = name
        self.disks = list(disks)
        self.volumes: dict[str, LogicalVolume] = {}
        self.records: dict[str, dict[str, Any]] = {}
        """The management volume's record of each disk, by uuid."""
        self.label = ""
        """The SR's name in the management volume."""
        self.size = 0
        self.grow()
        for disk in self.disks:
            disk.content = self

    def __repr__(self) -> str:
        return f"<VolumeGroup {self.name}: {self.used} of {self.size} bytes in {len(self.volumes)} volumes>"

    @property
    def used(self) -> int:
        return sum(volume.size for volume in self.volumes.values())

    @property
    def free(self) -> int:
        return self.size - self.used

    def grow(self) -> None:
        """Grow the group to the size of its disks."""
        self.size = sum(max(0, disk.size - _METADATA) // EXTENT * EXTENT for disk in self.disks)

    def add(self, name: str, volume: LogicalVolume) -> LogicalVolume:
        self.volumes[name] = volume
        return volume

    def wipe(self) -> None:
        """Make the disks blank (vgremove and pvremove)."""
        for volume in self.volumes.values():
            if volume.data is not None:
                volume.data.unlink(missing_ok=True)
        for disk in self.disks:
            disk.content = None

    # ---- disks in volumes: VHD-<uuid>, or LV-<uuid> for raw ones

    def disk(self, vdi_uuid: str) -> LogicalVolume | None:
        return self.volumes.get(_VHD + vdi_uuid) or self.volumes.get(_RAW + vdi_uuid)

    def add_disk(self, vdi_uuid: str, volume: LogicalVolume) -> None:
        self.volumes[(_VHD if volume.vhd else _RAW) + vdi_uuid] = volume

    def remove_disk(self, vdi_uuid: str) -> None:
        volume = self.volumes.pop(_VHD + vdi_uuid, None) or self.volumes.pop(_RAW + vdi_uuid)
        self.records.pop(vdi_uuid, None)
        if volume.data is not None:
            volume.data.unlink(missing_ok=True)

    def disks_in_use(self) -> dict[str, LogicalVolume]:
        """Return the disks by uuid, without hidden VHDs that have no child."""
        disks = {
            name.removeprefix(prefix): volume
            for name, volume in self.volumes.items()
            for prefix in (_VHD, _RAW)
            if name.startswith(prefix)
        }
        parents = {volume.vhd.parent for volume in disks.values() if volume.vhd}
        return {
            vdi_uuid: volume
            for vdi_uuid, volume in disks.items()
            if not (volume.vhd and volume.vhd.hidden and vdi_uuid not in parents)
        }

    def depth(self, vhd: Vhd) -> int:
        """Return how many VHDs a read may have to pass."""
        depth = 1
        while vhd.parent and (parent := self.disk(vhd.parent)) and parent.vhd:
            vhd, depth = parent.vhd, depth + 1
        return depth


def group_on(disk: BlockDevice | None, name: str) -> VolumeGroup | None:
    content = disk.content if disk is not None else None
    return content if isinstance(content, VolumeGroup) and content.name == name else None


def probe_result(devices: Mapping[str, BlockDevice | None], prefix: str, *, with_names: bool = False) -> str:
    """Return the SRs on these devices; a missing or blank device has none (traces sm/23#7-10, sm/24#12)."""
    found: dict[str, tuple[VolumeGroup, list[str]]] = {}
    for path, disk in devices.items():
        content = disk.content if disk is not None else None
        if isinstance(content, VolumeGroup) and content.name.startswith(prefix):
            found.setdefault(content.name.removeprefix(prefix), (content, []))[1].append(path)
    return pretty("SRlist", [_sr(sr_uuid, *entry, with_names) for sr_uuid, entry in found.items()])


def _sr(sr_uuid: str, group: VolumeGroup, paths: list[str], with_names: bool) -> Tree:
    elements: list[Tree] = [("UUID", sr_uuid), ("Devlist", ",".join(paths)), ("size", str(group.size))]
    if with_names:
        elements += [("name_label", group.label), ("name_description", "")]
    return "SR", elements


def make_file_system(sr_uuid: str, disks: list[BlockDevice]) -> FileSystem:
    """Make an ``ext`` SR on the disks: one volume over all of them; their content is lost."""
    group = VolumeGroup(EXT_PREFIX + sr_uuid, disks)
    capacity, used = ext4_on(group.size)
    filesystem = FileSystem(capacity, used=used)
    group.add(sr_uuid, LogicalVolume(group.size, filesystem=filesystem))
    return filesystem
