"""A second maker of qcow2 images, which shares no code with the library, and what holds of the reader with any bytes.

``python tests/images/fuzz_qcow2.py -max_total_time=60`` fuzzes (needs ``pip install atheris``); a bounded part of it
runs with the tests (test_qcow2.py).
"""

from __future__ import annotations

import importlib
import random
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backports import zstd

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["xenvol.images.formats"]):
        importlib.import_module("xenvol.images.formats.qcow2")

from xenvol.images.disk_image import PIECE, EndOfFile
from xenvol.images.errors import InvalidImage, UnsupportedImage
from xenvol.images.formats import qcow2

BACKING_FORMAT = 0xE2792ACA
LUKS_HEADER = 0x0537BE77
DATA_FILE_NAME = 0x44415441
FEATURE_NAMES = 0x6803F857


@dataclass(frozen=True)
class Cluster:
    """One cluster of the disk: `kind` is data, zlib, zstd, zero, zero_stored (zero, with a place in the file)."""

    kind: str
    data: bytes = b""
    stored: int = 0xFFFFFFFF
    """With subclusters: which of the 32 are stored, and which are zeros."""
    zeros: int = 0


@dataclass
class Qcow2:
    """An image, to be made and then broken."""

    size: int = 1 << 20
    cluster_bits: int = 16
    version: int = 3
    subclusters: bool = False
    clusters: Mapping[int, Cluster] = field(default_factory=dict)
    extensions: bytes = b""
    seed: int | None = None
    """Where clusters and tables lie: in order, or mixed up by it."""
    spare: int = 0
    """L1 entries more than the disk needs."""

    def __post_init__(self) -> None:
        self.cluster_size = 1 << self.cluster_bits
        self.entry_size = 16 if self.subclusters else 8
        self.per_table = self.cluster_size // self.entry_size
        self.l1: dict[int, int] = {}
        self.places: dict[int, int] = {}
        """Where each cluster's data begin."""
        self.l1_offset = 0

    def disk(self) -> bytes:
        """What a reader must find, by the maker's own model."""
        disk = bytearray(self.size)
        for number, cluster in self.clusters.items():
            data = bytearray(cluster.data if cluster.kind in ("data", "zlib", "zstd") else b"")
            if self.subclusters and cluster.kind == "data":
                part = self.cluster_size // 32
                for index in range(32):
                    if not cluster.stored >> index & 1:
                        data[index * part : (index + 1) * part] = bytes(part)
            start = number * self.cluster_size
            data = data[: max(0, self.size - start)]
            disk[start : start + len(data)] = data
        return bytes(disk)

    def make(self) -> bytearray:
        tables = -(-self.size // (self.cluster_size * self.per_table))
        used = sorted({number // self.per_table for number in self.clusters})
        l1_clusters = max(1, -(-(tables + self.spare) * 8 // self.cluster_size))
        whole = [n for n, c in self.clusters.items() if c.kind in ("data", "zero_stored")]
        packed = [n for n, c in self.clusters.items() if c.kind in ("zlib", "zstd")]
        blobs = {n: _pack(self.clusters[n]) for n in packed}
        # one cluster for each L2 table and each whole cluster; the packed ones go behind, one after the other
        free = list(range(1 + l1_clusters, 1 + l1_clusters + len(used) + len(whole)))
        if self.seed is not None:
            random.Random(self.seed).shuffle(free)
        self.l1_offset = self.cluster_size
        end = (1 + l1_clusters + len(used) + len(whole)) * self.cluster_size
        places = iter(free)
        self.l1 = {table: next(places) * self.cluster_size for table in used}
        for number in whole:
            self.places[number] = next(places) * self.cluster_size
        for number in packed:
            self.places[number] = end
            end += len(blobs[number])
        image = bytearray(end)
        image[: self.cluster_size] = self.header(tables + self.spare).ljust(self.cluster_size, b"\0")
        for table, offset in self.l1.items():
            struct.pack_into(">Q", image, self.l1_offset + 8 * table, offset | 1 << 63)
        for number, cluster in self.clusters.items():
            where = self.l1[number // self.per_table] + number % self.per_table * self.entry_size
            place = self.places.get(number, 0)
            if cluster.kind in ("zlib", "zstd"):
                blob = blobs[number]
                image[place : place + len(blob)] = blob
                shift = 70 - self.cluster_bits
                sectors = (place + len(blob) - 1) // 512 - place // 512
                entry = 1 << 62 | sectors << shift | place
            elif self.subclusters:
                entry = place | (1 << 63 if place else 0)
                zeros = 0xFFFFFFFF if cluster.kind.startswith("zero") else cluster.zeros
                stored = 0 if cluster.kind.startswith("zero") else cluster.stored
                struct.pack_into(">Q", image, where + 8, zeros << 32 | stored)
            else:
                entry = place | (1 << 63 if place else 0) | cluster.kind.startswith("zero")
            struct.pack_into(">Q", image, where, entry)
            if cluster.kind == "data":
                image[place : place + self.cluster_size] = cluster.data.ljust(self.cluster_size, b"\xee")
            elif cluster.kind == "zero_stored":
                image[place : place + self.cluster_size] = b"\xdd" * self.cluster_size
        return image

    def header(self, l1_length: int) -> bytes:
        is_zstd = any(cluster.kind == "zstd" for cluster in self.clusters.values())
        head = struct.pack(
            ">4sIQIIQIIQQIIQ",
            b"QFI\xfb",
            self.version,
            0,
            0,
            self.cluster_bits,
            self.size,
            0,
            l1_length,
            self.l1_offset,
            0,
            0,
            0,
            0,
        )
        if self.version == 3:
            features = is_zstd << 3 | self.subclusters << 4
            head += struct.pack(">QQQIIB7x", features, 0, 0, 4, 112, is_zstd)
        return head + self.extensions


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def _pack(cluster: Cluster) -> bytes:
    if cluster.kind == "zstd":
        return zstd.compress(cluster.data)
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(cluster.data) + packer.flush()


class Bytes:
    """A ByteFile that fails the test on a read outside of it; `has_holes`: where it has 4 KiB of zeros."""

    def __init__(self, data: bytes | bytearray, *, name: str = "disk.qcow2", has_holes: bool = False) -> None:
        self.name = name
        self.has_holes = has_holes
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []
        self._data = bytes(data)

    def pread(self, offset: int, size: int, /) -> bytes:
        assert offset >= 0, "a read before the beginning"
        assert size > 0 or self.size == 0, "a read of nothing"
        assert size <= 4 << 20, "a read that is too large"
        if offset + size > self.size:
            raise EndOfFile
        self.reads.append((offset, size))
        return self._data[offset : offset + size]

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if not self.has_holes:
            yield 0, self.size
            return
        for start in range(0, self.size, 4096):
            if self._data[start : start + 4096].strip(b"\0"):
                yield start, min(self.size, start + 4096)


def examine(data: bytes | bytearray, *, limit: int = 32 << 20) -> int | None:
    """Reads `limit` bytes of the disk at most; how many there were, or None of a refused image.

    Fails unless what is raised is ours and the pieces are as `DiskImage` says.
    """
    file = Bytes(data, has_holes=True)
    try:
        image = qcow2.from_file(file)
        position = total = 0
        for piece in image.pieces():
            assert piece.data, "an empty piece"
            assert piece.offset >= position, "pieces overlap, or are in no order"
            assert piece.end <= image.virtual_size, "a piece behind the end of the disk"
            assert piece.offset % 512 == 0, "a piece between sectors"
            assert len(piece.data) % 512 == 0, "a part of a sector"
            assert len(piece.data) <= PIECE, "a piece that is too large"
            position = piece.end
            total += len(piece.data)
            assert image.allocated is not None
            assert total <= image.allocated, "more than was said"
            if total > limit:
                break
    except (InvalidImage, UnsupportedImage):
        return None
    return total


def corpus(rng: random.Random) -> Iterator[bytearray]:
    """Small images, one of each kind."""
    for bits, subclusters in ((9, False), (10, False), (12, False), (14, True), (16, False)):
        for kinds in (("data",), ("zlib", "data"), ("zstd", "zero"), ("data", "zero", "zero_stored", "zlib")):
            size = 1 << bits
            clusters = {
                number: Cluster(
                    rng.choice(kinds),
                    (rng.randbytes(32) * (size // 32)),
                    stored := rng.getrandbits(32),
                    ~stored & rng.getrandbits(32),
                )
                for number in rng.sample(range(24), 6)
            }
            yield Qcow2(
                size=24 * size - 512,
                cluster_bits=bits,
                subclusters=subclusters,
                clusters=clusters,
                seed=rng.randrange(1000),
                extensions=extension(FEATURE_NAMES, bytes(48)),
            ).make()
    yield Qcow2(size=64 << 9, cluster_bits=9, version=2, clusters={5: Cluster("data", b"2" * 512)}).make()


_FIELDS = {4: 4, 8: 8, 16: 4, 20: 4, 24: 8, 32: 4, 36: 4, 40: 8, 72: 8, 96: 4, 100: 4, 104: 1}


def mutate(data: bytearray, rng: random.Random) -> bytearray:
    """Breaks what matters: a field of the header, an entry of a table, the file's length; seldom a byte anywhere."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if len(data) < 120:
            return data
        roll = rng.random()
        if roll < 0.25:
            position, width = rng.choice(list(_FIELDS.items()))
        elif roll < 0.8:
            position, width = _entry(data, rng), 8
        elif roll < 0.9:
            position, width = rng.randrange(len(data)), 1
        else:
            del data[rng.randrange(len(data)) :]
            continue
        if position + width > len(data):
            continue
        old = int.from_bytes(data[position : position + width], "big")
        value = rng.choice(
            (
                old ^ 1 << rng.randrange(8 * width),
                old + rng.choice((-512, -1, 1, 2, 8, 512, 4096, 65536)),
                rng.getrandbits(8 * width),
                rng.randrange(64) * 512,
                rng.choice((0, 1, -1, 1 << 62, 1 << 63, 1 << 55, (1 << 31) - 1, len(data))),
            )
        )
        data[position : position + width] = (value % (1 << 8 * width)).to_bytes(width, "big")
    return data


def _entry(data: bytearray, rng: random.Random) -> int:
    """Where an entry of the L1 table lies, or of an L2 table that it names."""
    bits, length = (int.from_bytes(data[at : at + 4], "big") for at in (20, 36))
    l1 = int.from_bytes(data[40:48], "big")
    if not 9 <= bits <= 21 or l1 + 8 > len(data):
        return rng.randrange(len(data))
    at = l1 + 8 * rng.randrange(max(1, min(length, (len(data) - l1) // 8)))
    if rng.random() < 0.3:
        return at
    l2 = int.from_bytes(data[at : at + 8], "big") & (1 << 56) - 512
    entries = [i for i in range(l2, min(l2 + (1 << bits), len(data) - 8), 8) if l2 and any(data[i : i + 8])]
    return rng.choice(entries) if entries else at


def main() -> None:
    def one(data: bytes) -> None:
        examine(data)

    def custom(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, min(size, len(data) + 64)))
        return bytes(mutate(bytearray(data), rng)[:size])

    with tempfile.TemporaryDirectory() as directory:
        for number, image in enumerate(corpus(random.Random(0))):
            Path(directory, str(number)).write_bytes(image)
        options = ["-max_len=600000", "-rss_limit_mb=512", "-timeout=10", "-len_control=0"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], directory], one, custom_mutator=custom)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
