"""The block device as a transport: the right device or none, its failures, and nothing left behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_http_transport import BRIEF, breaking, by_each_error, raising, with_lock
from test_transport_choice import MIB, SIZE, Pool, hosts, pieces_of, pool, read

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.disk_image import Piece
from xenvol.images.errors import ImageTooLarge, TargetError, TransferFailed
from xenvol.images.transports import release
from xenvol.images.transports.block import BlockTransport
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.session.session import CallRecord

__all__ = ["hosts", "pool"]  # fixtures

ONE = [Piece(MIB, b"a" * MIB)]


class TestBytes:
    def test_are_on_the_disk_and_cost_five_calls(self, pool: Pool) -> None:
        """Six, where nobody has read the VDI before."""
        vdi, data, road = pool.vdi(), os.urandom(SIZE), pool.block()
        for expected in (6, 5):
            with pool.xapi.journal.recording() as calls:
                road.fill(vdi, pieces_of(data, *range(0, SIZE, MIB)))
            assert len(calls) == expected
        assert calls.methods() == [
            "VBD.create",
            "VBD.plug",
            "VBD.get_all_records_where",
            "VBD.unplug",
            "VBD.destroy",
        ]
        assert pool.bytes_of(vdi) == data
        assert read(road, vdi) == data
        assert pool.residue() == []

    def test_leave_holes_where_no_piece_is_and_are_read_without_them(self, pool: Pool) -> None:
        vdi, road = pool.vdi(64 * MIB), pool.block()
        road.fill(vdi, [Piece(63 * MIB, b"a" * 512)])
        assert pool.file(vdi).stat().st_blocks * 512 <= 64 * 1024
        with road.contents(vdi) as disk:
            assert sum(len(piece.data) for piece in disk.pieces()) <= 64 * 1024

    def test_behind_the_end_are_refused_and_the_disk_is_let_go(self, pool: Pool) -> None:
        vdi = pool.vdi()
        with pytest.raises(ImageTooLarge):
            pool.block().fill(vdi, [Piece(0, b"a" * MIB), Piece(SIZE - 512, b"b" * 1024)])
        assert pool.residue() == []

    def test_of_both_roads_are_the_same(self, pool: Pool) -> None:
        data, http, block = os.urandom(SIZE), pool.http(), pool.block()
        for writer, reader in ((http, block), (block, http), (block, block), (http, http)):
            vdi = pool.vdi()
            writer.fill(vdi, pieces_of(data, 5 * MIB, 0, 3 * MIB))
            expected = bytearray(SIZE)
            for at in (0, 3 * MIB, 5 * MIB):
                expected[at : at + MIB] = data[at : at + MIB]
            assert read(reader, vdi) == expected


def test_the_vbd_says_whose_it_is_while_it_is_there(pool: Pool) -> None:
    vdi, road, seen = pool.vdi(), pool.block(), []
    with road.contents(vdi):
        seen += [pool.xapi.db.row("VBD", vbd) for vbd in pool.vbds()]
    road.fill(vdi, looking(ONE, lambda: seen.extend(pool.xapi.db.row("VBD", vbd) for vbd in pool.vbds())))
    assert [row["mode"] for row in seen] == ["RO", "RW"]
    assert all(pool.attempt.has_marked(row) for row in seen)
    assert pool.residue() == []


def looking(pieces: list[Piece], look: Callable[[], object]) -> Iterator[Piece]:
    look()
    yield from pieces


class TestBrokenOff:
    @by_each_error
    def test_by_whoever_gives_the_pieces_leaves_his_error_and_a_disk_that_can_be_destroyed(
        self, pool: Pool, error: BaseException
    ) -> None:
        vdi = pool.vdi()
        with pytest.raises(type(error)) as caught:
            pool.block().fill(vdi, breaking(pool, raising(error)))
        assert caught.value is error
        assert pool.residue() == []
        pool.view.call("VDI.destroy", vdi)

    def test_by_who_reads_leaves_his_error_and_no_vbd(self, pool: Pool) -> None:
        with pytest.raises(KeyboardInterrupt), pool.block().contents(pool.vdi()):
            raise KeyboardInterrupt
        assert pool.residue() == []

    def test_by_the_storage_names_the_disk_and_the_device(self, pool: Pool) -> None:
        vdi = pool.vdi()
        uuid = pool.view.record("VDI", vdi)["uuid"]
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def pieces() -> Iterator[Piece]:
            """The kernel refuses what lies behind, as a full or a failing device does."""
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))
            yield Piece(4 * MIB, b"a" * MIB)

        try:
            with pytest.raises(TransferFailed) as caught:
                pool.block().fill(vdi, pieces())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(caught.value).startswith(f"VDI {uuid}: writing at byte {4 * MIB} of {pool.xapi.dev}/")
        assert "File too large" in str(caught.value)
        assert pool.residue() == []

    def test_of_a_read_only_disk_is_xapis_refusal(self, pool: Pool) -> None:
        vdi = pool.vdi(read_only=True)
        with pytest.raises(XapiError) as caught:
            pool.block().fill(vdi, ONE)
        assert caught.value.code == "VDI_READONLY"
        assert pool.residue() == []
        assert read(pool.block(), vdi) == bytes(SIZE)


class Guest:
    """A guest of the pool, whose kernel shows disks, as simulated ones do not."""

    def __init__(self, pool: Pool, **kind: str) -> None:
        self.pool = pool
        self.dev = pool.home / "dev"
        self.dev.mkdir()
        self.vm = pool.xapi.add_vm("us", **kind)
        self.shown: dict[str, Path] = {}
        self.plugged: Callable[[str, dict[str, str]], None] = self.show
        pool.view = View.of(Session(pool.session, on_call=self._hear))

    @property
    def road(self) -> BlockTransport:
        found = self.pool.choose(road="block", root=self.pool.root(self.vm), dev=self.dev, timeouts=BRIEF)
        assert isinstance(found, BlockTransport)
        return found

    def show(self, ref: str, vbd: dict[str, str]) -> None:
        (self.dev / vbd["device"]).symlink_to(self.pool.file(vbd["VDI"]))

    def _hear(self, call: CallRecord) -> None:
        db = self.pool.xapi.db
        rows = {ref: db.row("VBD", ref) for ref in db.refs("VBD") if db.row("VBD", ref)["VM"] == self.vm}
        if call.call == "VBD.plug" and call.outcome == "ok":
            (ref,) = (ref for ref, row in rows.items() if self.pool.attempt.has_marked(row))
            self.shown[ref] = self.dev / rows[ref]["device"]
            self.plugged(ref, rows[ref])
        elif call.call == "VBD.unplug" and call.outcome == "ok":
            for path in self.shown.values():
                path.unlink(missing_ok=True)


@pytest.fixture
def guest(pool: Pool) -> Guest:
    return Guest(pool)


class TestGuest:
    def test_fills_and_reads_a_disk_through_its_own_device(self, guest: Guest) -> None:
        vdi, data = guest.pool.vdi(), os.urandom(SIZE)
        guest.road.fill(vdi, pieces_of(data, *range(0, SIZE, MIB)))
        assert guest.pool.bytes_of(vdi) == data
        assert read(guest.road, vdi) == data
        assert guest.pool.residue() == []
        assert list(guest.dev.iterdir()) == []

    def test_of_kind_hvm_reads_a_disk_that_is_plugged_to_be_written(self, pool: Pool) -> None:
        """DISK_VBD_MUST_BE_READWRITE_FOR_HVM."""
        guest = Guest(pool, kind="hvm")
        vdi, modes = pool.vdi(), []
        with guest.road.contents(vdi) as disk:
            modes += [pool.xapi.db.row("VBD", vbd)["mode"] for vbd in pool.vbds()]
            assert list(disk.pieces()) == []
        assert modes == ["RW"]
        assert pool.residue() == []

    def test_waits_until_its_kernel_shows_the_device(self, guest: Guest) -> None:
        def later(ref: str, vbd: dict[str, str]) -> None:
            threading.Timer(0.1, guest.show, (ref, vbd)).start()

        guest.plugged = later
        vdi = guest.pool.vdi()
        guest.road.fill(vdi, ONE)
        assert guest.pool.bytes_of(vdi)[MIB] == ord("a")

    def test_waits_until_the_device_has_its_size(self, guest: Guest, tmp_path: Path) -> None:
        vdi = guest.pool.vdi()
        contents = tmp_path / "contents"  # stays when the device has gone

        def small(ref: str, vbd: dict[str, str]) -> None:
            path = guest.dev / vbd["device"]
            path.write_bytes(b"")
            contents.hardlink_to(path)
            threading.Timer(0.1, os.truncate, (path, SIZE)).start()

        guest.plugged = small
        guest.road.fill(vdi, ONE)
        assert contents.read_bytes()[MIB] == ord("a")

    def test_gives_up_when_the_device_does_not_come(self, guest: Guest) -> None:
        guest.plugged = lambda ref, vbd: None
        assert_refused(guest, "did not appear")

    def test_does_not_write_to_a_device_that_is_too_small(self, guest: Guest) -> None:
        def small(ref: str, vbd: dict[str, str]) -> None:
            (guest.dev / vbd["device"]).write_bytes(bytes(SIZE - 512))

        guest.plugged = small
        assert_refused(guest, f"it has {SIZE - 512} bytes, and VDI .* has {SIZE}; nothing was written")

    def test_does_not_write_to_a_device_that_was_there_before(self, guest: Guest) -> None:
        """This is not the machine that we take it for, or the pool's name for the device is another's here."""
        theirs = guest.dev / "xvda"
        theirs.write_bytes(bytes(SIZE))
        guest.plugged = lambda ref, vbd: None
        guest.shown.clear()
        assert_refused(guest, "existed before")

    def test_does_not_write_where_another_disk_of_the_vm_has_the_same_device(self, guest: Guest) -> None:
        """xen-api issue 2963: two datapaths on one device."""
        other = guest.pool.vdi()
        with guest.pool.xapi.xapi.lock:
            theirs = guest.pool.xapi.add_vbd(guest.vm, other)

        def same(ref: str, vbd: dict[str, str]) -> None:
            guest.show(ref, vbd)
            with_lock(guest.pool, lambda: guest.pool.xapi.db.set("VBD", theirs, device=vbd["device"]))

        guest.plugged = same
        with pytest.raises(TargetError, match="another disk at"):
            guest.road.fill(guest.pool.vdi(), ONE)
        assert guest.pool.vbds() == [theirs]
        assert guest.pool.bytes_of(other) == bytes(SIZE)

    def test_does_not_write_where_the_vbd_has_another_disk_by_now(self, guest: Guest) -> None:
        other = guest.pool.vdi()

        def changed(ref: str, vbd: dict[str, str]) -> None:
            guest.show(ref, vbd)
            with_lock(guest.pool, lambda: guest.pool.xapi.db.set("VBD", ref, VDI=other))

        guest.plugged = changed
        assert_refused(guest, "has another disk")
        assert guest.pool.bytes_of(other) == bytes(SIZE)

    @pytest.mark.parametrize("name", ["", "../etc/passwd", "/etc/passwd"])
    def test_does_not_write_to_what_is_no_name_of_a_device(self, guest: Guest, name: str) -> None:
        guest.plugged = lambda ref, vbd: with_lock(
            guest.pool, lambda: guest.pool.xapi.db.set("VBD", ref, device=name)
        )
        assert_refused(guest, "which is not the name of a device")


def assert_refused(guest: Guest, text: str) -> None:
    vdi = guest.pool.vdi()
    with pytest.raises(TargetError, match=text):
        guest.road.fill(vdi, ONE)
    assert guest.pool.bytes_of(vdi) == bytes(SIZE)
    assert guest.pool.residue() == []
    for path in guest.dev.iterdir():
        assert set(path.read_bytes()) <= {0}


class TestUnplug:
    def test_that_is_refused_for_a_moment_is_asked_again(self, guest: Guest) -> None:
        """udev looks into a disk that was written."""
        vdi = guest.pool.vdi()
        for n in (1, 2, 3):
            guest.pool.xapi.faults.refuse("VBD.unplug", "DEVICE_DETACH_REJECTED", "VBD", "ref", "busy", nth=n)
        guest.road.fill(vdi, ONE)
        assert guest.pool.bytes_of(vdi)[MIB] == ord("a")
        assert guest.pool.residue() == []

    def test_that_is_refused_for_good_is_an_error_and_what_stays_says_whose_it_is(self, guest: Guest) -> None:
        vdi = guest.pool.vdi()
        guest.pool.xapi.guest(guest.vm).refuses_unplug = True
        with pytest.raises(XapiError) as caught:
            guest.road.fill(vdi, ONE)
        assert caught.value.code == "DEVICE_DETACH_REJECTED"
        assert any("holds the disk's device" in note for note in caught.value.__notes__)
        (vbd,) = guest.pool.vbds()
        assert guest.pool.attempt.has_marked(guest.pool.xapi.db.row("VBD", vbd))
        guest.pool.xapi.guest(guest.vm).refuses_unplug = False
        assert release(guest.pool.view, vdi) is True  # of control domains, where it is not
        assert len(guest.pool.vbds()) == 1
        assert release(guest.pool.view, vdi, guest.pool.attempt) is True
        assert guest.pool.residue() == []

    def test_of_a_host_that_is_dead_is_a_silence_and_what_stays_is_released_later(self, pool: Pool) -> None:
        vdi = pool.vdi()
        with pytest.raises(XapiUnreachable):
            pool.block(timeouts=BRIEF).fill(vdi, looking(ONE, pool.xapi.faults.die))
        pool.xapi.faults.come_back()
        assert len(pool.residue()) == 1
        assert release(pool.view, vdi) is False  # it may be somebody's who lives
        assert release(pool.view, vdi, pool.attempt) is True
        assert pool.residue() == []


def test_two_slots_of_one_disk_in_a_control_domain_share_a_device_and_are_both_let_go(pool: Pool) -> None:
    vdi = pool.vdi()
    with pool.block().contents(vdi) as first:
        pool.block().fill(vdi, ONE)
        assert sum(len(piece.data) for piece in first.pieces()) == MIB
    assert pool.residue() == []


@pytest.mark.slow
def test_the_memory_stays_flat_on_both_roads(tmp_path: Path) -> None:
    """512 MiB in and out, with the simulator in the same process."""
    program = MEASURED.format(path=[*sys.path], home=str(tmp_path))
    grown = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert grown < 64 * 1024, f"{grown} KiB more than before"


MEASURED = """
import sys; sys.path[:] = {path}
import os, pathlib, resource
from test_transport_choice import MIB, pool_in
from xenvol.images.disk_image import Piece

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def pieces():
    for at in range(0, 512 * MIB, MIB):
        yield Piece(at, os.urandom(1024) * 1024)

with pool_in(pathlib.Path({home!r})) as pool:
    vdi = pool.vdi(512 * MIB)
    roads = [pool.http(), pool.block()]
    for road in roads:
        road.fill(vdi, [Piece(0, b"a" * MIB)])
    before = peak()
    for road in roads:
        road.fill(vdi, pieces())
        with road.contents(vdi) as disk:
            assert sum(len(piece.data) for piece in disk.pieces()) == 512 * MIB
    print(peak() - before)
"""
