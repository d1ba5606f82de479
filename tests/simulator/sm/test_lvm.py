"""Logical volumes, without a wire: thin ones, masters and members, growth, groups without VHDs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.base import NOT_IMPLEMENTED, VDISpec
from xenvol.simulator.sm.lvm import LVMSR
from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.simulator.sm.world import World

MIB, GIB = 1 << 20, 1 << 30
GROUP = f"VG_XenStorage-{SR_UUID}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, LVMSR, {"device": "/dev/sdb"})
    made.mounts.devices["/dev/sdb"] = world.shares.new_device(GIB, serial="s1")
    yield made
    world.close()


def make(bench: Bench, size: int = 100 * MIB, **sm_config: str) -> str:
    uuid: str = bench.driver().vdi_create(VDISpec(size, name_label="disk", sm_config=sm_config)).uuid
    return uuid


def volume_size(bench: Bench, vdi: str) -> int:
    volume = bench.driver().group().disk(vdi)
    assert volume is not None
    size: int = volume.size
    return size


def test_a_thin_disk_takes_8_mib_until_it_is_written_to(bench: Bench) -> None:
    bench.config["allocation"] = "thin"
    bench.create()
    vdi = make(bench)
    assert bench.port.sr["sm_config"] == {"allocation": "thin", "use_vhd": "true", "devserial": "scsi-s1"}
    assert volume_size(bench, vdi) == 8 * MIB
    bench.driver().vdi_attach(vdi, False)
    assert volume_size(bench, vdi) == 8 * MIB
    bench.driver().vdi_attach(vdi, True)
    assert volume_size(bench, vdi) == 108 * MIB
    bench.driver().vdi_detach(vdi)
    assert volume_size(bench, vdi) == 8 * MIB


def test_thin_disks_that_cannot_all_grow_refuse_to_be_attached(bench: Bench) -> None:
    bench.config["allocation"] = "thin"
    bench.create()
    first, second = make(bench, 600 * MIB), make(bench, 600 * MIB)
    bench.driver().vdi_attach(first, True)
    assert fault(bench.driver().vdi_attach, second, True) == 180


def test_what_a_guest_wrote_does_not_fit_into_a_thin_volume_any_more(bench: Bench) -> None:
    bench.config["allocation"] = "thin"
    bench.create()
    vdi = make(bench)
    bench.driver().vdi_attach(vdi, True)
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"x" * 20 * MIB)
    bench.driver().vdi_detach(vdi)
    assert volume_size(bench, vdi) == 28 * MIB


def test_only_the_srmaster_changes_anything(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    bench.is_srmaster = False
    driver = bench.driver()
    assert fault(driver.create, 0) == 58
    assert fault(driver.delete) == 58
    assert fault(driver.scan) == 58
    assert fault(driver.vdi_create, VDISpec(MIB)) == 58
    assert fault(driver.vdi_resize, vdi, GIB) == 58
    assert fault(driver.vdi_snapshot, vdi) == 58
    driver.attach()
    driver.vdi_attach(vdi, True)
    driver.detach()


def test_a_disk_that_has_grown_by_100_mib_is_taken_at_the_next_scan(bench: Bench) -> None:
    bench.create()
    device = bench.mounts.devices["/dev/sdb"]
    device.resize(GIB + 50 * MIB)
    bench.driver().scan()
    assert bench.port.sr["physical_size"] == GIB - 12 * MIB
    device.resize(2 * GIB)
    bench.driver().scan()
    assert bench.port.sr["physical_size"] == 2 * GIB - 12 * MIB


def test_a_group_without_vhds_and_management_volume_makes_raw_disks_only(bench: Bench) -> None:
    """An SR from before VHDs (sm/LVHDSR.py, legacyMode)."""
    VolumeGroup(GROUP, [bench.mounts.devices["/dev/sdb"]])
    bench.driver().attach()
    assert bench.port.sr["sm_config"] == {"devserial": "scsi-s1"}
    vdi = make(bench)
    assert bench.port.rows[vdi]["sm_config"]["vdi_type"] == "aio"
    assert fault(lambda: make(bench, type="vhd")) == 78


def test_a_kind_of_disk_that_is_none_is_78(bench: Bench) -> None:
    """Not 66 as with files (sm/LVHDSR.py, LVHDVDI.load)."""
    bench.create()
    assert fault(lambda: make(bench, type="bogus")) == 78


def test_a_snapshot_needs_room_for_a_base_a_copy_and_two_journals(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    make(bench, 880 * MIB, type="raw")
    assert bench.driver().group().free == 20 * MIB
    assert fault(bench.driver().vdi_snapshot, vdi) == 44
    bench.mounts.devices["/dev/sdb"].resize(GIB + 4 * MIB)
    bench.driver().group().grow()
    bench.driver().vdi_snapshot(vdi)


def test_a_clone_needs_room_for_a_whole_volume(bench: Bench) -> None:
    bench.create()
    vdi = make(bench, 480 * MIB)
    make(bench, 480 * MIB)
    assert fault(bench.driver().vdi_clone, vdi) == 44


def test_a_disk_grows_as_far_as_there_is_room(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    assert fault(bench.driver().vdi_resize, vdi, GIB) == 44
    bench.driver().vdi_resize(vdi, 500 * MIB)
    assert volume_size(bench, vdi) == 508 * MIB


def test_a_snapshot_that_is_cut_again_keeps_a_small_volume(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"x")
    snapshot = bench.driver().vdi_snapshot(vdi).uuid
    bench.port.rows[snapshot]["is_a_snapshot"] = True
    bench.driver().vdi_attach(snapshot, True)
    assert volume_size(bench, snapshot) == 108 * MIB
    bench.driver().vdi_snapshot(snapshot)
    assert volume_size(bench, snapshot) == 8 * MIB


def test_a_copy_of_an_unchanged_disk_shares_its_base(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    for _ in range(2):
        bench.driver().vdi_snapshot(vdi)
    assert len(bench.port.rows) == 4
    assert (
        len({row["sm_config"].get("vhd-parent") for row in bench.port.rows.values() if row["managed"]}) == 1
    )


def test_the_bytes_of_a_disk_stay_with_it_over_a_clone(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"before")
    clone = bench.driver().vdi_clone(vdi).uuid
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"after!")
    assert bench.driver().vdi_file(clone).read_bytes()[:6] == b"before"
    assert bench.driver().vdi_file(clone).stat().st_size == 100 * MIB
    base = next(row for row in bench.port.rows.values() if not row["managed"])
    assert base["physical_utilisation"] == 8 * MIB


def test_base_copies_cannot_be_changed_and_chains_end_at_thirty(bench: Bench) -> None:
    bench.mounts.devices["/dev/sdb"].resize(20 * GIB)
    bench.create()
    vdi = make(bench)
    for step in range(29):
        with bench.driver().vdi_file(vdi).open("r+b") as disk:
            disk.seek(step * 2 * MIB)
            disk.write(b"x")
        bench.driver().vdi_snapshot(vdi)
    assert fault(bench.driver().vdi_snapshot, vdi) == 109
    base = next(uuid for uuid, row in bench.port.rows.items() if not row["managed"])
    assert fault(bench.driver().vdi_resize, base, GIB) == 46
    assert fault(bench.driver().vdi_snapshot, base) == 82


def test_raw_disks_are_not_cut(bench: Bench) -> None:
    bench.create()
    raw = make(bench, type="raw")
    assert fault(bench.driver().vdi_snapshot, raw) == NOT_IMPLEMENTED


def test_a_disk_whose_volume_is_gone_can_only_be_deleted(bench: Bench) -> None:
    bench.create()
    vdi = make(bench)
    bench.driver().group().remove_disk(vdi)
    assert fault(bench.driver().vdi_attach, vdi, True) == 46
    bench.driver().vdi_delete(vdi)
    bench.driver().scan()
    assert bench.port.rows == {}


def test_an_sr_that_is_there_is_not_made_again(bench: Bench) -> None:
    bench.create()
    assert fault(bench.driver().create, 0) == 42


def test_a_probe_tells_the_name_of_the_sr_when_it_is_asked_for_its_metadata(bench: Bench) -> None:
    bench.create()
    assert "name_label" not in bench.driver().probe()
    bench.port.sr["sm_config"] = {"metadata": "true"}
    assert "<name_label>the SR</name_label>" in bench.driver().probe()


def test_a_group_may_span_disks(bench: Bench) -> None:
    bench.mounts.devices["/dev/sdc"] = bench.world.shares.new_device(GIB)
    bench.config["device"] = "/dev/sdb,/dev/sdc"
    bench.create()
    assert bench.port.sr["sm_config"]["devserial"] == "scsi-s1"
    make(bench, 1500 * MIB)
    bench.driver().scan()
    assert bench.port.sr["physical_size"] == 2 * (GIB - 12 * MIB)


def test_without_its_key_a_plug_crashes(bench: Bench) -> None:
    bench.create()
    del bench.config["device"]
    assert fault(bench.driver().attach) == 1200
