"""docs/background/recordings.md, findings on lvm: one test for each, over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import GIB, LARGEST, MIB, SR_UUID, TOO_BIG_OR_SMALL, FileLab, file_lab
from lab import refusal

CONFIG = {"device": "/dev/sdb"}
NOTHING_FOUND = '<?xml version="1.0" ?>\n<SRlist/>\n'


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab() as made:
        made.mounts.devices["/dev/sdb"] = made.shares.new_device(GIB)
        yield made


@pytest.fixture
def sr(lab: FileLab) -> str:
    return lab.create("lvm", CONFIG)


@pytest.mark.parametrize("sr_type", ["lvm", "ext"])
def test_without_a_device_it_is_90(lab: FileLab, sr_type: str) -> None:
    """Traces 23#6, 23#11, 23#28."""
    missing = ["SR_BACKEND_FAILURE_90", "", "The request is missing the device parameter", ""]
    assert refusal(lab.probe, sr_type, {}) == missing
    assert refusal(lab.create, sr_type, {}) == missing


@pytest.mark.parametrize("sr_type", ["lvm", "ext"])
@pytest.mark.parametrize("device", ["/dev/sdb", "", "/dev/nope", "/dev/null"])
def test_a_probe_of_a_device_that_is_blank_missing_or_no_disk_succeeds_and_finds_nothing(
    lab: FileLab, sr_type: str, device: str
) -> None:
    """Traces 23#7-10, 23#12-15."""
    assert lab.probe(sr_type, {"device": device}) == NOTHING_FOUND


@pytest.mark.parametrize(("sr_type", "size"), [("lvm", 1061158912), ("ext", 1061158912)])
def test_a_probe_of_a_device_with_an_sr_tells_its_uuid_device_and_size(
    lab: FileLab, sr_type: str, size: int
) -> None:
    """Traces 23#95, 24#12, 24#61."""
    sr_uuid = lab.x.SR.get_uuid(lab.create(sr_type, CONFIG))
    assert lab.probe(sr_type, CONFIG) == (
        '<?xml version="1.0" ?>\n<SRlist>\n\t<SR>\n'
        f"\t\t<UUID>{sr_uuid}</UUID>\n\t\t<Devlist>/dev/sdb</Devlist>\n\t\t<size>{size}</size>\n"
        "\t</SR>\n</SRlist>\n"
    )


@pytest.mark.parametrize("sr_type", ["lvm", "ext"])
def test_sr_create_on_a_missing_device_is_19(lab: FileLab, sr_type: str) -> None:
    """Traces 23#29, 23#30."""
    why = "No such device [opterr=Device /dev/nope does not exist]"
    assert refusal(lab.create, sr_type, {"device": "/dev/nope"}) == ["SR_BACKEND_FAILURE_19", "", why, ""]


def test_sr_create_on_the_device_of_another_sr_says_that_it_is_in_use(lab: FileLab, sr: str) -> None:
    """Traces 23#96, 24#13: as long as a PBD names it, plugged or not."""
    assert refusal(lab.create, "lvm", CONFIG) == ["SR_DEVICE_IN_USE"]
    lab.x.PBD.unplug(lab.pbd(sr))
    assert refusal(lab.create, "lvm", CONFIG) == ["SR_DEVICE_IN_USE"]
    lab.x.SR.forget(sr)
    assert lab.x.SR.get_VDIs(lab.create("lvm", CONFIG)) == []


@pytest.mark.parametrize(
    ("sr_type", "code", "text"),
    [
        ("lvm", "47", f"The SR is not available [opterr=no such volume group: VG_XenStorage-{SR_UUID}]"),
        ("ext", "52", "Logical Volume mount/activate error [opterr=Unable to activate LV. Errno is 1]"),
    ],
)
def test_a_plug_of_a_blank_device_is_refused(lab: FileLab, sr_type: str, code: str, text: str) -> None:
    """Traces 23#43, 23#48."""
    _sr, pbd = lab.introduce(sr_type, CONFIG)
    assert refusal(lab.x.PBD.plug, pbd) == [f"SR_BACKEND_FAILURE_{code}", "", text, ""]


def test_a_new_sr_has_lost_12_mib_to_lvm_and_4_to_its_management_volume_and_says_how_it_allocates(
    lab: FileLab, sr: str
) -> None:
    """Traces 23#91, 24#8."""
    assert int(lab.x.SR.get_physical_size(sr)) == GIB - 12 * MIB == 1061158912
    assert lab.x.SR.get_physical_utilisation(sr) == str(4 * MIB)
    assert lab.x.SR.get_sm_config(sr) == {"allocation": "thick", "use_vhd": "true", "devserial": ""}


@pytest.mark.parametrize(
    ("asked", "size", "volume"),
    [(1, 2, 8), (3000001, 4, 12), (100 * MIB, 100, 108), (500 * MIB, 500, 508)],
)
def test_a_thick_vhd_has_a_volume_with_room_for_its_tables(
    lab: FileLab, sr: str, asked: int, size: int, volume: int
) -> None:
    """Traces 24#14-19, 24#23."""
    assert lab.sizes(lab.vdi(sr, asked)) == (size * MIB, volume * MIB)
    assert lab.x.SR.get_physical_utilisation(sr) == str((4 + volume) * MIB)


