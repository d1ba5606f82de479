"""Read a VHD's bytes from a file or a stream: within its bounds, and once from a stream.

Both end with the same check: the last 512 bytes are a footer that agrees with the one at the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from xenvol.images.disk_image import PIECE, SECTOR, ByteFile, EndOfFile, NeedsFile, Piece, Stream
from xenvol.images.errors import InvalidImage
from xenvol.images.formats.vhd_fields import (
    FOOTER_SIZE,
    UNUSED,
    Footer,
    bad,
    cut,
    has_cookie,
    is_footer,
    parse_footer,
)
from xenvol.images.formats.vhd_footers import SEARCHED, find_last

_LONGEST = UNUSED * SECTOR + (1 << 30)  # bytes; no block begins beyond what 32 bits of sectors can express


class VHDBytes(Protocol):
    """Where a layer reads its bytes."""

    name: str

    def pread(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes. Raises TruncatedImage, NeedsFile if a stream is past them, SourceError."""
        ...

    def fixed(self, virtual_size: int) -> Iterator[Piece]:
        """Yield the pieces of a fixed VHD's disk, which lies at the beginning."""
        ...

    def finish(self, footer: Footer | None, end: int) -> Footer:
        """Read to the end, and return the footer there; `end` is the end of what the tables name."""
        ...


class VHDFile:
    def __init__(self, file: ByteFile) -> None:
        self._file = file
        self.name = file.name

    def pread(self, offset: int, size: int) -> bytes:
        if offset + size > self._file.size:
            raise _ends(self.name, self._file.size, offset + size)
        try:
            return self._file.pread(offset, size)
        except EndOfFile as error:
            raise _ends(self.name, self._file.size, offset + size) from error

    def fixed(self, virtual_size: int) -> Iterator[Piece]:
        """Yield the pieces without the holes of the file."""
        done = 0  # end of the range before; two ranges may share a sector
        for start, end in self._file.data_ranges():
            position = max(done, start // SECTOR * SECTOR)
            done = min(-(-end // SECTOR) * SECTOR, virtual_size)
            while position < done:
                size = min(PIECE - position % PIECE, done - position)
                yield Piece(position, self.pread(position, size))
                position += size

    def finish(self, footer: Footer | None, end: int) -> Footer:
        last = self.pread(self._file.size - FOOTER_SIZE, FOOTER_SIZE)
        return check_end(last, footer, image=self.name, size=self._file.size, end=end)


class VHDStream:
    def __init__(self, stream: Stream, *, longest: int = _LONGEST) -> None:
        self._stream = stream
        self._longest = longest
        self._position = 0
        self.name = stream.name

    def pread(self, offset: int, size: int) -> bytes:
        if offset < self._position:
            raise NeedsFile(
                f"byte {offset} of {self.name} is wanted after byte {self._position}, which a stream cannot give"
            )
        self._skip_to(offset)
        data = self._read(size)
        if len(data) < size:
            raise _ends(self.name, self._position, offset + size)
        return data

    def fixed(self, virtual_size: int) -> Iterator[Piece]:
        for offset in range(0, virtual_size, PIECE):
            yield Piece(offset, self.pread(offset, min(PIECE, virtual_size - offset)))

    def finish(self, footer: Footer | None, end: int) -> Footer:
        tail = b""
        while data := self._read(PIECE):
            tail = (tail + data)[-SEARCHED:]
        found, size = find_last(tail, self._position), self._position
        last = tail[-FOOTER_SIZE:]
        if found is not None:
            last, size = found.data, found.offset + FOOTER_SIZE
        return check_end(last, footer, image=self.name, size=size, end=end)

    def _skip_to(self, offset: int) -> None:
        while self._position < offset:
            if not self._read(min(PIECE, offset - self._position)):
                raise _ends(self.name, self._position, offset)

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        if self._position > self._longest:
            raise bad(self.name, "it is longer than any VHD", offset=self._position)
        return data


def check_end(last: bytes, footer: Footer | None, *, image: str, size: int, end: int) -> Footer:
    """Check the `last` bytes of an image of `size` bytes. Only a footer may follow `end`.

    A `footer` from the beginning must agree with it, or stands for it, if it is damaged. Raises InvalidImage.
    """
    if not is_footer(last):
        if footer is None or not is_damaged_footer(last, size=size, end=end):
            raise no_end(image, size=size, end=end)
        return footer
    found = parse_footer(last, image=image, offset=size - FOOTER_SIZE)
    if size < end + FOOTER_SIZE:
        raise _ends(image, size, end + FOOTER_SIZE)
    if footer is not None:
        compare(footer, found, image=image, size=size)
    return found


def is_damaged_footer(last: bytes, *, size: int, end: int) -> bool:
    """Return whether the `last` bytes are in the place of the footer, so that nothing but the footer is lost."""
    return size == end + FOOTER_SIZE or (size > end + FOOTER_SIZE and has_cookie(last))


def no_end(image: str, *, size: int, end: int) -> InvalidImage:
    """Return the error for an image that does not end with a footer."""
    if size < end + FOOTER_SIZE:
        return _ends(image, size, end + FOOTER_SIZE)
    return bad(
        image,
        "its last 512 bytes are not a footer: its end was cut off, or something was appended to it",
        offset=size - FOOTER_SIZE,
        remedy=f"cut what follows, with `truncate -s {end + FOOTER_SIZE}`, if you know that it does not belong to it",
    )


def compare(first: Footer, last: Footer, *, image: str, size: int) -> None:
    """Raise InvalidImage if two good footers describe different disks."""
    for what, one, other in (
        ("type", first.kind, last.kind),
        ("size", first.virtual_size, last.virtual_size),
        ("UUID", first.uuid, last.uuid),
        ("header's place", first.data_offset, last.data_offset),
    ):
        if one != other:
            raise bad(
                image,
                f"its two footers disagree about its {what}: {one} at its beginning, {other} at its end",
                offset=size - FOOTER_SIZE,
            )


def _ends(image: str, size: int, wanted: int) -> InvalidImage:
    return cut(image, f"it ends at byte {size}, and by its own tables goes on to byte {wanted}", offset=size)
