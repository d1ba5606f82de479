"""A VMDK of one file is unfolded by qemu-img; what that does not notice is noticed here, and nothing stays behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs
from xenvol.images.disk_image import DiskImage
from xenvol.images.errors import (
    InvalidImage,
    MissingParent,
    MissingReader,
    NoRoomToStage,
    TruncatedImage,
    UnsupportedImage,
)
from xenvol.images.formats import vmdk
from xenvol.images.sources.files import FileSource, as_stream
from xenvol.images.sources.staging import RESERVE, Staged, Staging

QemuImg = Callable[..., str]
KIB = 1 << 10


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    (tmp_path / "staging").mkdir()
    with Staging(tmp_path / "staging") as staging:
        yield staging
    assert not list((tmp_path / "staging").iterdir())


def unfolded(image: DiskImage) -> bytes:
    disk = bytearray(image.virtual_size)
    for offset, data in image.pieces():
        disk[offset : offset + len(data)] = data
    return bytes(disk)


def pattern(size: int) -> bytes:
    rng = random.Random(size)
    disk = bytearray(size)
    for _ in range(30):
        start = rng.randrange(size)
        run = rng.choice((rng.randbytes(1), rng.randbytes(64))) * 2000
        disk[start : start + len(run)] = run
    return bytes(disk[:size])


def made(qemu_img: QemuImg, tmp_path: Path, kind: str, disk: bytes) -> Path:
    (tmp_path / "disk.raw").write_bytes(disk)
    path = tmp_path / f"{kind}.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", tmp_path / "disk.raw", path)
    return path


DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="streamOptimized"
RW {sectors} SPARSE "disk.vmdk"
ddb.adapterType = "lsilogic"
"""


