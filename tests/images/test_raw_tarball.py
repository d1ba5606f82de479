"""A tarball of a raw disk is the disk in it, sparse or not, and nothing else."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from imagelab import MIB, Lab, lab, pattern

from tests import needs
from tests.scenarios import changes
from xenvol.images import ImageSource, import_image, inspect_image
from xenvol.images.errors import InvalidImage, TruncatedImage
from xenvol.images.formats import raw_tarball
from xenvol.images.sources.streams import stream_of

SIZE = 12 * MIB
DISK = pattern(SIZE, seed=3, density=0.2)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        yield made


def packed(place: Path, *options: str, disk: bytes = DISK) -> bytes:
    """By tar, of a file with holes."""
    path = place / "disk.raw"
    with path.open("wb") as file:
        file.truncate(len(disk))
        for start in range(0, len(disk), 4096):
            if any(part := disk[start : start + 4096]):
                os.pwrite(file.fileno(), part, start)
    command = [needs.program("tar"), "-cf", "-", *options, "-C", str(place), "disk.raw"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def tar(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def disk_of(data: bytes) -> bytes:
    image = raw_tarball.from_stream(stream_of(cast(BinaryIO, io.BytesIO(data)), "image.tar"))
    disk = bytearray(image.virtual_size)
    stored = 0
    for offset, part in image.pieces():
        assert not any(disk[offset : offset + len(part)])
        disk[offset : offset + len(part)] = part
        stored += len(part)
    assert stored == image.allocated
    return bytes(disk)


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize(
    "options", [[], ["--format=oldgnu", "-S"], ["--format=gnu", "-S"], ["--format=posix"]], ids=str
)
@pytest.mark.parametrize("given", ["file", "stream", "gzip", "said"])
def test_it_becomes_its_disk(pool: Lab, tmp_path: Path, options: list[str], given: str, road: str) -> None:
    """As Google's documentation makes it (`tar --format=oldgnu -Sczf`), and as others do."""
    data = packed(tmp_path, *options)
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(data, 1) if given in ("gzip", "said") else data)
    source: ImageSource | Path = path
    if given == "stream":
        source = ImageSource(where=cast(BinaryIO, io.BufferedReader(io.BytesIO(data))))
    elif given == "said":
        source = ImageSource(where=path, format="tarball")
    made = import_image(pool.session, source, pool.sr(), verify=True, here=pool.on(road))
    assert (made.format, made.virtual_size) == ("tarball", SIZE)
    assert pool.content(made.vdi_uuid) == DISK


def test_a_sparse_one_of_many_parts_is_read_without_its_holes(tmp_path: Path) -> None:
    """Their map goes on in blocks of its own."""
    disk = b"".join(bytes([1 + number % 255]) * 4096 + bytes(60 << 10) for number in range(100)) + bytes(MIB)
    data = packed(tmp_path, "--format=oldgnu", "-S", disk=disk)
    assert disk_of(data) == disk
    image = raw_tarball.from_stream(stream_of(cast(BinaryIO, io.BytesIO(data)), "image.tar"))
    assert (image.virtual_size, image.allocated) == (len(disk), 100 * 4096)


def test_what_a_mac_adds_and_a_directory_are_left_out() -> None:
    data = tar(("._disk.raw", b"x"), ("./disk.raw", DISK), ("._more", b"x"))
    assert disk_of(data) == DISK


SPARSE_HEADER = 386


def damaged(data: bytes, at: int, new: bytes) -> bytes:
    """With the right checksum of its header."""
    changed = bytearray(data)
    changed[at : at + len(new)] = new
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: tar(("disk.raw", DISK), ("disk2.raw", DISK)), "follows the disk"),
        (lambda data: tar(("other.raw", DISK)), "does not have the name|begins with"),
        (lambda data: tar(("disk.raw", b"")), "holds anything"),
        (lambda data: tar(("disk.raw", DISK[:-1])), "not whole sectors"),
        (lambda data: damaged(data, SPARSE_HEADER + 12, b"77777777777\0"), "map of a sparse file is damaged"),
        (lambda data: damaged(data, SPARSE_HEADER + 24, b"00000000000\0"), "map of a sparse file is damaged"),
        (lambda data: damaged(data, 483, b"00000001000\0"), "map of a sparse file is damaged"),
        (lambda data: damaged(data, 124, b"00000001000\0"), "map of a sparse file is damaged"),
        (lambda data: data + b"x" * 512, "bytes follow its end"),
    ],
)
def test_a_bad_one_is_refused_and_leaves_nothing(
    pool: Lab, tmp_path: Path, change: Callable[[bytes], bytes], problem: str
) -> None:
    bad = change(packed(tmp_path, "--format=oldgnu", "-S"))
    before = pool.xapi.snapshot()
    (tmp_path / "bad.tar").write_bytes(bad)
    for source in (tmp_path / "bad.tar", io.BytesIO(bad)):
        with pytest.raises(InvalidImage, match=problem):
            import_image(pool.session, source, pool.sr(), here=pool.elsewhere)
    left = [line for line in changes(before, pool.xapi.snapshot()) if "physical_utilisation" not in line]
    assert left == []  # the SR tells its use again as soon as it is asked


@pytest.mark.parametrize("options", [[], ["--format=oldgnu", "-S"]], ids=str)
def test_one_that_was_cut_is_refused_wherever_that_was(tmp_path: Path, options: list[str]) -> None:
    data = packed(tmp_path, *options)
    end = len(data.rstrip(b"\0")) // 512 * 512
    for length in (600, 5000, end // 2, end - 512):
        with pytest.raises(TruncatedImage):
            inspect_image(io.BytesIO(data[:length]), check=True)
