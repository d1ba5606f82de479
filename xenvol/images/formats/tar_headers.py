"""Parse the headers of a tar, blocks of 512 bytes: POSIX ustar and pax, and GNU's.

The walk does no I/O, and holds one header. The claims of an untrusted tar are bounded: the number and size of
members, the length of names, the zeros at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from xenvol.images.errors import InvalidImage, TruncatedImage

BLOCK: Final = 512
MAX_ENTRIES: Final = 1000  # headers; the longest chain of VHDs has 30
MAX_MEMBER: Final = 2 << 40  # bytes; a VHD of 2040 GiB with its tables and bitmaps is smaller
MAX_EXTENSION: Final = (
    1 << 20
)  # bytes of a name, or of pax records; Linux's extended attributes have 64 KiB each
MAX_SEGMENTS: Final = (
    1 << 20
)  # parts of a sparse file; a disk of 2 TiB that is as fragmented has one each 2 MiB
MAX_PADDING: Final = 4 << 20  # bytes of zeros at the end; `tar -b 2048` pads to records of 1 MiB
_ZERO_BLOCK: Final = bytes(BLOCK)
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a directory",
    b"6": "a pipe",
    b"D": "a directory's list",
    b"M": "a part of a file",
    b"S": "a sparse file of GNU tar (make it without --sparse)",
    b"V": "a volume's name",
}
_REGULAR: Final = (b"0", b"\0", b"7")  # 7: contiguous, which no system knows


class Member(NamedTuple):
    """`offset` is the header's; `size` bytes of data begin at `start`. All in bytes of the tar."""

    name: str
    kind: str
    """``file``, or another kind with its article."""
    size: int
    offset: int
    start: int
    real_size: int
    """Bytes of the file; more than `size` if it is sparse."""
    segments: Sequence[tuple[int, int]]
    """Offset in the file and size of each part that is stored, in order."""

    @property
    def end(self) -> int:
        """Return the offset of the next header. Data is padded to whole blocks."""
        return self.start + self.size + -self.size % BLOCK


class Bad(NamedTuple):
    """Makes the errors, which name the image."""

    image: str

    def tar(self, problem: str, offset: int, remedy: str | None = None) -> InvalidImage:
        return InvalidImage(self.image, format="tarball", problem=problem, offset=offset, remedy=remedy)

    def cut(self, problem: str, offset: int) -> TruncatedImage:
        return TruncatedImage(self.image, format="tarball", problem=problem, offset=offset)


