"""What qcow2 images hold is read as QEMU reads it, or refused for a reason; a second maker makes what QEMU will not."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import luks
import pytest
from fuzz_qcow2 import (
    BACKING_FORMAT,
    DATA_FILE_NAME,
    LUKS_HEADER,
    Bytes,
    Cluster,
    Qcow2,
    corpus,
    examine,
    mutate,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import needs
from xenvol.images.disk_image import PIECE, DiskImage, EndOfFile, Piece
from xenvol.images.errors import (
    EncryptedImage,
    InvalidImage,
    MissingParent,
    MissingReader,
    TruncatedImage,
    UnsupportedImage,
)
from xenvol.images.formats import qcow2

QemuImg = Callable[..., str]
MIB = 1 << 20


class OnDisk:
    """A ByteFile over a path, with as little in it as can be."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.size = path.stat().st_size
        self.reads = 0
        self._file = path.open("rb")

    def pread(self, offset: int, size: int, /) -> bytes:
        self.reads += 1
        if offset + size > self.size:
            raise EndOfFile
        data = os.pread(self._file.fileno(), size, offset)
        assert len(data) == size
        return data

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        yield 0, self.size

    def close(self) -> None:
        self._file.close()


def unfolded(image: DiskImage) -> bytes:
    return unfolded_pieces(list(image.pieces()), image.virtual_size)


def disk_of(path: Path) -> bytes:
    file = OnDisk(path)
    try:
        return unfolded(qcow2.from_file(file))
    finally:
        file.close()


def by_qemu(qemu_img: QemuImg, path: Path) -> bytes:
    raw = path.with_suffix(".by-qemu")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def qemu_io(path: Path, *commands: str) -> None:
    program = needs.program("qemu-io")
    arguments = [argument for command in commands for argument in ("-c", command)]
    done = subprocess.run(
        [program, "-f", "qcow2", "-d", "unmap", *arguments, path], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout


def patterned(size: int, *, seed: int = 0, grain: int = 4096) -> bytes:
    """Some of it random, some text, some zeros; in runs of odd lengths."""
    rng = random.Random(seed)
    disk = bytearray(size)
    position = 0
    while position < size:
        length = min(size - position, grain * rng.choice((1, 2, 3, 7, 16, 40)))
        kind = rng.randrange(4)
        if kind == 0:
            disk[position : position + length] = rng.randbytes(length)
        elif kind == 1:
            disk[position : position + length] = (b"the same text again, " * (length // 20 + 1))[:length]
        position += length
    return bytes(disk)


# --- as QEMU reads it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=4k,compat=0.10",
        "cluster_size=64k",
        "cluster_size=64k,compat=0.10",
        "cluster_size=2M",
        "cluster_size=64k,lazy_refcounts=on",
        "cluster_size=64k,refcount_bits=1",
        "cluster_size=16k,refcount_bits=64",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=2M,extended_l2=on",
    ],
)
@pytest.mark.parametrize("packed", ["", "zlib", "zstd"])
def test_what_qemu_img_makes_is_read_as_it_was(
    options: str, packed: str, qemu_img: QemuImg, tmp_path: Path
) -> None:
    """With clusters of every size, compressed or not; and each piece is a row of them, 1 MiB at most."""
    if packed and "compat=0.10" not in options:  # version 2 knows zlib alone
        options += f",compression_type={packed}"
    disk = patterned((5 << 20) + 512 * 3)
    (tmp_path / "disk.raw").write_bytes(disk)
    path = tmp_path / "disk.qcow2"
    flags = ["-c"] if packed else []
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *flags, "-o", options, tmp_path / "disk.raw", path)
    file = OnDisk(path)
    image = qcow2.from_file(file)
    pieces = list(image.pieces())
    file.close()
    assert image.virtual_size == len(disk)
    assert unfolded_pieces(pieces, len(disk)) == disk
    assert max(len(piece.data) for piece in pieces) <= PIECE
    assert sum(len(piece.data) for piece in pieces) == image.allocated
    assert all(a.end < b.offset or b.offset % PIECE == 0 for a, b in itertools.pairwise(pieces))


def unfolded_pieces(pieces: list[Piece], size: int) -> bytes:
    disk = bytearray(size)
    for offset, data in pieces:
        disk[offset : offset + len(data)] = data
    return bytes(disk)


