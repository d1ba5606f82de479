"""An image becomes a disk, byte for byte, on every SR type and by both transports; or nothing is left of it."""

from __future__ import annotations

import datetime
import gzip
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import vhdkit
from imagelab import DISK_SRS, MIB, Guest, Lab, lab, pattern

import xenvol
from xenvol.errors import VolumeInUse, XapiUnreachable
from xenvol.images import (
    ImageSource,
    Progress,
    export_image,
    fill_vdi,
    find_leftovers,
    import_image,
)
from xenvol.images.claim import claimed
from xenvol.images.errors import DiskNotSuited, ImageTooLarge, NotAsWritten, NoTransport, TransferFailed
from xenvol.pool.marks import FILLED
from xenvol.pool.transfer_mark import Attempt, attempt_of
from xenvol.pool.view import View
from xenvol.session import CallRecord, Session
from xenvol.session.refs import VDIRef


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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A pool that many tests leave as they found it."""
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        yield made


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(pattern(5 * MIB))
    return path


class TestWhereADiskMayHoldOldBytes:
    """Raw disks on LVM, and disks that were there before: what the image has no data for becomes zeros."""

    @pytest.mark.parametrize("road", ["http", "block"])
    @pytest.mark.parametrize("sr_type", ["lvm", "lvmoiscsi"])
    def test_a_raw_disk_is_zeroed_where_the_image_has_holes(
        self, pool: Lab, image: Path, sr_type: str, road: str
    ) -> None:
        sr = pool.sr(sr_type)
        made = import_image(
            pool.session, image, sr, sm_config={"type": "raw"}, verify=True, here=pool.on(road)
        )
        assert made.written == made.vdi_size
        assert pool.content(made.vdi_uuid) == image.read_bytes().ljust(made.vdi_size, b"\0")

    @pytest.mark.parametrize("road", ["http", "block"])
    @pytest.mark.parametrize("order", [None, [2, 0, 1]])
    def test_a_disk_that_is_filled_has_nothing_left_of_before(
        self, shared: Lab, tmp_path: Path, road: str, order: list[int] | None
    ) -> None:
        layer = vhdkit.painted(6 * MIB, [(first, 2) for first in range(0, 6 * 2048, 11)], 1)
        path = tmp_path / "disk.vhd"
        path.write_bytes(vhdkit.make_dynamic(6 * MIB, layer, order=order, garbage=True))
        vdi = shared.vdi("nfs", 8 * MIB)
        shared.file(vdi).write_bytes(b"old" * (8 * MIB // 3))
        made = fill_vdi(shared.session, path, vdi, verify=True, here=shared.on(road))
        assert (made.vdi_uuid, made.written >= 8 * MIB) == (vdi, True)
        assert shared.content(vdi) == vhdkit.model(6 * MIB, layer).ljust(8 * MIB, b"\0")
        assert shared.residue() == []

    def test_a_disk_that_is_said_to_be_blank_gets_the_data_alone(self, shared: Lab, image: Path) -> None:
        vdi = shared.vdi("nfs", 8 * MIB)
        made = fill_vdi(shared.session, image, vdi, is_blank=True, here=shared.elsewhere)
        assert made.written < 5 * MIB
        assert shared.content(vdi) == image.read_bytes().ljust(8 * MIB, b"\0")

    def test_verifying_finds_what_the_storage_has_lost(self, shared: Lab, image: Path) -> None:
        before = shared.xapi.snapshot()

        def lose_a_byte(call: CallRecord) -> None:
            if call.call == "task.destroy" and not damaged:
                (ref,) = (ref for ref in shared.vdis("nfs") if is_new(ref))
                with shared.file(shared.xapi.db.get("VDI", ref, "uuid")).open("r+b") as file:
                    file.seek(3 * MIB + 77)
                    damaged.append(file.write(b"?"))

        def is_new(ref: str) -> bool:
            return bool(shared.xapi.db.get("VDI", ref, "name_label") == "disk.raw")

        damaged: list[int] = []
        session = Session(shared.session, on_call=lose_a_byte)
        with pytest.raises(NotAsWritten) as caught:
            import_image(session, image, shared.sr(), verify=True, here=shared.elsewhere)
        assert damaged == [1]
        assert 2 * MIB <= caught.value.offset <= 3 * MIB + 77
        sizes = ["SR.physical_utilisation"]
        assert before.difference(shared.xapi.snapshot(), ignore=sizes) == shared.residue() == []


class TestALUN:
    def test_is_never_made_from_an_image(self, pool: Lab, image: Path) -> None:
        """VDI.create would hand out a LUN with data on it."""
        sr = pool.sr("iscsi")
        with pool.xapi.journal.recording() as calls, pytest.raises(DiskNotSuited, match="LUNs"):
            import_image(pool.session, image, sr, here=pool.elsewhere)
        assert "VDI.create" not in calls.methods()

    @pytest.mark.parametrize("road", ["auto", "http", "block"])
    def test_cannot_be_reached_through_a_control_domain(self, pool: Lab, image: Path, road: str) -> None:
        """Storage managers since 4.0 give it no address there; it is said before anything is made."""
        vdi = pool.lun()
        before = pool.xapi.snapshot()
        with pool.xapi.journal.recording() as calls, pytest.raises(NoTransport) as caught:
            fill_vdi(pool.session, image, vdi, road=road, here=pool.run_in(None))  # type: ignore[arg-type]  # a test passes what its parameters say
        assert "control domain" in str(caught.value)
        assert set(caught.value.reasons) == ({"http", "block"} if road == "auto" else {road})
        assert before.difference(pool.xapi.snapshot()) == []
        assert {
            call for call in calls.methods() if not call.startswith(("event", "VDI.get", "PBD.get", "SR.get"))
        } <= {"VM.get_all_records_where", "host.get_servertime"}

    def test_is_filled_and_read_by_a_guest_in_which_we_run(
        self, pool: Lab, image: Path, tmp_path: Path
    ) -> None:
        """All of it is written: a LUN holds what its last owner wrote."""
        vdi, guest = pool.lun(), Guest(pool)
        before = pool.xapi.snapshot()
        made = fill_vdi(guest.session, image, vdi, verify=True, here=guest.here)
        assert (made.road, made.written) == ("block", made.vdi_size)
        export_image(guest.session, vdi, tmp_path / "copy", here=guest.here)
        with (tmp_path / "copy").open("rb") as file:
            assert file.read(5 * MIB) == image.read_bytes()
        assert before.difference(pool.xapi.snapshot()) == pool.residue() == []


class TestAnISOImage:
    @pytest.mark.parametrize("road", ["http", "block"])
    def test_goes_into_an_iso_library_under_its_name(self, pool: Lab, tmp_path: Path, road: str) -> None:
        disc = bytearray(pattern(2 * MIB, density=1.0))
        disc[0x8000:0x8006] = b"\x01CD001"
        (tmp_path / "install-1.0.iso").write_bytes(disc)
        made = import_image(pool.session, tmp_path / "install-1.0.iso", pool.sr("iso"), here=pool.on(road))
        vdi = pool.session.call("VDI.get_record", made.vdi_ref)
        assert (made.format, vdi["location"], vdi["name_label"]) == (
            "iso",
            "install-1.0.iso",
            "install-1.0.iso",
        )
        assert pool.content(made.vdi_uuid) == bytes(disc)
        pool.session.call("SR.scan", pool.srs["iso"])
        assert pool.session.call("VDI.get_uuid", made.vdi_ref) == made.vdi_uuid

    @pytest.mark.parametrize("road", ["http", "block"])
    @pytest.mark.parametrize("size", [3 * MIB + 2048, 2 * MIB - 2048])
    def test_of_any_size_is_verified_and_exported_again(
        self, shared: Lab, tmp_path: Path, size: int, road: str
    ) -> None:
        disc = bytearray(pattern(size, density=1.0))
        disc[0x8000:0x8006] = b"\x01CD001"
        path = tmp_path / f"{road}-{size}.iso"
        path.write_bytes(disc)
        made = import_image(shared.session, path, shared.sr("iso"), verify=True, here=shared.on(road))
        assert (made.virtual_size, made.vdi_size) == (size, size)
        export_image(shared.session, made.vdi_uuid, tmp_path / "copy", here=shared.on(road))
        assert (tmp_path / "copy").read_bytes() == bytes(disc)


@contextmanager
def clock_of_pool(shared: Lab, *, hours: int) -> Iterator[datetime.datetime]:
    """The pool's clock is so many hours ahead of this machine's during the block; gives its time."""
    xapi = shared.xapi.xapi
    usual = xapi.clock
    xapi.clock = lambda: usual() + 3600 * hours
    try:
        yield datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    finally:
        xapi.clock = usual


def claim(shared: Lab, vdi: str, *, minutes_ago: int) -> None:
    """As an import on another machine, whose clock is the pool's, claims a disk."""
    now = datetime.datetime.fromtimestamp(int(shared.xapi.xapi.clock()), datetime.UTC)
    began = now - datetime.timedelta(minutes=minutes_ago)
    text = f"0123456789abcdef {began.isoformat()} elsewhere/7"
    shared.session.call("VDI.add_to_other_config", shared.ref(vdi), FILLED, text)


