"""An image becomes a disk: exactly, or not at all.

    source ─▶ opened, told by its first bytes, checked ─▶ a new VDI that says who fills it ─▶ its pieces, by a road
           ─▶ checksum, read back ─▶ the VDI says so no more, and is handed out

Whatever is wrong on the way, and can be known before, is said before anything is made; what is found later takes back
all that was made, the VDI too.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xenvol.images.copying import Target, carry
from xenvol.images.destination import check_fits, check_may_be_overwritten, check_takes_disks, get_sr, get_vdi
from xenvol.images.environment import HERE, Surroundings
from xenvol.images.erasing import discard_disk
from xenvol.images.errors import ImageTooLarge
from xenvol.images.opening import Opened, Source, opened
from xenvol.images.overwriting import claimed
from xenvol.images.progress import Progress, Watch, say_nothing
from xenvol.images.transfer_mark import Attempt, unmark
from xenvol.images.transports import Road, RoadName
from xenvol.images.transports.device import NO_VDI, DeviceRoad
from xenvol.pool.changes import make
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.storage import vdis_of
from xenvol.storage.srtypes import begins_blank

_ISO_PATH = re.compile(r"[a-z0-9.-]+\.(iso|img)", re.IGNORECASE)
"""What the driver of ISO libraries takes for a file's name; others get one of its own making (sm/ISOSR.py)."""


@dataclass(frozen=True, kw_only=True)
class ImportedImage:
    """What came of it. Sizes in bytes."""

    vdi_ref: VDIRef
    vdi_uuid: str
    sr_uuid: str
    image: str
    """As it is called in messages: a path, a URL without what is secret in it."""
    format: str
    virtual_size: int
    """Of the disk in the image."""
    vdi_size: int
    """Of the VDI: the same, rounded up as its storage driver does."""
    written: int
    """Bytes that were sent; holes and zeros only where the disk may hold other bytes."""
    road: str
    is_verified: bool
    """Whether it was read back and compared."""


def import_image(
    session: Any,
    source: Source,
    sr: str,
    *,
    name_label: str | None = None,
    name_description: str = "",
    sm_config: Mapping[str, str] | None = None,
    road: RoadName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
    here: Surroundings = HERE,
) -> ImportedImage:
    """Make a disk on an SR (reference, uuid or name) of an image.

    `sm_config` goes to the storage driver: ``{"type": "raw"}`` makes a raw disk. `cancel`, when it is set, breaks it
    off, with TransferCancelled. Raises UnknownDisk, DiskNotSuited, NoRoad; SourceError, InvalidImage,
    UnsupportedImage, MissingReader, ChecksumMismatch, ImageTooLarge, NoRoomToStage; TransferFailed, NotAsWritten,
    XapiError, XapiUnreachable. Nothing is left after any of them, nor after an interrupt.
    """
    view, attempt, undo = View.of(session), Attempt.begin(), Undo()
    sm_config = sm_config or {}
    sr_ref, sr_rec = get_sr(view, sr)
    check_takes_disks(sr_rec)
    way = here.choose(view, sr_ref, attempt, road)
    watch = Watch("the import", progress, cancel)
    try:
        with opened(source, staging_dir=staging_dir, watch=watch) as image:
            check_fits(sr_rec, image.name, format=image.format, size=image.disk.virtual_size)
            record = _record(sr_ref, sr_rec, image, name_label, name_description, sm_config)
            vdi_ref = create_vdi(view, undo, record, attempt)
            attempt.bind(view, vdi_ref)
            vdi_rec = view.record("VDI", vdi_ref)
            target = _target(
                way, vdi_ref, vdi_rec, image, is_blank=begins_blank(sr_rec, vdi_rec["sm_config"])
            )
            written = carry(image, target, verify=verify, watch=watch)
        unmark(view, vdi_ref)  # last of all: from here on it stays
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
    road: RoadName = "auto",
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
    here: Surroundings = HERE,
) -> ImportedImage:
    """Write an image over a disk that is there (reference, uuid or name); what it held is lost.

    Behind the image, and in its holes, zeros are written, unless the disk `is_blank`: new, and never written to.
    Raises what `import_image` does, and VolumeInUse where a VM has the disk. After a failure its content is neither
    the old nor the new; a note on the error says so, and a word on the disk (`xenvol.images.overwriting`).
    """
    view, attempt = View.of(session), Attempt.begin()
    vdi_ref, vdi_rec = get_vdi(view, vdi)
    sr_ref = SRRef(vdi_rec["SR"])
    check_may_be_overwritten(view, vdi_rec)
    way = here.choose(view, sr_ref, attempt, road)
    sr_rec = view.record("SR", sr_ref)
    is_blank = is_blank and begins_blank(sr_rec, vdi_rec["sm_config"])
    watch = Watch("the import", progress, cancel)
    with opened(source, staging_dir=staging_dir, watch=watch) as image:
        target = _target(way, vdi_ref, vdi_rec, image, is_blank=is_blank)
        with claimed(view, vdi_ref, attempt):
            written = carry(image, target, verify=verify, watch=watch)
    return _imported(image, target, vdi_rec, sr_rec, written=written, verify=verify)


