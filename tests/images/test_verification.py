"""What is read back is compared with what was written, however either was cut."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.images.disk_image import Piece
from xenvol.images.errors import NotAsWritten
from xenvol.images.verification import Ledger

SIZE = 64 * 512


class Disk:
    """What is read: pieces in order, cut at `cuts`."""

    format = "raw"
    allocated = None
    is_ordered = True

    def __init__(self, data: bytes, cuts: set[int]) -> None:
        self.data, self.cuts, self.virtual_size = data, cuts, len(data)

    def pieces(self) -> Iterator[Piece]:
        edges = sorted({0, len(self.data), *self.cuts})
        for start, end in itertools.pairwise(edges):
            yield Piece(start, self.data[start:end])


@st.composite
def writings(draw: st.DrawFn) -> tuple[list[Piece], bytes]:
    """Pieces that do not overlap, in any order, and the disk that they make."""
    edges = sorted(draw(st.sets(st.integers(0, SIZE // 512), min_size=1, max_size=12)))
    data = bytearray(SIZE)
    pieces = []
    for start, end in itertools.pairwise(edges):
        if draw(st.booleans()):
            fill = bytes([draw(st.integers(0, 3))]) * 512
            data[start * 512 : end * 512] = fill * (end - start)
            pieces.append(Piece(start * 512, fill * (end - start)))
    return draw(st.permutations(pieces)), bytes(data)


def compare(pieces: list[Piece], disk: Disk) -> int:
    with tempfile.TemporaryDirectory() as directory, Ledger(Path(directory)) as ledger:
        assert os.listdir(directory) == []
        assert list(ledger.recording(pieces)) == pieces
        return sum(len(piece.data) for piece in ledger.check("the disk", disk))


@given(writings(), st.sets(st.integers(1, SIZE - 1), max_size=8))
def test_what_was_written_is_found_however_it_is_cut(
    written: tuple[list[Piece], bytes], cuts: set[int]
) -> None:
    pieces, data = written
    assert compare(pieces, Disk(data, cuts)) == sum(len(piece.data) for piece in pieces)


@given(writings(), st.sets(st.integers(1, SIZE - 1), max_size=8), st.integers(0, SIZE - 1))
def test_one_byte_that_is_another_is_found(
    written: tuple[list[Piece], bytes], cuts: set[int], position: int
) -> None:
    pieces, data = written
    changed = bytearray(data)
    changed[position] ^= 0x55
    with pytest.raises(NotAsWritten) as caught:
        compare(pieces, Disk(bytes(changed), cuts))
    holder = [piece for piece in pieces if piece.offset <= position < piece.end]
    assert caught.value.offset == (holder[0].offset if holder else position)


def test_a_disk_that_ends_too_early_is_not_as_written() -> None:
    with pytest.raises(NotAsWritten):
        compare([Piece(512, b"A" * 512)], Disk(bytes(512), set()))