@pytest.mark.parametrize("preallocation", ["off", "metadata", "falloc", "full"])
@pytest.mark.parametrize("extended", ["off", "on"])
def test_a_preallocated_image_reads_as_what_was_written(
    preallocation: str, extended: str, qemu_img: QemuImg, tmp_path: Path
) -> None:
    """The clusters that nobody has written are zeros, whether they have a place or not."""
    path = tmp_path / "disk.qcow2"
    options = f"preallocation={preallocation},extended_l2={extended}"
    qemu_img("create", "-f", "qcow2", "-o", options, path, "9M")
    assert not any(disk_of(path))
    qemu_io(path, "write -P 0x11 5000k 3k", "write -P 0x22 0 64k", "write -P 0x33 9215k 1k")
    disk = disk_of(path)
    assert disk == by_qemu(qemu_img, path)
    assert disk[5000 << 10 : 5003 << 10] == b"\x11" * 3072


@pytest.mark.parametrize("seed", range(6))
def test_what_qemu_io_writes_zeroes_and_discards_in_any_order_is_read(
    seed: int, qemu_img: QemuImg, tmp_path: Path
) -> None:
    """With snapshots inside, and after the disk was made larger and smaller: only the active disk counts."""
    rng = random.Random(seed)
    options = rng.choice(
        (
            "cluster_size=512",
            "cluster_size=4k,compat=0.10",
            "cluster_size=64k,extended_l2=on",
            "cluster_size=16k,lazy_refcounts=on",
            "cluster_size=64k",
            "cluster_size=2M",
        )
    )
    path = tmp_path / "disk.qcow2"
    size = 8 << 20
    qemu_img("create", "-f", "qcow2", "-o", options, path, size)
    for round_ in range(4):
        commands = []
        for _ in range(12):
            offset = rng.randrange(0, size - 512, 512)
            length = min(size - offset, 512 * rng.choice((1, 8, 33, 128, 300)))
            what = rng.choice(("write -P 0x5a", f"write -P {rng.randrange(1, 255)}", "write -z", "discard"))
            if "0.10" in options and what == "write -z":
                what = "write -P 0"
            commands.append(f"{what} {offset} {length}")
        if "0.10" not in options:
            commands.append(f"write -z -u {rng.randrange(16) << 19} 512k")
        qemu_io(path, *commands)
        assert disk_of(path) == by_qemu(qemu_img, path), options
        has_snapshots = "0.10" not in options  # QEMU does not resize such a one of version 2
        if round_ == 0 and has_snapshots:
            qemu_img("snapshot", "-c", "inside", path)
        elif round_ == 1:
            size += 3 << 20
            qemu_img("resize", path, size)
        elif round_ == 2:
            if has_snapshots:
                qemu_img("snapshot", "-d", "inside", path)
            size -= (5 << 20) + 512
            qemu_img("resize", "--shrink", path, size)
    assert len(disk_of(path)) == size


def test_compressed_clusters_lie_among_others(qemu_img: QemuImg, tmp_path: Path) -> None:
    """As in an image that was packed and written to since."""
    (tmp_path / "disk.raw").write_bytes(patterned(3 << 20, seed=4))
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "disk.raw", path)
    qemu_io(path, "write -P 7 100k 70k", "write -z 1M 128k", "write -P 9 2900k 4k")
    assert disk_of(path) == by_qemu(qemu_img, path)