def test_a_raw_vdi_is_rounded_up_to_4_mib(lab: FileLab, sr: str) -> None:
    """Trace 24#21."""
    raw = lab.vdi(sr, 10000001, sm_config={"type": "raw"})
    assert lab.sizes(raw) == (12582912, 12582912)


def test_without_space_it_is_44_and_beyond_2040_gib_79_before_space_is_checked(lab: FileLab, sr: str) -> None:
    """Traces 24#22, 24#25, 24#26."""
    no_space = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
    assert refusal(lab.vdi, sr, 1010 * MIB) == no_space
    assert refusal(lab.vdi, sr, LARGEST) == no_space
    too_large = ["SR_BACKEND_FAILURE_79", "", TOO_BIG_OR_SMALL, ""]
    assert refusal(lab.vdi, sr, LARGEST + 1) == too_large
    assert refusal(lambda: lab.vdi(sr, LARGEST + 1, sm_config={"type": "raw"})) == too_large


def test_a_vdi_keeps_the_callers_sm_config_and_gets_its_kind_added(lab: FileLab, sr: str) -> None:
    """Traces 24#15, 24#21; a file SR drops it."""
    vhd = lab.vdi(sr, MIB, sm_config={"foo": "bar"})
    assert lab.x.VDI.get_sm_config(vhd) == {"foo": "bar", "vdi_type": "vhd"}
    raw = lab.vdi(sr, MIB, sm_config={"type": "raw", "foo": "bar"})
    assert lab.x.VDI.get_sm_config(raw) == {"type": "raw", "foo": "bar", "vdi_type": "aio"}


def test_a_raw_vdi_can_be_resized_and_cannot_be_snapshot(lab: FileLab, sr: str) -> None:
    """Traces 23#121-123."""
    raw = lab.vdi(sr, 10000001, sm_config={"type": "raw"})
    lab.x.VDI.resize(raw, str(20 * MIB))
    assert lab.sizes(raw) == (20 * MIB, 20 * MIB)
    assert refusal(lab.x.VDI.snapshot, raw, {}) == ["UNIMPLEMENTED_IN_SM_BACKEND", sr]


def test_a_snapshot_takes_a_small_volume_and_a_clone_a_whole_one(lab: FileLab, sr: str) -> None:
    """Not recorded (no device-mapper): sm/LVHDSR.py, _snapshot."""
    vdi = lab.vdi(sr, 100 * MIB, sm_config={"foo": "bar"})
    snapshot = lab.x.VDI.snapshot(vdi, {})
    base = next(row for row in lab.rows(sr).values() if not row["managed"])
    assert (base["name_label"], base["physical_utilisation"]) == ("base copy", str(8 * MIB))
    assert lab.sizes(snapshot) == (100 * MIB, 8 * MIB)
    assert lab.sizes(vdi) == (100 * MIB, 108 * MIB)
    children = {"foo": "bar", "vdi_type": "vhd", "vhd-parent": base["uuid"]}
    assert lab.x.VDI.get_sm_config(snapshot) == lab.x.VDI.get_sm_config(vdi) == children
    assert lab.sizes(lab.x.VDI.clone(vdi, {})) == (100 * MIB, 108 * MIB)


def test_vdis_come_back_after_a_forget_with_the_names_that_the_management_volume_kept(
    lab: FileLab, sr: str
) -> None:
    """Not recorded (no device-mapper): sm/LVHDSR.py, scan; a file SR loses the names."""
    vdi = lab.vdi(sr, MIB, name_label="one", name_description="d", type="system", sm_config={"foo": "bar"})
    snapshot = lab.x.VDI.snapshot(vdi, {})
    lab.x.VDI.set_name_label(vdi, "renamed")
    uuids = [lab.x.VDI.get_uuid(ref) for ref in (vdi, snapshot)]
    rows = lab.rows(lab.forget_and_plug_again(sr, CONFIG))
    one, copy = (rows[uuid] for uuid in uuids)
    assert (one["name_label"], one["name_description"], one["type"]) == ("renamed", "d", "system")
    assert (copy["name_label"], copy["is_a_snapshot"]) == ("one", True)
    assert copy["snapshot_of"] == lab.x.VDI.get_by_uuid(one["uuid"])
    assert set(one["sm_config"]) == {"vdi_type", "vhd-parent"}


def test_an_sr_without_disks_can_be_destroyed_and_leaves_a_blank_device(lab: FileLab, sr: str) -> None:
    """Trace 23#125 for one with disks."""
    vdi = lab.vdi(sr, MIB)
    lab.x.PBD.unplug(lab.pbd(sr))
    assert refusal(lab.x.SR.destroy, sr) == ["SR_NOT_EMPTY"]
    lab.x.PBD.plug(lab.pbd(sr))
    lab.x.VDI.destroy(vdi)
    lab.x.PBD.unplug(lab.pbd(sr))
    lab.x.SR.destroy(sr)
    assert lab.probe("lvm", CONFIG) == NOTHING_FOUND


def test_lvhd_is_another_name_of_the_same_driver(lab: FileLab) -> None:
    sr = lab.create("lvhd", CONFIG)
    assert lab.sizes(lab.vdi(sr, 1)) == (2 * MIB, 8 * MIB)
