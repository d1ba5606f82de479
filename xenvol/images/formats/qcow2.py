"""A qcow2 is read through its active tables alone, which are checked as a whole before anything is made of it.

No other file is opened, whatever the image says of one. An image that was not closed (dirty) is read, since only its
reference counts may be wrong, and these are for writers; one that QEMU marked as corrupt is refused. Two clusters of
the disk may be one of the file, as the format allows; but no data may lie where a table lies, nor two tables in one
place. What is a hole of the file is left out (images made with preallocation). Memory: one L2 table (2 MiB at most), a
piece, a bit for each cluster of the file (`_MAX_CLUSTERS`), and where it has data (`_MAX_RANGES`).
"""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from xenvol.images.contents import PIECE, SECTOR, ByteFile, DiskImage, EndOfFile, Piece
from xenvol.images.errors import MissingReader, TruncatedImage, UnsupportedImage
from xenvol.images.formats.qcow2_fields import (
    FORMAT,
    MAX_CLUSTER,
    Header,
    Packed,
    Stored,
    bad,
    parse_header,
    parse_l1,
    parse_l2,
)

_L1_STEP: Final = 64 << 10  # bytes of the L1 table in memory at a time
_MAX_CLUSTERS: Final = 1 << 28  # 32 MiB of bits; a file of 16 TiB, with the usual clusters of 64 KiB
_MAX_RANGES: Final = 1 << 20  # 16 MiB; what lies behind so many holes is read, holes and all
_DEFLATE_WINDOW: Final = -15  # raw; QEMU writes with -12, which this reads too, and others' writers with more
_ZSTD_WINDOW: Final = 23  # 8 MiB, which every reader should take (RFC 8878, 3.1.1.1.2), and four clusters

_Expand = Callable[[bytes, int], bytes]
"""(what is packed, with more behind it; the cluster's size) → the cluster. Raises _BadCluster."""