def test_an_image_that_was_not_closed_is_read(qemu_img: QemuImg, tmp_path: Path) -> None:
    """Only its reference counts may be wrong, and a reader needs none."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", "lazy_refcounts=on", path, "4M")
    program = needs.program("qemu-io")
    subprocess.run(
        [program, "-f", "qcow2", "-c", "write -P 3 1M 128k", "-c", "flush", "-c", "abort", path],
        capture_output=True,
        check=False,
    )
    data = path.read_bytes()
    assert int.from_bytes(data[72:80], "big") & 1, "it is not dirty"
    disk = disk_of(path)
    assert disk[1 << 20 : (1 << 20) + (128 << 10)] == b"\3" * (128 << 10)


# --- the second maker ---------------------------------------------------------------------------------------------


@st.composite
def images(draw: st.DrawFn) -> Qcow2:
    bits = draw(st.sampled_from((9, 10, 12, 14, 16)))
    subclusters = bits >= 14 and draw(st.booleans())
    version = 3 if subclusters else draw(st.sampled_from((2, 3)))
    packing = draw(st.sampled_from(("zlib", "zstd"))) if version == 3 else "zlib"
    kinds = ("data", packing, "zero", "zero_stored") if version == 3 else ("data", packing)
    count = draw(st.integers(1, 40 if bits >= 14 else 200))
    size = (count << bits) - 512 * draw(st.integers(0, (1 << bits - 9) - 1))
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    clusters = {}
    for number in draw(st.sets(st.integers(0, count - 1), max_size=count)):
        stored = rng.choice((0xFFFFFFFF, 0, rng.getrandbits(32), 0x0000FFFF))
        clusters[number] = Cluster(
            rng.choice(kinds),
            rng.randbytes(16) * ((1 << bits) // 16),
            stored,
            rng.getrandbits(32) & ~stored & 0xFFFFFFFF,
        )
    seed = draw(st.none() | st.integers(0, 99))
    return Qcow2(
        size=size,
        cluster_bits=bits,
        version=version,
        subclusters=subclusters,
        clusters=clusters,
        seed=seed,
        spare=draw(st.integers(0, 3)),
    )


@settings(max_examples=60)
@given(images())
def test_any_clusters_in_any_order_read_as_they_were_made(made: Qcow2) -> None:
    """Each kind of cluster, the tables and the data anywhere; and no byte is read twice for nothing."""
    file = Bytes(made.make())
    image = qcow2.from_file(file)
    assert unfolded(image) == made.disk()
    assert image.is_ordered
    assert image.format == "qcow2"


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=images())
def test_qemu_reads_what_the_second_maker_makes_as_we_do(
    made: Qcow2, qemu_img: QemuImg, tmp_path: Path
) -> None:
    """So that the maker is right, where it agrees with our reader."""
    made.make()  # its own tables say nothing of reference counts, which QEMU wants
    path = tmp_path / "made.qcow2"
    path.write_bytes(with_refcounts(made))
    assert by_qemu(qemu_img, path) == made.disk()
    assert disk_of(path) == made.disk()


def with_refcounts(made: Qcow2) -> bytes:
    """The image with a table of reference counts at its end, all of them zero: QEMU wants it there, and only reads."""
    data = made.make()
    data += bytes(-len(data) % made.cluster_size)
    struct.pack_into(">QI", data, 48, len(data), 1)
    return bytes(data + bytes(made.cluster_size))


@settings(max_examples=40)
@given(made=images(), grain=st.sampled_from((512, 700, 4096, 65536)), margin=st.integers(0, 600))
def test_what_is_a_hole_of_the_file_is_not_read(made: Qcow2, grain: int, margin: int) -> None:
    """And counts for nothing; wherever holes begin and end."""
    data = made.make()
    ranges: list[tuple[int, int]] = []
    for start in range(0, len(data), grain):
        if any(data[start : start + grain]):
            first = max(0, start - margin, ranges[-1][1] if ranges else 0)
            ranges.append((first, min(len(data), start + grain)))

    class Holey(Bytes):
        def data_ranges(self) -> Iterator[tuple[int, int]]:
            yield from ranges

    image = qcow2.from_file(Holey(data))
    pieces = list(image.pieces())
    assert unfolded_pieces(pieces, made.size) == made.disk()
    assert sum(len(piece.data) for piece in pieces) == image.allocated


def test_preallocated_clusters_that_nobody_wrote_are_not_read() -> None:
    """A disk of any size is read as fast as what was written to it."""
    clusters = {n: Cluster("data", bytes(65536)) for n in range(160)} | {77: Cluster("data", b"x" * 65536)}
    made = Qcow2(size=10 << 20, clusters=clusters)
    data = made.make()

    class Holey(Bytes):
        def data_ranges(self) -> Iterator[tuple[int, int]]:
            yield 0, made.places[0]
            yield made.places[77] + 4096, made.places[77] + 8192

    image = qcow2.from_file(Holey(data))
    assert image.allocated == 4096
    assert [(piece.offset, len(piece.data)) for piece in image.pieces()] == [(77 * 65536 + 4096, 4096)]


def test_of_too_many_holes_the_last_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that their list does not fill the memory."""
    monkeypatch.setattr(qcow2, "MAX_RANGES", 3)
    made = Qcow2(size=10 << 20, clusters={n: Cluster("data", bytes([n + 1]) * 65536) for n in range(10)})

    class Holey(Bytes):
        def data_ranges(self) -> Iterator[tuple[int, int]]:
            yield 0, made.places[0]
            for number in range(0, 10, 2):
                yield made.places[number] + 512, made.places[number] + 65536

    image = qcow2.from_file(Holey(made.make()))
    assert image.allocated == (65536 - 512) + (8 * 65536 - 512)


def test_clusters_in_a_row_are_read_at_once() -> None:
    """However small they are: a read for each piece, and one for each table."""
    clusters = {n: Cluster("data", n.to_bytes(4, "big") * 128) for n in range(4096)}
    made = Qcow2(size=2 << 20, cluster_bits=9, clusters=clusters)
    file = Bytes(made.make())
    image = qcow2.from_file(file)
    before = len(file.reads)
    pieces = list(image.pieces())
    assert [len(piece.data) for piece in pieces] == [PIECE, PIECE]
    tables = 64
    assert len(file.reads) - before == 1 + tables + 2
    assert unfolded(image) == made.disk()


