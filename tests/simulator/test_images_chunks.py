"""xapi's own chunks: each begins with its offset and length, and an empty one at 0 ends the stream."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator.images.body import Body, Broken
from xenvol.simulator.images.rawstream import receive_chunks
from xenvol.simulator.images.sink import Sink

SIZE = 1 << 20
END = bytes(12)


def chunks(pieces: dict[int, bytes], *, end: bytes = END) -> bytes:
    return b"".join(struct.pack("<QI", at, len(data)) + data for at, data in pieces.items()) + end


def received(path: Path, stream: bytes) -> bytes:
    path.write_bytes(bytes(SIZE))
    with Sink(path, SIZE) as sink:
        receive_chunks(Body(io.BytesIO(stream), None), sink)
    return path.read_bytes()


@given(st.dictionaries(st.integers(0, SIZE - 5000), st.binary(min_size=1, max_size=5000), max_size=8))
def test_chunks_land_where_they_belong_in_the_order_of_their_coming(
    tmp_path_factory: pytest.TempPathFactory, pieces: dict[int, bytes]
) -> None:
    expected = bytearray(SIZE)
    for at, data in pieces.items():
        expected[at : at + len(data)] = data
    assert received(tmp_path_factory.mktemp("disk") / "disk", chunks(pieces)) == expected


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (chunks({0: b"abc"}, end=b""), "ended after 15 bytes"),
        (chunks({0: b"abc"}, end=END[:5]), "ended after 20 bytes"),
        (chunks({0: b"abc"})[:14], "ended after 14 bytes"),
        (chunks({SIZE - 2: b"abc"}), "beyond the disk's"),
        (chunks({1 << 63: b"abc"}), "beyond the disk's"),
    ],
    ids=["no end", "half an end", "half a chunk", "over the end", "far beyond the end"],
)
def test_a_stream_that_breaks_off_or_leads_beyond_the_disk_is_broken(
    tmp_path: Path, stream: bytes, reason: str
) -> None:
    with pytest.raises(Broken, match=reason):
        received(tmp_path / "disk", stream)


def test_an_empty_chunk_elsewhere_than_at_the_beginning_ends_nothing(tmp_path: Path) -> None:
    got = received(tmp_path / "disk", chunks({7: b"", 9: b"abc"}))
    assert got[9:12] == b"abc"


def test_what_follows_the_end_marker_is_not_read(tmp_path: Path) -> None:
    assert received(tmp_path / "disk", chunks({}) + chunks({0: b"abc"})) == bytes(SIZE)
