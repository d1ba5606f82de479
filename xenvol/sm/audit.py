"""Compare the database with the pool, and complete or undo what dead processes left.

An audit can run beside services that work. It reads each difference a second time before it reports it, and a third
time in the transaction that repairs it. A running service then finds its row changed, undoes its work and starts again.
An audit does not touch a volume that a process fills with an image, which can take hours, while that process renews its
mark in the row.

A VDI is erased only under these conditions: its mark says that it was made for a row; the call in the mark can have
made it; that row is gone, or names another VDI; no VM has it. During the erase a row of its own keeps other services
from making it a volume (`xenvol.sm.vdis`). No other VDI is ever erased.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from xenvol.amounts import exact_size
from xenvol.errors import XenVolError
from xenvol.pool.marks import IMAGE, MANAGED
from xenvol.pool.transfer_mark import why_not_whole
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record
from xenvol.session.refs import VDIRef
from xenvol.sm import (
    backend_rows,
    backends,
    capacity,
    copies,
    creation,
    filling,
    scans,
    srs,
    vdis,
    volume_rows,
    volumes,
)
from xenvol.sm.context import Context, say_nothing
from xenvol.sm.errors import UnknownBackend
from xenvol.sm.records import Backend, Volume
from xenvol.sm.vdis import Mark
from xenvol.storage import find_pbds, vdis_of

Kind = Literal[
    "backend_not_made",
    "backend_unreachable",
    "host_unplugged",
    "half_made",
    "half_deleted",
    "vdi_missing",
    "size_differs",
    "half_written",
    "orphan_vdi",
    "unsettled",
    "unknown_vdi",
]
_PAGE = 1000  # rows read at once


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One difference between the database and the pool."""

    kind: Kind
    text: str
    backend_id: int
    volume_id: str | None = None
    vdi_uuid: str | None = None
    repaired: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self)}


