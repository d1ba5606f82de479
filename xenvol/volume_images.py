"""A volume from an image, an image from a volume. The Storage Manager and `xenvol.images` do not know each other.

    image opened, checked ─▶ a backend that takes the volume, whose disks a transport reaches ─▶ a disk, filled
                          ─▶ the volume's row names it: only now the volume exists

It needs the extras ``sm`` and ``images``.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from xenvol.images import ExportedImage, ImageSource, ImportedImage, Progress
from xenvol.images.copying import TargetDisk, copy_image
from xenvol.images.errors import ImageTooLarge, NoTransport
from xenvol.images.exporting import ExportFormat, write_image
from xenvol.images.image_source import Source
from xenvol.images.importing import overwrite_vdi
from xenvol.images.opening import OpenImage, open_image
from xenvol.images.options import HERE, Environment, TransferOptions
from xenvol.images.output_file import Compression, Output
from xenvol.images.progress import ignore_progress
from xenvol.images.transports import Transport, TransportName
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.sm import StorageManager
from xenvol.sm.errors import VolumeNotReady
from xenvol.sm.filling import LONGEST, Filling
from xenvol.sm.records import Volume
from xenvol.storage.srtypes import begins_blank

_KEPT: Final = 180  # characters that are kept of a name too long for a row; a digest stands for the rest


def create_volume_from_image(
    manager: StorageManager,
    volume_id: str,
    flavor_label: str,
    source: Source,
    *,
    size: int | None = None,
    name: str = "",
    needs: Iterable[str] = (),
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> Volume:
    """Make a volume of a flavor from an image: of the image's size, or `size` bytes, with zeros behind the image.

    The volume exists only when it holds the whole image. Idempotent by its id and the image. The image is known by
    its checksum if given, else by its name. What a dead attempt left never becomes a part of the volume.

    Raises what `StorageManager.create_volume` does, and before xenvol makes anything SourceError, InvalidImage,
    UnsupportedImage, MissingReader, NoRoomToStage, ImageTooLarge (for `size`), ChecksumMismatch of a file. Later
    errors leave nothing either, and no other backend is tried then: ChecksumMismatch and InvalidImage of a stream,
    TransferFailed, TransferCancelled, NotAsWritten, XapiError, XapiUnreachable. `road` names the transport.
    """
    options = TransferOptions(
        transport=road,
        staging_dir=staging_dir,
        verify=verify,
        progress=progress,
        cancel=cancel,
        environment=here,
    )
    with open_image(source, options, "the import") as image:
        needed = image.disk.virtual_size
        wanted = needed if size is None else size
        if wanted < needed:
            raise ImageTooLarge(image.name, size=needed, limit=wanted, what="the requested volume")
        writing = _Writing(View(manager.session), image, options)
        filling = Filling(_known_as(source, image), writing.write, obstacle=writing.obstacle)
        return manager.create_volume(volume_id, flavor_label, wanted, name=name, needs=needs, filling=filling)


def fill_volume(
    manager: StorageManager,
    volume_id: str,
    source: Source,
    *,
    is_blank: bool = False,
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> ImportedImage:
    """Overwrite an existing volume with an image; its old content is lost. A volume on an existing LUN can be
    filled, too.

    `is_blank`: it was never written to. Raises UnknownVolume, VolumeNotReady, and what `xenvol.images.fill_vdi`
    does.
    """
    options = TransferOptions(
        transport=road,
        staging_dir=staging_dir,
        verify=verify,
        progress=progress,
        cancel=cancel,
        environment=here,
    )
    vdi_uuid = _vdi_uuid(manager, volume_id)
    return overwrite_vdi(manager.session, source, vdi_uuid, options, is_blank=is_blank)


def volume_to_image(
    manager: StorageManager,
    volume_id: str,
    target: Output,
    *,
    format: ExportFormat = "raw",
    compression: Compression = "none",
    overwrite: bool = False,
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> ExportedImage:
    """Write the content of a volume, or of a snapshot, as an image; if a VM writes to the volume, as it is now.

    Raises UnknownVolume, VolumeNotReady, and what `xenvol.images.export_image` does.
    """
    options = TransferOptions(
        transport=road, staging_dir=staging_dir, progress=progress, cancel=cancel, environment=here
    )
    vdi_uuid = _vdi_uuid(manager, volume_id)
    return write_image(
        manager.session,
        vdi_uuid,
        target,
        options,
        format=format,
        compression=compression,
        overwrite=overwrite,
    )


class _Writing:
    """An open image, and the transport to the disk that shall hold it."""

    def __init__(self, view: View, image: OpenImage, options: TransferOptions) -> None:
        self._view = view
        self._image = image
        self._options = options
        self._transport: Transport | None = None

    def obstacle(self, sr_ref: SRRef, sr_rec: Record) -> str | None:
        """Return why no transport reaches the disks of an SR; None if one does."""
        self._view.remember("SR", sr_ref, sr_rec)
        try:
            _, self._transport = self._options.begin(self._view, sr_ref)
        except NoTransport as error:
            return str(error)
        return None

    def write(self, vdi_ref: VDIRef) -> None:
        """Write the image onto the disk. The caller has called `obstacle` for its SR."""
        assert self._transport is not None, "a disk is made only if `obstacle` has found a transport"
        vdi_rec = self._view.record("VDI", vdi_ref)
        is_blank = begins_blank(self._view.record("SR", vdi_rec["SR"]), vdi_rec["sm_config"])
        name, size = f"VDI {vdi_rec['uuid']}", int(vdi_rec["virtual_size"])
        disk = TargetDisk(self._transport, vdi_ref, name, size, is_blank)
        copy_image(self._image, disk, verify=self._options.verify)


def _known_as(source: Source, image: OpenImage) -> str:
    """Return the name by which the same call recognises the same image."""
    wanted = ImageSource.of(source)
    checksums = wanted.checksums()
    if checksums:
        name = str(checksums[0])
    elif hasattr(wanted.where, "read"):  # two streams are never known to be the same
        name = f"{image.name} ({secrets.token_hex(8)})"
    else:
        name = image.name
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")  # a path may hold bytes that are not text
    if len(name) <= LONGEST:
        return name
    return f"{name[:_KEPT]}…{hashlib.sha256(name.encode()).hexdigest()}"


def _vdi_uuid(manager: StorageManager, volume_id: str) -> str:
    """Return the uuid of an available volume's disk. Raises VolumeNotReady."""
    volume = manager.get_volume(volume_id)
    if volume.state != "available" or volume.vdi_uuid is None:
        raise VolumeNotReady(volume_id, state=volume.state)
    return volume.vdi_uuid
