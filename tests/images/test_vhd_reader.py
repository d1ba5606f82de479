"""A VHD is read as its maker meant it, whoever that is, and a bad one is refused with what is wrong and where."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import vhdkit
from hypothesis import given, settings
from hypothesis import strategies as st
from vhdkit import BLOCK, GIB, KIB, MIB, BytesFile, BytesStream, laid_out, model, same

from tests import needs
from xenvol.images.disk_image import EndOfFile, NeedsFile
from xenvol.images.errors import ImageTooLarge, InvalidImage, TruncatedImage, UnsupportedImage
from xenvol.images.formats import detect, vhd
from xenvol.images.formats.vhd_blocks import set_runs
from xenvol.images.formats.vhd_source import VHDStream

QemuImg = Callable[..., str]
RUNS = {512: b"a" * 1024, BLOCK - 512: b"b" * 1024, 2 * BLOCK + 4096: b"c" * MIB}
SIZE = 3 * BLOCK
ID = UUID("11111111-2222-4333-8444-555555555555")
PARENT = UUID("99999999-2222-4333-8444-555555555555")


def read_file(image: bytes) -> bytes:
    layer = vhd.from_file(BytesFile(image))
    return laid_out(layer.virtual_size, layer.pieces())


def read_stream(image: bytes) -> bytes:
    stream = BytesStream(image)
    layer = vhd.from_stream(stream)
    disk = laid_out(layer.virtual_size, layer.pieces())
    assert stream.position == len(image), "the stream was not drained"
    return disk


# --- what is good ---------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_any_vhd_reads_as_it_was_made(data: st.DataObject) -> None:
    """Dynamic or differencing, blocks in any order, gaps, garbage where no bit is set, spare entries: all the same."""
    disk = data.draw(vhdkit.disks())
    (runs,) = disk.layers
    options: dict[str, Any] = {
        "block_size": disk.block_size,
        "order": data.draw(st.permutations(disk.blocks)),
        "empty": data.draw(st.lists(st.sampled_from(disk.blocks), max_size=2)),
        "gap": data.draw(st.sampled_from([0, 512, 4096])),
        "spare": data.draw(st.sampled_from([0, 1, 200])),
        "header_at": data.draw(st.sampled_from([512, 1024, 4096])),
        "parent": data.draw(st.sampled_from([None, PARENT])),
        "garbage": True,
    }
    image = vhdkit.make_dynamic(disk.size, runs, **options)
    expected = model(disk.size, runs)
    same(read_file(image), expected)
    same(read_stream(image), expected)
    at_end = vhdkit.make_dynamic(disk.size, runs, bat_at_end=True, **options)
    same(read_file(at_end), expected)


@settings(max_examples=30)
@given(st.data())
def test_pieces_are_what_the_bitmaps_say_and_no_more(data: st.DataObject) -> None:
    """What a differencing VHD does not hold is its parent's, so that not a sector too many may be given."""
    disk = data.draw(vhdkit.disks())
    (runs,) = disk.layers
    order = data.draw(st.permutations(disk.blocks))
    image = vhdkit.make_differencing(
        disk.size, runs, parent=PARENT, block_size=disk.block_size, order=order, garbage=True
    )
    expected = {at // 512 for offset, part in runs.items() for at in range(offset, offset + len(part), 512)}
    for layer in (vhd.from_file(BytesFile(image)), vhd.from_stream(BytesStream(image))):
        pieces = list(layer.pieces())
        found = [at // 512 for offset, part in pieces for at in range(offset, offset + len(part), 512)]
        assert sorted(found) == sorted(expected)
        assert layer.allocated is not None
        assert len(found) * 512 <= layer.allocated <= disk.size
        if layer.is_ordered:
            assert pieces == sorted(pieces)


@given(st.binary(min_size=1, max_size=300), st.integers(0, 7))
def test_runs_are_the_bits_that_are_set(bits: bytes, less: int) -> None:
    """The first sector is the highest bit of the first byte."""
    count = len(bits) * 8 - less
    found = {bit for first, last in set_runs(bits, count) for bit in range(first, last)}
    assert found == {bit for bit in range(count) if bits[bit // 8] & (0x80 >> bit % 8)}
    assert all(first < last for first, last in set_runs(bits, count))


def test_a_layer_tells_what_it_is() -> None:
    """All that its footer and its header say; a hidden one says so, and a fixed one has no blocks."""
    image = vhdkit.make_differencing(SIZE, RUNS, uuid=ID, parent=PARENT, parent_name="bäse.vhd", hidden=True)
    layer = vhd.from_file(BytesFile(image))
    assert (layer.format, layer.kind, layer.virtual_size) == ("vhd", "differencing", SIZE)
    assert (layer.uuid, layer.parent_uuid, layer.parent_name) == (ID, PARENT, "bäse.vhd")
    assert (layer.block_size, layer.is_hidden, layer.allocated) == (BLOCK, True, SIZE)
    assert repr(layer) == f"<Layer 'disk.vhd': differencing VHD {ID} of {SIZE} bytes>"

    layer = vhd.from_file(BytesFile(vhdkit.make_dynamic(SIZE - 512, {SIZE - 1024: b"z" * 512})))
    assert (layer.kind, layer.parent_uuid, layer.parent_name, layer.is_hidden) == ("dynamic", None, "", False)
    assert layer.allocated == BLOCK - 512

    layer = vhd.from_file(BytesFile(vhdkit.make_fixed(b"x" * MIB, uuid=ID)))
    assert (layer.kind, layer.uuid, layer.block_size, layer.allocated) == ("fixed", ID, 0, MIB)


def test_order_is_the_disks_in_a_file_and_the_files_in_a_stream() -> None:
    """So that a file fills a disk from its beginning, and a stream is read as it comes."""
    image = vhdkit.make_dynamic(SIZE, RUNS, order=[2, 0, 1])
    layer = vhd.from_file(BytesFile(image))
    assert layer.is_ordered
    assert [piece.offset for piece in layer.pieces()] == [
        *(512, BLOCK - 512, BLOCK),
        *(2 * BLOCK + 4096, 3 * BLOCK - MIB),
    ]
    layer = vhd.from_stream(BytesStream(image))
    assert not layer.is_ordered
    assert [piece.offset // BLOCK for piece in layer.pieces()] == [2, 2, 0, 0, 1]
    assert vhd.from_stream(BytesStream(vhdkit.make_dynamic(SIZE, RUNS))).is_ordered


def test_whole_blocks_are_given_in_pieces_of_a_mebibyte() -> None:
    """Each is one read, and what is not there is not read at all."""
    image = vhdkit.make_dynamic(SIZE, {0: b"x" * BLOCK, 2 * BLOCK: b"y" * 512, 3 * BLOCK - 512: b"z" * 512})
    file = BytesFile(image)
    layer = vhd.from_file(file)
    file.reads.clear()
    assert [len(piece.data) for piece in layer.pieces()] == [MIB, MIB, 512, 512]
    assert [size for _, size in file.reads] == [
        512,
        MIB,
        MIB,
        512,
        512,
        512,
        512,
    ]  # bitmaps, data, the footer


def test_tables_are_read_before_anything_is_given_and_no_more_of_the_stream() -> None:
    """What can be known of a stream is known before a disk is made for it."""
    stream = BytesStream(vhdkit.make_dynamic(SIZE, RUNS))
    vhd.from_stream(stream)
    assert stream.position == 512 + 1024 + 4 * 3


@pytest.mark.parametrize("size", [512, MIB, MIB + 512, 3 * MIB - 512])
def test_fixed_vhds_are_read_from_files_and_from_streams_of_known_length(size: int) -> None:
    content = model(size, vhdkit.painted(size, [(0, 1 << 30)], 1))
    image = vhdkit.make_fixed(content, uuid=ID)
    assert detect.of_file(BytesFile(image)) == "vhd-fixed"
    same(read_file(image), content)
    layer = vhd.fixed_from_stream(BytesStream(image, knows_length=True))
    assert (layer.virtual_size, layer.uuid) == (size, vhd.UNKNOWN)
    same(laid_out(size, layer.pieces()), content)
    assert layer.uuid == ID


def test_a_hidden_fixed_vhd_in_a_stream_is_known_to_be_when_it_has_been_read() -> None:
    layer = vhd.fixed_from_stream(BytesStream(vhdkit.make_fixed(bytes(MIB), hidden=True), knows_length=True))
    assert not layer.is_hidden
    list(layer.pieces())
    assert layer.is_hidden


def test_holes_of_a_fixed_vhd_are_not_read() -> None:
    """A file system tells them in its own grain, and two ranges may share a sector."""

    class Holey(BytesFile):
        def data_ranges(self) -> Iterator[tuple[int, int]]:
            yield from [(600, 700), (900, 5000), (MIB - 100, 3 * MIB + 1), (self.size - 4096, self.size)]

    content = model(5 * MIB, vhdkit.painted(5 * MIB, [(1, 9), (2047, 4098), (10233, 7)], 1))
    file = Holey(vhdkit.make_fixed(content))
    pieces = list(vhd.from_file(file).pieces())
    same(laid_out(5 * MIB, iter(pieces)), content)
    assert [(piece.offset, piece.end) for piece in pieces] == [
        (512, 1024),
        (1024, 5120),
        (MIB - 512, MIB),
        (MIB, 2 * MIB),
        (2 * MIB, 3 * MIB),
        (3 * MIB, 3 * MIB + 512),
        (5 * MIB - 3584, 5 * MIB),
    ]


def test_a_raw_image_and_a_dynamic_vhd_are_no_fixed_ones() -> None:
    for other in (b"", bytes(512), bytes(MIB)):
        assert detect.of_file(BytesFile(other)) == "raw"
    assert detect.of_file(BytesFile(vhdkit.make_dynamic(SIZE, RUNS))) == "vhd"


def test_a_fixed_vhd_whose_footer_is_damaged_is_a_vhd_and_no_raw_image() -> None:
    damaged = vhdkit.patched(vhdkit.make_fixed(bytes(MIB), uuid=ID), MIB + 70, b"!")
    assert detect.of_file(BytesFile(damaged)) == "vhd"
    with pytest.raises(InvalidImage, match="footer is damaged"):
        vhd.from_file(BytesFile(damaged))


@pytest.mark.parametrize("make", [vhdkit.make_fixed, None], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("is_short", [True, False])
def test_a_footer_of_511_bytes_and_one_with_zeros_behind_it_end_a_vhd(
    make: Callable[..., bytes] | None, is_short: bool
) -> None:
    """As an early Virtual PC wrote it, and as tools pad files to 4 KiB."""
    content = model(SIZE, RUNS)
    image = vhdkit.make_dynamic(SIZE, RUNS) if make is None else make(content)
    image = image[:-1] if is_short else image + bytes(3584)
    assert detect.of_file(BytesFile(image)) == ("vhd" if make is None else "vhd-fixed")
    same(read_file(image), content)
    if make is None:
        same(read_stream(image), content)


def test_what_the_padding_of_a_vhd_hides_is_no_footer() -> None:
    """Only zeros may follow it, it begins with a sector, and it must be good: a guest may keep a VHD in its disk."""
    fixed = vhdkit.make_fixed(bytes(MIB))
    for other in (
        fixed + b"!".ljust(512, b"\0"),
        b"!" * 7 + fixed + bytes(505),
        fixed[:-10] + b"!" * 10 + bytes(512),
    ):
        assert detect.of_file(BytesFile(other)) == "raw"


def test_a_fixed_vhd_with_a_bad_size_is_still_no_raw_image() -> None:
    """Were it taken for one, its footer would become part of the disk."""
    image = vhdkit.with_footer(vhdkit.make_fixed(bytes(MIB)), 48, struct.pack(">Q", 4 * MIB))
    assert detect.of_file(BytesFile(image)) == "vhd-fixed"


def test_a_damaged_copy_of_the_footer_does_not_matter_in_a_file() -> None:
    """The one at the end is the footer, as it is to vhd-util; a stream has only the copy when it is wanted."""
    image = vhdkit.make_dynamic(SIZE, RUNS)
    for damaged, problem in (
        (vhdkit.patched(image, 100, b"!"), "beginning is damaged .*; give it as a file"),
        (vhdkit.patched(image, 0, bytes(512)), "it has no footer"),
    ):
        same(read_file(damaged), model(SIZE, RUNS))
        with pytest.raises(InvalidImage, match=problem):
            vhd.from_stream(BytesStream(damaged))


def test_blocks_before_the_table_need_a_file() -> None:
    with pytest.raises(NeedsFile, match="lie before the table"):
        vhd.from_stream(BytesStream(vhdkit.make_dynamic(SIZE, RUNS, bat_at_end=True)))


def test_a_table_before_the_header_needs_a_file() -> None:
    image = bytearray(vhdkit.make_dynamic(SIZE, RUNS, header_at=4096))
    (table,) = struct.unpack_from(">Q", image, 4096 + 16)
    image[1024:1036] = image[table : table + 12]
    moved = vhdkit.with_header(bytes(image), 16, struct.pack(">Q", 1024))
    same(read_file(moved), model(SIZE, RUNS))
    with pytest.raises(NeedsFile, match="which a stream cannot give"):
        vhd.from_stream(BytesStream(moved))


def test_a_block_before_the_table_is_found_among_others_behind_it() -> None:
    """Before anything is given, and not when its turn comes."""
    image = vhdkit.make_dynamic(SIZE, RUNS, bat_at_end=True)
    first = image[1536 : 1536 + 512 + BLOCK]
    moved = vhdkit.with_entry(image[:-512] + first + image[-512:], 0, (len(image) - 512) // 512)
    same(read_file(moved), model(SIZE, RUNS))
    with pytest.raises(NeedsFile, match="lie before the table"):
        vhd.from_stream(BytesStream(moved))


def test_a_block_on_the_header_alone_is_refused() -> None:
    """Neither the footer nor the table is beneath it."""
    image = vhdkit.with_entry(vhdkit.make_dynamic(BLOCK, {0: b"x" * 512}, bat_at_end=True), 0, 2)
    with pytest.raises(InvalidImage, match="block 0 lies over its footer, its header"):
        vhd.from_file(BytesFile(image))


@pytest.mark.parametrize("gap", [1, 411, 512, MIB - 1024, MIB - 412, MIB - 1, MIB, MIB + 3])
def test_something_may_lie_between_the_last_block_and_the_footer(gap: int) -> None:
    """Storage managers leave room there; wherever the last read of it ends, the footer is what is last."""
    image = vhdkit.make_dynamic(SIZE, RUNS, whole=True)
    image = image[:-512] + b"?" * gap + image[-512:]
    same(read_file(image), model(SIZE, RUNS))
    same(read_stream(image), model(SIZE, RUNS))


def test_a_fixed_vhd_in_a_stream_of_unknown_length_needs_a_file() -> None:
    with pytest.raises(NeedsFile, match="length"):
        vhd.fixed_from_stream(BytesStream(vhdkit.make_fixed(bytes(MIB))))


# --- other makers, other readers ------------------------------------------------------------------------------------

BOUNDARIES = [512, MIB - 512, BLOCK - 512, BLOCK, BLOCK + 512, 4 * BLOCK - 4096, 3 * BLOCK + 7 * 512]


@pytest.mark.parametrize("size", BOUNDARIES)
@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_what_qemu_wrote_is_read_as_qemu_reads_it(
    kind: str, size: int, tmp_path: Path, qemu_img: QemuImg
) -> None:
    chance = random.Random(size)
    spans = [(chance.randrange(size // 512), chance.randrange(1, 300)) for _ in range(6)]
    raw, image, back = tmp_path / "raw", tmp_path / "vhd", tmp_path / "back"
    raw.write_bytes(model(size, vhdkit.painted(size, spans, 1)))
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", f"subformat={kind},force_size=on", raw, image)
    qemu_img("convert", "-f", "vpc", "-O", "raw", image, back)
    assert back.read_bytes() == raw.read_bytes(), "qemu does not read what it wrote"
    same(read_file(image.read_bytes()), raw.read_bytes())
    if kind == "dynamic":
        same(read_stream(image.read_bytes()), raw.read_bytes())
    else:
        assert detect.of_file(BytesFile(image)) == "vhd-fixed"


@settings(max_examples=15)
@given(data=st.data())
def test_qemu_reads_the_same(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, qemu_img: QemuImg
) -> None:
    """Of dynamic VHDs that the tests make, qemu, which looks at no bitmap, tells the same disk."""
    disk = data.draw(vhdkit.disks())
    order = data.draw(st.permutations(disk.blocks))
    image = vhdkit.make_dynamic(disk.size, disk.layers[0], order=order, block_size=disk.block_size)
    directory = tmp_path_factory.mktemp("qemu")
    (directory / "vhd").write_bytes(image)
    qemu_img("convert", "-f", "vpc", "-O", "raw", directory / "vhd", directory / "raw")
    same(read_file(image), (directory / "raw").read_bytes())


@settings(max_examples=30)
@given(disk=vhdkit.disks())
def test_libvhdi_reads_the_same(disk: vhdkit.Drawn, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("libvhdi") / "disk.vhd"
    path.write_bytes(vhdkit.make_dynamic(disk.size, disk.layers[0], block_size=disk.block_size))
    same(read_file(path.read_bytes()), vhdkit.by_libvhdi(path))


# --- what is bad ----------------------------------------------------------------------------------------------------

GOOD = vhdkit.make_dynamic(SIZE, RUNS, uuid=ID)
DIFFERENCING = vhdkit.make_differencing(SIZE, RUNS, uuid=ID, parent=PARENT)
FIXED = vhdkit.make_fixed(bytes(MIB), uuid=ID)
TABLE = 512 + 1024
FIRST_BLOCK = TABLE + 512
STRIDE = 512 + BLOCK


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def broken_footer(at: int, new: bytes, image: bytes = GOOD) -> bytes:
    return vhdkit.with_footer(image, at, new)


def broken_header(at: int, new: bytes, image: bytes = GOOD) -> bytes:
    return vhdkit.with_header(image, at, new)


@dataclass(frozen=True)
class Bad:
    """`offset` is one of the footer where it is negative: counted from the end of a file, from 0 in a stream."""

    name: str
    image: bytes = field(repr=False)
    error: type[Exception]
    problem: str
    offset: int | None = None


def in_footer(at: int) -> int:
    return at - 512


BAD = [
    Bad("footer: version", broken_footer(12, u32(0x20000)), UnsupportedImage, "version 2.0"),
    Bad("footer: type 0", broken_footer(60, u32(0)), InvalidImage, "of the type 0", in_footer(60)),
    Bad("footer: type 5", broken_footer(60, u32(5)), InvalidImage, "of the type 5", in_footer(60)),
    Bad("footer: type fixed", broken_footer(60, u32(2)), InvalidImage, "a fixed VHD only ends with one", 0),
    Bad("footer: size 0", broken_footer(48, u64(0)), InvalidImage, "has no size", in_footer(48)),
    Bad(
        "footer: odd size", broken_footer(48, u64(SIZE + 1)), InvalidImage, "not whole sectors", in_footer(48)
    ),
    Bad("footer: too large", broken_footer(48, u64((2040 << 30) + 512)), ImageTooLarge, "a VHD has at most"),
    Bad(
        "footer: far too large",
        broken_footer(48, u64(2**64 - 512)),
        ImageTooLarge,
        "at most 2190433320960",
    ),
    Bad("footer: header in it", broken_footer(16, u64(256)), InvalidImage, "header lies over its footer", 16),
    Bad("footer: header at 0", broken_footer(16, u64(0)), InvalidImage, "header lies over its footer", 16),
    Bad("footer: header elsewhere", broken_footer(16, u64(1024)), InvalidImage, "no header where", 1024),
    Bad(
        "footer: header nowhere",
        broken_footer(16, u64(2**64 - 1)),
        TruncatedImage,
        "tables goes on",
        len(GOOD),
    ),
    Bad("header: cookie", broken_header(0, b"sparsecx"), InvalidImage, "no header where", 512),
    Bad(
        "header: checksum",
        vhdkit.patched(GOOD, 512 + 36, u32(7)),
        InvalidImage,
        "checksum 0x00000007",
        512 + 36,
    ),
    Bad(
        "header: damaged", vhdkit.patched(GOOD, 512 + 900, b"!"), InvalidImage, "header is damaged", 512 + 36
    ),
    Bad("header: version", broken_header(24, u32(0x10001)), UnsupportedImage, "version 1.1"),
    Bad("header: table at 0", broken_header(16, u64(0)), InvalidImage, "table lies over", 512 + 16),
    Bad("header: table in it", broken_header(16, u64(1024)), InvalidImage, "table lies over", 512 + 16),
    Bad(
        "header: table nowhere",
        broken_header(16, u64(2**64 - 1)),
        TruncatedImage,
        "tables goes on",
        len(GOOD),
    ),
    Bad(
        "header: table cut",
        broken_header(16, u64(len(GOOD) - 8)),
        TruncatedImage,
        "tables goes on",
        len(GOOD),
    ),
    Bad("header: no entries", broken_header(28, u32(0)), InvalidImage, "has 0 entries", 512 + 28),
    Bad("header: few entries", broken_header(28, u32(2)), InvalidImage, "bytes needs 3", 512 + 28),
    Bad(
        "header: many entries",
        broken_header(28, u32(2**32 - 1)),
        InvalidImage,
        "4294967295 entries",
        512 + 28,
    ),
    Bad("header: block of 0", broken_header(32, u32(0)), InvalidImage, "blocks of 0 bytes", 512 + 32),
    Bad(
        "header: block of 256K", broken_header(32, u32(256 * KIB)), InvalidImage, "of 262144 bytes", 512 + 32
    ),
    Bad("header: block of 512M", broken_header(32, u32(512 * MIB)), InvalidImage, "powers of two", 512 + 32),
    Bad("header: odd block", broken_header(32, u32(3 * MIB)), InvalidImage, "powers of two", 512 + 32),
    Bad(
        "header: larger blocks",
        broken_header(32, u32(2 * BLOCK)),
        InvalidImage,
        "block 2 lies behind",
        TABLE + 8,
    ),
    Bad(
        "header: own parent", broken_header(40, ID.bytes, DIFFERENCING), InvalidImage, "own parent", 512 + 40
    ),
    Bad("table: block at 0", vhdkit.with_entry(GOOD, 0, 0), InvalidImage, "lies over its footer", TABLE),
    Bad("table: block in header", vhdkit.with_entry(GOOD, 2, 2), InvalidImage, "lies over", TABLE + 8),
    Bad("table: block in table", vhdkit.with_entry(GOOD, 1, 3), InvalidImage, "lies over", TABLE + 4),
    Bad(
        "table: block on the footer alone",
        vhdkit.with_entry(vhdkit.make_dynamic(SIZE, RUNS, header_at=2 * BLOCK), 0, 0),
        InvalidImage,
        "block 0 lies over its footer",
        2 * BLOCK + 1024,
    ),
    Bad(
        "table: two at one place",
        vhdkit.with_entry(GOOD, 2, FIRST_BLOCK // 512),
        InvalidImage,
        "block 2 lies over its block 0",
        TABLE + 8,
    ),
    Bad(
        "table: overlap by a sector",
        vhdkit.with_entry(GOOD, 1, (FIRST_BLOCK + STRIDE) // 512 - 1),
        InvalidImage,
        "block 1 lies over its block 0",
        TABLE + 4,
    ),
    Bad(
        "table: far away", vhdkit.with_entry(GOOD, 1, 2**32 - 2), TruncatedImage, "block 1 ends at", TABLE + 4
    ),
    Bad(
        "table: over the last footer",
        vhdkit.with_entry(GOOD, 2, (FIRST_BLOCK + 2 * STRIDE) // 512 + 1),
        TruncatedImage,
        "block 2 ends at",
        TABLE + 8,
    ),
    Bad(
        "table: behind the disk",
        vhdkit.with_entry(vhdkit.make_dynamic(SIZE, RUNS, spare=2), 4, 2**20),
        InvalidImage,
        "block 4 lies behind the end of the disk",
        TABLE + 16,
    ),
]


def check(bad: Bad, caught: Exception, offset: int | None) -> None:
    assert type(caught) is bad.error
    assert bad.problem in str(caught)
    assert str(caught).removeprefix("xenvol cannot read ").startswith("disk.vhd")
    if isinstance(caught, InvalidImage):
        assert caught.offset == offset
        assert caught.format == "vhd"


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_vhd_is_refused_before_its_pieces(bad: Bad) -> None:
    """With the error of its kind, what is wrong, and where."""
    offset = len(bad.image) + bad.offset if bad.offset is not None and bad.offset < 0 else bad.offset
    with pytest.raises(bad.error) as caught:
        vhd.from_file(BytesFile(bad.image))
    check(bad, caught.value, offset)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_vhd_in_a_stream_is_refused_as_well(bad: Bad) -> None:
    """Before its pieces where the stream's length is known, and never later than at its end."""
    offset = 512 + bad.offset if bad.offset is not None and bad.offset < 0 else bad.offset
    with pytest.raises(bad.error) as caught:
        vhd.from_stream(BytesStream(bad.image, knows_length=True))
    check(bad, caught.value, offset)
    with pytest.raises(bad.error) as caught:
        list(vhd.from_stream(BytesStream(bad.image)).pieces())
    assert type(caught.value) is bad.error


FIXED_BAD = [
    Bad("type", broken_footer(60, u32(3), FIXED), TruncatedImage, "tables goes on", len(FIXED)),
    Bad("size", broken_footer(48, u64(MIB - 512), FIXED), InvalidImage, "the file holds 1048576", MIB - 512),
    Bad(
        "larger",
        broken_footer(48, u64(MIB + 512), FIXED),
        TruncatedImage,
        "the file holds 1048576",
        len(FIXED),
    ),
    Bad("checksum", vhdkit.patched(FIXED, MIB + 64, u32(1)), InvalidImage, "damaged", MIB + 64),
    Bad("cookie", vhdkit.patched(FIXED, MIB, b"connectix"), InvalidImage, "no footer", MIB),
    Bad("cut", FIXED[:-2], InvalidImage, "no footer", MIB - 2),
    Bad("none", b"", TruncatedImage, "shorter than a footer", 0),
    Bad("short", FIXED[-511:], TruncatedImage, "shorter than a footer", 511),
    Bad("only a footer", FIXED[-512:], InvalidImage, "only ends with one", 0),
    Bad("disk in a disk", GOOD[:512] + FIXED[512:], InvalidImage, "only ends with one", 0),
]


@pytest.mark.parametrize("bad", FIXED_BAD, ids=lambda bad: bad.name)
def test_a_bad_fixed_vhd_is_refused(bad: Bad) -> None:
    with pytest.raises(bad.error) as caught:
        vhd.from_file(BytesFile(bad.image))
    check(bad, caught.value, bad.offset)


@pytest.mark.parametrize("bad", FIXED_BAD, ids=lambda bad: bad.name)
def test_a_bad_fixed_vhd_in_a_stream_is_refused_at_its_end(bad: Bad) -> None:
    if bad.name == "disk in a disk":
        # Its caller says that it is fixed, so its first bytes are the disk's.
        assert laid_out(MIB, vhd.fixed_from_stream(BytesStream(bad.image, knows_length=True)).pieces())
        return
    with pytest.raises(InvalidImage):
        list(vhd.fixed_from_stream(BytesStream(bad.image, knows_length=True)).pieces())


@pytest.mark.parametrize(
    ("at", "new", "what"),
    [
        (48, u64(2 * BLOCK + 512), "size"),
        (60, u32(4), "type"),
        (68, PARENT.bytes, "UUID"),
        (16, u64(1024), "header's place"),
    ],
    ids=["size", "type", "UUID", "place"],
)
def test_footers_that_disagree_are_refused(at: int, new: bytes, what: str) -> None:
    """Somebody wrote one and not the other; which one is right nobody knows."""
    image = GOOD[:-512] + vhdkit.summed(vhdkit.patched(GOOD[-512:], at, new), 64)
    with pytest.raises(InvalidImage, match=f"disagree about its {what}") as caught:
        vhd.from_file(BytesFile(image))
    assert caught.value.offset == len(GOOD) - 512
    layer = vhd.from_stream(BytesStream(image))
    with pytest.raises(InvalidImage, match=f"disagree about its {what}"):
        list(layer.pieces())


CUTS = [
    1,
    300,
    511,
    512,
    513,
    1535,
    1536,
    1540,
    FIRST_BLOCK,
    FIRST_BLOCK + 100,
    FIRST_BLOCK + STRIDE + 512 + MIB,
]


@pytest.mark.parametrize("length", [*CUTS, *(len(GOOD) - less for less in (2, 511, 512, 513, STRIDE))])
def test_a_vhd_that_was_cut_is_refused(length: int) -> None:
    """Wherever that was, and by the number of bytes that are there."""
    cut = GOOD[:length]
    with pytest.raises(TruncatedImage):
        read_file(cut)
    with pytest.raises(TruncatedImage):
        read_stream(cut)
    if length >= TABLE + 12:
        with pytest.raises(TruncatedImage):
            vhd.from_stream(BytesStream(cut, knows_length=True))


@pytest.mark.parametrize("more", [b"!", b"!".rjust(512, b"\0"), b"x" * 3 * MIB], ids=len)
def test_a_vhd_with_something_behind_it_is_refused(more: bytes) -> None:
    """Its footer is its end: what comes behind may be the half of a longer one."""
    for read in (read_file, read_stream):
        with pytest.raises(InvalidImage, match="something was appended"):
            read(GOOD + more)


@pytest.mark.parametrize("damage", [b"!", bytes(100)], ids=["a byte", "the end"])
def test_a_damaged_footer_at_the_end_is_replaced_by_its_good_copy(damage: bytes) -> None:
    """It is in its place, so nothing else is lost."""
    image = vhdkit.patched(GOOD, len(GOOD) - 512 + 64, damage)
    same(read_file(image), model(SIZE, RUNS))
    same(read_stream(image), model(SIZE, RUNS))
    lost = GOOD[:-512] + bytes(512)
    same(read_file(lost), model(SIZE, RUNS))
    same(read_stream(lost), model(SIZE, RUNS))


def test_two_damaged_footers_are_refused() -> None:
    image = vhdkit.patched(vhdkit.patched(GOOD, len(GOOD) - 100, b"!"), 100, b"!")
    with pytest.raises(InvalidImage, match="footer is damaged") as caught:
        vhd.from_file(BytesFile(image))
    assert caught.value.offset == 64


def test_what_does_not_begin_like_a_vhd_is_none_as_a_stream() -> None:
    with pytest.raises(InvalidImage, match="it has no footer"):
        vhd.from_stream(BytesStream(FIXED))


def test_a_file_that_shrinks_while_it_is_read_was_cut() -> None:
    class Shrinking(BytesFile):
        def pread(self, offset: int, size: int, /) -> bytes:
            if offset > TABLE and size < self.size and len(self.reads) > 6:
                raise EndOfFile
            return super().pread(offset, size)

    layer = vhd.from_file(Shrinking(GOOD))
    with pytest.raises(TruncatedImage):
        list(layer.pieces())


def test_a_stream_without_an_end_is_left() -> None:
    """No VHD is longer than its table can say, so that nobody waits for ever."""

    class Endless:
        name = "disk.vhd"
        length: int | None = None

        def read(self, size: int, /) -> bytes:
            return bytes(size)

    source = VHDStream(Endless(), longest=64 * MIB)  # nobody wants to wait for 2 TiB here
    with pytest.raises(InvalidImage, match="longer than any VHD"):
        source.finish(None, 0)


# --- limits ---------------------------------------------------------------------------------------------------------


class Made:
    """A file of `blocks` blocks: its beginning, zeros and its end; all blocks are there, and all are empty."""

    def __init__(self, blocks: int, *, order: Callable[[int, int], int]) -> None:
        size = blocks * BLOCK
        self.name = "large.vhd"
        self.tail = vhdkit.footer(size, 3, ID)
        first = (TABLE + 4 * blocks) // 512
        table = array("I", (first + STRIDE // 512 * order(index, blocks) for index in range(blocks)))
        if sys.byteorder == "little":
            table.byteswap()
        self.head = self.tail + vhdkit.header(TABLE, blocks, BLOCK) + table.tobytes()
        self.size = len(self.head) + blocks * STRIDE + 512

    def pread(self, offset: int, size: int, /) -> bytes:
        if offset < len(self.head):
            return self.head[offset : offset + size]
        return self.tail if offset == self.size - 512 else bytes(size)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        raise AssertionError("it is not fixed")


ORDERS: dict[str, Callable[[int, int], int]] = {
    "ascending": lambda index, count: index,
    "descending": lambda index, count: count - 1 - index,
    "scattered": lambda index, count: index * 7919 % count,
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_a_large_vhd_takes_little_memory(order: str) -> None:
    """Whatever the order of its blocks: 16 bytes for each, and what sorting some of them takes."""
    count = 512 * GIB // BLOCK
    file = Made(count, order=ORDERS[order])
    tracemalloc.start()
    try:
        layer = vhd.from_file(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layer.allocated == 512 * GIB
    assert peak < 16 * count + 6 * MIB


@pytest.mark.slow
def test_the_largest_vhd_is_read_to_its_end() -> None:
    """With a bitmap for each of a million blocks."""
    layer = vhd.from_file(Made(2040 * GIB // BLOCK, order=ORDERS["ascending"]))
    assert layer.virtual_size == layer.allocated == 2040 * GIB
    assert list(layer.pieces()) == []


def test_entries_that_all_name_one_place_are_refused_at_once() -> None:
    """Rather than sorted."""
    file = Made(1 << 17, order=lambda index, count: 5)
    with pytest.raises(InvalidImage, match="overlap"):
        vhd.from_file(file)


# --- anything -------------------------------------------------------------------------------------------------------

OURS = (InvalidImage, UnsupportedImage, ImageTooLarge, NeedsFile)


def mutated(image: bytes, chance: random.Random) -> bytes:
    """Some bytes of the structures changed, mostly with the checksums that make them worth a look."""
    places = [(0, 512), (512, 1024), (TABLE, 64), (FIRST_BLOCK, 512), (len(image) - 512, 512)]
    for _ in range(chance.randint(1, 4)):
        start, length = chance.choice(places)
        width = chance.choice([1, 2, 4, 8])
        at = start + chance.randrange(length // width) * width
        value = chance.choice([0, 1, 2, 3, 4, 511, 512, 513, 2**31, 2**32 - 1, 2**63, chance.getrandbits(64)])
        image = vhdkit.patched(image, at, (value % 256**width).to_bytes(width, "big"))[: len(image)]
    if chance.random() < 0.9:
        image = vhdkit.patched(image, 512, vhdkit.summed(image[512:1536], 36))
        image = vhdkit.patched(image, 0, vhdkit.summed(image[:512], 64))
        image = image[:-512] + (
            vhdkit.summed(image[-512:], 64) if chance.random() < 0.5 else image[:512]
        )  # as a rule both say the same
    if chance.random() < 0.1:
        image = image[: chance.randrange(len(image))]
    return image


WAYS: list[Callable[[bytes], vhd.Layer]] = [
    lambda image: vhd.from_file(BytesFile(image)),
    lambda image: vhd.from_stream(BytesStream(image)),
    lambda image: vhd.from_stream(BytesStream(image, knows_length=True)),
    lambda image: vhd.fixed_from_stream(BytesStream(image, knows_length=True)),
]


@pytest.mark.parametrize("seed", range(8))
def test_a_random_change_is_read_or_refused(seed: int) -> None:
    """No other error, no read outside of the file, never more than the disk has."""
    chance = random.Random(seed)
    runs = {512: b"a" * 1024, 512 * KIB - 512: b"b" * 1024}
    images = [
        vhdkit.make_dynamic(2 * MIB - 512, runs, block_size=512 * KIB, uuid=ID, order=[1, 0]),
        vhdkit.make_differencing(MIB, runs, block_size=512 * KIB, uuid=ID, parent=PARENT),
        vhdkit.make_fixed(bytes(64 * KIB), uuid=ID),
    ]
    for number in range(150):
        image = mutated(images[number % 3], chance)
        for open_it in WAYS:
            given_bytes = 0
            try:
                layer = open_it(image)
                for piece in layer.pieces():
                    given_bytes += len(piece.data)
                    assert 0 <= piece.offset < piece.end <= layer.virtual_size
            except OURS:
                pass
            else:
                assert given_bytes <= layer.virtual_size


def test_the_fuzzer_starts(tmp_path: Path) -> None:
    """Where atheris is installed, its harness runs; for long by hand."""
    needs.module("atheris", "'xenvol[fuzz]'")
    harness = Path(__file__).with_name("fuzz_vhd.py")
    done = subprocess.run(
        [sys.executable, str(harness), "-runs=50", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
