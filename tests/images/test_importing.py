"""An image becomes a disk, byte for byte, on every SR type and by both roads; or nothing is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from imagelab import DISK_SRS, MIB, Lab, lab, pattern

from xenvol.images import import_image


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("sr_type", DISK_SRS)
def test_a_raw_image_is_the_disk(pool: Lab, tmp_path: Path, sr_type: str, road: str) -> None:
    data = pattern(5 * MIB)
    (tmp_path / "disk.raw").write_bytes(data)
    sr = pool.sr(sr_type)
    before = pool.xapi.snapshot()
    made = import_image(pool.session, tmp_path / "disk.raw", sr, verify=True, here=pool.on(road))
    assert (made.road, made.format, made.virtual_size, made.is_verified) == (road, "raw", 5 * MIB, True)
    assert pool.content(made.vdi_uuid) == data.ljust(made.vdi_size, b"\0")
    assert pool.residue() == []
    pool.session.call("VDI.destroy", made.vdi_ref)
    assert before.difference(pool.xapi.snapshot()) == []
