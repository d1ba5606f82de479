"""docs/background/recordings.md, findings on file and nfs: one test for each that holds for both, over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filelab import DISK, GIB, LARGEST, MIB, OTHER_DISK, OTHER_UUID, TOO_BIG_OR_SMALL, FileLab, file_lab
from lab import refusal

CONFIGS = {
    "file": {"location": "/srv/store/sr"},
    "nfs": {"server": "10.0.0.5", "serverpath": "/export/a"},
}
SCAN_FAILED = "The SR scan failed  [opterr={}]"


@pytest.fixture
def lab() -> Iterator[FileLab]:
    with file_lab() as made:
        made.mounts.make_directory("/srv/store", size=100 * GIB)
        made.shares.add_nfs("10.0.0.5").export("/export/a", size=100 * GIB)
        yield made


@pytest.fixture(params=CONFIGS)
def sr(lab: FileLab, request: pytest.FixtureRequest) -> str:
    return lab.create(request.param, CONFIGS[request.param])


def test_sr_probe_of_type_file_is_of_no_use_and_without_a_location_it_says_so(lab: FileLab) -> None:
    """Trace 21#4."""
    missing = ["SR_BACKEND_FAILURE_94", "", "The request is missing the location parameter", ""]
    assert refusal(lab.probe, "file", {}) == missing
    assert refusal(lab.probe, "file", {"location": ""}) == missing


@pytest.mark.parametrize("location", ["/srv/no/such", "/srv/store"], ids=["no parent", "not empty"])
def test_sr_create_file_is_refused_with_61_whatever_is_wrong_with_the_directory(
    lab: FileLab, location: str
) -> None:
    """Trace 21#5; no SR is left (21#8)."""
    directory = lab.mounts.directory("/srv/store")
    assert directory is not None
    directory.add_file("something", 1)
    wrong = ["SR_BACKEND_FAILURE_61", "", "File SR creation error", ""]
    assert refusal(lab.create, "file", {"location": location}) == wrong
    assert lab.x.SR.get_all() == []


def test_a_file_sr_may_be_introduced_under_any_uuid_since_the_directory_does_not_say_whose_it_is(
    lab: FileLab,
) -> None:
    """Trace 21#14, 21#105-107."""
    first = lab.create("file", CONFIGS["file"])
    vdi = lab.x.VDI.get_uuid(lab.vdi(first))
    lab.x.PBD.unplug(lab.pbd(first))
    lab.x.SR.forget(first)
    second, _ = lab.plug("file", CONFIGS["file"], uuid=OTHER_UUID)
    assert list(lab.rows(second)) == [vdi]


def test_a_second_file_sr_on_one_location_is_plugged_and_has_no_vdis(lab: FileLab) -> None:
    """Trace 21#105-108."""
    first = lab.create("file", CONFIGS["file"])
    vdi = lab.x.VDI.get_uuid(lab.vdi(first))
    second, pbd = lab.plug("file", CONFIGS["file"], uuid=OTHER_UUID)
    assert lab.x.PBD.get_currently_attached(pbd) is True
    assert lab.rows(second) == {}
    assert list(lab.rows(first)) == [vdi]


@pytest.mark.parametrize(
    ("asked", "size", "utilisation"),
    [
        (0, 2097152, 3584),
        (1, 2097152, 3584),
        (3000001, 4194304, 3584),
        (GIB, GIB, 5120),
        (LARGEST, LARGEST, 4311040),
    ],
)
def test_vdi_create_rounds_up_to_2_mib_and_takes_only_the_tables_of_a_vhd(
    lab: FileLab, sr: str, asked: int, size: int, utilisation: int
) -> None:
    """Traces 21#15-25, 22#31-41."""
    assert lab.sizes(lab.vdi(sr, asked)) == (size, utilisation)


@pytest.mark.parametrize("asked", [-1, LARGEST + 1])
def test_vdi_create_beyond_the_limits_is_refused_with_79(lab: FileLab, sr: str, asked: int) -> None:
    """Traces 21#23, 21#26."""
    assert refusal(lab.vdi, sr, asked) == ["SR_BACKEND_FAILURE_79", "", TOO_BIG_OR_SMALL, ""]


