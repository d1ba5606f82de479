"""``device_config:device``: one or several local disks, by path."""

from __future__ import annotations

from xenvol.simulator.sm.base import Driver, SMFailure
from xenvol.simulator.sm.blockdevice import BlockDevice


class LocalDisks(Driver):
    def named_devices(self) -> dict[str, BlockDevice | None]:
        """Return the configured disks by path, None for a path without a disk. Fault 90 without the key."""
        if "device" not in self.config:
            raise SMFailure(90)
        disks = self.world.host(self.host.name).mounts.devices
        return {path: disks.get(path) for path in self.config["device"].split(",")}

    def existing_devices(self) -> list[BlockDevice]:
        """Return the disks for writing: each path must exist and be a disk."""
        characters = self.world.host(self.host.name).mounts.characters
        disks = []
        for path, disk in self.named_devices().items():
            if disk is None and path in characters:
                raise SMFailure(77)
            if disk is None:
                raise SMFailure(19, f"Device {path} does not exist")
            disks.append(disk)
        return disks

    def check_unused(self) -> None:
        """Raise fault 16 for a disk that a PBD of this host names, plugged or not, or that an SR has noted."""
        devices = self.named_devices()
        for pbd in self.xapi.host_pbds():
            if set(pbd["device_config"].get("device", "").split(",")) & set(devices):
                raise SMFailure(16)
        serials = {f"scsi-{disk.serial}" for disk in devices.values() if disk is not None and disk.serial}
        for sr in self.xapi.other_srs():
            if serials & set(sr["sm_config"].get("devserial", "").split(",")):
                raise SMFailure(16)

    def serials(self) -> str:
        """Return the value of ``devserial`` in SR.sm_config."""
        disks = self.named_devices().values()
        return ",".join(f"scsi-{disk.serial}" for disk in disks if disk is not None and disk.serial)
