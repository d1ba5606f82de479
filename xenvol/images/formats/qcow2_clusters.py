"""The clusters of a qcow2: parse and check the table entries that name them, and decompress. No I/O, only bytes.

The source of every rule is QEMU's docs/interop/qcow2.txt. Entries are big-endian, of 8 bytes; with subclusters, an L2
entry has 16. A table may have 2^18 entries, so unused entries are skipped, and runs are found, many at a time. A
compressed cluster gives exactly a cluster's size, or is refused. Bytes after its compressed data are ignored, since
the format counts whole sectors.
"""

from __future__ import annotations

import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from xenvol.images.disk_image import SECTOR
from xenvol.images.formats.qcow2_fields import Header, bad
from xenvol.images.sources.compression import zstd_library

_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00  # of an L1 or L2 entry
_COMPRESSED: Final = 1 << 62
_USED_ONCE: Final = 1 << 63  # "copied"; a reader ignores it
_ZERO: Final = 1
_L1_RESERVED: Final = ~(_OFFSET | _USED_ONCE) & (1 << 64) - 1
_L2_RESERVED: Final = ~(_OFFSET | _USED_ONCE | _COMPRESSED | _ZERO) & (1 << 64) - 1

_DEFLATE_WINDOW: Final = -15  # raw; QEMU writes with -12, which this reads too; other writers use more
_ZSTD_WINDOW: Final = 23  # 8 MiB, which every reader should accept (RFC 8878, 3.1.1.1.2); four clusters

_NONZERO: Final = re.compile(rb"[^\0]")


class Stored(NamedTuple):
    """`size` bytes at `offset` of the disk lie at `host` of the file."""

    offset: int
    host: int
    size: int


class CompressedCluster(NamedTuple):
    """One cluster at `offset` of the disk is compressed to at most `size` bytes at `host` of the file."""

    offset: int
    host: int
    size: int


def parse_l1(table: bytes, header: Header, name: str, *, at: int) -> Iterator[tuple[int, int]]:
    """Yield (index, offset of the L2 table) of each used entry. `table` lies `at` this byte of the file."""
    entries = _numbers(table)
    index = 0
    while (index := _next_used(table, index, 8)) < len(entries):
        entry = entries[index]
        offset = entry & _OFFSET
        if entry & _L1_RESERVED:
            raise bad(name, f"unknown bits are set in the L1 entry {entry:#x}", at + 8 * index)
        if offset % header.cluster_size:
            raise bad(name, f"an L2 table begins at {offset}, within a cluster", at + 8 * index)
        yield index, offset
        index += 1


def parse_l2(
    table: bytes, header: Header, name: str, *, at: int, offset: int
) -> Iterator[Stored | CompressedCluster]:
    """Yield what the clusters of the disk from `offset` on hold, in order. Clusters without an entry are zeros.

    `table`, or as much of it as the disk needs, lies `at` this byte of the file. Raises InvalidImage.
    """
    if header.has_subclusters:
        return _parse_subclusters(table, header, name, at, offset)
    return _parse_clusters(table, header, name, at, offset)


def _parse_clusters(
    table: bytes, header: Header, name: str, at: int, offset: int
) -> Iterator[Stored | CompressedCluster]:
    cluster_size = header.cluster_size
    entries = _numbers(table)
    index = 0
    while (index := _next_used(table, index, 8)) < len(entries):
        entry = entries[index]
        start = offset + index * cluster_size
        if entry & _COMPRESSED:
            yield _compressed_cluster(entry, start, header)
            index += 1
            continue
        host = entry & _OFFSET
        if entry & _L2_RESERVED or (entry & _ZERO and header.version == 2):
            raise bad(name, f"unknown bits are set in the L2 entry {entry:#x}", at + 8 * index)
        if host % cluster_size:
            raise bad(name, f"a cluster begins at {host}, within another", at + 8 * index)
        if entry & _ZERO:  # zeros, even if the entry has an offset
            index += 1
            continue
        count = _run(entries, index, cluster_size)
        yield Stored(start, host, count * cluster_size)
        index += count


