"""What transfers that were killed have left in a pool: found by what they wrote on it, and taken away.

Only what says that a transfer made it for itself is touched, when that began long ago, and when no VM has it. A
snapshot that says only that its source was being exported may be somebody else's, made at that moment: it is told of.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from xenvol.errors import XenVolError
from xenvol.images.attempts import Attempt, attempt_of, is_copy, unmark
from xenvol.images.discarding import discard_disk
from xenvol.images.errors import DiskNotSuited
from xenvol.images.roads import release
from xenvol.images.snapshots import forget_export
from xenvol.marks import EXPORTED, IMAGE, MANAGED
from xenvol.refs import VDIRef
from xenvol.view import Record, View, gone_is_fine

OLD: Final = datetime.timedelta(hours=24)
"""An import of terabytes takes hours, and one that is under way must not be swept."""

Kind = Literal["disk", "snapshot", "slot", "mark"]


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """Something that a transfer has left."""

    kind: Kind
    """``disk``: begun and never finished; ``snapshot``: read by an export; ``slot``: a VBD on the VM in which a
    transfer ran; ``mark``: a word on a disk that is fine."""
    vdi_uuid: str
    name: str
    """The disk's."""
    began: datetime.datetime
    machine: str
    kept: str | None = None
    """Why it was not taken away; None if it was, or would be."""


def find_leftovers(
    session: Any, *, older_than: datetime.timedelta = OLD, now: datetime.datetime | None = None
) -> list[Leftover]:
    """What there is, touching nothing. It reads all VDIs of the pool."""
    view = View.of(session)
    return [leftover for leftover, _ in _found(view, older_than, now)]


def sweep(
    session: Any, *, older_than: datetime.timedelta = OLD, now: datetime.datetime | None = None
) -> list[Leftover]:
    """Take it away; what cannot be is said in `kept`. Idempotent."""
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
    oldest = (now or datetime.datetime.now(datetime.UTC)) - older_than
    vdis: dict[str, Record] = view.call("VDI.get_all_records")
    view.read({"VBD": [vbd for vdi in vdis.values() for vbd in vdi["VBDs"]]})
    for ref, vdi in vdis.items():
        if (attempt := attempt_of(vdi)) is not None:
            if attempt.began < oldest:
                yield _of_disk(view, VDIRef(ref), vdi, attempt)
        elif (attempt := attempt_of(vdi, EXPORTED)) is not None and attempt.began < oldest:
            yield _of_mark(view, VDIRef(ref), vdi, attempt)
        for vbd in _vbds(view, vdi):
            attempt = attempt_of(vbd)
            if attempt is not None and attempt.began < oldest and IMAGE not in vdi["other_config"]:
                yield _leftover("slot", vdi, attempt), partial(release, view, VDIRef(ref), attempt)


def _vbds(view: View, vdi: Record) -> list[Record]:
    return [vbd for ref in vdi["VBDs"] if (vbd := view.known("VBD", ref)) is not None]


def _of_disk(view: View, ref: VDIRef, vdi: Record, attempt: Attempt) -> tuple[Leftover, Callable[[], object]]:
    if is_copy(vdi):
        return _leftover("mark", vdi, attempt), partial(unmark, view, ref)
    kind: Kind = "snapshot" if vdi["is_a_snapshot"] else "disk"
    return _leftover(kind, vdi, attempt, _whose(view, vdi, attempt)), partial(_erase, view, ref, attempt)


def _whose(view: View, vdi: Record, attempt: Attempt) -> str | None:
    """Who has got the disk, or taken it over; None: it is still that attempt's."""
    if MANAGED in vdi["other_config"]:
        return f"it is volume {vdi['other_config'][MANAGED]} of the Storage Manager"
    for vbd in _vbds(view, vdi):
        vm = view.record("VM", vbd["VM"])
        if not attempt.has_marked(vbd) and not vm["is_control_domain"]:
            return f"VM {vm['name_label']} has it"
    return None


def _erase(view: View, ref: VDIRef, attempt: Attempt) -> None:
    """As it is now: much can have happened since all disks were looked at. Raises DiskNotSuited."""
    with gone_is_fine("VDI"):
        vdi = view.call("VDI.get_record", ref)
        view.read({"VBD": vdi["VBDs"]})
        whose = _whose(view, vdi, attempt)
        if whose is not None or is_copy(vdi) or attempt_of(vdi) != attempt:
            problem = whose or "is no more what was found"
            raise DiskNotSuited(f"VDI {vdi['uuid']}", problem=problem, remedy="look again")
        discard_disk(view, ref, attempt)


def _of_mark(view: View, ref: VDIRef, vdi: Record, attempt: Attempt) -> tuple[Leftover, Callable[[], object]]:
    if not vdi["is_a_snapshot"]:
        return _leftover("mark", vdi, attempt), partial(forget_export, view, ref)
    kept = "it may be somebody else's: whoever knows that it is not destroys it"
    return _leftover("snapshot", vdi, attempt, kept), lambda: None


def _leftover(kind: Kind, vdi: Record, attempt: Attempt, kept: str | None = None) -> Leftover:
    return Leftover(
        kind=kind,
        vdi_uuid=vdi["uuid"],
        name=vdi["name_label"],
        began=attempt.began,
        machine=attempt.machine,
        kept=kept,
    )
