"""The matrix of `docs/images.md`: format × transport × SR type, each disk compared with what made the image.

qemu-img and tar make the images, and the chains are made by the tests' own maker of VHDs; what a disk must hold is
what was given to those, not what we read.
"""

from __future__ import annotations

import bz2
import lzma
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import vhdkit
from imagelab import DISK_SRS, MIB, Lab, lab, pattern

from tests import needs
from xenvol.images import export_image, import_image
from xenvol.images.exporting import ExportFormat

QemuImg = Callable[..., str]
SIZE = 9 * MIB
FORMATS = (
    "raw",
    "VHD fixed",
    "VHD dynamic",
    "VHD chain",
    "qcow2",
    "qcow2 compressed",
    "VMDK",
    "tarball",
    "tarball gzip",
    "tarball zstd",
    "tarball of a chain",
    "raw bzip2",
    "raw xz",
)


@pytest.fixture(scope="module")
def images(
    tmp_path_factory: pytest.TempPathFactory, qemu_img: QemuImg
) -> dict[str, tuple[list[Path], bytes]]:
    """For each format the files, and the disk that they hold."""
    return Maker(tmp_path_factory.mktemp("images"), qemu_img).all()


class Maker:
    def __init__(self, place: Path, qemu_img: QemuImg) -> None:
        self.place = place
        self.qemu_img = qemu_img
        self.disk = pattern(SIZE, seed=7)
        self.raw = place / "disk.raw"
        self.raw.write_bytes(self.disk)

    def all(self) -> dict[str, tuple[list[Path], bytes]]:
        made = {
            "raw": self.raw,
            "VHD fixed": self._converted("vpc", "subformat=fixed,force_size=on"),
            "VHD dynamic": self._converted("vpc", "subformat=dynamic,force_size=on"),
            "qcow2": self._converted("qcow2", "cluster_size=4k"),
            "qcow2 compressed": self._converted("qcow2", "compression_type=zlib", "-c"),
            "VMDK": self._converted("vmdk", "subformat=streamOptimized"),
        }
        vhd = made["VHD dynamic"]
        made |= {
            "tarball": self._tarball({"0.vhd": vhd}),
            "tarball gzip": self._tarball({"0.vhd": vhd}, "--gzip"),
            "tarball zstd": self._tarball({"0.vhd": vhd}, "--zstd"),
            "raw bzip2": self._packed("bzip2", bz2.compress),
            "raw xz": self._packed("xz", lzma.compress),
        }
        single = {name: ([path], self.disk) for name, path in made.items()}
        layers, disk = self._chain(5)
        members = {f"{number}.vhd": layer for number, layer in enumerate(layers)}
        return {
            **single,
            "VHD chain": (layers, disk),
            "tarball of a chain": ([self._tarball(members, "--gzip")], disk),
        }

    def _converted(self, format: str, options: str, *more: str) -> Path:
        path = self.place / f"{format}-{options.replace('=', '-')}"
        self.qemu_img("convert", "-f", "raw", "-O", format, "-o", options, *more, self.raw, path)
        return path

    def _packed(self, name: str, compress: Callable[[bytes], bytes]) -> Path:
        path = self.place / f"disk.raw.{name}"
        path.write_bytes(compress(self.disk))
        return path

    def _tarball(self, members: dict[str, Path], *options: str) -> Path:
        """By tar, in the order of the members."""
        number = len(list(self.place.iterdir()))
        inside = self.place / f"inside-{number}"
        inside.mkdir()
        for name, path in members.items():
            (inside / name).hardlink_to(path)
        tarball = self.place / f"tarball-{number}"
        subprocess.run([needs.program("tar"), "-cf", tarball, *options, "-C", inside, *members], check=True)
        return tarball

    def _chain(self, length: int) -> tuple[list[Path], bytes]:
        """Each layer holds another third of the sectors, more or less."""
        layers = [
            vhdkit.painted(SIZE, [(first, 3) for first in range(number, SIZE // 512, 7 * number + 8)], number)
            for number in range(length)
        ]
        paths = []
        for number, image in enumerate(vhdkit.make_chain(SIZE, layers)):
            paths.append(self.place / f"layer-{number}.vhd")
            paths[-1].write_bytes(image)
        return paths, vhdkit.model(SIZE, *layers)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lab]]:
    """A pool for each SR type: some of them would want the same device."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(lab(tmp_path_factory.mktemp("root"))) for name in DISK_SRS}


@pytest.fixture
def pool(pools: dict[str, Lab], sr_type: str) -> Lab:
    return pools[sr_type]


OFTEN = ("nfs", "lvmoiscsi")
"""The SR types that `make test` tries; `make test-slow` tries all."""
sr_types = pytest.mark.parametrize(
    "sr_type", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in DISK_SRS]
)
transports = pytest.mark.parametrize("road", ["http", "block"])


@transports
@sr_types
@pytest.mark.parametrize("format", FORMATS)
def test_an_image_is_the_disk_that_it_holds(
    pool: Lab, images: dict[str, tuple[list[Path], bytes]], format: str, sr_type: str, road: str
) -> None:
    paths, disk = images[format]
    sr = pool.sr(sr_type)
    before = pool.xapi.snapshot()
    made = import_image(pool.session, paths if len(paths) > 1 else paths[0], sr, here=pool.on(road))
    assert (made.road, made.virtual_size, made.written <= len(disk)) == (road, len(disk), True)
    assert pool.content(made.vdi_uuid) == disk.ljust(made.vdi_size, b"\0")
    assert pool.residue() == []
    pool.session.call("VDI.destroy", made.vdi_ref)
    assert before.difference(pool.xapi.snapshot()) == []


@transports
@sr_types
@pytest.mark.parametrize("format", ["raw", "vhd", "tarball"])
def test_a_disk_is_the_image_that_is_exported(
    pool: Lab, tmp_path: Path, qemu_img: QemuImg, format: ExportFormat, sr_type: str, road: str
) -> None:
    data = pattern(SIZE + MIB, seed=3)
    vdi = pool.vdi(sr_type, len(data))
    size = len(pool.content(vdi))
    pool.file(vdi).write_bytes(data)
    before = pool.xapi.snapshot()
    image = tmp_path / "image"
    made = export_image(pool.session, vdi, image, format=format, here=pool.on(road))
    assert (made.road, made.virtual_size, made.was_in_use, made.residue) == (road, size, False, ())
    assert pool.residue() == before.difference(pool.xapi.snapshot()) == []
    if format == "tarball":
        tar = needs.program("tar")
        assert subprocess.run([tar, "-tf", image], check=True, capture_output=True).stdout == b"0.vhd\n"
        subprocess.run([tar, "-xf", image, "-C", tmp_path], check=True)
        image = tmp_path / "0.vhd"
    qemu_img("convert", "-f", "raw" if format == "raw" else "vpc", "-O", "raw", image, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == data.ljust(size, b"\0")
    pool.session.call("VDI.destroy", pool.ref(vdi))
