"""A volume from a volume: snapshots, clones, volumes from snapshots, by the storage's own way where it has one.

The same order as in `creation`: the row, the VDI, the row names the VDI. A copy is made where its source is.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import XapiUnreachable, XenVolError
from xenvol.refs import NULL_REF, SRRef
from xenvol.sm import backend_rows, creation, placement, srs, vdis, volume_rows, volumes
from xenvol.sm.context import Context
from xenvol.sm.errors import NoBackendFits, NotSupported, Overtaken, VolumeExists, VolumeNotReady
from xenvol.sm.records import Backend, Volume
from xenvol.undo import Undo
from xenvol.view import View


def snapshot(context: Context, snapshot_id: str, volume_id: str, *, name: str = "") -> Volume:
    """What the volume holds now, kept; also while a VM writes to it. Idempotent by the snapshot's id.

    Raises UnknownVolume, VolumeNotReady, VolumeExists, NotSupported, NoBackendFits, XapiError, XapiUnreachable.
    """
    source, backend = volumes.get_with_backend(context, volume_id)
    what = f"a snapshot of {volume_id}"
    if source.is_snapshot:
        raise NotSupported(what, reason="it is a snapshot itself: clone it")
    if not backend.has("VDI_SNAPSHOT"):
        raise NotSupported(what, reason=f"the storage driver {backend.sr_type} makes no snapshots")
    return _copy(context, snapshot_id, source, backend, name=name, snapshot_of=source.id)


def clone(
    context: Context, volume_id: str, source_id: str, *, size: int | None = None, name: str = ""
) -> Volume:
    """A new volume with what a volume, or a snapshot, holds; `size` makes it larger. Idempotent by its id.

    Raises what `snapshot` does; NotSupported for a size below the source's.
    """
    source, backend = volumes.get_with_backend(context, source_id)
    if size is not None and size < source.size:
        reason = f"its source has {source.size} bytes, and disks do not shrink"
        raise NotSupported(f"a clone of {size} bytes", reason=reason)
    if backend.type.luns:
        reason = "the array makes its LUNs, and VDI.create there would hand out one with whatever is on it"
        raise NotSupported(f"a clone of {source_id}", reason=reason)
    copied = _copy(context, volume_id, source, backend, name=name, snapshot_of=None)
    return copied if size is None or size <= copied.size else volumes.extend(context, volume_id, size)


def _copy(
    context: Context, copy_id: str, source: Volume, backend: Backend, *, name: str, snapshot_of: str | None
) -> Volume:
    view = context.view()
    for _ in range(creation.ATTEMPTS):
        copy, is_begun = context.database.read(volume_rows.find, copy_id), True
        if copy is None:
            copy = _claim(context, copy_id, source, backend, name=name, snapshot_of=snapshot_of)
            if copy is None:
                continue
            is_begun = False
        _check_same(copy, source, snapshot_of)
        if copy.state == "available":
            return copy
        made = _make(context, view, copy, source, backend, is_begun=is_begun)
        if made is not None:
            return made
    raise Overtaken(copy_id)


def _claim(
    context: Context, copy_id: str, source: Volume, backend: Backend, *, name: str, snapshot_of: str | None
) -> Volume | None:
    """The row of the copy; None where another service has just made one. Raises NoBackendFits."""
    cost = placement.cost(backend, source.size)

    def claim(connection: sa.Connection) -> Volume:
        if not backend_rows.reserve(connection, backend.id, cost):
            reasons = {backend.id: f"a copy takes {cost} bytes, which it has not"}
            raise NoBackendFits(str(backend.flavor_id), size=source.size, reasons=reasons)
        return volume_rows.add(
            connection,
            copy_id,
            backend_id=backend.id,
            size=source.size,
            cost=cost,
            name=name,
            source_id=source.id,
            snapshot_of=snapshot_of,
        )

    try:
        return context.database.write(claim)
    except IntegrityError:
        return None


def _make(
    context: Context, view: View, copy: Volume, source: Volume, backend: Backend, *, is_begun: bool
) -> Volume | None:
    """The copy's VDI, and the row that names it; None where it must be looked at again."""
    sr_ref, _ = srs.get_sr(view, backend)
    source_ref, source_rec = vdis.get_vdi(view, sr_ref, source)
    view.remember("VDI", source_ref, source_rec)
    undo = Undo()
    try:
        vdi_ref = vdis.find_made(view, sr_ref, copy, source=source_rec) if is_begun else None
        if vdi_ref is None:
            vdi_ref = vdis.copy_vdi(view, undo, source_ref, copy, _call_for(copy, backend, sr_ref))
        named = creation.record(context, view, undo, copy, backend, sr_ref, vdi_ref)
    except BaseException as error:
        undo.unwind(error)
        _give_up(context, copy, error)
        raise
    vdis.unmark(view, source_ref, copy.token)
    return named


def _give_up(context: Context, copy: Volume, error: BaseException) -> None:
    """A refusal did not happen, so there is nothing to go on with; after a silence the row stays for the next one."""
    if isinstance(error, XapiUnreachable) or not isinstance(error, XenVolError):
        return
    context.database.write(creation.drop_unmade, copy)


def _check_same(copy: Volume, source: Volume, snapshot_of: str | None) -> None:
    if copy.state == "deleting":
        raise VolumeNotReady(copy.id, state="being deleted")
    if copy.source_id != source.id or copy.snapshot_of != snapshot_of:
        what = "clone" if snapshot_of is None else "snapshot"
        raise VolumeExists(copy.id, difference=f"is no {what} of {source.id!r}")


def _call_for(copy: Volume, backend: Backend, sr_ref: SRRef) -> tuple[object, ...]:
    """The storage's own way; where it has none, a full copy, which takes as long as the disk is large.

    Of a raw disk VDI.clone is a full copy too: xapi falls back by itself (facts/xapi.md 2.1, SM fault 38).
    """
    if copy.is_snapshot:
        return ("VDI.snapshot", {})
    if backend.has("VDI_CLONE"):
        return ("VDI.clone", {})
    return ("VDI.copy", sr_ref, NULL_REF, NULL_REF)  # of all of it, into a new VDI
