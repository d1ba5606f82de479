"""How big VHDs and their logical volumes are: arithmetic, as vhd-util and lvm2 did it (traces sm/21, sm/24)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from xenvol.simulator.sm.smfailure import SMFailure
from xenvol.simulator.sm.sparse import data_ranges

MIB = 1 << 20
BLOCK = 2 * MIB
"""What a VHD allocates at a time."""
MAX_SIZE = 2040 << 30
MAX_CHAIN = 30
EXTENT = 4 * MIB
"""What LVM allocates at a time."""
_SECTOR = 512
_BLOCK_ON_DISK = BLOCK + 4096
"""With its bitmap, padded so that data starts on a page."""
_LARGEST = 2 << 40
"""A VHD on LVM has its tables made for this size, so that it can grow in place."""


@dataclass(slots=True)
class Vhd:
    """What a VHD's own tables say; the guest's bytes lie elsewhere (`Disk.data`)."""

    virtual_size: int
    parent: str | None = None
    """The uuid of the VHD that it was cut from."""
    hidden: bool = False
    inherited: int = 0
    """Blocks of the guest's data that a parent held when this one was cut from it. To write over one of them makes
    a copy in a real VHD; here it is not seen."""
    own: int | None = None
    """Blocks that a base copy holds, whose data nobody keeps."""


def validated(size: int) -> int:
    """The size that a disk gets that was asked for with ``size``; 79 beyond the limits (trace sm/21#17-26)."""
    if size < 0 or size > MAX_SIZE:
        raise SMFailure(79, f"VDI size must be between 1 MB and {MAX_SIZE // MIB} MB")
    return round_up(max(size, BLOCK), BLOCK)


def length(vhd: Vhd, data_blocks: int = 0) -> int:
    """Bytes of the file: two footers, header, block table, its bitmap, three parent locators (trace sm/21#57)."""
    locators = 3 * _SECTOR if vhd.parent else 0
    own = max(0, data_blocks - vhd.inherited) if vhd.own is None else vhd.own
    return _tables(vhd.virtual_size) + locators + own * _BLOCK_ON_DISK


def length_on_lvm(vhd: Vhd, data_blocks: int = 0) -> int:
    """Bytes that the VHD needs of its logical volume."""
    return length(replace(vhd, virtual_size=_LARGEST), data_blocks)


def thick_volume(virtual_size: int) -> int:
    """The logical volume for a VHD that may fill up: 100 MiB take 108 MiB (trace sm/24#15)."""
    blocks = -(-virtual_size // BLOCK)
    return round_up(virtual_size + _EMPTY_ON_LVM + blocks * 4096, EXTENT)


def thin_volume() -> int:
    """The logical volume for a VHD without data."""
    return round_up(_EMPTY_ON_LVM, EXTENT)


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def data_blocks(data: Path | None) -> int:
    """How many of a sparse file's VHD blocks hold data."""
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
    """What SM reckons for the tables, which is more than they take."""
    blocks = virtual_size // BLOCK
    return round_up(round_up(3 * 1024 + blocks * 4, _SECTOR) + blocks // 8, 4096)


_EMPTY_ON_LVM = _reserved(_LARGEST)
