"""Forget an SR that xenvol introduced, when no disk of it is in use.

xenvol never forgets another owner's SR; there it takes back only what has its mark. A disk is in use while it has a
VBD, plugged or not, of any VM; while it is held, that is connected without a VM; and if it is no ordinary disk, such as
a suspended VM's memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from xenvol.errors import XapiError
from xenvol.pool.changes import call_and_confirm, is_no_more
from xenvol.pool.marks import CONNECTED, CREATED, JOINED, LEFT, MARK, TURN
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.pool.waiting import leave_behind
from xenvol.session.refs import NULL_REF, HostRef, PBDRef, SRRef, VDIRef
from xenvol.storage.pbd import destroy_pbd, find_pbds, master_first, unplug_if_possible
from xenvol.storage.turn import Turn, is_busy, is_introducer_done, mark_left, settle, turn
from xenvol.storage.users import are_volumes_left, is_held, is_marked
from xenvol.storage.vdi import forget_vdi, known_vdis, vdis_of

log = logging.getLogger(__name__)

_ORDINARY = frozenset({"user", "system", "ephemeral"})

IsOwn = Callable[[Record], bool]
"""Whether the record is that of the volume's own disk."""


def is_ours(sr_rec: Record) -> bool:
    """Whether xenvol introduced the SR: its mark is in sm_config, or, where LVM drivers replace that, in
    other_config. A mark that was copied from another SR names that one, and does not count."""
    marks = (sr_rec[name].get(MARK) for name in ("sm_config", "other_config"))
    return any(mark in ("", sr_rec["uuid"]) for mark in marks)


def is_used(view: View, sr_ref: SRRef, *, but: IsOwn = lambda vdi: False) -> bool:
    """Whether a disk of the SR is in use. That the disk `but` is held does not count."""
    return any(_is_disk_used(vdi, is_own=but(vdi)) for vdi in vdis_of(view, sr_ref).values())


def _is_disk_used(vdi: Record, *, is_own: bool) -> bool:
    return bool(vdi["VBDs"]) or (is_held(vdi) and not is_own) or vdi["type"] not in _ORDINARY


def release_sr(view: View, sr_ref: SRRef, *, of: IsOwn = lambda vdi: False) -> bool:
    """Release the SR: take back what xenvol did to it, unless a disk is in use. Return whether it is released.

    An SR that xenvol introduced is forgotten. `of` finds the volume's own disk, from which the marks are removed if the
    SR stays. Idempotent: an SR that is gone is released. If a host cannot unplug the SR, the other hosts plug it again,
    and the error leaves. If a host is down, the SR stays, and the next release of it tries again.
    """
    try:
        sr_rec = view.record("SR", sr_ref)
        vdis = vdis_of(view, sr_ref)
        if not is_ours(sr_rec):
            _clear_own_disk(view, vdis, of, is_foreign=True)
            _take_back_pbds(view, sr_ref, vdis, of)
            if TURN in sr_rec["other_config"]:
                with turn(view, sr_ref):  # removes the turn mark of a dead attempt
                    pass
            return not any(_is_disk_used(vdi, is_own=of(vdi)) for vdi in vdis.values())
        leaving = _detached_here(view, vdis, of)
        is_first = any(JOINED not in marked["other_config"] for marked in leaving)
        if any(_is_disk_used(vdi, is_own=of(vdi)) for vdi in vdis.values()):
            _clear_own_disk(view, vdis, of, is_foreign=False)
            if is_first and LEFT not in sr_rec["other_config"]:
                mark_left(view, sr_ref)
            return False
        is_first = is_first or (not leaving and is_introducer_done(sr_ref))
        if is_first and _is_alone(view, sr_rec, leaving):
            return _forget_plugged(view, sr_ref, sr_rec["PBDs"], of)
        if is_first and TURN in sr_rec["other_config"]:
            mark_left(view, sr_ref)
        return _forget_in_turn(view, sr_ref, of, waits=not is_first)
    except XapiError as error:
        if not is_gone(error, "SR"):
            raise
        return True


def forget_unless_used(view: View, sr_ref: SRRef) -> None:
    """Forget the SR as the inverse of introducing. The inverses of its plugs have unplugged it before."""
    with gone_is_fine("SR"):
        if not is_used(view, sr_ref):
            _forget(view, sr_ref)


def _detached_here(view: View, vdis: Mapping[VDIRef, Record], of: IsOwn) -> list[Record]:
    """Return the VBDs that this operation has detached, and the volume's own disk if it is held."""
    vbds = view.remembered("VBD").values()
    out = [vbd for vbd in vbds if vbd["VM"] == NULL_REF and vbd["VDI"] in vdis and is_marked(vbd)]
    return out + [vdi for vdi in vdis.values() if of(vdi) and is_held(vdi)]


def _is_alone(view: View, sr_rec: Record, leaving: Iterable[Record]) -> bool:
    """Whether no other attempt can be changing the SR now (`xenvol.storage.turn`).

    A held disk makes the SR look in use until its record is gone, so another attempt may join.
    """
    told = {mark for marked in leaving for mark in marked["other_config"]} | set(sr_rec["other_config"])
    return told.isdisjoint({JOINED, CONNECTED, TURN, LEFT}) and not is_busy(view, sr_rec)


