"""Formats are told by bytes alone, and those that nobody reads are refused with what to do instead."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import luks
import pytest
import vhdkit
from backports import zstd
from fuzz_qcow2 import Qcow2

from tests import needs
from xenvol.images.errors import UnsupportedImage
from xenvol.images.formats import detect

Told = tuple[str, bytes]


def tarball(*names: str, format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def v7_tarball() -> bytes:
    """As tar wrote before POSIX: no mark."""
    data = bytearray(tarball("0.vhd"))
    data[257:512] = bytes(255)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("disk.raw", b"x")
    return file.getvalue()


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(1024)


MADE: list[Told] = [
    ("vhd", vhdkit.make_dynamic(4 << 20)),
    ("qcow2", bytes(Qcow2().make())),
    ("qcow2", bytes(Qcow2(version=2).make())),
    ("qcow", b"QFI\xfb\0\0\0\x01" + bytes(600)),
    ("tar", tarball("0.vhd", "1.vhd")),
    ("tar", tarball("./", "./0.vhd", format=tarfile.GNU_FORMAT)),
    ("tar", tarball("0.vhd", format=tarfile.PAX_FORMAT)),
    ("tar", v7_tarball()),
    ("ova", tarball("machine.ovf", "disk-1.vmdk")),
    ("ova", tarball("Machine.OVF")),
    ("gzip", gzip.compress(tarball("0.vhd"))),
    ("zstd", zstd.compress(b"x" * 1000)),
    ("zstd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd.compress(b"x")),
    ("xz", lzma.compress(b"x")),
    ("bzip2", bz2.compress(b"x")),
    ("zip", zipped()),
    ("iso", at(0x8001, b"CD001")),
    ("luks", at(0, b"LUKS\xba\xbe\0\x02")),
    ("vmdk-descriptor", b"# Disk DescriptorFile\nversion=1\n"),
    ("vmdk-cowd", at(0, b"COWD")),
    ("7z", at(0, b"7z\xbc\xaf\x27\x1c")),
    ("lz4", at(0, b"\x04\x22\x4d\x18")),
]


@pytest.mark.parametrize(("format", "data"), MADE, ids=[name for name, _ in MADE])
def test_each_format_is_told_by_its_beginning(format: str, data: bytes) -> None:
    assert detect.of_start(data[: detect.START]) == format
    assert detect.of_file(vhdkit.BytesFile(data, "misleading.raw")) == format


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vhdx", "vdi", "qed", "parallels", "vpc", "qcow"])
def test_what_qemu_img_makes_is_told(format: str, qemu_img: Callable[..., str], tmp_path: Path) -> None:
    """So the marks are those of the formats, and not ours alone."""
    path = tmp_path / "disk"
    qemu_img("create", "-f", format, path, "8M")
    assert detect.of_start(path.read_bytes()[: detect.START]) == {"vpc": "vhd"}.get(format, format)


def test_what_qemu_img_knows_as_luks_is_told(qemu_img: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(luks.image(8 << 20))
    shown = json.loads(qemu_img("info", "--output=json", path))
    assert (shown["format"], shown["virtual-size"], shown["encrypted"]) == ("luks", 8 << 20, True)
    assert detect.of_start(path.read_bytes()[: detect.START]) == "luks"


def test_an_iso_of_a_real_tool_is_told(tmp_path: Path) -> None:
    program = needs.program("genisoimage", "mkisofs", "xorriso")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    as_mkisofs = ["-as", "mkisofs"] if program.endswith("xorriso") else []
    subprocess.run(
        [program, *as_mkisofs, "-quiet", "-o", tmp_path / "cd.iso", tmp_path / "tree"],
        check=True,
        capture_output=True,
    )
    assert detect.of_start((tmp_path / "cd.iso").read_bytes()[: detect.START]) == "iso"


def test_a_fixed_vhd_is_told_by_its_end() -> None:
    """Whatever its disk begins with: that is its guest's."""
    for disk in (os.urandom(1 << 20), at(0x8001, b"CD001"), bytes(Qcow2().make())):
        disk += bytes(-len(disk) % 512)
        assert detect.of_file(vhdkit.BytesFile(vhdkit.make_fixed(disk))) == "vhd-fixed"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 600, 33000, 1 << 20])
def test_anything_else_is_raw(size: int) -> None:
    """Empty and tiny files, too; nothing is read outside of them."""
    for data in (bytes(size), b"\xeb\x63\x90" * size):
        assert detect.of_start(data[: detect.START]) is None
        assert detect.of_file(vhdkit.BytesFile(data[:size])) == "raw"


def unnamed_v7() -> bytes:
    """The sum of a header is right, and there is no name in it."""
    return bytes(148) + b"0000400\0" + bytes(356)


@pytest.mark.parametrize(
    "start",
    [
        b"BZh9 is no block" + bytes(512),
        bytes(4) + b"1AY&SY" + bytes(512),
        b"\x40\x2a\x4d\x18" + bytes(512),
        b"\x50\x2a\x4d\x19" + bytes(512),
        unnamed_v7(),
        v7_tarball()[:500],
        at(0x8000, b"CD001"),
        at(258, b"ustar"),
        at(1, b"conectix"),
        b"KDM" + bytes(600),
    ],
)
def test_what_only_looks_like_a_mark_is_raw(start: bytes) -> None:
    """A part of one, or one in another place."""
    assert detect.of_start(start[: detect.START]) is None


def test_less_of_the_beginning_tells_less() -> None:
    """And is no error."""
    for format, data in MADE:
        for length in (0, 1, 4, 12, 100, 300):
            assert detect.of_start(data[:length]) in (None, format, "tar", "qcow2")


def test_a_damaged_tar_is_a_tar() -> None:
    """And refused by its reader; as a disk it would be imported as it is."""
    data = bytearray(tarball("0.vhd"))
    data[0] ^= 1
    assert detect.of_start(bytes(data)) == "tar"


UNREADABLE = sorted({name for name, _ in MADE} - {"vhd", "qcow2", "tar", "gzip", "zstd", "iso"})


@pytest.mark.parametrize("format", [*UNREADABLE, "vhdx", "vdi", "qed", "parallels"])
def test_formats_that_nobody_reads_are_refused_with_a_remedy(format: str) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        detect.refuse_unreadable("a{b}.img", format)
    text = str(caught.value)
    assert text.startswith("xenvol cannot read a{b}.img: it is ")
    assert any(
        word in text for word in ("qemu-img convert -O qcow2 a{b}.img", "unpack", "decrypt", "`qemu-img")
    )


@pytest.mark.parametrize("format", ["raw", "vhd", "vhd-fixed", "qcow2", "vmdk", "iso", "tar", "gzip", "zstd"])
def test_formats_that_are_read_pass(format: str) -> None:
    """Passes if nothing is raised."""
    detect.refuse_unreadable("disk", format)
