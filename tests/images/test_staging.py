"""Tests of xenvol.images.sources.staging and staging_directory: nothing stays, and no living owner loses its own."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from xenvol.images.disk_image import PIECE
from xenvol.images.errors import NoRoomToStage, SourceError, TargetError
from xenvol.images.sources import staging, staging_directory
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.staging_directory import MARK, MAX_AGE, PREFIX, Owner, sweep
from xenvol.images.sources.streams import stream_of

DAY = 24 * 3600


def stream(data: bytes, *, knows_length: bool = True) -> Any:
    return stream_of(io.BytesIO(data), "image", len(data) if knows_length else None)


class TestStaging:
    @pytest.mark.parametrize("size", [0, 1, PIECE, 3 * PIECE + 17])
    @pytest.mark.parametrize("knows_length", [True, False])
    def test_a_stream_becomes_a_file_with_the_same_bytes(
        self, tmp_path: Path, size: int, knows_length: bool
    ) -> None:
        """Under the stream's name; progress is told of each piece, and the room comes back when it is closed."""
        data = random.Random(size).randbytes(size)
        told: list[int] = []
        with Staging(tmp_path) as place:
            with place.stage(
                stream(data, knows_length=knows_length), reason="it must", tick=told.append
            ) as file:
                assert (file.name, file.size) == ("image", size)
                assert file.pread(0, size) == data
                assert sum(told) == size
                assert file.path is not None
                assert file.path.exists()
            assert not file.path.exists()
        assert list(tmp_path.iterdir()) == []

    def test_zeros_take_no_room(self, tmp_path: Path) -> None:
        """They become holes, and are still there when it is read; also at the end."""
        data = bytes(8 * PIECE) + b"x" * 4096 + bytes(8 * PIECE)
        with Staging(tmp_path) as place, place.stage(stream(data), reason="it must") as file:
            assert file.path is not None
            if file.path.stat().st_blocks * 512 >= len(data):
                pytest.skip("the file system here knows no holes")
            assert file.path.stat().st_blocks * 512 <= 256 << 10
            assert file.pread(0, len(data)) == data

    def test_the_directory_is_made_when_it_is_needed_and_for_us_alone(self, tmp_path: Path) -> None:
        """Nothing is there of an import that streams; others can neither enter nor read."""
        with Staging(tmp_path) as place:
            assert list(tmp_path.iterdir()) == []
            path = place.empty_file("disk.vmdk")
            (own,) = tmp_path.iterdir()
            assert path.parent == own
            assert own.name.startswith(f"{PREFIX}{os.getpid()}-")
            assert own.stat().st_mode & 0o777 == 0o700
            assert path.stat().st_mode & 0o777 == 0o600
            assert json.loads((own / MARK).read_text())["pid"] == os.getpid()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
    def test_all_of_it_goes_whatever_ends_it(self, tmp_path: Path, error: type[BaseException]) -> None:
        """An error, an interrupt, and files that nobody closed."""
        with pytest.raises(error), Staging(tmp_path) as place:  # noqa: PT012  # what is made there must go
            place.empty_file("one")
            place.stage(stream(b"data"), reason="it must")
            raise error
        assert list(tmp_path.iterdir()) == []
        place.close()
        with pytest.raises(ValueError, match="closed"):
            place.empty_file("two")

    def test_it_goes_with_whoever_forgets_it(self, tmp_path: Path) -> None:
        """And with a process that ends in an orderly way, but not with a fork of it."""
        place = Staging(tmp_path)
        path = place.empty_file("one")
        staging_directory._remove(path.parent, -1, os.getpid() + 1)  # as it is called in a fork
        assert path.exists()
        del place
        gc.collect()
        assert list(tmp_path.iterdir()) == []

    def test_each_file_has_a_name_of_its_own_within(self, tmp_path: Path) -> None:
        """Whatever an image calls its members."""
        with Staging(tmp_path) as place:
            paths = [place.empty_file(name) for name in ("a", "a", "../a", "/etc/passwd", "..", MARK)]
            (own,) = tmp_path.iterdir()
            assert len(set(paths)) == len(paths)
            assert all(path.parent == own and path.exists() for path in paths)
            with pytest.raises(TargetError):
                place.empty_file("nul\0")

    def test_a_directory_that_is_none_is_found_at_once(self, tmp_path: Path) -> None:
        """Before anything is fetched: the one who named it mistyped it."""
        for name in ("absent", "file"):
            (tmp_path / "file").touch()
            with pytest.raises(TargetError, match="no such directory"):
                with Staging(tmp_path / name):
                    pass

    def test_without_a_name_it_is_the_systems(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As TMPDIR says."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with Staging() as place:
            assert place.empty_file("x").parent.parent == tmp_path

    def test_whoever_is_told_can_end_it(self, tmp_path: Path) -> None:
        """Nothing of the file stays, and what `tick` raises passes unchanged."""

        def cancel(size: int) -> None:
            raise InterruptedError("enough")  # an OSError, which is not the disk's

        with Staging(tmp_path) as place:
            with pytest.raises(InterruptedError):
                place.stage(stream(b"data"), reason="it must", tick=cancel)
            (own,) = tmp_path.iterdir()
            assert [path.name for path in own.iterdir()] == [MARK]

    def test_a_stream_that_breaks_leaves_nothing(self, tmp_path: Path) -> None:
        """The error is the stream's."""
        with Staging(tmp_path) as place:
            with pytest.raises(SourceError, match="after 4 of 9 bytes"):
                place.stage(stream_of(io.BytesIO(b"data"), "image", 9), reason="it must")
            (own,) = tmp_path.iterdir()
            assert [path.name for path in own.iterdir()] == [MARK]

    def test_its_repr_tells_its_state(self, tmp_path: Path) -> None:
        """Unused, used, closed."""
        with Staging(tmp_path) as place:
            assert "unused" in repr(place)
            place.empty_file("x")
            assert "1 files" in repr(place)
        assert "closed" in repr(place)


class FullDisk:
    """Stands for os where a file system has little room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, size: int, free: int) -> None:
        self.asked = 0
        self.free = free
        self._size = size
        monkeypatch.setattr(os, "statvfs", self._statvfs)

    def _statvfs(self, path: object) -> os.statvfs_result:
        self.asked += 1
        blocks = [4096, 4096, self._size // 4096, self.free // 4096, self.free // 4096, 1, 1, 1, 0, 255]
        return os.statvfs_result(blocks)


class TestRoom:
    def test_a_stream_that_says_its_length_is_refused_before_it_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """256 MiB stay free for others; the message says how much is there, how much is needed, and why."""
        gib = 1 << 30
        FullDisk(monkeypatch, size=100 * gib, free=gib)
        unread = io.BytesIO(b"data")
        with Staging(tmp_path) as place:
            with pytest.raises(
                NoRoomToStage, match=r"since blocks lie before their table; .*--staging-dir"
            ) as caught:
                place.stage(
                    stream_of(unread, "image", gib - staging.RESERVE + 1),
                    reason="blocks lie before their table",
                )
            assert (caught.value.needed, caught.value.free) == (
                gib - staging.RESERVE + 1,
                gib - staging.RESERVE,
            )
            assert unread.tell() == 0
            assert list(tmp_path.iterdir()) == []
            place.stage(stream(b"data"), reason="it fits")

    def test_a_small_file_system_keeps_a_twentieth(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A staging directory of 100 MB is of use."""
        FullDisk(monkeypatch, size=100 << 20, free=50 << 20)
        with Staging(tmp_path) as place:
            with pytest.raises(NoRoomToStage) as caught:
                place.stage(stream_of(io.BytesIO(), "image", 46 << 20), reason="it must")
            assert caught.value.free == 45 << 20
            with pytest.raises(SourceError):
                place.stage(stream_of(io.BytesIO(), "image", 45 << 20), reason="it must")

    def test_a_stream_that_does_not_say_its_length_is_refused_when_room_gets_short(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before the disk is full: others write there as well. Zeros do not count."""
        disk = FullDisk(monkeypatch, size=100 << 30, free=1 << 20)
        with Staging(tmp_path) as place:
            place.stage(stream(bytes(3 * staging._CHECK_EVERY), knows_length=False), reason="it must").close()
            assert disk.asked == 0
            with pytest.raises(NoRoomToStage):
                place.stage(
                    stream(b"x" * (staging._CHECK_EVERY + PIECE), knows_length=False), reason="it must"
                )
            assert disk.asked == 1
            (own,) = tmp_path.iterdir()
            assert [path.name for path in own.iterdir()] == [MARK]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_is_no_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
        """Also where a quota is what is full; nothing of the file stays."""
        write = os.pwrite
        calls = iter(range(100))

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            call = next(calls)
            if call == 3:
                raise OSError(code, os.strerror(code))
            return write(descriptor, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)
        with Staging(tmp_path) as place:
            with pytest.raises(NoRoomToStage):
                place.stage(stream(random.Random(1).randbytes(9 * PIECE)), reason="it must")
            (own,) = tmp_path.iterdir()
            assert [path.name for path in own.iterdir()] == [MARK]
            data = random.Random(2).randbytes(PIECE)
            assert place.stage(stream(data), reason="it fits").pread(0, PIECE) == data

    def test_a_short_write_is_gone_on_with(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A system may write less than it is given."""
        write = os.pwrite
        monkeypatch.setattr(
            os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:99_991], offset)
        )
        data = random.Random(3).randbytes(2 * PIECE)
        with Staging(tmp_path) as place:
            assert place.stage(stream(data), reason="it must").pread(0, len(data)) == data

    def test_a_disk_that_fails_is_a_target_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It names the file."""

        def pwrite(descriptor: int, data: bytes, offset: int) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with Staging(tmp_path) as place:
            monkeypatch.setattr(os, "pwrite", pwrite)
            with pytest.raises(TargetError, match=PREFIX):
                place.stage(stream(b"data"), reason="it must")


KILLED = """
import io, os, signal, sys
from pathlib import Path
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.streams import stream_of
place = Staging(Path(sys.argv[1]))
place.stage(stream_of(io.BytesIO(b"data"), "image"), reason="it must")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def importer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has staged a file in tmp_path, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def make_left(directory: Path, *, age: float = 0, name: str | None = None, **mark: object) -> Path:
    """What an import of a process that is dead has left, or would have, had it another mark."""
    own = directory / (name or f"{PREFIX}1234-{'ab' * 8}")
    own.mkdir()
    told = {"host": Owner.this().host, "pid": os.getpid(), "started": "before"} | mark
    (own / MARK).write_text(json.dumps(told))
    (own / "1-stream").write_bytes(b"data")
    os.utime(own / MARK, (time.time() - age,) * 2)
    return own


