"""Types ``netapp`` and ``equal``: the driver logs in to the array, which makes a LUN for every VDI.

Neither driver ships any more. Known are their fault numbers (120-135, 160-176) and the keys of their
device_config. The rest follows what any driver does that makes LUNs on demand.
"""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xenvol.simulator.sm import xmlout
from xenvol.simulator.sm.arrays import Array, ArrayLun, ArraySR
from xenvol.simulator.sm.base import Driver, SMFailure, SRStat, VDIInfo, VDISpec
from xenvol.simulator.sm.scanning import SR_SCAN, scan_for

NOT_EMPTY = 39
EXISTS = 42
NO_SPACE = 44
VDI_UNAVAILABLE = 46
SR_UNAVAILABLE = 47
WRONG_SIZE = 79
GRAIN = 1 << 20
"""Bytes; sizes are multiples of this."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The fault numbers of one kind of array."""

    no_target: int
    no_username: int
    no_password: int
    no_pool: int
    unreachable: int
    wrong_login: int
    wrong_pool: int
    second_snapshot: int | None = None
    """For a snapshot of a snapshot; None if the array can make one."""


class LUNOnDemand(Driver):
    faults: ClassVar[Faults]
    pool_key: ClassVar[str]

    def load(self) -> None:
        for key, fault in (("target", self.faults.no_target), ("username", self.faults.no_username)):
            if not self.config.get(key):
                raise SMFailure(fault)
        secret = self.config.get("password_secret")
        self.password = self.config.get("password") if secret is None else self.xapi.secret(secret)
        if not self.password:
            raise SMFailure(self.faults.no_password)

    @property
    def array(self) -> Array:
        """Log in, and return the array."""
        san = self.world.san
        array = san.arrays.get(san.resolve(self.config["target"]) or "")
        if array is None or not array.is_reachable or array.kind != self.type:
            raise SMFailure(self.faults.unreachable)
        if not array.admits(self.config["username"], self.password or ""):
            raise SMFailure(self.faults.wrong_login)
        return array

    def known(self) -> ArraySR:
        sr = self.array.srs.get(self.sr.uuid)
        if sr is None:
            raise SMFailure(SR_UNAVAILABLE, f"no such SR on the array: {self.sr.uuid}")
        return sr

    # ---- the SR

    def probe(self) -> str:
        return xmlout.pretty("SRlist", (("SR", [("UUID", sr)]) for sr in self.array.srs))

    def create(self, size: int) -> None:
        if not (pool := self.config.get(self.pool_key)):
            raise SMFailure(self.faults.no_pool)
        if pool not in self.array.pools:
            raise SMFailure(self.faults.wrong_pool)
        if self.sr.uuid in self.array.srs:
            raise SMFailure(EXISTS)
        self.array.srs[self.sr.uuid] = ArraySR(pool)

    def delete(self) -> None:
        if self.known().luns:
            raise SMFailure(NOT_EMPTY)
        del self.array.srs[self.sr.uuid]

    def attach(self) -> None:
        self.known()

    def detach(self) -> None:
        """Do nothing: the host logs in to each disk separately."""

    def scan(self) -> list[VDIInfo]:
        infos = [self.info(uuid, lun) for uuid, lun in self.known().luns.items()]
        self.update()
        scan_for(SR_SCAN, self, infos)
        return infos

    def update(self) -> None:
        stat = self.stat()
        self.xapi.set_sr(
            physical_size=stat.physical_size,
            physical_utilisation=stat.physical_utilisation,
            virtual_allocation=stat.virtual_allocation,
        )

    def stat(self) -> SRStat:
        sr, array = self.known(), self.array
        own = sum(lun.disk.size for lun in sr.luns.values())
        return SRStat(array.pools[sr.pool], array.used(sr.pool), own)

    # ---- disks

    def info(self, uuid: str, lun: ArrayLun) -> VDIInfo:
        row = self.xapi.vdi(uuid)
        sm_config = {"LUNid": str(lun.number), "SCSIid": self.array.scsi_id(lun)}
        return VDIInfo(
            uuid,
            uuid,
            lun.disk.size,
            lun.disk.size,
            read_only=lun.snapshot_of is not None,
            sm_config={**(row["sm_config"] if row else {}), **sm_config},
        )

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        return self._made(spec.virtual_size)

    def vdi_delete(self, uuid: str) -> None:
        self.lun(uuid)
        self.array.drop(self.known(), uuid)
        self.update()

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        lun = self.lun(uuid)
        grown = _whole(size)
        if size < lun.disk.size:
            raise SMFailure(WRONG_SIZE, "shrinking not allowed")
        self._check_space(grown - lun.disk.size)
        lun.disk.resize(grown)
        info = self.info(uuid, lun)
        self.xapi.update(info)
        self.update()
        return info

    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        source = self.lun(uuid)
        if source.snapshot_of is not None and self.faults.second_snapshot is not None:
            raise SMFailure(self.faults.second_snapshot)
        return self._made(source.disk.size, like=source, snapshot_of=uuid)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        source = self.lun(uuid)
        return self._made(source.disk.size, like=source)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        self.lun(uuid)

    def vdi_detach(self, uuid: str) -> None:
        """Remove the disk from the host."""

    def vdi_file(self, uuid: str) -> Path:
        return self.lun(uuid).disk.path

    def lun(self, uuid: str) -> ArrayLun:
        lun = self.known().luns.get(uuid)
        if lun is None:
            raise SMFailure(VDI_UNAVAILABLE)
        return lun

    def _made(self, size: int, *, like: ArrayLun | None = None, snapshot_of: str | None = None) -> VDIInfo:
        size = _whole(size)
        self._check_space(size)
        uuid = str(uuids.uuid4())
        lun = self.array.make(self.known(), uuid, size, like=like)
        lun.snapshot_of = snapshot_of
        info = self.info(uuid, lun)
        self.xapi.introduce(info)
        self.update()
        return info

    def _check_space(self, size: int) -> None:
        if size > self.array.free(self.known().pool):
            raise SMFailure(NO_SPACE)


class NetApp(LUNOnDemand):
    type = "netapp"
    pool_key = "aggregate"
    faults = Faults(
        no_target=120,
        no_username=121,
        no_password=122,
        no_pool=123,
        unreachable=124,
        wrong_login=125,
        wrong_pool=123,
    )


class EqualLogic(LUNOnDemand):
    type = "equal"
    pool_key = "storagepool"
    faults = Faults(
        no_target=160,
        no_username=161,
        no_password=162,
        no_pool=163,
        unreachable=164,
        wrong_login=169,
        wrong_pool=172,
        second_snapshot=168,
    )


def _whole(size: int) -> int:
    return max(1, -(-size // GRAIN)) * GRAIN
