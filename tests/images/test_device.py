"""A device that this machine shows: read and written straight, never made, truncated, or taken from somebody."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_transport_choice import KIB, MIB, assembled

from tests import needs
from xenvol.images.disk_image import Piece
from xenvol.images.errors import ImageTooLarge, TargetError, TransferFailed
from xenvol.images.transports.device import NO_VDI, DeviceTransport, open_device

SIZE = 4 * MIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    with path.open("wb") as made:
        made.truncate(SIZE)
    return path


@pytest.fixture
def loop(file: Path) -> Iterator[Path]:
    """A real block device."""
    losetup = needs.program("losetup")
    needs.root("who alone makes loop devices")
    done = subprocess.run([losetup, "--find", "--show", file], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs a loop device, and this machine gives none ({done.stderr.strip()})")
    path = Path(done.stdout.strip())
    yield path
    subprocess.run([losetup, "--detach", path], check=True)


def road(path: Path) -> DeviceTransport:
    return DeviceTransport(path, may_be_file=True)


def read(path: Path) -> bytes:
    with road(path).contents() as disk:
        return assembled(disk)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 2100), st.sampled_from(b"\0ab")), max_size=8
    )
)
def test_what_is_written_is_there_and_nothing_else(file: Path, runs: list[tuple[int, int, int]]) -> None:
    before = os.urandom(SIZE)
    file.write_bytes(before)
    data = bytearray(before)
    pieces = []
    for start, length, value in runs:
        piece = (bytes([value]) * (512 * length))[: SIZE - start * 512]
        data[start * 512 : start * 512 + len(piece)] = piece
        pieces.append(Piece(start * 512, piece))
    road(file).fill(NO_VDI, pieces)
    assert file.read_bytes() == data
    assert read(file) == data


def test_holes_and_zeros_are_left_out(file: Path) -> None:
    road(file).fill(NO_VDI, [Piece(MIB, b"a" * 512)])
    assert file.stat().st_blocks * 512 <= 64 * KIB
    with road(file).contents() as disk:
        assert (disk.format, disk.virtual_size, disk.is_ordered) == ("raw", SIZE, True)
        assert sum(len(piece.data) for piece in disk.pieces()) <= 64 * KIB


def test_a_hole_at_the_end_is_not_read_however_large(file: Path) -> None:
    road(file).fill(NO_VDI, [Piece(MIB, b"a" * 512)])
    os.truncate(file, 8 << 40)
    with road(file).contents() as disk:
        assert [piece.offset for piece in disk.pieces()] == [MIB]


def test_the_odd_end_of_an_image_is_filled_up_to_the_sector_but_not_beyond_the_device(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    path.write_bytes(b"x" * 1300)
    road(path).fill(NO_VDI, [Piece(512, b"abc"), Piece(1024, b"defg")])
    assert path.read_bytes() == b"x" * 512 + b"abc".ljust(512, b"\0") + b"defg".ljust(276, b"\0")


def test_a_piece_behind_the_end_is_refused_and_the_device_does_not_grow(file: Path) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        road(file).fill(NO_VDI, [Piece(SIZE - 512, b"a" * 513)])
    assert (caught.value.size, caught.value.limit) == (SIZE + 1, SIZE)
    assert file.stat().st_size == SIZE


def test_a_file_is_no_device_unless_somebody_says_so(file: Path) -> None:
    for use in (
        lambda: DeviceTransport(file).size,
        lambda: DeviceTransport(file).fill(NO_VDI, [Piece(0, b"a" * 512)]),
    ):
        with pytest.raises(TargetError, match="it is not a block device"):
            use()
    assert file.read_bytes() == bytes(SIZE)


@pytest.mark.parametrize("path", ["/dev/null", "/", "/dev/fd/0/nothing"])
def test_what_is_no_disk_at_all_never_is_one(path: str) -> None:
    with pytest.raises(TargetError):
        road(Path(path)).fill(NO_VDI, [Piece(0, b"a" * 512)])


def test_a_device_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        road(tmp_path / "none").fill(NO_VDI, [Piece(0, b"a" * 512)])
    assert list(tmp_path.iterdir()) == []


def test_a_block_device_is_written_and_read(loop: Path, file: Path) -> None:
    data = os.urandom(SIZE)
    way = DeviceTransport(loop)
    assert way.size == SIZE
    way.fill(NO_VDI, [Piece(at, data[at : at + MIB]) for at in range(0, SIZE, MIB)])
    assert file.read_bytes() == data
    with way.contents() as disk:
        assert assembled(disk) == data
        assert disk.allocated == SIZE


def test_a_block_device_that_somebody_has_claimed_is_left_alone(loop: Path, file: Path) -> None:
    holder = os.open(loop, os.O_RDONLY | os.O_EXCL)  # as a mount has it
    try:
        with pytest.raises(TargetError, match="it is mounted, or part of"):
            DeviceTransport(loop).fill(NO_VDI, [Piece(0, b"a" * 512)])
    finally:
        os.close(holder)
    assert file.read_bytes() == bytes(SIZE)


def test_bytes_that_the_storage_does_not_take_name_the_place_and_the_device(file: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, limits[1]))  # as a device that is full from there on
    try:
        with pytest.raises(TransferFailed) as caught:
            road(file).fill(NO_VDI, [Piece(2 * MIB - 512, b"a" * MIB)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    expected = f"device {file}: writing at byte {2 * MIB - 512} of {file} failed: File too large"
    assert str(caught.value) == expected


def test_a_device_that_ends_too_soon_is_a_failure_and_no_zeros(file: Path) -> None:
    file.write_bytes(b"a" * SIZE)
    with open_device(file, writes=False, what="the disk", may_be_file=True) as device:
        pieces = device.pieces()
        next(pieces)
        os.truncate(file, MIB)
        with pytest.raises(TransferFailed, match="it ends there"):
            list(pieces)
