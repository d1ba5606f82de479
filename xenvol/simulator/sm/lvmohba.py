"""LVM on a LUN of an adapter: types ``lvmohba`` (Fibre Channel and others) and ``lvmofcoe``."""

from __future__ import annotations

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.hba import adapters, device_list
from xenvol.simulator.sm.lvmonlun import LVMOnLUN

WRONG_SCSI_ID = 107


class LVMoHBA(LVMOnLUN):
    type = "lvmohba"

    def load(self) -> None:
        """Raise 107 with the list of disks if SCSIid is missing (trace sm/23#18)."""
        if not self.scsi_id:
            raise SMFailure(WRONG_SCSI_ID, output=device_list(self.request))

    def lun(self) -> BlockDevice | None:
        for hba in adapters(self.request):
            for disk in hba.visible(self.world.san):
                if disk.scsi_id == self.scsi_id:
                    return disk.volume
        return None

    def detach(self) -> None:
        super().detach()
        self.xapi.pbd_other_config({}, remove=["multipathed", f"mpath-{self.scsi_id}"])


class LVMoFCoE(LVMoHBA):
    type = "lvmofcoe"
