"""Snapshots, clones, and volumes from snapshots, made by the storage driver's own copy if it has one.

The order is that of `creation`: the row, the VDI, the row names the VDI. A copy is made on the SR of its source. It has
its final size before it becomes available.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.amounts import exact_size
from xenvol.errors import HalfWrittenDisk, XapiError, XenVolError
from xenvol.pool.transfer_mark import check_is_whole
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.sm import (
    backend_rows,
    capacity,
    creation,
    flavor_rows,
    placement,
    srs,
    vdis,
    volume_rows,
    volumes,
)
from xenvol.sm.context import Context
from xenvol.sm.creation import Made
from xenvol.sm.errors import NoBackendFits, NotSupported, Overtaken, VolumeExists, VolumeNotReady
from xenvol.sm.records import Backend, Volume


def snapshot(context: Context, snapshot_id: str, volume_id: str, *, name: str = "") -> Volume:
    """Make a snapshot of a volume, also while a VM writes to it, and return it. Idempotent by `snapshot_id`.

    Raises UnknownVolume, VolumeNotReady, VolumeExists, NotSupported, NoBackendFits, HalfWrittenDisk, XapiError,
    XapiUnreachable.
    """
    vdis.check_names(snapshot_id, name)
    there = context.database.read(volume_rows.find, snapshot_id)
    if there is not None and there.state == "available" and there.snapshot_of == volume_id:
        return there
    source, backend = volumes.get_with_backend(context, volume_id)
    what = f"a snapshot of {volume_id}"
    if source.is_snapshot:
        raise NotSupported(what, reason="it is a snapshot itself: clone it instead")
    if not backend.has("VDI_SNAPSHOT"):
        raise NotSupported(what, reason=f"the storage driver {backend.sr_type} makes no snapshots")
    return _copy(context, snapshot_id, source, backend, name=name, size=None, snapshot_of=source.id)


def clone(
    context: Context, volume_id: str, source_id: str, *, size: int | None = None, name: str = ""
) -> Volume:
    """Make a volume with the data of a volume or a snapshot; `size` makes it larger. Idempotent by `volume_id`.

    Raises what `snapshot` raises; NotSupported if `size` is below the source's.
    """
    vdis.check_names(volume_id, name)
    if size is not None:
        vdis.check_size(size)
    there = context.database.read(volume_rows.find, volume_id)
    if there is not None and there.state == "available":
        _check_same(there, source_id, size=size, snapshot_of=None)
        return there  # its source may be gone by now
    source, backend = volumes.get_with_backend(context, source_id)
    if size is not None and size < source.size:
        reason = f"its source has {exact_size(source.size)}, and disks do not shrink"
        raise NotSupported(f"a clone of {exact_size(size)}", reason=reason)
    if backend.type.luns:
        reason = "the array makes its LUNs, and VDI.create there hands out an existing LUN with its data"
        raise NotSupported(f"a clone of {source_id}", reason=reason)
    if size is not None and size > source.size and not backend.has("VDI_RESIZE"):
        reason = f"the storage driver {backend.sr_type} resizes no disks"
        raise NotSupported(f"a clone of {source_id} that is larger", reason=reason)
    return _copy(context, volume_id, source, backend, name=name, size=size, snapshot_of=None)


def _copy(
    context: Context,
    copy_id: str,
    source: Volume,
    backend: Backend,
    *,
    name: str,
    size: int | None,
    snapshot_of: str | None,
) -> Volume:
    for _ in range(creation.ATTEMPTS):
        view = context.view()
        copy, is_begun = context.database.read(volume_rows.find, copy_id), True
        if copy is None:
            copy, is_begun = (
                _claim(context, copy_id, source, backend, name=name, size=size, snapshot_of=snapshot_of),
                False,
            )
            if copy is None:
                continue
        _check_same(copy, source.id, size=size, snapshot_of=snapshot_of)
        if copy.state == "available":
            return copy
        if copy.vdi_uuid is not None:
            made: Made | None = creation.find_named(view, copy, backend)
        else:
            made = _make(context, view, copy, source, backend, is_begun=is_begun)
        finished = None if made is None else finish(context, view, made)
        if finished is not None:
            return finished
    raise Overtaken(copy_id)


def finish(context: Context, view: View, made: Made) -> Volume | None:
    """Complete a copy that its row names. Return None if another process has deleted it meanwhile.

    Idempotent. A copy that cannot grow to its size is deleted again, and the storage's refusal is raised. So is a copy
    that inherits the mark of an import, which began to overwrite the source before it was copied (HalfWrittenDisk).
    """
    vdi = view.record("VDI", made.vdi_ref)
    try:
        check_is_whole(vdi)
    except HalfWrittenDisk as error:
        _take_back(context, view, made, error)
        raise
    if int(vdi["virtual_size"]) < made.volume.size:
        try:
            view.call("VDI.resize", made.vdi_ref, made.volume.size)
        except XapiError as error:
            _take_back(context, view, made, error)
            raise
        view.read({"VDI": [made.vdi_ref], "SR": [vdi["SR"]]})
    return creation.finish(context, view, made)


def _take_back(context: Context, view: View, made: Made, error: XenVolError) -> None:
    """Delete a copy that is not available yet, unless another service has got further with it."""
    undo = Undo()
    undo.did(f"made volume {made.volume.id}", _delete, context, view, made)
    undo.unwind(error)


def _delete(context: Context, view: View, made: Made) -> None:
    if context.database.write(volume_rows.begin_deleting, made.volume):
        sr_ref = SRRef(view.record("VDI", made.vdi_ref)["SR"])
        volumes.finish_deleting(context, view, made.volume, made.backend, sr_ref)


def _claim(
    context: Context,
    copy_id: str,
    source: Volume,
    backend: Backend,
    *,
    name: str,
    size: int | None,
    snapshot_of: str | None,
) -> Volume | None:
    """Write the row of the copy, and take its room. Return None if another service has just written it.

    Raises NoBackendFits; UnknownVolume, VolumeNotReady if the source has changed.
    """
    wanted = source.size if size is None else size
    cost = placement.cost(backend, wanted)

    def claim(connection: sa.Connection) -> Volume | None:
        now = volume_rows.get(connection, source.id, lock=True)  # a delete waits, and then sees the copy
        if now.token != source.token or now.state != "available":
            raise VolumeNotReady(source.id, state=now.state)
        if not backend_rows.reserve(connection, backend.id, cost):
            return None
        return volume_rows.add(
            connection,
            copy_id,
            backend_id=backend.id,
            size=wanted,
            cost=cost,
            name=name,
            source_id=source.id,
            snapshot_of=snapshot_of,
        )

    try:
        claimed = context.database.write(claim)
        if claimed is not None:
            return claimed
        (fresh,) = capacity.refresh(context, context.view(), [backend])  # the row may be stale
        claimed = context.database.write(claim)
    except IntegrityError:
        return None
    if claimed is None:
        reason = fresh.problem or (
            f"has {exact_size(max(0, fresh.free))} free, and the copy takes {exact_size(cost)}"
        )
        flavor = context.database.read(flavor_rows.by_id, backend.flavor_id)
        raise NoBackendFits(flavor.label, size=wanted, reasons={backend.id: reason})
    return claimed


def _make(
    context: Context, view: View, copy: Volume, source: Volume, backend: Backend, *, is_begun: bool
) -> Made | None:
    """Make the copy's VDI, and have the row name it. Return None if the row must be read again."""
    undo = Undo()
    try:
        sr_ref, _ = srs.get_sr(view, backend)
        source_ref, source_rec = vdis.get_vdi(view, sr_ref, source)
        check_is_whole(source_rec)
        vdi_ref = vdis.find_made(context, view, sr_ref, copy) if is_begun else None
        if vdi_ref is None:
            vdi_ref = _copy_vdi(context, view, undo, copy, backend, sr_ref, source_ref, source_rec)
        made = creation.record(context, view, undo, copy, backend, sr_ref, vdi_ref)
    except BaseException as error:
        undo.unwind(error)
        creation.give_up(context, copy, error)
        raise
    if made is not None:
        vdis.unmark_source(view, source_ref, copy)
        if is_begun:
            vdis.erase_incomplete(context, view, sr_ref, copy)
    return made


