"""The VHD format: footer, header and block table, as bytes and as values. Numbers are big-endian.

Microsoft's specification has the layout. A footer stands at the end of a file, and a copy of it at the
beginning.
"""

from __future__ import annotations

import struct
import sys
import uuid
from array import array
from dataclasses import dataclass

from xenvol.simulator.images.body import Broken

SECTOR = 512
BLOCK = 2 << 20
"""Bytes of a block in the VHDs that are written here."""
MAX_SIZE = 2040 << 30
HEADER_SIZE = 1024
UNUSED = 0xFFFFFFFF
"""The table entry of a block without data."""
DYNAMIC, DIFFERENCING = 3, 4

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_HEADER = struct.Struct(">8sQQIIII16sII512s")
_FOOTER_CHECKSUM, _HEADER_CHECKSUM = 64, 36
"""The offsets of the checksums."""
_FEATURES, _VERSION = 2, 0x00010000
_NO_DATA_OFFSET = (1 << 64) - 1
_EPOCH = 946684800
"""2000-01-01 in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Footer:
    data_offset: int
    """The offset of the header."""
    size: int
    """Bytes of the disk."""
    kind: int

    @classmethod
    def parse(cls, data: bytes) -> Footer:
        """Parse a footer; `Broken` for other data, or for a disk without a block table (a fixed one)."""
        cookie, _, version, data_offset, *_, size, _, _, _, kind, _, _, _ = _FOOTER.unpack_from(data)
        if cookie != b"conectix" or version != _VERSION:
            raise Broken("no VHD footer")
        if _checksum(data, _FOOTER_CHECKSUM) != struct.unpack_from(">I", data, _FOOTER_CHECKSUM)[0]:
            raise Broken("the checksum of the VHD footer is wrong")
        if kind not in (DYNAMIC, DIFFERENCING):
            raise Broken(f"a VHD of kind {kind}, which has no blocks")
        return cls(data_offset, size, kind)


@dataclass(frozen=True, slots=True)
class Header:
    table_offset: int
    entries: int
    block_size: int

    @property
    def table_size(self) -> int:
        return round_up(self.entries * 4, SECTOR)

    @property
    def bitmap_size(self) -> int:
        """Bytes of the sector bitmap in front of each block."""
        return round_up(-(-self.block_size // SECTOR // 8), SECTOR)

    @classmethod
    def parse(cls, data: bytes) -> Header:
        cookie, _, table_offset, _, entries, block_size, *_ = _HEADER.unpack_from(data)
        if cookie != b"cxsparse":
            raise Broken("no VHD header")
        if _checksum(data, _HEADER_CHECKSUM) != struct.unpack_from(">I", data, _HEADER_CHECKSUM)[0]:
            raise Broken("the checksum of the VHD header is wrong")
        if block_size < SECTOR or block_size & (block_size - 1):
            raise Broken(f"blocks of {block_size} bytes")
        return cls(table_offset, entries, block_size)


def footer_bytes(size: int, kind: int, seconds: int) -> bytes:
    """Return a footer.

    ``seconds`` is the time since 1970. Its creator makes readers use the size, not the geometry.
    """
    values = [
        b"conectix",
        _FEATURES,
        _VERSION,
        SECTOR,
        max(0, seconds - _EPOCH),
        b"tap\0",
        _VERSION,
        b"\0\0\0\0",
        size,
        size,
        *_geometry(size),
        kind,
        0,
        uuid.uuid4().bytes,
        0,
    ]
    return _with_checksum(_FOOTER.pack(*values).ljust(SECTOR, b"\0"), _FOOTER_CHECKSUM)


def header_bytes(entries: int, table_offset: int, *, parent: str = "", seconds: int = 0) -> bytes:
    """Return a header. ``parent`` is the uuid of the disk that holds the other blocks."""
    values = [
        b"cxsparse",
        _NO_DATA_OFFSET,
        table_offset,
        _VERSION,
        entries,
        BLOCK,
        0,
        uuid.UUID(parent).bytes if parent else bytes(16),
        max(0, seconds - _EPOCH) if parent else 0,
        0,
        (f"{parent}.vhd" if parent else "").encode("utf-16-be"),
    ]
    return _with_checksum(_HEADER.pack(*values).ljust(HEADER_SIZE, b"\0"), _HEADER_CHECKSUM)


def table_bytes(places: array[int]) -> bytes:
    """Return a block table; ``places`` are sectors, `UNUSED` for a block without data."""
    if sys.byteorder == "little":
        places = places[:]
        places.byteswap()
    return places.tobytes()


def table_places(data: bytes, entries: int) -> array[int]:
    places = array("I", data[: entries * 4])
    if sys.byteorder == "little":
        places.byteswap()
    return places


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _checksum(data: bytes, at: int) -> int:
    """Return the complement of the sum of all bytes but the checksum's own."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def _with_checksum(data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack(">I", _checksum(data, at)) + data[at + 4 :]


def _geometry(size: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors per track, by the rule of the specification's appendix."""
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        per_track, heads, tracks = 255, 16, sectors // 255
    else:
        per_track, tracks = 17, sectors // 17
        heads = max(4, -(-tracks // 1024))
        if tracks >= heads * 1024 or heads > 16:
            per_track, heads, tracks = 31, 16, sectors // 31
        if tracks >= heads * 1024:
            per_track, heads, tracks = 63, 16, sectors // 63
    return tracks // heads, heads, per_track
