"""Snapshots and clones of disks on LVM: one disk becomes a hidden base copy with two children."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from xenvol.simulator.sm.base import NOT_IMPLEMENTED, SMFailure, VDIInfo
from xenvol.simulator.sm.lvmdisks import VolumeDisks, check_space, names_of
from xenvol.simulator.sm.sparse import sparse_copy
from xenvol.simulator.sm.vhd import EXTENT, MAX_CHAIN, Vhd, data_blocks, round_up, thick_volume, thin_volume
from xenvol.simulator.sm.volumegroup import LogicalVolume, VolumeGroup

_JOURNALS = 2 * EXTENT
"""A snapshot notes two steps in volumes of their own."""


class VolumeCuts(VolumeDisks):
    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        return self._cut(uuid, is_clone=False)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        return self._cut(uuid, is_clone=True)

    def _cut(self, vdi_uuid: str, *, is_clone: bool) -> VDIInfo:
        """Turn the disk into a hidden base copy with two children; raw disks cannot be cut (trace sm/23#122)."""
        self.check_master()
        group, source = self.get_volume(vdi_uuid)
        if source.vhd is None:
            raise SMFailure(NOT_IMPLEMENTED)
        if source.vhd.hidden:
            raise SMFailure(82, "hidden VDI")
        if group.depth(source.vhd) >= MAX_CHAIN:
            raise SMFailure(109)
        row = self.xapi.vdi(vdi_uuid)
        assert row is not None, "xapi asks only for disks that exist"
        full, thin = thick_volume(source.vhd.virtual_size), thin_volume()
        source_size = thin if self.is_thin or row["is_a_snapshot"] else full
        copy_size = full if is_clone and not self.is_thin else thin
        base_size = round_up(source.length, EXTENT)
        check_space(group, source_size + copy_size + _JOURNALS - (source.size - base_size))
        base_uuid = self._make_base(group, source.vhd, base_size, data_blocks(source.data), row)
        source.size = source_size
        copy_uuid, vhd = (
            str(uuid.uuid4()),
            Vhd(source.vhd.virtual_size, base_uuid, inherited=source.vhd.inherited),
        )
        copy = LogicalVolume(copy_size, vhd)
        group.add_disk(copy_uuid, copy)
        if source.data is not None:
            copy.data = sparse_copy(source.data, self.world.shares.new_file(vhd.virtual_size))
        self.set_sizes(group, self.sr.virtual_allocation + vhd.virtual_size)

        own = {"type", "vdi_type", "vhd-parent"}
        kept = {key: value for key, value in row["sm_config"].items() if key not in own}
        sm_config = {**kept, "vdi_type": "vhd", "vhd-parent": base_uuid}
        leaf = VDIInfo(copy_uuid, copy_uuid, vhd.virtual_size, copy.size, sm_config=sm_config)
        self.xapi.introduce(leaf)
        snapshot_of = None if is_clone else vdi_uuid
        self.note(group, leaf, **names_of(row), is_a_snapshot=not is_clone, snapshot_of=snapshot_of)
        self.xapi.update(
            VDIInfo(
                vdi_uuid,
                vdi_uuid,
                vhd.virtual_size,
                source.size,
                read_only=row["read_only"],
                sm_config=sm_config,
            )
        )
        return leaf

    def _make_base(
        self, group: VolumeGroup, source: Vhd, volume_size: int, blocks: int, row: Mapping[str, Any]
    ) -> str:
        """Return the parent of the two children: a new base copy, or the old parent of a disk without own data."""
        if source.parent and blocks <= source.inherited:
            return source.parent
        base_uuid, size = str(uuid.uuid4()), source.virtual_size
        vhd = Vhd(size, source.parent, hidden=True, own=blocks - source.inherited)
        group.add_disk(base_uuid, LogicalVolume(volume_size, vhd))
        source.parent, source.inherited = base_uuid, blocks
        base = VDIInfo(
            base_uuid,
            base_uuid,
            size,
            volume_size,
            managed=False,
            read_only=True,
            name_label="base copy",
            sm_config=row["sm_config"],
        )
        self.xapi.introduce(base)
        self.note(group, base)
        return base_uuid
