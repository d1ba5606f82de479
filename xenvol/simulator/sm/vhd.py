"""The sizes of VHDs and of their logical volumes, computed as by vhd-util and lvm2 (traces sm/21, sm/24)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xenvol.simulator.sm.smfailure import SMFailure
from xenvol.simulator.sm.sparse import data_ranges

MIB = 1 << 20
BLOCK = 2 * MIB
"""Bytes that a VHD allocates at a time."""
MAX_SIZE = 2040 << 30
MAX_CHAIN = 30
EXTENT = 4 * MIB
"""Bytes that LVM allocates at a time."""
_SECTOR = 512
_BLOCK_ON_DISK = BLOCK + 4096
"""A block with its bitmap, padded so that data starts on a page."""
_LARGEST = 2 << 40
"""A VHD on LVM has tables for this size, so that it can grow in place."""


@dataclass(slots=True)
class Vhd:
    """The content of a VHD's own tables; the guest's bytes are in `File.data` or `LogicalVolume.data`."""

    virtual_size: int
    parent: str | None = None
    """The uuid of the VHD that it was cut from."""
    hidden: bool = False
    inherited: int = 0
    """Blocks of guest data that a parent held when this VHD was cut from it.

    A real VHD copies such a block when it is overwritten; this model does not.
    """
    own: int | None = None
    """Blocks of a base copy, whose data is not kept."""


def validated(size: int) -> int:
    """Return the size that a disk gets if ``size`` was requested; 79 beyond the limits (trace sm/21#17-26)."""
    if size < 0 or size > MAX_SIZE:
        raise SMFailure(79, f"VDI size must be between 1 MB and {MAX_SIZE // MIB} MB")
    return round_up(max(size, BLOCK), BLOCK)


def length(vhd: Vhd, data_blocks: int = 0) -> int:
    """Return the file's bytes: two footers, header, block table, its bitmap, three parent locators (trace sm/21#57)."""
    locators = 3 * _SECTOR if vhd.parent else 0
    own = max(0, data_blocks - vhd.inherited) if vhd.own is None else vhd.own
    return _tables(vhd.virtual_size) + locators + own * _BLOCK_ON_DISK


def length_on_lvm(vhd: Vhd, data_blocks: int = 0) -> int:
    """Return the bytes that the VHD needs of its logical volume."""
    return length(replace(vhd, virtual_size=_LARGEST), data_blocks)


def thick_volume(virtual_size: int) -> int:
    """Return the size of the logical volume for a VHD that may fill up:

    108 MiB for 100 MiB (trace sm/24#15).
    """
    blocks = -(-virtual_size // BLOCK)
    return round_up(virtual_size + _EMPTY_ON_LVM + blocks * 4096, EXTENT)


def thin_volume() -> int:
    """Return the size of the logical volume for a VHD without data."""
    return round_up(_EMPTY_ON_LVM, EXTENT)


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def data_blocks(data: Path | None) -> int:
    """Return how many of a sparse file's VHD blocks hold data."""
    if data is None or not data.exists():
        return 0
    count = counted = 0
    with data.open("rb") as file:
        for start, end in data_ranges(file, data.stat().st_size):
            after = -(-end // BLOCK)
            count += after - max(start // BLOCK, counted)
            counted = after
    return count


def _tables(virtual_size: int) -> int:
    blocks = -(-virtual_size // BLOCK)
    table = round_up(blocks * 4, _SECTOR)
    bitmap = round_up(-(-blocks // 8), _SECTOR)
    return 2 * _SECTOR + 1024 + table + _SECTOR + bitmap


def _reserved(virtual_size: int) -> int:
    """Return the bytes that SM reserves for the tables, which is more than they take."""
    blocks = virtual_size // BLOCK
    return round_up(round_up(3 * 1024 + blocks * 4, _SECTOR) + blocks // 8, 4096)


_EMPTY_ON_LVM = _reserved(_LARGEST)
