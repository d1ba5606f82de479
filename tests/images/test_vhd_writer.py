"""What is written is a VHD to others as well as to our own reader, and holds the disk."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
import vhdkit
from hypothesis import given, settings
from hypothesis import strategies as st
from vhdkit import BLOCK, GIB, KIB, MIB, BytesFile, BytesStream, laid_out, model, same

from xenvol.images.disk_image import VHD_MAX, Piece
from xenvol.images.errors import ImageTooLarge, InvalidImage
from xenvol.images.formats import vhd
from xenvol.images.formats.vhd_writer import write_vhd

ID = UUID("11111111-2222-4333-8444-555555555555")


def written(pieces: list[Piece], size: int) -> bytes:
    file = io.BytesIO(b"what was there before")
    length = write_vhd(pieces, size, file, uuid=ID)
    image = file.getvalue()
    assert length == len(image)
    return image


def read_back(image: bytes) -> bytes:
    layer = vhd.from_file(BytesFile(image))
    return laid_out(layer.virtual_size, layer.pieces())


def in_pieces(runs: dict[int, bytes], chance: random.Random) -> list[Piece]:
    """Cut anywhere, in any order."""
    pieces = []
    for offset, data in runs.items():
        at = 0
        while at < len(data):
            size = min(chance.choice([512, 4096, 64 * KIB, MIB]), len(data) - at)
            pieces.append(Piece(offset + at, data[at : at + size]))
            at += size
    chance.shuffle(pieces)
    return pieces


@settings(max_examples=50)
@given(vhdkit.disks(block_sizes=(BLOCK, 512 * KIB)), st.randoms(use_true_random=False))
def test_what_is_written_is_read(disk: vhdkit.Drawn, chance: random.Random) -> None:
    """From a file and from a stream, whatever the order of the pieces; a block may be touched again and again."""
    (runs,) = disk.layers
    image = written(in_pieces(runs, chance), disk.size)
    layer = vhd.from_file(BytesFile(image))
    assert (layer.kind, layer.uuid, layer.block_size, layer.is_hidden) == ("dynamic", ID, BLOCK, False)
    same(laid_out(disk.size, layer.pieces()), model(disk.size, runs))
    layer = vhd.from_stream(BytesStream(image))
    same(laid_out(disk.size, layer.pieces()), model(disk.size, runs))


@settings(max_examples=15)
@given(data=st.data())
def test_others_read_what_is_written(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, qemu_img: Callable[..., str]
) -> None:
    """qemu and libvhdi, which share no code."""
    disk = data.draw(vhdkit.disks())
    chance = data.draw(st.randoms(use_true_random=False))
    path = tmp_path_factory.mktemp("written") / "disk.vhd"
    with path.open("w+b") as file:
        write_vhd(in_pieces(disk.layers[0], chance), disk.size, file)
    expected = model(disk.size, disk.layers[0])
    qemu_img("convert", "-f", "vpc", "-O", "raw", path, path.with_suffix(".raw"))
    same(path.with_suffix(".raw").read_bytes(), expected)
    same(vhdkit.by_libvhdi(path), expected)


@pytest.mark.parametrize(
    "size", [512, BLOCK - 512, BLOCK, BLOCK + 512, 7 * GIB + 512, 128 * GIB, 600 * GIB, 2040 * GIB]
)
def test_qemu_sees_the_size_to_the_byte(size: int, tmp_path: Path, qemu_img: Callable[..., str]) -> None:
    """Also where no geometry has it; the last sector is there."""
    path = tmp_path / "disk.vhd"
    with path.open("w+b") as file:
        write_vhd([Piece(size - 512, b"z" * 512)], size, file)
    assert json.loads(qemu_img("info", "-f", "vpc", "--output=json", path))["virtual-size"] == size
    layer = vhd.from_file(BytesFile(path))
    assert list(layer.pieces())[-1].end == size
    assert layer.virtual_size == size


def test_zeros_are_left_out() -> None:
    """A block of zeros takes no room, nor do zeros around what is none."""
    size = 10 * BLOCK
    empty = written([Piece(at, bytes(MIB)) for at in range(0, size, MIB)], size)
    assert len(empty) == 512 + 1024 + 512 + 512
    one = written([Piece(0, bytes(MIB)), Piece(3 * BLOCK, bytes(MIB - 1) + b"!")], size)
    assert len(one) == len(empty) + 512 + BLOCK
    same(
        laid_out(size, vhd.from_file(BytesFile(one)).pieces()),
        model(size, {3 * BLOCK: bytes(MIB - 1) + b"!"}),
    )


def test_the_file_is_sparse_where_nothing_was_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhd"
    with path.open("w+b") as file:
        length = write_vhd([Piece(at * BLOCK, b"x" * 4096) for at in range(50)], 50 * BLOCK, file)
    assert path.stat().st_size == length > 50 * BLOCK
    assert path.stat().st_blocks * 512 < 4 * MIB


def test_the_structures_are_what_the_specification_says() -> None:
    """Both footers alike, the blocks on whole sectors behind the table, in the order in which they came."""
    image = written([Piece(2 * BLOCK, b"b" * 512), Piece(0, b"a" * 512)], 3 * BLOCK)
    assert image[:512] == image[-512:] == vhdkit.summed(image[:512], 64)
    header = image[512:1536]
    assert header == vhdkit.summed(header, 36)
    table, version, entries, block_size = struct.unpack_from(">QIII", header, 16)
    assert (table, version, entries, block_size) == (1536, 0x10000, 3, BLOCK)
    places = ((2048 + 512 + BLOCK) // 512, 0xFFFFFFFF, 2048 // 512)
    assert struct.unpack_from(">III", image, table) == places
    assert image[1548:2048] == b"\xff" * 500
    assert image[2048:2560] == b"\xff" * 512
    assert image[28:32] == b"tap\0"
    file = io.BytesIO()
    write_vhd([], MIB, file, clock=lambda: 946684805.5)
    assert struct.unpack_from(">I", file.getvalue(), 24) == (5,)  # seconds since 2000


def test_what_was_in_the_file_is_gone() -> None:
    """Where nothing is written, a block would show it."""
    file = io.BytesIO(b"?" * 3 * BLOCK)
    length = write_vhd([Piece(MIB, b"x" * 512)], BLOCK, file)
    assert len(file.getvalue()) == length < 2 * BLOCK
    same(read_back(file.getvalue()), model(BLOCK, {MIB: b"x" * 512}))


@pytest.mark.parametrize(
    ("size", "geometry"),
    [
        # by the appendix of the specification, worked out by hand
        (MIB, (30, 4, 17)),
        (512 * 17 * 4 * 1000, (1000, 4, 17)),
        (512 * 17 * 16 * 1023, (1023, 16, 17)),
        (512 * 31 * 16 * 1000, (1000, 16, 31)),
        (512 * 63 * 16 * 2000, (2000, 16, 63)),
        (512 * 255 * 16 * 60000, (60000, 16, 255)),
        (2040 * GIB, (65535, 16, 255)),
    ],
)
def test_the_geometry_is_that_of_the_specification(size: int, geometry: tuple[int, int, int]) -> None:
    assert struct.unpack_from(">HBB", written([], size), 56) == geometry


def test_what_was_broken_off_is_no_vhd() -> None:
    def pieces() -> Iterator[Piece]:
        yield Piece(0, b"x" * MIB)
        raise ConnectionResetError

    file = io.BytesIO()
    with pytest.raises(ConnectionResetError):
        write_vhd(pieces(), 2 * BLOCK, file)
    with pytest.raises(InvalidImage):
        vhd.from_file(BytesFile(file.getvalue()))


def test_a_disk_that_no_vhd_can_hold_is_refused_before_anything_is_written() -> None:
    file = io.BytesIO(b"untouched")
    with pytest.raises(ImageTooLarge) as caught:
        write_vhd([], VHD_MAX + 512, file)
    assert (caught.value.size, caught.value.limit) == (VHD_MAX + 512, 2190433320960)
    for size in (0, -512, 511, MIB + 1):
        with pytest.raises(ValueError, match="whole sectors"):
            write_vhd([], size, file)
    assert file.getvalue() == b"untouched"


def test_a_piece_that_is_not_on_the_disk_is_a_fault_of_the_caller() -> None:
    for piece in (Piece(MIB, b"x" * 512), Piece(-512, b"x" * 512), Piece(MIB - 512, b"x" * 1024)):
        with pytest.raises(ValueError, match="a piece at"):
            write_vhd([piece], MIB, io.BytesIO())


def test_the_end_of_an_odd_raw_image_is_filled_with_zeros() -> None:
    """Its last piece ends within a sector."""
    image = written([Piece(512, b"x" * 100)], 1024)
    same(laid_out(1024, vhd.from_file(BytesFile(image)).pieces()), bytes(512) + b"x" * 100 + bytes(412))
