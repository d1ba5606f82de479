"""A raw image is read as it is, and is as long as somebody said: no byte less, and none more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import vhdkit
from hypothesis import given, settings
from hypothesis import strategies as st

from xenvol.images.disk_image import PIECE, EndOfFile, NeedsFile, Piece
from xenvol.images.errors import InvalidImage, TruncatedImage
from xenvol.images.formats import detect, raw

KIB = 1 << 10


class Sparse:
    """A ByteFile whose data lie in `ranges`; what is read besides is a fault."""

    def __init__(self, size: int, ranges: list[tuple[int, int]], *, cut: int | None = None) -> None:
        self.name = "disk.raw"
        self.size = size
        self._ranges = ranges
        self._end = size if cut is None else cut

    def pread(self, offset: int, size: int, /) -> bytes:
        assert 0 < size <= PIECE
        assert offset + size <= self.size
        if offset + size > self._end:
            raise EndOfFile
        return (offset // 512 % 251).to_bytes(1, "big") * size

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        yield from self._ranges


class Pipe:
    """A Stream; it knows its `length`, or not."""

    def __init__(self, data: bytes, length: int | None = None) -> None:
        self.name = "standard input"
        self.length = length
        self._data = data
        self.position = 0

    def read(self, size: int, /) -> bytes:
        assert size > 0
        data = self._data[self.position : self.position + size]
        self.position += len(data)
        return data


def contents(pieces: Iterator[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def test_holes_of_a_file_are_not_read(tmp_path: Path) -> None:
    """What the file system does not keep is in no piece, and not counted."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        os.pwrite(file.fileno(), b"a" * 4096, 1 << 20)
        os.pwrite(file.fileno(), b"b" * 4096, 32 << 20)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip(f"{tmp_path} is on a file system that keeps holes")

    class OnDisk(Sparse):
        def pread(self, offset: int, size: int, /) -> bytes:
            with path.open("rb") as file:
                return os.pread(file.fileno(), size, offset)

        def data_ranges(self) -> Iterator[tuple[int, int]]:
            with path.open("rb") as file:
                end = 0
                while True:
                    try:
                        start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    except OSError:
                        return
                    end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                    yield start, end

    image = raw.from_file(OnDisk(64 << 20, []))
    pieces = list(image.pieces())
    assert image.virtual_size == 64 << 20
    assert image.allocated == sum(len(piece.data) for piece in pieces) <= 64 * KIB
    assert b"a" * 4096 in pieces[0].data
    assert b"b" * 4096 in pieces[-1].data


@given(
    size=st.integers(1, 5 << 20),
    cuts=st.lists(st.integers(0, 5 << 20), max_size=8).map(sorted),
)
@settings(deadline=None)
def test_pieces_are_whole_sectors_in_order_and_cover_the_data(size: int, cuts: list[int]) -> None:
    """Where a file system's ranges lie within a sector, and touch, too; only the last piece may end within one."""
    cuts = [min(cut, size) for cut in cuts]
    ranges = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    image = raw.from_file(Sparse(size, ranges))
    pieces = list(image.pieces())
    position = 0
    for piece in pieces:
        assert piece.offset >= position
        assert piece.offset % 512 == 0
        assert piece.end % 512 == 0 or piece.end == size
        assert piece.offset // PIECE == (piece.end - 1) // PIECE
        position = piece.end
    for start, end in ranges:
        for place in (start, end - 1):
            assert any(piece.offset <= place < piece.end for piece in pieces)
    assert image.allocated == sum(len(piece.data) for piece in pieces)


def test_a_file_that_was_cut_since_it_was_opened_is_truncated() -> None:
    image = raw.from_file(Sparse(3 << 20, [(0, 3 << 20)], cut=2 << 20))
    with pytest.raises(TruncatedImage, match="3145728 bytes before") as caught:
        list(image.pieces())
    assert caught.value.offset == 2 << 20


