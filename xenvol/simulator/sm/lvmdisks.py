"""Disks as logical volumes of an SR's group: create, resize, delete, with a record of each.

The management volume keeps the disks' names, so an SR that was forgotten comes back with them. SM learns each
change of a name at once; here the driver reads the rows when it scans, attaches and detaches (`note_names`).
"""

from __future__ import annotations

import abc
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xenvol.simulator.sm.base import Driver, SMFailure, VDIInfo, VDISpec
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.scanning import is_uuid
from xenvol.simulator.sm.vhd import (
    EXTENT,
    Vhd,
    round_up,
    thick_volume,
    thin_volume,
    validated,
)
from xenvol.simulator.sm.volumegroup import (
    GROUP_PREFIX,
    MANAGEMENT,
    LogicalVolume,
    VolumeGroup,
    group_on,
)

_NOT_MASTER = 58


class VolumeDisks(Driver):
    @abc.abstractmethod
    def visible_disks(self) -> Iterable[BlockDevice]:
        """Return every disk on which this host may find the SR's group."""

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        """Create a disk; unlike a file driver, keep all of the caller's sm_config (trace sm/24#15)."""
        self.check_master()
        group = self.group()
        kind = spec.sm_config.get("type", "raw" if self._is_legacy(group) else "vhd")
        if kind not in ("vhd", "raw"):
            raise SMFailure(78, "bad type")
        if kind == "vhd" and self._is_legacy(group):
            raise SMFailure(78, "Cannot create VHD type disk in legacy mode")
        size, vdi_uuid = validated(spec.virtual_size), str(uuid.uuid4())
        if kind == "raw":
            volume = LogicalVolume(round_up(size, EXTENT))
        else:
            volume = LogicalVolume(thin_volume() if self.is_thin else thick_volume(size), Vhd(size))
        check_space(group, volume.size)
        group.add_disk(vdi_uuid, volume)
        info = VDIInfo(
            vdi_uuid,
            vdi_uuid,
            volume.virtual_size,
            volume.size,
            read_only=spec.read_only,
            sharable=spec.sharable,
            name_label=spec.name_label,
            name_description=spec.name_description,
            type=spec.type,
            sm_config={**spec.sm_config, "vdi_type": volume.kind},
        )
        self.xapi.introduce(info)
        self.note(group, info)
        self.set_sizes(group, self.sr.virtual_allocation + info.virtual_size)
        return info

    def vdi_delete(self, uuid: str) -> None:
        group = self.group()
        if (volume := group.disk(uuid)) is None:
            return
        group.remove_disk(uuid)
        self.set_sizes(group, self.sr.virtual_allocation - volume.virtual_size)

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        self.check_master()
        group, volume = self.get_volume(uuid)
        if volume.vhd is not None and volume.vhd.hidden:
            raise SMFailure(46, "hidden VDI")
        before = volume.virtual_size
        if size < before:
            raise SMFailure(79, "shrinking not allowed")
        size = validated(size)
        if volume.vhd is None:
            new_volume_size = round_up(size, EXTENT)
        else:
            new_volume_size = volume.size if self.is_thin else max(volume.size, thick_volume(size))
        check_space(group, new_volume_size - volume.size)
        volume.size = new_volume_size
        if volume.vhd is not None:
            volume.vhd.virtual_size = size
        info = self.info(uuid, volume)
        self.xapi.update(info)
        self.set_sizes(group, self.sr.virtual_allocation + info.virtual_size - before)
        return info

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        """Grow a thin disk to its full size while it is attached for writing."""
        group, volume = self.get_volume(uuid)
        if volume.vhd is None or not read_write:
            return
        full = thick_volume(volume.vhd.virtual_size)
        if full - volume.size > group.free:
            raise SMFailure(180)
        volume.size = max(full, volume.size)

    def vdi_detach(self, uuid: str) -> None:
        """Shrink the disk to its data if it is thin, or a snapshot in a thick SR."""
        _group, volume = self.get_volume(uuid)
        row = self.xapi.vdi(uuid)
        if volume.vhd is not None and (self.is_thin or (row and row["is_a_snapshot"])):
            volume.size = min(volume.size, round_up(volume.length, EXTENT))

    def vdi_file(self, uuid: str) -> Path:
        _group, volume = self.get_volume(uuid)
        return volume.bytes_in(self.world.shares.new_file)

    # ---- for the SR's commands

    @property
    def group_name(self) -> str:
        return GROUP_PREFIX + self.sr.uuid

    def find_group(self) -> VolumeGroup | None:
        groups = (group_on(disk, self.group_name) for disk in self.visible_disks())
        return next((group for group in groups if group is not None), None)

    def group(self) -> VolumeGroup:
        if not is_uuid(self.sr.uuid) or (group := self.find_group()) is None:
            raise SMFailure(47, f"no such volume group: {self.group_name}")
        return group

    def check_master(self) -> None:
        if not self.request.is_srmaster:
            raise SMFailure(_NOT_MASTER)

    @property
    def is_thin(self) -> bool:
        """True for a thin SR; the SR's sm_config takes precedence over the PBD's device_config."""
        provision = self.sr.sm_config.get("allocation") or self.config.get("allocation")
        return provision == "thin"

    def set_sizes(self, group: VolumeGroup, virtual_allocation: int) -> None:
        self.xapi.set_sr(
            physical_size=group.size,
            physical_utilisation=group.used,
            virtual_allocation=virtual_allocation,
        )

    def note_names(self, group: VolumeGroup) -> None:
        for row in self.xapi.vdis():
            if row["uuid"] in group.records:
                group.records[row["uuid"]] |= names_of(row)

    def info(self, vdi_uuid: str, volume: LogicalVolume, *, is_parent: bool = False) -> VDIInfo:
        """Return a disk as a scan sees it: of the row's sm_config, only keys that the volume decides change."""
        row = self.xapi.vdi(vdi_uuid) if is_uuid(vdi_uuid) else None
        sm_config = {**(row["sm_config"] if row else {}), "vdi_type": volume.kind}
        sm_config.pop("vhd-parent", None)
        if volume.vhd is not None and volume.vhd.parent:
            sm_config["vhd-parent"] = volume.vhd.parent
        return VDIInfo(
            vdi_uuid,
            vdi_uuid,
            volume.virtual_size,
            volume.size,
            managed=not (volume.vhd and volume.vhd.hidden),
            read_only=is_parent,
            sm_config=sm_config,
        )

    # ---- inside

    def get_volume(self, vdi_uuid: str) -> tuple[VolumeGroup, LogicalVolume]:
        group = self.group()
        if (volume := group.disk(vdi_uuid)) is None:
            raise SMFailure(46, "LV not found")
        return group, volume

    def _is_legacy(self, group: VolumeGroup) -> bool:
        """Return True for an SR from before VHDs: raw volumes, and no management volume."""
        return MANAGEMENT not in group.volumes and self.sr.sm_config.get("use_vhd") != "true"

    def note(self, group: VolumeGroup, info: VDIInfo, **more: Any) -> None:
        if MANAGEMENT in group.volumes:
            group.records[info.uuid] = {
                "name_label": info.name_label or "",
                "name_description": info.name_description or "",
                "type": info.type or "user",
                "read_only": info.read_only,
                "managed": info.managed,
                "is_a_snapshot": False,
                "snapshot_of": None,
                **more,
            }


def names_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("name_label", "name_description", "type")}


def check_space(group: VolumeGroup, needed: int) -> None:
    if needed > group.free:
        raise SMFailure(44)
