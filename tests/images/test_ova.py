"""Of an OVA the disk that is asked for becomes a disk, after its manifest was compared, and nothing else is read."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import vhdkit
from imagelab import MIB, Lab, lab, pattern

from tests.scenarios import changes
from xenvol.errors import XenVolError
from xenvol.images import ImageSource, import_image
from xenvol.images.errors import ChecksumMismatch, InvalidImage, TruncatedImage, UnsupportedImage

SIZE = 6 * MIB
FIRST, SECOND = pattern(SIZE, seed=1), pattern(SIZE, seed=2)
Files = dict[str, bytes]


def ovf(*disks: str, attributes: str = "", more: str = "") -> bytes:
    """A description of these files; each is the disk of its number."""
    files = "".join(
        f'<File ovf:id="file{number}" ovf:href="{name}" {attributes}/>'
        for number, name in enumerate(disks, 1)
    )
    listed = "".join(
        f'<Disk ovf:diskId="vmdisk{number}" ovf:fileRef="file{number}" ovf:capacity="6"/>'
        for number in range(1, len(disks) + 1)
    )
    return (
        '<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        f'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>{files}</References>'
        f'<DiskSection><Info>disks</Info>{listed}<Disk ovf:diskId="empty" ovf:capacity="1"/></DiskSection>{more}'
        "</Envelope>"
    ).encode()


def manifest(files: Files, algorithm: str = "SHA256") -> bytes:
    return "".join(
        f"{algorithm}({name})= {hashlib.new(algorithm.lower(), data).hexdigest()}\n"
        for name, data in files.items()
    ).encode()


def tar(files: Files, format: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if format == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "made by a test"}
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("root")) as made:
        made.sr("nfs")
        yield made


@pytest.fixture(scope="module")
def vmdks(tmp_path_factory: pytest.TempPathFactory, qemu_img: Callable[..., str]) -> list[bytes]:
    """Two disks as hypervisors export them, by qemu-img."""
    place = tmp_path_factory.mktemp("disks")
    made = []
    for number, disk in enumerate((FIRST, SECOND)):
        (place / "raw").write_bytes(disk)
        options = ["-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        qemu_img("convert", *options, place / "raw", place / f"{number}.vmdk")
        made.append((place / f"{number}.vmdk").read_bytes())
    return made


class Endless(io.RawIOBase):
    """A stream that cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self._file.readinto(buffer)


def imported(pool: Lab, where: Any, road: str = "http", **options: Any) -> bytes:
    source = ImageSource(where=where, **options)
    made = import_image(pool.session, source, pool.sr(), verify=True, here=pool.on(road))
    assert made.format == "ova"
    return pool.content(made.vdi_uuid)


