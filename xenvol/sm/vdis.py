"""A volume's VDI in the pool: made, copied, found, resized, erased. The only module that calls VDI.destroy.

xapi chooses the uuid of a new VDI. So the call that makes a VDI also gives it a mark that names its row, and the mark
stays until the row names the VDI, and goes before the volume is available (`Mark`). A VDI with such a mark that no row
names was left by a dead process. Apart from these, only a volume's own VDI is ever erased. Both are erased only while a
row that is being deleted names them, so that no other row can (`erase_unnamed`, `volume_rows`).
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.exc import IntegrityError

from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError, XapiUnreachable, XenVolError
from xenvol.pool.changes import add_key, make
from xenvol.pool.clock import parse_time, pool_time
from xenvol.pool.marks import CONNECTED, COPIED_BY, CREATING, MANAGED
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.session.refs import NULL_REF, SRRef, VDIRef
from xenvol.sm import volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import InvalidSetting
from xenvol.sm.records import Volume
from xenvol.sm.tables import ID
from xenvol.storage import scan_sr, vdis_of
from xenvol.storage.users import vbds_of

log = logging.getLogger(__name__)

AT_WORK: Final = 900
"""Seconds after a copy's mark until its call is certainly over; a client waits 360 for an answer."""

DISKS: Final = frozenset({"user", "system", "ephemeral"})
"""Types of VDIs that a VM uses as disks. A backup's changed-block metadata has another type."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]")


def check_names(volume_id: str, name: str = "") -> None:
    """Raise InvalidSetting for an id or a name that some database or pool cannot store."""
    if (
        not 0 < len(volume_id) <= ID
        or not _is_printable(volume_id)
        or volume_id != volume_id.strip()
        or volume_id.startswith(volume_rows.ERASING)
    ):
        accepted = (
            f"1 to {ID} printable characters, no space at either end, not {volume_rows.ERASING!r} first"
        )
        raise InvalidSetting("volume id", volume_id, accepted=accepted)
    if len(name) > ID or not _is_printable(name):
        raise InvalidSetting("name", name, accepted=f"at most {ID} printable characters")


def check_size(size: int) -> None:
    """Raise InvalidSetting for a number of bytes that a database cannot store."""
    if not 0 < size < 1 << 63:
        raise InvalidSetting("size", size, accepted="a number of bytes above 0, and below 2^63")


def _is_printable(text: str) -> bool:
    """Return True if XML can hold the text: SM keeps names as XML, and refuses others (trace 06#73)."""
    return not _UNPRINTABLE.search(text) and all(ord(letter) & 0xFFFE != 0xFFFE for letter in text)


def label_of(volume: Volume) -> str:
    """Return the name_label of the volume's VDI."""
    return volume.name or f"{'snapshot' if volume.is_snapshot else 'volume'}-{volume.id}"


@dataclass(frozen=True)
class Mark:
    """The other_config key by which a VDI names the row it is made for: ``xenvol:creating:<token>`` = the volume's id.

    A copy inherits other_config, and the call that copies cannot add to it. So the mark of a copy is put on its source,
    and contains the source's uuid: on the VDI with that uuid it means "is being copied". If another tool copies the
    source meanwhile, its copy has the mark too. So a VDI that our call cannot have made does not count as ours
    (`is_of`).
    """

    key: str
    token: str
    volume_id: str
    source_uuid: str | None = None
    """The source of a copy; None for a new VDI."""
    call: str | None = None
    """The call that makes the copy."""
    at: int = 0
    """When that call was about to start, by the pool's clock, in seconds since 1970."""

    @classmethod
    def of_copy(cls, volume: Volume, source: Record, call: str, at: int) -> Mark:
        """Return a mark that no other attempt at the same copy has."""
        key = f"{CREATING}{volume.token}:{source['uuid']}:{call}:{at}:{secrets.token_hex(4)}"
        return cls(key, volume.token, volume.id, source["uuid"], call, at)

    @property
    def is_fresh(self) -> bool:
        """Return True if the call of the mark may still be running."""
        return time.time() - self.at < AT_WORK

    def is_on_source(self, vdi: Record) -> bool:
        """Return True if the VDI is the source of the copy, and not the copy."""
        return self.source_uuid is not None and self.source_uuid == vdi["uuid"]

    def is_of(self, vdi: Record) -> bool:
        """Return True if the call of the mark made the VDI, and not another tool that copied a VDI with the mark."""
        if vdi["VBDs"] or not vdi["managed"] or vdi["type"] not in DISKS or self.is_on_source(vdi):
            return False
        if self.source_uuid is None:
            # made by VDI.create; the mark is removed before the volume is available
            return not vdi["is_a_snapshot"]
        if bool(vdi["is_a_snapshot"]) != (self.call == "VDI.snapshot"):
            return False
        return abs(parse_time(vdi["snapshot_time"]).timestamp() - self.at) < AT_WORK


def marks_of(vdi: Record) -> list[Mark]:
    found = []
    for key, volume_id in vdi["other_config"].items():
        match key.removeprefix(CREATING).split(":") if key.startswith(CREATING) else []:
            case [token]:
                found.append(Mark(key, token, volume_id))
            case [token, source_uuid, call, at, _] if at.isdecimal():
                found.append(Mark(key, token, volume_id, source_uuid, call, int(at)))
    return found


def create_vdi(
    context: Context,
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    volume: Volume,
    sm_config: Mapping[str, str],
    *,
    least: int = 0,
) -> VDIRef:
    """Make a new, empty VDI for the volume, of at least `least` bytes.

    Never call it on an SR whose VDIs are LUNs (docs/background/requirements.md 0.1).
    """
    record: dict[str, Any] = {
        "name_label": label_of(volume),
        "name_description": _description_of(volume),
        "SR": sr_ref,
        "virtual_size": max(volume.size, least),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {CREATING + volume.token: volume.id, MANAGED: volume.id},
        "xenstore_data": {},
        "sm_config": dict(sm_config),
        "tags": [],
    }
    vdi_ref: VDIRef = make(
        view,
        undo,
        f"made a VDI for volume {volume.id}",
        ("VDI.create", record),
        look=partial(find_made, context, view, sr_ref, volume),
        inverse=partial(_take_back, context, volume.backend_id),
    )
    return vdi_ref


def copy_vdi(
    context: Context, view: View, undo: Undo, sr_ref: SRRef, source_ref: VDIRef, volume: Volume, call: str
) -> VDIRef:
    """Copy a VDI for the volume, by VDI.snapshot or VDI.clone, which must be the storage driver's own way.

    `unmark_source` removes the mark from the source, once the row names the copy.
    """
    source = view.record("VDI", source_ref)
    at = pool_time(view).timestamp()
    mark = Mark.of_copy(volume, source, call, int(at))
    view.call("VDI.add_to_other_config", source_ref, mark.key, mark.volume_id)
    marked = {**source["other_config"], mark.key: mark.volume_id}
    view.remember("VDI", source_ref, {**source, "other_config": marked})
    undo.did(f"marked VDI {source['uuid']}", unmark, view, source_ref, [mark])
    try:
        copy_ref: VDIRef = make(
            view,
            undo,
            f"copied VDI {source['uuid']} for volume {volume.id}",
            (call, source_ref, {}),
            look=partial(find_made, context, view, sr_ref, volume),
            inverse=partial(_take_back, context, volume.backend_id),
        )
    except XapiError:
        raise
    except BaseException:
        undo.forget()  # the copy may be running, and is not found if its source has lost the mark
        raise
    _set_key(view, copy_ref, source, COPIED_BY, mark.key)  # only this process knows which of its marks is new
    if CONNECTED in source["other_config"]:  # the source was connected, and not the copy
        view.call("VDI.remove_from_other_config", copy_ref, CONNECTED)
    return copy_ref


def fill_vdi(
    context: Context, view: View, undo: Undo, sr_ref: SRRef, source_ref: VDIRef, volume: Volume
) -> VDIRef:
    """Make a full copy, if the storage driver has no way of its own. It takes as long as the disk is large.

    The target is a VDI that we make. A VDI that xapi makes has the mark before it has all data, and after a crash it
    would be taken for complete.
    """
    source = view.record("VDI", source_ref)
    sm_config = {"type": "raw"} if is_raw(source) else {}
    least = int(source["virtual_size"])
    vdi_ref = create_vdi(context, view, undo, sr_ref, volume, sm_config, least=least)
    view.call("VDI.copy", source_ref, sr_ref, NULL_REF, vdi_ref)
    return vdi_ref


def is_raw(vdi: Record) -> bool:
    """Return True for a raw VDI: VDI.clone copies it in full (SM fault 38), and file SRs cannot grow it
    (recordings.md)."""
    sm_config = vdi["sm_config"]
    return bool(sm_config.get("type") == "raw" or sm_config.get("vdi_type") == "aio")


def find_made(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> VDIRef | None:
    """Return a complete VDI that an attempt made for the volume, and that no row names; the oldest, or None."""
    made = {ref: vdi for ref, vdi in _made(view, sr_ref, volume) if not _may_be_incomplete(vdi, volume)}
    unnamed = context.database.read(volume_rows.unnamed, {vdi["uuid"] for vdi in made.values()})
    free = [ref for ref, vdi in made.items() if vdi["uuid"] in unnamed]
    return min(free, key=lambda ref: (parse_time(made[ref]["snapshot_time"]), ref), default=None)


def _may_be_incomplete(vdi: Record, volume: Volume) -> bool:
    """Return True if the VDI is filled after it is made: by `fill_vdi`, or with an image."""
    is_filled = volume.source_id is not None or volume.image is not None
    return is_filled and CREATING + volume.token in vdi["other_config"]


def erase_incomplete(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> None:
    """Erase the incomplete VDIs of dead attempts, now that the row names a complete one. An audit erases the rest."""
    for ref, vdi in _made(view, sr_ref, volume):
        if _may_be_incomplete(vdi, volume) and vdi["uuid"] != volume.vdi_uuid:
            try:
                erase_unnamed(context, view, volume.backend_id, ref)
            except XenVolError as error:
                log.warning("VDI %s of a dead attempt at volume %s is left: %s", ref, volume.id, error)


def erase_made(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> None:
    """Erase all VDIs that attempts made for a volume that is being deleted."""
    for ref, _ in _made(view, sr_ref, volume):
        erase_unnamed(context, view, volume.backend_id, ref)


def _made(view: View, sr_ref: SRRef, volume: Volume) -> Iterator[tuple[VDIRef, Record]]:
    where: dict[str, str] = {"SR": sr_ref}
    label = label_of(volume)
    if volume.source_id is None and '"' not in label:
        where["name_label"] = label  # a copy has the name that its source had then
    there = {VDIRef(ref): vdi for ref, vdi in view.find("VDI", where).items()}
    for ref, marks in made_by_us(there).items():
        if any(mark.token == volume.token for mark in marks):
            yield ref, there[ref]


def made_by_us(there: Mapping[VDIRef, Record]) -> dict[VDIRef, list[Mark]]:
    """Return the VDIs of an SR that calls for rows made, each with the marks that prove it.

    If another tool copies a source while it is marked, its copy has the same mark. But one call makes one copy. It is
    the VDI whose COPIED_BY names the mark; without such a VDI, the only one with the mark. If several have it, none
    counts.
    """
    carriers = Counter(mark.key for vdi in there.values() for mark in marks_of(vdi) if mark.is_of(vdi))
    known = Counter(vdi["other_config"].get(COPIED_BY) for vdi in there.values())

    def is_proved(vdi: Record, mark: Mark) -> bool:
        if mark.source_uuid is None:
            return True
        if vdi["other_config"].get(COPIED_BY) == mark.key:
            return known[mark.key] == 1
        return carriers[mark.key] == 1 and not known[mark.key]

    proved = {
        ref: [mark for mark in marks_of(vdi) if mark.is_of(vdi) and is_proved(vdi, mark)]
        for ref, vdi in there.items()
    }
    return {ref: marks for ref, marks in proved.items() if marks}


def is_known_copy(vdi: Record) -> bool:
    """Return True if COPIED_BY says which mark made it."""
    return COPIED_BY in vdi["other_config"]


def is_copied(there: Mapping[VDIRef, Record], mark: Mark) -> bool:
    """Return True if the copy of this mark exists, and its COPIED_BY says so."""
    return any(vdi["other_config"].get(COPIED_BY) == mark.key for vdi in there.values())


def latest_mark(vdi: Record) -> tuple[int, int]:
    """Return a sort key, by which VDIs sort as they were made: the time of the latest mark, and the number of marks."""
    marks = marks_of(vdi)
    return max((mark.at for mark in marks), default=0), len(marks)


def settle_vdi(view: View, vdi_ref: VDIRef, volume: Volume) -> None:
    """Give the VDI the marks and the name of a finished volume, once its row names it. Idempotent.

    Each key is set by itself: if another service was faster the VDI is in use by now, and other tools write keys too.
    """
    vdi = view.record("VDI", vdi_ref)
    marks = [mark for mark in marks_of(vdi) if not mark.is_on_source(vdi)]
    if volume.source_id is not None and volume.state != "available":
        if vdi["name_label"] != label_of(volume):
            view.call("VDI.set_name_label", vdi_ref, label_of(volume))
        if vdi["name_description"] != _description_of(volume):
            view.call("VDI.set_name_description", vdi_ref, _description_of(volume))
        own = [mark for mark in marks if mark.token == volume.token and mark.source_uuid is not None]
        if own and vdi["other_config"].get(COPIED_BY) not in {mark.key for mark in own}:
            # it inherits the marks of dead attempts too; its own is the latest
            _set_key(view, vdi_ref, vdi, COPIED_BY, max(own, key=lambda mark: mark.at).key)
    unmark(view, vdi_ref, marks)
    _set_key(view, vdi_ref, vdi, MANAGED, volume.id)


def unsettled(vdi: Record, volume: Volume) -> bool:
    """Return True if the VDI of a finished volume lacks the volume's mark, or has one of its making."""
    return vdi["other_config"].get(MANAGED) != volume.id or any(
        not mark.is_on_source(vdi) for mark in marks_of(vdi)
    )


def unmark(view: View, vdi_ref: VDIRef, marks: Iterable[Mark]) -> None:
    """Remove these marks from a VDI. Idempotent."""
    with gone_is_fine("VDI"):
        for mark in marks:
            view.call("VDI.remove_from_other_config", vdi_ref, mark.key)


def unmark_source(view: View, source_ref: VDIRef, copy: Volume) -> None:
    """Remove the mark of a finished copy from its source, which the view has read."""
    marks = [mark for mark in marks_of(view.record("VDI", source_ref)) if mark.token == copy.token]
    try:
        unmark(view, source_ref, marks)
    except (XapiError, XapiUnreachable) as error:  # an audit removes it later
        log.warning("VDI %s is still marked as being copied: %s", source_ref, error)


def unmanage(view: View, vdi_ref: VDIRef) -> None:
    """Remove the volume's mark. Idempotent."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, MANAGED)


def get_vdi(view: View, sr_ref: SRRef, volume: Volume) -> tuple[VDIRef, Record]:
    """Return the volume's VDI. Raises VolumeNotFound, which lists the VDIs of its SR."""
    found = view.find("VDI", {"uuid": volume.vdi_uuid or ""})
    if not found:
        sr = view.record("SR", sr_ref)
        raise VolumeNotFound(
            f"VDI {volume.vdi_uuid} of volume {volume.id} in SR {sr['name_label']}",
            found=[vdi["uuid"] for vdi in vdis_of(view, sr_ref).values()],
        )
    ((ref, vdi),) = found.items()
    return VDIRef(ref), vdi


def find_after_scan(view: View, sr_ref: SRRef, vdi_uuid: str) -> VDIRef | None:
    """Return the VDI, or None if the storage lacks it too. An SR that was introduced anew shows its VDIs after a scan.

    Raises XapiError if the storage cannot be scanned.
    """
    for ref in view.find("VDI", {"uuid": vdi_uuid}):
        return VDIRef(ref)
    scan_sr(view, sr_ref)
    return next(map(VDIRef, view.find("VDI", {"uuid": vdi_uuid})), None)


def erase(view: View, vdi_ref: VDIRef) -> None:
    """Erase a VDI; a row that is being deleted must name it. Idempotent.

    Raises VolumeInUse if a VM has it, also a VM that is shut down. xapi itself refuses only for a plugged VDI, and
    destroys the VM's VBD together with the VDI (docs/background/xapi.md, VDI.destroy).
    """
    with gone_is_fine("VDI"):
        check_unused(view, view.call("VDI.get_record", vdi_ref))
        view.call("VDI.destroy", vdi_ref)


def erase_unnamed(
    context: Context, view: View, backend_id: int, vdi_ref: VDIRef, *, is_ours: bool = False
) -> bool:
    """Erase a VDI that was made for a row and that no row names. Return False if it is a volume, or another tool's.

    A claim, which is a row of its own, keeps other services from making it a volume meanwhile. The claim stays if there
    is no answer to the erase. `is_ours` means that this process made the VDI.
    """
    try:
        vdi = view.call("VDI.get_record", vdi_ref)
    except XapiError as error:
        if is_gone(error, "VDI"):
            return True
        raise
    try:
        claim = context.database.write(
            volume_rows.claim_for_erasing, backend_id=backend_id, vdi_uuid=vdi["uuid"]
        )
    except IntegrityError:
        return False
    return finish_erasing(context, view, claim, is_ours=is_ours)


def finish_erasing(context: Context, view: View, claim: Volume, *, is_ours: bool = False) -> bool:
    """Erase the VDI that a claim names. Return False if it is another tool's copy (`Mark.is_of`). Raises
    VolumeInUse."""
    try:
        for ref, vdi in view.find("VDI", {"uuid": claim.vdi_uuid or ""}).items():
            if not is_ours and not any(mark.is_of(vdi) for mark in marks_of(vdi)):
                context.database.write(volume_rows.drop_claim, claim)
                return False
            erase(view, VDIRef(ref))
    except (XapiError, VolumeInUse):
        context.database.write(volume_rows.drop_claim, claim)  # it is not erased
        raise
    context.database.write(volume_rows.drop_claim, claim)
    return True


def check_unused(view: View, vdi: Record) -> None:
    """Raise VolumeInUse if a VM has the VDI, or if it is connected for a VM that will start from it."""
    if CONNECTED in vdi["other_config"]:
        connection = "a connection without a VM (`xenvol disconnect` ends it)"
        raise VolumeInUse(vdi["uuid"], users=[connection], is_to_go=True)
    if users := users_of(view, vdi):
        raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def users_of(view: View, vdi: Record) -> list[str]:
    """Return the VMs that have the VDI in a slot, as text."""
    return [f"{vm['name_label']} ({vbd['device'] or vbd['userdevice']})" for vm, vbd in slots_of(view, vdi)]


def slots_of(view: View, vdi: Record) -> list[tuple[Record, Record]]:
    """Return the VM and the VBD of each slot that has the VDI. At most two calls."""
    vbds = vbds_of(view, [vdi]).values()
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    return [(vm, vbd) for vbd in vbds if (vm := view.known("VM", vbd["VM"])) is not None]


def _take_back(context: Context, backend_id: int, view: View, vdi_ref: VDIRef) -> None:
    """Erase a VDI that we made: the inverse of making it. If another service has made it a volume, it stays."""
    with gone_is_fine("VDI"):
        vdi = view.call("VDI.get_record", vdi_ref)
        if CONNECTED in vdi["other_config"] and not vdi["VBDs"]:
            view.call("VDI.remove_from_other_config", vdi_ref, CONNECTED)  # inherited from the source
    if not erase_unnamed(context, view, backend_id, vdi_ref, is_ours=True):
        log.info("VDI %s stays: another service has made it a volume meanwhile", vdi_ref)


def _set_key(view: View, vdi_ref: VDIRef, vdi: Record, key: str, value: str) -> None:
    """Set the key in other_config, in place of a value that a copy has inherited. Idempotent."""
    if vdi["other_config"].get(key) == value:
        return
    if key in vdi["other_config"]:
        view.call("VDI.remove_from_other_config", vdi_ref, key)
    add_key(view, "VDI.other_config", vdi_ref, key, value)  # or another service has set it meanwhile


def _description_of(volume: Volume) -> str:
    return f"xenvol volume {volume.id}"