def from_file(file: ByteFile) -> DiskImage:
    """Version 2 and 3, with compressed clusters (zlib, zstd) and subclusters; all tables are checked here.

    Raises InvalidImage, TruncatedImage, EncryptedImage, MissingParent for a backing file, UnsupportedImage for an
    external data file and for features that came later, MissingReader where zstd is needed and not there.
    """
    header = parse_header(file.pread(0, min(file.size, MAX_CLUSTER)), file.name)
    clusters = -(-file.size // header.cluster_size)
    if clusters > _MAX_CLUSTERS:
        raise UnsupportedImage(
            file.name,
            problem=f"it has {clusters} clusters of {header.cluster_size} bytes, and {_MAX_CLUSTERS} can be checked",
            remedy="convert it with larger clusters: `qemu-img convert -O qcow2 -o cluster_size=2M`",
        )
    image = Qcow2Image(file, header)
    image.check()
    return image


class Qcow2Image:
    """Satisfies `xenvol.images.contents.DiskImage`. It does not close the file."""

    format = FORMAT
    is_ordered = True

    def __init__(self, file: ByteFile, header: Header) -> None:
        self.name = file.name
        self.virtual_size = header.virtual_size
        self.allocated: int | None = None
        self._file = file
        self._header = header
        self._tables = _Places(-(-file.size // header.cluster_size))
        self._ranges = _Ranges()

    def __repr__(self) -> str:
        return f"<{FORMAT} image {self.name}: {self.virtual_size} bytes, {self.allocated} allocated>"

    def check(self) -> None:
        """Goes through all tables, and finds out how much is `allocated`; reads no data.

        Raises InvalidImage, MissingReader where clusters are compressed in a way that needs another package.
        """
        self._mark_tables()
        self._ranges = _Ranges(self._file)
        allocated = 0
        has_packed = False
        for part in self._data():
            if isinstance(part, Packed):
                allocated += min(self._header.cluster_size, self.virtual_size - part.offset)
                has_packed = True
            else:
                allocated += part.size
        if has_packed:
            self._expander()
        self.allocated = allocated

    def pieces(self) -> Iterator[Piece]:
        """In the disk's order, joined as far as a piece goes; what lies in a row is read at once."""
        waiting: list[bytes] = []
        start = end = 0
        for offset, data in self._chunks():
            if waiting and (offset != end or offset % PIECE == 0):
                yield Piece(start, b"".join(waiting))
                waiting = []
            if not waiting:
                start = offset
            waiting.append(data)
            end = offset + len(data)
        if waiting:
            yield Piece(start, b"".join(waiting))

    def _chunks(self) -> Iterator[Piece]:
        """None lies on both sides of a multiple of `PIECE`."""
        expand: _Expand | None = None
        for part in self._data():
            if isinstance(part, Packed):
                expand = expand or self._expander()
                data = self._expand(part, expand)
                # Clusters are aligned, and one may be larger than a piece.
                for skip in range(0, len(data), PIECE):
                    yield Piece(part.offset + skip, data[skip : skip + PIECE])
                continue
            done = 0
            while done < part.size:
                offset = part.offset + done
                size = min(part.size - done, PIECE - offset % PIECE)
                yield Piece(offset, self._read(part.host + done, size))
                done += size

    def _data(self) -> Iterator[Stored | Packed]:
        """The rows, without what is a hole of the file."""
        for row in self._rows():
            if isinstance(row, Packed):
                yield row
                continue
            for start, end in self._ranges.within(row.host, row.host + row.size):
                yield Stored(row.offset + start - row.host, start, end - start)

    def _rows(self) -> Iterator[Stored | Packed]:
        """The parts; those that follow each other, on the disk and in the file, as one."""
        row: Stored | None = None
        for part in self._parts():
            if isinstance(part, Stored) and row is not None and _follows(row, part):
                row = row._replace(size=row.size + part.size)
                continue
            if row is not None:
                yield row
            row = part if isinstance(part, Stored) else None
            if isinstance(part, Packed):
                yield part
        if row is not None:
            yield row

    def _parts(self) -> Iterator[Stored | Packed]:
        """What the tables name, up to the disk's end, in order, checked against the file."""
        header = self._header
        for index, host in self._l2_tables():
            table = self._read(host, self._l2_size(index))
            for part in parse_l2(table, header, self.name, at=host, offset=index * header.l2_span):
                if isinstance(part, Packed):
                    self._check_place("a compressed cluster", part.host, 1)
                    yield part
                elif part.offset < self.virtual_size:  # of a last cluster's parts, not all need be
                    part = part._replace(size=min(part.size, self.virtual_size - part.offset))
                    self._check_place("a cluster", part.host, part.size)
                    yield part

    def _l2_tables(self) -> Iterator[tuple[int, int]]:
        """(index, offset) of each, as the L1 table has them."""
        header = self._header
        for position in range(0, header.l1_entries * 8, _L1_STEP):
            at = header.l1_offset + position
            table = self._read(at, min(_L1_STEP, header.l1_entries * 8 - position))
            for index, host in parse_l1(table, header, self.name, at=at):
                yield position // 8 + index, host

    def _l2_size(self, index: int) -> int:
        """Bytes: what lies behind the disk's end is not looked at."""
        header = self._header
        span = min(header.l2_span, self.virtual_size - index * header.l2_span)
        return -(-span // header.cluster_size) * header.entry_size

    def _mark_tables(self) -> None:
        self._mark("its header", 0, 1)
        self._mark("its L1 table", self._header.l1_offset, self._header.l1_size)
        for index, host in self._l2_tables():
            self._mark("an L2 table", host, self._l2_size(index))

    def _mark(self, what: str, host: int, size: int) -> None:
        self._check_place(what, host, size)
        self._tables.add(*self._clusters(host, size))

    def _check_place(self, what: str, host: int, size: int) -> None:
        if host + size > self._file.size:
            raise TruncatedImage(
                self.name,
                format=FORMAT,
                problem=f"{what} ends at {host + size}, and the file before that",
                offset=self._file.size,
            )
        cluster = self._tables.find(*self._clusters(host, size))
        if cluster is not None:
            where = max(host, cluster << self._header.cluster_bits)
            raise bad(self.name, f"{what} lies where its header or a table lies", where)

    def _clusters(self, host: int, size: int) -> tuple[int, int]:
        """(first, how many) of those that these bytes of the file touch."""
        first = host >> self._header.cluster_bits
        return first, ((host + size - 1) >> self._header.cluster_bits) - first + 1

    def _expand(self, part: Packed, expand: _Expand) -> bytes:
        # QEMU counts whole sectors, and need not have written the last one to its end.
        left = self._file.size - part.host
        try:
            data = expand(self._read(part.host, min(part.size, left)), self._header.cluster_size)
        except _BadCluster as error:
            problem = f"a compressed cluster {error}"
            if part.size > left:
                raise TruncatedImage(
                    self.name, format=FORMAT, problem=problem, offset=self._file.size
                ) from error
            raise bad(self.name, problem, part.host) from error
        return data[: self.virtual_size - part.offset]

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._file.pread(offset, size)
        except EndOfFile as error:
            raise TruncatedImage(
                self.name, format=FORMAT, problem="it ends before its tables say", offset=self._file.size
            ) from error

    def _expander(self) -> _Expand:
        return _inflate if self._header.compression == "zlib" else _zstd_expander(self.name)


def _follows(row: Stored, part: Stored) -> bool:
    return part.offset == row.offset + row.size and part.host == row.host + row.size


class _BadCluster(Exception):  # made an InvalidImage of where its place is known
    """What was compressed is no cluster; says why."""


class _Places:
    """Which of `count` clusters have been added: a bit for each. All runs lie among them."""

    def __init__(self, count: int) -> None:
        self._bits = bytearray(count // 8 + 1)  # the system gives no memory for what stays zero

    def add(self, first: int, count: int) -> None:
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") | ((1 << count) - 1) << first % 8
        self._bits[start:end] = bits.to_bytes(end - start, "little")

    def find(self, first: int, count: int) -> int | None:
        """The first one of the run that has been added."""
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") >> first % 8 & (1 << count) - 1
        return first + (bits & -bits).bit_length() - 1 if bits else None


class _Ranges:
    """Where a file has data, in whole sectors."""

    def __init__(self, file: ByteFile | None = None) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        if file is None:
            return
        for start, end in file.data_ranges():
            start -= start % SECTOR
            end += -end % SECTOR
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = end
                continue
            if len(self._ends) == _MAX_RANGES:
                self._ends[-1] = file.size
                return
            self._starts.append(start)
            self._ends.append(end)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each range, as far as it lies within these."""
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index])
            index += 1


def _inflate(packed: bytes, size: int) -> bytes:
    decompressor = zlib.decompressobj(_DEFLATE_WINDOW)
    try:
        data = decompressor.decompress(packed, size)
        more = b"" if decompressor.eof else decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error as error:
        raise _BadCluster(f"cannot be unfolded: {error}") from error
    return _whole(data, more, size)


def _zstd_expander(name: str) -> _Expand:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise MissingReader(
            name, format="qcow2 (zstd)", package="backports.zstd (pip install 'xenvol[images]')"
        ) from error
    options = {zstd.DecompressionParameter.window_log_max.value: _ZSTD_WINDOW}

    def expand(packed: bytes, size: int) -> bytes:
        decompressor = zstd.ZstdDecompressor(options=options)
        try:
            data = decompressor.decompress(packed, size)
            more = b"" if decompressor.eof else decompressor.decompress(b"", 1)
        except zstd.ZstdError as error:
            raise _BadCluster(f"cannot be unfolded: {error}") from error
        return _whole(data, more, size)

    return expand


def _whole(data: bytes, more: bytes, size: int) -> bytes:
    if len(data) < size:
        raise _BadCluster(f"has {len(data)} bytes, and a cluster has {size}")
    if more:
        raise _BadCluster(f"has more than the {size} bytes of a cluster")
    return data