def test_who_waits_is_asked_at_each_table() -> None:
    """With no size, since nothing of the disk has been read yet; what is raised ends the check there."""

    class Enough(Exception):
        pass

    clusters = {n: Cluster("zero") for n in range(0, 4096, 64)}
    file = Bytes(Qcow2(size=2 << 20, cluster_bits=9, clusters=clusters).make())
    told: list[int] = []
    qcow2.from_file(file, tick=told.append)
    tables = 64
    ranges = 1
    assert told == [0] * (2 * tables + ranges)
    for last in (1, tables, tables + ranges, tables + ranges + 1, 2 * tables + ranges):
        calls = itertools.count(1)

        def enough(size: int, calls: Iterator[int] = calls, last: int = last) -> None:
            if next(calls) == last:
                raise Enough

        with pytest.raises(Enough):
            qcow2.from_file(file, tick=enough)
        assert next(calls) == last + 1


def test_clusters_apart_are_joined_to_pieces() -> None:
    """Clusters in the file's own order are read one by one, and given as one piece."""
    clusters = {n: Cluster("data", bytes([n % 251 + 1]) * 4096) for n in range(512)}
    made = Qcow2(size=2 << 20, cluster_bits=12, clusters=clusters, seed=3)
    image = qcow2.from_file(Bytes(made.make()))
    assert [len(piece.data) for piece in image.pieces()] == [PIECE, PIECE]


def test_what_is_stored_of_a_last_cluster_ends_with_the_disk() -> None:
    """The file need not have what the disk does not need."""
    made = Qcow2(
        size=(1 << 16) + 1024, clusters={0: Cluster("data", b"a" * 65536), 1: Cluster("data", b"b" * 65536)}
    )
    data = made.make()
    del data[made.places[1] + 1024 :]
    image = qcow2.from_file(Bytes(data))
    assert unfolded(image) == made.disk()
    del data[-1:]
    with pytest.raises(TruncatedImage) as caught:
        qcow2.from_file(Bytes(data))
    assert caught.value.offset == len(data)


def test_two_clusters_may_be_one_of_the_file() -> None:
    """The format allows it, and says with the reference counts whether somebody may write there."""
    made = Qcow2(size=1 << 20, clusters={1: Cluster("data", b"x" * 65536)})
    data = made.make()
    entry = bytes(data[made.l1[0] + 8 : made.l1[0] + 16])
    data[made.l1[0] + 32 : made.l1[0] + 40] = entry
    disk = unfolded(qcow2.from_file(Bytes(data)))
    assert disk[65536 : 2 * 65536] == disk[4 * 65536 : 5 * 65536] == b"x" * 65536


def test_a_repr_tells_what_it_is() -> None:
    made = Qcow2(size=1 << 20, clusters={1: Cluster("data", b"x" * 65536)})
    assert (
        repr(qcow2.from_file(Bytes(made.make())))
        == "<qcow2 image disk.qcow2: 1048576 bytes, 65536 allocated>"
    )


# --- refused ------------------------------------------------------------------------------------------------------

BASE = Qcow2(size=4 << 20, clusters={n: Cluster("data", bytes([n + 1]) * 65536) for n in (0, 1, 9)})
GOOD = bytes(BASE.make())
L2 = BASE.l1[0]
OFFSETS_END = (1 << 56) - (1 << 16)


def broken(position: int, layout: str, value: int, *, base: bytes = GOOD) -> bytearray:
    data = bytearray(base)
    struct.pack_into(layout, data, position, value)
    return data


def test_what_is_broken_below_was_good() -> None:
    assert unfolded(qcow2.from_file(Bytes(GOOD))) == BASE.disk()


