"""Find and remove what killed transfers left in a pool.

A sweep touches only objects that have a transfer's mark, that are old, and that no VM has. A snapshot that has
only the export mark of its source may be another process's, made at that moment: the sweep lists it and keeps it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from xenvol.errors import XenVolError
from xenvol.images.errors import DiskNotSuited
from xenvol.images.transfer_vdis import discard_vdi, forget_export
from xenvol.images.transports.tasks import remove_vbd
from xenvol.pool.clock import pool_time
from xenvol.pool.marks import FILLED, IMAGE, IMAGE_OF, MANAGED
from xenvol.pool.transfer_mark import Attempt, attempt_of, exports_of, is_own, unmark
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import VBDRef, VDIRef

OLD: Final = datetime.timedelta(hours=24)
"""Younger objects may belong to a running transfer: an import of terabytes takes hours."""

Kind = Literal["disk", "snapshot", "slot", "mark", "half"]
_MAY_BE_ANOTHERS: Final = "it may be a copy that another user made: destroy it if you know that it is not"


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """An object, or a mark, that a transfer left behind."""

    kind: Kind
    """``disk``: an unfinished import; ``snapshot``: read by an export; ``slot``: a VBD on the VM in which a transfer
    ran; ``mark``: a stale mark on a good disk; ``half``: an existing disk that an import overwrote in part."""
    vdi_uuid: str
    name: str
    """The disk's name."""
    began: datetime.datetime
    machine: str
    kept: str | None = None
    """Why it was not removed; None if it was, or would be."""


def find_leftovers(
    session: Any, *, older_than: datetime.timedelta = OLD, now: datetime.datetime | None = None
) -> list[Leftover]:
    """Return the leftovers, and change nothing. Reads all VDIs of the pool. The pool's clock tells their age."""
    view = View.of(session)
    return [leftover for leftover, _ in _found(view, older_than, now)]


def sweep(
    session: Any, *, older_than: datetime.timedelta = OLD, now: datetime.datetime | None = None
) -> list[Leftover]:
    """Remove the leftovers. What cannot be removed says why in `kept`. Idempotent."""
    view = View.of(session)
    done = []
    for leftover, remove in list(_found(view, older_than, now)):
        result = leftover
        if leftover.kept is None:
            try:
                remove()
            except XenVolError as error:
                result = replace(leftover, kept=str(error))
        done.append(result)
    return done


def _found(
    view: View, older_than: datetime.timedelta, now: datetime.datetime | None
) -> Iterator[tuple[Leftover, Callable[[], object]]]:
    oldest = (now or pool_time(view)) - older_than
    vdis: dict[str, Record] = view.call("VDI.get_all_records")
    view.read({"VBD": [vbd for vdi_rec in vdis.values() for vbd in vdi_rec["VBDs"]]})
    for ref, vdi_rec in vdis.items():
        yield from _of_disk(view, VDIRef(ref), vdi_rec, oldest)
        for vbd_ref, vbd in _vbds(view, vdi_rec).items():
            attempt = attempt_of(vbd)
            if attempt is not None and attempt.began <= oldest and attempt_of(vdi_rec) != attempt:
                yield _leftover("slot", vdi_rec, attempt), partial(remove_vbd, view, vbd_ref)


def _of_disk(
    view: View, ref: VDIRef, vdi_rec: Record, oldest: datetime.datetime
) -> Iterator[tuple[Leftover, Callable[[], object]]]:
    if IMAGE in vdi_rec["other_config"]:
        attempt = attempt_of(vdi_rec)
        if attempt is not None and attempt.began <= oldest:
            yield _of_marked(view, ref, vdi_rec, attempt)
    else:
        for key, attempt in exports_of(vdi_rec).items():
            if attempt.began > oldest:
                continue
            if vdi_rec["is_a_snapshot"]:
                kept = _whose(view, vdi_rec, attempt)
                yield _leftover("snapshot", vdi_rec, attempt, kept), partial(discard_vdi, view, ref, attempt)
            else:
                yield _leftover("mark", vdi_rec, attempt), partial(forget_export, view, ref, key)
    attempt = attempt_of(vdi_rec, FILLED)
    if attempt is not None and (attempt.began <= oldest or attempt.has_failed):
        kept = "an import overwrote it in part: fill it again, or destroy it"
        yield _leftover("half", vdi_rec, attempt, kept), lambda: None


def _of_marked(
    view: View, ref: VDIRef, vdi_rec: Record, attempt: Attempt
) -> tuple[Leftover, Callable[[], object]]:
    if not is_own(vdi_rec) and IMAGE_OF in vdi_rec["other_config"]:  # a copy, which has inherited the mark
        return _leftover("mark", vdi_rec, attempt), partial(unmark, view, ref)
    kind: Kind = "snapshot" if vdi_rec["is_a_snapshot"] else "disk"
    kept = _whose(view, vdi_rec, attempt)
    return _leftover(kind, vdi_rec, attempt, kept), partial(_erase, view, ref, attempt)


def _whose(view: View, vdi_rec: Record, attempt: Attempt) -> str | None:
    """Return why the disk must stay; None if it still belongs to that attempt alone."""
    if not is_own(vdi_rec):
        return _MAY_BE_ANOTHERS
    if MANAGED in vdi_rec["other_config"]:
        return f"it is volume {vdi_rec['other_config'][MANAGED]} of the Storage Manager"
    vbds = [vbd for vbd in _vbds(view, vdi_rec).values() if not attempt.has_marked(vbd)]
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    for vbd in vbds:
        vm_rec = view.known("VM", vbd["VM"])
        if vm_rec is not None and not vm_rec["is_control_domain"]:
            return f"VM {vm_rec['name_label']} has it"
    return None


def _vbds(view: View, vdi_rec: Record) -> dict[VBDRef, Record]:
    return view.known_of("VBD", map(VBDRef, vdi_rec["VBDs"]))


def _erase(view: View, ref: VDIRef, attempt: Attempt) -> None:
    """Read the disk again, and erase it if it still belongs to that attempt. Raises DiskNotSuited."""
    with gone_is_fine("VDI"):
        vdi_rec = view.call("VDI.get_record", ref)
        view.read({"VBD": vdi_rec["VBDs"]})
        whose = _whose(view, vdi_rec, attempt)
        if whose is not None or attempt_of(vdi_rec) != attempt:
            problem = whose or "has changed since it was listed"
            raise DiskNotSuited(f"VDI {vdi_rec['uuid']}", problem=problem, remedy="run the sweep again")
        discard_vdi(view, ref, attempt)


def _leftover(kind: Kind, vdi_rec: Record, attempt: Attempt, kept: str | None = None) -> Leftover:
    return Leftover(
        kind=kind,
        vdi_uuid=vdi_rec["uuid"],
        name=vdi_rec["name_label"],
        began=attempt.began,
        machine=attempt.machine,
        kept=kept,
    )
