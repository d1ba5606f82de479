"""An image becomes a disk, exactly or not at all.

    source ─▶ opened, recognised, checked ─▶ a new VDI that has the transfer mark ─▶ its pieces, by a transport
           ─▶ checksum, read back ─▶ the mark is removed, and the caller gets the VDI

What can be known beforehand is checked before xenvol makes anything. If a check fails later, xenvol takes back all
that it made, the VDI too.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenvol.images.claim import claimed
from xenvol.images.copying import TargetDisk, copy_image
from xenvol.images.disk_checks import check_fits, check_may_be_overwritten, check_takes_disks, get_sr, get_vdi
from xenvol.images.errors import ImageTooLarge
from xenvol.images.image_source import Source
from xenvol.images.opening import OpenImage, open_image
from xenvol.images.options import HERE, Environment, TransferOptions
from xenvol.images.progress import Progress, ignore_progress
from xenvol.images.transfer_vdis import create_marked_vdi
from xenvol.images.transports import Transport, TransportName
from xenvol.images.transports.device import NO_VDI, DeviceTransport
from xenvol.pool.transfer_mark import unmark
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.storage.srtypes import begins_blank

_ISO_PATH = re.compile(r"[a-z0-9.-]+\.(iso|img)", re.IGNORECASE)
"""File names that the driver of ISO libraries accepts; it replaces others with a name of its own (sm/ISOSR.py)."""


@dataclass(frozen=True, kw_only=True)
class ImportedImage:
    """The result of an import. Sizes in bytes."""

    vdi_ref: VDIRef
    vdi_uuid: str
    sr_uuid: str
    image: str
    """The image's name in messages: a path, or a URL without its secrets."""
    format: str
    virtual_size: int
    """Of the disk in the image."""
    vdi_size: int
    """Of the VDI: the same, rounded up by its storage driver."""
    written: int
    """Bytes sent. Holes and zeros count only where the disk may hold other bytes."""
    road: str
    """The name of the transport that was used."""
    is_verified: bool
    """Whether the disk was read back and compared."""