@pytest.mark.parametrize(
    ("position", "layout", "value", "error", "problem", "offset"),
    [
        (0, ">I", 0, InvalidImage, "wrong magic", 0),
        (4, ">I", 1, UnsupportedImage, "version 1", None),
        (4, ">I", 4, UnsupportedImage, "version 4", None),
        (8, ">Q", 1024, MissingParent, "another image", None),
        (16, ">I", 5, MissingParent, "QFI", None),
        (20, ">I", 8, InvalidImage, "2^8 bytes", 20),
        (20, ">I", 22, InvalidImage, "2^22 bytes", 20),
        (20, ">I", 0xFFFFFFFF, InvalidImage, "2^4294967295 bytes", 20),
        (24, ">Q", 0, InvalidImage, "would have 0 bytes", 24),
        (24, ">Q", (4 << 20) + 1, InvalidImage, "would have 4194305 bytes", 24),
        (24, ">Q", 1 << 63, InvalidImage, "would have 9223372036854775808 bytes", 24),
        (24, ">Q", (1 << 63) - 512, InvalidImage, "L1 table has 1 entries", 36),
        (24, ">Q", 1 << 40, InvalidImage, "needs 2048", 36),
        (32, ">I", 1, EncryptedImage, "encrypted", None),
        (32, ">I", 2, EncryptedImage, "encrypted", None),
        (32, ">I", 3, InvalidImage, "unknown kind, 3", 32),
        (36, ">I", 0, InvalidImage, "L1 table has 0 entries", 36),
        (36, ">I", (4 << 20) + 1, InvalidImage, "4194304 at most", 36),
        (36, ">I", 4 << 20, TruncatedImage, "its L1 table ends at", len(GOOD)),
        (40, ">Q", 65536 + 512, InvalidImage, "within a cluster", 40),
        (40, ">Q", 0, InvalidImage, "its L1 table lies where its header", 0),
        (40, ">Q", 1 << 40, TruncatedImage, "its L1 table ends at", len(GOOD)),
        (40, ">Q", (1 << 64) - 65536, TruncatedImage, "its L1 table ends at", len(GOOD)),
        (40, ">Q", L2, InvalidImage, "unknown bits are set in the L2 entry", BASE.places[0]),
        (72, ">Q", 2, InvalidImage, "marked as corrupt", 72),
        (72, ">Q", 4, UnsupportedImage, "in another file", None),
        (72, ">Q", 8, InvalidImage, "two different compressions", 104),
        (72, ">Q", 32, UnsupportedImage, "bits 0x20", None),
        (72, ">Q", 1 << 63, UnsupportedImage, "does not know", None),
        (100, ">I", 96, InvalidImage, "header would have 96 bytes", 100),
        (100, ">I", 108, InvalidImage, "header would have 108 bytes", 100),
        (100, ">I", 65536 + 8, InvalidImage, "header would have 65544 bytes", 100),
        (100, ">I", 0xFFFFFFF8, InvalidImage, "header would have", 100),
        (104, ">B", 1, InvalidImage, "two different compressions", 104),
        (104, ">B", 2, UnsupportedImage, "unknown way, 2", None),
        (112, ">Q", BACKING_FORMAT << 32 | 5, MissingParent, "does not name", None),
        (112, ">Q", LUKS_HEADER << 32 | 16, EncryptedImage, "encrypted", None),
        (112, ">Q", DATA_FILE_NAME << 32 | 5, UnsupportedImage, "in another file", None),
        (112, ">Q", 0x12345678 << 32 | 65536, InvalidImage, "extension of its header", 116),
        (65536, ">Q", L2 | 1, InvalidImage, "unknown bits are set in the L1 entry", 65536),
        (65536, ">Q", L2 | 1 << 62, InvalidImage, "unknown bits are set in the L1 entry", 65536),
        (65536, ">Q", L2 + 512, InvalidImage, "an L2 table begins at", 65536),
        (65536, ">Q", 65536, InvalidImage, "an L2 table lies where", 65536),
        (65536, ">Q", OFFSETS_END, TruncatedImage, "an L2 table ends at", len(GOOD)),
        (65536, ">Q", len(GOOD), TruncatedImage, "an L2 table ends at", len(GOOD)),
        (65536, ">Q", BASE.places[0], InvalidImage, "unknown bits are set in the L2 entry", BASE.places[0]),
        (65536, ">Q", BASE.places[0] | 1 << 63, InvalidImage, "unknown bits are set", BASE.places[0]),
        (L2, ">Q", BASE.places[0] | 2, InvalidImage, "unknown bits are set in the L2 entry", L2),
        (L2, ">Q", BASE.places[0] | 1 << 56, InvalidImage, "unknown bits are set in the L2 entry", L2),
        (L2 + 8, ">Q", BASE.places[0] + 512, InvalidImage, "within another", L2 + 8),
        (L2 + 8, ">Q", (BASE.places[0] + 512) | 1, InvalidImage, "within another", L2 + 8),
        (L2 + 8, ">Q", L2, InvalidImage, "a cluster lies where", L2),
        (L2 + 8, ">Q", 65536, InvalidImage, "a cluster lies where", 65536),
        (L2 + 8, ">Q", 1 << 63, InvalidImage, "a cluster lies where", 0),
        (L2 + 8, ">Q", OFFSETS_END, TruncatedImage, "a cluster ends at", len(GOOD)),
        (L2 + 8, ">Q", len(GOOD), TruncatedImage, "a cluster ends at", len(GOOD)),
        (L2 + 8, ">Q", 1 << 62 | len(GOOD), TruncatedImage, "compressed cluster ends", len(GOOD)),
        (L2 + 8, ">Q", 1 << 62 | L2 + 9, InvalidImage, "a compressed cluster lies where", L2 + 9),
        (L2 + 8, ">Q", (1 << 63) - 1, TruncatedImage, "compressed cluster ends", len(GOOD)),
    ],
)
def test_each_field_that_cannot_be_is_refused_before_a_byte_of_data_is_read(
    position: int, layout: str, value: int, error: type[Exception], problem: str, offset: int | None
) -> None:
    """With the class, the problem and the place; and no read leaves the file."""
    with pytest.raises(error) as caught:
        qcow2.from_file(Bytes(broken(position, layout, value)))
    assert type(caught.value) is error
    assert problem in str(caught.value)
    assert "disk.qcow2" in str(caught.value)
    if isinstance(caught.value, InvalidImage):
        assert caught.value.offset == offset


