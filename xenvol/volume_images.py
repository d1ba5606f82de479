"""A volume from an image, an image from a volume: the Storage Manager and images, which know nothing of each other.

    image opened, checked ─▶ a backend that takes the volume, and to whose disks a road leads ─▶ a disk, filled
                          ─▶ the volume's row names it: only now is there a volume

It needs the extras ``sm`` and ``images``.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from xenvol.images import ExportedImage, ImageSource, ImportedImage, Progress, export_image, fill_vdi
from xenvol.images.copying import Target as Disk
from xenvol.images.copying import carry
from xenvol.images.environment import HERE, Surroundings
from xenvol.images.errors import ImageTooLarge, NoRoad
from xenvol.images.exporting import ExportFormat
from xenvol.images.opening import Opened, Source, opened
from xenvol.images.output_file import Compression, Target
from xenvol.images.progress import Watch, say_nothing
from xenvol.images.transfer_mark import Attempt
from xenvol.images.transports import Road, RoadName
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.sm import StorageManager
from xenvol.sm.errors import VolumeNotReady
from xenvol.sm.filling import LONGEST, Filling
from xenvol.sm.records import Volume
from xenvol.storage.srtypes import begins_blank

_KEPT: Final = 180  # letters of a name that is too long for a row, of which a digest tells the rest


def create_volume_from_image(
    manager: StorageManager,
    volume_id: str,
    flavor_label: str,
    source: Source,
    *,
    size: int | None = None,
    name: str = "",
    needs: Iterable[str] = (),
    road: RoadName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
    here: Surroundings = HERE,
) -> Volume:
    """A volume of a flavor that holds an image; of the image's size, or `size` bytes, with zeros behind the image.

    It is not there before it holds all of it. Idempotent by its id and the image, which is known by its checksum if
    that is given, else by its name: whatever an attempt that died has left is not taken for a part of it. Raises what
    `StorageManager.create_volume` does, and before anything is made SourceError, InvalidImage, UnsupportedImage,
    MissingReader, NoRoomToStage, ImageTooLarge (for `size`), ChecksumMismatch of a file. What comes later leaves
    nothing either, and no other backend is tried then: ChecksumMismatch and InvalidImage of a stream, TransferFailed,
    TransferCancelled, NotAsWritten, XapiError, XapiUnreachable.
    """
    watch = Watch("the import", progress, cancel)
    with opened(source, staging_dir=staging_dir, watch=watch) as image:
        needed = image.disk.virtual_size
        wanted = needed if size is None else size
        if wanted < needed:
            raise ImageTooLarge(image.name, size=needed, limit=wanted, what="the volume that is asked for")
        writing = _Writing(View(manager.session), image, road, here, watch, verify=verify)
        filling = Filling(_known_as(source, image), writing.write, obstacle=writing.obstacle)
        return manager.create_volume(volume_id, flavor_label, wanted, name=name, needs=needs, filling=filling)


def fill_volume(
    manager: StorageManager,
    volume_id: str,
    source: Source,
    *,
    is_blank: bool = False,
    road: RoadName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
    here: Surroundings = HERE,
) -> ImportedImage:
    """Write an image over a volume that is there; what it held is lost. Also over a LUN that was made one.

    `is_blank`: it was never written to. Raises UnknownVolume, VolumeNotReady, and what `xenvol.images.fill_vdi` does.
    """
    return fill_vdi(
        manager.session,
        source,
        _vdi_uuid(manager, volume_id),
        is_blank=is_blank,
        road=road,
        staging_dir=staging_dir,
        verify=verify,
        progress=progress,
        cancel=cancel,
        here=here,
    )


def volume_to_image(
    manager: StorageManager,
    volume_id: str,
    target: Target,
    *,
    format: ExportFormat = "raw",
    compression: Compression = "none",
    overwrite: bool = False,
    road: RoadName = "auto",
    staging_dir: str | Path | None = None,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
    here: Surroundings = HERE,
) -> ExportedImage:
    """Write what a volume, or a snapshot, holds as an image; of a volume that a VM writes to, as it is now.

    Raises UnknownVolume, VolumeNotReady, and what `xenvol.images.export_image` does.
    """
    return export_image(
        manager.session,
        _vdi_uuid(manager, volume_id),
        target,
        format=format,
        compression=compression,
        overwrite=overwrite,
        road=road,
        staging_dir=staging_dir,
        progress=progress,
        cancel=cancel,
        here=here,
    )


class _Writing:
    """An image that is open, and the way to the disk that shall hold it."""

    def __init__(
        self, view: View, image: Opened, road: RoadName, here: Surroundings, watch: Watch, *, verify: bool
    ) -> None:
        self._view = view
        self._image = image
        self._road = road
        self._here = here
        self._watch = watch
        self._verify = verify
        self._way: Road | None = None

    def obstacle(self, sr_ref: SRRef, sr_rec: Record) -> str | None:
        """Why no road leads to the disks of an SR."""
        self._view.remember("SR", sr_ref, sr_rec)
        try:
            self._way = self._here.choose(self._view, sr_ref, Attempt.begin(), self._road)
        except NoRoad as error:
            return str(error)
        return None

    def write(self, vdi_ref: VDIRef) -> None:
        assert self._way is not None, "a disk is made only where `obstacle` has found a road"
        vdi = self._view.record("VDI", vdi_ref)
        is_blank = begins_blank(self._view.record("SR", vdi["SR"]), vdi["sm_config"])
        disk = Disk(self._way, vdi_ref, f"VDI {vdi['uuid']}", int(vdi["virtual_size"]), is_blank)
        carry(self._image, disk, verify=self._verify, watch=self._watch)


def _known_as(source: Source, image: Opened) -> str:
    """By what the same image is known when the same call comes again."""
    wanted = ImageSource.of(source)
    checksums = wanted.checksums()
    if checksums:
        name = str(checksums[0])
    elif hasattr(wanted.where, "read"):  # of a stream nobody knows whether it is the same one
        name = f"{image.name} ({secrets.token_hex(8)})"
    else:
        name = image.name
    name = name.encode("utf-8", "backslashreplace").decode("utf-8")  # of a path whose bytes are no text
    if len(name) <= LONGEST:
        return name
    return f"{name[:_KEPT]}…{hashlib.sha256(name.encode()).hexdigest()}"


def _vdi_uuid(manager: StorageManager, volume_id: str) -> str:
    """The disk of a volume that is there."""
    volume = manager.get_volume(volume_id)
    if volume.state != "available" or volume.vdi_uuid is None:
        raise VolumeNotReady(volume_id, state=volume.state)
    return volume.vdi_uuid