@pytest.mark.parametrize("road", ["http", "block"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("algorithm", ["SHA1", "SHA256", "SHA512"])
def test_the_only_disk_is_the_image(
    pool: Lab, tmp_path: Path, vmdks: list[bytes], road: str, format: int, algorithm: str
) -> None:
    files = {"vm.ovf": ovf("vm-disk1.vmdk"), "vm-disk1.vmdk": vmdks[0]}
    data = tar({**files, "vm.mf": manifest(files, algorithm)}, format)
    (tmp_path / "vm.ova").write_bytes(data)
    assert imported(pool, tmp_path / "vm.ova", road) == FIRST
    assert imported(pool, cast(BinaryIO, Endless(data)), road) == FIRST
    assert imported(pool, tmp_path / "vm.ova", road, format="ova") == FIRST


@pytest.mark.parametrize("disk", ["2", "vmdisk2", "b.vmdk"])
def test_of_several_disks_one_is_said(pool: Lab, tmp_path: Path, vmdks: list[bytes], disk: str) -> None:
    """The members come in any order."""
    files = {"b.vmdk": vmdks[1], "vm.mf": b"", "a.vmdk": vmdks[0], "vm.ovf": ovf("a.vmdk", "b.vmdk")}
    files["vm.mf"] = manifest({name: data for name, data in files.items() if name != "vm.mf"})
    (tmp_path / "vm.ova").write_bytes(tar(files))
    assert imported(pool, tmp_path / "vm.ova", disk=disk) == SECOND
    before = pool.xapi.snapshot()
    with pytest.raises(UnsupportedImage, match=r"it holds 2 disks: 1 'a.vmdk', 2 'b.vmdk'; say which"):
        imported(pool, tmp_path / "vm.ova")
    with pytest.raises(UnsupportedImage, match="it has no disk '3'"):
        imported(pool, tmp_path / "vm.ova", disk="3")
    left = [line for line in changes(before, pool.xapi.snapshot()) if "physical_utilisation" not in line]
    assert left == []


@pytest.mark.parametrize("kind", ["vhd", "fixed", "raw", "gzip"])
def test_a_disk_may_be_of_any_format_and_gzipped(
    pool: Lab, tmp_path: Path, vmdks: list[bytes], kind: str
) -> None:
    held = {
        "vhd": vhdkit.make_dynamic(SIZE, {0: FIRST}),
        "fixed": vhdkit.make_fixed(FIRST),
        "raw": FIRST,
        "gzip": gzip.compress(vmdks[0]),
    }[kind]
    attributes = 'ovf:compression="gzip"' if kind == "gzip" else ""
    (tmp_path / "vm.ova").write_bytes(tar({"0.vhd": held, "vm.ovf": ovf("0.vhd", attributes=attributes)}))
    assert imported(pool, tmp_path / "vm.ova") == FIRST


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><Envelope>&a;</Envelope>'


@pytest.mark.parametrize(
    ("files", "error", "says"),
    [
        (
            {"vm.ovf": ovf("a"), "a": FIRST, "vm.mf": manifest({"vm.ovf": ovf("a"), "a": SECOND})},
            ChecksumMismatch,
            "a in",
        ),
        (
            {"vm.ovf": ovf("a"), "a": FIRST, "vm.mf": manifest({"vm.ovf": b"", "a": FIRST})},
            ChecksumMismatch,
            "vm.ovf",
        ),
        ({"vm.ovf": ovf("a"), "a": FIRST, "vm.mf": manifest({"a": FIRST})}, InvalidImage, "does not list it"),
        ({"vm.ovf": ovf("a"), "a": FIRST, "vm.mf": b"rubbish"}, InvalidImage, "manifest has a line"),
        ({"vm.ovf": ovf("a"), "b": FIRST}, UnsupportedImage, "'a' is not in it"),
        ({"vm.ovf": ovf("../../etc/passwd")}, UnsupportedImage, "'../../etc/passwd' is not in it"),
        ({"vm.ovf": ovf("http://host/a"), "a": FIRST}, UnsupportedImage, "'http://host/a' is not in it"),
        ({"vm.ovf": ovf()}, InvalidImage, "names no disk that has a file"),
        ({"vm.ovf": b"<Envelope>"}, InvalidImage, "no XML"),
        ({"vm.ovf": BOMB}, InvalidImage, "document type"),
        ({"vm.ovf": ovf("a", attributes='ovf:chunkSize="7"'), "a": FIRST}, UnsupportedImage, "in chunks"),
        (
            {"vm.ovf": ovf("a", attributes='ovf:compression="xz"'), "a": FIRST},
            UnsupportedImage,
            "compressed with 'xz'",
        ),
        ({"vm.ovf": ovf("a"), "a": b"vhdxfile" + bytes(1016)}, UnsupportedImage, "it is a VHDX"),
        ({"vm.ovf": ovf("a"), "b.ovf": ovf("a"), "a": FIRST}, InvalidImage, "it has 2 descriptions"),
        ({"vm.ovf": ovf("a"), "a": gzip.compress(FIRST)}, UnsupportedImage, "it is a gzip"),
    ],
    ids=range(15),
)
def test_a_bad_one_is_refused_and_leaves_nothing(
    pool: Lab, tmp_path: Path, files: Files, error: type[XenVolError], says: str
) -> None:
    before = pool.xapi.snapshot()
    staging = tmp_path / "staging"
    staging.mkdir()
    (tmp_path / "vm.ova").write_bytes(tar(files))
    with pytest.raises(error) as caught:
        import_image(pool.session, tmp_path / "vm.ova", pool.sr(), staging_dir=staging, here=pool.elsewhere)
    assert says in str(caught.value)
    left = [line for line in changes(before, pool.xapi.snapshot()) if "physical_utilisation" not in line]
    assert (left, list(staging.iterdir())) == ([], [])


def test_one_that_was_cut_is_refused(pool: Lab, tmp_path: Path, vmdks: list[bytes]) -> None:
    data = tar({"vm.ovf": ovf("a.vmdk"), "a.vmdk": vmdks[0]})
    (tmp_path / "vm.ova").write_bytes(data[: len(data) // 2])
    with pytest.raises(TruncatedImage, match=r"it ends in 'a\.vmdk'"):
        imported(pool, tmp_path / "vm.ova")
    with pytest.raises(TruncatedImage):
        imported(pool, cast(BinaryIO, Endless(data[: len(data) // 2])))


def test_a_stream_whose_description_is_not_first_must_be_a_file(pool: Lab, vmdks: list[bytes]) -> None:
    """If its first member does not tell: a name of a disk does."""
    told = tar({"a.vmdk": vmdks[0], "vm.ovf": ovf("a.vmdk")})
    assert imported(pool, cast(BinaryIO, Endless(told))) == FIRST
    late = tar({"0.vhd": vhdkit.make_dynamic(SIZE), "vm.ovf": ovf("0.vhd")})
    with pytest.raises(UnsupportedImage, match="give it as a file"):
        imported(pool, cast(BinaryIO, Endless(late)))
