"""A disk becomes an image as it was at one moment, and the pool and the directory are afterwards as they were."""

from __future__ import annotations

import datetime
import errno
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from imagelab import MIB, Lab, lab, pattern

import xenvol
from tests import needs
from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images import ImageSource, Progress, export_image, import_image, sweep
from xenvol.images.errors import (
    DiskNotSuited,
    NoRoomToStage,
    TargetError,
    TransferCancelled,
    TransferFailed,
    UnknownDisk,
)
from xenvol.session import CallRecord, Session

SIZE = 6 * MIB
DATA = pattern(SIZE, seed=4)
BASES = ["VDI.sm_config.vhd-parent", "VDI.physical_utilisation", "SR.physical_utilisation"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        yield made


@pytest.fixture
def vdi(pool: Lab) -> str:
    uuid = pool.vdi("nfs", SIZE)
    pool.file(uuid).write_bytes(DATA)
    return uuid


@pytest.fixture(params=["http", "block"])
def road(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class _Pipe(io.RawIOBase):
    """A target that cannot seek."""

    def __init__(self, file: io.BytesIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)


class Received(threading.Thread):
    """Reads meanwhile what comes out."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._data = b""
        self.start()

    def run(self) -> None:
        self._data = self._file.read()

    def all(self) -> bytes:
        self.join()
        return self._data


def difference(pool: Lab, before: object) -> list[str]:
    """Without the base that a snapshot leaves, for the storage to coalesce."""
    lines = before.difference(pool.xapi.snapshot(), ignore=BASES)  # type: ignore[attr-defined]  # the object has more than its declared type
    return [
        line
        for line in lines
        if not any(words in line for words in ("base copy", ".vhd: ", "/filelog.txt: "))
    ]


class TestADiskInUse:
    @pytest.fixture
    def vdi(self, pool: Lab, vdi: str) -> str:
        pool.xapi.add_vbd(pool.xapi.add_vm("web"), pool.ref(vdi))
        return vdi

    def test_is_read_from_a_snapshot_which_goes(self, pool: Lab, vdi: str, tmp_path: Path, road: str) -> None:
        before = pool.xapi.snapshot()
        with pool.xapi.journal.recording() as calls:
            made = export_image(pool.session, vdi, tmp_path / "image", here=pool.on(road))
        assert (made.was_in_use, made.residue) == (True, ())
        assert (tmp_path / "image").read_bytes() == DATA
        assert calls.methods().count("VDI.snapshot") == calls.methods().count("VDI.destroy") == 1
        assert difference(pool, before) == pool.residue() == []

    def test_of_which_there_is_no_snapshot_is_refused_with_who_writes_to_it(
        self, pool: Lab, tmp_path: Path
    ) -> None:
        vdi = pool.vdi("nfs", SIZE, sm_config={"type": "raw"})
        pool.xapi.add_vbd(pool.xapi.add_vm("database"), pool.ref(vdi))
        before = pool.xapi.snapshot()
        with pytest.raises(DiskNotSuited, match="VM database writes to it"):
            export_image(pool.session, vdi, tmp_path / "image", here=pool.elsewhere)
        assert before.difference(pool.xapi.snapshot()) == list(tmp_path.glob("*ima*")) == []

    def test_that_two_export_at_once_is_exported_twice(self, pool: Lab, vdi: str, tmp_path: Path) -> None:
        before = pool.xapi.snapshot()
        failures: list[BaseException] = []

        def run(number: int) -> None:
            try:
                with xenvol.connect(pool.xapi.url, "root", "secret") as session:
                    export_image(session, vdi, tmp_path / str(number), here=pool.elsewhere)
            except BaseException as error:  # noqa: BLE001  # it is asserted on
                failures.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert {(tmp_path / str(number)).read_bytes() == DATA for number in range(4)} == {True}
        assert difference(pool, before) == pool.residue() == []

    def test_is_not_read_from_a_snapshot_that_somebody_else_made_when_our_call_got_lost(
        self, pool: Lab, vdi: str, tmp_path: Path
    ) -> None:
        theirs: list[str] = []

        def make_one(call: CallRecord) -> None:
            if call.call == "VDI.snapshot" and call.outcome == "unreachable":
                theirs.append(pool.session.call("VDI.snapshot", pool.ref(vdi), {}))

        pool.xapi.faults.lose_request("VDI.snapshot")
        with pytest.raises(XapiUnreachable) as caught:
            export_image(
                Session(pool.session, on_call=make_one), vdi, tmp_path / "image", here=pool.elsewhere
            )
        assert "may have made a snapshot" in caught.value.__notes__[0]
        assert pool.session.call("VDI.get_is_a_snapshot", theirs[0])
        for word in sweep(pool.session, older_than=datetime.timedelta(seconds=-5)):
            assert word.kept is not None
        pool.session.call("VDI.destroy", theirs[0])

    def test_keeps_the_snapshots_of_others(self, pool: Lab, vdi: str, tmp_path: Path) -> None:
        theirs = pool.session.call("VDI.snapshot", pool.ref(vdi), {})
        export_image(pool.session, vdi, tmp_path / "image", here=pool.elsewhere)
        sweep(pool.session)
        assert pool.session.call("VDI.get_is_a_snapshot", theirs)

    def test_whose_snapshot_cannot_be_erased_is_exported_and_says_so(
        self, pool: Lab, vdi: str, tmp_path: Path
    ) -> None:
        pool.xapi.faults.refuse("VDI.destroy", "SR_BACKEND_FAILURE_80", "", "no", "", every=True)
        try:
            made = export_image(pool.session, vdi, tmp_path / "image", here=pool.elsewhere)
        finally:
            pool.xapi.faults.clear()
        (residue,) = made.residue
        assert "made a snapshot of VDI" in residue
        assert "SR_BACKEND_FAILURE_80" in residue


class TestADiskThatComesIntoUse:
    @pytest.mark.parametrize("when", [1, 3])
    def test_meanwhile_is_of_no_one_moment_and_so_no_image(
        self, pool: Lab, vdi: str, tmp_path: Path, road: str, when: int
    ) -> None:
        def plug(progress: Progress) -> None:
            told.append(progress)
            if len(told) == when:
                pool.xapi.add_vbd(pool.xapi.add_vm("early"), pool.ref(vdi))

        told: list[Progress] = []
        residue = pool.residue()
        with pytest.raises(TransferFailed, match="VM early got the disk during"):
            export_image(pool.session, vdi, tmp_path / "image", progress=plug, here=pool.on(road))
        assert (list(tmp_path.glob("*image*")), pool.residue()) == ([], residue)

    def test_without_a_vm_is_read_from_a_snapshot(self, pool: Lab, vdi: str, tmp_path: Path) -> None:
        """It was connected for somebody who boots from it, or writes to it elsewhere."""
        pool.session.call("VDI.add_to_other_config", pool.ref(vdi), "xenvol:connected", "1")
        assert export_image(pool.session, vdi, tmp_path / "image", here=pool.elsewhere).was_in_use


class TestATarget:
    def test_is_gone_when_its_process_is_killed(self, pool: Lab, vdi: str, tmp_path: Path) -> None:
        program = "\n".join(
            (
                "import sys, xenvol, os, signal",
                "from xenvol.images import export_image",
                "session = xenvol.connect(sys.argv[1], 'root', 'secret')",
                "kill = lambda progress: os.kill(os.getpid(), signal.SIGKILL)",
                "export_image(session, sys.argv[2], sys.argv[3], progress=kill)",
            )
        )
        command = [sys.executable, "-c", program, pool.xapi.url, vdi, str(tmp_path / "image")]
        assert subprocess.run(command, check=False).returncode == -9
        assert list(tmp_path.glob("*image*")) == []
        sweep(pool.session, older_than=datetime.timedelta(seconds=-5))

    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("lacks", ["O_TMPFILE", "link", "both"])
    def test_may_be_on_a_file_system_that_lacks_this_and_that(
        self,
        pool: Lab,
        vdi: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        lacks: str,
        overwrite: bool,
    ) -> None:
        """NFS has no files without a name, FAT no hard links."""
        really_open = os.open

        def no_tmpfile(path: object, flags: int, *rest: object, **named: object) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "not supported")
            return really_open(path, flags, *rest, **named)  # type: ignore[arg-type]  # the keywords are of several types

        def no_link(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "not permitted")

        target = tmp_path / "image"
        if overwrite:
            target.write_text("old")
        if lacks in ("O_TMPFILE", "both"):
            monkeypatch.setattr(os, "open", no_tmpfile)
        if lacks in ("link", "both"):
            monkeypatch.setattr(os, "link", no_link)
        if lacks == "link":
            with pytest.raises(TargetError):  # such a file system is not known: without a name, it gets none
                export_image(pool.session, vdi, target, overwrite=overwrite, here=pool.elsewhere)
            return
        export_image(pool.session, vdi, target, overwrite=overwrite, here=pool.elsewhere)
        assert target.read_bytes() == DATA
        assert [path.name for path in tmp_path.iterdir() if "image" in path.name] == ["image"]

    def test_may_be_a_pipe(self, pool: Lab, vdi: str, road: str) -> None:
        for format in ("raw", "vhd"):
            with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
                assert cat.stdin is not None
                assert cat.stdout is not None
                received = Received(cat.stdout)
                with cat.stdin as pipe:
                    export_image(pool.session, vdi, pipe, format=format, here=pool.on(road))  # type: ignore[arg-type]  # a test passes what its parameters say
                data = received.all()
            if format == "raw":
                assert data == DATA
            else:
                again = import_image(pool.session, io.BytesIO(data), pool.sr(), here=pool.on(road))
                assert pool.content(again.vdi_uuid) == DATA

    def test_that_is_there_is_not_replaced_unasked(self, pool: Lab, vdi: str, tmp_path: Path) -> None:
        target = tmp_path / "image"
        target.write_text("precious")
        with pool.xapi.journal.recording() as calls, pytest.raises(TargetError, match="exists already"):
            export_image(pool.session, vdi, target, here=pool.elsewhere)
        assert calls.methods() == []
        assert target.read_text() == "precious"
        export_image(pool.session, vdi, target, overwrite=True, here=pool.elsewhere)
        assert target.read_bytes() == DATA

    def test_keeps_what_it_held_when_the_export_fails(
        self, pool: Lab, vdi: str, tmp_path: Path, road: str
    ) -> None:
        target = tmp_path / "image"
        target.write_text("precious")
        pool.xapi.faults.refuse("*", "SR_BACKEND_FAILURE_46", "", "gone", "", nth=6, every=True)
        try:
            with pytest.raises((XapiError, TransferFailed)):
                export_image(pool.session, vdi, target, overwrite=True, here=pool.on(road))
        finally:
            pool.xapi.faults.clear()
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["image"]
        assert target.read_text() == "precious"
        sweep(pool.session, older_than=datetime.timedelta(seconds=-5))

    def test_in_no_directory_is_refused_before_anything_is_asked(
        self, pool: Lab, vdi: str, tmp_path: Path
    ) -> None:
        with pytest.raises(TargetError, match="no directory"):
            export_image(pool.session, vdi, tmp_path / "nowhere" / "image", here=pool.elsewhere)

    def test_that_is_a_device_is_refused(self, pool: Lab, vdi: str) -> None:
        with pytest.raises(TargetError, match="is not a file"):
            export_image(pool.session, vdi, "/dev/null", overwrite=True, here=pool.elsewhere)

    def test_has_holes_where_the_disk_has_zeros(self, pool: Lab, tmp_path: Path, road: str) -> None:
        vdi = pool.vdi("nfs", 64 * MIB)
        with pool.file(vdi).open("r+b") as file:
            file.seek(40 * MIB)
            file.write(b"data")
        export_image(pool.session, vdi, tmp_path / "image", here=pool.on(road))
        state = (tmp_path / "image").stat()
        assert (state.st_size, state.st_blocks * 512 <= 2 * MIB) == (64 * MIB, True)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("format", ["raw", "vhd", "tarball"])
def test_what_is_compressed_is_what_the_usual_programs_expand(
    pool: Lab, vdi: str, tmp_path: Path, format: str, compression: str
) -> None:
    program = needs.program(compression)
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    export_image(
        pool.session,
        vdi,
        packed,
        format=format,
        compression=compression,
        here=pool.elsewhere,  # type: ignore[arg-type]  # a test passes what its parameters say
    )
    with packed.open("rb") as source, plain.open("wb") as target:
        subprocess.run([program, "-dc"], stdin=source, stdout=target, check=True)
    if format == "raw":
        assert plain.read_bytes() == DATA
    again = import_image(pool.session, packed, pool.sr(), here=pool.elsewhere)
    assert again.format == format
    assert pool.content(again.vdi_uuid) == DATA


def test_what_is_cancelled_leaves_nothing(pool: Lab, vdi: str, tmp_path: Path, road: str) -> None:
    cancel, staging = threading.Event(), tmp_path / "staging"
    staging.mkdir()
    before, residue = pool.xapi.snapshot(), pool.residue()

    def stop(progress: Progress) -> None:
        cancel.set()

    with pytest.raises(TransferCancelled) as caught:
        export_image(
            pool.session,
            vdi,
            tmp_path / "image",
            format="tarball",
            staging_dir=staging,
            progress=stop,
            cancel=cancel,
            here=pool.on(road),
        )
    assert getattr(caught.value, "__notes__", []) == []
    assert not (tmp_path / "image").exists()
    assert list(staging.iterdir()) == before.difference(pool.xapi.snapshot()) == []
    assert pool.residue() == residue


def test_a_vhd_that_ends_too_early_is_no_image(pool: Lab, vdi: str, tmp_path: Path) -> None:
    pool.xapi.faults.drop_connection("GET /export_raw_vdi")
    with pytest.raises((TransferFailed, XapiUnreachable)):
        export_image(pool.session, vdi, tmp_path / "image", format="vhd", here=pool.elsewhere)
    assert not list(tmp_path.glob("*image*"))


@pytest.mark.parametrize("size", [512, 5 * MIB, 6 * MIB + 512, 6 * MIB + 4096])
@pytest.mark.parametrize("place", ["file", "pipe", "tarball"])
def test_a_vhd_of_a_disk_of_no_whole_blocks_is_made_here(
    pool: Lab, tmp_path: Path, qemu_img: Callable[..., str], road: str, size: int, place: str
) -> None:
    """xapi would never end sending it, and would go on when the client has gone."""
    disk = pattern(size, seed=size)
    vdi = pool.vdi("nfs", size, sm_config={"type": "raw"})
    pool.file(vdi).write_bytes(disk)
    assert pool.content(vdi) == disk
    before, residue = pool.xapi.snapshot(), pool.residue()
    path = tmp_path / "out.vhd"
    if place == "pipe":
        buffer = io.BytesIO()
        export_image(pool.session, vdi, _Pipe(buffer), format="vhd", here=pool.on(road))
        path.write_bytes(buffer.getvalue())
    elif place == "tarball":
        export_image(pool.session, vdi, tmp_path / "out.tar", format="tarball", here=pool.on(road))
        with tarfile.open(tmp_path / "out.tar") as archive:
            archive.extract("0.vhd", tmp_path, filter="data")
        path = tmp_path / "0.vhd"
    else:
        export_image(pool.session, vdi, path, format="vhd", here=pool.on(road))
    assert (difference(pool, before), pool.residue()) == ([], residue)
    qemu_img("convert", "-f", "vpc", "-O", "raw", path, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == disk


def test_an_unknown_disk_is_named(pool: Lab, tmp_path: Path) -> None:
    with pytest.raises(UnknownDisk, match=r"no VDI has .* 'nothing'"):
        export_image(pool.session, "nothing", tmp_path / "image", here=pool.elsewhere)


def test_a_full_staging_directory_is_named(
    pool: Lab, vdi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100, 0, 0, 0, 0, 0, 0, 255))
    )
    source = ImageSource(where=io.BytesIO(b"QFI\xfb\0\0\0\3" + bytes(MIB)), size=8 + MIB)
    before = pool.xapi.snapshot()
    with pytest.raises(NoRoomToStage, match="cannot read qcow2 images as a stream"):
        import_image(pool.session, source, pool.sr(), staging_dir=tmp_path, here=pool.elsewhere)
    assert list(tmp_path.glob("xenvol*")) == before.difference(pool.xapi.snapshot()) == []


def test_progress_tells_how_far_it_is(pool: Lab, vdi: str, tmp_path: Path, road: str) -> None:
    told: list[Progress] = []
    export_image(pool.session, vdi, tmp_path / "image", progress=told.append, here=pool.on(road))
    assert {progress.phase for progress in told} == {"writing"}
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)
    assert all(progress.total is None or progress.done <= progress.total for progress in told)
    assert told[-1].done > 0