def test_a_header_without_a_compression_type_is_read() -> None:
    """As QEMU wrote it before 5.1: of 104 bytes, and its extensions follow at once."""
    image = qcow2.from_file(Bytes(broken(100, ">I", 104)))
    assert unfolded(image) == BASE.disk()
    with pytest.raises(MissingParent):
        qcow2.from_file(
            Bytes(broken(104, ">Q", BACKING_FORMAT << 32 | 5, base=bytes(broken(100, ">I", 104))))
        )


def test_a_zero_cluster_may_name_any_place() -> None:
    """Nothing is read there."""
    image = qcow2.from_file(Bytes(broken(L2 + 8, ">Q", OFFSETS_END | 1)))
    assert not any(unfolded(image)[65536 : 2 * 65536])


def test_two_l1_entries_cannot_name_one_table() -> None:
    """Else a file of some KiB would unfold to any size."""
    made = Qcow2(size=1 << 30, clusters={0: Cluster("data", b"x" * 65536)})
    data = made.make()
    data[made.l1_offset + 8 : made.l1_offset + 16] = data[made.l1_offset : made.l1_offset + 8]
    with pytest.raises(InvalidImage, match="an L2 table lies where its header or a table lies"):
        qcow2.from_file(Bytes(data))


def test_an_l2_table_cannot_be_its_own_data() -> None:
    data = broken(L2 + 16, ">Q", L2 | 1 << 63)
    with pytest.raises(InvalidImage, match="a cluster lies where") as caught:
        qcow2.from_file(Bytes(data))
    assert caught.value.offset == L2


def test_a_run_over_a_table_is_found() -> None:
    """Not by its first cluster alone: the table lies in the middle of clusters in a row."""
    clusters = {n: Cluster("data", b"x" * 512) for n in range(3 * 64)}
    made = Qcow2(size=96 << 10, cluster_bits=9, clusters=clusters, seed=2)
    data = made.make()
    tables = set(made.l1.values())
    inside = next(t for t in tables if not {t - 1024, t - 512} & {0, 512, *tables})
    for index in range(5):
        struct.pack_into(">Q", data, made.l1[0] + 8 * index, (inside - 1024 + 512 * index) | 1 << 63)
    with pytest.raises(InvalidImage, match="a cluster lies where") as caught:
        qcow2.from_file(Bytes(data))
    assert caught.value.offset == inside


@pytest.mark.parametrize(
    "name", [b"base.raw", b"json:{}", b"rbd:pool/x:id=admin:key=AQDsecret==", b"\xff\n\x1b[31m"]
)
def test_a_parent_is_named_and_never_opened(name: bytes) -> None:
    """In the error as it can be shown: no control characters."""
    data = bytearray(GOOD)
    data[512 : 512 + len(name)] = name
    struct.pack_into(">QI", data, 8, 512, len(name))
    with pytest.raises(MissingParent) as caught:
        qcow2.from_file(Bytes(data))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    if name == b"base.raw":
        assert caught.value.parent == "'base.raw'"


def test_qemus_own_children_and_split_disks_are_refused(qemu_img: QemuImg, tmp_path: Path) -> None:
    """A backing file and an external data file, as qemu-img makes them, and encryption that qemu-img knows."""
    base, child = tmp_path / "base.qcow2", tmp_path / "child.qcow2"
    qemu_img("create", "-f", "qcow2", base, "1M")
    qemu_img("create", "-f", "qcow2", "-b", base, "-F", "qcow2", child)
    with pytest.raises(MissingParent, match=r"base\.qcow2"):
        disk_of(child)
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw", tmp_path / "split.qcow2", "1M")
    with pytest.raises(UnsupportedImage, match="another file"):
        disk_of(tmp_path / "split.qcow2")
    locked = tmp_path / "locked.qcow2"
    locked.write_bytes(luks.qcow2(base.read_bytes()))
    assert "encrypted: yes" in qemu_img("info", locked)
    with pytest.raises(EncryptedImage):
        disk_of(locked)


# --- subclusters --------------------------------------------------------------------------------------------------

SUB = Qcow2(
    size=4 << 20, subclusters=True, clusters={2: Cluster("data", b"s" * 65536, 0x0000FFF1, 0xFFFF0000)}
)
SUB_DATA = bytes(SUB.make())
SUB_L2 = SUB.l1[0] + 32


