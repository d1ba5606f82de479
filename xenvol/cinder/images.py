"""Copy images between Cinder's image service and volumes, and raise xenvol's errors as Cinder's.

    image service ─▶ stream, or the file that Cinder fetched ─▶ the volume's disk, by xapi's HTTP or a block device
    the volume's disk ─▶ a file in Cinder's image_conversion_dir ─▶ image service

os-brick has no connector for VDIs, so nothing is attached to Cinder's host.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

from cinder import exception
from cinder.image import image_utils
from cinder.volume import volume_utils

from xenvol.images import ImageSource, Progress
from xenvol.images.errors import (
    ChecksumMismatch,
    ImageTooLarge,
    InvalidImage,
    MissingReader,
    NoRoomToStage,
    SourceError,
    UnsupportedImage,
)
from xenvol.images.exporting import ExportFormat
from xenvol.images.output_file import Compression
from xenvol.pool.undo import Undo
from xenvol.sm import StorageManager
from xenvol.volume_images import fill_volume, volume_to_image

LOG = logging.getLogger(__name__)

_FORMATS: Final = {
    "raw": "raw",
    "ami": "raw",  # a disk without a table of partitions
    "iso": "iso",
    "vhd": "vhd",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
}
"""Glance's disk formats that xenvol reads, and xenvol's names for them."""
_PLAIN: Final = (None, "bare", "compressed")  # containers; xenvol finds the compression itself
_ALGORITHMS: Final = ("sha512", "sha256", "md5")
_MIB: Final = 1 << 20
_LOG_INTERVAL: Final = 30.0  # seconds from one line in the log to the next


def copy_image_to_volume(
    manager: StorageManager,
    context: Any,
    volume_id: str,
    image_service: Any,
    image_id: str,
    *,
    is_blank: bool,
) -> None:
    """Write an image over a volume, and compare it with the image service's checksum.

    `is_blank`: the volume was just made, and never written to. If the copy then fails, the volume is deleted: Cinder
    may create it again by the same id, and must not get an incomplete image. (Cinder does so when a lookup of its own
    hides the error, and it schedules the volume anew.)

    Raises ImageUnacceptable, ImageTooBig (no room to stage it), ImageDownloadFailed, XenVolError.
    """
    undo = Undo()
    if is_blank:
        undo.did(f"made volume {volume_id}", manager.delete_volume, volume_id)
    try:
        _copy(manager, context, volume_id, image_service, image_id, is_blank=is_blank)
    except BaseException as error:
        undo.unwind(error)
        raise


def _copy(
    manager: StorageManager,
    context: Any,
    volume_id: str,
    image_service: Any,
    image_id: str,
    *,
    is_blank: bool,
) -> None:
    meta = image_service.show(context, image_id)
    fetched = image_utils.TemporaryImages.for_image_service(image_service).get(context, image_id)
    with _translated(image_id):
        source = ImageSource(
            where=fetched or cast(BinaryIO, _Chunks(image_id, image_service.download(context, image_id))),
            format=_format_of(meta, image_id),
            is_packed=meta.get("container_format") == "compressed",
            size=None if meta.get("container_format") == "compressed" else meta.get("size"),
            checksum=_checksum_of(meta),
        )
        done = fill_volume(
            manager,
            volume_id,
            source,
            is_blank=is_blank,
            staging_dir=volume_utils.image_conversion_dir(),
            progress=_LoggedProgress(f"image {image_id} to volume {volume_id}"),
        )
    LOG.info(
        "image %s, of format %s, is on volume %s: %d MiB were written by %s",
        image_id,
        done.format,
        volume_id,
        done.written // _MIB,
        done.road,
    )


def copy_volume_to_image(
    manager: StorageManager,
    context: Any,
    volume: Any,
    image_service: Any,
    meta: Mapping[str, Any],
    *,
    backend_name: str,
) -> None:
    """Upload what a volume holds, in the format that the image's record names; qemu-img makes formats that xenvol does
    not.

    The temporary file's name ends with `backend_name`, so that Cinder removes the file of a crash at its next start.
    Raises ImageConversionNotAllowed, ImageTooBig, XenVolError, what the image service raises.
    """
    image_id = meta["id"]
    format, compression, known_as = _written_as(meta)
    image_utils.check_image_conversion_disable(meta["disk_format"], known_as, image_id, upload=True)
    with image_utils.temporary_file(prefix=f"image_upload_{image_id}_", suffix=backend_name) as path:
        with open(path, "r+b") as file, _translated(image_id):
            volume_to_image(
                manager,
                volume.name_id,
                file,
                format=format,
                compression=compression,
                staging_dir=volume_utils.image_conversion_dir(),
                progress=_LoggedProgress(f"volume {volume.id} to image {image_id}"),
            )
        volume_utils.upload_volume(
            context, image_service, meta, path, volume, volume_format=known_as, run_as_root=False
        )


class _Chunks:
    """A download as a file that can be read once."""

    def __init__(self, image_id: str, chunks: Iterable[bytes]) -> None:
        self.name = f"image {image_id}"
        self._chunks = iter(chunks)
        self._left = b""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, as they come; none at the end. Raises what the download raises."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._left = chunk
        data, self._left = self._left[:size], self._left[size:]
        return data


class _LoggedProgress:
    """Write the progress to the log every 30 seconds, and let other greenlets run after each piece."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._next = clock() + _LOG_INTERVAL

    def __call__(self, progress: Progress) -> None:
        time.sleep(0)  # lets other greenlets run, where eventlet has replaced it
        if self._clock() < self._next:
            return
        self._next = self._clock() + _LOG_INTERVAL
        total = "" if progress.total is None else f" of {progress.total // _MIB}"
        LOG.info("%s: %s, %d%s MiB", self._what, progress.phase, progress.done // _MIB, total)


def _format_of(meta: Mapping[str, Any], image_id: str) -> str:
    """Return xenvol's format of the image. Raises ImageUnacceptable for a format that xenvol does not read.

    The record decides, and not the bytes: a raw disk may begin like any format.
    """
    container, disk = meta.get("container_format"), meta.get("disk_format")
    if container == "ovf" and disk == "vhd":
        return "tarball"  # of VHDs (docs/background/peers.md e.6)
    if container in _PLAIN and disk in _FORMATS:
        return _FORMATS[disk]
    raise exception.ImageUnacceptable(
        image_id=image_id,
        reason=f"xenvol does not read disk_format {disk} in container_format {container}; "
        f"it reads {', '.join(_FORMATS)} in bare or compressed, and vhd in ovf",
    )


def _checksum_of(meta: Mapping[str, Any]) -> str | None:
    """Return the stronger checksum of the record, or None if it has none."""
    algorithm, digest = meta.get("os_hash_algo"), meta.get("os_hash_value")
    if algorithm in _ALGORITHMS and digest:
        return f"{algorithm}:{digest}"
    return f"md5:{meta['checksum']}" if meta.get("checksum") else None


def _written_as(meta: Mapping[str, Any]) -> tuple[ExportFormat, Compression, str]:
    """Return what xenvol writes, and the disk format that Cinder is told; from raw, Cinder makes and compresses the
    others."""
    container, disk = meta.get("container_format"), meta.get("disk_format")
    if container == "ovf" and disk == "vhd":
        return "tarball", "gzip", "vhd"
    if container != "compressed" and disk == "vhd":
        return "vhd", "none", "vhd"
    return "raw", "none", "raw"


@contextmanager
def _translated(image_id: str) -> Iterator[None]:
    """Raise errors about the image as Cinder's errors; raise other errors unchanged."""
    try:
        yield
    except (InvalidImage, UnsupportedImage, MissingReader, ChecksumMismatch, ImageTooLarge) as error:
        raise exception.ImageUnacceptable(image_id=image_id, reason=_words(error)) from error
    except NoRoomToStage as error:
        raise exception.ImageTooBig(image_id=image_id, reason=_words(error)) from error
    except SourceError as error:
        raise exception.ImageDownloadFailed(image_href=image_id, reason=_words(error)) from error


def _words(error: Exception) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", ())])
