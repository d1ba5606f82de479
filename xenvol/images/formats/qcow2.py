"""Read a qcow2 through its active tables. All tables are checked before xenvol makes anything.

xenvol opens no other file that the image names. An image that was not closed (dirty) is read: only its reference
counts may be wrong, and only writers need them. An image that QEMU marked as corrupt is refused. Two clusters of the
disk may share one cluster of the file, as the format allows. But no data may overlap a table, nor two tables
overlap. Holes of the file are skipped (images with preallocation). Memory: one L2 table (2 MiB at most), a piece,
the bits of `ClusterSet` and the ranges of `DataRanges`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from xenvol.images.disk_image import PIECE, SECTOR, ByteFile, DiskImage, EndOfFile, Piece
from xenvol.images.errors import TruncatedImage, UnsupportedImage
from xenvol.images.formats.qcow2_clusters import (
    BadCluster,
    CompressedCluster,
    Expand,
    Stored,
    inflate,
    parse_l1,
    parse_l2,
    zstd_expander,
)
from xenvol.images.formats.qcow2_fields import FORMAT, MAX_CLUSTER, Header, bad, parse_header

_L1_STEP: Final = 64 << 10  # bytes of the L1 table in memory at a time
MAX_CLUSTERS: Final = 1 << 28  # 32 MiB of bits: a file of 16 TiB with the usual clusters of 64 KiB
MAX_RANGES: Final = 1 << 20  # 16 MiB; after so many holes, the rest is read with its holes


def from_file(file: ByteFile, *, tick: Callable[[int], None] | None = None) -> DiskImage:
    """Open a qcow2 of version 2 or 3, with compressed clusters (zlib, zstd) and subclusters, and check all tables.

    `tick` is called with 0 for each table and each range of data during the check, and for each table again while
    the pieces are taken; an error from it ends the reading. Raises InvalidImage, TruncatedImage, EncryptedImage,
    MissingParent for a backing file, UnsupportedImage for an external data file and for unknown features,
    MissingReader if zstd is needed and not installed.
    """
    header = parse_header(file.pread(0, min(file.size, MAX_CLUSTER)), file.name)
    clusters = -(-file.size // header.cluster_size)
    if clusters > MAX_CLUSTERS:
        raise UnsupportedImage(
            file.name,
            problem=f"it has {clusters} clusters of {header.cluster_size} bytes, and {MAX_CLUSTERS} can be checked",
            remedy="convert it with larger clusters: `qemu-img convert -O qcow2 -o cluster_size=2M`",
        )
    image = Qcow2Image(file, header, tick=tick)
    image.check()
    return image


class Qcow2Image:
    """A DiskImage of a qcow2. It does not close the file."""

    format = FORMAT
    is_ordered = True

    def __init__(self, file: ByteFile, header: Header, *, tick: Callable[[int], None] | None = None) -> None:
        self.name = file.name
        self.virtual_size = header.virtual_size
        self.allocated: int | None = None
        self._file = file
        self._header = header
        self._tick = tick
        self._tables = ClusterSet(-(-file.size // header.cluster_size))
        self._ranges = DataRanges()

    def __repr__(self) -> str:
        return f"<{FORMAT} image {self.name}: {self.virtual_size} bytes, {self.allocated} allocated>"

    def check(self) -> None:
        """Walk all tables, and compute `allocated`. Reads no data.

        Raises InvalidImage; MissingReader if a compression needs another package.
        """
        self._mark_tables()
        self._ranges = DataRanges(self._file, tick=self._tick)
        allocated = 0
        has_compressed = False
        for part in self._data():
            if isinstance(part, CompressedCluster):
                allocated += min(self._header.cluster_size, self.virtual_size - part.offset)
                has_compressed = True
            else:
                allocated += part.size
        if has_compressed:
            self._expander()
        self.allocated = allocated

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in the disk's order, joined up to the size of a piece; adjacent clusters are read
        together."""
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
        """Yield the data in parts, none of which crosses a multiple of `PIECE`."""
        expand: Expand | None = None
        for part in self._data():
            if isinstance(part, CompressedCluster):
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

    def _data(self) -> Iterator[Stored | CompressedCluster]:
        """Yield the rows without the holes of the file."""
        for row in self._rows():
            if isinstance(row, CompressedCluster):
                yield row
                continue
            for start, end in self._ranges.within(row.host, row.host + row.size):
                yield Stored(row.offset + start - row.host, start, end - start)

    def _rows(self) -> Iterator[Stored | CompressedCluster]:
        """Yield the parts; those that are adjacent both on the disk and in the file are one."""
        row: Stored | None = None
        for part in self._parts():
            if isinstance(part, Stored) and row is not None and _follows(row, part):
                row = row._replace(size=row.size + part.size)
                continue
            if row is not None:
                yield row
            row = part if isinstance(part, Stored) else None
            if isinstance(part, CompressedCluster):
                yield part
        if row is not None:
            yield row

    def _parts(self) -> Iterator[Stored | CompressedCluster]:
        """Yield what the tables name, up to the disk's end, in order, checked against the file."""
        header = self._header
        for index, host in self._l2_tables():
            table = self._read(host, self._l2_size(index))
            for part in parse_l2(table, header, self.name, at=host, offset=index * header.l2_span):
                if isinstance(part, CompressedCluster):
                    self._check_place("a compressed cluster", part.host, 1)
                    yield part
                elif part.offset < self.virtual_size:  # a last cluster may extend beyond the disk
                    part = part._replace(size=min(part.size, self.virtual_size - part.offset))
                    self._check_place("a cluster", part.host, part.size)
                    yield part

    def _l2_tables(self) -> Iterator[tuple[int, int]]:
        """Yield (index, offset) of each L2 table that the L1 table names."""
        header = self._header
        for position in range(0, header.l1_entries * 8, _L1_STEP):
            at = header.l1_offset + position
            table = self._read(at, min(_L1_STEP, header.l1_entries * 8 - position))
            for index, host in parse_l1(table, header, self.name, at=at):
                if self._tick is not None:
                    self._tick(0)
                yield position // 8 + index, host

    def _l2_size(self, index: int) -> int:
        """Return the bytes of an L2 table up to the disk's end."""
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
        """Return (first, count) of the clusters of the file that these bytes touch."""
        first = host >> self._header.cluster_bits
        return first, ((host + size - 1) >> self._header.cluster_bits) - first + 1

    def _expand(self, part: CompressedCluster, expand: Expand) -> bytes:
        # QEMU counts whole sectors, and need not have written the last one to its end.
        left = self._file.size - part.host
        try:
            data = expand(self._read(part.host, min(part.size, left)), self._header.cluster_size)
        except BadCluster as error:
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

    def _expander(self) -> Expand:
        return inflate if self._header.compression == "zlib" else zstd_expander(self.name)