def test_an_iso_is_a_raw_image_of_another_name_and_may_be_odd() -> None:
    """Its size need not be of whole sectors."""
    image = raw.from_file(Sparse(2049, [(0, 2049)]), format="iso")
    assert (image.format, image.virtual_size, image.allocated) == ("iso", 2049, 2049)
    assert repr(image) == "<iso image disk.raw: 2049 bytes>"


def test_an_empty_image_is_none() -> None:
    with pytest.raises(InvalidImage, match="it is empty"):
        raw.from_file(Sparse(0, []))
    for size, length in ((0, None), (None, 0), (-1, None)):
        with pytest.raises(InvalidImage, match="it is empty"):
            raw.from_stream(Pipe(b"", length), size=size)


@pytest.mark.parametrize("size", [1, 511, 512, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 700])
@pytest.mark.parametrize("said", ["by the caller", "by the stream", "by both"])
def test_a_stream_is_read_to_its_end(size: int, said: str) -> None:
    """In pieces of 1 MiB."""
    data = os.urandom(size)
    pipe = Pipe(data, None if said == "by the caller" else size)
    image = raw.from_stream(pipe, size=None if said == "by the stream" else size)
    assert pipe.position == 0
    pieces = list(image.pieces())
    assert contents(iter(pieces)) == data
    assert [piece.offset for piece in pieces] == list(range(0, size, PIECE))
    assert image.virtual_size == image.allocated == size


def test_a_stream_of_unknown_length_needs_a_file() -> None:
    """Since a disk is made of its size before a byte is written."""
    with pytest.raises(NeedsFile):
        raw.from_stream(Pipe(b"x" * 512), size=None)


@pytest.mark.parametrize("missing", [1, 512, PIECE])
def test_a_stream_that_ends_early_is_truncated(missing: int) -> None:
    """With the byte at which it ended."""
    size = 2 * PIECE
    image = raw.from_stream(Pipe(bytes(size - missing)), size=size)
    with pytest.raises(TruncatedImage, match="2097152 bytes were expected") as caught:
        list(image.pieces())
    assert caught.value.offset == size - missing


def test_a_stream_that_goes_on_is_refused() -> None:
    """It is another image than was said, and the disk would be a part of it."""
    image = raw.from_stream(Pipe(bytes(PIECE + 1)), size=PIECE)
    with pytest.raises(InvalidImage, match="it goes on") as caught:
        list(image.pieces())
    assert caught.value.offset == PIECE


def test_two_sizes_that_differ_are_refused_at_once() -> None:
    with pytest.raises(TruncatedImage):
        raw.from_stream(Pipe(b"", 512), size=1024)
    with pytest.raises(InvalidImage, match="it goes on"):
        raw.from_stream(Pipe(b"", 2048), size=1024)


@pytest.mark.parametrize("size", [512, PIECE - 512, PIECE, PIECE + 512])
def test_a_fixed_vhd_that_comes_as_raw_is_found_at_its_end(size: int) -> None:
    """With what to say instead; wherever the last sector lies among the pieces."""
    data = vhdkit.make_fixed(os.urandom(size))
    image = raw.from_stream(Pipe(data), size=len(data), check_end=partial(detect.refuse_end, "disk.raw"))
    with pytest.raises(InvalidImage, match="--format vhd") as caught:
        list(image.pieces())
    assert caught.value.offset == size


@pytest.mark.parametrize("size", [512, PIECE - 512, PIECE, PIECE + 512, 3 * PIECE])
def test_the_end_of_a_stream_is_shown_to_whom_the_format_is_not_certain(size: int) -> None:
    """The last MiB at most, and as many bytes as there are of a shorter one."""
    data = os.urandom(size)
    seen: list[tuple[bytes, int]] = []
    image = raw.from_stream(Pipe(data), size=size, check_end=lambda tail, of: seen.append((tail, of)))
    assert contents(image.pieces()) == data
    assert seen == [(data[-raw.TAIL :], size)]
