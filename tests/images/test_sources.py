"""Tests of xenvol.images.sources: files, streams, and what is compressed."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import needs
from xenvol.images.disk_image import PIECE, EndOfFile, Stream
from xenvol.images.errors import (
    InvalidImage,
    MissingReader,
    SourceError,
    TruncatedImage,
    UnsupportedImage,
)
from xenvol.images.sources.compression import decompressed
from xenvol.images.sources.expanders import window_of
from xenvol.images.sources.files import FileSource, Window, as_stream, name_of
from xenvol.images.sources.streams import Peekable, drain, stream_of

KIB, MIB = 1 << 10, 1 << 20


def stream(data: bytes, name: str = "image") -> Stream:
    return stream_of(io.BytesIO(data), name)


def all_of(source: Stream, step: int = PIECE) -> bytes:
    parts = []
    while part := source.read(step):
        parts.append(part)
    return b"".join(parts)


class TestFileSource:
    def test_bytes_are_read_where_they_are_asked_for(self, tmp_path: Path) -> None:
        """At the beginning, in the middle and up to the end, and none where none are asked for."""
        path = tmp_path / "disk"
        path.write_bytes(bytes(range(256)) * 4)
        with FileSource(path) as file:
            assert (file.size, file.name, file.path) == (1024, str(path), path)
            assert file.pread(0, 3) == b"\0\1\2"
            assert file.pread(257, 2) == b"\1\2"
            assert file.pread(1020, 4) == b"\xfc\xfd\xfe\xff"
            assert file.pread(1024, 0) == b""

    @pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (11, 0), (-1, 1), (3, -1), (1 << 70, 1)])
    def test_what_lies_beyond_the_end_is_refused_before_it_is_read(
        self, tmp_path: Path, offset: int, size: int
    ) -> None:
        """Whatever offsets an image claims."""
        (tmp_path / "disk").write_bytes(b"0123456789")
        with FileSource(tmp_path / "disk") as file, pytest.raises(EndOfFile):
            file.pread(offset, size)

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("absent", "no such file"),
            ("file/below", "no such file"),
            (".", "a directory"),
            ("pipe", "neither a file nor a block device"),
            ("nul\0", "null"),
        ],
    )
    def test_what_cannot_be_opened_says_why(self, tmp_path: Path, name: str, problem: str) -> None:
        """A pipe is not waited for."""
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "file").touch()
        with pytest.raises(SourceError, match=problem):
            FileSource(f"{tmp_path}/{name}")

    def test_a_file_that_others_may_read_alone_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And the message says that it is the permission that is missing; root, who lacks none, is refused by us."""
        path = tmp_path / "disk"
        path.touch(mode=0)
        if os.geteuid() == 0:

            def refuse(*_: object, **__: object) -> int:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

            monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(SourceError, match="permission"):
            FileSource(path)

    def test_no_descriptor_is_left_of_what_cannot_be_opened(self, tmp_path: Path) -> None:
        """A directory is opened before it is seen to be one."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with pytest.raises(SourceError):
                FileSource(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_file_that_was_cut_meanwhile_is_a_source_error(self, tmp_path: Path) -> None:
        """And no endless loop, and no short read."""
        path = tmp_path / "disk"
        path.write_bytes(bytes(100))
        with FileSource(path) as file:
            os.truncate(path, 40)
            with pytest.raises(SourceError, match="100 bytes, and now 40"):
                file.pread(20, 60)

    def test_holes_are_left_out_of_the_data_ranges(self, tmp_path: Path) -> None:
        """As far as the file system knows them; what is data is always among the ranges."""
        path = tmp_path / "disk"
        with path.open("wb") as made:
            for offset in (4 * MIB, 9 * MIB):
                made.seek(offset)
                made.write(b"x" * 64 * KIB)
            made.truncate(32 * MIB)
        with FileSource(path) as file:
            ranges = list(file.data_ranges())
            assert all(0 <= start < end <= file.size for start, end in ranges)
            assert ranges == sorted(ranges)
            for offset in (4 * MIB, 9 * MIB):
                assert any(start <= offset < end for start, end in ranges)
            if ranges == [(0, file.size)]:
                pytest.skip("the file system here tells no holes")
            assert sum(end - start for start, end in ranges) < MIB

    def test_a_file_that_ends_in_a_hole_and_one_that_is_a_hole_have_ranges(self, tmp_path: Path) -> None:
        """Either none, or all of it where the file system cannot tell."""
        path = tmp_path / "disk"
        path.touch()
        os.truncate(path, MIB)
        with FileSource(path) as file:
            assert list(file.data_ranges()) in ([], [(0, MIB)])
        os.truncate(path, 0)
        with FileSource(path) as file:
            assert list(file.data_ranges()) == []

    @pytest.mark.parametrize("kind", ["bytes", "file", "unbuffered", "random", "temporary", "gzip"])
    def test_an_open_file_is_read_from_its_beginning_and_stays_open(self, tmp_path: Path, kind: str) -> None:
        """Of one that gzip opened the bytes are gzip's, not those of its descriptor."""
        data = random.Random(1).randbytes(100_000)
        path = tmp_path / "disk"
        path.write_bytes(gzip.compress(data) if kind == "gzip" else data)
        with tempfile.NamedTemporaryFile() as temporary:
            temporary.write(data[:-100])
            temporary.write(data[-100:])  # not flushed
            opened: Any = {
                "bytes": lambda: io.BytesIO(data),
                "file": lambda: path.open("rb"),
                "unbuffered": lambda: path.open("rb", buffering=0),
                "random": lambda: path.open("r+b"),
                "temporary": lambda: temporary,
                "gzip": lambda: gzip.open(path),  # noqa: SIM115  # closed below
            }[kind]()
            if kind != "temporary":  # it would be flushed
                opened.seek(17)
            with FileSource(cast(BinaryIO, opened), name="it") as file:
                assert (file.size, file.name, file.path) == (len(data), "it", None)
                assert file.pread(99_000, 1000) == data[99_000:]
                assert file.pread(0, len(data)) == data
                assert list(file.data_ranges()) == [(0, len(data))]
            assert not opened.closed
            opened.close()

    def test_a_closed_file_is_a_source_error(self, tmp_path: Path) -> None:
        """Closed before, or meanwhile by its owner, or by us."""
        path = tmp_path / "disk"
        path.write_bytes(b"12")
        closed = path.open("rb")
        closed.close()
        with pytest.raises(SourceError, match="closed"):
            FileSource(closed)
        memory = io.BytesIO(b"12")
        file = FileSource(memory)
        memory.close()
        with pytest.raises(SourceError, match="closed"):
            file.pread(0, 1)
        ours = FileSource(path)
        ours.close()
        ours.close()
        with pytest.raises(SourceError, match="closed"):
            ours.pread(0, 1)
        assert "closed" in repr(ours)

    def test_threads_do_not_disturb_each_other(self) -> None:
        """Where reading needs a position, it is one reader's at a time."""
        data = random.Random(2).randbytes(MIB)

        class Yielding(io.BytesIO):
            def seek(self, offset: int, whence: int = 0, /) -> int:
                position = super().seek(offset, whence)
                time.sleep(0)  # another thread's turn
                return position

        file = FileSource(cast(BinaryIO, Yielding(data)))
        wrong = []

        def read(seed: int) -> None:
            places = random.Random(seed)
            for _ in range(200):
                at = places.randrange(len(data) - 100)
                if file.pread(at, 100) != data[at : at + 100]:
                    wrong.append(at)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_file_is_called_what_its_user_would_call_it(self) -> None:
        """Descriptor 0 is standard input; what has no name is called by its kind."""
        assert name_of(cast(BinaryIO, io.BytesIO())) == "an open BytesIO"
        with open(os.dup(0), "rb", buffering=0) as nameless:
            assert name_of(cast(BinaryIO, nameless)) == "an open FileIO"
        with open(0, "rb", closefd=False) as standard:
            assert name_of(standard) == "standard input"


