"""docs/background/recordings.md, findings on ext: one test for each, over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import GIB, MIB, FileLab, file_lab
from lab import refusal

CONFIG = {"device": "/dev/sdb"}


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab() as made:
        made.mounts.devices["/dev/sdb"] = made.shares.new_device(GIB)
        yield made


@pytest.fixture
def sr(lab: FileLab) -> str:
    return lab.create("ext", CONFIG)


def test_a_new_sr_is_an_ext4_file_system_on_all_of_the_device(lab: FileLab, sr: str) -> None:
    """Trace 24#57."""
    assert lab.x.SR.get_physical_size(sr) == "1025114112"
    assert lab.x.SR.get_physical_utilisation(sr) == "24576"
    assert lab.x.SR.get_sm_config(sr) == {"devserial": ""}


@pytest.mark.parametrize(
    ("asked", "size", "utilisation"),
    [
        (1, 2 * MIB, 3584),
        (3000001, 4 * MIB, 3584),
        (500 * MIB, 500 * MIB, 4096),
        (900 * MIB, 900 * MIB, 5120),
        (5 * GIB, 5 * GIB, 13312),
    ],
)
def test_disks_are_sparse_vhds_as_on_a_file_sr_also_beyond_the_device(
    lab: FileLab, sr: str, asked: int, size: int, utilisation: int
) -> None:
    """Traces 24#62-74, 24#81-83; the caller's sm_config is dropped (24#63)."""
    vdi = lab.vdi(sr, asked, sm_config={"foo": "bar"})
    assert lab.sizes(vdi) == (size, utilisation)
    assert lab.x.VDI.get_sm_config(vdi) == {}


def test_a_disk_grows_beyond_the_device_and_does_not_shrink(lab: FileLab, sr: str) -> None:
    """Traces 24#78-81."""
    vdi = lab.vdi(sr, 200 * MIB)
    shrinking = ["SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", ""]
    assert refusal(lab.x.VDI.resize, vdi, str(100 * MIB)) == shrinking
    lab.x.VDI.resize(vdi, str(5 * GIB))
    assert lab.sizes(vdi) == (5 * GIB, 13312)


def test_a_raw_disk_is_not_resized(lab: FileLab, sr: str) -> None:
    """Traces 24#87-88."""
    raw = lab.vdi(sr, 10000001, sm_config={"type": "raw"})
    unimplemented = ["INTERNAL_ERROR", "Storage_error ([S(Unimplemented);S(VDI.resize)])"]
    assert refusal(lab.x.VDI.resize, raw, "20971520") == unimplemented
    assert refusal(lab.x.VDI.snapshot, raw, {}) == ["UNIMPLEMENTED_IN_SM_BACKEND", sr]


def test_rows_come_back_after_a_forget_without_names(lab: FileLab, sr: str) -> None:
    """Traces 24#92-96."""
    uuid = lab.x.VDI.get_uuid(lab.vdi(sr, MIB, name_label="one"))
    (row,) = lab.rows(lab.forget_and_plug_again(sr, CONFIG)).values()
    assert (row["uuid"], row["name_label"]) == (uuid, "")


def test_an_sr_with_nothing_but_a_base_copy_left_can_be_destroyed_and_the_device_is_blank(
    lab: FileLab, sr: str
) -> None:
    """Traces 24#99-108."""
    vdi = lab.vdi(sr, MIB)
    snapshot = lab.x.VDI.snapshot(vdi, {})
    base = next(ref for ref in lab.x.SR.get_VDIs(sr) if not lab.x.VDI.get_managed(ref))
    assert refusal(lab.x.VDI.destroy, base) == ["VDI_NOT_MANAGED", base]
    lab.x.PBD.unplug(lab.pbd(sr))
    assert refusal(lab.x.SR.destroy, sr) == ["SR_NOT_EMPTY"]
    lab.x.PBD.plug(lab.pbd(sr))
    for leaf in (vdi, snapshot):
        lab.x.VDI.destroy(leaf)
    lab.x.PBD.unplug(lab.pbd(sr))
    lab.x.SR.destroy(sr)
    assert lab.probe("ext", CONFIG) == '<?xml version="1.0" ?>\n<SRlist/>\n'
