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
from xenvol.refs import SRRef, VDIRef
from xenvol.storage.pbd import find_pbds, master_first, plug_pbd, unplug_pbd
from xenvol.storage.sr import is_ours
from xenvol.storage.vdi import describe, forget_vdi, vdis_of
from xenvol.undo import Undo
from xenvol.view import Record, View


def find_lun(
    view: View, undo: Undo, sr_ref: SRRef, lun: int | None, *, is_fresh: bool, sharable: bool
) -> tuple[VDIRef, Record]:
    """The VDI of the LUN with that number; None is for the only one. Raises VolumeNotFound.

    `is_fresh`: the SR has just been plugged, so a LUN that has no VDI is not there.
    """
    luns = vdis_of(view, sr_ref)
    if lun is None:
        if len(luns) != 1:
            raise VolumeNotFound("the only LUN (no LUN number was given)", found=map(describe, luns.values()))
        ((vdi_ref, vdi),) = luns.items()
        lun = int(vdi["sm_config"]["LUNid"])
    for vdi_ref, vdi in luns.items():
        if vdi["sm_config"].get("LUNid") == str(lun):
            if sharable and not vdi["sharable"]:
                _introduce(view, sr_ref, lun, sharable=True)
                undo.did(f"made VDI {vdi['uuid']} sharable", _introduce, view, sr_ref, lun)
            return vdi_ref, vdi
    new_ref = None if is_fresh else _introduce(view, sr_ref, lun, sharable=sharable)
    if new_ref is None:
        raise VolumeNotFound(f"LUN {lun}", found=map(describe, luns.values()))
    undo.did(f"introduced LUN {lun} as VDI {new_ref}", forget_vdi, view, new_ref)
    return new_ref, view.record("VDI", new_ref)


def forget_lun(view: View, sr_ref: SRRef, lun: int | None) -> None:
    """Drop the LUN's record from an SR of ours that others use, lest its number is given to another LUN.

    The record would then stand for the wrong disk until the next scan (facts/sm-truth.md finding 7). One that has
    a VBD stays. Idempotent.
    """
    if not is_ours(view.record("SR", sr_ref)):
        return
    for vdi_ref, vdi in vdis_of(view, sr_ref).items():
        if lun is not None and vdi["sm_config"].get("LUNid") == str(lun) and not vdi["VBDs"]:
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
        plug_pbd(view, None, pbd_ref)  # this *is* the way back, and has none of its own
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


def _introduce(view: View, sr_ref: SRRef, lun: int, *, sharable: bool = False) -> VDIRef | None:
    """Bring in a LUN by its number; None when the storage has no such LUN, which takes a minute to find out.

    The uuid is the LUN's own, whatever is asked for; the record of a LUN that is known already is returned, its
    `sharable` changed (facts/sm-truth.md finding 9).
    """
    elsewhere = str(
        uuid.uuid4()
    )  # must be the location of no other disk; the driver puts the real one in its place
    spec: tuple[Any, ...] = (
        elsewhere,
        "",
        "",
        sr_ref,
        "user",
        sharable,
        False,
        {},
        elsewhere,
        {},
        {"LUNid": str(lun)},
    )
    try:
        return VDIRef(view.call("VDI.introduce", *spec))
    except XapiError as error:
        # every refusal of the storage driver comes as this one (facts/sm-truth.md, Contradictions 1)
        if error.code == "INTERNAL_ERROR" and "Vdi_does_not_exist" in "".join(error.params):
            return None
        raise
