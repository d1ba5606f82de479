"""Copy an image onto a disk: what is allocated, zeros where the disk may hold other bytes, compared on request.

pieces of the image ─▶ reported ─▶ without zeros ─▶ recorded ─▶ (gaps filled) ─▶ the transport ─▶ read back, compared
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from xenvol.images.disk_image import DiskImage, Piece, dense, without_zeros
from xenvol.images.opening import OpenImage
from xenvol.images.transports import Transport
from xenvol.images.verification import Ledger
from xenvol.session.refs import VDIRef


@dataclass(frozen=True)
class TargetDisk:
    """A disk to write, and the transport to it."""

    transport: Transport
    vdi_ref: VDIRef
    name: str
    """The disk's name in messages."""
    size: int
    """Bytes."""
    is_blank: bool
    """Whether the disk reads as zeros, so that the image's holes need not be written."""


def copy_image(image: OpenImage, target: TargetDisk, *, verify: bool) -> int:
    """Write the image, and zeros behind it, onto the disk; return the bytes written, gaps included.

    The image must fit. Raises what its reader, its source and the transport raise; ChecksumMismatch; NotAsWritten.
    """
    disk = image.disk
    with Ledger(image.scratch) if verify else nullcontext() as ledger:
        # what the caller waits for: all that the image holds, zeros too, or all of the disk
        passing = (
            image.watch.over("writing", disk.pieces(), disk.allocated) if target.is_blank else disk.pieces()
        )
        recorded = _Recorded(disk, passing, ledger)
        pieces = recorded.pieces()
        if not target.is_blank:
            once = target.size if disk.is_ordered else target.size + (disk.allocated or 0)
            pieces = image.watch.over("writing", dense(recorded, target.size), once)
        count = _Count()
        target.transport.fill(target.vdi_ref, count.of(pieces))
        image.finish()
        if ledger is not None:
            with target.transport.contents(target.vdi_ref) as found:
                compared = ledger.check(target.name, found)
                for _ in image.watch.over("verifying", compared, recorded.size):
                    pass
    return count.size


class _Recorded:
    """An image without its zeros; the ledger records its pieces as they pass."""

    def __init__(self, disk: DiskImage, pieces: Iterator[Piece], ledger: Ledger | None) -> None:
        self.format = disk.format
        self.virtual_size = disk.virtual_size
        self.allocated = disk.allocated
        self.is_ordered = disk.is_ordered
        self.size = 0
        """Bytes of the pieces that have passed."""
        self._pieces = pieces
        self._ledger = ledger

    def pieces(self) -> Iterator[Piece]:
        pieces = without_zeros(self._pieces)
        for piece in pieces if self._ledger is None else self._ledger.recording(pieces):
            yield piece
            self.size += len(piece.data)


class _Count:
    """Counts the bytes of the pieces that have passed."""

    def __init__(self) -> None:
        self.size = 0

    def of(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            yield piece
            self.size += len(piece.data)
