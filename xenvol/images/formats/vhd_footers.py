"""Find the footer that ends a VHD: in the last 512 bytes, or where tools and accidents have left it.

Early releases of Virtual PC wrote 511 bytes. Some tools pad a file with zeros, to 4 KiB or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from xenvol.images.disk_image import SECTOR, ByteFile, EndOfFile
from xenvol.images.formats.vhd_fields import FOOTER_SIZE, has_cookie, is_fixed_footer, is_footer

SEARCHED: Final = 1 << 20
"""Bytes from the end in which a footer is looked for."""
_SHORT: Final = FOOTER_SIZE - 1


class LastFooter(NamedTuple):
    """The footer, and its offset in the file; a byte that is missing at its end is a zero here."""

    offset: int
    data: bytes

    @property
    def is_fixed(self) -> bool:
        """Return whether it is the undamaged footer of a fixed VHD."""
        return is_fixed_footer(self.data)


def find_last(tail: bytes, size: int) -> LastFooter | None:
    """Return the footer in the `tail` of a file of `size` bytes, or None.

    In the last 512 or 511 bytes the cookie is enough, so that a damaged footer is found too. With zeros behind it the
    footer must be good: zeros follow the data of many disks, and a file of a guest's may lie there.
    """
    for length in (FOOTER_SIZE, _SHORT):
        if has_cookie(tail[-length:]) and len(tail) >= length:
            return LastFooter(size - length, tail[-length:].ljust(FOOTER_SIZE, b"\0"))
    at = tail.rfind(b"conectix")
    offset = size - len(tail) + at
    data = tail[at : at + FOOTER_SIZE]
    if at < 0 or offset % SECTOR or not is_footer(data) or tail[at + FOOTER_SIZE :].strip(b"\0"):
        return None
    return LastFooter(offset, data)


class WholeVHD:
    """A file that ends with its footer, whatever follows, or is missing, in the real one."""

    def __init__(self, file: ByteFile, footer: LastFooter) -> None:
        self.name = file.name
        self.size = footer.offset + FOOTER_SIZE
        self._file = file
        self._footer = footer

    def pread(self, offset: int, size: int, /) -> bytes:
        """Return exactly `size` bytes. Raises EndOfFile beyond the footer, SourceError."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise EndOfFile(f"{self.name} has {self.size} bytes; {size} at {offset} were asked for")
        before = max(0, min(size, self._footer.offset - offset))
        rest = max(0, offset - self._footer.offset)
        data = self._file.pread(offset, before) if before else b""
        return data + self._footer.data[rest : rest + size - before]

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each range that is not a hole of the file."""
        for start, end in self._file.data_ranges():
            if start >= self.size:
                return
            yield start, min(end, self.size)


def ending_with_its_footer(file: ByteFile) -> ByteFile:
    """Return the file, or one of its bytes that ends where its last footer does. Raises SourceError."""
    start = max(0, file.size - SEARCHED)
    found = find_last(file.pread(start, file.size - start), file.size)
    return file if found is None or found.offset == file.size - FOOTER_SIZE else WholeVHD(file, found)
