"""The list of bad images of `docs/images.md`: each gets an error that names the cause, and nothing of it remains."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import struct
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import luks
import pytest
import vhdkit
from imagelab import GIB, MIB, Lab, lab, pattern

from xenvol.errors import XenVolError
from xenvol.images import ImageSource, import_image
from xenvol.images.errors import (
    ChecksumMismatch,
    DiskNotSuited,
    EncryptedImage,
    ImageTooLarge,
    InvalidImage,
    MissingParent,
    SourceError,
    TruncatedImage,
    UnsupportedImage,
)

QemuImg = Callable[..., str]
SIZE = 5 * MIB
DISK = pattern(SIZE, seed=5)
DMG_TRAILER = b"koly\0\0\0\x04\0\0\x02\0" + bytes(500)


@dataclass(frozen=True)
class Bad:
    """`make` puts the image, or the images of a chain, into a directory, and says what is given to an import."""

    name: str
    make: Callable[[Path, QemuImg], object]
    error: type[XenVolError]
    says: str
    sr: str = "nfs"

    @property
    def words(self) -> str:
        """What it says, for a table: a uuid is another each time."""
        return re.sub(
            r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "it holds only the differences from…", self.says
        )

    def __str__(self) -> str:
        return self.name


def written(directory: Path, data: bytes) -> Path:
    path = directory / "image"
    path.write_bytes(data)
    return path


def of_bytes(make: Callable[[], bytes]) -> Callable[[Path, QemuImg], object]:
    return lambda directory, qemu_img: written(directory, make())


def sent(make: Callable[[], bytes], **known: object) -> Callable[[Path, QemuImg], object]:
    """As a stream."""

    def give(directory: Path, qemu_img: QemuImg) -> object:
        return ImageSource(where=io.BytesIO(make()), **known)  # type: ignore[arg-type]  # the keywords are of several types

    return give


def dynamic(**options: object) -> bytes:
    return vhdkit.make_dynamic(SIZE, {0: DISK}, **options)  # type: ignore[arg-type]  # the keywords are of several types


def differencing(parent: UUID, **options: object) -> bytes:
    return vhdkit.make_differencing(SIZE, {0: DISK[:MIB]}, parent=parent, **options)


def tarball(*members: tuple[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]  # the mode is a parameter
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def linked(kind: bytes, target: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("0.vhd")
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return buffer.getvalue()


def qcow2(*options: str) -> Callable[[Path, QemuImg], Path]:
    def make(directory: Path, qemu_img: QemuImg) -> Path:
        (directory / "raw").write_bytes(DISK)
        path = directory / "image"
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, directory / "raw", path)
        return path

    return make


def changed(make: Callable[[Path, QemuImg], Path], at: int, new: bytes) -> Callable[[Path, QemuImg], Path]:
    def change(directory: Path, qemu_img: QemuImg) -> Path:
        path = make(directory, qemu_img)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(new)
        return path

    return change


def cut(make: Callable[[Path, QemuImg], Path], size: int) -> Callable[[Path, QemuImg], Path]:
    def shorten(directory: Path, qemu_img: QemuImg) -> Path:
        path = make(directory, qemu_img)
        os.truncate(path, size)
        return path

    return shorten


def with_backing_file(directory: Path, qemu_img: QemuImg) -> Path:
    (directory / "secret").write_bytes(bytes(MIB))
    path = directory / "image"
    qemu_img("create", "-f", "qcow2", "-b", directory / "secret", "-F", "raw", path)
    return path


def with_external_data(directory: Path, qemu_img: QemuImg) -> Path:
    path = directory / "image"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={directory / 'secret'}", path, "1M")
    return path


def encrypted(directory: Path, qemu_img: QemuImg) -> Path:
    qemu_img("create", "-f", "qcow2", directory / "plain", "1M")
    return written(directory, luks.qcow2((directory / "plain").read_bytes()))


def chain(layers: Callable[[], Sequence[bytes]]) -> Callable[[Path, QemuImg], object]:
    def make(directory: Path, qemu_img: QemuImg) -> list[Path]:
        paths = []
        for number, data in enumerate(layers()):
            paths.append(directory / f"{number}.vhd")
            paths[-1].write_bytes(data)
        return paths

    return make


def with_checksum(checksum: str) -> Callable[[Path, QemuImg], object]:
    return lambda directory, qemu_img: ImageSource(where=written(directory, DISK), checksum=checksum)


def huge(directory: Path, qemu_img: QemuImg) -> Path:
    path = directory / "image"
    with path.open("wb") as file:
        file.truncate(2041 * GIB)
    return path


A, B, C = uuid4(), uuid4(), uuid4()
ZIPPED = gzip.compress(DISK, 1)

BAD = (
    Bad(
        "no such file",
        lambda directory, qemu_img: directory / "missing",
        SourceError,
        "no such file",
    ),
    Bad("a directory", lambda directory, qemu_img: directory, SourceError, "it is a directory"),
    Bad("an empty file", of_bytes(lambda: b""), InvalidImage, "it is empty"),
    Bad(
        "raw, from a stream that ends early",
        sent(lambda: DISK[:-1], format="raw", size=SIZE),
        SourceError,
        "ended after",
    ),
    Bad("raw, larger than any disk", huge, ImageTooLarge, "has at most 2190433320960"),
    Bad("raw, into an ISO library", of_bytes(lambda: DISK), DiskNotSuited, "is an ISO library", "iso"),
    Bad(
        "VHD dynamic, cut off",
        of_bytes(lambda: dynamic()[: 3 * MIB]),
        TruncatedImage,
        "the file ends at 3145728",
    ),
    Bad(
        "VHD dynamic, cut off, as a stream",
        sent(lambda: dynamic()[: 3 * MIB]),
        TruncatedImage,
        "it ends at byte",
    ),
    Bad(
        "VHD dynamic, its header damaged",
        of_bytes(lambda: vhdkit.patched(dynamic(), 512 + 40, b"\xff")),
        InvalidImage,
        "its header is damaged",
    ),
    Bad(
        "VHD, a block outside the file",
        of_bytes(lambda: vhdkit.with_entry(dynamic(), 1, 0xFFFFFF)),
        TruncatedImage,
        "its block 1 ends at byte",
    ),
    Bad(
        "VHD, two blocks in one place",
        of_bytes(lambda: vhdkit.with_entry(dynamic(), 1, struct.unpack_from(">I", dynamic(), 1536)[0])),
        InvalidImage,
        "its block 1 lies over its block 0",
    ),
    Bad("VHD differencing, without its parent", of_bytes(lambda: differencing(A)), MissingParent, str(A)),
    Bad(
        "VHD chain, the wrong parent",
        chain(lambda: [differencing(A), dynamic(uuid=B)]),
        InvalidImage,
        "1.vhd, which follows, is",
    ),
    Bad(
        "VHD chain that refers to itself",
        chain(lambda: [differencing(B, uuid=A), differencing(A, uuid=B), differencing(B, uuid=A)]),
        InvalidImage,
        "its chain refers to itself",
    ),
    Bad(
        "VHD chain, too long",
        chain(lambda: vhdkit.make_chain(SIZE, [{}] * 31)),
        InvalidImage,
        "its chain has more than 30 layers",
    ),
    Bad(
        "VHD chain, its leaf hidden",
        chain(lambda: [dynamic(hidden=True)]),
        InvalidImage,
        "it is hidden: it is only a parent of other VHDs",
    ),
    Bad(
        "VHD fixed, its size wrong",
        of_bytes(lambda: vhdkit.make_fixed(DISK)[512:]),
        TruncatedImage,
        "the file holds 5242368",
    ),
    Bad("qcow2, cut off", cut(qcow2(), MIB), TruncatedImage, "a cluster ends at"),
    Bad("qcow2 with a backing file", with_backing_file, MissingParent, "it holds only the differences from"),
    Bad(
        "qcow2 with an external data file",
        with_external_data,
        UnsupportedImage,
        "its disk is in another file",
    ),
    Bad("qcow2, encrypted", encrypted, EncryptedImage, "it is encrypted"),
    Bad(
        "qcow2, marked as corrupt",
        changed(qcow2("-o", "compat=1.1"), 79, b"\x02"),
        InvalidImage,
        "it is marked as corrupt",
    ),
    Bad(
        "qcow2, its table outside the file",
        changed(qcow2(), 40, b"\x7f" * 8),
        InvalidImage,
        "its L1 table begins at",
    ),
    Bad(
        "VHDX", of_bytes(lambda: b"vhdxfile" + bytes(MIB)), UnsupportedImage, "it is a VHDX; convert it first"
    ),
    Bad(
        "raw, no whole sectors",
        of_bytes(lambda: DISK + b"!" * 777),
        UnsupportedImage,
        "no whole number of sectors",
    ),
    Bad(
        "raw, no whole sectors, as a stream",
        sent(lambda: DISK + b"!" * 777, size=SIZE + 777),
        UnsupportedImage,
        "no whole number of sectors",
    ),
    Bad(
        "an error page of a web server",
        of_bytes(lambda: b"<!DOCTYPE html><html><body>Log in".ljust(1024)),
        UnsupportedImage,
        "it is an HTML page",
    ),
    Bad(
        "the text of a VMDK",
        of_bytes(lambda: b'version=1\r\ncreateType="monolithicFlat"\r\nRW 16384 FLAT "disk-flat.vmdk" 0\r\n'),
        UnsupportedImage,
        "it is the text of a VMDK",
    ),
    Bad("a DMG", of_bytes(lambda: DISK + DMG_TRAILER), UnsupportedImage, "it is a disk image of macOS (DMG)"),
    Bad(
        "a DMG, as a stream",
        sent(lambda: DISK + DMG_TRAILER, size=SIZE + 512),
        UnsupportedImage,
        "it is a disk image of macOS (DMG)",
    ),
    Bad(
        "VHD fixed, taken for raw, as a stream",
        sent(lambda: vhdkit.make_fixed(DISK), size=SIZE + 512),
        InvalidImage,
        "it ends like a VHD",
    ),
    Bad(
        "an XVA",
        of_bytes(lambda: tarball(("ova.xml", b"<value/>"), ("Ref:10/00000000", bytes(MIB)))),
        UnsupportedImage,
        "it is an XVA, a whole VM",
    ),
    Bad(
        "an OVA without a disk",
        of_bytes(lambda: tarball(("machine.ovf", b"<Envelope/>"))),
        InvalidImage,
        "its description names no disk that has a file",
    ),
    Bad(
        "an OVA whose description comes last, as a stream",
        sent(lambda: tarball(("0.vhd", dynamic()), ("machine.ovf", b"<Envelope/>"))),
        UnsupportedImage,
        "it is an OVA whose disks come before its description",
    ),
    Bad(
        "tarball, a path that leads out",
        of_bytes(lambda: tarball(("../0.vhd", dynamic()))),
        InvalidImage,
        "'../0.vhd' does not have the name of a VHD of a chain",
    ),
    Bad(
        "tarball, an absolute path",
        of_bytes(lambda: tarball(("/etc/0.vhd", dynamic()))),
        InvalidImage,
        "'/etc/0.vhd' does not have the name of a VHD of a chain",
    ),
    Bad(
        "tarball, a symbolic link",
        of_bytes(lambda: linked(tarfile.SYMTYPE, "/etc/passwd")),
        InvalidImage,
        "'0.vhd' is a symbolic link",
    ),
    Bad(
        "tarball, a device",
        of_bytes(lambda: linked(tarfile.CHRTYPE, "")),
        InvalidImage,
        "'0.vhd' is a device",
    ),
    Bad(
        "tarball without a VHD",
        of_bytes(lambda: tarball(("readme", b"hello"))),
        InvalidImage,
        "'readme' does not have the name of a VHD of a chain",
    ),
    Bad(
        "tarball with a gap",
        of_bytes(lambda: tarball(("0.vhd", differencing(A)), ("2.vhd", dynamic(uuid=A)))),
        InvalidImage,
        "1.vhd is missing",
    ),
    Bad(
        "tarball with a member twice",
        of_bytes(lambda: tarball(("0.vhd", dynamic()), ("0.vhd", dynamic()))),
        InvalidImage,
        "'0.vhd' is there twice",
    ),
    Bad(
        "tarball, its base missing",
        of_bytes(lambda: tarball(("0.vhd", differencing(A)))),
        MissingParent,
        str(A),
    ),
    Bad(
        "tarball, its base missing, as a stream",
        sent(lambda: tarball(("0.vhd", differencing(A)))),
        MissingParent,
        str(A),
    ),
    Bad(
        "tarball, cut off, as a stream",
        sent(lambda: tarball(("0.vhd", dynamic()))[: 3 * MIB]),
        TruncatedImage,
        "it ends in '0.vhd'",
    ),
    Bad(
        "gzip, cut off", of_bytes(lambda: ZIPPED[: len(ZIPPED) // 2]), TruncatedImage, "it ends in the middle"
    ),
    Bad("gzip, damaged", of_bytes(lambda: ZIPPED[:-8] + bytes(8)), InvalidImage, "incorrect data check"),
    Bad("gzip in gzip", of_bytes(lambda: gzip.compress(ZIPPED)), UnsupportedImage, "it is compressed twice"),
    Bad(
        "a bomb: 64 MiB of zeros where a tar header is",
        of_bytes(lambda: gzip.compress(tarball(("0.vhd", dynamic())) + bytes(64 * MIB))),
        InvalidImage,
        "too many zeros follow its end",
    ),
    Bad(
        "MD5 of another image",
        with_checksum("md5:" + hashlib.md5(b"", usedforsecurity=False).hexdigest()),
        ChecksumMismatch,
        "md5",
    ),
    Bad(
        "SHA-256 of another image", with_checksum(hashlib.sha256(b"").hexdigest()), ChecksumMismatch, "sha256"
    ),
    Bad(
        "SHA-256 of another image, as a stream",
        sent(lambda: DISK, size=SIZE, format="raw", checksum=hashlib.sha256(b"").hexdigest()),
        ChecksumMismatch,
        "sha256",
    ),
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        made.sr("iso")
        yield made


@pytest.mark.parametrize("road", ["http", pytest.param("block", marks=pytest.mark.slow)])
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_image_is_refused_by_name_and_leaves_nothing(
    pool: Lab, tmp_path: Path, qemu_img: QemuImg, bad: Bad, road: str
) -> None:
    staging, place = tmp_path / "staging", tmp_path / "place"
    staging.mkdir()
    place.mkdir()
    given = bad.make(place, qemu_img)
    before = pool.xapi.snapshot()
    with pytest.raises(bad.error) as caught:
        import_image(pool.session, given, pool.sr(bad.sr), staging_dir=staging, here=pool.on(road))  # type: ignore[arg-type]  # a test passes what its parameters say
    assert type(caught.value) is bad.error
    assert bad.says in str(caught.value)
    assert getattr(caught.value, "__notes__", []) == []
    assert before.difference(pool.xapi.snapshot()) == pool.residue() == list(staging.iterdir()) == []
