"""Images pass between Cinder's image service and volumes, whole or not at all; the driver alone, with no service."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cinder import context, exception
from cinder.image import image_utils
from oslo_config import cfg

from tests.cinder import test_driver
from tests.cinder.processes import LIMIT, path_with_sudo
from xenvol.cinder import XenSMDriver
from xenvol.simulator import Simulator
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath
from xenvol.sm import StorageManager

# fixtures
database, tables, manager, make_driver, driver = (
    test_driver.database,
    test_driver.tables,
    test_driver.manager,
    test_driver.make_driver,
    test_driver.driver,
)

pytestmark = pytest.mark.filterwarnings(
    # a pipe of oslo.privsep's, which starts a helper in the first test that needs one
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)

GIB, MIB = 1 << 30, 1 << 20
LARGEST = 16 * MIB
"""Of the disks here, but for their holes."""
_ZEROS = bytes(MIB)
CONTEXT = context.get_admin_context()


class ImageService:
    """As `cinder.image.glance.GlanceImageService`, with no Glance behind it."""

    def __init__(self, data: bytes = b"", **meta: Any) -> None:
        self.temp_images = None
        self.data = data
        self.meta = {
            "id": "c0ffee00-0000-4000-8000-000000000001",
            "disk_format": "raw",
            "container_format": "bare",
            "size": len(data),
            "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            "os_hash_algo": "sha512",
            "os_hash_value": hashlib.sha512(data).hexdigest(),
            "properties": {},
            **meta,
        }
        self.downloads = 0
        self.stores: list[str | None] = []
        self.breaks_after: int | None = None
        self.uploads: Path | None = None

    @property
    def id(self) -> str:
        return str(self.meta["id"])

    def show(self, context: Any, image_id: str) -> dict[str, Any]:
        assert image_id == self.id
        return self.meta

    def get_location(self, context: Any, image_id: str) -> tuple[None, None]:
        return None, None

    def download(self, context: Any, image_id: str, data: Any = None) -> Iterator[bytes] | None:
        self.downloads += 1
        if data is None:
            return self._chunks()
        for chunk in self._chunks():
            data.write(chunk)
        return None

    def _chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), 100_000):
            if self.breaks_after is not None and start > self.breaks_after:
                raise OSError("the image service is gone")
            yield self.data[start : start + 100_000]

    def update(
        self,
        context: Any,
        image_id: str,
        meta: dict[str, Any],
        data: Any = None,
        *,
        store_id: str | None = None,
        base_image_ref: str | None = None,
    ) -> None:
        self.stores.append(store_id)
        assert self.uploads is not None
        with self.uploads.open("wb") as file:
            while piece := data.read(MIB):
                if piece != _ZEROS[: len(piece)]:
                    file.write(piece)
                else:  # a hole, since most of it is
                    file.seek(len(piece), os.SEEK_CUR)
            file.truncate()


@pytest.fixture(autouse=True)
def root_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cinder has qemu-img look at images as root, by sudo and rootwrap, which are not installed here."""
    monkeypatch.setenv("PATH", path_with_sudo(tmp_path / "bin"))


@pytest.fixture
def conversion_dir(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "conversion"
    cfg.CONF.set_override("image_conversion_dir", str(directory))
    yield directory
    cfg.CONF.clear_override("image_conversion_dir")
    assert not directory.exists() or list(directory.iterdir()) == []


@pytest.fixture
def volume(driver: XenSMDriver, conversion_dir: Path) -> Any:
    """Of 1 GiB, just made."""
    made = a_volume()
    driver.create_volume(made)
    return made


def a_volume() -> Any:
    made = test_driver.a_volume("gold", 1, **{"xenvol:flavor": "gold", "image_service:store_id": "fast"})
    made.glance_metadata = {}
    made.cluster_name = None
    return made


@pytest.fixture
def undone(volume: Any, manager: StorageManager, xapi: Simulator) -> Iterator[None]:
    """For a test whose image cannot be written: the volume is gone then, and so is its disk."""
    yield
    assert manager.list_volumes() == []
    assert [ref for ref in xapi.db.refs("VDI") if xapi.db.record("VDI", ref)["managed"]] == []
    assert manager.audit().findings == []


def disk(size: int = 3 * MIB) -> bytes:
    return Random(9).randbytes(size - 1_000_000) + bytes(1_000_000)


def converted(data: bytes, directory: Path, to: str, *options: str) -> bytes:
    """By qemu-img."""
    source, target = directory / "source", directory / "target"
    source.write_bytes(data)
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", to, *options, source, target], check=True, timeout=LIMIT
    )
    return target.read_bytes()


