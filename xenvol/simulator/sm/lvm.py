"""The SR's side of VHDs on LVM, and SR type ``lvm`` on local disks.

`LVMDriver` works on the disks that its subclass provides. A subclass for a LUN defines `named_devices`,
`visible_disks`, `existing_devices`, `check_unused` and `serials`, and logs in before `super().attach()`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure, VDIInfo
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.localdisks import LocalDisks
from xenvol.simulator.sm.lvmcuts import VolumeCuts
from xenvol.simulator.sm.mounteddirectory import UNEXPECTED
from xenvol.simulator.sm.scanning import SR_SCAN, scan_for
from xenvol.simulator.sm.vhd import EXTENT, MIB
from xenvol.simulator.sm.volumegroup import (
    GROUP_PREFIX,
    MANAGEMENT,
    LogicalVolume,
    VolumeGroup,
    probe_result,
)

_WORTH_GROWING = 100 * MIB


class LVMDriver(VolumeCuts):
    @abc.abstractmethod
    def named_devices(self) -> Mapping[str, BlockDevice | None]:
        """Return the configured disks by path; None for a missing one."""

    @abc.abstractmethod
    def existing_devices(self) -> list[BlockDevice]:
        """Return the disks for writing; fault 19 if one is missing."""

    @abc.abstractmethod
    def check_unused(self) -> None:
        """Raise fault 16 if another SR has the disks."""

    @abc.abstractmethod
    def serials(self) -> str:
        """Return ``devserial`` of SR.sm_config."""

    def probe(self) -> str:
        with_names = self.sr.sm_config.get("metadata") == "true"
        return probe_result(self.named_devices(), GROUP_PREFIX, with_names=with_names)

    def create(self, size: int) -> None:
        """Create the volume group, overwriting the disks unless an SR of the pool has them (trace sm/24#13)."""
        self.named_devices()
        self.check_master()
        if self.find_group() is not None:
            raise SMFailure(42)
        self.check_unused()
        VolumeGroup(self.group_name, self.existing_devices())
        self._set_sm_config({**self.sr.sm_config, "devserial": self.serials(), "use_vhd": "true"})

    def delete(self) -> None:
        self.check_master()
        group = self.group()
        if group.disks_in_use():
            raise SMFailure(39)
        group.wipe()

    def attach(self) -> None:
        group = self.group()
        if self.request.is_srmaster:
            sm_config = self._open_management(group)
            self._grow(group)
            self._set_sm_config({**sm_config, "devserial": self.serials()})

    def detach(self) -> None:
        if self.request.is_srmaster and (group := self.find_group()) is not None:
            self.note_names(group)

    def scan(self) -> list[VDIInfo]:
        self.check_master()
        group = self.group()
        self._grow(group)
        self.note_names(group)
        volumes = group.disks_in_use()
        group.records = {uuid: record for uuid, record in group.records.items() if uuid in volumes}
        disks = self._infos(volumes)
        self.set_sizes(group, sum(disk.physical_utilisation for disk in disks if disk.managed))
        self._introduce_noted(group, disks)
        disks = self._infos(volumes)
        scan_for(SR_SCAN, self, disks)
        return disks

    def update(self) -> None:
        if (group := self.find_group()) is not None:
            self.set_sizes(group, self.sr.virtual_allocation)
            group.label = self.sr.name_label

    def _set_sm_config(self, sm_config: Mapping[str, str]) -> None:
        self.xapi.set_sr(sm_config=dict(sm_config))

    def _infos(self, volumes: Mapping[str, LogicalVolume]) -> list[VDIInfo]:
        parents = {volume.vhd.parent for volume in volumes.values() if volume.vhd}
        return [
            self.info(vdi_uuid, volume, is_parent=vdi_uuid in parents) for vdi_uuid, volume in volumes.items()
        ]

    def _open_management(self, group: VolumeGroup) -> dict[str, str]:
        """Make the management volume if it is due, and return the new SR.sm_config."""
        has_vhds = any(volume.vhd for volume in group.volumes.values())
        if MANAGEMENT not in group.volumes:
            if not has_vhds and self.sr.sm_config.get("use_vhd") != "true":
                return dict(self.sr.sm_config)
            if group.free < EXTENT:
                raise SMFailure(181, "Error introducing Metadata Volume: no space")
            group.add(MANAGEMENT, LogicalVolume(EXTENT))
            group.label = self.sr.name_label
        self.note_names(group)
        return {"allocation": "thin" if self.is_thin else "thick", "use_vhd": "true"}

    def _grow(self, group: VolumeGroup) -> None:
        """Grow the group if its disks have grown enough."""
        if sum(disk.size for disk in group.disks) >= group.size + _WORTH_GROWING:
            group.grow()

    def _introduce_noted(self, group: VolumeGroup, disks: Iterable[VDIInfo]) -> None:
        """Introduce disks with the records in the management volume, sources before their snapshots."""
        noted = [disk for disk in disks if disk.uuid in group.records and self.xapi.vdi(disk.uuid) is None]
        for disk in sorted(noted, key=lambda disk: bool(group.records[disk.uuid]["is_a_snapshot"])):
            self.xapi.introduce(
                VDIInfo(
                    disk.uuid,
                    disk.location,
                    disk.virtual_size,
                    disk.physical_utilisation,
                    sm_config=disk.sm_config,
                    **group.records[disk.uuid],
                )
            )


class LVMSR(LocalDisks, LVMDriver):
    type: ClassVar[str] = "lvm"

    def attach(self) -> None:
        self.group()
        if "device" not in self.config:
            raise SMFailure(UNEXPECTED, text="'device'")
        super().attach()

    def visible_disks(self) -> Iterable[BlockDevice]:
        return self.world.host(self.host.name).mounts.devices.values()
