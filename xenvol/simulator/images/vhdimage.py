"""Write a disk as a VHD as vhd-tool does: metadata, then the blocks with data, each with a full sector bitmap.

A VHD has whole blocks, so its disk may be a little larger than the original (vhd_format/f.ml).
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from xenvol.simulator.images.vhdformat import (
    BLOCK,
    DIFFERENCING,
    DYNAMIC,
    SECTOR,
    UNUSED,
    footer_bytes,
    header_bytes,
    round_up,
    table_bytes,
)
from xenvol.simulator.sm.sparse import data_ranges

_TABLE_OFFSET = 2048
"""The offset after footer, header and a sector for a locator of the parent, which stays empty."""
_BITMAP = b"\xff" * (BLOCK // SECTOR // 8)


@dataclass(frozen=True, slots=True)
class Range:
    """A range of the disk's bytes, which the sender can copy straight from the file."""

    offset: int
    size: int


def parts(disk: BinaryIO, size: int, *, seconds: int) -> Iterator[bytes | Range]:
    """Yield a dynamic VHD of all blocks that hold data."""
    return _parts(size, allocated(disk, size), DYNAMIC, "", seconds)


def delta_parts(
    disk: BinaryIO, size: int, base: BinaryIO, base_size: int, base_uuid: str, *, seconds: int
) -> Iterator[bytes | Range]:
    """Yield a differencing VHD of the blocks that differ from the base; both disks are read to find them."""
    candidates = sorted({*allocated(disk, size), *allocated(base, min(size, base_size))})
    blocks = [n for n in candidates if _block(disk, n, size) != _block(base, n, base_size)]
    return _parts(size, blocks, DIFFERENCING, base_uuid, seconds)


def allocated(disk: BinaryIO, size: int) -> list[int]:
    """Return the numbers of the blocks that are not wholly a hole of the file."""
    blocks: dict[int, None] = {}
    for start, end in data_ranges(disk, size):
        blocks |= dict.fromkeys(range(start // BLOCK, -(-min(end, size) // BLOCK)))
    return list(blocks)


def _block(disk: BinaryIO, number: int, size: int) -> bytes:
    offset = number * BLOCK
    return os.pread(disk.fileno(), max(0, min(BLOCK, size - offset)), offset).ljust(BLOCK, b"\0")


def _parts(size: int, blocks: list[int], kind: int, parent: str, seconds: int) -> Iterator[bytes | Range]:
    entries = -(-size // BLOCK)
    table_size = round_up(entries * 4, SECTOR)
    first, step = (_TABLE_OFFSET + table_size) // SECTOR, (BLOCK + len(_BITMAP)) // SECTOR
    table = array("I", [UNUSED]) * (table_size // 4)
    for position, number in enumerate(blocks):
        table[number] = first + position * step
    footer = footer_bytes(entries * BLOCK, kind, seconds)
    header = header_bytes(entries, _TABLE_OFFSET, parent=parent, seconds=seconds)
    yield (footer + header).ljust(_TABLE_OFFSET, b"\0") + table_bytes(table)
    for number in blocks:
        there = min(BLOCK, size - number * BLOCK)
        yield _BITMAP
        yield Range(number * BLOCK, there)
        if there < BLOCK:
            yield bytes(BLOCK - there)
    yield footer