class TestWindow:
    @given(data=st.binary(max_size=200), cut=st.tuples(st.integers(0, 200), st.integers(0, 200)))
    def test_a_window_shows_its_part_and_nothing_else(self, data: bytes, cut: tuple[int, int]) -> None:
        """Every read within it is the part's; every read beyond it is refused, though the file goes on."""
        start, end = sorted(min(position, len(data)) for position in cut)
        part = Window(
            FileSource(cast(BinaryIO, io.BytesIO(data))), offset=start, size=end - start, name="part"
        )
        assert part.pread(0, part.size) == data[start:end]
        assert b"".join(part.pread(at, stop - at) for at, stop in part.data_ranges()) == data[start:end]
        with pytest.raises(EndOfFile):
            part.pread(part.size, 1)
        with pytest.raises(EndOfFile):
            part.pread(-1, 1)

    def test_the_holes_of_the_file_are_the_windows(self, tmp_path: Path) -> None:
        """Counted from where the window begins."""
        path = tmp_path / "disk"
        with path.open("wb") as made:
            made.seek(4 * MIB)
            made.write(b"x" * MIB)
            made.truncate(8 * MIB)
        with FileSource(path) as file:
            if list(file.data_ranges()) == [(0, file.size)]:
                pytest.skip("the file system here tells no holes")
            part = Window(file, offset=3 * MIB, size=4 * MIB, name="part")
            assert list(part.data_ranges()) == [(MIB, 2 * MIB)]
            inner = Window(file, offset=4 * MIB + 4096, size=4096, name="part")
            assert list(inner.data_ranges()) == [(0, 4096)]

    def test_a_window_beyond_the_file_is_a_mistake(self) -> None:
        """Of whoever made it: what an image claims is checked before."""
        file = FileSource(cast(BinaryIO, io.BytesIO(b"1234")))
        with pytest.raises(ValueError, match="do not lie within"):
            Window(file, offset=2, size=3, name="part")

    def test_a_file_as_a_stream_has_all_its_bytes_in_order(self) -> None:
        """And its length and its name."""
        data = random.Random(3).randbytes(2 * PIECE + 5)
        once = as_stream(FileSource(cast(BinaryIO, io.BytesIO(data)), name="it"))
        assert (once.name, once.length) == ("it", len(data))
        assert all_of(once) == data
        assert once.read(1) == b""


