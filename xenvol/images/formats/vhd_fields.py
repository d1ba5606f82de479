"""Parse, check and write the structures of a VHD. Every field is untrusted, and is checked here.

All numbers are big-endian. Source: "Virtual Hard Disk Image Format Specification" 1.0 (Microsoft, 2006);
`is_hidden`, which lies in its reserved bytes, is blktap's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from xenvol.images.disk_image import SECTOR, VHD_MAX
from xenvol.images.errors import ImageTooLarge, InvalidImage, TruncatedImage, UnsupportedImage

Kind = Literal["fixed", "dynamic", "differencing"]

FOOTER_SIZE = 512
HEADER_SIZE = 1024
BLOCK_SIZE = 2 << 20
"""Bytes; every writer uses this size."""
UNUSED = 0xFFFFFFFF
"""An entry of the block table for a block that is not stored."""

_FOOTER = struct.Struct(">8s I I Q I 4s I 4s Q Q H B B I I 16s B B 426x")
_HEADER = struct.Struct(">8s Q Q I I I I 16s I 4x 512s 192x 256x")
_COOKIE = b"conectix"
_HEADER_COOKIE = b"cxsparse"
_VERSION = 0x00010000
_NOWHERE = (1 << 64) - 1
_KINDS: dict[int, Kind] = {2: "fixed", 3: "dynamic", 4: "differencing"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_LEAST_BLOCK, _LARGEST_BLOCK = (
    512 << 10,
    256 << 20,
)  # the specification names 512 KiB and 2 MiB; no writer uses more
_LARGEST_TABLE = 2 << 40  # bytes of a disk; storage managers make room for a disk of 2 TiB, to resize it

# offsets of the fields that errors name
_VERSION_AT, _CURRENT_SIZE_AT, _KIND_AT, _SUM_AT = 12, 48, 60, 64
_TABLE_AT, _HEADER_VERSION_AT, _ENTRIES_AT, _BLOCK_SIZE_AT, _HEADER_SUM_AT, _PARENT_AT = (
    16,
    24,
    28,
    32,
    36,
    40,
)


@dataclass(frozen=True, kw_only=True)
class Footer:
    kind: Kind
    virtual_size: int
    """Bytes of the disk: the "current size". The geometry gives less if the size is not a whole number of cylinders."""
    data_offset: int
    """Offset of the header; meaningless in a fixed VHD."""
    uuid: UUID
    is_hidden: bool
    """Whether it is only a parent of other VHDs, and no disk of its own."""


@dataclass(frozen=True, kw_only=True)
class Header:
    table_offset: int
    entries: int
    """Entries of the block table; there may be more than the disk needs."""
    block_size: int
    parent_uuid: UUID
    """Zeros except in a differencing VHD; zeros there mean a raw parent."""
    parent_name: str

    @property
    def bitmap_size(self) -> int:
        """Return the bytes of the bitmap before each block: a bit for a sector, in whole sectors."""
        return -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR

    @property
    def stride(self) -> int:
        """Return the bytes of a block in the file, with its bitmap."""
        return self.bitmap_size + self.block_size

    @property
    def table_end(self) -> int:
        return self.table_offset + 4 * self.entries


def bad(image: str, problem: str, *, offset: int | None = None, remedy: str | None = None) -> InvalidImage:
    return InvalidImage(image, format="vhd", problem=problem, offset=offset, remedy=remedy)


def cut(image: str, problem: str, *, offset: int | None = None) -> TruncatedImage:
    return TruncatedImage(image, format="vhd", problem=problem, offset=offset)


def checksum(structure: bytes, at: int) -> int:
    """Return the complement of the sum of all bytes but the four `at` which it is stored."""
    return ~(sum(structure) - sum(structure[at : at + 4])) & 0xFFFFFFFF


def is_footer(data: bytes) -> bool:
    """Return whether these bytes are an undamaged footer. Its content may still be wrong."""
    return (
        len(data) == FOOTER_SIZE
        and data.startswith(_COOKIE)
        and data[_SUM_AT : _SUM_AT + 4] == checksum(data, _SUM_AT).to_bytes(4, "big")
    )


def is_fixed_footer(data: bytes) -> bool:
    return is_footer(data) and data[_KIND_AT : _KIND_AT + 4] == (2).to_bytes(4, "big")


def has_cookie(data: bytes) -> bool:
    return data.startswith(_COOKIE)


def parse_footer(data: bytes, *, image: str, offset: int) -> Footer:
    """Parse a footer that lies at `offset` of the image. Raises InvalidImage, UnsupportedImage, ImageTooLarge."""
    if len(data) < FOOTER_SIZE:
        raise cut(image, "it is shorter than a footer", offset=offset + len(data))
    _, _, version, data_offset, _, _, _, _, _, size, _, _, _, number, found, uuid, _, hidden = _FOOTER.unpack(
        data
    )
    if not data.startswith(_COOKIE):
        raise bad(image, "it has no footer", offset=offset)
    if found != checksum(data, _SUM_AT):
        raise bad(
            image,
            f"its footer is damaged: it has the checksum {found:#010x}, and {checksum(data, _SUM_AT):#010x} is right",
            offset=offset + _SUM_AT,
        )
    if version != _VERSION:
        raise _version(image, "footer", version)
    kind = _KINDS.get(number)
    if kind is None:
        raise bad(image, f"no VHD is of the type {number}", offset=offset + _KIND_AT)
    check_virtual_size(size, image=image, offset=offset + _CURRENT_SIZE_AT)
    return Footer(
        kind=kind, virtual_size=size, data_offset=data_offset, uuid=UUID(bytes=uuid), is_hidden=hidden == 1
    )


def check_virtual_size(size: int, *, image: str, offset: int | None = None) -> None:
    """Check the size of the disk. Raises InvalidImage, ImageTooLarge."""
    if size <= 0:
        raise bad(image, "its disk has no size", offset=offset)
    if size % SECTOR:
        raise bad(image, f"its disk has {size} bytes, which are not whole sectors", offset=offset)
    if size > VHD_MAX:
        raise ImageTooLarge(image, size=size, limit=VHD_MAX, what="a VHD")


def parse_header(data: bytes, footer: Footer, *, image: str, offset: int) -> Header:
    """Parse a header, which must fit the footer. Raises InvalidImage, UnsupportedImage."""
    if len(data) < HEADER_SIZE:
        raise cut(image, "it ends in its header", offset=offset + len(data))
    _, _, table, version, entries, block_size, found, parent, _, name = _HEADER.unpack(data)
    if not data.startswith(_HEADER_COOKIE):
        raise bad(image, "there is no header where its footer says", offset=offset)
    if found != checksum(data, _HEADER_SUM_AT):
        raise bad(
            image,
            f"its header is damaged: it has the checksum {found:#010x}, and "
            f"{checksum(data, _HEADER_SUM_AT):#010x} is right",
            offset=offset + _HEADER_SUM_AT,
        )
    if version != _VERSION:
        raise _version(image, "header", version)
    if not _LEAST_BLOCK <= block_size <= _LARGEST_BLOCK or block_size & (block_size - 1):
        raise bad(
            image,
            f"it has blocks of {block_size} bytes; {_LEAST_BLOCK} to {_LARGEST_BLOCK} are valid, in powers of two",
            offset=offset + _BLOCK_SIZE_AT,
        )
    needed = -(-footer.virtual_size // block_size)
    most = max(needed, _LARGEST_TABLE // block_size) + 1  # qemu made one more until 2.5
    if not needed <= entries <= most:
        raise bad(
            image,
            f"its block table has {entries} entries, and a disk of {footer.virtual_size} bytes needs {needed}",
            offset=offset + _ENTRIES_AT,
        )
    if table < FOOTER_SIZE or (table < offset + HEADER_SIZE and table + 4 * entries > offset):
        raise bad(image, "its block table lies over its header or its footer", offset=offset + _TABLE_AT)
    parent_uuid = UUID(bytes=parent)
    if footer.kind == "differencing" and parent_uuid == footer.uuid:
        raise bad(image, f"it is its own parent ({parent_uuid})", offset=offset + _PARENT_AT)
    return Header(
        table_offset=table,
        entries=entries,
        block_size=block_size,
        parent_uuid=parent_uuid,
        parent_name=name.decode("utf-16-be", "replace").partition("\0")[0],
    )


def _version(image: str, what: str, version: int) -> UnsupportedImage:
    return UnsupportedImage(
        image,
        problem=f"its {what} is a VHD's of version {version >> 16}.{version & 0xFFFF}, and xenvol reads only 1.0",
        remedy="convert it with `qemu-img convert`",
    )


def pack_footer(footer: Footer, *, created: int) -> bytes:
    """Return the bytes of a footer; `created` is in seconds since 2000."""
    cylinders, heads, sectors = _geometry(footer.virtual_size // SECTOR)
    packed = _FOOTER.pack(
        _COOKIE,
        2,  # a reserved bit that is always set
        _VERSION,
        footer.data_offset,
        created & 0xFFFFFFFF,
        b"tap\0",  # as xapi's tools; for other creators qemu takes the disk's size from the geometry
        0x00010003,  # the version of those tools
        bytes(4),
        footer.virtual_size,
        footer.virtual_size,
        cylinders,
        heads,
        sectors,
        _NUMBERS[footer.kind],
        0,
        footer.uuid.bytes,
        0,
        int(footer.is_hidden),
    )
    return _with_checksum(packed, _SUM_AT)


def pack_header(header: Header) -> bytes:
    packed = _HEADER.pack(
        _HEADER_COOKIE,
        _NOWHERE,
        header.table_offset,
        _VERSION,
        header.entries,
        header.block_size,
        0,
        header.parent_uuid.bytes,
        0,
        header.parent_name.encode("utf-16-be"),
    )
    return _with_checksum(packed, _HEADER_SUM_AT)


def _with_checksum(structure: bytes, at: int) -> bytes:
    return structure[:at] + checksum(structure, at).to_bytes(4, "big") + structure[at + 4 :]


def _geometry(total: int) -> tuple[int, int, int]:
    """Return the cylinders, heads and sectors per track for so many sectors, by the specification's appendix."""
    total = min(total, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    tracks = total // 17
    heads = max(4, (tracks + 1023) // 1024)
    if tracks < heads * 1024 and heads <= 16:
        return tracks // heads, heads, 17
    if total // 31 < 16 * 1024:
        return total // 31 // 16, 16, 31
    return total // 63 // 16, 16, 63
