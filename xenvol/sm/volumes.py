"""Look up, grow and delete existing volumes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from xenvol.amounts import exact_size
from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError, XenVolError
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef
from xenvol.sm import backend_rows, capacity, flavor_rows, placement, srs, vdis, volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import NoBackendFits, NotSupported, Overtaken, UnknownVolume, VolumeNotReady
from xenvol.sm.records import Backend, Volume
from xenvol.storage.users import vbds_of

log = logging.getLogger(__name__)

_LISTED = 10  # snapshots or copies that an error names
_ATTEMPTS = 20  # at a volume that other services change too


def extend(context: Context, volume_id: str, size: int) -> Volume:
    """Grow the volume to at least `size` bytes. Idempotent; a volume never shrinks.

    While a VM has it plugged, the storage driver must have VDI_RESIZE_ONLINE. Raises UnknownVolume, VolumeNotReady,
    NotSupported, NoBackendFits (no room), VolumeInUse, XapiError.
    """
    vdis.check_size(size)
    volume, backend = get_with_backend(context, volume_id)
    if volume.is_snapshot:
        raise NotSupported(
            f"extending {volume_id}", reason="it is a snapshot: clone it with the size instead"
        )
    if size < volume.size:
        raise NotSupported(f"shrinking {volume_id}", reason=f"it has {exact_size(volume.size)} already")
    if backend.type.luns:
        reason = "it is a LUN: grow it on the array, then `xenvol extend` makes the pool see it"
        raise NotSupported(f"extending {volume_id}", reason=reason)
    view = context.view()
    sr_ref, _ = srs.get_sr(view, backend)
    cost = placement.cost(backend, size)
    with _unless_deleted(context, volume):
        vdi_ref, vdi = vdis.get_vdi(view, sr_ref, volume)
        if int(vdi["virtual_size"]) < size:
            _check_room(context, view, backend, size=size, more=cost - volume.cost)
            view.call(_growing_call(view, backend, volume_id, vdi), vdi_ref, size)
        view.read({"VDI": [vdi_ref], "SR": [sr_ref]})
        virtual_size = int(view.record("VDI", vdi_ref)["virtual_size"])

    def keep(connection: sa.Connection) -> Volume:
        is_there = volume_rows.grow(connection, volume, size=size, virtual_size=virtual_size, cost=cost)
        now = volume_rows.get(connection, volume_id)
        if not is_there:  # it is being deleted, or was, and there is a new one with its id
            raise VolumeNotReady(volume_id, state=now.state)
        return now

    extended = context.database.write(keep)
    _note(context, view, backend, sr_ref)
    return extended


@contextmanager
def _unless_deleted(context: Context, volume: Volume) -> Iterator[None]:
    """Raise UnknownVolume or VolumeNotReady instead of what the pool says of a volume that another service has deleted
    meanwhile, or is deleting."""
    try:
        yield
    except (XapiError, VolumeNotFound) as error:
        now = context.database.read(volume_rows.by_token, volume.token, volume.id)
        if now is None:
            raise UnknownVolume(volume.id) from error
        if now.state != "available":
            raise VolumeNotReady(volume.id, state=now.state) from error
        raise


def delete(context: Context, volume_id: str) -> None:
    """Erase a volume or a snapshot. Idempotent: a volume that was deleted is fine.

    Raises UnknownVolume if there never was such a volume, VolumeInUse if a VM has it, NotSupported if it has snapshots
    (delete those first) or is a LUN (unmanage it: its data is the array's), XapiError, XapiUnreachable. After the last
    two the volume stays in deletion, and the same call again completes.
    """
    for _ in range(_ATTEMPTS):
        volume = context.database.read(volume_rows.find, volume_id)
        if volume is None:
            if not context.database.read(volume_rows.was_there, volume_id):
                raise UnknownVolume(volume_id)
            return
        backend = context.database.read(backend_rows.get, volume.backend_id)
        if backend.type.luns:
            reason = "it is a LUN of an array, which VDI.destroy does not erase: unmanage it instead"
            raise NotSupported(f"deleting {volume_id}", reason=reason)
        view = context.view()
        sr_ref, _ = srs.get_sr(view, backend)
        if volume.vdi_uuid is not None and volume.state == "available":
            for vdi in view.find("VDI", {"uuid": volume.vdi_uuid}).values():
                vdis.check_unused(view, vdi)  # before the row says that it is being deleted
        if context.database.write(_begin_deleting, volume):
            try:
                finish_deleting(context, view, volume, backend, sr_ref)
            except VolumeInUse:  # a VM got it since the check: the volume is unharmed
                context.database.write(volume_rows.keep_after_all, volume)
                raise
            return
    raise Overtaken(volume_id)


def _begin_deleting(connection: sa.Connection, volume: Volume) -> bool:
    """Mark the row as being deleted. Return False if it has changed. Raises NotSupported if it has snapshots or
    copies."""
    if not volume_rows.begin_deleting(connection, volume):
        return False
    check_no_source(connection, volume, f"deleting {volume.id}", remedy="delete them first")
    return True


def check_no_source(connection: sa.Connection, volume: Volume, what: str, *, remedy: str) -> None:
    """Raise NotSupported if the volume has snapshots, which `remedy` is about, or is being copied."""
    if snapshots := volume_rows.list_of(connection, snapshot_of=volume.id, limit=_LISTED):
        listed = ", ".join(snapshot.id for snapshot in snapshots)
        raise NotSupported(what, reason=f"it has snapshots: {listed}; {remedy}")
    if copies := volume_rows.copies_being_made(connection, volume.id, limit=_LISTED):
        raise NotSupported(what, reason=f"it is being copied: {', '.join(copies)}")


def finish_deleting(context: Context, view: View, volume: Volume, backend: Backend, sr_ref: SRRef) -> None:
    """Erase the VDI of a volume that is being deleted, and delete its row."""
    if volume_rows.is_claim(volume):
        vdis.finish_erasing(context, view, volume)
        return
    if volume.vdi_uuid is None:
        vdis.erase_made(context, view, sr_ref, volume)
    else:
        vdi_ref = vdis.find_after_scan(view, sr_ref, volume.vdi_uuid)
        if vdi_ref is not None:
            vdis.erase(view, vdi_ref)
    finish_row(context, view, volume, backend, sr_ref)


def finish_row(context: Context, view: View, volume: Volume, backend: Backend, sr_ref: SRRef) -> None:
    """Delete the row of a volume whose VDI is gone, and return its room."""

    def finish(connection: sa.Connection) -> None:
        if volume_rows.finish_deleting(connection, volume):
            backend_rows.give_back(connection, backend.id, volume.cost)

    context.database.write(finish)
    _note(context, view, backend, sr_ref)


def _note(context: Context, view: View, backend: Backend, sr_ref: SRRef) -> None:
    """Read the SR, and store its sizes. A failure here is logged, and is no failure of the work."""
    try:
        view.read({"SR": [sr_ref]})
        capacity.note(context, backend, view.record("SR", sr_ref))
    except XenVolError as error:
        log.warning("backend %d: what it has is not noted: %s", backend.id, error)


def get_with_backend(context: Context, volume_id: str) -> tuple[Volume, Backend]:
    """Return an available volume and its backend. Raises UnknownVolume, VolumeNotReady."""

    def both(connection: sa.Connection) -> tuple[Volume, Backend]:
        volume = volume_rows.get(connection, volume_id)
        return volume, backend_rows.get(connection, volume.backend_id)

    volume, backend = context.database.read(both)
    if volume.state != "available":
        raise VolumeNotReady(volume_id, state=volume.state)
    return volume, backend


def _check_room(context: Context, view: View, backend: Backend, *, size: int, more: int) -> None:
    """Raise NoBackendFits if the backend has no room for `more` bytes, or if `size` is too large for its type."""
    limit = backend.type.max_size
    (now,) = capacity.refresh(context, view, [backend])
    if limit is not None and size > limit:
        reason = f"a disk of type {backend.sr_type} has at most {exact_size(limit)}"
    elif more > now.free:
        reason = f"has {exact_size(max(0, now.free))} free, and {exact_size(more)} more are needed"
    else:
        return
    flavor = context.database.read(flavor_rows.by_id, backend.flavor_id)
    raise NoBackendFits(flavor.label, size=size, reasons={backend.id: reason})


def _growing_call(view: View, backend: Backend, volume_id: str, vdi: Record) -> str:
    """Return VDI.resize, or VDI.resize_online while a VM has the VDI plugged. Raises NotSupported."""
    what = f"extending {volume_id}"
    if not backend.has("VDI_RESIZE"):
        raise NotSupported(what, reason=f"the storage driver {backend.sr_type} resizes no disks")
    if not any(vbd["currently_attached"] for vbd in vbds_of(view, [vdi]).values()):
        return "VDI.resize"
    if not backend.has("VDI_RESIZE_ONLINE"):
        users = ", ".join(vdis.users_of(view, vdi))
        reason = f"{users} has it plugged, and the storage driver {backend.sr_type} grows no plugged disk"
        raise NotSupported(what, reason=f"{reason}: detach it first, or shut the VM down")
    return "VDI.resize_online"