def tarball(vhd: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("0.vhd")
        member.size = len(vhd)
        archive.addfile(member, io.BytesIO(vhd))
    return file.getvalue()


@pytest.fixture
def content(xapi: Simulator, manager: StorageManager) -> Callable[[Any], bytes]:
    """What lies on a volume, but for the zeros at its end."""

    def read(volume: Any) -> bytes:
        ref = test_driver.ref_of(xapi, str(manager.get_volume(volume.id).vdi_uuid))
        with xapi.xapi.lock:
            master = xapi.xapi.master
            path = datapath.content(Call(xapi.xapi, "test", "", "", master), master, ref)
        with path.open("rb") as file:
            with suppress(OSError):  # ENXIO: there is nothing but a hole behind
                os.lseek(file.fileno(), LARGEST, os.SEEK_DATA)
                raise AssertionError("there is data behind all that was written")
            file.seek(0)
            return file.read(LARGEST).rstrip(b"\0")

    return read


Content = Callable[[Any], bytes]
FORMATS: dict[str, tuple[dict[str, str], Callable[[bytes, Path], bytes]]] = {
    "raw": ({"disk_format": "raw"}, lambda data, path: data),
    "raw, compressed": (
        {"disk_format": "raw", "container_format": "compressed"},
        lambda data, path: gzip.compress(data),
    ),
    "iso": ({"disk_format": "iso"}, lambda data, path: data),
    "vhd": (
        {"disk_format": "vhd"},
        lambda data, path: converted(data, path, "vpc", "-o", "force_size=on"),
    ),
    "qcow2": ({"disk_format": "qcow2"}, lambda data, path: converted(data, path, "qcow2", "-c")),
    "vmdk": (
        {"disk_format": "vmdk"},
        lambda data, path: converted(data, path, "vmdk", "-o", "subformat=streamOptimized"),
    ),
    "tarball of VHDs": (
        {"disk_format": "vhd", "container_format": "ovf"},
        lambda data, path: tarball(converted(data, path, "vpc", "-o", "force_size=on")),
    ),
}


def iso(size: int = 3 * MIB) -> bytes:
    """One whose primary volume descriptor, the first sector behind the system area, says so."""
    data = bytearray(disk(size))
    data[0x8000:0x8006] = b"\x01CD001"
    data[0x8006] = 1
    return bytes(data)


class TestAnImageOntoAVolume:
    @pytest.mark.parametrize(
        ("format", "is_fetched"),
        [
            *((format, False) for format in FORMATS),
            # Cinder 29.0.0 itself refuses a bare VHD: it has qemu-img look at it as `-f vhd`, which is `vpc` there
            *((format, True) for format in FORMATS if format != "vhd"),
        ],
    )
    def test_of_each_format_is_there_byte_by_byte(
        self,
        driver: XenSMDriver,
        volume: Any,
        content: Content,
        manager: StorageManager,
        tmp_path: Path,
        format: str,
        is_fetched: bool,
    ) -> None:
        """What Cinder has fetched already, to look at it, is not fetched twice."""
        meta, make = FORMATS[format]
        data = iso() if format == "iso" else disk()
        service = ImageService(make(data, tmp_path), **meta)
        if is_fetched:
            with image_utils.TemporaryImages.fetch(service, CONTEXT, service.id, "xen"):
                driver.copy_image_to_volume(CONTEXT, volume, service, service.id)
        else:
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id)
        assert service.downloads == 1
        assert content(volume) == data.rstrip(b"\0")
        assert manager.audit().findings == []

    def test_replaces_what_it_held_where_cinder_says_that_it_held_something(
        self, driver: XenSMDriver, volume: Any, content: Content
    ) -> None:
        """As when a server is rebuilt on its volume."""
        old = ImageService(b"old" * MIB)
        driver.copy_image_to_volume(CONTEXT, volume, old, old.id)
        new = ImageService(b"new" * 1000)
        driver.copy_image_to_volume(CONTEXT, volume, new, new.id, disable_sparse=True)
        assert content(volume) == b"new" * 1000

    @pytest.mark.parametrize(
        "meta",
        [
            {"os_hash_value": "0" * 128},
            {"os_hash_algo": "sha256", "os_hash_value": "0" * 64},
            {"os_hash_algo": None, "os_hash_value": None, "checksum": "0" * 32},
        ],
    )
    @pytest.mark.usefixtures("undone")
    def test_that_is_not_what_the_service_promised_is_unacceptable(
        self, driver: XenSMDriver, volume: Any, meta: dict[str, Any]
    ) -> None:
        service = ImageService(disk(), **meta)
        with pytest.raises(exception.ImageUnacceptable, match="and not"):
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id)

    @pytest.mark.parametrize(
        "meta",
        [
            {"os_hash_algo": None, "os_hash_value": None, "checksum": None},
            {"os_hash_algo": "whirlpool", "os_hash_value": "0" * 128},
        ],
    )
    def test_of_which_nothing_that_can_be_compared_was_promised_is_taken(
        self, driver: XenSMDriver, volume: Any, content: Content, meta: dict[str, Any]
    ) -> None:
        service = ImageService(disk(), **meta)
        driver.copy_image_to_volume(CONTEXT, volume, service, service.id)
        assert content(volume) == disk().rstrip(b"\0")

    @pytest.mark.parametrize(
        ("meta", "reason"),
        [
            ({"disk_format": "vdi"}, "disk_format vdi in container_format bare"),
            ({"disk_format": "vmdk", "container_format": "ova"}, "in container_format ova"),
            ({"disk_format": "qcow2"}, "is not a valid qcow2 image"),
        ],
    )
    @pytest.mark.usefixtures("undone")
    def test_that_cannot_be_read_is_unacceptable(
        self, driver: XenSMDriver, volume: Any, meta: dict[str, Any], reason: str
    ) -> None:
        service = ImageService(disk(), **meta)
        with pytest.raises(exception.ImageUnacceptable, match=reason):
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id)

    @pytest.mark.usefixtures("undone")
    def test_that_is_larger_than_the_volume_is_unacceptable(
        self, driver: XenSMDriver, volume: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "large").touch()
        subprocess.run(["qemu-img", "create", "-f", "qcow2", tmp_path / "large", "2G"], check=True)
        service = ImageService((tmp_path / "large").read_bytes(), disk_format="qcow2")
        with pytest.raises(exception.ImageUnacceptable, match="2147483648 bytes"):
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id)

    @pytest.mark.usefixtures("undone")
    def test_whose_download_breaks_is_told_as_that(self, driver: XenSMDriver, volume: Any) -> None:
        service = ImageService(disk())
        service.breaks_after = MIB
        with pytest.raises(exception.ImageDownloadFailed, match="the image service is gone"):
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id)
        driver.delete_volume(volume)  # as Cinder does, when its owner does

    def test_is_never_cloned_so_that_cinder_goes_on_with_its_cache_or_a_copy(
        self, driver: XenSMDriver
    ) -> None:
        assert driver.clone_image(CONTEXT, a_volume(), None, {}, None) == (None, False)

    def test_that_cannot_be_written_over_a_volume_which_held_something_leaves_it_there(
        self, driver: XenSMDriver, volume: Any, manager: StorageManager
    ) -> None:
        """And says that it may hold a part."""
        service = ImageService(disk(), os_hash_value="0" * 128)
        with pytest.raises(exception.ImageUnacceptable, match="may hold a part of the image"):
            driver.copy_image_to_volume(CONTEXT, volume, service, service.id, disable_sparse=True)
        assert [made.id for made in manager.list_volumes()] == [volume.id]