class TestADiskThatIsThere:
    """One import at a time overwrites it, and never while it is in use."""

    @pytest.mark.parametrize("power_state", ["Running", "Halted", "Suspended"])
    def test_and_that_a_vm_has_is_refused(self, pool: Lab, image: Path, power_state: str) -> None:
        vdi = pool.vdi("nfs", 8 * MIB)
        pool.file(vdi).write_bytes(b"precious" * (8 * MIB // 8))
        pool.xapi.add_vm("web", power_state=power_state, disks=[pool.ref(vdi)])
        before = pool.xapi.snapshot()
        with pytest.raises(VolumeInUse, match="VM web"):
            fill_vdi(pool.session, image, vdi, here=pool.elsewhere)
        assert before.difference(pool.xapi.snapshot()) == []
        assert pool.content(vdi) == b"precious" * (8 * MIB // 8)

    def test_and_connected_or_no_disk_of_a_vm_is_refused(self, shared: Lab, image: Path) -> None:
        vdi = shared.vdi("nfs", 8 * MIB)
        shared.session.call("VDI.add_to_other_config", shared.ref(vdi), "xenvol:connected", "1")
        memory = shared.vdi("nfs", 8 * MIB, type="suspend")
        for each, problem in ((vdi, "connected"), (memory, "of type suspend")):
            with pytest.raises(DiskNotSuited, match=problem):
                fill_vdi(shared.session, image, each, here=shared.elsewhere)

    @pytest.mark.parametrize("road", ["http", "block"])
    def test_and_that_a_vm_gets_before_the_first_byte_is_not_touched(
        self, shared: Lab, image: Path, road: str
    ) -> None:
        """An image may be fetched for hours after the disk was looked at."""
        vdi = shared.vdi("nfs", 8 * MIB)
        told: list[Progress] = []

        def plug(progress: Progress) -> None:
            if not told:
                shared.xapi.add_vbd(shared.xapi.add_vm("early"), shared.ref(vdi))
            told.append(progress)

        with pytest.raises(VolumeInUse, match="VM early"):
            fill_vdi(shared.session, io.BytesIO(image.read_bytes()), vdi, progress=plug, here=shared.on(road))
        assert {progress.phase for progress in told} == {"staging"}
        assert shared.content(vdi) == bytes(8 * MIB)

    @pytest.mark.parametrize("road", ["http", "block"])
    def test_and_that_a_vm_gets_meanwhile_is_a_failure_and_says_so(
        self, shared: Lab, image: Path, road: str
    ) -> None:
        vdi = shared.vdi("nfs", 8 * MIB)
        vm = shared.xapi.add_vm("late")
        told: list[Progress] = []

        def plug(progress: Progress) -> None:
            if not told:
                shared.xapi.add_vbd(vm, shared.ref(vdi))
            told.append(progress)

        with pytest.raises(TransferFailed, match="VM late got the disk") as caught:
            fill_vdi(shared.session, image, vdi, progress=plug, here=shared.on(road))
        assert "may hold a part" in caught.value.__notes__[0]
        failed = attempt_of(shared.session.call("VDI.get_record", shared.ref(vdi)), FILLED)
        assert failed is not None
        assert failed.has_failed

    def test_and_that_two_fill_at_once_is_filled_by_one(self, shared: Lab, tmp_path: Path) -> None:
        vdi = shared.vdi("nfs", 8 * MIB)
        outcomes: list[str] = []

        def fill(letter: bytes) -> None:
            (tmp_path / letter.decode()).write_bytes(letter * (8 * MIB))
            with xenvol.connect(shared.xapi.url, "root", "secret") as session:
                try:
                    fill_vdi(session, tmp_path / letter.decode(), vdi, here=shared.elsewhere)
                    outcomes.append(letter.decode())
                except (DiskNotSuited, VolumeInUse) as error:
                    outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=fill, args=(letter,)) for letter in (b"A", b"B", b"C")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done = [outcome for outcome in outcomes if len(outcome) == 1]
        assert len(done) >= 1
        assert shared.content(vdi) in [letter.encode() * (8 * MIB) for letter in done]
        assert FILLED not in shared.session.call("VDI.get_other_config", shared.ref(vdi))

    def test_and_claimed_just_now_is_refused_however_long_ago_that_import_began(
        self, shared: Lab, image: Path
    ) -> None:
        """It may have staged its image for hours, and has not plugged the disk yet."""
        view = View.of(shared.session)
        attempt = Attempt.begin(view)
        began_long_ago = replace(attempt, began=attempt.began - datetime.timedelta(hours=5))
        vdi = shared.vdi("nfs", 8 * MIB)
        with claimed(view, VDIRef(shared.ref(vdi)), began_long_ago):
            with pytest.raises(DiskNotSuited, match="is being filled"):
                fill_vdi(shared.session, image, vdi, here=shared.elsewhere)
        fill_vdi(shared.session, image, vdi, here=shared.elsewhere)

    def test_and_claimed_a_moment_ago_is_refused_by_a_machine_whose_clock_is_an_hour_ahead(
        self, shared: Lab, image: Path
    ) -> None:
        """The claim is living: by the pool's clock it is a minute old, by this machine's an hour."""
        vdi = shared.vdi("nfs", 8 * MIB)
        with clock_of_pool(shared, hours=-1):
            claim(shared, vdi, minutes_ago=1)
            before = shared.xapi.snapshot()
            with pytest.raises(DiskNotSuited, match="is being filled by an import on elsewhere/7"):
                fill_vdi(shared.session, image, vdi, here=shared.elsewhere)
            assert before.difference(shared.xapi.snapshot()) == []

    def test_and_claimed_by_a_dead_import_is_filled_by_a_machine_whose_clock_is_an_hour_behind(
        self, shared: Lab, image: Path
    ) -> None:
        """The claim is stale: by the pool's clock it is three minutes old, by this machine's it is of the future."""
        vdi = shared.vdi("nfs", 8 * MIB)
        before = shared.xapi.snapshot()
        with clock_of_pool(shared, hours=1):
            claim(shared, vdi, minutes_ago=3)
            fill_vdi(shared.session, image, vdi, here=shared.elsewhere)
        assert shared.content(vdi) == image.read_bytes().ljust(8 * MIB, b"\0")
        changed = before.difference(shared.xapi.snapshot(), ignore=["SR.physical_utilisation"])
        assert [change for change in changed if not change.startswith("storage.")] == shared.residue() == []

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_is_claimed_by_the_pools_clock_and_not_by_this_machines(self, shared: Lab, hours: int) -> None:
        vdi, view = shared.vdi("nfs", 8 * MIB), View.of(shared.session)
        with clock_of_pool(shared, hours=hours) as now:
            attempt = Attempt.begin(view)
            with claimed(view, VDIRef(shared.ref(vdi)), attempt):
                text = shared.session.call("VDI.get_other_config", shared.ref(vdi))[FILLED]
        marked = attempt_of({"other_config": {FILLED: text}}, FILLED)
        assert marked is not None
        assert abs(marked.began - now) < datetime.timedelta(minutes=1)
        assert abs(attempt.began - now) < datetime.timedelta(minutes=1)

    def test_and_half_filled_says_so_and_is_filled_again(self, shared: Lab, image: Path) -> None:
        vdi = shared.vdi("nfs", 8 * MIB)
        shared.xapi.faults.drop_connection("PUT /import_raw_vdi")
        with pytest.raises((TransferFailed, XapiUnreachable)):
            fill_vdi(shared.session, image, vdi, here=shared.elsewhere)
        assert [each.kind for each in find_leftovers(shared.session) if each.vdi_uuid == vdi] == ["half"]
        fill_vdi(shared.session, image, vdi, here=shared.elsewhere)
        assert shared.content(vdi) == image.read_bytes().ljust(8 * MIB, b"\0")
        assert [each for each in find_leftovers(shared.session) if each.vdi_uuid == vdi] == []


def test_a_raw_disk_that_begins_like_a_packed_image_is_what_it_is_said_to_be(
    shared: Lab, tmp_path: Path
) -> None:
    """A guest has put a tar.gz at the beginning of its disk."""
    disk = gzip.compress(b"what the guest put there" * 500).ljust(4 * MIB, b"\0")
    (tmp_path / "disk").write_bytes(disk)
    for where in (tmp_path / "disk", io.BytesIO(disk)):
        source = ImageSource(where=where, format="raw", size=len(disk))
        made = import_image(shared.session, source, shared.sr(), here=shared.elsewhere)
        assert (made.format, made.virtual_size) == ("raw", 4 * MIB)
        assert shared.content(made.vdi_uuid) == disk


@pytest.mark.parametrize("as_file", [True, False])
def test_a_raw_disk_that_is_said_to_be_packed_is_unpacked_once(
    shared: Lab, tmp_path: Path, as_file: bool
) -> None:
    disk = gzip.compress(b"what the guest put there" * 500).ljust(4 * MIB, b"\0")
    packed = gzip.compress(disk)
    (tmp_path / "disk").write_bytes(packed)
    where = tmp_path / "disk" if as_file else io.BytesIO(packed)
    source = ImageSource(where=where, format="raw", is_packed=True)
    made = import_image(shared.session, source, shared.sr(), here=shared.elsewhere)
    assert (made.format, made.virtual_size) == ("raw", 4 * MIB)
    assert shared.content(made.vdi_uuid) == disk


def test_what_never_ends_is_cut_off_at_the_largest_disk(
    shared: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros take no room where they are staged."""
    monkeypatch.setattr("xenvol.images.opening._LONGEST", 64 * MIB)
    bomb = io.BytesIO(gzip.compress(bytes(80 * MIB)))
    with pytest.raises(ImageTooLarge):
        import_image(shared.session, bomb, shared.sr(), staging_dir=tmp_path, here=shared.elsewhere)
    assert list(tmp_path.glob("xenvol*")) == []