def test_a_raw_vdi_keeps_its_size_and_a_kind_that_is_none_is_refused_and_other_keys_are_dropped(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#27-31, 22#43-47."""
    raw = lab.vdi(sr, 10000001, sm_config={"type": "raw", "foo": "bar"})
    assert lab.sizes(raw) == (10000001, 10000001)
    assert lab.x.VDI.get_sm_config(raw) == {"type": "raw"}
    vhd = lab.vdi(sr, MIB, sm_config={"type": "vhd", "foo": "bar"})
    assert lab.x.VDI.get_sm_config(vhd) == {}
    why = "Invalid VDI type [opterr=Invalid VDI type bogus]"
    assert refusal(lambda: lab.vdi(sr, MIB, sm_config={"type": "bogus"})) == [
        "SR_BACKEND_FAILURE_66",
        "",
        why,
        "",
    ]


def test_a_scan_makes_a_read_only_vdi_writable_and_leaves_a_sharable_one_sharable(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#33 and 21#59, 22#49 and 22#75."""
    vdi = lab.vdi(sr, MIB, read_only=True, sharable=True)
    assert lab.x.VDI.get_read_only(vdi) is True
    lab.x.SR.scan(sr)
    assert lab.x.VDI.get_read_only(vdi) is False
    assert lab.x.VDI.get_sharable(vdi) is True


def test_vdi_resize_grows_in_steps_of_2_mib_and_never_shrinks(lab: FileLab, sr: str) -> None:
    """Traces 21#39-48, 22#55-64."""
    vdi = lab.vdi(sr, GIB)
    lab.x.VDI.resize(vdi, str(GIB))
    assert lab.sizes(vdi)[0] == GIB
    lab.x.VDI.resize(vdi, str(2 * GIB + 5))
    assert lab.sizes(vdi) == (2 * GIB + 2 * MIB, 7680)
    shrinking = ["SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", ""]
    assert refusal(lab.x.VDI.resize, vdi, str(GIB)) == shrinking
    assert refusal(lab.x.VDI.resize, vdi, str(LARGEST + 1))[2] == TOO_BIG_OR_SMALL
    assert lab.sizes(vdi)[0] == 2 * GIB + 2 * MIB


def test_a_raw_vdi_can_be_neither_resized_nor_snapshot_although_its_allowed_operations_say_so(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#28, 21#49-50."""
    raw = lab.vdi(sr, 10000001, sm_config={"type": "raw"})
    assert {"resize", "snapshot"} <= set(lab.x.VDI.get_allowed_operations(raw))
    unimplemented = ["INTERNAL_ERROR", "Storage_error ([S(Unimplemented);S(VDI.resize)])"]
    assert refusal(lab.x.VDI.resize, raw, "20000001") == unimplemented
    assert refusal(lab.x.VDI.snapshot, raw, {}) == ["UNIMPLEMENTED_IN_SM_BACKEND", sr]


def test_a_snapshot_leaves_a_base_copy_and_copies_everything_but_the_tags(lab: FileLab, sr: str) -> None:
    """Traces 21#51-54, 22#67-70."""
    vdi = lab.vdi(sr, GIB, name_label="one", other_config={"a": "b"}, tags=["t"])
    snapshot = lab.x.VDI.get_record(lab.x.VDI.snapshot(vdi, {}))
    rows = lab.rows(sr)
    base = next(row for row in rows.values() if row["name_label"] == "base copy")
    assert len(rows) == 3
    assert (base["managed"], base["read_only"]) == (False, True)
    assert (base["virtual_size"], base["physical_utilisation"]) == (str(GIB), "5120")
    assert snapshot["sm_config"] == lab.x.VDI.get_sm_config(vdi) == {"vhd-parent": base["uuid"]}
    assert (snapshot["name_label"], snapshot["other_config"], snapshot["tags"]) == ("one", {"a": "b"}, [])
    assert (snapshot["is_a_snapshot"], snapshot["snapshot_of"]) == (True, vdi)
    assert (snapshot["read_only"], snapshot["physical_utilisation"]) == (False, "6656")
    base_ref = lab.x.VDI.get_by_uuid(base["uuid"])
    assert refusal(lab.x.VDI.destroy, base_ref) == ["VDI_NOT_MANAGED", base_ref]


def test_a_clone_of_a_disk_that_was_not_written_to_since_its_snapshot_shares_that_snapshots_base(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#55-59, 22#71-75; tags are not copied here either."""
    vdi = lab.vdi(sr, GIB, tags=["t"])
    lab.x.VDI.snapshot(vdi, {})
    parent = lab.x.VDI.get_sm_config(vdi)
    clone = lab.x.VDI.clone(vdi, {})
    assert lab.x.VDI.get_sm_config(clone) == lab.x.VDI.get_sm_config(vdi) == parent
    assert lab.x.VDI.get_is_a_snapshot(clone) is False
    assert (lab.x.VDI.get_tags(vdi), lab.x.VDI.get_tags(clone)) == (["t"], [])
    assert len(lab.rows(sr)) == 4


def test_vdis_that_come_back_after_a_forget_have_their_uuids_and_nothing_else(lab: FileLab, sr: str) -> None:
    """Traces 21#97-101, 22#113-117."""
    vdi = lab.vdi(
        sr,
        MIB,
        name_label="one",
        name_description="d",
        type="system",
        sharable=True,
        read_only=True,
        other_config={"a": "b"},
        tags=["t"],
    )
    uuid = lab.x.VDI.get_uuid(vdi)
    again = lab.forget_and_plug_again(sr, CONFIGS[lab.x.SR.get_type(sr)])
    (row,) = lab.rows(again).values()
    assert row["uuid"] == uuid
    lost = ("name_label", "name_description", "other_config", "tags", "sharable", "read_only")
    assert [row[field] for field in lost] == ["", "", {}, [], False, False]
    assert row["type"] == "user"


def test_a_base_copy_that_comes_back_after_a_forget_has_no_name_and_still_cannot_be_destroyed(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#97-104, 22#113-120."""
    lab.x.VDI.snapshot(lab.vdi(sr, MIB), {})
    again = lab.forget_and_plug_again(sr, CONFIGS[lab.x.SR.get_type(sr)])
    (base,) = (row for row in lab.rows(again).values() if not row["managed"])
    assert (base["name_label"], base["read_only"]) == ("", True)
    ref = lab.x.VDI.get_by_uuid(base["uuid"])
    assert refusal(lab.x.VDI.destroy, ref) == ["VDI_NOT_MANAGED", ref]


def test_the_disks_of_a_file_sr_lie_in_its_location_itself(lab: FileLab) -> None:
    """Trace 21#14: the SR's uuid is not on the disk."""
    sr = lab.create("file", CONFIGS["file"])
    vdi = lab.x.VDI.get_uuid(lab.vdi(sr))
    location = lab.mounts.directory(CONFIGS["file"]["location"])
    assert location is not None
    assert list(location) == [f"{vdi}.vhd"]


def test_vdi_introduce_is_no_operation_of_file_srs(lab: FileLab, sr: str) -> None:
    """Traces 21#79, 22#95."""
    args = (DISK, "n", "d", sr, "user", False, False, {}, DISK, {}, {})
    assert refusal(lab.x.VDI.introduce, *args) == ["SR_OPERATION_NOT_SUPPORTED", sr]


def test_disks_named_by_a_uuid_are_found_and_other_files_ignored(lab: FileLab, sr: str) -> None:
    """Traces 21#66-71, 22#82-87."""
    directory = lab.disks_of(sr)
    directory.add_raw(DISK, 5000000)
    directory.add_vhd(OTHER_DISK, 64 * MIB)
    empty = "33333333-0000-4000-8000-000000000005"
    directory.add_raw(empty, 0)
    for name in ("readme.txt", "33333333-0000-4000-8000-000000000003.iso"):
        directory.add_file(name, 10)
    directory.make_directory("lost+found2")
    lab.x.SR.scan(sr)
    found = {uuid: (row["virtual_size"], row["sm_config"]) for uuid, row in lab.rows(sr).items()}
    raw = {"type": "raw"}
    assert found == {DISK: ("5000000", raw), OTHER_DISK: (str(64 * MIB), {}), empty: ("0", raw)}


@pytest.mark.parametrize("kind", ["raw", "vhd"])
def test_one_disk_whose_name_is_no_uuid_makes_every_scan_fail_and_a_plug_succeed(
    lab: FileLab, sr: str, kind: str
) -> None:
    """Traces 21#67, 21#76, 22#83, 22#92."""
    lab.vdi(sr)
    directory = lab.disks_of(sr)
    directory.add_vhd("not-a-uuid", MIB) if kind == "vhd" else directory.add_raw("not-a-uuid", MIB)
    why = SCAN_FAILED.format(["UUID_INVALID", "VDI", "not-a-uuid"])
    assert refusal(lab.x.SR.scan, sr) == ["SR_BACKEND_FAILURE_40", "", why, ""]
    pbd = lab.pbd(sr)
    lab.x.PBD.unplug(pbd)
    lab.x.PBD.plug(pbd)
    assert lab.x.PBD.get_currently_attached(pbd) is True


def test_a_file_that_only_looks_like_a_vhd_makes_the_scan_fail(lab: FileLab, sr: str) -> None:
    """Traces 21#73, 22#89."""
    lab.disks_of(sr).add_file(f"{DISK}.vhd", 100)
    why = SCAN_FAILED.format(f"uuid={DISK}")
    assert refusal(lab.x.SR.scan, sr) == ["SR_BACKEND_FAILURE_40", "", why, ""]


def test_a_vdi_whose_file_is_gone_can_only_be_destroyed(lab: FileLab, sr: str) -> None:
    """Traces 21#81-88, 22#97-104."""
    vdi, other = lab.vdi(sr), lab.vdi(sr)
    uuid = lab.x.VDI.get_uuid(vdi)
    for gone in (vdi, other):
        lab.disks_of(sr).remove(f"{lab.x.VDI.get_uuid(gone)}.vhd")
    why = ["SR_BACKEND_FAILURE_46", "", f"The VDI is not available [opterr=VDI {uuid} not found]", ""]
    assert refusal(lab.x.VDI.resize, vdi, str(2 * GIB)) == why
    assert refusal(lab.x.VDI.snapshot, vdi, {}) == why
    lab.x.VDI.destroy(vdi)
    assert refusal(lab.x.VDI.get_record, vdi) == ["HANDLE_INVALID", "VDI", vdi]
    lab.x.SR.scan(sr)
    assert lab.rows(sr) == {}


def test_an_sr_that_was_unmounted_behind_xapi_takes_disks_into_the_bare_mount_point_until_it_is_replugged(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#111-120, 22#127-136."""
    vdi, sr_uuid, pbd = lab.vdi(sr), lab.x.SR.get_uuid(sr), lab.pbd(sr)
    lab.mounts.lose_mount(sr_uuid)
    where = f"The SR is not available [opterr=no such directory /run/sr-mount/{sr_uuid}]"
    gone = ["SR_BACKEND_FAILURE_47", "", where, ""]
    assert refusal(lab.x.SR.scan, sr) == gone
    assert refusal(lab.x.PBD.plug, pbd) == gone
    lost = lab.vdi(sr)
    assert set(lab.x.SR.get_VDIs(sr)) == {vdi, lost}
    lab.x.PBD.unplug(pbd)
    lab.x.PBD.plug(pbd)
    assert lab.x.SR.get_VDIs(sr) == [vdi]


def test_after_a_disk_went_into_the_bare_mount_point_the_sr_cannot_be_unplugged_any_more(
    lab: FileLab, sr: str
) -> None:
    """Traces 21#133, 22#149. A second attempt finds nothing mounted (sm/NFSSR.py, detach)."""
    pbd = lab.pbd(sr)
    lab.mounts.lose_mount(lab.x.SR.get_uuid(sr))
    lab.vdi(sr)
    lab.x.PBD.unplug(pbd)
    lab.x.PBD.plug(pbd)
    why = "NFS unmount error [opterr=rmdir failed with error 'Directory not empty']"
    refusals = {"file": ["SR_DEVICE_IN_USE"], "nfs": ["SR_BACKEND_FAILURE_74", "", why, ""]}
    assert refusal(lab.x.PBD.unplug, pbd) == refusals[lab.x.SR.get_type(sr)]
    assert lab.x.PBD.get_currently_attached(pbd) is True
    lab.x.PBD.unplug(pbd)


def test_a_plug_shows_all_disks_without_a_scan(lab: FileLab, sr: str) -> None:
    """Traces 21#100-101, 22#116-117."""
    uuids = {lab.x.VDI.get_uuid(lab.vdi(sr)) for _ in range(3)}
    again = lab.forget_and_plug_again(sr, CONFIGS[lab.x.SR.get_type(sr)])
    assert set(lab.rows(again)) == uuids
    assert lab.x.SR.get_other_config(again) == {"dirty": ""}


def test_file_srs_make_destroy_resize_snapshot_and_clone_but_introduce_no_vdis(lab: FileLab, sr: str) -> None:
    """Traces 21#11, 22#25."""
    allowed = set(lab.x.SR.get_allowed_operations(sr))
    cbt = {"vdi_enable_cbt", "vdi_disable_cbt", "vdi_data_destroy", "vdi_list_changed_blocks"}
    disks = {f"vdi_{verb}" for verb in ("create", "destroy", "resize", "snapshot", "clone", "mirror")}
    assert {"update", "scan"} | cbt | disks <= allowed
    assert "vdi_introduce" not in allowed