def proc_of(directory: Path, *, boot: str = "c4e8a3f0", namespace: int = 4026531836) -> Path:
    """What a host says in /proc, started as `boot`; its processes are ours."""
    (directory / "self" / "ns").mkdir(parents=True)
    (directory / "self" / "ns" / "pid").symlink_to(f"pid:[{namespace}]")
    (directory / "self" / "stat").symlink_to("/proc/self/stat")
    (directory / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
    (directory / "sys" / "kernel" / "random").mkdir(parents=True)
    (directory / "sys" / "kernel" / "random" / "boot_id").write_text(f"{boot}\n")
    return directory


class TestSweep:
    def test_what_a_killed_import_left_goes_when_the_next_one_begins(
        self, tmp_path: Path, importer: subprocess.Popen[str]
    ) -> None:
        """And not before it is dead."""
        (left,) = tmp_path.iterdir()
        with Staging(tmp_path):
            assert list(tmp_path.iterdir()) == [left]
        importer.send_signal(signal.SIGKILL)
        importer.wait()
        with Staging(tmp_path):
            assert list(tmp_path.iterdir()) == []

    def test_what_has_a_living_owner_stays_however_old_it_is(
        self, tmp_path: Path, importer: subprocess.Popen[str]
    ) -> None:
        """Even where its process cannot be seen, as from another container: it holds the lock."""
        (left,) = tmp_path.iterdir()
        mark = json.loads((left / MARK).read_text())
        for change in ({}, {"host": "elsewhere"}, {"pid": 2**30}):
            (left / MARK).write_text(json.dumps(mark | change))
            assert sweep(tmp_path, now=lambda: time.time() + 100 * DAY) == []

    def test_without_locks_the_living_are_known_by_their_number_and_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A number comes back: another process that has it is not the owner."""
        monkeypatch.setattr(staging_directory, "_lock", lambda descriptor: True)
        alive = make_left(tmp_path, age=9 * DAY, started=Owner.this().started)
        dead = make_left(tmp_path, name=f"{PREFIX}1-{'0' * 16}")
        gone = make_left(tmp_path, name=f"{PREFIX}2-{'0' * 16}", pid=2**31 - 1)
        assert sweep(tmp_path) == [dead, gone]
        assert list(tmp_path.iterdir()) == [alive]

    def test_what_another_host_left_goes_when_it_is_old(self, tmp_path: Path) -> None:
        """In a directory that both mount; it cannot be seen whether its process lives."""
        old = make_left(tmp_path, host="elsewhere", age=MAX_AGE + 60)
        make_left(tmp_path, name=f"{PREFIX}1-{'0' * 16}", host="elsewhere", age=MAX_AGE - 60)
        make_left(tmp_path, name=f"{PREFIX}2-{'0' * 16}", host="elsewhere", age=-DAY)  # its clock is ahead
        assert sweep(tmp_path) == [old]
        assert sweep(tmp_path) == []

    @pytest.mark.parametrize("differs", [{"boot": "0b54b5b1"}, {"namespace": 4026532201}])
    def test_a_host_of_the_same_name_is_another(
        self, differs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Cloned machines share a name, and the first namespace of numbers is the same on all of them; or it is a
        container, whose numbers mean others here.
        """
        monkeypatch.setattr(staging_directory, "_PROC", proc_of(tmp_path / "theirs", **differs))
        theirs = Owner.this()
        monkeypatch.setattr(staging_directory, "_PROC", proc_of(tmp_path / "ours"))
        ours = Owner.this()
        assert ours.is_here()
        assert not theirs.is_here()
        assert (theirs.pid, theirs.started) == (ours.pid, ours.started)
        place = tmp_path / "place"
        place.mkdir()
        make_left(place, name=f"{PREFIX}1-{'0' * 16}", host=theirs.host, pid=2**31 - 1)
        old = make_left(place, name=f"{PREFIX}2-{'0' * 16}", host=theirs.host, age=MAX_AGE + 60)
        dead = make_left(place, name=f"{PREFIX}3-{'0' * 16}", host=ours.host, pid=2**31 - 1)
        assert sweep(place) == [old, dead]

    @pytest.mark.parametrize("missing", ["sys/kernel/random/boot_id", "self/ns/pid"])
    @pytest.mark.parametrize("is_empty", [True, False])
    def test_where_a_host_cannot_tell_itself_from_others_only_age_counts(
        self, missing: str, is_empty: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not even its own mark is then of a process that it could see."""
        proc = proc_of(tmp_path / "proc")
        monkeypatch.setattr(staging_directory, "_PROC", proc)
        known = Owner.this().host
        (proc / missing).unlink()
        if is_empty:
            (proc / missing).touch()
        assert not Owner.this().is_here()
        place = tmp_path / "place"
        place.mkdir()
        make_left(place, name=f"{PREFIX}1-{'0' * 16}", pid=2**31 - 1)
        make_left(place, name=f"{PREFIX}2-{'0' * 16}", host=known, pid=2**31 - 1)
        old = make_left(place, name=f"{PREFIX}3-{'0' * 16}", age=MAX_AGE + 60)
        assert sweep(place) == [old]

    def test_each_file_that_is_begun_makes_it_new(self, tmp_path: Path) -> None:
        """So that a long import of another host is not taken for one that died."""
        with Staging(tmp_path) as place:
            place.empty_file("one")
            (own,) = tmp_path.iterdir()
            os.utime(own / MARK, (0, 0))
            place.empty_file("two")
            assert time.time() - (own / MARK).stat().st_mtime < 60

    @pytest.mark.parametrize(
        "mark",
        ["", "{", "[]", "null", "{}", '{"host": "h", "pid": 1}', '{"host": 1, "pid": 1, "started": ""}', "[" * 4000,
         '{"host": "h", "pid": 0, "started": ""}', '{"host": "h", "pid": 1, "started": "", "more": 1}', "\xff"],
    )  # fmt: skip
    def test_what_has_no_right_mark_stays(self, tmp_path: Path, mark: str) -> None:
        """It may be anybody's."""
        left = make_left(tmp_path, host="elsewhere", age=9 * DAY)
        (left / MARK).write_bytes(mark.encode("latin-1"))
        os.utime(left / MARK, (0, 0))
        assert sweep(tmp_path) == []
        assert (left / "1-stream").exists()

    def test_what_has_no_mark_stays_unless_it_is_empty_and_old(self, tmp_path: Path) -> None:
        """Empty, it is of a process that was killed before it could say whose it is."""
        now = time.time()
        full = make_left(tmp_path)
        (full / MARK).unlink()
        empty = tmp_path / f"{PREFIX}1-{'0' * 16}"
        empty.mkdir()
        assert sweep(tmp_path, now=lambda: now) == []
        assert sweep(tmp_path, now=lambda: now + MAX_AGE + 60) == [empty]
        assert full.exists()

    @pytest.mark.parametrize("name", ["xenvol-staging-", "xenvol-staging-1-xyz", "other-1-0000000000000000"])
    def test_what_has_another_name_stays(self, tmp_path: Path, name: str) -> None:
        """Whatever it holds."""
        left = make_left(tmp_path, name=name)
        assert sweep(tmp_path) == []
        assert left.exists()

    def test_no_link_is_followed(self, tmp_path: Path) -> None:
        """Neither one instead of a directory, nor one instead of a mark, nor one among the files."""
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "data").write_bytes(b"data")
        place = tmp_path / "place"
        place.mkdir()
        elsewhere = make_left(tmp_path)
        (place / elsewhere.name).symlink_to(elsewhere)
        marked = make_left(place, name=f"{PREFIX}1-{'0' * 16}")
        (marked / MARK).rename(tmp_path / "mark")
        (marked / MARK).symlink_to(tmp_path / "mark")
        linked = make_left(place, name=f"{PREFIX}2-{'0' * 16}")
        (linked / "link").symlink_to(precious)
        (linked / "folder").mkdir()
        (linked / "folder" / "link").symlink_to(precious / "data")
        assert sweep(place) == [linked]
        assert (elsewhere / "1-stream").exists()
        assert marked.exists()
        assert (precious / "data").read_bytes() == b"data"

    def test_what_another_owns_stays(self, tmp_path: Path) -> None:
        """The directory, or its mark."""
        needs.root("who alone gives files away")
        for number, owned in enumerate((".", MARK)):
            left = make_left(tmp_path, name=f"{PREFIX}{number}-{'0' * 16}")
            os.chown(left / owned, 12345, 12345)
        assert sweep(tmp_path) == []

    def test_a_pipe_for_a_mark_is_not_waited_for(self, tmp_path: Path) -> None:
        """It is no mark."""
        left = make_left(tmp_path)
        (left / MARK).unlink()
        os.mkfifo(left / MARK)
        assert sweep(tmp_path) == []

    @pytest.mark.parametrize("name", ["absent", "file", "nul\0"])
    def test_there_may_be_no_directory_to_sweep(self, tmp_path: Path, name: str) -> None:
        """Which is for others to say."""
        (tmp_path / "file").touch()
        assert sweep(tmp_path / name) == []

    def test_a_process_is_not_alive_when_it_waits_to_be_forgotten(self) -> None:
        """Nor when there is none; ourselves are."""
        this = Owner.this()
        assert this.is_here()
        assert this.is_alive()
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert staging_directory._started(process.pid) is None
        process.wait()
        assert staging_directory._started(process.pid) is None

    def test_a_system_without_proc_stages_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As BSDs are: what is left there goes when it is old."""
        monkeypatch.setattr(staging_directory, "_PROC", tmp_path / "proc")
        with Staging(tmp_path) as place:
            place.empty_file("x")
            (own,) = tmp_path.iterdir()
            assert Owner.parse((own / MARK).read_bytes()) == Owner.this()
            assert not Owner.this().is_here()


@pytest.fixture(autouse=True)
def no_descriptors_are_left() -> Iterator[None]:
    """Of any test here."""
    count: Callable[[], int] = lambda: len(os.listdir("/proc/self/fd"))  # noqa: E731  # twice, and nowhere else
    before = count()
    yield
    gc.collect()
    assert count() <= before
