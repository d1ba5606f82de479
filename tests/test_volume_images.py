"""A volume from an image is there when it holds the image, and not before; an image from a volume is what it holds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.images.imagelab import IMPATIENT
from tests.sm.conftest import DEVICE, GIB, MIB, NFS, NFS_2, arrange_storage, log_in, vdi_uuids
from tests.sm.sqlite_file import with_tables
from tests.sm.test_sm_fault_sweep import Operation, Trial, each_call, judged
from xenvol.errors import XapiError, XenVolError
from xenvol.images import ImageSource, Progress
from xenvol.images.errors import (
    ChecksumMismatch,
    ImageTooLarge,
    InvalidImage,
    NoTransport,
    SourceError,
    TransferCancelled,
)
from xenvol.images.options import Environment
from xenvol.simulator import Simulator
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath
from xenvol.sm import StorageManager, filling, volume_rows
from xenvol.sm.database import Database
from xenvol.sm.errors import NoBackendFits, Overtaken, UnknownVolume, VolumeExists, VolumeNotReady
from xenvol.sm.records import Backend, Volume
from xenvol.testing import sweep
from xenvol.testing.residue import changes
from xenvol.volume_images import create_volume_from_image, fill_volume, volume_to_image
from xenvol.volumeops import VolumeOps

ELSEWHERE = Environment(root=Path("/nonexistent"), timeouts=IMPATIENT)
"""This machine is no VM of the pool, and does not wait."""
FULL = ("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")
PUT = "PUT /import_raw_vdi"
SIZE = 6 * MIB


@pytest.fixture
def pool(xapi: Simulator) -> Simulator:
    """With storage."""
    arrange_storage(xapi)
    return xapi


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(with_tables(tmp_path / "sm.sqlite"))
    yield database
    database.close()


@pytest.fixture
def manager(pool: Simulator, database: Database) -> Iterator[StorageManager]:
    """With a flavor ``gold``, and nothing else."""
    with log_in(pool) as session:
        manager = StorageManager(session, database)
        manager.create_flavor("gold", "backups are possible")
        yield manager


@pytest.fixture
def nfs(manager: StorageManager) -> Backend:
    """A thin backend of ``gold``, of 100 GiB."""
    return manager.add_backend("gold", "nfs", NFS)


@pytest.fixture
def lvm(manager: StorageManager) -> Backend:
    """A thick one, of 50 GiB."""
    return manager.add_backend("gold", "lvm", {"device": DEVICE}, format_device=DEVICE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw one: data, a hole, data."""
    path = tmp_path_factory.mktemp("image") / "disk.raw"
    random = Random(4)
    path.write_bytes(random.randbytes(2 * MIB) + bytes(2 * MIB) + random.randbytes(2 * MIB))
    return path


def create(manager: StorageManager, source: Any, volume_id: str = "v1", **options: Any) -> Volume:
    return create_volume_from_image(manager, volume_id, "gold", source, here=ELSEWHERE, **options)


def content(pool: Simulator, volume: Volume) -> bytes:
    """What lies behind its disk, to the disk's end."""
    (ref,) = [ref for ref in pool.db.refs("VDI") if pool.db.get("VDI", ref, "uuid") == volume.vdi_uuid]
    with pool.xapi.lock:
        path = datapath.content(Call(pool.xapi, "test", "", "", pool.xapi.master), pool.xapi.master, ref)
    return path.read_bytes().ljust(volume.virtual_size or 0, b"\0")


def disk_of(image: Path, size: int) -> bytes:
    return image.read_bytes().ljust(size, b"\0")


class Midway:
    """A progress that does something once, while the image is being written."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act = act
        self.result: object = None
        self.is_done = False

    def __call__(self, progress: Progress) -> None:
        if progress.phase == "writing" and not self.is_done:
            self.is_done = True
            self.result = self.act()


class Unseekable(io.RawIOBase):
    """What comes once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def all_gone(pool: Simulator, manager: StorageManager, before: Any) -> None:
    assert manager.list_volumes() == []
    assert manager.audit().findings == []
    left = changes(before, pool.snapshot())
    assert [
        line
        for line in left
        if "virtual_allocation" not in line and "physical" not in line and "filelog" not in line
    ] == []