@pytest.mark.parametrize(
    ("position", "value", "problem", "offset"),
    [
        (SUB_L2 + 8, 1 << 32 | 1, "both stored and zeros", SUB_L2 + 8),
        (SUB_L2, SUB.places[2] | 1, "unknown bits are set in the L2 entry", SUB_L2),
        (SUB_L2, SUB.places[2] + 512, "within another", SUB_L2),
        (SUB_L2, 0, "a cluster lies where", 0),
        (20, 13 << 32, "too small for subclusters", 20),
    ],
)
def test_subclusters_that_cannot_be_are_refused(position: int, value: int, problem: str, offset: int) -> None:
    data = bytearray(SUB_DATA)
    if position == 20:
        struct.pack_into(">I", data, 20, 13)
    else:
        struct.pack_into(">Q", data, position, value)
    with pytest.raises(InvalidImage, match=problem) as caught:
        qcow2.from_file(Bytes(data))
    assert caught.value.offset == offset


def test_each_subcluster_is_a_piece_of_its_own() -> None:
    """Only what is stored is read: 1 and then 12 of 2 KiB."""
    image = qcow2.from_file(Bytes(SUB_DATA))
    assert [(p.offset, len(p.data)) for p in image.pieces()] == [(131072, 2048), (131072 + 8192, 24576)]
    assert image.allocated == 2048 + 24576


# --- compressed clusters ------------------------------------------------------------------------------------------


def with_packed(blob: bytes, *, sectors: int | None = None, kind: int = 0, bits: int = 16) -> bytearray:
    """An image whose one compressed cluster is `blob`, at the end of the file."""
    made = Qcow2(
        size=1 << 20, cluster_bits=bits, clusters={1: Cluster("zstd" if kind else "zlib", bytes(1 << bits))}
    )
    data = made.make()
    place = made.places[1]
    del data[place:]
    data += blob
    if sectors is None:
        sectors = (place + len(blob) - 1) // 512 - place // 512
    struct.pack_into(">Q", data, made.l1[0] + 8, 1 << 62 | sectors << 70 - bits | place)
    return data


def deflated(data: bytes, window: int = -12) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, window)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("blob", "problem"),
    [
        (deflated(bytes(65535)), "has 65535 bytes"),
        (deflated(bytes(65537)), "has more than the 65536 bytes"),
        (deflated(bytes(64 << 20)), "has more than the 65536 bytes"),
        (b"\xff" * 100, "cannot be decompressed"),
        (deflated(random.Random(0).randbytes(65536))[:60000], "has "),
    ],
)
def test_a_compressed_cluster_unfolds_to_a_cluster_or_is_refused(blob: bytes, problem: str) -> None:
    """Neither less nor more, and what is more is not unfolded."""
    file = Bytes(with_packed(blob))
    with pytest.raises(InvalidImage, match=problem):
        list(qcow2.from_file(file).pieces())


def test_a_compressed_cluster_that_is_cut_is_truncated() -> None:
    """Its sectors lie behind the file's end, and what is there does not suffice."""
    blob = deflated(random.Random(0).randbytes(65536))
    data = with_packed(blob)
    del data[-2000:]
    with pytest.raises(TruncatedImage):
        list(qcow2.from_file(Bytes(data)).pieces())


def test_the_last_sector_of_compressed_data_need_not_be_whole() -> None:
    """The count is in sectors, also where a writer counted one too many."""
    cluster = random.Random(0).randbytes(1024) * 64
    for sectors in (None, 130):
        image = qcow2.from_file(Bytes(with_packed(deflated(cluster), sectors=sectors)))
        assert unfolded(image)[65536:131072] == cluster


def test_what_was_deflated_with_a_larger_window_is_read() -> None:
    cluster = random.Random(0).randbytes(30000)
    cluster = (cluster * 3)[:65536]
    image = qcow2.from_file(Bytes(with_packed(deflated(cluster, -15))))
    assert unfolded(image)[65536:131072] == cluster


def test_zstd_frames_are_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from backports import zstd

    good = random.Random(0).randbytes(1024) * 64
    assert unfolded(qcow2.from_file(Bytes(with_packed(zstd.compress(good), kind=1))))[65536:131072] == good
    for blob, problem in (
        (zstd.compress(bytes(65535)), "has 65535 bytes"),
        (zstd.compress(bytes(65537)), "has more than"),
        (zstd.compress(bytes(64 << 20)), "has more than"),
        (b"\xff" * 100, "cannot be decompressed"),
        (
            zstd.compress(good, options={zstd.CompressionParameter.window_log.value: 27})[:5] + b"\xff" * 20,
            "cannot be decompressed",
        ),
    ):
        with pytest.raises(InvalidImage, match=problem):
            list(qcow2.from_file(Bytes(with_packed(blob, kind=1))).pieces())


