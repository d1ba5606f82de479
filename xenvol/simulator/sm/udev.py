"""SR type ``udev``: a directory of links to devices that are plugged by hand; nothing is created or erased."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from uuid import uuid4

from xenvol.simulator.sm.base import Driver, SMFailure, VDIInfo, VDISpec
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.scanning import SR_SCAN, scan_for


class UdevSR(Driver):
    type: ClassVar[str] = "udev"

    def load(self) -> None:
        if "location" not in self.config:
            raise SMFailure(94)

    def create(self, size: int) -> None:
        """Accept any directory, even a missing one (trace sm/23#32)."""

    def delete(self) -> None:
        """Do nothing: the devices stay."""

    def attach(self) -> None:
        """Do nothing; a missing location holds no devices (trace sm/23#64)."""

    def detach(self) -> None:
        """Do nothing."""

    def scan(self) -> list[VDIInfo]:
        self.update()
        disks = [self._info(path, device) for path, device in self._devices().items()]
        scan_for(SR_SCAN, self, disks)
        return disks

    def update(self) -> None:
        total = sum(device.size for device in self._devices().values())
        self.xapi.set_sr(physical_size=total, physical_utilisation=total, virtual_allocation=total)

    def vdi_introduce(self, uuid: str, spec: VDISpec, location: str) -> VDIInfo:
        device = self._devices().get(location)
        info = VDIInfo(
            uuid,
            location,
            device.size if device else 0,
            device.size if device else 0,
            read_only=self.sr.sm_config.get("type") == "cd",
            name_label=spec.name_label or location,
        )
        self.xapi.introduce(info)
        self.update()
        return info

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        self._device(uuid)

    def vdi_detach(self, uuid: str) -> None:
        """Do nothing: no file is open."""

    def vdi_file(self, uuid: str) -> Path:
        return self._device(uuid).path

    def _devices(self) -> dict[str, BlockDevice]:
        """Return the devices directly below the location."""
        root = self.config["location"].rstrip("/")
        devices = self.world.host(self.host.name).mounts.devices
        return {path: device for path, device in devices.items() if path.rpartition("/")[0] == root}

    def _device(self, uuid: str) -> BlockDevice:
        row = self.xapi.vdi(uuid)
        device = self._devices().get(row["location"]) if row else None
        if device is None:
            raise SMFailure(46)
        return device

    def _info(self, path: str, device: BlockDevice) -> VDIInfo:
        known = {row["location"]: row for row in self.xapi.vdis()}
        return VDIInfo(
            known[path]["uuid"] if path in known else str(uuid4()),
            path,
            device.size,
            device.size,
            read_only=self.sr.sm_config.get("type") == "cd",
            name_label=None if path in known else path,
        )
