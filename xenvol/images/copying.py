"""An image onto a disk, by a road: only what is allocated, zeros where the disk may hold others, compared if asked.

pieces of the image ─▶ without zeros ─▶ noted ─▶ (gaps filled) ─▶ watched ─▶ the road ─▶ read back, compared
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from xenvol.images.disk_image import DiskImage, Piece, dense, without_zeros
from xenvol.images.opening import Opened
from xenvol.images.progress import Watch
from xenvol.images.transports import Road
from xenvol.images.verification import Ledger
from xenvol.session.refs import VDIRef


@dataclass(frozen=True)
class Target:
    """A disk that a road leads to."""

    road: Road
    vdi_ref: VDIRef
    name: str
    """As messages call it."""
    size: int
    """Bytes."""
    is_blank: bool
    """Whether it reads as zeros, so that the image's holes need not be written."""


def carry(image: Opened, target: Target, *, verify: bool, watch: Watch) -> int:
    """When it returns, the disk is the image, followed by zeros; the bytes that were written, gaps and all.

    The image must fit. Raises what its reader, its source and the road raise; ChecksumMismatch; NotAsWritten.
    """
    disk = image.disk
    total = disk.allocated if target.is_blank else target.size
    with Ledger(image.scratch) if verify else nullcontext() as ledger:
        noted = _Noted(disk, ledger)
        pieces = noted.pieces() if target.is_blank else dense(noted, target.size)
        count = _Count()
        target.road.fill(target.vdi_ref, watch.over("writing", count.of(pieces), total))
        image.finish()
        if ledger is not None:
            with target.road.contents(target.vdi_ref) as found:
                compared = ledger.check(target.name, found)
                for _ in watch.over("verifying", compared, noted.size):
                    pass
    return count.size


class _Noted:
    """An image without its zeros, whose pieces are noted as they go."""

    def __init__(self, disk: DiskImage, ledger: Ledger | None) -> None:
        self.format = disk.format
        self.virtual_size = disk.virtual_size
        self.allocated = disk.allocated
        self.is_ordered = disk.is_ordered
        self.size = 0
        self._disk = disk
        self._ledger = ledger

    def pieces(self) -> Iterator[Piece]:
        pieces = without_zeros(self._disk.pieces())
        for piece in pieces if self._ledger is None else self._ledger.noting(pieces):
            yield piece
            self.size += len(piece.data)


class _Count:
    def __init__(self) -> None:
        self.size = 0

    def of(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            yield piece
            self.size += len(piece.data)
