"""Database and pool, held against each other; what somebody who died has left is gone on with, or taken away.

It may run at any time beside services that are at work. What looks wrong is looked at once more before it is told,
and again in the very transaction that mends it: a service that is alive finds that its row has changed, and takes
back what it made. No disk is erased but one that says that it was made for a row, where that row is no more or is
another disk, and that no VM has. A disk without such a mark is somebody's, whoever's it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from xenvol.errors import XenVolError
from xenvol.marks import CREATING
from xenvol.refs import VDIRef
from xenvol.sm import backend_rows, backends, capacity, creation, srs, vdis, volume_rows, volumes
from xenvol.sm.context import Context
from xenvol.sm.records import Backend, Volume
from xenvol.storage import vdis_of
from xenvol.undo import Undo
from xenvol.view import Record, View

Kind = Literal[
    "backend_not_made",
    "backend_unreachable",
    "half_made",
    "half_deleted",
    "vdi_missing",
    "size_differs",
    "orphan_vdi",
    "unsettled",
]
_PAGE = 1000  # rows read at once


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One disagreement."""

    kind: Kind
    text: str
    backend_id: int
    volume_id: str | None = None
    vdi_uuid: str | None = None
    repaired: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self)}


def say_nothing(text: str) -> None: ...


@dataclass
class AuditReport:
    findings: list[Finding] = field(default_factory=list)
    backends: int = 0
    volumes: int = 0
    vdis: int = 0
    """How many of each were looked at."""

    @property
    def agrees(self) -> bool:
        """Database and pool say the same, or do so now."""
        return all(finding.repaired for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        counts = {"backends": self.backends, "volumes": self.volumes, "vdis": self.vdis}
        return {"agrees": self.agrees, **counts, "findings": [each.as_dict() for each in self.findings]}


def audit(
    context: Context, *, repair: bool = False, progress: Callable[[str], None] = say_nothing
) -> AuditReport:
    """Look at every backend; with `repair`, mend what can be mended without a loss. `progress` is told what is next."""
    report = AuditReport()
    for backend in context.database.read(backend_rows.all_of):
        progress(f"backend {backend.id}")
        report.backends += 1
        for finding, mend in _Audit(context, backend, report).findings():
            report.findings.append(_mended(finding, mend) if repair and mend is not None else finding)
    return report


Found = Iterator[tuple[Finding, Callable[[], object] | None]]


class _Audit:
    """Of one backend. A finding comes with what mends it; None: nobody but its owner can."""

    def __init__(self, context: Context, backend: Backend, report: AuditReport) -> None:
        self.context, self.backend, self.report = context, backend, report
        self.view = context.view()

    def findings(self) -> Found:
        if self.backend.state == "new":
            text = f"backend {self.backend.id} is registered, and its SR is not made"
            yield self._finding("backend_not_made", text), self._set_up
            self.backend = self.context.database.read(backend_rows.get, self.backend.id)
            if self.backend.state == "new":
                return
        try:
            self.sr_ref, _ = srs.get_sr(self.view, self.backend)
            (self.backend,) = capacity.refresh(self.context, self.view, [self.backend])
        except XenVolError as error:
            yield self._finding("backend_unreachable", str(error)), self._set_up
            return
        if self.backend.problem is not None:
            text = f"backend {self.backend.id}: {self.backend.problem}"
            yield self._finding("backend_unreachable", text), self._set_up
            return
        yield from self._unfinished()
        vdis_now = vdis_of(self.view, self.sr_ref)
        self.report.vdis += len(vdis_now)
        named = {vdi["uuid"]: (ref, vdi) for ref, vdi in vdis_now.items()}
        yield from self._rows_against(named)
        yield from self._vdis_against_rows(vdis_now)

    # ---- rows that somebody was at

    def _unfinished(self) -> Found:
        for volume in self._volumes():
            if volume.state == "creating":
                text = f"volume {volume.id} was begun and never finished"
                yield (
                    self._about(volume, "half_made", text),
                    partial(self._finish_making, volume),
                )
            elif volume.state == "deleting":
                text = f"volume {volume.id} was to be deleted and is still there"
                yield (
                    self._about(volume, "half_deleted", text),
                    partial(volumes.finish_deleting, self.context, self.context.view(), volume, self.backend),
                )

    def _finish_making(self, volume: Volume) -> None:
        """Its VDI is recorded where one was made; else the row goes."""
        view = self.context.view()
        source = self._source_of(view, volume)
        made = vdis.find_made(view, self.sr_ref, volume, source=source)
        if made is not None:
            creation.record(self.context, view, Undo(), volume, self.backend, self.sr_ref, made)
            return
        self.context.database.write(creation.drop_unmade, volume)

    def _source_of(self, view: View, volume: Volume) -> Record | None:
        if volume.source_id is None:
            return None
        source = self.context.database.read(volume_rows.find, volume.source_id or "")
        if source is None or source.vdi_uuid is None:
            return None
        return next(iter(view.find("VDI", {"uuid": source.vdi_uuid}).values()), None)

    # ---- rows that name a disk

    def _rows_against(self, there: dict[str, tuple[VDIRef, Record]]) -> Found:
        for volume in self._volumes():
            self.report.volumes += 1
            if volume.state != "available" or volume.vdi_uuid is None:
                continue
            if volume.vdi_uuid not in there:
                if self._is_still_missing(volume):
                    text = f"volume {volume.id} is VDI {volume.vdi_uuid}, which SR {self.backend.sr_uuid} has not"
                    yield self._about(volume, "vdi_missing", text), None
                continue
            _, vdi = there[volume.vdi_uuid]
            if (
                int(vdi["virtual_size"]) != volume.virtual_size
                and (now := self._size_now(volume)) is not None
            ):
                text = f"volume {volume.id} has {now} bytes, and its row says {volume.virtual_size}"
                yield (
                    self._about(volume, "size_differs", text),
                    partial(self._set_size, volume, now),
                )

    def _is_still_missing(self, volume: Volume) -> bool:
        now = self.context.database.read(volume_rows.by_token, volume.token, volume.id)
        if now is None or now.state != "available":
            return False
        return not self.view.find("VDI", {"uuid": volume.vdi_uuid or ""})

    def _size_now(self, volume: Volume) -> int | None:
        """The disk's size, where the row, looked at again, still says another."""
        for vdi in self.view.find("VDI", {"uuid": volume.vdi_uuid or ""}).values():
            now = self.context.database.read(volume_rows.by_token, volume.token, volume.id)
            if now is not None and now.virtual_size != int(vdi["virtual_size"]):
                return int(vdi["virtual_size"])
        return None

    def _set_size(self, volume: Volume, size: int) -> None:
        self.context.database.write(
            volume_rows.grow,
            volume,
            size=max(volume.size, size),
            virtual_size=size,
            cost=max(volume.cost, size),
        )

    # ---- disks that say whose they are

    def _vdis_against_rows(self, there: dict[VDIRef, Record]) -> Found:
        for vdi_ref, vdi in there.items():
            tokens = {
                key.removeprefix(CREATING): volume_id
                for key, volume_id in vdi["other_config"].items()
                if key.startswith(CREATING)
            }
            if not tokens:
                continue
            named = self.context.database.read(volume_rows.by_vdi, vdi["uuid"])
            if named is not None:
                if stale := [token for token in tokens if not self._is_being_made(token, tokens[token])]:
                    text = (
                        f"VDI {vdi['uuid']} of volume {named.id} still says that it, or a copy, is being made"
                    )
                    yield (
                        self._about(named, "unsettled", text),
                        partial(self._settle, vdi_ref, named, stale),
                    )
                continue
            if any(self._is_being_made(token, volume_id) for token, volume_id in tokens.items()):
                continue  # `_unfinished` has told of it, or its maker is at work
            if not self._is_there(vdi_ref):
                continue
            text = f"VDI {vdi['uuid']} was made for volume {', '.join(tokens.values())}, and no row names it"
            finding = self._finding("orphan_vdi", text, vdi_uuid=vdi["uuid"])
            yield finding, partial(self._erase, vdi_ref, tokens)

    def _is_being_made(self, token: str, volume_id: str) -> bool:
        now = self.context.database.read(volume_rows.by_token, token, volume_id)
        return now is not None and now.vdi_uuid is None

    def _is_there(self, vdi_ref: VDIRef) -> bool:
        self.view.read({"VDI": [vdi_ref]})
        return self.view.known("VDI", vdi_ref) is not None

    def _settle(self, vdi_ref: VDIRef, volume: Volume, stale: list[str]) -> None:
        view = self.context.view()
        for token in stale:
            vdis.unmark(view, vdi_ref, token)
        if volume.token in stale:
            vdis.settle_vdi(view, vdi_ref, volume)

    def _erase(self, vdi_ref: VDIRef, tokens: dict[str, str]) -> None:
        """Once more, now: a row that could still name it would have been there before it was."""
        view = self.context.view()
        vdi = view.call("VDI.get_record", vdi_ref)
        named = self.context.database.read(volume_rows.by_vdi, vdi["uuid"])
        if named is None and not any(self._is_being_made(token, tokens[token]) for token in tokens):
            vdis.erase(view, vdi_ref)

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


def _mended(finding: Finding, mend: Callable[[], object]) -> Finding:
    try:
        mend()
    except XenVolError as error:
        return replace(finding, text=f"{finding.text}; not mended: {error}")
    return replace(finding, repaired=True)
