"""What a reader gives and a transport takes: the bytes of a disk, in pieces that say where they belong.

A reader gives a `DiskImage`, and a transport takes its pieces. So no format knows a transport, and no transport a
format. Bytes that no piece covers are zeros. A disk that may hold other bytes needs the gaps filled (`dense`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

SECTOR = 512
"""Bytes. The unit of VHDs, and the smallest write to a block device."""
PIECE = 1 << 20
"""Bytes of a piece, at most. A few pieces are in memory at one time."""
GRAIN = 64 << 10
"""Bytes. `without_zeros` looks for zeros in steps of this size."""
VHD_MAX = 2040 << 30
"""Bytes of the largest disk that a VHD holds, with every storage driver (docs/background/xapi.md, 5.5)."""
_ZEROS = bytes(PIECE)


class Piece(NamedTuple):
    """`data` belongs at `offset` of the disk. Both are multiples of a sector, except at the end of a raw image."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Stream(Protocol):
    """Bytes that can be read once, from first to last."""

    name: str
    """The name in errors: a path, a URL without its secrets, ``standard input``."""
    length: int | None
    """Bytes in all; None if not known."""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer where the stream ends; none at its end. Raises SourceError."""
        ...


class ByteFile(Protocol):
    """Bytes that can be read in any order."""

    name: str
    size: int

    def pread(self, offset: int, size: int, /) -> bytes:
        """Return exactly `size` bytes. Raises EndOfFile beyond the end, SourceError."""
        ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each range that is not a hole, in order. A source that does not know its holes
        yields all."""
        ...


class EndOfFile(Exception):  # an error only for the reader that wanted more
    """The reader asked for bytes beyond the end. A format's reader turns it into a TruncatedImage."""


class NeedsFile(Exception):  # tells the caller what to do
    """A stream's bytes come in an order in which its format cannot be read: stage it in a file first."""


class DiskImage(Protocol):
    """The disk that an image holds. Its `pieces` do not overlap, and can be read once."""

    format: str
    """``raw``, ``vhd``, ``qcow2``, ``vmdk``, ``iso``. For a tarball, the format of its members."""
    virtual_size: int
    """Bytes of the disk."""
    allocated: int | None
    """Bytes of all pieces together, at most; None if only reading them tells."""
    is_ordered: bool
    """Whether the pieces come in the order of their offsets."""

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces. Raises InvalidImage if the image turns out to be bad, SourceError."""
        ...


def is_zero(data: bytes) -> bool:
    return data == (_ZEROS[: len(data)] if len(data) <= PIECE else bytes(len(data)))


def without_zeros(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the same pieces without their zeros, in steps of `GRAIN` that are aligned on the disk."""
    for offset, data in pieces:
        start = 0  # of what is neither zero nor yielded yet
        position = 0
        while position < len(data):
            end = min(len(data), position + GRAIN - (offset + position) % GRAIN)
            # a step with a byte at either end is kept whole: cutting it costs more than sending it
            if not (data[position] or data[end - 1]) and is_zero(data[position:end]):
                if start < position:
                    yield Piece(offset + start, data[start:position])
                start = end
            position = end
        if start == 0 and data:
            yield Piece(offset, data)
        elif start < len(data):
            yield Piece(offset + start, data[start:])


def dense(image: DiskImage, size: int) -> Iterator[Piece]:
    """Yield the pieces, and zeros in the gaps: for a disk of `size` bytes that may hold other bytes.

    If the pieces come in no order, zeros for the whole disk come first.
    """
    if not image.is_ordered:
        yield from _zeros(0, size)
        yield from image.pieces()
        return
    position = 0
    for piece in image.pieces():
        yield from _zeros(position, piece.offset)
        yield piece
        position = piece.end
    yield from _zeros(position, size)


def _zeros(start: int, end: int) -> Iterator[Piece]:
    for offset in range(start, end, PIECE):
        yield Piece(offset, _ZEROS[: min(PIECE, end - offset)])
