"""A second maker of VHDs, to test the library's reader with: it shares no code with the library, nor a constant.

A layer is given as runs: ``{offset on the disk: bytes}``, whole sectors that do not overlap. In a differencing VHD
they are all that the layer holds; in a dynamic one the rest of the disk is zeros.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from hypothesis import strategies as st

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BLOCK = 2 * MIB
NONE = UUID(int=0)
UNUSED = 0xFFFFFFFF
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

Runs = Mapping[int, bytes]


# --- making ---------------------------------------------------------------------------------------------------------


def make_fixed(content: bytes, *, uuid: UUID | None = None, hidden: bool = False) -> bytes:
    """The content itself, and a footer."""
    return content + footer(len(content), FIXED, uuid or uuid4(), data_offset=(1 << 64) - 1, hidden=hidden)


def make_dynamic(
    virtual_size: int,
    runs: Runs | None = None,
    *,
    uuid: UUID | None = None,
    block_size: int = BLOCK,
    order: Sequence[int] | None = None,
    whole: bool = False,
    empty: Sequence[int] = (),
    gap: int = 0,
    spare: int = 0,
    bat_at_end: bool = False,
    header_at: int = 512,
    garbage: bool = False,
    hidden: bool = False,
    creator: bytes = b"tap\0",
    parent: UUID | None = None,
    parent_name: str = "",
) -> bytes:
    """A dynamic VHD, or a differencing one where there is a `parent`.

    `order` is that of the blocks in the file (the disk's, if none is said); `whole` sets all bits of each bitmap, as
    qemu does; `empty` are blocks that are there with no bit set; `gap` bytes lie before each block, and `spare`
    entries are in the table behind the disk's end; `bat_at_end` puts the blocks before their table; `garbage` fills
    what no bit covers with bytes that nobody must see.
    """
    noise = random.Random(virtual_size)
    size = 512
    bits: dict[int, bytearray] = {}
    contents: dict[int, bytearray] = {}
    bitmap_size = -(-(block_size // 512 // 8) // 512) * 512

    def block(index: int) -> bytearray:
        if index not in contents:
            contents[index] = bytearray(noise.randbytes(block_size) if garbage else block_size)
            bits[index] = bytearray(bitmap_size)
        return contents[index]

    for index in empty:
        block(index)
    for offset, data in (runs or {}).items():
        assert offset % 512 == len(data) % 512 == 0, "runs are of whole sectors"
        assert offset + len(data) <= virtual_size, "a run ends behind the disk"
        for at in range(0, len(data), 512):
            index, within = divmod(offset + at, block_size)
            block(index)[within : within + 512] = data[at : at + 512]
            sector = within // 512
            bits[index][sector // 8] |= 0x80 >> sector % 8
    if whole:
        assert not garbage, "garbage would be seen"
        for index in bits:
            bits[index][: block_size // 512 // 8] = b"\xff" * (block_size // 512 // 8)

    entries = -(-virtual_size // block_size) + spare
    table = [UNUSED] * entries
    table_size = -(-entries * 4 // 512) * 512
    body = bytearray()
    body_at = header_at + 1024 + (0 if bat_at_end else table_size)
    physical = sorted(contents) if order is None else [index for index in order if index in contents]
    assert sorted(physical) == sorted(contents), "the order names each block once"
    for index in physical:
        body += noise.randbytes(gap) if garbage else bytes(gap)
        table[index] = (body_at + len(body)) // 512
        body += bits[index] + contents[index]
    table_at = body_at + len(body) if bat_at_end else header_at + 1024
    packed = struct.pack(f">{entries}I", *table).ljust(table_size, b"\xff")
    kind = DYNAMIC if parent is None else DIFFERENCING
    closing = footer(
        virtual_size, kind, uuid or uuid4(), data_offset=header_at, hidden=hidden, creator=creator
    )
    head = closing + bytes(header_at - size) + header(table_at, entries, block_size, parent, parent_name)
    return b"".join([head, *([bytes(body), packed] if bat_at_end else [packed, bytes(body)]), closing])


def make_differencing(
    virtual_size: int, runs: Runs | None = None, *, parent: UUID, uuid: UUID | None = None, **options: object
) -> bytes:
    return make_dynamic(virtual_size, runs, parent=parent, uuid=uuid, **options)  # type: ignore[arg-type]  # the keywords are of several types


def make_chain(
    virtual_size: int, layers: Sequence[Runs], *, uuids: Sequence[UUID] | None = None, **options: object
) -> list[bytes]:
    """Linked VHDs, leaf first like `layers`; the last one is dynamic."""
    uuids = uuids or [uuid4() for _ in layers]
    parents: list[UUID | None] = [*uuids[1:], None]
    return [
        make_dynamic(virtual_size, runs, uuid=uuid, parent=parent, **options)  # type: ignore[arg-type]  # the keywords are of several types
        for runs, uuid, parent in zip(layers, uuids, parents, strict=True)
    ]


def model(virtual_size: int, *layers: Runs) -> bytes:
    """What the disk reads as, when `layers` lie over each other, leaf first."""
    disk = bytearray(virtual_size)
    for runs in reversed(layers):
        for offset, data in runs.items():
            part = data[: max(0, virtual_size - offset)]
            disk[offset : offset + len(part)] = part
    return bytes(disk)


# --- the structures -------------------------------------------------------------------------------------------------


def footer(
    virtual_size: int,
    kind: int,
    uuid: UUID,
    *,
    data_offset: int = 512,
    hidden: bool = False,
    creator: bytes = b"tap\0",
) -> bytes:
    sectors = min(virtual_size // 512, 65535 * 16 * 255)
    cylinders = min(sectors // (16 * 63), 65535)
    made = struct.pack(
        ">8sIIQI4sI4sQQHBBII16sBB426x",
        b"conectix",
        2,
        0x00010000,
        data_offset,
        0x2A3B4C5D,
        creator,
        0x00010003,
        b"\0\0\0\0",
        virtual_size,
        virtual_size,
        cylinders,
        16,
        63,
        kind,
        0,
        uuid.bytes,
        0,
        1 if hidden else 0,
    )
    return summed(made, 64)


def header(
    table_at: int, entries: int, block_size: int, parent: UUID | None = None, parent_name: str = ""
) -> bytes:
    made = struct.pack(
        ">8sQQIIII16sII512s448x",
        b"cxsparse",
        (1 << 64) - 1,
        table_at,
        0x00010000,
        entries,
        block_size,
        0,
        (parent or NONE).bytes,
        0,
        0,
        parent_name.encode("utf-16-be"),
    )
    return summed(made, 36)


def summed(structure: bytes, at: int) -> bytes:
    """The same with its right checksum, which lies `at` it (a footer's at 64, a header's at 36)."""
    cleared = structure[:at] + bytes(4) + structure[at + 4 :]
    return cleared[:at] + struct.pack(">I", ~sum(cleared) & 0xFFFFFFFF) + cleared[at + 4 :]


# --- breaking -------------------------------------------------------------------------------------------------------


def patched(image: bytes, at: int, new: bytes) -> bytes:
    """With other bytes there, and nothing else changed."""
    return image[:at] + new + image[at + len(new) :]


def with_footer(image: bytes, at: int, new: bytes) -> bytes:
    """With other bytes `at` its footer, in both copies, and the right checksums."""
    changed = summed(patched(image[-512:], at, new), 64)
    image = image[:-512] + changed
    return patched(image, 0, changed) if image.startswith(b"conectix") else image


def with_header(image: bytes, at: int, new: bytes) -> bytes:
    """With other bytes `at` its header, and the right checksum."""
    (start,) = struct.unpack_from(">Q", image, 16)
    return patched(image, start, summed(patched(image[start : start + 1024], at, new), 36))


def with_entry(image: bytes, index: int, sector: int) -> bytes:
    """With the block `index` at that sector of the file."""
    (start,) = struct.unpack_from(">Q", image, 16)
    (table,) = struct.unpack_from(">Q", image, start + 16)
    return patched(image, table + 4 * index, struct.pack(">I", sector))


# --- patterns -------------------------------------------------------------------------------------------------------


def painted(virtual_size: int, spans: Iterable[tuple[int, int]], tag: int) -> dict[int, bytes]:
    """Runs over these (first sector, count), cut off at the disk's end; every sector tells its number and the tag."""
    there = bytearray(virtual_size // 512)
    for first, count in spans:
        there[first : first + count] = b"\1" * len(there[first : first + count])
    runs: dict[int, bytes] = {}
    start = there.find(1)
    while start >= 0:
        end = there.find(0, start)
        end = len(there) if end < 0 else end
        runs[start * 512] = b"".join(
            struct.pack(">8sIQ", b"a sector", tag, sector).ljust(512, b".") for sector in range(start, end)
        )
        start = there.find(1, end)
    return runs


def sizes(block_size: int, most: int = 4) -> st.SearchStrategy[int]:
    """Bytes of a disk: about whole blocks, pieces and bytes of a bitmap, and anything between."""
    return st.one_of(
        st.builds(
            lambda blocks, sectors: max(1, blocks * block_size // 512 + sectors) * 512,
            st.integers(0, most),
            st.sampled_from([-9, -8, -7, -1, 0, 1, 7, 8, 9]),
        ),
        st.integers(1, most * block_size // 512).map(lambda sectors: sectors * 512),
    )


def spans(virtual_size: int, block_size: int, *, grain: int = 1) -> st.SearchStrategy[list[tuple[int, int]]]:
    """(first sector, count), in steps of `grain`, that begin and end near boundaries of blocks more often than not."""
    total, block = virtual_size // 512, block_size // 512
    near = st.builds(
        lambda number, by: min(total - 1, max(0, number * block + by)),
        st.integers(0, -(-total // block)),
        st.integers(-9, 9),
    )
    first = st.one_of(near, st.integers(0, total - 1))
    count = st.one_of(st.integers(1, 20), st.integers(1, 2 * block), st.just(block))
    return st.lists(
        st.tuples(first.map(lambda n: n // grain * grain), count.map(lambda n: -(-n // grain) * grain)),
        max_size=6,
    )


@dataclass(frozen=True)
class Drawn:
    """A disk for a property: sizes in bytes, and where its layers have something, leaf first."""

    size: int
    block_size: int
    spans: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def layers(self) -> list[dict[int, bytes]]:
        return [painted(self.size, spans, tag) for tag, spans in enumerate(self.spans)]

    @property
    def blocks(self) -> list[int]:
        """The numbers of all its blocks."""
        return list(range(-(-self.size // self.block_size)))


@st.composite
def disks(
    draw: st.DrawFn,
    *,
    layers: tuple[int, int] = (1, 1),
    grain: int = 1,
    block_sizes: Sequence[int] = (512 * KIB, MIB, BLOCK),
) -> Drawn:
    block_size = draw(st.sampled_from(block_sizes))
    size = draw(sizes(block_size, most=max(2, 2 * MIB // block_size)))
    count = draw(st.integers(*layers))
    drawn = [tuple(draw(spans(size, block_size, grain=grain))) for _ in range(count)]
    return Drawn(size, block_size, tuple(drawn))


# --- giving ---------------------------------------------------------------------------------------------------------


class OutsideRead(AssertionError):
    """A reader asked for bytes that are not in the file."""


class BytesFile:
    """Bytes that can be had in any order; a read outside of them is the reader's fault. `reads` are (offset, size)."""

    def __init__(self, data: bytes | Path, name: str = "disk.vhd") -> None:
        self.data = data.read_bytes() if isinstance(data, Path) else data
        self.name = name
        self.size = len(self.data)
        self.reads: list[tuple[int, int]] = []

    def pread(self, offset: int, size: int, /) -> bytes:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise OutsideRead(f"{size} bytes at {offset} of {self.size}")
        self.reads.append((offset, size))
        return self.data[offset : offset + size]

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if self.size:
            yield 0, self.size


class BytesStream:
    """Bytes that come once; `position` is how many have been read."""

    def __init__(self, data: bytes, name: str = "disk.vhd", *, knows_length: bool = False) -> None:
        self.data = data
        self.name = name
        self.length = len(data) if knows_length else None
        self.position = 0

    def read(self, size: int, /) -> bytes:
        assert size >= 0, "a stream is read forwards"
        part = self.data[self.position : self.position + size]
        self.position += len(part)
        return part


def laid_out(virtual_size: int, pieces: Iterator[tuple[int, bytes]]) -> bytes:
    """The disk that these pieces make; they must lie on the disk, be of whole sectors and not overlap."""
    disk = bytearray(virtual_size)
    seen = bytearray(virtual_size // 512)
    for offset, data in pieces:
        assert data, "an empty piece"
        assert len(data) <= MIB, "a piece of more than 1 MiB"
        assert offset % 512 == len(data) % 512 == 0, f"half a sector at {offset}"
        assert 0 <= offset <= offset + len(data) <= virtual_size, f"beyond the disk at {offset}"
        first, last = offset // 512, (offset + len(data)) // 512
        assert not any(seen[first:last]), f"yielded twice at {offset}"
        seen[first:last] = b"\1" * (last - first)
        disk[offset : offset + len(data)] = data
    return bytes(disk)


def by_libvhdi(*paths: Path) -> bytes:
    """What libvhdi, which shares no code with anybody here, reads of a chain, leaf first.

    By sectors, since 20260901 gives zeros for some of a longer read in a last block that is not whole. And in a
    differencing VHD it takes what follows a set bit, in the same byte of the bitmap, for set, too.
    """
    from tests import needs  # the fuzzers import this module, and run without pytest

    pyvhdi = needs.module("pyvhdi", "libvhdi-python")
    files = []
    try:
        for path in paths:
            files.append(pyvhdi.file())
            files[-1].open(str(path))
        for child, parent in reversed(list(itertools.pairwise(files))):
            child.set_parent(parent)
        size = files[0].get_media_size()
        return b"".join(files[0].read_buffer_at_offset(512, at) for at in range(0, size, 512))
    finally:
        for file in files:
            file.close()


def same(found: bytes, expected: bytes) -> None:
    """Asserts that; what differs is told by its first sector, and not by megabytes."""
    if found != expected:
        assert len(found) == len(expected)
        at = next(at for at in range(0, len(found), 512) if found[at : at + 512] != expected[at : at + 512])
        raise AssertionError(f"at {at}: {found[at : at + 32]!r} instead of {expected[at : at + 32]!r}")
