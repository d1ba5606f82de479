"""Disks as files, without a wire: their bytes, their chains, and the driver's times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.base import NOT_IMPLEMENTED, VDISpec
from xenvol.simulator.sm.file import FileSR
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.world import World

MIB = 1 << 20


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, FileSR, {"location": "/srv/sr"})
    made.mounts.make_directory("/srv", size=1 << 30)
    made.create()
    yield made
    world.close()


def make(bench: Bench, size: int = 64 * MIB, **sm_config: str) -> str:
    uuid: str = bench.driver().vdi_create(VDISpec(size, sm_config=sm_config)).uuid
    return uuid


def directory(bench: Bench) -> Directory:
    found: Directory = bench.mounts.directory(f"/run/sr-mount/{SR_UUID}")
    return found


@pytest.mark.parametrize("kind", ["vhd", "raw"])
def test_a_disk_has_as_many_bytes_as_it_says_and_they_stay(bench: Bench, kind: str) -> None:
    vdi = make(bench, type=kind)
    path = bench.driver().vdi_file(vdi)
    assert path.stat().st_size == 64 * MIB
    with path.open("r+b") as disk:
        disk.write(b"guest")
    assert bench.driver().vdi_file(vdi).read_bytes()[:6] == b"guest\0"


def test_a_resize_makes_room_behind_the_bytes(bench: Bench) -> None:
    vdi = make(bench)
    bench.driver().vdi_file(vdi).write_bytes(b"guest")
    bench.driver().vdi_resize(vdi, 128 * MIB)
    path = bench.driver().vdi_file(vdi)
    assert path.stat().st_size == 128 * MIB
    assert path.read_bytes()[:6] == b"guest\0"


def test_a_snapshot_and_its_source_go_separate_ways(bench: Bench) -> None:
    vdi = make(bench)
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"before")
    snapshot = bench.driver().vdi_snapshot(vdi).uuid
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"after!")
    assert bench.driver().vdi_file(snapshot).read_bytes()[:6] == b"before"
    assert bench.driver().vdi_file(vdi).read_bytes()[:6] == b"after!"


def test_utilisation_follows_what_a_guest_wrote_with_the_next_scan(bench: Bench) -> None:
    vdi = make(bench)
    before = bench.port.sr["physical_utilisation"]
    with bench.driver().vdi_file(vdi).open("r+b") as disk:
        disk.write(b"x")
        disk.seek(10 * MIB)
        disk.write(b"x")
    bench.driver().scan()
    assert bench.port.rows[vdi]["physical_utilisation"] == 3584 + 2 * (2 * MIB + 4096)
    assert bench.port.sr["physical_utilisation"] > before + 4 * MIB
    snapshot = bench.driver().vdi_snapshot(vdi)
    assert snapshot.physical_utilisation == 3584 + 1536
    for _ in range(2):
        base = next(row for row in bench.port.rows.values() if not row["managed"])
        assert base["physical_utilisation"] == 3584 + 2 * (2 * MIB + 4096)
        bench.driver().scan()


def test_a_chain_ends_at_thirty(bench: Bench) -> None:
    vdi = make(bench)
    for step in range(29):
        with bench.driver().vdi_file(vdi).open("r+b") as disk:
            disk.seek(step * 2 * MIB)
            disk.write(b"x")
        bench.driver().vdi_snapshot(vdi)
    assert fault(bench.driver().vdi_snapshot, vdi) == 109


def test_a_base_copy_is_neither_resized_nor_cut(bench: Bench) -> None:
    vdi = make(bench)
    bench.driver().vdi_snapshot(vdi)
    base = next(uuid for uuid, row in bench.port.rows.items() if not row["managed"])
    assert fault(bench.driver().vdi_resize, base, 128 * MIB) == 46
    assert fault(bench.driver().vdi_clone, base) == 81


def test_a_base_copy_without_children_is_dropped_by_the_next_scan(bench: Bench) -> None:
    vdi = make(bench)
    snapshot = bench.driver().vdi_snapshot(vdi).uuid
    for leaf in (vdi, snapshot):
        bench.driver().vdi_delete(leaf)
        bench.port.forget(leaf)
    assert len(bench.port.rows) == 1
    bench.driver().scan()
    assert bench.port.rows == {}


def test_a_disk_whose_parent_was_merged_into_it_says_so_after_the_next_scan(bench: Bench) -> None:
    """A coalesce does this to a disk with one child left; the simulator never coalesces by itself."""
    vdi = make(bench)
    bench.driver().vdi_snapshot(vdi)
    file = directory(bench).file(f"{vdi}.vhd")
    assert file is not None
    assert file.vhd is not None
    file.vhd.parent = None
    bench.driver().scan()
    assert bench.port.rows[vdi]["sm_config"] == {}


def test_the_allocation_of_the_sr_follows_what_is_made_grown_cut_and_deleted(bench: Bench) -> None:
    vdi = make(bench)
    assert bench.port.sr["virtual_allocation"] == 64 * MIB
    bench.driver().vdi_resize(vdi, 128 * MIB)
    assert bench.port.sr["virtual_allocation"] == 128 * MIB
    bench.driver().vdi_snapshot(vdi)
    assert bench.port.sr["virtual_allocation"] == 256 * MIB
    bench.driver().vdi_delete(vdi)
    assert bench.port.sr["virtual_allocation"] == 128 * MIB


def test_raw_disks_are_not_cut(bench: Bench) -> None:
    raw = make(bench, type="raw")
    assert fault(bench.driver().vdi_clone, raw) == NOT_IMPLEMENTED


def test_a_disk_that_is_gone_is_looked_for_for_ten_seconds(bench: Bench) -> None:
    """Trace sm/21#82, sm/21#88."""
    vdi = make(bench)
    directory(bench).remove(f"{vdi}.vhd")
    assert fault(bench.driver().vdi_attach, vdi, True) == 46
    assert bench.port.slept == 10
    bench.driver().vdi_delete(vdi)
    assert bench.port.slept == 20


