"""What an image is to all who carry one: the bytes of a disk, in pieces that say where they belong.

A reader of a format gives `DiskImage`s and a road takes their pieces, so that no format knows a road and no road a
format. What no piece covers reads as zeros; whoever writes onto what may hold other bytes fills the gaps (`dense`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

SECTOR = 512
"""Bytes; the grain of VHDs, and the least that a block device takes."""
PIECE = 1 << 20
"""Bytes of a piece, at most: what is in memory at one time is a few of these."""
GRAIN = 64 << 10
"""Bytes; zeros are looked for in steps of this size."""
VHD_MAX = 2040 << 30
"""Bytes: what a VHD holds at most, of whichever driver (facts/xapi.md 5.5)."""
_ZEROS = bytes(PIECE)


class Piece(NamedTuple):
    """`data` lies at `offset` of the disk; both are multiples of a sector, but for the end of a raw image."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Stream(Protocol):
    """Bytes that come once, from first to last."""

    name: str
    """As errors call it: a path, a URL without what is secret in it, ``standard input``."""
    length: int | None
    """Bytes in all, where that was said."""

    def read(self, size: int, /) -> bytes:
        """`size` bytes, or fewer where it ends; none at its end. Raises SourceError."""
        ...


class ByteFile(Protocol):
    """Bytes that can be had in any order."""

    name: str
    size: int

    def pread(self, offset: int, size: int, /) -> bytes:
        """Exactly so many. Raises EndOfFile for what lies beyond the end, SourceError."""
        ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """(start, end) of what is not known to be a hole, in order; of a file without holes, all of it."""
        ...


class EndOfFile(Exception):  # it is the end, and an error only to whoever wanted more
    """Somebody wanted bytes behind the end; a format's reader makes a TruncatedImage of it."""


class NeedsFile(Exception):  # says what to do, and is an error to nobody
    """What comes as a stream lies in an order in which it cannot be read as it comes: it must be staged first."""


class DiskImage(Protocol):
    """A disk, as an image holds it. Its `pieces` do not overlap, and are asked for once."""

    format: str
    """``raw``, ``vhd``, ``qcow2``, ``vmdk``, ``iso``; of a tarball, what is in it."""
    virtual_size: int
    """Bytes of the disk."""
    allocated: int | None
    """Bytes that the pieces have together, at most; None where nobody knows before they have been read."""
    is_ordered: bool
    """Whether each piece lies behind the one before."""

    def pieces(self) -> Iterator[Piece]:
        """Raises InvalidImage where the image turns out to be a bad one, SourceError."""
        ...


def is_zero(data: bytes) -> bool:
    return data == (_ZEROS[: len(data)] if len(data) <= PIECE else bytes(len(data)))


def without_zeros(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same without what is zero, in steps of `GRAIN` that are aligned on the disk."""
    for offset, data in pieces:
        start = 0  # of what is not zero and not yielded yet
        position = 0
        while position < len(data):
            end = min(len(data), position + GRAIN - (offset + position) % GRAIN)
            # what differs at an end is not looked at further: to cut it out costs more than to send it
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
    """The pieces, and zeros wherever there is none: for a disk of `size` bytes that may hold other bytes.

    Where the pieces come in no order, the whole disk is zeroed first, and they are laid over it.
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