def streamed(disk: bytes, descriptor: str = DESCRIPTOR) -> bytearray:
    """As VMware writes it, in one go: marked grains, then tables, then a footer that knows where they are."""
    sectors = len(disk) // 512
    flags = 0x30001  # newlines, compressed grains, markers
    text = descriptor.format(sectors=sectors).encode().ljust(20 * 512, b"\0")

    def header(directory: int) -> bytes:
        head = struct.pack(
            "<4sIIQQQQIQQQB", b"KDMV", 3, flags, sectors, 128, 1, 20, 512, 0, directory, 128, 0
        )
        return (head + b"\n \r\n" + struct.pack("<H", 1)).ljust(512, b"\0")

    image = bytearray(header((1 << 64) - 1) + text).ljust(128 * 512, b"\0")
    places = []
    for start in range(0, len(disk), 64 * KIB):
        grain = disk[start : start + 64 * KIB]
        if not any(grain):
            places.append(0)
            continue
        places.append(len(image) // 512)
        packed = zlib.compress(grain.ljust(64 * KIB, b"\0"))
        image += struct.pack("<QI", start // 512, len(packed)) + packed
        image += bytes(-len(image) % 512)
    tables = []
    for first in range(0, len(places), 512):
        image += struct.pack("<QII", 4, 0, 1).ljust(512, b"\0")
        tables.append(len(image) // 512)
        image += struct.pack("<512I", *[*places[first : first + 512], *[0] * 512][:512])
    image += struct.pack("<QII", 1, 0, 2).ljust(512, b"\0")
    directory = len(image) // 512
    image += struct.pack(f"<{len(tables)}I", *tables)
    image += bytes(-len(image) % 512)
    image += struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    return image + header(directory) + bytes(512)


def opened(data: bytes | bytearray, tmp_path: Path, staging: Staging) -> DiskImage:
    path = tmp_path / "disk.vmdk"
    path.write_bytes(data)
    with FileSource(path) as file:
        return vmdk.from_file(file, staging=staging)


# --- read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["streamOptimized", "monolithicSparse"])
@pytest.mark.parametrize("size", [512, 64 * KIB, 64 * KIB + 512, 5 << 20, (40 << 20) + 1024])
def test_a_vmdk_of_one_file_is_read(
    kind: str, size: int, qemu_img: QemuImg, tmp_path: Path, staging: Staging
) -> None:
    """As it was before qemu-img made it; holes stay holes."""
    disk = pattern(size)
    with FileSource(made(qemu_img, tmp_path, kind, disk)) as file:
        image = vmdk.from_file(file, staging=staging)
    assert (image.format, image.virtual_size, image.is_ordered) == ("vmdk", size, True)
    assert unfolded(image) == disk
    assert image.allocated is not None
    assert image.allocated <= max(size, 4 * KIB) // (1 if size < 1 << 20 else 2)


def test_what_vmware_streams_is_read(qemu_img: QemuImg, tmp_path: Path, staging: Staging) -> None:
    """With its tables behind the data, and a footer that knows their place; its name says nothing to qemu-img."""
    disk = pattern(40 << 20)
    path = tmp_path / "nbd:odd,name=%s json:{}.vmdk"
    path.write_bytes(streamed(disk))
    with FileSource(path) as file:
        assert unfolded(vmdk.from_file(file, staging=staging)) == disk


@pytest.mark.parametrize("has_name", [True, False])
def test_a_file_is_copied_before_qemu_img_reads_it(
    has_name: bool, qemu_img: QemuImg, tmp_path: Path, staging: Staging
) -> None:
    """And the copy is gone when the disk is there."""
    disk = pattern(3 << 20)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(streamed(disk))
    told: list[int] = []
    with path.open("rb") as stream, FileSource(path if has_name else stream) as file:
        image = vmdk.from_file(file, staging=staging, tick=told.append)
    assert unfolded(image) == disk
    assert sum(told) >= path.stat().st_size
    assert staged_names(tmp_path) == ["disk"]


def test_what_is_staged_already_is_not_copied(qemu_img: QemuImg, tmp_path: Path, staging: Staging) -> None:
    """Nobody else can change it; it stays whoever's it is."""
    disk = pattern(3 << 20)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(streamed(disk))
    with FileSource(path) as file, staging.stage(as_stream(file), reason="it must") as copy:
        image = vmdk.from_file(copy, staging=staging)
        assert unfolded(image) == disk
        assert staging._files == 2
        assert staged_names(tmp_path) == ["disk", "stream"]


def staged_names(tmp_path: Path) -> list[str]:
    (own,) = (tmp_path / "staging").iterdir()
    return sorted(entry.name.partition("-")[2] for entry in own.iterdir() if entry.name[0].isdigit())


@pytest.mark.parametrize("is_staged", [True, False])
def test_progress_is_told_and_may_end_it(
    is_staged: bool, qemu_img: QemuImg, tmp_path: Path, staging: Staging
) -> None:
    """What is raised while it is asked ends the copying, or qemu-img, and its file is gone."""

    class Enough(Exception):
        pass

    def enough(size: int) -> None:
        raise Enough

    told: list[int] = []
    path = made(qemu_img, tmp_path, "streamOptimized", random.Random(1).randbytes(8 << 20))
    with Staged(path) if is_staged else FileSource(path) as file:
        vmdk.from_file(file, staging=staging, tick=told.append)
        assert sum(told) >= (8 << 20) + (0 if is_staged else file.size)
        (own,) = (tmp_path / "staging").iterdir()
        before = sorted(own.iterdir())
        with pytest.raises(Enough):
            vmdk.from_file(file, staging=staging, tick=enough)
        assert sorted(own.iterdir()) == before


# --- refused ------------------------------------------------------------------------------------------------------


def test_without_qemu_img_it_is_said_what_to_install(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingReader, match="qemu-utils"):
        opened(streamed(pattern(1 << 20)), tmp_path, staging)


@pytest.mark.parametrize("kind", ["streamOptimized", "monolithicSparse"])
def test_a_vmdk_that_was_cut_is_refused(
    kind: str, qemu_img: QemuImg, tmp_path: Path, staging: Staging
) -> None:
    """qemu-img takes zeros for what is missing of a monolithicSparse."""
    data = made(qemu_img, tmp_path, kind, random.Random(2).randbytes(3 << 20)).read_bytes()
    for length in (0, 3, 60, 600, 15000, 100_000, 1_000_000, len(data) - 70_000, len(data) - 10_000):
        with pytest.raises(InvalidImage):
            opened(data[:length], tmp_path, staging)


def test_a_stream_that_was_cut_is_refused(qemu_img: QemuImg, tmp_path: Path, staging: Staging) -> None:
    """Its footer is missing."""
    data = streamed(pattern(3 << 20))
    for length in (len(data) - 1, len(data) - 512, len(data) - 1024, len(data) // 2):
        with pytest.raises(TruncatedImage):
            opened(data[:length], tmp_path, staging)


@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "monolithicFlat", "twoGbMaxExtentFlat"])
def test_a_vmdk_of_several_files_is_refused(
    kind: str, qemu_img: QemuImg, tmp_path: Path, staging: Staging
) -> None:
    """By its descriptor, and each of its parts, too."""
    made(qemu_img, tmp_path, kind, pattern(1 << 20))
    for path in tmp_path.glob(f"{kind}*.vmdk"):
        if "-f0" in path.name or "-flat" in path.name:
            continue  # bytes of a disk, which no VMDK's reader is asked for
        with FileSource(path) as file, pytest.raises((UnsupportedImage, InvalidImage)):
            vmdk.from_file(file, staging=staging)


def test_a_child_is_refused(qemu_img: QemuImg, tmp_path: Path, staging: Staging) -> None:
    """And its parent is not opened."""
    base = made(qemu_img, tmp_path, "monolithicSparse", pattern(1 << 20))
    child = tmp_path / "child.vmdk"
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", child)
    with FileSource(child) as file, pytest.raises(MissingParent, match="monolithicSparse"):
        vmdk.from_file(file, staging=staging)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("parentCID=ffffffff", "parentCID=12345678", MissingParent),
        ("version=1", 'parentFileNameHint="/etc/passwd"', MissingParent),
        ("# Disk DescriptorFile", 'PARENTFILENAMEHINT="/etc/passwd"', MissingParent),
        ("streamOptimized", "monolithicFlat", UnsupportedImage),
        ("streamOptimized", "twoGbMaxExtentSparse", UnsupportedImage),
        ("SPARSE", "FLAT", UnsupportedImage),
        ('RW {sectors} SPARSE "disk.vmdk"', "", UnsupportedImage),
        ("ddb.adapterType", 'RW 100 SPARSE "other.vmdk"\nddb.x', UnsupportedImage),
        ("ddb.adapterType", '\0RW 100 FLAT "/etc/passwd" 0\nddb.x', UnsupportedImage),
    ],
)
def test_a_descriptor_that_speaks_of_other_files_is_refused(
    old: str, new: str, error: type[Exception], tmp_path: Path, staging: Staging
) -> None:
    with pytest.raises(error):
        opened(streamed(pattern(1 << 20), DESCRIPTOR.replace(old, new)), tmp_path, staging)