def test_a_broken_vhd_holds_a_scan_up_for_nineteen_seconds(bench: Bench) -> None:
    """Trace sm/21#73."""
    directory(bench).add_file(f"{SR_UUID}.vhd", 100)
    assert fault(bench.driver().scan) == 40
    assert bench.port.slept == 19


def test_a_cut_on_a_full_disk_changes_nothing(bench: Bench) -> None:
    vdi = make(bench)
    directory(bench).filesystem.fill()
    files = list(directory(bench))
    assert fault(bench.driver().vdi_snapshot, vdi) == 81
    assert list(directory(bench)) == files
    bench.driver().scan()
    assert list(bench.port.rows) == [vdi]


def test_a_resize_that_does_not_fit_changes_nothing(bench: Bench) -> None:
    vdi = make(bench)
    directory(bench).filesystem.fill()
    assert fault(bench.driver().vdi_resize, vdi, 2040 << 30) == 79
    bench.driver().scan()
    assert bench.port.rows[vdi]["virtual_size"] == 64 * MIB


def test_an_encryption_key_and_a_mirror_are_all_that_is_kept_of_the_callers_sm_config(bench: Bench) -> None:
    """docs/background/xapi.md 2.4, VDI.create."""
    vdi = make(bench, key_hash="abc", base_mirror="m", foo="bar")
    assert bench.port.rows[vdi]["sm_config"] == {"key_hash": "abc", "base_mirror": "m"}


def test_an_sr_with_disks_is_not_deleted_and_one_without_loses_all_files(bench: Bench) -> None:
    vdi = make(bench)
    assert fault(bench.driver().delete) == 39
    bench.driver().vdi_delete(vdi)
    location = bench.mounts.directory("/srv/sr")
    location.add_file("filelog.txt", 1)
    bench.driver().delete()
    assert list(location) == []
    assert not bench.mounts.is_mounted(f"/run/sr-mount/{SR_UUID}")


def test_a_location_that_is_gone_is_61(bench: Bench) -> None:
    bench.driver().detach()
    bench.config["location"] = "/srv/nothing"
    assert fault(bench.driver().attach) == 61
