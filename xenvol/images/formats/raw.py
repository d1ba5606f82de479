"""A raw image is the disk itself. Nothing in it tells its length, so the source must.

The size may be any number of bytes (ISO images). The last piece may then end within a sector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from xenvol.images.disk_image import PIECE, SECTOR, ByteFile, EndOfFile, NeedsFile, Piece, Stream
from xenvol.images.errors import InvalidImage, TruncatedImage

TAIL: Final = 1 << 20
"""Bytes from the end that `check_end` of `from_stream` gets."""


class RawImage:
    """A DiskImage of a raw image; ``iso`` is a raw image with another name."""

    is_ordered = True

    def __init__(
        self,
        name: str,
        *,
        format: str,
        virtual_size: int,
        allocated: int,
        read: Callable[[], Iterator[Piece]],
    ) -> None:
        self.name = name
        self.format = format
        self.virtual_size = virtual_size
        self.allocated: int | None = allocated
        self._read = read

    def __repr__(self) -> str:
        return f"<{self.format} image {self.name}: {self.virtual_size} bytes>"

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces without the holes of the file. Raises InvalidImage, TruncatedImage, SourceError."""
        return self._read()


def from_file(file: ByteFile, *, format: str = "raw") -> RawImage:
    """Return the image of the whole file. Raises InvalidImage if it is empty, SourceError."""
    _refuse_empty(file.name, format, file.size)
    return RawImage(
        file.name,
        format=format,
        virtual_size=file.size,
        allocated=sum(end - start for start, end in _sectors(file)),
        read=lambda: _pieces_of_file(file, format),
    )


def from_stream(
    stream: Stream,
    *,
    size: int | None = None,
    format: str = "raw",
    check_end: Callable[[bytes, int], None] | None = None,
) -> RawImage:
    """Return the image of the whole stream. It must have `size` bytes, if given, and its `length`, if known.

    Raises NeedsFile if neither is known, InvalidImage or TruncatedImage if they differ: at once if both are known,
    else at the end of the pieces. There `check_end` gets the last bytes, `TAIL` of them at most, and the size: other
    formats may begin like any disk.
    """
    known = stream.length if size is None else size
    if known is None:
        raise NeedsFile(f"how many bytes {stream.name} has is known only at its end")
    _refuse_empty(stream.name, format, known)
    if stream.length is not None and stream.length < known:
        raise _truncated(stream.name, format, found=stream.length, size=known)
    if stream.length is not None and stream.length > known:
        raise _longer(stream.name, format, size=known)
    return RawImage(
        stream.name,
        format=format,
        virtual_size=known,
        allocated=known,
        read=lambda: _pieces_of_stream(stream, format, known, check_end),
    )


def _sectors(file: ByteFile) -> Iterator[tuple[int, int]]:
    """Yield the ranges with data, in whole sectors, in order, without overlaps."""
    done = 0
    for start, end in file.data_ranges():
        start = max(done, start - start % SECTOR)
        end = min(file.size, end + -end % SECTOR)
        if start < end:
            yield start, end
            done = end


def _pieces_of_file(file: ByteFile, format: str) -> Iterator[Piece]:
    for start, end in _sectors(file):
        while start < end:
            size = min(end - start, PIECE - start % PIECE)
            try:
                yield Piece(start, file.pread(start, size))
            except EndOfFile as error:  # the file became shorter after it was opened
                raise TruncatedImage(
                    file.name, format=format, problem=f"it had {file.size} bytes before", offset=start
                ) from error
            start += size


def _pieces_of_stream(
    stream: Stream, format: str, size: int, check_end: Callable[[bytes, int], None] | None
) -> Iterator[Piece]:
    offset = 0
    tail = b""
    while offset < size:
        wanted = min(PIECE, size - offset)
        data = stream.read(wanted)
        if len(data) < wanted:
            raise _truncated(stream.name, format, found=offset + len(data), size=size)
        yield Piece(offset, data)
        offset += wanted
        if offset > size - TAIL:
            tail = (tail + data)[-TAIL:]
    if stream.read(1):
        raise _longer(stream.name, format, size=size)
    if check_end is not None:
        check_end(tail, size)


def _refuse_empty(name: str, format: str, size: int) -> None:
    if size <= 0:
        raise InvalidImage(name, format=format, problem="it is empty")


def _truncated(name: str, format: str, *, found: int, size: int) -> TruncatedImage:
    return TruncatedImage(
        name, format=format, problem=f"it ends here, and {size} bytes were expected", offset=found
    )


def _longer(name: str, format: str, *, size: int) -> InvalidImage:
    return InvalidImage(
        name, format=format, problem=f"it goes on, and {size} bytes were expected", offset=size
    )