def _copy_vdi(
    context: Context,
    view: View,
    undo: Undo,
    copy: Volume,
    backend: Backend,
    sr_ref: SRRef,
    source_ref: VDIRef,
    source_rec: Record,
) -> VDIRef:
    """Copy by the storage driver's own way, or else in full, which takes as long as the disk is large."""
    if copy.is_snapshot:
        return vdis.copy_vdi(context, view, undo, sr_ref, source_ref, copy, "VDI.snapshot")
    if backend.has("VDI_CLONE") and not vdis.is_raw(source_rec):
        return vdis.copy_vdi(context, view, undo, sr_ref, source_ref, copy, "VDI.clone")
    return vdis.fill_vdi(context, view, undo, sr_ref, source_ref, copy)


def _check_same(copy: Volume, source_id: str, *, size: int | None, snapshot_of: str | None) -> None:
    if copy.state == "deleting":
        raise VolumeNotReady(copy.id, state="being deleted")
    if copy.source_id != source_id or copy.snapshot_of != snapshot_of:
        what = "clone" if snapshot_of is None else "snapshot"
        raise VolumeExists(copy.id, difference=f"is no {what} of {source_id!r}")
    if size is not None and copy.size != size:
        raise VolumeExists(copy.id, difference=f"has {exact_size(copy.size)}")