def elsewhere(tmp_path: Path) -> bytes:
    """A descriptor of a disk of 1 MiB that is a file of somebody else's."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret".ljust(1 << 20, b"s"))
    return textwrap.dedent(f"""\
        # Disk DescriptorFile
        version=1
        CID=fffffffe
        parentCID=ffffffff
        createType="monolithicFlat"
        RW 2048 FLAT "{secret}" 0
        ddb.adapterType = "ide"
        """).encode()


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_changes_when_qemu_img_begins_is_read_as_it_was_checked(
    is_replaced: bool, qemu_img: QemuImg, tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether another comes in its place or it is written over: no file that it names then gets into the disk."""
    disk = pattern(1 << 20)
    (tmp_path / "evil").write_bytes(elsewhere(tmp_path))
    assert b"monolithicFlat" in (tmp_path / "evil").read_bytes()
    assert "virtual size: 1 MiB" in qemu_img("info", tmp_path / "evil")
    real = needs.program("qemu-img")
    swap = "os.replace(evil, path)" if is_replaced else "open(path, 'wb').write(open(evil, 'rb').read())"
    qemu_img_that(
        tmp_path,
        f"""
        evil, path = {str(tmp_path / "evil")!r}, {str(tmp_path / "disk.vmdk")!r}
        {swap}
        os.execv({real!r}, [{real!r}, *sys.argv[1:]])
        """,
        monkeypatch,
    )
    assert unfolded(opened(streamed(disk), tmp_path, staging)) == disk
    assert (tmp_path / "disk.vmdk").read_bytes() == elsewhere(tmp_path)  # it was changed