class Dribble(io.RawIOBase):
    """Gives less than it is asked for, as pipes do."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = io.BytesIO(data)
        self._random = random.Random(seed)

    def read(self, size: int | None = -1, /) -> bytes:
        return self._data.read(self._random.randint(1, max(1, size or 0)))


class TestStreams:
    @given(data=st.binary(max_size=300), sizes=st.lists(st.integers(1, 64)), seed=st.integers())
    def test_a_read_gives_what_was_asked_for_until_the_end(
        self, data: bytes, sizes: list[int], seed: int
    ) -> None:
        """However little the file gives at a time."""
        source = stream_of(cast(BinaryIO, Dribble(data, seed)), "pipe")
        position = 0
        for size in sizes:
            assert source.read(size) == data[position : position + size]
            position = min(position + size, len(data))
        assert all_of(source) == data[position:]

    def test_nothing_behind_the_length_is_read(self) -> None:
        """What follows is somebody else's, such as the next request on a connection."""
        file = io.BytesIO(b"0123456789")
        source = stream_of(file, "body", 4)
        assert source.length == 4
        assert all_of(source, 3) == b"0123"
        assert file.read() == b"456789"

    def test_an_end_before_the_length_is_a_source_error(self) -> None:
        """It says how much came; what came before is not withheld."""
        source = stream_of(io.BytesIO(b"0123456789"), "body", 20)
        assert source.read(10) == b"0123456789"
        with pytest.raises(SourceError, match="after 10 of 20 bytes"):
            source.read(1)

    @pytest.mark.parametrize(
        ("error", "problem"),
        [
            (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
            (ValueError("read of closed file"), "closed file"),
            (EOFError("Compressed file ended"), "ended"),
            (zlib.error("Error -3"), "Error -3"),
        ],
    )
    def test_what_breaks_a_file_is_a_source_error(self, error: Exception, problem: str) -> None:
        """Of the kinds that files and those of the standard library raise."""

        class Broken(io.RawIOBase):
            def read(self, size: int | None = -1, /) -> bytes:
                raise error

        with pytest.raises(SourceError, match=problem) as caught:
            stream_of(cast(BinaryIO, Broken()), "pipe").read(1)
        assert caught.value.__cause__ is error

    def test_a_file_that_does_not_wait_and_one_of_text_are_refused(self) -> None:
        """Both would look as if they had ended."""

        class NonBlocking(io.RawIOBase):
            def read(self, size: int | None = -1, /) -> bytes | None:
                return None

        with pytest.raises(SourceError, match="non-blocking"):
            stream_of(cast(BinaryIO, NonBlocking()), "pipe").read(1)
        with pytest.raises(TypeError, match="binary mode"):
            stream_of(cast(BinaryIO, io.StringIO("text")), "text").read(1)

    def test_a_pipe_is_read_to_its_end(self) -> None:
        """A real one, whose other end writes bit by bit."""
        data = random.Random(4).randbytes(3 * PIECE + 7)
        reader, writer = os.pipe()

        def write() -> None:
            with open(writer, "wb", buffering=0) as out:
                for at in range(0, len(data), 70_001):
                    out.write(data[at : at + 70_001])

        thread = threading.Thread(target=write)
        thread.start()
        with open(reader, "rb") as file:
            source = stream_of(file, "pipe")
            assert source.read(PIECE) == data[:PIECE]
            assert all_of(source) == data[PIECE:]
        thread.join()


class TestPeekable:
    @given(
        data=st.binary(max_size=300),
        steps=st.lists(
            st.tuples(st.sampled_from(["peek", "read", "remember", "rewind", "forget"]), st.integers(0, 80))
        ),
    )
    def test_it_reads_like_a_file_that_can_seek(self, data: bytes, steps: list[tuple[str, int]]) -> None:
        """Whatever is seen, read, remembered and gone back to, in whichever order."""
        source = Peekable(stream(data))
        position = 0
        mark: int | None = None
        for step, size in steps:
            if step == "peek":
                assert source.peek(size) == data[position : position + size]
            elif step == "read":
                assert source.read(size) == data[position : position + size]
                position = min(position + size, len(data))
            elif step == "remember":
                source.remember()
                mark = position
            elif step == "rewind" and mark is not None:
                source.rewind()
                position, mark = mark, None
            elif step == "forget":
                source.forget()
                mark = None
        assert all_of(source, 7) == data[position:]

    def test_nothing_is_held_that_nobody_can_ask_for_again(self) -> None:
        """Memory stays flat when a stream is read through it."""
        source = Peekable(stream(bytes(10 * PIECE)))
        source.peek(512)
        assert drain(source) == 10 * PIECE
        assert source._kept == b""

    def test_to_go_back_without_having_remembered_is_a_mistake(self) -> None:
        """It would lose bytes."""
        with pytest.raises(ValueError, match="remembered"):
            Peekable(stream(b"1")).rewind()


def zstd_of(data: bytes, *options: str) -> bytes:
    command = [needs.program("zstd"), "-q", "-c", *options]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def compressed(data: bytes, kind: str) -> bytes:
    ways: dict[str, Callable[[bytes], bytes]] = {
        "zstd": zstd_of,
        "gzip": partial(gzip.compress, mtime=0),
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    return ways[kind](data)


def expand(data: bytes, step: int = PIECE) -> bytes:
    return all_of(decompressed(Peekable(stream(data))), step)


KINDS = pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])