def _follows(row: Stored, part: Stored) -> bool:
    return part.offset == row.offset + row.size and part.host == row.host + row.size


# ---- clusters of tables, ranges of data


class ClusterSet:
    """A set of clusters of a file with `count` clusters: a bit for each."""

    def __init__(self, count: int) -> None:
        self._bits = bytearray(count // 8 + 1)  # the system allocates no memory for zeros

    def add(self, first: int, count: int) -> None:
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") | ((1 << count) - 1) << first % 8
        self._bits[start:end] = bits.to_bytes(end - start, "little")

    def find(self, first: int, count: int) -> int | None:
        """Return the first cluster of the run that is in the set, or None."""
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") >> first % 8 & (1 << count) - 1
        return first + (bits & -bits).bit_length() - 1 if bits else None


class DataRanges:
    """The ranges of a file that hold data, in whole sectors; none without a file."""

    def __init__(self, file: ByteFile | None = None, *, tick: Callable[[int], None] | None = None) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        if file is None:
            return
        for start, end in file.data_ranges():
            if tick is not None:
                tick(0)
            start -= start % SECTOR
            end += -end % SECTOR
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = end
                continue
            if len(self._ends) == MAX_RANGES:
                self._ends[-1] = file.size
                return
            self._starts.append(start)
            self._ends.append(end)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each range of data between these offsets."""
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index])
            index += 1
