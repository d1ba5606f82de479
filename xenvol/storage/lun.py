"""A disk that is a LUN: found by its number, brought in without a scan, seen anew after it grew.

For SRs that show every LUN of a target as a VDI (types ``iscsi`` and ``hba``). They are never scanned here: a scan
drops the record of a LUN that has vanished even from under a plugged disk, and then nothing on that host can be
unplugged for half a minute (facts/sm-truth.md finding 8).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any

from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError
from xenvol.marks import MARK
from xenvol.refs import SRRef, VDIRef
from xenvol.storage.pbd import find_pbds, master_first, plug_pbd, unplug_pbd
from xenvol.storage.release import is_ours
from xenvol.storage.vdi import describe, forget_vdi, vdis_of
from xenvol.undo import Undo
from xenvol.view import Record, View


def find_lun(
    view: View, undo: Undo, sr_ref: SRRef, lun: int | None, *, is_fresh: bool, sharable: bool
) -> tuple[VDIRef, Record]:
    """The VDI of the LUN with that number; None is for the only one. Raises VolumeNotFound.

    `is_fresh`: the SR has just been plugged, and shows what there is. Else the storage is asked which LUN has the
    number now: what the pool remembers may be a LUN that has left, and its number given to another (finding 7).
    """
    luns = vdis_of(view, sr_ref)
    if lun is None:
        if len(luns) != 1:
            raise VolumeNotFound("the only LUN (no LUN number was given)", found=map(describe, luns.values()))
        (only,) = luns.values()
        lun = int(only["sm_config"]["LUNid"])
    known_ref = next((ref for ref, vdi in luns.items() if vdi["sm_config"].get("LUNid") == str(lun)), None)
    known = None if known_ref is None else luns[known_ref]
    if known_ref is not None and known is not None:
        is_right = known["sharable"] or not sharable
        if is_right and (is_fresh or not _can_introduce(view, sr_ref)):
            return known_ref, known
    elif is_fresh:
        raise VolumeNotFound(f"LUN {lun}", found=map(describe, luns.values()))
    is_foreign = not is_ours(view.record("SR", sr_ref))
    new_ref = _introduce(view, sr_ref, lun, like=known, sharable=sharable, is_marked=is_foreign)
    if new_ref is None:
        raise VolumeNotFound(f"LUN {lun}", found=map(describe, luns.values()))
    if new_ref in luns:
        if known is not None and sharable and not known["sharable"]:
            undo.did(f"made VDI {known['uuid']} sharable", _introduce, view, sr_ref, lun, like=known)
            return new_ref, known | {"sharable": True}
        return new_ref, luns[new_ref]
    undo.did(f"introduced LUN {lun} as VDI {new_ref}", forget_vdi, view, new_ref)
    if known_ref is not None and known is not None and not is_foreign and not known["VBDs"]:
        forget_vdi(view, known_ref)  # it stands for a LUN that has left
    return new_ref, view.call("VDI.get_record", new_ref)


def is_lun_there(view: View, sr_ref: SRRef, vdi: Record) -> bool:
    """Whether the storage still shows this LUN; a no takes a minute. Changes nothing."""
    return _introduce(view, sr_ref, int(vdi["sm_config"]["LUNid"]), like=vdi) is not None


def is_lun_per_vdi(sr_type: str) -> bool:
    """Whether SRs of this type show LUNs, which have numbers, and grow by themselves."""
    return sr_type in ("iscsi", "hba")


def _can_introduce(view: View, sr_ref: SRRef) -> bool:
    """The driver of ``hba`` knows no LUN by its number (facts/xapi.md 5.4)."""
    return bool(view.record("SR", sr_ref)["type"] == "iscsi")


def forget_lun(view: View, sr_ref: SRRef, lun: int | None) -> None:
    """Drop the LUN's record from an SR of ours that others use, lest its number is given to another LUN.

    One that has a VBD stays. Idempotent.
    """
    if lun is None or not is_ours(view.record("SR", sr_ref)):
        return
    for vdi_ref, vdi in vdis_of(view, sr_ref).items():
        if vdi["sm_config"].get("LUNid") == str(lun) and not vdi["VBDs"]:
            forget_vdi(view, vdi_ref)


def log_in_again(view: View, undo: Undo, sr_ref: SRRef) -> None:
    """Unplug the SR on every host and plug it again: only a new log-in shows that a LUN grew (finding 7).

    Raises VolumeInUse, before anything is changed, while a disk of the SR is plugged into a VM.
    """
    vbd_refs = [vbd_ref for vdi in vdis_of(view, sr_ref).values() for vbd_ref in vdi["VBDs"]]
    _refuse_if_plugged(view, vbd_refs)
    pbds = find_pbds(view, sr_ref)
    on_hosts = master_first(view, pbds)
    plugged = [pbds[host][0] for host in on_hosts if pbds[host][1]["currently_attached"]]
    # one that died half way has left some unplugged, which in an SR of ours are to be plugged
    is_all = not plugged or is_ours(view.record("SR", sr_ref))
    wanted = [pbds[host][0] for host in on_hosts] if is_all else plugged
    for pbd_ref in reversed(plugged):
        unplug_pbd(view, undo, pbd_ref)
    for pbd_ref in wanted:
        plug_pbd(view, None, sr_ref, pbd_ref)  # this *is* the way back, and has none of its own
    undo.forget()


def _refuse_if_plugged(view: View, vbd_refs: Collection[str]) -> None:
    if not vbd_refs:
        return
    view.read({"VBD": vbd_refs})
    plugged = [vbd for ref in vbd_refs if (vbd := view.known("VBD", ref)) and vbd["currently_attached"]]
    if plugged:
        view.read({"VM": {vbd["VM"] for vbd in plugged}})
        users = [f"{view.record('VM', vbd['VM'])['name_label']} ({vbd['device']})" for vbd in plugged]
        raise VolumeInUse("(any LUN of the target)", users=users)


def _introduce(
    view: View,
    sr_ref: SRRef,
    lun: int,
    *,
    like: Record | None = None,
    sharable: bool = False,
    is_marked: bool = False,
) -> VDIRef | None:
    """Bring in a LUN by its number; None when the storage has no such LUN, which takes a minute to find out.

    The uuid is the LUN's own, whatever is asked for; the record of a LUN that is known already is returned, and
    would take over the names that are given (facts/sm-truth.md finding 9): so they are given as they are in `like`.
    """
    elsewhere = str(
        uuid.uuid4()
    )  # must be the location of no other disk; the driver puts the real one in its place
    names = ("", "") if like is None else (like["name_label"], like["name_description"])
    vdi_type = "user" if like is None else like["type"]
    other_config = ({MARK: ""} if is_marked else {}) if like is None else like["other_config"]
    xenstore_data = {} if like is None else like["xenstore_data"]
    is_sharable = sharable or (like is not None and like["sharable"])
    spec: tuple[Any, ...] = (elsewhere, *names, sr_ref, vdi_type, is_sharable, False, other_config, elsewhere)
    try:
        return VDIRef(view.call("VDI.introduce", *spec, xenstore_data, {"LUNid": str(lun)}))
    except XapiError as error:
        # every refusal of the storage driver comes as this one (facts/sm-truth.md, Contradictions 1)
        if error.code == "INTERNAL_ERROR" and "Vdi_does_not_exist" in "".join(error.params):
            return None
        raise