class Headers:
    """Walks from header to header. `read` returns `size` bytes of the tar at an offset, or fewer at its end.

    The offsets only grow, so that a stream can be read as well as a file.
    """

    def __init__(self, image: str, read: Callable[[int, int], bytes]) -> None:
        self._bad = Bad(image)
        self._read = read
        self._position = 0
        self._entries = 0

    def next(self) -> Member | None:
        """Return the next member; None after the last, when all zeros up to the end have been read.

        Raises InvalidImage, TruncatedImage, and what `read` raises.
        """
        first = self._position
        name: str | None = None
        size: int | None = None
        while (block := self._block()) is not None:
            offset = self._position
            kind, claimed = block[156:157], self._number(block[124:136], offset + 124)
            self._position += BLOCK
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                extension = self._extension(claimed, offset)
                if kind == b"L":
                    name = _text(extension.split(b"\0", 1)[0])
                elif kind != b"K":  # K: the target of a link
                    records = self._records(extension, offset)
                    if kind == b"g" and not records.keys().isdisjoint((b"path", b"size")):
                        raise self._bad.tar("it gives all its members the same name or size", offset)
                    name = _text(records[b"path"]) if b"path" in records else name
                    size = self._decimal(records[b"size"], offset) if b"size" in records else size
                continue
            return self._member(block, kind, name, claimed if size is None else size, offset)
        if first != self._position:
            raise self._bad.tar("it ends with a name, and the member that has it is missing", first)
        self._end()
        return None

    def _member(self, block: bytes, kind: bytes, name: str | None, size: int, offset: int) -> Member:
        if name is None:
            name = _text(block[:100].split(b"\0", 1)[0])
            prefix = block[345:500].split(b"\0", 1)[0]
            if prefix and block[257:263] == b"ustar\0":  # GNU ("ustar ") has other fields there
                name = f"{_text(prefix)}/{name}"
        what = "file" if kind in _REGULAR else _KINDS.get(kind, f"of the unknown kind {kind!r}")
        if what == "file" and name.endswith("/"):
            what = "a directory"  # V7 spells a directory so
        if what != "file" and kind != b"S":
            size = 0  # the size of a directory is a limit for its content
        real_size, segments = size, [(0, size)] if size else []
        if kind == b"S":
            real_size, segments = self._sparse_map(block, size, offset)
        if real_size > MAX_MEMBER:
            raise self._bad.tar(f"{shown(name)} has {real_size} bytes, and no disk is so large", offset)
        member = Member(name, what, size, offset, self._position, real_size, segments)
        self._position = member.end
        return member

    def _sparse_map(self, block: bytes, size: int, offset: int) -> tuple[int, list[tuple[int, int]]]:
        """Return the size and the stored parts of a sparse file, as GNU tar's older format has them.

        The header has four parts; blocks of 21 follow while a flag says so. Parts do not overlap. Each begins with a
        sector.
        """
        real_size = self._number(block[483:495], offset + 483)
        entries, has_more = [block[at : at + 24] for at in range(386, 482, 24)], block[482]
        segments: list[tuple[int, int]] = []
        end = stored = 0
        while True:
            for entry in entries:
                start, length = self._number(entry[:12], offset), self._number(entry[12:], offset)
                if not length:
                    continue
                if (
                    start < end
                    or start % BLOCK
                    or start + length > real_size
                    or len(segments) == MAX_SEGMENTS
                ):
                    raise self._bad.tar("the map of a sparse file is damaged", offset)
                segments.append((start, length))
                end, stored = start + length, stored + length
            if not has_more:
                break
            more = self._read(self._position, BLOCK)
            if len(more) < BLOCK:
                raise self._bad.cut("it ends in the map of a sparse file", self._position + len(more))
            self._position += BLOCK
            entries, has_more = [more[at : at + 24] for at in range(0, 504, 24)], more[504]
            if not any(entry.strip(b"\0") for entry in entries):
                raise self._bad.tar("the map of a sparse file goes on with nothing", offset)
        if stored != size:
            raise self._bad.tar("the map of a sparse file is damaged", offset)
        return real_size, segments

    def _block(self) -> bytes | None:
        """Return the header at this position; None for a block of zeros, which ends the tar."""
        block = self._read(self._position, BLOCK)
        if len(block) < BLOCK:
            raise self._bad.cut("it ends without the zeros that a tar ends with", self._position + len(block))
        if block == _ZERO_BLOCK:
            return None
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise self._bad.tar(f"it has more than {MAX_ENTRIES} members", self._position)
        said = self._number(block[148:156], self._position + 148)
        blank = block[:148] + b" " * 8 + block[156:]
        unsigned = sum(blank)
        # old tars add signed characters
        if said not in (unsigned, unsigned - 256 * sum(byte > 127 for byte in blank)):
            raise self._bad.tar("the checksum of a member's header is wrong", self._position)
        return block

    def _extension(self, size: int, offset: int) -> bytes:
        if size > MAX_EXTENSION:
            raise self._bad.tar(f"a member's name or attributes have {size} bytes", offset)
        padded = size + -size % BLOCK
        data = self._read(self._position, padded)
        if len(data) < padded:
            raise self._bad.cut("it ends in a member's name or attributes", self._position + len(data))
        self._position += padded
        return data[:size]

    def _records(self, data: bytes, offset: int) -> dict[bytes, bytes]:
        """Return the records of a pax header: ``length key=value\\n`` each, the length counting the whole record."""
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(data) and data[position:].strip(b"\0"):
            match = re.compile(rb"([0-9]{1,7}) ([^=\0]+)=").match(data, position)
            end = position + int(match[1]) if match else 0
            if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
                raise self._bad.tar("the attributes of a member are damaged", offset)
            if match[2].startswith(b"GNU.sparse."):
                raise self._bad.tar(f"it holds {_KINDS[b'S']}", offset)
            records[match[2]] = data[match.end() : end - 1]
            position = end
        return records

    def _number(self, field: bytes, offset: int) -> int:
        """Return the number of an octal text, or of GNU's base 256."""
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        text = field.split(b"\0", 1)[0].strip(b" ")
        if not re.fullmatch(b"[0-7]*", text):
            raise self._bad.tar("a number in a member's header is invalid", offset)
        return int(text or b"0", 8)

    def _decimal(self, text: bytes, offset: int) -> int:
        if not re.fullmatch(b"[0-9]{1,20}", text):
            raise self._bad.tar("the size of a member is no number", offset)
        return int(text)

    def _end(self) -> None:
        """Check that only zeros follow, and few of them."""
        start = self._position
        while data := self._read(self._position, 64 << 10):
            if data.strip(b"\0"):
                at = self._position + len(data) - len(data.lstrip(b"\0"))
                raise self._bad.tar("bytes follow its end", at)
            self._position += len(data)
            if self._position - start > MAX_PADDING:
                raise self._bad.tar("too many zeros follow its end", start)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def shown(name: str) -> str:
    """Return an untrusted name for a message: short, and without characters that could garble a terminal."""
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:96]}…{text[-1]}"