def write_device(
    source: Source,
    device: str | Path,
    *,
    is_blank: bool = False,
    staging_dir: str | Path | None = None,
    verify: bool = False,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
) -> int:
    """Write an image over a block device that this machine shows; what it held is lost. The bytes written.

    As `fill_vdi`, without a hypervisor: the device is a volume's that is attached here.
    """
    way = DeviceRoad(Path(device))
    watch = Watch("the import", progress, cancel)
    with opened(source, staging_dir=staging_dir, watch=watch) as image:
        target = Target(way, NO_VDI, f"device {device}", way.size, is_blank)
        _check_size(image, target)
        try:
            return carry(image, target, verify=verify, watch=watch)
        except BaseException as error:
            error.add_note(f"{target.name} may hold a part of the image: fill it again before it is used")
            raise


def _target(way: Road, vdi_ref: VDIRef, vdi: Record, image: Opened, *, is_blank: bool) -> Target:
    """The disk, if the image fits on it."""
    target = Target(way, vdi_ref, f"VDI {vdi['uuid']}", int(vdi["virtual_size"]), is_blank)
    _check_size(image, target)
    return target


def _check_size(image: Opened, target: Target) -> None:
    if image.disk.virtual_size > target.size:
        size = image.disk.virtual_size
        raise ImageTooLarge(image.name, size=size, limit=target.size, what=target.name)


# ---- the disk


def create_vdi(view: View, undo: Undo, record: Record, attempt: Attempt) -> VDIRef:
    """A new disk that says whose attempt it is. Never where VDIs are LUNs: see `check_takes_disks`."""

    def look() -> VDIRef | None:
        ours = [ref for ref, vdi in vdis_of(view, record["SR"]).items() if attempt.has_marked(vdi)]
        return next(iter(ours), None)

    vdi_ref: VDIRef = make(
        view,
        undo,
        f"made VDI {record['name_label']!r}",
        ("VDI.create", {**record, "other_config": {**record["other_config"], **attempt.mark}}),
        look=look,
        inverse=partial(discard_disk, attempt=attempt),
    )
    return vdi_ref


def _record(
    sr_ref: SRRef,
    sr_rec: Record,
    image: Opened,
    name_label: str | None,
    description: str,
    sm_config: Mapping[str, str],
) -> Record:
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
        "virtual_size": image.disk.virtual_size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": dict(sm_config),
        "tags": [],
    }


def _imported(
    image: Opened, target: Target, vdi: Record, sr_rec: Record, *, written: int, verify: bool
) -> ImportedImage:
    return ImportedImage(
        vdi_ref=target.vdi_ref,
        vdi_uuid=vdi["uuid"],
        sr_uuid=sr_rec["uuid"],
        image=image.name,
        format=image.format,
        virtual_size=image.disk.virtual_size,
        vdi_size=target.size,
        written=written,
        road=target.road.name,
        is_verified=verify,
    )
