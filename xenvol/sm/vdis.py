"""A volume's VDI in the pool: made, copied, found again, resized, erased; the one place that calls VDI.destroy.

xapi chooses the uuid of a new VDI, so a VDI says from the call that makes it on which row it is made for, and says
so until that row names it and before the volume is handed out (`Mark`). What says so and is named by no row was left
by somebody who died. Nothing else is ever erased but a volume's own VDI, and either only while a row that is being
deleted names it, so that no other row can (`erase_unnamed`, `volume_rows`).
"""

from __future__ import annotations

import datetime
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
from xenvol.pool.changes import make
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

log = logging.getLogger(__name__)

AT_WORK: Final = 900
"""Seconds from a copy's mark within which its call is done, if ever; a client waits 360 for an answer."""

DISKS: Final = frozenset({"user", "system", "ephemeral"})
"""Types of what is a VM's disk, or may become one; a backup's changed-block metadata is of another."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]")


def check_names(volume_id: str, name: str = "") -> None:
    """Raise InvalidSetting for what cannot be the id, or the name, of a volume in every database and pool."""
    if (
        not 0 < len(volume_id) <= ID
        or not _is_printable(volume_id)
        or volume_id != volume_id.strip()
        or volume_id.startswith(volume_rows.ERASING)
    ):
        accepted = (
            f"1 to {ID} letters that can be printed, no space around, not {volume_rows.ERASING!r} first"
        )
        raise InvalidSetting("volume id", volume_id, accepted=accepted)
    if len(name) > ID or not _is_printable(name):
        raise InvalidSetting("name", name, accepted=f"at most {ID} letters that can be printed")


def check_size(size: int) -> None:
    """Raise InvalidSetting for what is no number of bytes that a database can hold."""
    if not 0 < size < 1 << 63:
        raise InvalidSetting("size", size, accepted="a number of bytes above 0, and below 2^63")


def _is_printable(text: str) -> bool:
    """SM keeps names as XML, and refuses what that cannot hold (trace 06#73)."""
    return not _UNPRINTABLE.search(text) and all(ord(letter) & 0xFFFE != 0xFFFE for letter in text)


def label_of(volume: Volume) -> str:
    """The name_label of its VDI."""
    return volume.name or f"{'snapshot' if volume.is_snapshot else 'volume'}-{volume.id}"


@dataclass(frozen=True)
class Mark:
    """What a VDI says in other_config of the row that it is made for: ``xenvol:creating:<token>`` = the volume's id.

    A copy inherits other_config, and xapi lets nobody say anything else of it. So a copy's mark is put on its source,
    and names that: on the VDI with that very uuid it says that it is being copied. Whoever else copies the source
    meanwhile gets the mark as well: what cannot be of our call is therefore not taken for ours (`is_of`).
    """

    key: str
    token: str
    volume_id: str
    source_uuid: str | None = None
    """Of a copy."""
    call: str | None = None
    """The call that makes the copy."""
    at: int = 0
    """When that was about to be made, by the pool's clock, in seconds since 1970."""

    @classmethod
    def of_copy(cls, volume: Volume, source: Record, call: str, at: int) -> Mark:
        """Unlike that of any other attempt at the same copy."""
        key = f"{CREATING}{volume.token}:{source['uuid']}:{call}:{at}:{secrets.token_hex(4)}"
        return cls(key, volume.token, volume.id, source["uuid"], call, at)

    @property
    def is_fresh(self) -> bool:
        """Whether the call that it was put there for may still be under way."""
        return time.time() - self.at < AT_WORK

    def is_on_source(self, vdi: Record) -> bool:
        """Whether the VDI is what is copied, and not the copy."""
        return self.source_uuid is not None and self.source_uuid == vdi["uuid"]

    def is_of(self, vdi: Record) -> bool:
        """Whether the VDI is what that call has made, and not somebody else's copy of what carried the mark."""
        if vdi["VBDs"] or not vdi["managed"] or vdi["type"] not in DISKS or self.is_on_source(vdi):
            return False
        if self.source_uuid is None:
            # made by VDI.create; the mark is gone before anybody is told of the volume
            return not vdi["is_a_snapshot"]
        if bool(vdi["is_a_snapshot"]) != (self.call == "VDI.snapshot"):
            return False
        return abs(_seconds(vdi["snapshot_time"]) - self.at) < AT_WORK


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
    """A new, empty disk for the volume, of so many bytes at `least`.

    Never call it on an SR whose VDIs are LUNs (facts/requirements.md 0.1).
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
    """A copy of a disk for the volume, by VDI.snapshot or VDI.clone, which must be the storage's own way.

    The mark is taken from the source by `unmark_source`, when the row names the copy.
    """
    source = view.record("VDI", source_ref)
    at = _seconds(view.call("host.get_servertime", view.master))
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
        undo.forget()  # it may be under way, and a copy whose source has lost the mark is found by nobody
        raise
    _say(view, copy_ref, source, COPIED_BY, mark.key)  # only we know which of its marks is of this call
    if CONNECTED in source["other_config"]:  # it is not the copy that somebody has connected
        view.call("VDI.remove_from_other_config", copy_ref, CONNECTED)
    return copy_ref


def fill_vdi(
    context: Context, view: View, undo: Undo, sr_ref: SRRef, source_ref: VDIRef, volume: Volume
) -> VDIRef:
    """A full copy, where the storage has no way of its own: takes as long as the disk is large.

    Into a VDI that we make: one that xapi makes is in the pool, mark and all, before it has what its source has, and
    whoever came after a crash would take the half for the whole.
    """
    source = view.record("VDI", source_ref)
    sm_config = {"type": "raw"} if is_raw(source) else {}
    least = int(source["virtual_size"])
    vdi_ref = create_vdi(context, view, undo, sr_ref, volume, sm_config, least=least)
    view.call("VDI.copy", source_ref, sr_ref, NULL_REF, vdi_ref)
    return vdi_ref


def is_raw(vdi: Record) -> bool:
    """A raw disk can be cloned by a full copy only (SM fault 38), and file SRs cannot grow it (facts/sm-truth.md)."""
    sm_config = vdi["sm_config"]
    return bool(sm_config.get("type") == "raw" or sm_config.get("vdi_type") == "aio")


def find_made(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> VDIRef | None:
    """A VDI that an attempt has made for the volume, whole, and that no row names; of several the first."""
    made = {ref: vdi for ref, vdi in _made(view, sr_ref, volume) if not _may_be_half(vdi, volume)}
    unnamed = context.database.read(volume_rows.unnamed, {vdi["uuid"] for vdi in made.values()})
    free = [ref for ref, vdi in made.items() if vdi["uuid"] in unnamed]
    return min(free, key=lambda ref: (_seconds(made[ref]["snapshot_time"]), ref), default=None)


def _may_be_half(vdi: Record, volume: Volume) -> bool:
    """Whether it is a disk that is filled after it was made: by `fill_vdi`, or with an image."""
    is_filled = volume.source_id is not None or volume.image is not None
    return is_filled and CREATING + volume.token in vdi["other_config"]


def erase_halves(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> None:
    """Erase what dead attempts at filling a disk have left, now that the row names a whole one. What cannot be, an
    audit erases."""
    for ref, vdi in _made(view, sr_ref, volume):
        if _may_be_half(vdi, volume) and vdi["uuid"] != volume.vdi_uuid:
            try:
                erase_unnamed(context, view, volume.backend_id, ref)
            except XenVolError as error:
                log.warning("VDI %s of a dead attempt at volume %s is left: %s", ref, volume.id, error)


def erase_made(context: Context, view: View, sr_ref: SRRef, volume: Volume) -> None:
    """Erase whatever attempts have made for a volume that is not to be."""
    for ref, _ in _made(view, sr_ref, volume):
        erase_unnamed(context, view, volume.backend_id, ref)


def _made(view: View, sr_ref: SRRef, volume: Volume) -> Iterator[tuple[VDIRef, Record]]:
    where: dict[str, str] = {"SR": sr_ref}
    label = label_of(volume)
    if volume.source_id is None and '"' not in label:
        where["name_label"] = label  # a copy has the name of its source, whatever that was then
    there = {VDIRef(ref): vdi for ref, vdi in view.find("VDI", where).items()}
    for ref, marks in made_by_us(there).items():
        if any(mark.token == volume.token for mark in marks):
            yield ref, there[ref]


def made_by_us(there: Mapping[VDIRef, Record]) -> dict[VDIRef, list[Mark]]:
    """Of all disks of an SR, those that calls for rows have made, with the marks that prove it.

    Whoever else copies a source while it is marked makes a disk with the same mark. One call makes one copy: the one
    that says so, and where none does, the only one that has the mark; where several have it, none is taken for it.
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
    """Whether it says by which mark it was made."""
    return COPIED_BY in vdi["other_config"]


def is_copied(there: Mapping[VDIRef, Record], mark: Mark) -> bool:
    """Whether the copy that the mark was put on its source for is there, and known."""
    return any(vdi["other_config"].get(COPIED_BY) == mark.key for vdi in there.values())


def latest_mark(vdi: Record) -> tuple[int, int]:
    """By which disks sort as they were made: the moment of the latest mark, and how many there are."""
    marks = marks_of(vdi)
    return max((mark.at for mark in marks), default=0), len(marks)


def settle_vdi(view: View, vdi_ref: VDIRef, volume: Volume) -> None:
    """What is said of a VDI once its row names it: its own name, and no mark of its making. Idempotent.

    Key by key, since it may be in use by now, if another service was faster, and others say things of it.
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
            # of attempts that died it has the marks as well, and its own was put there last
            _say(view, vdi_ref, vdi, COPIED_BY, max(own, key=lambda mark: mark.at).key)
    unmark(view, vdi_ref, marks)
    _say(view, vdi_ref, vdi, MANAGED, volume.id)


def unsettled(vdi: Record, volume: Volume) -> bool:
    """Whether the VDI of a finished volume says something else."""
    return vdi["other_config"].get(MANAGED) != volume.id or any(
        not mark.is_on_source(vdi) for mark in marks_of(vdi)
    )


def unmark(view: View, vdi_ref: VDIRef, marks: Iterable[Mark]) -> None:
    """Take these marks from a disk. Idempotent."""
    with gone_is_fine("VDI"):
        for mark in marks:
            view.call("VDI.remove_from_other_config", vdi_ref, mark.key)


def unmark_source(view: View, source_ref: VDIRef, copy: Volume) -> None:
    """The copy is there: its source, which the view remembers, says no longer that it is being copied."""
    marks = [mark for mark in marks_of(view.record("VDI", source_ref)) if mark.token == copy.token]
    try:
        unmark(view, source_ref, marks)
    except (XapiError, XapiUnreachable) as error:  # an audit does it
        log.warning("VDI %s still says that it is being copied: %s", source_ref, error)


def unmanage(view: View, vdi_ref: VDIRef) -> None:
    """It is no volume any more. Idempotent."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, MANAGED)


def get_vdi(view: View, sr_ref: SRRef, volume: Volume) -> tuple[VDIRef, Record]:
    """The volume's disk. Raises VolumeNotFound where the pool has it not; an SR that has lost it says so."""
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
    """The disk; None only where the storage has it not either: an SR that was introduced anew shows none at first.

    Raises XapiError where the storage cannot be asked.
    """
    for ref in view.find("VDI", {"uuid": vdi_uuid}):
        return VDIRef(ref)
    scan_sr(view, sr_ref)
    return next(map(VDIRef, view.find("VDI", {"uuid": vdi_uuid})), None)


def erase(view: View, vdi_ref: VDIRef) -> None:
    """Erase a disk that a row names which is being deleted. Idempotent.

    Raises VolumeInUse where a VM has it, also one that is shut down: xapi itself would only mind a plugged one, and
    would drop the VM's slot along with the disk (facts/xapi.md, VDI.destroy).
    """
    try:
        check_unused(view, view.call("VDI.get_record", vdi_ref))
        view.call("VDI.destroy", vdi_ref)
    except XapiError as error:
        if not is_gone(error, "VDI"):
            raise


def erase_unnamed(
    context: Context, view: View, backend_id: int, vdi_ref: VDIRef, *, is_ours: bool = False
) -> bool:
    """Erase a disk that was made for a row and is no volume; False where it is one after all, or is somebody's.

    A row keeps others from making it theirs meanwhile, and stays where nobody knows whether it is erased. `is_ours`:
    this very process has made it.
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
    """Erase the disk that a claim names, unless it is in use, or somebody else's copy (`Mark.is_of`); False then."""
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
    """Raise VolumeInUse where a VM has the disk, or it was connected for one that is to come."""
    if CONNECTED in vdi["other_config"]:
        whoever = "whoever connected it without a VM (`xenvol disconnect`)"
        raise VolumeInUse(vdi["uuid"], users=[whoever], is_to_go=True)
    if users := users_of(view, vdi):
        raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def users_of(view: View, vdi: Record) -> list[str]:
    """The VMs that have a slot with the disk in it, in words."""
    if not vdi["VBDs"]:
        return []
    view.read({"VBD": vdi["VBDs"]})
    vbds = view.known_of("VBD", vdi["VBDs"]).values()
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    vms = [(view.known("VM", vbd["VM"]), vbd) for vbd in vbds]
    return [f"{vm['name_label']} ({vbd['device'] or vbd['userdevice']})" for vm, vbd in vms if vm is not None]


def _take_back(context: Context, backend_id: int, view: View, vdi_ref: VDIRef) -> None:
    """The inverse of making: not of what another service has found by its mark, and made its volume."""
    with gone_is_fine("VDI"):
        vdi = view.call("VDI.get_record", vdi_ref)
        if CONNECTED in vdi["other_config"] and not vdi["VBDs"]:
            view.call("VDI.remove_from_other_config", vdi_ref, CONNECTED)  # inherited
    if not erase_unnamed(context, view, backend_id, vdi_ref, is_ours=True):
        log.info("VDI %s stays: it is another's meanwhile", vdi_ref)


def _say(view: View, vdi_ref: VDIRef, vdi: Record, key: str, value: str) -> None:
    """In the place of what is said there: a copy has inherited what its source says of itself. Idempotent."""
    if vdi["other_config"].get(key) == value:
        return
    if key in vdi["other_config"]:
        view.call("VDI.remove_from_other_config", vdi_ref, key)
    try:
        view.call("VDI.add_to_other_config", vdi_ref, key, value)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":  # another service has said so meanwhile
            raise


def _description_of(volume: Volume) -> str:
    return f"xenvol volume {volume.id}"


def _seconds(moment: object) -> float:
    """A date as xapi sends it, ``20261121T02:35:29Z``, in seconds since 1970."""
    text = str(moment).replace("-", "").removesuffix("Z").partition(".")[0]
    return datetime.datetime.strptime(text, "%Y%m%dT%H:%M:%S").replace(tzinfo=datetime.UTC).timestamp()