@dataclass
class AuditReport:
    findings: list[Finding] = field(default_factory=list)
    backends: int = 0
    volumes: int = 0
    vdis: int = 0
    """How many backends, volumes and VDIs the audit compared."""

    @property
    def agrees(self) -> bool:
        """Return True if the database and the pool agree, now that repairs are done."""
        return all(finding.repaired for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        counts = {"backends": self.backends, "volumes": self.volumes, "vdis": self.vdis}
        return {"agrees": self.agrees, **counts, "findings": [each.as_dict() for each in self.findings]}


def audit(
    context: Context,
    *,
    repair: bool = False,
    scan: bool = True,
    silence: float = filling.SILENCE,
    progress: Callable[[str], None] = say_nothing,
) -> AuditReport:
    """Compare every backend with the pool. With `repair`, repair what can be repaired without losing data.

    With `scan`, the storage is asked first: then xapi drops the record of a disk that is gone (`xenvol.sm.scans`).

    `progress` receives the name of the next backend. A process that fills a volume, and has not renewed its mark for
    `silence` seconds, counts as dead.
    """
    report = AuditReport()
    for backend in context.database.read(backend_rows.all_of):
        progress(f"backend {backend.id}")
        report.backends += 1
        try:
            for finding, repair_it in _Audit(context, backend, report, silence, scan).findings():
                report.findings.append(
                    _repaired(finding, repair_it) if repair and repair_it is not None else finding
                )
        except UnknownBackend:  # removed meanwhile
            continue
    return report


Found = Iterator[tuple[Finding, Callable[[], object] | None]]


class _Audit:
    """The audit of one backend. Each finding has a repair, or None if only an administrator can repair it."""

    def __init__(
        self, context: Context, backend: Backend, report: AuditReport, silence: float, scan: bool
    ) -> None:
        self.context, self.backend, self.report = context, backend, report
        self.silence, self.scan = silence, scan
        self.luns: set[str] | None = None
        """The SCSI ids of the LUNs that the hosts see; None: not asked, or the disks are no LUNs."""
        self.view = context.view()

    def findings(self) -> Found:
        if self.backend.state == "new":
            text = f"backend {self.backend.id} is registered, and its SR is not made"
            yield self._finding("backend_not_made", text), self._set_up
            self._reload()
            if self.backend.state == "new":
                return
        problem = self._problem()
        if problem is not None:
            yield self._finding("backend_unreachable", problem), self._set_up
            self._reload()
            if self._problem() is not None:
                return
        yield from self._hosts()
        yield from self._unfinished()
        vdis_now = vdis_of(self.view, self.sr_ref)
        self.report.vdis += len(vdis_now)
        named = {vdi["uuid"]: (ref, vdi) for ref, vdi in vdis_now.items()}
        yield from self._rows_against(named)
        yield from self._vdis_against_rows(vdis_now)

    def _reload(self) -> None:
        self.view = self.context.view()
        self.backend = self.context.database.read(backend_rows.get, self.backend.id)

    def _problem(self) -> str | None:
        """Return why the backend cannot be compared, or None."""
        try:
            self.sr_ref, _ = srs.get_sr(self.view, self.backend)
            problems = self._ask_storage() if self.scan else {}
            (self.backend,) = capacity.refresh(self.context, self.view, [self.backend], problems=problems)
        except UnknownBackend:
            raise
        except XenVolError as error:
            return str(error)
        return None if self.backend.problem is None else f"backend {self.backend.id}: {self.backend.problem}"

    def _ask_storage(self) -> dict[int, str]:
        """Return the problem of the backend's storage, by the backend's id."""
        try:
            self.luns = scans.scan(self.view, self.backend, self.sr_ref)
        except XenVolError as error:
            return {self.backend.id: f"its storage does not answer to a scan: {error}"}
        return {}

    def _hosts(self) -> Found:
        """Find the hosts on which a shared SR is not plugged, beside the master. VMs that start there have no disk."""
        if not self.view.record("SR", self.sr_ref)["shared"]:
            return
        pbds = find_pbds(self.view, self.sr_ref)
        for host_ref in self.view.hosts:
            if host_ref not in pbds or not pbds[host_ref][1]["currently_attached"]:
                name = self.view.record("host", host_ref)["name_label"]
                text = f"backend {self.backend.id}: its SR is not plugged on host {name}"
                yield self._finding("host_unplugged", text), self._set_up

    # ---- rows whose operation did not end

    def _unfinished(self) -> Found:
        for volume in self._volumes():
            if volume.state == "creating":
                if self._is_being_filled(volume):
                    continue
                text = f"volume {volume.id} was begun and is not finished"
                yield self._about(volume, "half_made", text), partial(self._finish_making, volume)
            elif volume.state == "deleting":
                text = f"the deletion of volume {volume.id} was begun and is not finished"
                yield self._about(volume, "half_deleted", text), partial(self._finish_deleting, volume)

    def _is_being_filled(self, volume: Volume) -> bool:
        if volume.image is None or volume.vdi_uuid is not None:
            return False
        return self.context.database.read(filling.is_at_work, volume, silence=self.silence)

    def _finish_making(self, volume: Volume) -> None:
        """Complete a volume whose VDI exists. Drop the row if no VDI was made."""
        view, sr_ref = self.context.view(), self.sr_ref
        if volume.vdi_uuid is not None:
            if vdis.find_after_scan(view, sr_ref, volume.vdi_uuid) is None:
                if self.context.database.write(volume_rows.begin_deleting, volume):
                    volumes.finish_row(self.context, view, volume, self.backend, sr_ref)
                return
            made: creation.Made | None = creation.find_named(view, volume, self.backend)
        else:
            vdi_ref = vdis.find_made(self.context, view, sr_ref, volume)
            if vdi_ref is None:
                self.context.database.write(creation.drop_unmade, volume)
                return
            made = creation.record(self.context, view, Undo(), volume, self.backend, sr_ref, vdi_ref)
        if made is not None:
            copies.finish(self.context, view, made)

    def _finish_deleting(self, volume: Volume) -> None:
        volumes.finish_deleting(self.context, self.context.view(), volume, self.backend, self.sr_ref)

    # ---- rows that name a disk

    def _rows_against(self, there: dict[str, tuple[VDIRef, Record]]) -> Found:
        for volume in self._volumes():
            self.report.volumes += 1
            if volume.state != "available" or volume.vdi_uuid is None:
                continue
            if volume.vdi_uuid not in there:
                if self._is_still_missing(volume):
                    text = f"volume {volume.id} is VDI {volume.vdi_uuid}, which is not in SR {self.backend.sr_uuid}"
                    yield self._about(volume, "vdi_missing", text), None
                continue
            vdi_ref, vdi = there[volume.vdi_uuid]
            if self.luns is not None and vdi["sm_config"].get("SCSIid") not in self.luns:
                lun = vdi["sm_config"].get("SCSIid")
                text = f"volume {volume.id} is LUN {lun}, which the storage shows to no host"
                yield self._about(volume, "vdi_missing", text), None
            if vdis.unsettled(vdi, volume) and self._is_still_unsettled(volume, vdi_ref):
                text = f"VDI {volume.vdi_uuid} is volume {volume.id}, and its marks do not say so"
                yield self._about(volume, "unsettled", text), partial(self._settle, volume, vdi_ref)
            if why_not_whole(vdi) is not None and (problem := self._still_half_written(vdi_ref)) is not None:
                yield self._about(volume, "half_written", f"volume {volume.id}: {problem}"), None
            if (
                int(vdi["virtual_size"]) != volume.virtual_size
                and (now := self._size_now(volume)) is not None
            ):
                text = (
                    f"volume {volume.id} has {exact_size(now)}, and its row says "
                    f"{exact_size(volume.virtual_size or 0)}"
                )
                yield (
                    self._about(volume, "size_differs", text),
                    partial(self._set_size, volume, now),
                )

    def _is_still_missing(self, volume: Volume) -> bool:
        now = self.context.database.read(volume_rows.by_token, volume.token, volume.id)
        if now is None or now.state != "available":
            return False
        return not self.view.find("VDI", {"uuid": volume.vdi_uuid or ""})

    def _is_still_unsettled(self, volume: Volume, vdi_ref: VDIRef) -> bool:
        now = self.context.database.read(volume_rows.by_token, volume.token, volume.id)
        if now is None or now.state != "available":
            return False
        self.view.read({"VDI": [vdi_ref]})
        vdi = self.view.known("VDI", vdi_ref)
        return vdi is not None and vdis.unsettled(vdi, volume)

    def _still_half_written(self, vdi_ref: VDIRef) -> str | None:
        """Return why the VDI, read again, is not whole; None if it is, or if the import that writes to it is running.

        A running import has it in a VBD.
        """
        self.view.read({"VDI": [vdi_ref]})
        vdi = self.view.known("VDI", vdi_ref)
        if vdi is None or vdi["VBDs"] or (error := why_not_whole(vdi)) is None:
            return None
        return str(error)

    def _settle(self, volume: Volume, vdi_ref: VDIRef) -> None:
        vdis.settle_vdi(self.context.view(), vdi_ref, volume)

    def _size_now(self, volume: Volume) -> int | None:
        """Return the size of the VDI if the row, read again, still has another size; else None."""
        for vdi in self.view.find("VDI", {"uuid": volume.vdi_uuid or ""}).values():
            now = self.context.database.read(volume_rows.by_token, volume.token, volume.id)
            if now is not None and now.virtual_size != int(vdi["virtual_size"]):
                return int(vdi["virtual_size"])
        return None

    def _set_size(self, volume: Volume, size: int) -> None:
        self.context.database.write(volume_rows.set_virtual_size, volume, size)

    # ---- VDIs with marks

    def _vdis_against_rows(self, there: dict[VDIRef, Record]) -> Found:
        marked = {ref: vdi for ref, vdi in there.items() if vdis.marks_of(vdi)}
        for vdi_ref, vdi in there.items():
            if vdi_ref not in marked and self._is_unknown(vdi_ref, vdi):
                volume_id = vdi["other_config"][MANAGED]
                text = f"VDI {vdi['uuid']} is marked as volume {volume_id}, which has no row"
                yield self._finding("unknown_vdi", text, vdi_uuid=vdi["uuid"]), None
        # latest first: a copy inherits the marks of dead attempts at its source; once it is reported, each of those
        # marks is left on one copy only
        undecided = {ref: vdi for ref, vdi in there.items() if ref in marked or vdis.is_known_copy(vdi)}
        for vdi_ref in sorted(marked, key=lambda ref: vdis.latest_mark(marked[ref]), reverse=True):
            then = marked[vdi_ref]
            ours = vdis.made_by_us(undecided).get(vdi_ref, [])
            stale, origins = self._stale_marks(vdi_ref, then)
            volume_ids = ", ".join(sorted({mark.volume_id for mark in origins}))
            if any(mark in ours for mark in origins):
                del undecided[vdi_ref]
                text = f"VDI {then['uuid']} was made for volume {volume_ids}, and no row names it"
                finding = self._finding("orphan_vdi", text, vdi_uuid=then["uuid"])
                yield finding, partial(self._erase, vdi_ref, then)
            elif any(not vdis.is_copied(undecided, mark) for mark in origins):
                text = f"VDI {then['uuid']} was made for volume {volume_ids}, or is another tool's copy of that moment"
                text = f"{text}, which cannot be told apart: destroy it, or manage it"
                yield self._finding("orphan_vdi", text, vdi_uuid=then["uuid"]), None
            elif (holder := self._filling_vms(vdi_ref, stale)) is not None:
                volume_ids = ", ".join(sorted({mark.volume_id for mark in stale}))
                text = f"VDI {then['uuid']} was made for volume {volume_ids}, no row names it, and {holder} has it"
                text = f"{text}: it is being filled, or `xenvol image sweep --remove` takes it out of the VM"
                yield self._finding("orphan_vdi", text, vdi_uuid=then["uuid"]), None
            elif stale:
                text = f"VDI {then['uuid']} is marked as being made or copied for a volume, and is not"
                finding = self._finding("unsettled", text, vdi_uuid=then["uuid"])
                yield finding, partial(self._unmark, vdi_ref, then)

    def _stale_marks(self, vdi_ref: VDIRef, then: Record) -> tuple[list[Mark], list[Mark]]:
        """Return the stale marks of a VDI; and, of these, the marks whose call may have made it, if it is an orphan.

        A stale mark names a row that is gone or names a VDI. An orphan is a VDI that no row names, and that no running
        process can make a volume.

        The order of reads is: rows of the marks, row that names the VDI, VDI. A running service writes in the opposite
        order, so this sees everything that it does meanwhile.
        """
        marks = vdis.marks_of(then)
        alive = [mark for mark in marks if self._is_being_made(mark)]
        named = self.context.database.read(volume_rows.by_vdi, then["uuid"])
        view = self.context.view()
        view.read({"VDI": [vdi_ref]})
        vdi = view.known("VDI", vdi_ref)
        if vdi is None or (named is not None and named.state != "available"):
            return [], []  # `_unfinished` has reported it, or its service is still running
        left = vdis.marks_of(vdi)
        stale = [
            mark
            for mark in marks
            if mark in left and mark not in alive and not (mark.is_on_source(vdi) and mark.is_fresh)
        ]
        if named is not None:
            return stale, []
        if any(mark.is_of(vdi) for mark in alive):
            return [], []  # a running service may still make it a volume
        return stale, [mark for mark in stale if mark.is_of(vdi)]

    def _filling_vms(self, vdi_ref: VDIRef, stale: list[Mark]) -> str | None:
        """Return the names of the VMs in which an orphan VDI is, or was, being filled; else None.

        None if a VM has it as an ordinary disk. The VDI keeps its mark: without it, a later audit could not tell that
        the VDI is incomplete.
        """
        if all(mark.source_uuid is not None for mark in stale):
            return None
        view = self.context.view()
        view.read({"VDI": [vdi_ref]})
        vdi = view.known("VDI", vdi_ref)
        if vdi is None or self.context.database.read(volume_rows.by_vdi, vdi["uuid"]) is not None:
            return None
        vms = vdis.slots_of(view, vdi)
        if not vms or not all(vm["is_control_domain"] or IMAGE in vbd["other_config"] for vm, vbd in vms):
            return None
        return ", ".join(sorted({vm["name_label"] for vm, _ in vms}))

    def _is_unknown(self, vdi_ref: VDIRef, then: Record) -> bool:
        """Return True if the VDI was a volume of another state of the database, for example of one that was lost or
        restored."""
        volume_id = then["other_config"].get(MANAGED)
        if volume_id is None or not then["managed"] or then["is_a_snapshot"]:
            return False  # a backup inherits the marks of its source
        if self.context.database.read(volume_rows.find, volume_id) is not None:
            return False  # it is this volume, or another tool's copy of it
        self.view.read({"VDI": [vdi_ref]})
        vdi = self.view.known("VDI", vdi_ref)
        return vdi is not None and vdi["other_config"].get(MANAGED) == volume_id

    def _is_being_made(self, mark: Mark) -> bool:
        now = self.context.database.read(volume_rows.by_token, mark.token, mark.volume_id)
        return now is not None and now.vdi_uuid is None

    def _unmark(self, vdi_ref: VDIRef, then: Record) -> None:
        stale, _ = self._stale_marks(vdi_ref, then)
        vdis.unmark(self.context.view(), vdi_ref, stale)

    def _erase(self, vdi_ref: VDIRef, then: Record) -> bool:
        """Erase an orphan; return False if it turns out to be a volume. The marks are read again: a row may name it by
        now."""
        _, origins = self._stale_marks(vdi_ref, then)
        if not origins:
            return True  # another process has dealt with it meanwhile
        return vdis.erase_unnamed(self.context, self.context.view(), self.backend.id, vdi_ref)

    # ---- inside

    def _volumes(self) -> Iterator[Volume]:
        after: str | None = None
        while True:
            page = self.context.database.read(
                volume_rows.list_of, backend_id=self.backend.id, after=after, limit=_PAGE
            )
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].id

    def _set_up(self) -> None:
        backends.set_up(self.context, self.context.view(), self.backend.id)

    def _about(self, volume: Volume, kind: Kind, text: str) -> Finding:
        return self._finding(kind, text, volume_id=volume.id, vdi_uuid=volume.vdi_uuid)

    def _finding(
        self, kind: Kind, text: str, *, volume_id: str | None = None, vdi_uuid: str | None = None
    ) -> Finding:
        return Finding(
            kind=kind, text=text, backend_id=self.backend.id, volume_id=volume_id, vdi_uuid=vdi_uuid
        )


def _repaired(finding: Finding, repair_it: Callable[[], object]) -> Finding:
    try:
        is_repaired = repair_it() is not False
    except XenVolError as error:
        return replace(finding, text=f"{finding.text}; not repaired: {error}")
    return replace(finding, repaired=is_repaired)
