"""Sizes are said in the units that people use, and exactly where that matters."""

from __future__ import annotations

import pytest

from xenvol.amounts import exact_size, human_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "human", "exact"),
    [
        (0, "0 B", "0 B"),
        (1023, "1023 B", "1023 B"),
        (1024, "1 KiB", "1 KiB"),
        (3 * GIB // 2, "1.5 GiB", "1.5 GiB"),
        (10 * GIB, "10 GiB", "10 GiB"),
        (10 * GIB + 1, "10 GiB", "10 GiB (10737418241 bytes)"),
        (2040 * GIB, "1.992 TiB", "2040 GiB"),
        (2040 * GIB + 1, "1.992 TiB", "1.992 TiB (2190433320961 bytes)"),
        (1 << 62, "4096 PiB", "4096 PiB"),
    ],
)
def test_a_size_is_said_in_the_largest_unit_that_fits(size: int, human: str, exact: str) -> None:
    """Two amounts that differ never read alike where they are compared."""
    assert (human_size(size), exact_size(size)) == (human, exact)
