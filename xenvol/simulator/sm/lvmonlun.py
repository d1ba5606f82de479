"""What LVM over iSCSI and over an adapter share: the SR is a volume group on one LUN, named by SCSI id."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.lvm import LVMDriver
from xenvol.simulator.sm.volumegroup import VolumeGroup

SR_IN_USE = 16
NO_DEVICE = 19


class LVMOnLUN(LVMDriver):
    @property
    def scsi_id(self) -> str:
        return self.config.get("SCSIid", "")

    @property
    def path(self) -> str:
        return f"/dev/disk/by-id/scsi-{self.scsi_id}"

    @abc.abstractmethod
    def lun(self) -> BlockDevice | None:
        """Return the configured LUN, if the host sees it and it answers; else None."""

    def named_devices(self) -> Mapping[str, BlockDevice | None]:
        return {self.path: self.lun()}

    def visible_disks(self) -> Iterable[BlockDevice]:
        lun = self.lun()
        return [] if lun is None else [lun]

    def existing_devices(self) -> list[BlockDevice]:
        lun = self.lun()
        if lun is None:
            raise SMFailure(NO_DEVICE, f"Device {self.path} does not exist")
        return [lun]

    def check_unused(self) -> None:
        """Raise 16 if a PBD names the LUN, or an SR has noted it."""
        if any(pbd["device_config"].get("SCSIid") == self.scsi_id for pbd in self.xapi.host_pbds()):
            raise SMFailure(SR_IN_USE)
        for sr in self.xapi.other_srs():
            if self.serials() in sr["sm_config"].get("devserial", "").split(","):
                raise SMFailure(SR_IN_USE)

    def serials(self) -> str:
        return f"scsi-{self.scsi_id}"

    def _open_management(self, group: VolumeGroup) -> dict[str, str]:
        return {**super()._open_management(group), "multipathable": "true"}
