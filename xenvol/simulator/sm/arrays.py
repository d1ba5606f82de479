"""Arrays that make LUNs on demand: a management address with a login, storage pools, and the LUNs made so far."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.sparse import sparse_copy

ArrayKind = Literal["netapp", "equal"]


@dataclass(eq=False)
class ArrayLun:
    """The LUN that an array made for one VDI."""

    number: int
    disk: BlockDevice
    pool: str
    snapshot_of: str | None = None
    """The VDI whose content a read-only LUN started with."""


@dataclass(eq=False)
class ArraySR:
    """An SR as the array knows it: its pool and its LUNs."""

    pool: str
    luns: dict[str, ArrayLun] = field(default_factory=dict)
    """The LUNs by the VDI's uuid."""


class Array:
    def __init__(
        self, kind: ArrayKind, username: str, password: str, pools: dict[str, int], directory: Path
    ) -> None:
        self.kind = kind
        self.username = username
        self.password = password
        self.pools = pools
        """Name (of an aggregate or a storage pool) to bytes."""
        self.is_reachable = True
        self.srs: dict[str, ArraySR] = {}
        """The SRs by uuid."""
        self._directory = directory
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        luns = sum(len(sr.luns) for sr in self.srs.values())
        return f"<Array {self.kind}: {len(self.srs)} SRs, {luns} LUNs in {len(self.pools)} pools>"

    def admits(self, username: str, password: str) -> bool:
        return (username, password) == (self.username, self.password)

    def used(self, pool: str) -> int:
        return sum(lun.disk.size for lun in self._luns() if lun.pool == pool)

    def free(self, pool: str) -> int:
        return self.pools[pool] - self.used(pool)

    def make(self, sr: ArraySR, vdi_uuid: str, size: int, *, like: ArrayLun | None = None) -> ArrayLun:
        """Make a LUN from the SR's pool, blank or with the content of another LUN."""
        file = self._directory / f"{vdi_uuid}.img"
        lun = sr.luns[vdi_uuid] = ArrayLun(next(self._numbers), BlockDevice(file, size), sr.pool)
        if like is not None:
            sparse_copy(like.disk.path, lun.disk.path)
        return lun

    def drop(self, sr: ArraySR, vdi_uuid: str) -> None:
        sr.luns.pop(vdi_uuid).disk.path.unlink()

    def scsi_id(self, lun: ArrayLun) -> str:
        prefix = {"netapp": "360a98000", "equal": "36090a0"}[self.kind]
        return f"{prefix}{lun.number:0{33 - len(prefix)}x}"

    def _luns(self) -> Iterator[ArrayLun]:
        for sr in self.srs.values():
            yield from sr.luns.values()