class TestDecompressed:
    @KINDS
    @pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3])
    @pytest.mark.parametrize("step", [PIECE, 99_991])
    def test_what_was_compressed_comes_out_again(self, kind: str, size: int, step: int) -> None:
        """Random bytes, and as many that compress a thousandfold."""
        data = random.Random(size).randbytes(size) + bytes(size)
        assert expand(compressed(data, kind), step) == data

    @given(
        parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=5),
        seed=st.integers(),
        zeros=st.integers(0, 600),
    )
    def test_gzip_members_are_one_stream(self, parts: list[bytes], seed: int, zeros: int) -> None:
        """As pigz, dracut and cat make them; tapes pad the last with zeros."""
        packed = b"".join(gzip.compress(part, mtime=0) for part in parts) + bytes(zeros)
        source = Peekable(stream_of(cast(BinaryIO, Dribble(packed, seed)), "image"))
        assert all_of(decompressed(source), 100) == b"".join(parts)

    @given(parts=st.lists(st.binary(max_size=3000), min_size=1, max_size=4), seed=st.integers())
    def test_streams_of_xz_and_of_bzip2_are_one_stream(self, parts: list[bytes], seed: int) -> None:
        """As pxz, pbzip2 and cat make them; xz pads with zeros in fours."""
        for way, padding in ((lzma.compress, bytes(8)), (bz2.compress, b"")):
            packed = padding.join(way(part) for part in parts) + padding
            source = Peekable(stream_of(cast(BinaryIO, Dribble(packed, seed)), "image"))
            assert all_of(decompressed(source), 100) == b"".join(parts)

    def test_what_follows_xz_or_bzip2_is_refused(self) -> None:
        """Also zeros that are not in fours, which may be a part of a stream."""
        for packed in (lzma.compress(b"x") + b"more", bz2.compress(b"x") + b"more"):
            with pytest.raises(InvalidImage, match="bytes follow its end"):
                expand(packed)
        with pytest.raises(TruncatedImage):
            expand(lzma.compress(b"x") + bytes(6))

    def test_xz_that_needs_too_much_memory_is_refused(self) -> None:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
        with pytest.raises(UnsupportedImage, match="bytes of memory"):
            expand(lzma.compress(b"x" * 1000, filters=filters))

    def test_zstd_frames_are_one_stream_and_skippable_ones_are_skipped(self) -> None:
        """As pzstd makes them: each frame is announced by one that is to be skipped."""
        first, second = random.Random(5).randbytes(300_000), bytes(3 * PIECE)
        skipped = b"\x5d\x2a\x4d\x18\x04\0\0\0abcd"
        assert expand(skipped + zstd_of(first) + skipped + zstd_of(second) + skipped) == first + second

    def test_a_million_empty_members_are_no_endless_loop(self) -> None:
        """They cost what their bytes cost."""
        assert expand(gzip.compress(b"", mtime=0) * 100_000 + gzip.compress(b"end")) == b"end"

    def test_what_is_not_compressed_is_left_alone(self) -> None:
        """The stream itself comes back, unread."""
        for data in (b"", b"\x1f", b"conectix" * 100, b"\x28\xb5\x2f"):
            source = Peekable(stream(data))
            assert decompressed(source) is source
            assert all_of(source) == data

    @pytest.mark.parametrize(
        ("kind", "keep"),
        [
            (kind, keep)
            for kind in ("gzip", "zstd", "xz", "bzip2")
            for keep in (4, 10, 17, 0.3, 0.9, -9, -8, -5, -1)
            if keep != 4 or kind not in ("xz", "bzip2")  # so little does not show what it was
        ],
    )
    def test_a_cut_stream_is_a_truncated_image(self, kind: str, keep: float) -> None:
        """Wherever it is cut: in its header, in its blocks, in its trailer."""
        packed = compressed(random.Random(6).randbytes(2 * PIECE), kind)
        end = int(keep * len(packed)) if isinstance(keep, float) else keep
        if kind == "zstd" and not packed[4] & 4:
            pytest.skip("this zstd writes no checksum")
        with pytest.raises(TruncatedImage, match=f"not a valid {kind} image") as caught:
            expand(packed[:end])
        assert caught.value.offset == len(packed[:end])

    @KINDS
    def test_a_damaged_byte_never_changes_what_comes_out_in_silence(self, kind: str) -> None:
        """Each format has a checksum at its end; but for bytes that say nothing of the content, one is noticed."""
        data = random.Random(7).randbytes(40_000) + bytes(40_000)
        packed = bytearray(compressed(data, kind))
        rng = random.Random(8)
        places = {
            *range(20),
            *range(len(packed) - 8, len(packed)),
            *(rng.randrange(len(packed)) for _ in range(40)),
        }
        unnoticed = []
        for place in sorted(places):
            packed[place] ^= 0x10
            source = decompressed(Peekable(stream(bytes(packed))))
            if not isinstance(source, Peekable):  # else it is no longer taken for compressed
                try:
                    assert all_of(source) == data
                    unnoticed.append(place)
                except (InvalidImage, UnsupportedImage):
                    pass
            packed[place] ^= 0x10
        # gzip's date, level, system, and what pads a stored block; an unused bit of zstd's header, and its window; the
        # size of bzip2's blocks
        assert (
            set(unnoticed)
            <= {"gzip": {4, 5, 6, 7, 8, 9, 10}, "zstd": {4, 5}, "xz": set(), "bzip2": {3}}[kind]
        )

    @KINDS
    def test_what_follows_the_end_is_an_invalid_image(self, kind: str) -> None:
        """It may be a second image, of which nobody would hear."""
        with pytest.raises(InvalidImage):
            expand(compressed(b"data", kind) + b"more")

    def test_zeros_end_a_gzip_and_nothing_may_follow_them(self) -> None:
        """Not even another member."""
        with pytest.raises(InvalidImage, match="bytes follow its end"):
            expand(gzip.compress(b"data") + bytes(100) + gzip.compress(b"more"))

    @KINDS
    def test_an_error_of_the_source_passes_unchanged(self, kind: str) -> None:
        """Whoever reads learns that the connection broke, and not that the image is damaged."""
        packed = compressed(random.Random(9).randbytes(4 * PIECE), kind)
        source = stream_of(io.BytesIO(packed[: 2 * PIECE]), "image", len(packed))
        with pytest.raises(SourceError, match="ended after"):
            all_of(decompressed(Peekable(source)))

    def test_zstd_without_its_library_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The core does not need it."""
        monkeypatch.setitem(sys.modules, "backports.zstd", None)
        monkeypatch.setitem(sys.modules, "compression.zstd", None)
        with pytest.raises(MissingReader, match=r"pip install 'xenvol\[images\]'"):
            decompressed(Peekable(stream(b"\x28\xb5\x2f\xfd....")))

    def test_zstd_that_needs_too_much_memory_is_refused(self) -> None:
        """At the first read, with the number of bytes and what to do; the default levels are read."""
        data = random.Random(10).randbytes(PIECE) * 70
        assert expand(zstd_of(data, "-19", "--single-thread")) == data
        with pytest.raises(UnsupportedImage, match=r"134217728.*--long"):
            expand(zstd_of(data, "-1", "--long=27"))

    @pytest.mark.parametrize(
        ("header", "window"),
        [
            ("28b52ffd 00 58" + "00" * 12, 2 << 20),  # exponent 11, mantissa 0
            ("28b52ffd 00 ff" + "00" * 12, (1 << 41) + 7 * (1 << 38)),  # the largest that can be said
            ("28b52ffd 20 7b" + "00" * 12, 0x7B),  # a single segment: its content is its window
            ("28b52ffd 61 aa 0001" + "00" * 10, 0x100 + 256),  # behind one byte of a dictionary's number
            ("28b52ffd e3 01020304 0000000001000000", 1 << 32),
            ("28b52ffd", 0),
            ("502a4d18 00 ff" + "00" * 12, 0),
        ],
    )
    def test_the_window_of_a_zstd_frame_is_in_its_header(self, header: str, window: int) -> None:
        """RFC 8878 3.1.1.1."""
        frame = bytes.fromhex(header)
        assert window_of(frame + bytes(18 - len(frame)) if window else frame) == window

    def test_no_thread_is_left_of_a_stream_that_nobody_reads_on(self) -> None:
        """A transfer that is cancelled leaves none waiting."""
        before = set(threading.enumerate())
        packed = gzip.compress(bytes(8 * PIECE))
        for _ in range(5):
            source = decompressed(Peekable(stream(packed)))
            source.read(10)
            del source
            damaged = decompressed(Peekable(stream(packed[:20] + b"damaged" + packed[27:])))
            with contextlib.suppress(InvalidImage):
                drain(damaged)
        for thread in set(threading.enumerate()) - before:
            if thread.name.startswith("xenvol-decompress"):
                thread.join(60)
                assert not thread.is_alive()

    @settings(max_examples=200)
    @given(data=st.data())
    def test_whatever_a_stranger_sends_is_an_error_of_ours(self, data: st.DataObject) -> None:
        """Mutated gzip, bounded in time by its bytes."""
        packed = bytearray(gzip.compress(data.draw(st.binary(max_size=200)), mtime=0))
        for _ in range(data.draw(st.integers(1, 4))):
            packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(InvalidImage):
            expand(bytes(packed))


@pytest.fixture(autouse=True)
def no_descriptors_are_left() -> Iterator[None]:
    """Of any test here."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before