def _forget_in_turn(view: View, sr_ref: SRRef, of: IsOwn, *, waits: bool) -> bool:
    """Take the turn, then forget the SR unless a disk is in use. Return whether it is gone.

    `waits`: wait first for the attempt that introduced the SR, or for the detach of that attempt's disk.
    """

    def is_used_now() -> bool:
        """Use the records that were read in this turn; no call."""
        return any(_is_disk_used(vdi, is_own=of(vdi)) for vdi in known_vdis(view, sr_ref).values())

    mine = Turn(view, sr_ref, for_unplug=True)
    sr = mine.take()
    try:
        if waits and LEFT not in sr["other_config"] and not is_used_now():
            settle(view, sr_ref, lambda sr: LEFT in sr["other_config"] or is_used_now())
        if is_used_now():
            _clear_own_disk(view, known_vdis(view, sr_ref), of, is_foreign=False)
        elif _forget_plugged(view, sr_ref, view.record("SR", sr_ref)["PBDs"], of):
            mine.lose()
    except BaseException as error:
        mine.leave_after(error)
        raise
    is_released = not mine.is_ours
    mine.leave()
    return is_released


def _forget_plugged(view: View, sr_ref: SRRef, pbd_refs: list[str], of: IsOwn) -> bool:
    """Unplug the SR on all hosts and forget it. If a disk is in use by then, plug the SR again and return False."""
    undo = Undo()
    try:
        is_free = all(_unplug(view, undo, pbd_ref) for pbd_ref in _slaves_first(view, sr_ref, pbd_refs))
        # a VM may have got a VBD during the unplugs
        if is_free and not is_used(view, sr_ref, but=of) and _forget(view, sr_ref):
            return True
    except BaseException as error:
        undo.unwind(error)
        leave_behind(sr_ref)
        raise
    undo.unwind()
    return False


def _slaves_first(view: View, sr_ref: SRRef, pbd_refs: list[str]) -> list[PBDRef]:
    if len(pbd_refs) < 2:
        return [PBDRef(ref) for ref in pbd_refs]
    pbds = find_pbds(view, sr_ref)
    return [pbds[host][0] for host in reversed(master_first(view, pbds))]


def _unplug(view: View, undo: Undo, pbd_ref: PBDRef) -> bool:
    is_unplugged = unplug_if_possible(view, pbd_ref)
    if is_unplugged:
        undo.did(f"unplugged PBD {pbd_ref}", view.call, "PBD.plug", pbd_ref)
    return is_unplugged


def _forget(view: View, sr_ref: SRRef) -> bool:
    """Forget the SR with its PBDs and VDI records. Return False if another process has plugged a PBD. Idempotent."""
    try:
        call_and_confirm(view, ("SR.forget", sr_ref), is_done=lambda: is_no_more(view, "SR", sr_ref))
    except XapiError as error:
        if error.code == "SR_HAS_PBD":
            log.info("SR %s stays: another process has plugged it", sr_ref)
            return False
        if not is_gone(error, "SR"):
            raise
    return True


def _clear_own_disk(view: View, vdis: dict[VDIRef, Record], of: IsOwn, *, is_foreign: bool) -> None:
    """In an SR that stays, remove xenvol's marks from the volume's own disk, and its record if xenvol introduced it."""
    for vdi_ref, vdi in vdis.items():
        if not of(vdi):
            continue
        with gone_is_fine("VDI"):
            for mark in (CONNECTED, JOINED):
                if mark in vdi["other_config"]:
                    view.call("VDI.remove_from_other_config", vdi_ref, mark)
            if is_foreign and MARK in vdi["other_config"] and not vdi["VBDs"]:
                forget_vdi(view, vdi_ref)


def _take_back_pbds(view: View, sr_ref: SRRef, vdis: dict[VDIRef, Record], of: IsOwn) -> None:
    """In another owner's SR, take back the marked PBDs, if no volume of xenvol is left there.

    `vdis` were read before the volume's own disk lost its marks, so that this disk is held there does not count.
    """
    if not _marked(view, sr_ref) or are_volumes_left(view, vdis.values(), but=of):
        return
    with turn(view, sr_ref, for_unplug=True):
        if not are_volumes_left(view, known_vdis(view, sr_ref).values()):
            _take_back_marked(view, sr_ref)


def _take_back_marked(view: View, sr_ref: SRRef) -> None:
    """Take back the marked PBDs. The PBD of a host that is down keeps its mark, and the next release tries again."""
    for pbd_ref, what in _marked(view, sr_ref).values():
        if not unplug_if_possible(view, pbd_ref):
            continue
        if what == CREATED:
            destroy_pbd(view, pbd_ref)
        else:
            view.call("PBD.remove_from_other_config", pbd_ref, MARK)


def _marked(view: View, sr_ref: SRRef) -> dict[HostRef, tuple[PBDRef, str]]:
    pbds = find_pbds(view, sr_ref)
    return {
        host: (pbd_ref, pbd["other_config"][MARK])
        for host, (pbd_ref, pbd) in pbds.items()
        if MARK in pbd["other_config"]
    }
