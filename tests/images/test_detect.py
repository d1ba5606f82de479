"""Formats are told by bytes alone, and those that nobody reads are refused with what to do instead."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
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
from xenvol.images.errors import InvalidImage, UnsupportedImage
from xenvol.images.formats import detect, foreign

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
    ("ova", tarball("disk-1.vmdk", "machine.ovf")),
    ("ova", tarball("machine.ovf", format=tarfile.PAX_FORMAT)),
    ("xva", tarball("ova.xml", "Ref:10/00000000")),
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
    ("lzma", lzma.compress(b"x" * 1000, format=lzma.FORMAT_ALONE)),
    ("vmdk-sesparse", at(0, b"\xbe\xba\xfe\xca\0\0\0\0")),
    *[(name, at(offset, magic)) for offset, magic, name in foreign.MAGICS],
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
def test_anything_else_is_raw_if_it_has_whole_sectors(size: int) -> None:
    """Empty and tiny files, too; nothing is read outside of them."""
    for data in (bytes(size), b"\xeb\x63\x90" * size, b"A" * size):
        assert detect.of_start(data[: detect.START]) is None
        assert detect.of_file(vhdkit.BytesFile(data[:size])) == ("raw" if size % 512 == 0 else "odd")
    assert detect.of_stream(bytes(600), size) == ("raw" if size % 512 == 0 else "odd")
    assert detect.of_stream(bytes(600), None) == "raw"


DESCRIPTOR = (
    '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'
    '# Extent description\nRW 16384 FLAT "disk-flat.vmdk" 0\n\nddb.geometry.cylinders = "16"\n'
)


@pytest.mark.parametrize(
    "spelling",
    [
        DESCRIPTOR.encode(),
        DESCRIPTOR.replace("\n", "\r\n").encode(),
        DESCRIPTOR.upper().encode(),
        DESCRIPTOR.encode("utf-8-sig"),
        DESCRIPTOR.encode("utf-16"),
        b"# by hand\n" + DESCRIPTOR.encode(),
        DESCRIPTOR.replace("# Disk", "#Disk").encode(),
        DESCRIPTOR.split("\n", 1)[1].encode(),
        DESCRIPTOR.split("\n\n", 1)[1].encode(),
        DESCRIPTOR.encode().ljust(20 * 512, b"\0"),
        DESCRIPTOR.replace("disk-flat", "Datenträger").encode(),
    ],
)
def test_the_text_of_a_vmdk_is_told_however_it_is_spelled(spelling: bytes) -> None:
    assert detect.of_file(vhdkit.BytesFile(spelling)) == "vmdk-descriptor"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("html", b"<!DOCTYPE html><html><body>Log in</body></html>"),
        ("html", b"\n<!-- proxy -->\n<HTML>\n<head>".ljust(1024)),
        ("html", b"<html></html>".ljust(4096, b"\0")),
        ("xml", b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>"),
        ("xml", b"<Error>\n  <Code>".ljust(2048, b"x")),
        ("json", b'{"error": "expired"}'),
        ("json", b'[\n  {"a": 1}]'.ljust(1024)),
        ("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n"),
        ("checksums", b"d41d8cd98f00b204e9800998ecf8427e  disk.raw\n"),
        ("checksums", b"# made by me\n" + b"ab" * 32 + b" *disk.raw\n"),
        ("checksums", b"SHA256 (disk.raw) = " + b"ab" * 32),
        ("checksums", b"ab" * 64),
        ("signature", b"-----BEGIN PGP SIGNATURE-----\n\niQ"),
        ("text", b"Not found\n"),
        ("text", "Zugriff verweigert: ungültig\n".encode() * 100),
    ],
)
def test_what_a_server_sends_in_place_of_an_image_is_told(kind: str, text: bytes) -> None:
    assert detect.of_file(vhdkit.BytesFile(text)) == kind


@pytest.mark.parametrize(
    "disk",
    [
        b"A" * 1024,
        b'{"a": 1}' + bytes(1016),
        b"a line\n" + bytes(505) + b"a line\n" * 73 + b"x",
        b"\xff\xfe" + os.urandom(1022),
        b"]\0\0" + bytes(1021),
    ],
)
def test_a_disk_that_begins_with_a_little_text_is_raw(disk: bytes) -> None:
    assert detect.of_file(vhdkit.BytesFile(disk)) == "raw"


def test_a_trailer_tells_a_disk_image_of_a_mac(tmp_path: Path) -> None:
    """In its last 512 bytes, and nowhere else."""
    trailer = b"koly\0\0\0\x04\0\0\x02\0" + bytes(500)
    assert detect.of_file(vhdkit.BytesFile(os.urandom(4096) + trailer)) == "dmg"
    assert detect.of_file(vhdkit.BytesFile(bytes(4096) + trailer + bytes(512))) == "raw"


def test_the_end_of_a_stream_that_was_taken_for_raw_is_judged_by_the_same_marks() -> None:
    """Passes if only the ends of other formats are refused."""
    fixed = vhdkit.make_fixed(bytes(4096))
    for end in (fixed, vhdkit.make_dynamic(4 << 20), fixed[:-1] + b"!", fixed + bytes(512)):
        with pytest.raises(InvalidImage, match="--format vhd"):
            detect.refuse_end("disk", end, len(end))
    with pytest.raises(UnsupportedImage, match="DMG"):
        detect.refuse_end("disk", b"koly\0\0\0\x04" + bytes(504), 4096)
    detect.refuse_end("disk", bytes(4096), 4096)


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
            assert detect.of_start(data[:length]) in (None, format, "tar", "qcow2", "text")


def test_a_damaged_tar_is_a_tar() -> None:
    """And refused by its reader; as a disk it would be imported as it is."""
    data = bytearray(tarball("0.vhd"))
    data[0] ^= 1
    assert detect.of_start(bytes(data)) == "tar"


@pytest.mark.parametrize("format", sorted(foreign.FOREIGN))
def test_formats_that_nobody_reads_are_refused_with_a_remedy(format: str) -> None:
    """And with the way out for a disk that only looks so."""
    with pytest.raises(UnsupportedImage) as caught:
        detect.refuse_unreadable("a{b}.img", format)
    text = str(caught.value)
    assert re.match(r"xenvol cannot read a\{b\}\.img: it", text)
    assert text.endswith("; or, if its bytes are the disk itself, say so (--format raw)")
    assert "a{b}.img" in text or "{" not in text


@pytest.mark.parametrize("format", ["raw", "vhd", "vhd-fixed", "qcow2", "vmdk", "iso", "tar", "gzip", "zstd"])
def test_formats_that_are_read_pass(format: str) -> None:
    """Passes if nothing is raised."""
    detect.refuse_unreadable("disk", format)
