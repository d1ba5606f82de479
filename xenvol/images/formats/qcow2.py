"""A qcow2 is read through its active tables alone, which are checked as a whole before anything is made of it.

No other file is opened, whatever the image says of one. An image that was not closed (dirty) is read, since only its
reference counts may be wrong, and these are for writers; one that QEMU marked as corrupt is refused. Two clusters of
the disk may be one of the file, as the format allows; but no data may lie where a table lies, nor two tables in one
place. What is a hole of the file is left out (images made with preallocation). Memory: one L2 table (2 MiB at most), a
piece, and what qcow2_places.py keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from xenvol.images.disk_image import PIECE, ByteFile, DiskImage, EndOfFile, Piece
from xenvol.images.errors import TruncatedImage, UnsupportedImage
from xenvol.images.formats.qcow2_fields import FORMAT, MAX_CLUSTER, Header, bad, parse_header
from xenvol.images.formats.qcow2_packed import BadCluster, Expand, inflate, zstd_expander
from xenvol.images.formats.qcow2_places import MAX_CLUSTERS, Places, Ranges
from xenvol.images.formats.qcow2_tables import Packed, Stored, parse_l1, parse_l2

_L1_STEP: Final = 64 << 10  # bytes of the L1 table in memory at a time


def from_file(file: ByteFile, *, tick: Callable[[int], None] | None = None) -> DiskImage:
    """Version 2 and 3, with compressed clusters (zlib, zstd) and subclusters; all tables are checked here.

    `tick` is called with 0 for each table and each range of data, while they are checked, and for each table again
    while the pieces are taken; what it raises ends it.
    Raises InvalidImage, TruncatedImage, EncryptedImage, MissingParent for a backing file, UnsupportedImage for an
    external data file and for features that came later, MissingReader where zstd is needed and not there.
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
    """Satisfies `xenvol.images.disk_image.DiskImage`. It does not close the file."""

    format = FORMAT
    is_ordered = True

    def __init__(self, file: ByteFile, header: Header, *, tick: Callable[[int], None] | None = None) -> None:
        self.name = file.name
        self.virtual_size = header.virtual_size
        self.allocated: int | None = None
        self._file = file
        self._header = header
        self._tick = tick
        self._tables = Places(-(-file.size // header.cluster_size))
        self._ranges = Ranges()

    def __repr__(self) -> str:
        return f"<{FORMAT} image {self.name}: {self.virtual_size} bytes, {self.allocated} allocated>"

    def check(self) -> None:
        """Goes through all tables, and finds out how much is `allocated`; reads no data.

        Raises InvalidImage, MissingReader where clusters are compressed in a way that needs another package.
        """
        self._mark_tables()
        self._ranges = Ranges(self._file, tick=self._tick)
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
        expand: Expand | None = None
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
                if self._tick is not None:
                    self._tick(0)
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

    def _expand(self, part: Packed, expand: Expand) -> bytes:
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