@pytest.mark.parametrize("old", ["SPARSE", "streamOptimized"])
def test_a_file_that_changes_before_it_is_copied_is_checked_again(
    old: str, qemu_img: QemuImg, tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked is what qemu-img reads."""
    path = tmp_path / "disk.vmdk"
    found = shutil.which

    def changes(name: str) -> str | None:
        data = path.read_bytes()
        assert old.encode() in data
        with path.open("r+b") as file:  # the same file, which is open already
            file.write(data.replace(old.encode(), b"FLAT".ljust(len(old))))
        return found(name)

    monkeypatch.setattr(shutil, "which", changes)
    with pytest.raises(UnsupportedImage, match="it is a VMDK of type"):
        opened(streamed(pattern(1 << 20)), tmp_path, staging)
    assert staged_names(tmp_path) == []


@pytest.mark.parametrize(
    ("at", "layout", "value", "error", "problem"),
    [
        (0, "<I", 0, InvalidImage, "wrong magic"),
        (4, "<I", 0, UnsupportedImage, "version 0"),
        (4, "<I", 4, UnsupportedImage, "version 4"),
        (0x0C, "<Q", 0, UnsupportedImage, "one of the files"),
        (0x0C, "<Q", 1, InvalidImage, "its footer says 1048576 bytes, its header 512"),
        (0x0C, "<Q", (1 << 64) - 1, InvalidImage, "its footer says"),
        (0x1C, "<Q", 0, UnsupportedImage, "one of the files"),
        (0x1C, "<Q", 2, InvalidImage, "its descriptor would have"),
        (0x1C, "<Q", (1 << 64) - 1, InvalidImage, "its descriptor would have"),
        (0x24, "<Q", 0, InvalidImage, "its descriptor would have 0 bytes"),
        (0x24, "<Q", 21, InvalidImage, "its descriptor would have"),
        (0x38, "<Q", 1 << 40, TruncatedImage, "before its header and tables say"),
        (-1024, "<I", 0, TruncatedImage, "the footer at its end is missing"),
        (-1024 + 0x0C, "<Q", 0, InvalidImage, "its footer says 0"),
        (-1024 + 0x14, "<Q", 0, InvalidImage, "its grains"),
        (-1024 + 0x14, "<Q", 100, InvalidImage, "its grains"),
        (-1024 + 0x14, "<Q", 1 << 40, InvalidImage, "its grains"),
        (-1024 + 0x2C, "<I", 0, InvalidImage, "its tables"),
        (-1024 + 0x2C, "<I", 513, InvalidImage, "its tables"),
        (-1024 + 0x38, "<Q", 1 << 40, TruncatedImage, "before its header and tables say"),
        (-1024 + 0x38, "<Q", (1 << 64) - 1, TruncatedImage, "before its header and tables say"),
    ],
)
def test_each_field_that_cannot_be_is_refused(
    at: int, layout: str, value: int, error: type[Exception], problem: str, tmp_path: Path, staging: Staging
) -> None:
    """Before qemu-img sees it."""
    data = streamed(pattern(1 << 20))
    struct.pack_into(layout, data, at % len(data), value)
    with pytest.raises(error) as caught:
        opened(data, tmp_path, staging)
    assert type(caught.value) is error
    assert problem in str(caught.value)


def test_sizes_that_no_disk_has_are_refused(tmp_path: Path, staging: Staging) -> None:
    data = streamed(pattern(1 << 20))
    for at in (0x0C, len(data) - 1024 + 0x0C):
        struct.pack_into("<Q", data, at, 1 << 40)
    with pytest.raises(InvalidImage, match="its disk would have"):
        opened(data, tmp_path, staging)


def test_a_grain_behind_the_end_is_found_before_qemu_img_begins(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = streamed(pattern(1 << 20))
    (directory,) = struct.unpack_from("<Q", data, len(data) - 1024 + 0x38)
    (table,) = struct.unpack_from("<I", data, directory * 512)
    struct.pack_into("<I", data, table * 512 + 4, len(data) // 512)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TruncatedImage, match="a grain lies at"):
        opened(data, tmp_path, staging)


def test_a_damaged_grain_is_qemus_to_find(qemu_img: QemuImg, tmp_path: Path, staging: Staging) -> None:
    """Its message is passed on, and its file is gone."""
    data = streamed(random.Random(3).randbytes(1 << 20))
    data[128 * 512 + 100 : 128 * 512 + 200] = bytes(100)
    with pytest.raises(InvalidImage, match="qemu-img cannot read it"):
        opened(data, tmp_path, staging)


def test_no_room_is_noticed_before(tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays free for others is not counted."""
    blocks = (RESERVE >> 9) + 2
    monkeypatch.setattr(
        os, "statvfs", lambda path: os.statvfs_result((512, 512, 1 << 40, blocks, blocks, 0, 0, 0, 0, 255))
    )
    monkeypatch.setattr("shutil.which", lambda name: "/bin/false")
    data = streamed(random.Random(3).randbytes(1 << 20))
    with pytest.raises(NoRoomToStage, match=r"disk\.vmdk must be copied and unpacked") as caught:
        opened(data, tmp_path, staging)
    assert (caught.value.needed, caught.value.free) == (len(data) + (1 << 20), 1024)
    assert caught.value.directory == str(tmp_path / "staging")
    assert list((tmp_path / "staging").iterdir()) == []
    with (
        Staged(tmp_path / "disk.vmdk") as file,
        pytest.raises(NoRoomToStage, match="must be unpacked") as caught,
    ):
        vmdk.from_file(file, staging=staging)
    assert caught.value.needed == 1 << 20


def qemu_img_that(tmp_path: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in its place."""
    directory = tmp_path / "bin"
    directory.mkdir(exist_ok=True)
    program = directory / "qemu-img"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time, resource\n{textwrap.dedent(does)}")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_qemu_img_is_held_to_the_disks_size(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot write more than the header says, take the machine's memory, or compute for ever."""
    qemu_img_that(tmp_path, "open(sys.argv[-1], 'wb').write(bytes(2 << 20))", monkeypatch)
    with pytest.raises(InvalidImage, match="qemu-img cannot read it"):
        opened(streamed(pattern(1 << 20)), tmp_path, staging)
    qemu_img_that(
        tmp_path,
        """
        limits = [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in ("FSIZE", "AS", "CPU", "CORE")]
        sys.exit(str(limits))
        """,
        monkeypatch,
    )
    with pytest.raises(InvalidImage) as caught:
        opened(streamed(pattern(1 << 20)), tmp_path, staging)
    assert f"({1 << 20}, {1 << 20}), ({4 << 30}, {4 << 30}), (60, 60), (0, 0)" in str(caught.value)


@pytest.mark.parametrize("said", ["No space left on device", "Disk quota exceeded"])
def test_a_disk_that_gets_full_is_no_bad_image(
    said: str, tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """qemu-img says so in words alone."""
    qemu_img_that(tmp_path, f"sys.exit('qemu-img: error while writing: {said}')", monkeypatch)
    with pytest.raises(NoRoomToStage, match=r"disk\.vmdk must be unpacked") as caught:
        opened(streamed(pattern(1 << 20)), tmp_path, staging)
    assert (caught.value.directory, caught.value.needed) == (str(tmp_path / "staging"), 1 << 20)


def test_a_disk_of_another_size_than_was_said_is_refused(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu_img_that(tmp_path, "open(sys.argv[-1], 'wb').write(bytes(1000))", monkeypatch)
    with pytest.raises(InvalidImage, match="its disk has 1000 bytes"):
        opened(streamed(pattern(1 << 20)), tmp_path, staging)


def test_qemu_img_is_told_to_open_no_parent(
    tmp_path: Path, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a descriptor says that we read otherwise than it does."""
    qemu_img_that(tmp_path, "sys.exit(sys.argv[-2])", monkeypatch)
    with pytest.raises(InvalidImage) as caught:
        opened(streamed(pattern(1 << 20)), tmp_path, staging)
    assert '"backing": null' in str(caught.value)


def test_qemu_img_is_killed_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    """A killed import leaves nobody who writes into its directory."""
    (tmp_path / "disk.vmdk").write_bytes(streamed(pattern(1 << 20)))
    (tmp_path / "bin").mkdir()
    pid = tmp_path / "pid"
    program = tmp_path / "bin" / "qemu-img"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}\nexec sleep 60\n")
    program.chmod(0o755)
    (tmp_path / "staging").mkdir()
    script = f"""
        from xenvol.images.formats import vmdk
        from xenvol.images.sources.files import FileSource
        from xenvol.images.sources.staging import Staging
        with Staging({str(tmp_path / "staging")!r}) as staging:
            vmdk.from_file(FileSource({str(tmp_path / "disk.vmdk")!r}), staging=staging)
    """
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    importer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env=environment)
    try:
        wait_until(pid.exists)
    finally:
        importer.send_signal(signal.SIGKILL)
        importer.wait()
    child = int(pid.read_text())
    wait_until(lambda: not is_alive(child))


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