class TestAVolumeAsAnImage:
    @pytest.mark.parametrize("disk_format", ["raw", "vhd", "qcow2", "vmdk", "vdi", "vhdx"])
    def test_holds_what_the_volume_does(
        self, driver: XenSMDriver, volume: Any, manager: StorageManager, tmp_path: Path, disk_format: str
    ) -> None:
        filled = ImageService(disk())
        driver.copy_image_to_volume(CONTEXT, volume, filled, filled.id)
        service = ImageService(disk_format=disk_format)
        service.uploads = tmp_path / "image"
        driver.copy_volume_to_image(CONTEXT, volume, service, service.meta)
        assert service.stores == ["fast"]
        expected = tmp_path / "expected"
        expected.write_bytes(disk())
        os.truncate(expected, GIB)
        known = {"vhd": "vpc"}.get(disk_format, disk_format)
        command = ["qemu-img", "compare", "-f", known, "-F", "raw", service.uploads, expected]
        compared = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert compared.stdout == "Images are identical.\n", compared
        assert manager.audit().findings == []

    def test_is_a_tarball_that_makes_the_same_volume(
        self, driver: XenSMDriver, volume: Any, content: Content, tmp_path: Path
    ) -> None:
        filled = ImageService(disk())
        driver.copy_image_to_volume(CONTEXT, volume, filled, filled.id)
        service = ImageService(disk_format="vhd", container_format="ovf")
        service.uploads = tmp_path / "image"
        driver.copy_volume_to_image(CONTEXT, volume, service, service.meta)
        with tarfile.open(service.uploads, mode="r:gz") as archive:
            assert archive.getnames() == ["0.vhd"]
        again = a_volume()
        driver.create_volume(again)
        back = ImageService(service.uploads.read_bytes(), disk_format="vhd", container_format="ovf")
        driver.copy_image_to_volume(CONTEXT, again, back, back.id)
        assert content(again) == disk().rstrip(b"\0")

    def test_is_that_of_the_disk_which_a_migration_gave_the_volume(
        self, driver: XenSMDriver, volume: Any, content: Content, tmp_path: Path
    ) -> None:
        migrated = a_volume()
        migrated._name_id = volume.id
        filled = ImageService(disk())
        driver.copy_image_to_volume(CONTEXT, migrated, filled, filled.id, disable_sparse=True)
        assert content(volume) == disk().rstrip(b"\0")
        service = ImageService(disk_format="raw")
        service.uploads = tmp_path / "image"
        driver.copy_volume_to_image(CONTEXT, migrated, service, service.meta)
        with service.uploads.open("rb") as file:
            assert file.read(len(disk())) == disk()

    def test_of_no_volume_is_refused(self, driver: XenSMDriver, conversion_dir: Path) -> None:
        service = ImageService()
        with pytest.raises(exception.VolumeNotFound):
            driver.copy_volume_to_image(CONTEXT, a_volume(), service, service.meta)
