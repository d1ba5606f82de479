"""A driver that creates no disks: every LUN that the host sees is a VDI, and is never formatted.

The VDI's uuid is made from the LUN's SCSI id. So it is the same in every pool and unique in each: a LUN can
be in one SR of a pool only (docs/background/recordings.md, findings 2 and 12 (storage)).
"""

from __future__ import annotations

import abc
import hashlib
import uuid as uuids
from collections.abc import Sequence
from pathlib import Path

from xenvol.simulator.sm.base import Driver, SMFailure, VDIInfo, VDISpec
from xenvol.simulator.sm.initiator import Disk
from xenvol.simulator.sm.scanning import GENERAL, SR_SCAN, scan_for

NO_SPACE = 44
VDI_UNAVAILABLE = 46
SR_UNAVAILABLE = 47

SCAN_SECONDS = 4.8
"""The duration of a scan, for any result."""

DEAD_DISK = "Command  failed (exec failed): Operation not permitted"
"""The tools' message for a disk that does not answer (trace sm/20c#66)."""


def vdi_uuid(scsi_id: str) -> str:
    """Return the md5 of the SCSI id, without a line break, as a uuid (trace sm/20a#51)."""
    return str(uuids.UUID(hashlib.md5(scsi_id.encode(), usedforsecurity=False).hexdigest()))


class LUNPerVDI(Driver):
    """What `iscsi` and `hba` share; each subclass finds its LUNs."""

    rows_are_managed: bool
    """True if a LUN is usable as soon as it is found; if False, VDI.create adopts it first."""

    @property
    @abc.abstractmethod
    def is_attached(self) -> bool:
        """True if there is a source of LUNs: a session, or an adapter."""

    @abc.abstractmethod
    def disks(self) -> Sequence[Disk]:
        """Return the LUNs as the host knows them."""

    @abc.abstractmethod
    def reads(self, disk: Disk) -> bool:
        """Return True if the disk answers."""

    def refresh(self) -> None:
        """Rescan on the host."""

    # ---- the SR

    def scan(self) -> list[VDIInfo]:
        if not self.is_attached:
            raise SMFailure(SR_UNAVAILABLE)
        self.refresh()
        self.xapi.sleep(SCAN_SECONDS)
        found = self.found(SR_SCAN)
        self.set_sizes(found)
        infos = self.infos(found)
        scan_for(SR_SCAN, self, infos)
        return infos

    def update(self) -> None:
        """Do nothing, even if a LUN has grown (trace sm/20b#17)."""

    def set_sizes(self, disks: Sequence[Disk]) -> None:
        """Set the SR's sizes; SM adds managed disks to the sum of all LUNs.

        docs/background/recordings.md, finding 3 (storage).
        """
        size = sum(disk.size for disk in disks)
        used = size + sum(info.virtual_size for info in self.infos(disks) if info.managed)
        self.xapi.set_sr(physical_size=size, physical_utilisation=used, virtual_allocation=used)

    def found(self, fault: int) -> list[Disk]:
        """Return the disks after reading the id of each; one dead disk fails the whole command."""
        disks = list(self.disks())
        if not all(self.reads(disk) for disk in disks):
            raise SMFailure(fault, DEAD_DISK)
        return disks

    def infos(self, disks: Sequence[Disk]) -> list[VDIInfo]:
        """Return one VDI for each SCSI id; if two numbers have one id, the later one counts (trace sm/20e#59)."""
        infos = {disk.scsi_id: self.info(disk) for disk in disks}
        return list(infos.values())

    def info(self, disk: Disk) -> VDIInfo:
        uuid = vdi_uuid(disk.scsi_id)
        row = self.xapi.vdi(uuid)
        sm_config = {"LUNid": str(disk.number), "SCSIid": disk.scsi_id, "backend-kind": "vbd"}
        return VDIInfo(
            uuid=uuid,
            location=uuid,
            virtual_size=disk.size,
            physical_utilisation=0,
            managed=self.rows_are_managed or bool(row and row["managed"]),
            sm_config={**(row["sm_config"] if row else {}), **sm_config},
        )

    # ---- VDIs

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        """Adopt the smallest unmanaged LUN that is large enough; fails if all LUNs are managed."""
        self._must_be_attached()
        present = {info.uuid: info for info in self.infos(self.found(VDI_UNAVAILABLE))}
        free = [
            row
            for row in self.xapi.vdis()
            if not row["managed"] and row["virtual_size"] >= spec.virtual_size and row["uuid"] in present
        ]
        if not free:
            raise SMFailure(NO_SPACE)
        chosen = present[min(free, key=lambda row: int(row["virtual_size"]))["uuid"]]
        adopted = VDIInfo(
            chosen.uuid, chosen.location, chosen.virtual_size, 0, managed=True, sm_config=chosen.sm_config
        )
        self.xapi.update(adopted)
        return adopted

    def vdi_delete(self, uuid: str) -> None:
        """Leave the LUN's data; a scan brings its row back (docs/background/recordings.md, finding 10 (storage))."""
        self._must_be_attached()

    def vdi_introduce(self, uuid: str, spec: VDISpec, location: str) -> VDIInfo:
        """Introduce the LUN that sm_config:LUNid names, even if the host does not know it yet.

        docs/background/recordings.md, finding 9 (storage).
        """
        self._must_be_attached()
        disk = self.disk_numbered(spec.sm_config.get("LUNid"))
        wanted = vdi_uuid(disk.scsi_id)
        sm_config = {**spec.sm_config, "SCSIid": disk.scsi_id, "backend-kind": "vbd"}
        info = VDIInfo(wanted, wanted, disk.size, 0, managed=True, sm_config=sm_config)
        if self.xapi.vdi(wanted) is None:
            self.xapi.introduce(info)
            return info
        self.xapi.update(info)
        if all(row["uuid"] != wanted for row in self.xapi.vdis()):
            raise SMFailure(GENERAL)  # another SR has it; xapi searches only this one (trace sm/20e#21)
        return info

    def disk_numbered(self, number: str | None) -> Disk:
        """Return the LUN with that number, for VDI.introduce; 46 if a driver cannot scan for one LUN."""
        raise SMFailure(VDI_UNAVAILABLE)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        """Raise 46 if this host does not see the LUN, or if any LUN is dead (trace sm/20c#66)."""
        self._must_see(uuid)

    def vdi_detach(self, uuid: str) -> None:
        """Raise 46 as for an attach.

        Known from the source, not from a trace: RAWVDI.detach (libs/sm/LUNperVDI.py of xapi-project/sm,
        471cf7e) first reads every LUN of the target (_loadvdis), which raises if one does not answer. Then
        this LUN must be among them.
        """
        self._must_see(uuid)

    def vdi_file(self, uuid: str) -> Path:
        for disk in self.disks():
            if vdi_uuid(disk.scsi_id) == uuid:
                return disk.volume.path
        raise SMFailure(VDI_UNAVAILABLE)

    def _must_be_attached(self) -> None:
        if not self.is_attached:
            raise SMFailure(SR_UNAVAILABLE)

    def _must_see(self, uuid: str) -> None:
        self._must_be_attached()
        if all(vdi_uuid(disk.scsi_id) != uuid for disk in self.found(VDI_UNAVAILABLE)):
            raise SMFailure(VDI_UNAVAILABLE)

    def introduce_all(self) -> None:
        """Introduce the LUNs in SR.create; 202 if another SR has one of them (trace sm/20d#184)."""
        if infos := self.infos(self.found(GENERAL)):
            scan_for(GENERAL, self, infos)
