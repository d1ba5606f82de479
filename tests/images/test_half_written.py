"""A disk that an import writes over is not available until the import has ended well, whoever asks for it."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from imagelab import MIB, Lab, lab, pattern

from tests.scenarios import changes
from tests.sm.sqlite_file import with_tables
from xenvol.errors import HalfWrittenDisk, XenVolError
from xenvol.images import Progress, export_image, fill_vdi, sweep
from xenvol.pool.marks import FILLED, IMAGE, IMAGE_OF
from xenvol.pool.transfer_mark import why_not_whole
from xenvol.session import CallRecord, Session
from xenvol.sm import Database, StorageManager
from xenvol.sm.records import Volume
from xenvol.volume_images import volume_to_image
from xenvol.volumeops import VolumeOps

SIZE = 8 * MIB
WORD = "0123456789abcdef 2026-01-02T03:04:05+00:00 backup1/77"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        made.sr("nfs")
        yield made


def half_written(pool: Lab, vdi: str) -> str:
    """An import over the disk has failed in the middle."""
    pool.xapi.faults.drop_connection("PUT /import_raw_vdi")
    with pytest.raises(XenVolError):
        fill_vdi(pool.session, io.BytesIO(pattern(SIZE)), vdi, here=pool.elsewhere)
    return vdi


def marked(pool: Lab, vdi: str, key: str = FILLED) -> str:
    """An import was killed: it has its mark on the disk, and cannot say that it has failed."""
    pool.session.call("VDI.add_to_other_config", pool.ref(vdi), key, WORD)
    if key == IMAGE:
        pool.session.call("VDI.add_to_other_config", pool.ref(vdi), IMAGE_OF, vdi)
    return vdi


def is_managed(pool: Lab, ref: str) -> bool:
    """Whether it is a disk; the storage driver leaves a base copy under a snapshot."""
    return bool(pool.xapi.db.get("VDI", ref, "managed"))


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("spoil", [half_written, marked])
def test_it_is_not_exported_and_filled_again_it_is(
    pool: Lab, tmp_path: Path, spoil: Callable[[Lab, str], str], road: str
) -> None:
    vdi, target = spoil(pool, pool.vdi(size=SIZE)), tmp_path / "out.raw"
    before = pool.xapi.snapshot()
    with pytest.raises(HalfWrittenDisk, match=r"half written over: an import on .* begun at"):
        export_image(pool.session, vdi, target, here=pool.on(road))
    assert changes(before, pool.xapi.snapshot()) == []
    assert not target.exists()
    (tmp_path / "new.raw").write_bytes(pattern(SIZE, seed=3))
    fill_vdi(pool.session, tmp_path / "new.raw", vdi, here=pool.on(road))
    export_image(pool.session, vdi, target, here=pool.on(road))
    assert target.read_bytes() == pattern(SIZE, seed=3)


def test_the_error_says_who_since_when_and_whether_it_has_failed(pool: Lab) -> None:
    def found(word: str) -> HalfWrittenDisk:
        error = why_not_whole({"uuid": "u", "is_a_snapshot": False, "other_config": {FILLED: word}})
        assert error is not None
        return error

    killed, failed = found(WORD), found(WORD.replace("backup1", "-backup1"))
    began = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert [(e.machine, e.began, e.has_failed) for e in (killed, failed)] == [
        ("backup1/77", began, False),
        ("backup1/77", began, True),
    ]
    assert str(killed) == (
        "VDI u is half written over: an import on backup1/77, begun at 2026-01-02 03:04:05 UTC, has not finished; "
        "wait for it if it still runs, else fill the disk again; `xenvol image sweep` lists it"
    )
    assert "has failed; fill the disk again" in str(failed)
    earlier, damaged = found(WORD.replace("backup1/77", "-")), found("rubbish")
    assert (earlier.machine, earlier.has_failed) == (None, True)  # as earlier releases wrote it
    assert (damaged.machine, damaged.began) == (None, None)  # and still half written


def test_an_export_into_which_an_import_begins_fails(pool: Lab, tmp_path: Path) -> None:
    vdi = pool.vdi(size=SIZE)
    fill_vdi(pool.session, io.BytesIO(pattern(SIZE)), vdi, here=pool.elsewhere)

    def begin(progress: Progress) -> None:
        if FILLED not in pool.session.call("VDI.get_other_config", pool.ref(vdi)):
            marked(pool, vdi)

    with pytest.raises(HalfWrittenDisk):
        export_image(pool.session, vdi, tmp_path / "out", progress=begin, here=pool.elsewhere)
    assert list(tmp_path.glob("out*")) == []


def test_a_snapshot_that_was_taken_after_an_import_began_is_not_read(pool: Lab, tmp_path: Path) -> None:
    """The VM that wrote to the disk had let go of it meanwhile."""
    vdi = pool.vdi(size=SIZE)
    pool.xapi.add_vbd(pool.xapi.add_vm("web"), pool.ref(vdi))

    def begin(call: CallRecord) -> None:
        if call.call == "VDI.add_to_other_config" and FILLED not in pool.xapi.db.get(
            "VDI", pool.ref(vdi), "other_config"
        ):
            marked(pool, vdi)  # the next call takes the snapshot

    session = Session(pool.session, on_call=begin)
    with pytest.raises(HalfWrittenDisk):
        export_image(session, vdi, tmp_path / "out", here=pool.elsewhere)
    assert [pool.xapi.db.get("VDI", ref, "uuid") for ref in pool.vdis("nfs") if is_managed(pool, ref)] == [
        vdi
    ]
    assert [line for line in pool.residue() if "VDI" not in line] == []


def test_the_unfinished_disk_of_a_killed_import_is_neither_exported_nor_filled(
    pool: Lab, tmp_path: Path
) -> None:
    """A sweep removes it, however whole a second import would make it."""
    vdi = marked(pool, pool.vdi(size=SIZE), IMAGE)
    before = pool.xapi.snapshot()
    with pytest.raises(HalfWrittenDisk, match="an unfinished disk"):
        export_image(pool.session, vdi, tmp_path / "out", here=pool.elsewhere)
    with pytest.raises(HalfWrittenDisk, match="sweep --remove"):
        fill_vdi(pool.session, io.BytesIO(pattern(SIZE)), vdi, here=pool.elsewhere)
    assert changes(before, pool.xapi.snapshot()) == []
    assert [each.vdi_uuid for each in sweep(pool.session)] == [vdi]


def test_a_copy_of_an_unfinished_disk_and_the_snapshot_of_an_export_count_as_whole() -> None:
    marks = {IMAGE: WORD, IMAGE_OF: "u"}
    assert why_not_whole({"uuid": "copy", "is_a_snapshot": False, "other_config": marks}) is None
    assert why_not_whole({"uuid": "u", "is_a_snapshot": True, "other_config": marks}) is None
    assert why_not_whole({"uuid": "u", "is_a_snapshot": False, "other_config": marks}) is not None


class TestAVolume:
    @pytest.fixture
    def manager(self, pool: Lab, tmp_path: Path) -> Iterator[StorageManager]:
        database = Database(with_tables(tmp_path / "sm.sqlite"))
        manager = StorageManager(pool.session, database)
        manager.create_flavor("gold", "")
        pool.xapi.storage.shares.add_nfs("10.0.0.7").export("/gold", size=1 << 40)
        manager.add_backend("gold", "nfs", {"server": "10.0.0.7", "serverpath": "/gold"})
        yield manager
        database.close()

    @pytest.fixture
    def volume(self, manager: StorageManager) -> Volume:
        return manager.create_volume("v1", "gold", SIZE)

    def test_is_not_cloned_snapshotted_exported_or_adopted(
        self, pool: Lab, manager: StorageManager, volume: Volume, tmp_path: Path
    ) -> None:
        vdi = half_written(pool, str(volume.vdi_uuid))
        before, rows = pool.xapi.snapshot(), manager.list_volumes()
        for refused in (
            lambda: manager.clone_volume("copy", "v1"),
            lambda: manager.create_snapshot("monday", "v1"),
            lambda: volume_to_image(manager, "v1", tmp_path / "out", here=pool.elsewhere),
        ):
            with pytest.raises(HalfWrittenDisk):
                refused()
        assert (changes(before, pool.xapi.snapshot()), manager.list_volumes()) == ([], rows)
        manager.unmanage_volume("v1")
        with pytest.raises(HalfWrittenDisk):
            manager.manage_volume("v1", vdi)
        assert manager.list_volumes() == []

    @pytest.mark.parametrize("copy", [StorageManager.clone_volume, StorageManager.create_snapshot])
    def test_a_copy_whose_source_was_claimed_by_an_import_just_before_is_taken_back(
        self, pool: Lab, volume: Volume, tmp_path: Path, copy: Callable[..., object]
    ) -> None:
        """The copy inherits the mark, and is deleted: its source was looked at before."""

        def begin(record: CallRecord) -> None:
            if record.call == "VDI.add_to_other_config":  # the last call before the copy is made
                marked(pool, str(volume.vdi_uuid))

        manager = StorageManager(
            Session(pool.session, on_call=begin), Database(with_tables(tmp_path / "sm.sqlite"))
        )
        vdis = pool.xapi.db.refs("VDI")
        with pytest.raises(HalfWrittenDisk):
            copy(manager, "copy", "v1")
        assert [each.id for each in manager.list_volumes()] == ["v1"]
        assert [ref for ref in pool.xapi.db.refs("VDI") if is_managed(pool, ref)] == vdis

    def test_is_reported_by_an_audit_until_it_is_filled_again(
        self, pool: Lab, manager: StorageManager, volume: Volume
    ) -> None:
        vdi = half_written(pool, str(volume.vdi_uuid))
        (finding,) = manager.audit(repair=True).findings
        assert (finding.kind, finding.volume_id, finding.repaired) == ("half_written", "v1", False)
        assert "half written over: an import on" in finding.text
        fill_vdi(pool.session, io.BytesIO(pattern(SIZE)), vdi, here=pool.elsewhere)
        assert manager.audit().agrees

    def test_that_an_import_writes_to_now_is_no_finding(
        self, pool: Lab, manager: StorageManager, volume: Volume
    ) -> None:
        found = []

        def look(progress: Progress) -> None:
            if not found:
                found.append(manager.audit().findings)

        image = io.BytesIO(pattern(SIZE))
        fill_vdi(pool.session, image, str(volume.vdi_uuid), progress=look, here=pool.elsewhere)
        assert found == [[]]

    def test_is_not_attached_nor_connected_and_the_pool_is_as_before(
        self, pool: Lab, manager: StorageManager, volume: Volume
    ) -> None:
        half_written(pool, str(volume.vdi_uuid))
        pool.xapi.add_vm("web")
        info = manager.initialize_connection("v1")
        before = pool.xapi.snapshot()
        with pytest.raises(HalfWrittenDisk):
            VolumeOps(pool.session).attach_volume(info, "web")
        with pytest.raises(HalfWrittenDisk):
            VolumeOps(pool.session).connect_volume(info)
        assert changes(before, pool.xapi.snapshot()) == []
