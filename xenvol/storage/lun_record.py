"""Write the record of a LUN: introduce it, make it sharable, and take that back.

`VDI.introduce` names a LUN by the number under which the master sees it now, and overwrites the record of that LUN. The
number in a record is stale as soon as the array renumbers its LUNs. So xenvol asks the master for the number, looks
again in the turn, and compares the VDI that comes back.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

from xenvol.errors import (
    VolumeInUse,
    VolumeNotFound,
    WrongVolume,
    XapiError,
    XapiUnreachable,
    XenVolError,
)
from xenvol.pool.changes import LATE_REFUSALS
from xenvol.pool.marks import MARK, SHARED
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import SRRef, VDIRef
from xenvol.storage.lun_listing import (
    has_numbers,
    luns_on_master,
    name_of_host,
    number_of,
)
from xenvol.storage.release import is_ours
from xenvol.storage.sr import LUN_LISTING_DRIVER, require_sr
from xenvol.storage.turn import turn
from xenvol.storage.users import is_held
from xenvol.storage.vdi import describe, forget_vdi, known_vdis, vdis_of

log = logging.getLogger(__name__)


def introduce_lun(
    view: View, undo: Undo, sr_ref: SRRef, lun: int, scsi_id: str, *, sharable: bool
) -> tuple[VDIRef, Record]:
    """Introduce the LUN with this number on the master, unless another process has introduced it by now.

    Raises WrongVolume if it has another SCSI id.
    """
    new = _new_record(view, sr_ref, sharable=sharable)

    def choose(now: Mapping[VDIRef, Record]) -> VDIRef | Record:
        return next((ref for ref, vdi in now.items() if vdi["sm_config"].get("SCSIid") == scsi_id), new)

    vdi_ref, before = _introduce(view, sr_ref, lun, choose)
    if vdi_ref is None:
        require_sr(view, sr_ref)
        raise VolumeNotFound(
            f"LUN {lun} on the pool's master, host {name_of_host(view, view.master)}",
            found=map(describe, before.values()),
        )
    if vdi_ref not in before:
        undo.did(f"introduced LUN {lun} as VDI {vdi_ref}", forget_unused, view, [vdi_ref])
    vdi = view.record("VDI", vdi_ref)
    if vdi["sm_config"].get("SCSIid") != scsi_id:
        if vdi_ref in before:
            _put_back(view, sr_ref, lun, vdi_ref, before)
        raise WrongVolume(
            f"SCSI id {scsi_id}, which the VM's host sees as LUN {lun}",
            found=f"{describe(vdi)} under that number on the pool's master: export the volume to the master, too",
        )
    return vdi_ref, vdi


def ask_master(view: View, undo: Undo, sr_ref: SRRef, lun: int) -> VDIRef | None:
    """Return the VDI of the LUN that the master now sees under this number, or None if it sees no such LUN.

    A LUN without a record is introduced.
    """
    new = _new_record(view, sr_ref)
    vdi_ref, before = _introduce(view, sr_ref, lun, lambda now: next(iter(numbered(now, lun).values()), new))
    if vdi_ref is None:
        return None
    those = numbered(before, lun)
    if vdi_ref not in before:
        undo.did(f"introduced LUN {lun} as VDI {vdi_ref}", forget_unused, view, [vdi_ref])
    if those.keys() != {vdi_ref} and (those or vdi_ref in before):
        # the call has overwritten the names and marks of this record, so write its own again
        _introduce(view, sr_ref, lun, lambda now: before.get(vdi_ref, new))
    return vdi_ref


def share(view: View, undo: Undo, sr_ref: SRRef, vdi_ref: VDIRef, vdi: Record) -> Record:
    """Make the disk sharable, with a mark by which a later release takes that back. Raises VolumeInUse for ``hba``.

    Raises VolumeNotFound if the master does not see the LUN.
    """
    if vdi["sharable"]:
        return vdi
    if not has_numbers(view, sr_ref):
        raise VolumeInUse(vdi["uuid"], users=["at most one VM at a time"], can_share=False)
    number = _number_now(view, sr_ref, vdi_ref, vdi)
    if number is None:
        raise VolumeNotFound(
            f"{_lun_in_words(vdi)} on the pool's master, host {name_of_host(view, view.master)}"
        )

    def choose(now: Record) -> Record | None:
        marks = {**now["other_config"], SHARED: now["uuid"]}
        return None if now["sharable"] else now | {"other_config": marks, "sharable": True}

    def unchoose(now: Record) -> Record | None:
        # other VMs may share the disk by now
        return None if len(now["VBDs"]) > 1 else _unshared(now, mark=vdi["other_config"].get(SHARED))

    def unshare() -> None:
        with gone_is_fine("VDI"):
            _rewrite(view, sr_ref, number, vdi_ref, unchoose)

    if _rewrite(view, sr_ref, number, vdi_ref, choose):
        undo.did(f"made VDI {vdi['uuid']} sharable", unshare)
    return view.record("VDI", vdi_ref)


def unshare(view: View, sr_ref: SRRef, vdi_ref: VDIRef, vdi: Record) -> None:
    """Make the disk as sharable as it was before xenvol, unless it is in use by now. Idempotent.

    If the master does not see the LUN, the disk stays sharable: the storage driver writes only the record of a LUN
    that it sees.
    """
    number = _number_now(view, sr_ref, vdi_ref, vdi)
    if number is None:
        log.warning("VDI %s stays sharable: the master does not see %s", vdi["uuid"], _lun_in_words(vdi))
        return
    with gone_is_fine("VDI"):
        _rewrite(
            view,
            sr_ref,
            number,
            vdi_ref,
            lambda now: None if now["VBDs"] or is_held(now) else _unshared(now),
        )


def forget_unused(view: View, vdi_refs: Collection[VDIRef]) -> None:
    """Drop these records, but those of disks that another process uses by now. Idempotent."""
    view.read({"VDI": vdi_refs})
    for vdi_ref, vdi in view.known_of("VDI", vdi_refs).items():
        if not vdi["VBDs"] and not is_held(vdi):
            forget_vdi(view, VDIRef(vdi_ref))


def numbered(rows: Mapping[VDIRef, Record], lun: int | None) -> dict[VDIRef, Record]:
    return {ref: vdi for ref, vdi in rows.items() if vdi["sm_config"].get("LUNid") == str(lun)}


def _unshared(vdi: Record, *, mark: str | None = None) -> Record:
    other_config = {key: value for key, value in vdi["other_config"].items() if key != SHARED}
    return vdi | {"other_config": other_config | ({} if mark is None else {SHARED: mark}), "sharable": False}


def _number_now(view: View, sr_ref: SRRef, vdi_ref: VDIRef, vdi: Record) -> int | None:
    """Return the number under which the master sees this LUN now, or None. The number in the record may be stale.

    In a pool without a driver that lists LUNs, only the number in the record can be asked for.
    """
    if view.driver_of(LUN_LISTING_DRIVER) is None:
        undo, number = Undo(), int(vdi["sm_config"]["LUNid"])
        found = ask_master(view, undo, sr_ref, number)
        undo.unwind()
        return number if found == vdi_ref else None
    return number_of(luns_on_master(view, sr_ref), vdi["sm_config"].get("SCSIid"))


def _lun_in_words(vdi: Record) -> str:
    return f"the LUN with SCSI id {vdi['sm_config'].get('SCSIid')}"


def _rewrite(
    view: View, sr_ref: SRRef, lun: int, vdi_ref: VDIRef, change: Callable[[Record], Record | None]
) -> bool:
    """Write the record of the LUN that has this number on the master. Return whether the record is changed.

    `change` gets the record that is read in the turn, and returns the one to write, or None for no change. Raises
    XapiError HANDLE_INVALID if the record is gone. Raises WrongVolume if another LUN has the number: the record of that
    one is written as it was.
    """
    is_left = False

    def choose(now: Mapping[VDIRef, Record]) -> VDIRef | Record:
        nonlocal is_left
        if vdi_ref not in now:
            raise XapiError("HANDLE_INVALID", ["VDI", vdi_ref], "VDI.introduce")
        changed = change(now[vdi_ref])
        is_left = changed is None
        return vdi_ref if changed is None else changed

    found, before = _introduce(view, sr_ref, lun, choose)
    if found == vdi_ref:
        return not is_left
    if found in before:
        _put_back(view, sr_ref, lun, found, before)
    elif found is not None:
        forget_unused(view, [found])
    raise WrongVolume(
        f"{_lun_in_words(before[vdi_ref])} under number {lun} on the pool's master",
        found="no LUN" if found is None else f"VDI {found}",
    )


def _put_back(view: View, sr_ref: SRRef, lun: int, vdi_ref: VDIRef, before: Mapping[VDIRef, Record]) -> None:
    """Write again the names and marks that an introduce of another LUN has overwritten."""
    _introduce(view, sr_ref, lun, lambda now: before[vdi_ref])


def _new_record(view: View, sr_ref: SRRef, *, sharable: bool = False) -> Record:
    """Return what `_introduce` writes for a LUN without a record. In another owner's SR, it has xenvol's mark."""
    other_config = {} if is_ours(view.record("SR", sr_ref)) else {MARK: ""}
    return {
        "name_label": "",
        "name_description": "",
        "type": "user",
        "other_config": other_config,
        "xenstore_data": {},
        "sharable": sharable,
    }


def _introduce(
    view: View, sr_ref: SRRef, lun: int, choose: Callable[[Mapping[VDIRef, Record]], VDIRef | Record]
) -> tuple[VDIRef | None, dict[VDIRef, Record]]:
    """Introduce a LUN by its number. Return its VDI, and the records of the SR before, as read in the turn.

    The VDI is None, after a minute, if the storage has no such LUN. `choose` gets the records, and returns the one to
    write, or a VDI that makes the call unnecessary.

    xapi uses the LUN's own uuid, and ignores the given one. If the LUN has a record already, xapi returns that, and
    overwrites its names and marks with the given ones (docs/background/recordings.md, finding 9 (storage)).
    """
    before: dict[VDIRef, Record] = {}
    like: Record = {}

    def is_it(vdi_ref: VDIRef, vdi: Record) -> bool:
        if vdi["sm_config"].get("LUNid") != str(lun) or vdi["sharable"] != like["sharable"]:
            return False
        is_same = vdi["uuid"] == like.get("uuid") and vdi["other_config"] == like["other_config"]
        return is_same or vdi_ref not in before

    try:
        with turn(view, sr_ref):
            before.update(known_vdis(view, sr_ref))
            chosen = choose(before)
            if isinstance(chosen, str):
                return chosen, before
            like.update(chosen)
            vdi_ref = VDIRef(view.call("VDI.introduce", *_introduction(sr_ref, lun, like)))
            view.forget("VDI", vdi_ref)
            return vdi_ref, before
    except (XapiError, XapiUnreachable) as error:
        if not like or (isinstance(error, XapiError) and error.code not in LATE_REFUSALS):
            raise
        # xapi sends every refusal of the storage driver as this error (docs/background/recordings.md, contradiction 1)
        if isinstance(error, XapiError) and "Vdi_does_not_exist" in "".join(error.params):
            return None, before
        try:
            found = [ref for ref, vdi in vdis_of(view, sr_ref).items() if is_it(ref, vdi)]
        except XenVolError as failure:
            error.add_note(f"whether LUN {lun} was introduced is not known: {failure}")
            found = []
        if not found:
            raise
        return found[0], before


def _introduction(sr_ref: SRRef, lun: int, like: Record) -> tuple[Any, ...]:
    """Return the parameters of VDI.introduce that write this record."""
    # must differ from the location of every other disk; the driver replaces it by the real location
    elsewhere = str(uuid.uuid4())
    names = (like["name_label"], like["name_description"])
    facts = (like["type"], like["sharable"], False, like["other_config"])
    return (elsewhere, *names, sr_ref, *facts, elsewhere, like["xenstore_data"], {"LUNid": str(lun)})