def test_without_zstd_it_is_said_what_to_install_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only where a cluster is compressed so, and already when the tables are checked."""
    from backports import zstd

    data = with_packed(zstd.compress(bytes(65536)), kind=1)
    for name in ("backports.zstd", "compression.zstd", "compression"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("backports.zstd", raising=False)
    with pytest.raises(MissingReader, match=r"pip install 'xenvol\[images\]'"):
        qcow2.from_file(Bytes(data))
    struct.pack_into(">Q", data, int.from_bytes(data[65536:65544], "big") % (1 << 56) + 8, 0)
    assert not any(unfolded(qcow2.from_file(Bytes(data))))


# --- bounds -------------------------------------------------------------------------------------------------------


def test_an_image_cut_anywhere_is_refused_or_reads_as_it_was() -> None:
    """Never as other bytes: what is missing is noticed."""
    rng = random.Random(5)
    made = Qcow2(
        size=40 << 10,
        cluster_bits=10,
        clusters={
            n: Cluster(rng.choice(("data", "zlib")), rng.randbytes(64) * 16)
            for n in rng.sample(range(40), 20)
        },
        seed=1,
    )
    good, disk = made.make(), made.disk()
    refused = 0
    for length in (*range(0, len(good), 97), *range(len(good) - 600, len(good))):
        try:
            assert unfolded(qcow2.from_file(Bytes(good[:length]))) == disk
        except InvalidImage:
            refused += 1
    assert refused > len(good) // 97


def test_broken_images_raise_nothing_but_ours_and_read_nothing_outside() -> None:
    """What fuzz_qcow2.py does for hours, for a second or two."""
    rng = random.Random(20)
    seeds = list(corpus(rng))
    outcomes = [examine(mutate(rng.choice(seeds), rng)) for _ in range(2500)]
    assert outcomes.count(None) > 500
    assert len(outcomes) - outcomes.count(None) > 100


def test_where_we_read_a_broken_image_qemu_reads_the_same(qemu_img: QemuImg, tmp_path: Path) -> None:
    """If it reads it: what we accept of broken images means to us what it means to QEMU."""
    rng = random.Random(8)
    seeds = [
        Qcow2(
            size=48 << 10,
            cluster_bits=bits,
            clusters={
                n: Cluster(
                    rng.choice(("data", "zlib", "zero", "zero_stored")), rng.randbytes(64) * (1 << bits - 6)
                )
                for n in range((48 << 10) >> bits)
                if rng.random() < 0.6
            },
        )
        for bits in (9, 10, 12)
    ]
    program = needs.program("qemu-img")
    compared = 0
    for number in range(150):
        data = mutate(bytearray(with_refcounts(rng.choice(seeds))), rng)
        try:
            image = qcow2.from_file(Bytes(data))
            if image.virtual_size > 4 << 20:
                continue
            disk = unfolded(image)
        except (InvalidImage, UnsupportedImage):
            continue
        path, raw = tmp_path / f"{number}.qcow2", tmp_path / f"{number}.raw"
        path.write_bytes(data)
        done = subprocess.run(
            [program, "convert", "-f", "qcow2", "-O", "raw", path, raw], capture_output=True, check=False
        )
        if done.returncode == 0:
            assert disk == raw.read_bytes()
            compared += 1
    assert compared > 5


def test_a_file_with_too_many_clusters_to_check_is_refused() -> None:
    """Else a header could ask for any amount of memory: a bit for each."""

    class Huge(Bytes):
        def __init__(self) -> None:
            super().__init__(Qcow2(size=32 << 10, cluster_bits=9).make())
            self.size = 1 << 60

    with pytest.raises(UnsupportedImage, match="cluster_size=2M"):
        qcow2.from_file(Huge())


def most_memory(*, forget: bool = False) -> int:
    """Bytes that this process has had at one time (proc(5): VmHWM), and, `forget`, as from now."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


@pytest.mark.slow
def test_memory_stays_flat_whatever_the_size(qemu_img: QemuImg, tmp_path: Path) -> None:
    """Less than 64 MiB more, for 4 GiB and for clusters of 2 MiB with subclusters."""
    for options in ("preallocation=metadata", "preallocation=metadata,cluster_size=2M,extended_l2=on"):
        path = tmp_path / "large.qcow2"
        qemu_img("create", "-f", "qcow2", "-o", options, path, "4G")
        qemu_io(path, "write -P 1 0 300M", "write -P 2 3G 300M")
        before = most_memory(forget=True)
        file = OnDisk(path)
        total = sum(len(piece.data) for piece in qcow2.from_file(file).pieces())
        file.close()
        grown = most_memory() - before
        assert total >= 600 * MIB
        assert grown < 64 * MIB
        path.unlink()
