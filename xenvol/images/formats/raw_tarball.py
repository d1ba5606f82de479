"""Read a tarball that holds one raw disk, `disk.raw`, as Google Compute Engine makes and takes it.

The member may be a sparse file of GNU tar, since that is how its documentation says to make one. The tar is read in its
order, and nothing is staged: the header gives the size of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from xenvol.images.disk_image import PIECE, SECTOR, Piece, Stream
from xenvol.images.formats.tar_headers import Bad, Headers, Member, shown
from xenvol.images.formats.tar_names import is_junk

NAME: Final = "disk.raw"


class RawInTar:
    """The DiskImage of the one member."""

    format = "raw"
    is_ordered = True

    def __init__(self, walk: _Walk, member: Member) -> None:
        self._walk = walk
        self._member = member
        self.virtual_size = member.real_size
        self.allocated: int | None = member.size

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces, without the holes of a sparse file. Raises InvalidImage, SourceError."""
        position = self._member.start
        for offset, size in self._member.segments:
            for at in range(0, size, PIECE):
                length = min(PIECE, size - at)
                data = self._walk.read(position, length)
                if len(data) < length:
                    raise self._walk.bad.cut(f"it ends in {shown(self._member.name)}", position + len(data))
                yield Piece(offset + at, data)
                position += length
        self._walk.end()


def from_stream(stream: Stream) -> RawInTar:
    """Read the tar up to the disk's first byte. Raises InvalidImage, SourceError; so do the pieces.

    What follows the disk is checked after the last piece: nothing but the end of the tar may.
    """
    walk = _Walk(stream)
    member = walk.next()
    if member is None or member.name.removeprefix("./") != NAME or not member.segments:
        what = "nothing" if member is None else f"{shown(member.name)}, which is {member.kind}"
        raise walk.bad.tar(f"it begins with {what}, and not with a file {NAME} that holds anything", 0)
    if member.real_size % SECTOR:
        raise walk.bad.tar(
            f"its disk has {member.real_size} bytes, which are not whole sectors", member.offset
        )
    return RawInTar(walk, member)


class _Walk:
    """Walks a tar as a stream."""

    def __init__(self, stream: Stream) -> None:
        self.bad = Bad(stream.name)
        self._stream = stream
        self._position = 0
        self._headers = Headers(stream.name, self.read)

    def read(self, offset: int, size: int) -> bytes:
        """Return these bytes, or fewer at the end; skip those before."""
        while self._position < offset:
            skipped = len(self._stream.read(min(PIECE, offset - self._position)))
            if not skipped:
                return b""
            self._position += skipped
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def next(self) -> Member | None:
        """Return the next member that is neither a directory nor junk."""
        member = self._headers.next()
        while member is not None and (member.kind == "a directory" or is_junk(member.name)):
            member = self._headers.next()
        return member

    def end(self) -> None:
        """Read to the end. Raises InvalidImage if there is another member."""
        if (member := self.next()) is not None:
            raise self.bad.tar(
                f"{shown(member.name)} follows the disk: one image holds one disk", member.offset
            )