class TestAVolumeFromAnImage:
    def test_holds_it_and_says_of_itself_what_any_volume_does(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        volume = create(manager, image, name="root disk")
        assert (volume.state, volume.size, volume.image) == ("available", SIZE, str(image))
        assert content(pool, volume) == image.read_bytes()
        (ref,) = pool.db.refs("VDI")
        said = pool.db.get("VDI", ref, "other_config")
        assert said.keys() - {"content_id"} == {
            "xenvol:managed"
        }  # the other is xapi's, of what it has written
        assert pool.db.get("VDI", ref, "name_label") == "root disk"
        assert manager.get_volume("v1") == volume
        assert manager.audit().findings == []

    def test_is_as_large_as_was_asked_with_zeros_behind_the_image(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        volume = create(manager, image, size=9 * MIB, verify=True)
        assert volume.virtual_size == 10 * MIB
        assert content(pool, volume) == disk_of(image, 10 * MIB)

    def test_smaller_than_the_image_is_refused_before_anything_is_made(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        with pool.journal.recording() as calls, pytest.raises(ImageTooLarge, match="6291456 bytes"):
            create(manager, image, size=SIZE - 1)
        assert calls.methods() == []
        assert manager.list_volumes() == []

    def test_has_zeros_in_the_images_holes_where_a_new_disk_may_hold_anything(
        self, pool: Simulator, manager: StorageManager, image: Path
    ) -> None:
        """A raw disk on LVM: what the volume group held before is there."""
        manager.add_backend("gold", "lvm", {"device": DEVICE, "type": "raw"}, format_device=DEVICE)

        def spoil() -> None:
            (ref,) = pool.db.refs("VDI")
            with pool.xapi.lock:
                path = datapath.content(
                    Call(pool.xapi, "test", "", "", pool.xapi.master), pool.xapi.master, ref
                )
            with open(path, "r+b") as file:
                file.seek(3 * MIB)
                file.write(b"old" * 1000)

        volume = create(manager, image, size=8 * MIB, progress=Midway(spoil))
        assert content(pool, volume) == disk_of(image, 8 * MIB)

    def test_is_the_same_when_it_is_asked_for_again(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        volume = create(manager, image)
        with pool.journal.recording() as calls:
            assert create(manager, image) == volume
        assert calls.methods() == []

    def test_is_another_than_one_of_another_image_or_of_none(
        self, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.raw"
        other.write_bytes(bytes(SIZE - 1) + b"x")
        create(manager, image)
        manager.create_volume("empty", "gold", SIZE)
        with pytest.raises(VolumeExists, match="made of the image"):
            create(manager, other)
        with pytest.raises(VolumeExists, match="made of the image"):
            manager.create_volume("v1", "gold", SIZE)
        with pytest.raises(VolumeExists, match="made of no image"):
            create(manager, image, "empty")

    def test_is_known_by_the_images_checksum_if_that_is_given(
        self, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        volume = create(manager, ImageSource(where=image, checksum=digest))
        assert volume.image == f"sha256:{digest}"
        stream: Any = Unseekable(image.read_bytes())
        assert create(manager, ImageSource(where=stream, size=SIZE, checksum=digest)) == volume

    def test_of_a_long_name_is_known_by_as_much_of_it_as_there_is_room_for(
        self, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        deep = tmp_path / ("a" * 200) / ("b" * 200)
        deep.mkdir(parents=True)
        (deep / "disk.raw").write_bytes(image.read_bytes())
        (deep / "disc.raw").write_bytes(image.read_bytes())
        volume = create(manager, deep / "disk.raw")
        assert len(volume.image or "") <= filling.LONGEST
        assert create(manager, deep / "disk.raw") == volume
        with pytest.raises(VolumeExists):
            create(manager, deep / "disc.raw")


class TestUntilItHoldsTheImage:
    def test_it_is_not_available_and_an_audit_lets_its_service_finish(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        def look() -> None:
            assert manager.get_volume("v1").state == "creating"
            assert manager.get_volume("v1").vdi_uuid is None
            with pytest.raises(VolumeNotReady):
                manager.initialize_connection("v1")
            with log_in(pool) as session:
                assert StorageManager(session, database).audit(repair=True).findings == []

        midway = Midway(look)
        volume = create(manager, image, progress=midway)
        assert midway.is_done
        assert content(pool, volume) == image.read_bytes()

    def test_nobody_who_is_taken_for_dead_can_finish_it_and_nothing_of_his_remains(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        """An audit ends his row while he writes; he finds that out, and takes back what he made."""
        before = pool.snapshot()

        def bury() -> list[str]:
            with log_in(pool) as session:
                found = StorageManager(session, database).audit(repair=True, silence=0).findings
            return [finding.kind for finding in found]

        midway = Midway(bury)
        with pytest.raises(Overtaken):
            create(manager, image, progress=midway)
        assert midway.result == ["half_made", "orphan_vdi"]
        all_gone(pool, manager, before)

    def test_what_a_dead_service_has_left_is_not_taken_for_it_by_the_next(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        """It fills another disk, and erases the half."""
        left = _left_by_a_dead_one(pool, manager, database, image)
        assert [v.state for v in manager.list_volumes()] == ["creating"]
        with log_in(pool) as session:
            volume = create(StorageManager(session, database), image)
        assert volume.vdi_uuid not in left
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert content(pool, volume) == image.read_bytes()
        assert manager.audit().findings == []

    def test_what_a_dead_service_has_left_is_told_of_and_taken_away_by_an_audit(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        before = pool.snapshot()
        _left_by_a_dead_one(pool, manager, database, image)
        with database.transaction() as connection:  # he was killed, and has not taken back his word
            assert volume_rows.say_filling(connection, manager.get_volume("v1"))
        assert manager.audit(repair=True).findings == []
        found = manager.audit(silence=0)
        assert [finding.kind for finding in found.findings] == ["half_made"]
        assert manager.audit(repair=True, silence=0).agrees
        all_gone(pool, manager, before)

    def test_it_can_be_deleted(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        before = pool.snapshot()
        _left_by_a_dead_one(pool, manager, database, image)
        manager.delete_volume("v1")
        all_gone(pool, manager, before)

    def test_its_backends_room_is_counted_once(
        self, pool: Simulator, manager: StorageManager, lvm: Backend, image: Path
    ) -> None:
        """By its disk, which the pool shows, and not by its row as well."""
        free: list[int] = []

        def look() -> None:
            free.append(manager.stats()[0].backend.free)

        create(manager, image, size=20 * GIB, progress=Midway(look))
        assert abs(free[0] - manager.stats()[0].backend.free) < 64 * MIB

    def test_two_services_fill_a_disk_each_and_one_of_them_is_the_volume(
        self, pool: Simulator, manager: StorageManager, database: Database, nfs: Backend, image: Path
    ) -> None:
        with log_in(pool) as session:
            other = StorageManager(session, database)
            midway = Midway(lambda: create(other, image))
            volume = create(manager, image, progress=midway)
        assert midway.result == volume
        assert content(pool, volume) == image.read_bytes()
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert manager.audit().findings == []

    def test_many_ask_for_it_at_once_and_all_get_the_same(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        barrier = threading.Barrier(4)

        def ask(number: int) -> Volume:
            barrier.wait()
            return create(manager, image)

        with ThreadPoolExecutor(4) as executor:
            (volume,) = set(executor.map(ask, range(4)))
        assert content(pool, volume) == image.read_bytes()
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == [volume.vdi_uuid]


def _left_by_a_dead_one(
    pool: Simulator, manager: StorageManager, database: Database, image: Path
) -> list[str]:
    """The disks that a service has left which lost the pool in the middle of its transfer."""
    with log_in(pool) as session:
        midway = Midway(lambda: pool.faults.lose_request("*", every=True))
        with pytest.raises(XenVolError):
            create(StorageManager(session, database), image, progress=midway)
        pool.faults.clear()
    assert len(vdi_uuids(pool)) == 1
    return vdi_uuids(pool)


class TestWhatFails:
    def test_at_VDI_create_is_tried_on_the_next_backend(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        other = manager.add_backend("gold", "nfs", NFS_2)
        pool.faults.refuse("VDI.create", *FULL)
        volume = create(manager, image)
        assert volume.backend_id == other.id
        assert content(pool, volume) == image.read_bytes()

    def test_for_want_of_a_road_is_told_for_every_backend(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        before = pool.snapshot()
        with pytest.raises(NoBackendFits, match="no VM of the pool") as caught:
            create(manager, image, road="block")
        assert list(caught.value.reasons) == [nfs.id]
        all_gone(pool, manager, before)

    @pytest.mark.parametrize("is_stream", [False, True])
    def test_by_its_checksum_leaves_nothing_and_is_tried_on_no_other_backend(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, is_stream: bool
    ) -> None:
        """Of a file it is known before anything is made."""
        manager.add_backend("gold", "nfs", NFS_2)
        before = pool.snapshot()
        where: Any = Unseekable(image.read_bytes()) if is_stream else image
        source = ImageSource(where=where, size=SIZE, checksum="0" * 64)
        with pool.journal.recording() as calls, pytest.raises(ChecksumMismatch) as caught:
            create(manager, source)
        assert calls.methods().count("VDI.create") == is_stream
        assert not hasattr(caught.value, "__notes__")
        all_gone(pool, manager, before)

    def test_at_a_call_of_the_transfer_leaves_nothing_and_is_tried_on_no_other_backend(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        """The storage has taken the disk; and a stream that has begun does not come a second time."""
        manager.add_backend("gold", "nfs", NFS_2)
        before = pool.snapshot()
        pool.faults.refuse("task.create", *FULL)
        with pool.journal.recording() as calls, pytest.raises(XapiError) as caught:
            create(manager, image)
        assert caught.value.code == FULL[0]
        assert calls.methods().count("VDI.create") == 1
        all_gone(pool, manager, before)

    def test_as_a_bad_image_or_as_none_leaves_nothing(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, tmp_path: Path
    ) -> None:
        before = pool.snapshot()
        bad = tmp_path / "bad.vhd"
        bad.write_bytes(b"conectix" + bytes(2000))
        with pytest.raises(InvalidImage):
            create(manager, bad)
        with pytest.raises(SourceError):
            create(manager, tmp_path / "nowhere")
        all_gone(pool, manager, before)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
    def test_by_an_interrupt_or_whatever_a_progress_raises_leaves_nothing(
        self,
        pool: Simulator,
        manager: StorageManager,
        nfs: Backend,
        image: Path,
        error: type[BaseException],
    ) -> None:
        before = pool.snapshot()

        def stop() -> None:
            raise error

        with pytest.raises(error):
            create(manager, image, progress=Midway(stop))
        all_gone(pool, manager, before)

    def test_since_it_was_cancelled_leaves_nothing(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path
    ) -> None:
        before = pool.snapshot()
        cancel = threading.Event()
        with pytest.raises(TransferCancelled):
            create(manager, image, progress=Midway(cancel.set), cancel=cancel)
        all_gone(pool, manager, before)


class TestAVolumeThatIsThere:
    def test_is_filled_anew_and_holds_the_image_and_zeros(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        volume = create(manager, image, size=8 * MIB)
        other = tmp_path / "other.raw"
        other.write_bytes(b"other" * 1024)
        filled = fill_volume(manager, "v1", other, here=ELSEWHERE, verify=True)
        assert (filled.vdi_uuid, filled.is_verified) == (volume.vdi_uuid, True)
        assert content(pool, volume) == disk_of(other, 8 * MIB)

    def test_that_is_a_lun_is_filled_only_by_a_road_that_leads_there(
        self, pool: Simulator, manager: StorageManager, image: Path
    ) -> None:
        """On such a flavor no volume is made, and a control domain takes no LUN: nothing is touched."""
        iqn, lun = "iqn.2010-10.org.example:store", "36001405000000000000000000000000b"
        pool.storage.san.add_target(iqn, "10.0.0.1:3260")
        pool.storage.san.add_lun(iqn, 0, GIB, scsi_id=lun)
        manager.add_backend("gold", "iscsi", {"target": "10.0.0.1", "targetIQN": iqn})
        with pytest.raises(NoBackendFits, match="serves LUNs that exist already"):
            create(manager, image)
        (uuid,) = vdi_uuids(pool)
        manager.manage_volume("lun", uuid)
        with pytest.raises(NoTransport, match="cannot be plugged into a control domain"):
            fill_volume(manager, "lun", image, here=ELSEWHERE)
        assert manager.audit().findings == []


class TestAnImageFromAVolume:
    def test_is_what_the_volume_holds(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        create(manager, image)
        before = pool.snapshot()
        exported = volume_to_image(manager, "v1", tmp_path / "out.raw", here=ELSEWHERE)
        assert (tmp_path / "out.raw").read_bytes() == image.read_bytes()
        assert (exported.residue, exported.was_in_use) == ((), False)
        assert changes(before, pool.snapshot()) == []

    @pytest.mark.parametrize("format", ["vhd", "tarball"])
    def test_makes_the_same_volume_again(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path, format: Any
    ) -> None:
        create(manager, image)
        volume_to_image(manager, "v1", tmp_path / "out", format=format, staging_dir=tmp_path, here=ELSEWHERE)
        again = create(manager, tmp_path / "out", "v2", staging_dir=tmp_path)
        assert content(pool, again) == image.read_bytes()
        assert [path.name for path in tmp_path.iterdir() if ".sqlite" not in path.name] == ["out"]

    def test_of_a_snapshot_is_what_the_volume_held(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        create(manager, image)
        manager.create_snapshot("s1", "v1")
        (tmp_path / "other.raw").write_bytes(b"other" * 1024)
        fill_volume(manager, "v1", tmp_path / "other.raw", here=ELSEWHERE)
        volume_to_image(manager, "s1", tmp_path / "out.raw", here=ELSEWHERE)
        assert (tmp_path / "out.raw").read_bytes() == image.read_bytes()
        assert manager.audit().findings == []

    def test_of_a_volume_that_a_vm_has_is_made_from_a_snapshot_which_goes_again(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, image: Path, tmp_path: Path
    ) -> None:
        create(manager, image)
        pool.add_vm("web", power_state="Running", resident_on="host1")
        ops = VolumeOps(manager.session)
        ops.attach_volume(manager.initialize_connection("v1"), "web")
        there = vdi_uuids(pool)
        exported = volume_to_image(manager, "v1", tmp_path / "out.raw", here=ELSEWHERE)
        assert (exported.was_in_use, exported.residue) == (True, ())
        assert (tmp_path / "out.raw").read_bytes() == image.read_bytes()
        assert vdi_uuids(pool) == there
        assert manager.audit().findings == []

    def test_of_no_volume_or_of_one_that_is_not_there_yet_is_refused(
        self,
        pool: Simulator,
        manager: StorageManager,
        database: Database,
        nfs: Backend,
        image: Path,
        tmp_path: Path,
    ) -> None:
        with pytest.raises(UnknownVolume):
            volume_to_image(manager, "v1", tmp_path / "out.raw", here=ELSEWHERE)
        _left_by_a_dead_one(pool, manager, database, image)
        with pytest.raises(VolumeNotReady):
            volume_to_image(manager, "v1", tmp_path / "out.raw", here=ELSEWHERE)
        with pytest.raises(VolumeNotReady):
            fill_volume(manager, "v1", image, here=ELSEWHERE)
        assert not (tmp_path / "out.raw").exists()


class TestAFilling:
    def test_is_good_for_one_disk_and_says_whether_it_was_used(
        self, manager: StorageManager, nfs: Backend
    ) -> None:
        written: list[str] = []
        once = filling.Filling("an image", written.append)
        assert repr(once) == "<Filling with an image: not begun>"
        manager.create_volume("v1", "gold", MIB, filling=once)
        assert repr(once) == "<Filling with an image: begun>"
        assert len(written) == 1
        with pytest.raises(Overtaken):
            manager.create_volume("v2", "gold", MIB, filling=once)
        assert [volume.id for volume in manager.list_volumes()] == ["v1"]
        assert manager.audit().findings == []

    @pytest.mark.parametrize("name", ["", "a" * 256])
    def test_of_a_name_that_no_row_has_room_for_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="1 to 255"):
            filling.Filling(name, lambda vdi_ref: None)

    def test_says_again_and_again_that_somebody_is_at_it(
        self, manager: StorageManager, database: Database, nfs: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And no more when it has failed."""
        monkeypatch.setattr(filling, "BEAT", 0.01)
        said: list[object] = []

        def write(vdi_ref: object) -> None:
            volume = manager.get_volume("v1")
            first = database.read(volume_rows.filled_at, volume)
            for _ in range(500):
                threading.Event().wait(0.01)
                if (now := database.read(volume_rows.filled_at, volume)) != first:
                    said.extend([first, now])
                    break
            raise KeyError

        with pytest.raises(KeyError):
            manager.create_volume("v1", "gold", MIB, filling=filling.Filling("an image", write))
        assert len(said) == 2
        assert manager.list_volumes() == []
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("filling")]


pytestmark = pytest.mark.timeout(600)  # each of these sweeps a whole transfer; machines are shared


@pytest.fixture
def operation(image: Path) -> Operation:
    def prepare(manager: StorageManager) -> None:
        manager.create_flavor("gold", "")
        manager.add_backend("gold", "nfs", NFS)

    return Operation("create-from-image", prepare, lambda manager: create(manager, image))


Begin = Callable[[Operation], Trial]
Pools = Callable[[int], Simulator]


@pytest.fixture(scope="module")
def pools() -> Iterator[Pools]:
    with Simulator() as xapi:
        yield lambda hosts: xapi


@pytest.fixture
def begin(pools: Pools, tmp_path: Path) -> Iterator[Begin]:
    with contextlib.ExitStack() as stack:

        def trial(operation: Operation) -> Trial:
            trial = Trial(pools(1), operation, tmp_path / "sm.sqlite")
            stack.callback(trial.session.close)
            return trial

        yield trial


class TestEveryCallOfCreatingFromAnImage:
    def test_that_is_refused_leaves_all_as_it_was(
        self, pools: Pools, begin: Begin, operation: Operation
    ) -> None:
        struck = []
        for case in each_call(pools, begin, operation, sweep.refuse):
            struck.append(case.call)
            assert case.error is None or isinstance(case.error, XenVolError), case
            is_named = any(volume.vdi_uuid for volume in case.trial.manager.list_volumes())
            if case.error is not None and not is_named:
                assert case.trial.difference() == [], case
                assert case.trial.rows() == case.trial.rows_before, case
            judged(case, Trial.finish_by_the_same_call)
        assert PUT in struck

    @pytest.mark.slow
    @pytest.mark.parametrize("strike", [sweep.lose_answer, sweep.lose_request])
    @pytest.mark.parametrize("finish", [Trial.finish_by_the_same_call, Trial.finish_by_an_audit])
    def test_that_is_lost_is_completed_by_the_same_call_or_mended_by_an_audit(
        self,
        pools: Pools,
        begin: Begin,
        operation: Operation,
        strike: sweep.Strike,
        finish: Callable[[Trial], None],
    ) -> None:
        for case in each_call(pools, begin, operation, strike):
            assert case.error is None or isinstance(case.error, XenVolError), case
            judged(case, finish)

    @pytest.mark.parametrize(
        "finish",
        [
            pytest.param(Trial.finish_by_the_same_call, marks=pytest.mark.slow),
            Trial.finish_by_an_audit,
        ],
    )
    def test_at_which_the_service_dies_is_completed_by_the_next_or_mended_by_an_audit(
        self, pools: Pools, begin: Begin, operation: Operation, finish: Callable[[Trial], None]
    ) -> None:
        for case in each_call(pools, begin, operation, sweep.die):
            assert case.error is None or isinstance(case.error, XenVolError), case
            case.trial.begin_anew()
            judged(case, finish)


class TestTheCommands:
    @pytest.fixture
    def shell(self, xapi: Simulator, tmp_path: Path) -> Shell:
        """With a flavor `gold` on an NFS export."""
        shell = Shell(xapi, tmp_path)
        arrange_storage(xapi)
        shell.sm("flavor_create", "gold", "")
        shell.sm("backend_add", "gold", "nfs", *(f"{key}={value}" for key, value in NFS.items()))
        return shell

    def test_make_a_volume_of_an_image_and_the_image_of_it(
        self, shell: Shell, image: Path, tmp_path: Path
    ) -> None:
        made = shell.json(
            "sm", "volume_create_from_image", "gold", str(image), "--id", "v1", "--volume-size", "8MiB"
        )
        assert (made["id"], made["size"], made["image"]) == ("v1", 8 * MIB, str(image))
        target = tmp_path / "out.raw"
        written = shell.json("sm", "volume_to_image", "v1", str(target))
        assert (written["id"], written["virtual_size"]) == ("v1", 8 * MIB)
        assert target.read_bytes() == disk_of(image, 8 * MIB)
        assert str(image) in shell.sm("volume_show", "v1")

    def test_say_in_words_what_they_did(self, shell: Shell, image: Path, tmp_path: Path) -> None:
        assert "volume v1 has 6 MiB" in shell.sm("volume_create_from_image", "gold", str(image), "--id", "v1")
        assert f"volume v1 holds {image} (raw)" in shell.sm("volume_fill", "v1", str(image), "--yes")
        assert "holds volume v1 (vhd" in shell.sm(
            "volume_to_image", "v1", str(tmp_path / "out.vhd"), "--format", "vhd"
        )

    def test_overwrite_nothing_that_nobody_said_may_be_lost(self, shell: Shell, image: Path) -> None:
        shell.sm("volume_create", "gold", "8MiB", "--id", "v1")
        status, error = shell.error("sm", "volume_fill", "v1", str(image))
        assert (status, "--yes" in error["message"]) == (2, True)

    def test_that_fail_leave_no_volume(self, shell: Shell, image: Path) -> None:
        status, error = shell.error(
            "sm", "volume_create_from_image", "gold", str(image), "--checksum", "0" * 64
        )
        assert (status, error["type"]) == (2, "ChecksumMismatch")
        assert shell.json("sm", "volume_list") == []