def import_image(
    session: Any,
    source: Source,
    sr: str,
    *,
    name_label: str | None = None,
    name_description: str = "",
    sm_config: Mapping[str, str] | None = None,
    size: int | None = None,
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> ImportedImage:
    """Make a disk from an image, on an SR (reference, uuid or name).

    `size` makes the disk larger than the image, in bytes; the rest of it reads as zeros. `sm_config` goes to the
    storage driver: ``{"type": "raw"}`` makes a raw disk. `road` names the transport. Setting
    `cancel` stops the import with TransferCancelled. Raises UnknownDisk, DiskNotSuited, NoTransport; SourceError,
    InvalidImage, UnsupportedImage, MissingReader, ChecksumMismatch, ImageTooLarge, NoRoomToStage; TransferFailed,
    NotAsWritten, XapiError, XapiUnreachable. Nothing is left after any of them, nor after an interrupt.
    """
    options = TransferOptions(
        transport=road,
        staging_dir=staging_dir,
        verify=verify,
        progress=progress,
        cancel=cancel,
        environment=here,
    )
    view, undo = View.of(session), Undo()
    sm_config = sm_config or {}
    sr_ref, sr_rec = get_sr(view, sr)
    check_takes_disks(sr_rec)
    attempt, transport = options.begin(view, sr_ref)
    try:
        with open_image(source, options, "the import") as image:
            needed = image.disk.virtual_size
            wanted = needed if size is None else size
            if wanted < needed:
                raise ImageTooLarge(image.name, size=needed, limit=wanted, what="the requested disk")
            check_fits(sr_rec, image.name, format=image.format, size=wanted)
            record = _record(sr_ref, sr_rec, image, name_label, name_description, sm_config, wanted)
            vdi_ref = create_marked_vdi(view, undo, record, attempt)
            attempt.bind(view, vdi_ref)
            vdi_rec = view.record("VDI", vdi_ref)
            is_blank = begins_blank(sr_rec, vdi_rec["sm_config"])
            target = _target(transport, vdi_ref, vdi_rec, image, is_blank=is_blank)
            written = copy_image(image, target, verify=verify)
        unmark(view, vdi_ref)  # last of all: from here on the disk stays
    except BaseException as error:
        undo.unwind(error)
        raise
    return _imported(image, target, vdi_rec, sr_rec, written=written, verify=verify)


def fill_vdi(
    session: Any,
    source: Source,
    vdi: str,
    *,
    is_blank: bool = False,
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> ImportedImage:
    """Overwrite an existing disk (reference, uuid or name) with an image; its old content is lost.

    xenvol writes zeros behind the image and into its holes, unless the disk `is_blank`: new, and never written to.
    `road` names the transport. Raises what `import_image` does, and VolumeInUse if a VM has the disk. After a failure
    the disk is partly written: a note on the error says so, and a mark on the disk (`xenvol.images.claim`).
    """
    options = TransferOptions(
        transport=road,
        staging_dir=staging_dir,
        verify=verify,
        progress=progress,
        cancel=cancel,
        environment=here,
    )
    return overwrite_vdi(session, source, vdi, options, is_blank=is_blank)


def overwrite_vdi(
    session: Any, source: Source, vdi: str, options: TransferOptions, *, is_blank: bool = False
) -> ImportedImage:
    """As `fill_vdi`, with the options in one value."""
    view = View.of(session)
    vdi_ref, vdi_rec = get_vdi(view, vdi)
    sr_ref = SRRef(vdi_rec["SR"])
    check_may_be_overwritten(view, vdi_rec)
    attempt, transport = options.begin(view, sr_ref)
    sr_rec = view.record("SR", sr_ref)
    is_blank = is_blank and begins_blank(sr_rec, vdi_rec["sm_config"])
    with open_image(source, options, "the import") as image:
        target = _target(transport, vdi_ref, vdi_rec, image, is_blank=is_blank)
        with claimed(view, vdi_ref, attempt):
            written = copy_image(image, target, verify=options.verify)
    return _imported(image, target, vdi_rec, sr_rec, written=written, verify=options.verify)


def write_device(
    source: Source,
    device: str | Path,
    *,
    is_blank: bool = False,
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
) -> int:
    """Overwrite a block device of this machine with an image, and return the bytes written; its old content is lost.

    As `fill_vdi`, without a hypervisor: the device belongs to a volume that is attached to this machine.
    """
    options = TransferOptions(staging_dir=staging_dir, progress=progress, cancel=cancel)
    transport = DeviceTransport(Path(device))
    with open_image(source, options, "the import") as image:
        target = TargetDisk(transport, NO_VDI, f"device {device}", transport.size, is_blank)
        _check_size(image, target)
        try:
            return copy_image(image, target, verify=verify)
        except BaseException as error:
            error.add_note(f"{target.name} may hold a part of the image: fill it again before it is used")
            raise


def _target(
    transport: Transport, vdi_ref: VDIRef, vdi_rec: Record, image: OpenImage, *, is_blank: bool
) -> TargetDisk:
    """Return the disk to write. Raises ImageTooLarge."""
    name, size = f"VDI {vdi_rec['uuid']}", int(vdi_rec["virtual_size"])
    target = TargetDisk(transport, vdi_ref, name, size, is_blank)
    _check_size(image, target)
    return target


def _check_size(image: OpenImage, target: TargetDisk) -> None:
    if image.disk.virtual_size > target.size:
        size = image.disk.virtual_size
        raise ImageTooLarge(image.name, size=size, limit=target.size, what=target.name)


def _record(
    sr_ref: SRRef,
    sr_rec: Record,
    image: OpenImage,
    name_label: str | None,
    description: str,
    sm_config: Mapping[str, str],
    size: int,
) -> Record:
    """Return the record for VDI.create. In an ISO library the disk's file gets the image's name, if it may."""
    is_iso = sr_rec["content_type"] == "iso"
    label = name_label or image.label
    if is_iso and "path" not in sm_config:
        file_name = label if label.lower().endswith((".iso", ".img")) else f"{label}.iso"
        if _ISO_PATH.fullmatch(file_name):
            sm_config = {**sm_config, "path": file_name}
    return {
        "name_label": label,
        "name_description": description,
        "SR": sr_ref,
        "virtual_size": size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": dict(sm_config),
        "tags": [],
    }


def _imported(
    image: OpenImage, target: TargetDisk, vdi_rec: Record, sr_rec: Record, *, written: int, verify: bool
) -> ImportedImage:
    return ImportedImage(
        vdi_ref=target.vdi_ref,
        vdi_uuid=vdi_rec["uuid"],
        sr_uuid=sr_rec["uuid"],
        image=image.name,
        format=image.format,
        virtual_size=image.disk.virtual_size,
        vdi_size=target.size,
        written=written,
        road=target.transport.name,
        is_verified=verify,
    )
