"""The sizes that vhd-util and lvm2 made, and sizes between them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.vhd import (
    BLOCK,
    EXTENT,
    MAX_SIZE,
    MIB,
    Vhd,
    data_blocks,
    length,
    length_on_lvm,
    thick_volume,
    thin_volume,
    validated,
)


@pytest.mark.parametrize(
    ("mib", "expected"),
    [
        (2, 3584),
        (4, 3584),
        (200, 3584),
        (500, 4096),
        (900, 5120),
        (1024, 5120),
        (2050, 7680),
        (2088960, 4311040),
    ],
)
def test_an_empty_vhd_is_as_long_as_vhd_util_made_it(mib: int, expected: int) -> None:
    """Traces sm/21#37, sm/24#62-74."""
    assert length(Vhd(mib * MIB)) == expected


def test_a_child_is_three_sectors_longer_for_the_locators_of_its_parent() -> None:
    """Trace sm/21#57."""
    assert length(Vhd(2050 * MIB, "parent")) == 9216


@given(st.integers(min_value=0, max_value=MAX_SIZE))
def test_a_size_is_rounded_up_to_whole_blocks_and_never_to_none(size: int) -> None:
    rounded = validated(size)
    assert rounded % BLOCK == 0
    assert rounded >= max(size, BLOCK)
    assert rounded - size < BLOCK or size == 0


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_a_size_beyond_the_limits_is_fault_79(size: int) -> None:
    with pytest.raises(SMFailure) as refusal:
        validated(size)
    assert refusal.value.number == 79


@given(st.integers(min_value=1, max_value=MAX_SIZE // BLOCK))
def test_a_thick_volume_holds_the_vhd_when_every_block_of_it_is_written(blocks: int) -> None:
    size = blocks * BLOCK
    assert thick_volume(size) % EXTENT == 0
    assert thick_volume(size) >= length_on_lvm(Vhd(size), blocks)
    assert thin_volume() >= length_on_lvm(Vhd(size))


def test_a_vhd_grows_with_the_blocks_that_a_guest_has_written(tmp_path: Path) -> None:
    data = tmp_path / "disk"
    data.touch()
    os.truncate(data, 64 * MIB)
    assert data_blocks(data) == 0
    with data.open("r+b") as file:
        for offset in (0, 1, 10 * MIB, 63 * MIB):
            file.seek(offset)
            file.write(b"data")
    assert data_blocks(data) == 3
    vhd = Vhd(64 * MIB)
    assert length(vhd, 3) == length(vhd) + 3 * (BLOCK + 4096)
    assert length(Vhd(64 * MIB, inherited=3), 3) == length(vhd)


def test_a_file_that_is_not_there_holds_no_blocks(tmp_path: Path) -> None:
    assert data_blocks(None) == 0
    assert data_blocks(tmp_path / "nothing") == 0