def _parse_subclusters(
    table: bytes, header: Header, name: str, at: int, offset: int
) -> Iterator[Stored | CompressedCluster]:
    """Entries of 16 bytes: 32 bits tell which parts of the cluster are stored, 32 which are zeros."""
    cluster_size = header.cluster_size
    part = cluster_size // 32
    entries = _numbers(table)
    index = 0
    while (index := _next_used(table, index, 16)) < len(entries) // 2:
        entry, bits = entries[2 * index : 2 * index + 2]
        where = at + 16 * index
        start = offset + index * cluster_size
        index += 1
        if entry & _COMPRESSED:
            yield _compressed_cluster(entry, start, header)
            continue
        host = entry & _OFFSET
        stored = bits & 0xFFFF_FFFF
        if entry & (_L2_RESERVED | _ZERO):
            raise bad(name, f"unknown bits are set in the L2 entry {entry:#x}", where)
        if host % cluster_size:
            raise bad(name, f"a cluster begins at {host}, within another", where)
        if stored & bits >> 32:
            raise bad(name, "parts of a cluster are said to be both stored and zeros", where + 8)
        first = 0
        while stored:
            skipped = (stored & -stored).bit_length() - 1
            stored >>= skipped
            first += skipped
            count = (~stored & stored + 1).bit_length() - 1  # ones, up to the first zero
            yield Stored(start + first * part, host + first * part, count * part)
            stored >>= count
            first += count


def _compressed_cluster(entry: int, start: int, header: Header) -> CompressedCluster:
    """The sector count takes the high bits, the offset the rest. The count begins with the sector of the offset."""
    bits = 62 - (header.cluster_bits - 8)
    host = entry & (1 << bits) - 1
    sectors = 1 + ((entry & _COMPRESSED - 1) >> bits)
    return CompressedCluster(start, host, sectors * SECTOR - host % SECTOR)


def _run(entries: array[int], first: int, step: int) -> int:
    """Return how many entries from `first` on each grow by `step`: adjacent clusters.

    It compares runs of doubling length, and after the first difference of halving length.
    """
    limit = len(entries) - first
    length = 1
    ahead, grows = 1, True
    while ahead and length < limit:
        ahead = min(ahead, limit - length)
        expected = entries[first] + length * step
        found = entries[first + length : first + length + ahead]
        if found == array("Q", range(expected, expected + ahead * step, step)):
            length += ahead
            ahead = ahead * 2 if grows else ahead // 2
        else:
            ahead //= 2
            grows = False
    return length


def _next_used(table: bytes, index: int, width: int) -> int:
    """Return the first entry from `index` on that is not all zeros, or the number of entries."""
    found = _NONZERO.search(table, index * width)
    return len(table) // width if found is None else found.start() // width


def _numbers(table: bytes) -> array[int]:
    numbers = array("Q", table)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


# ---- compressed clusters


Expand = Callable[[bytes, int], bytes]
"""(compressed bytes with others after them; the cluster's size) → the cluster. Raises BadCluster."""


class BadCluster(Exception):  # becomes an InvalidImage, which names the place
    """The compressed bytes are not a cluster. The text says why."""


def inflate(packed: bytes, size: int) -> bytes:
    decompressor = zlib.decompressobj(_DEFLATE_WINDOW)
    try:
        data = decompressor.decompress(packed, size)
        more = b"" if decompressor.eof else decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error as error:
        raise BadCluster(f"cannot be decompressed: {error}") from error
    return _whole(data, more, size)


def zstd_expander(name: str) -> Expand:
    zstd = zstd_library(name, format="qcow2 (zstd)")
    options = {zstd.DecompressionParameter.window_log_max.value: _ZSTD_WINDOW}

    def expand(packed: bytes, size: int) -> bytes:
        decompressor = zstd.ZstdDecompressor(options=options)
        try:
            data = decompressor.decompress(packed, size)
            more = b"" if decompressor.eof else decompressor.decompress(b"", 1)
        except zstd.ZstdError as error:
            raise BadCluster(f"cannot be decompressed: {error}") from error
        return _whole(data, more, size)

    return expand


def _whole(data: bytes, more: bytes, size: int) -> bytes:
    if len(data) < size:
        raise BadCluster(f"has {len(data)} bytes, and a cluster has {size}")
    if more:
        raise BadCluster(f"has more than the {size} bytes of a cluster")
    return data
