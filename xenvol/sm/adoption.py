"""Make an existing VDI a volume, or give a volume up and keep its VDI. The data is never touched."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import UnmanagedVDI, VolumeNotFound
from xenvol.pool.transfer_mark import check_is_whole
from xenvol.pool.view import Record
from xenvol.session.refs import VDIRef
from xenvol.sm import backend_rows, creation, placement, vdis, volume_rows, volumes
from xenvol.sm.context import Context
from xenvol.sm.creation import Made
from xenvol.sm.errors import (
    NotSupported,
    Overtaken,
    UnknownVolume,
    VDITaken,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.records import Backend, Volume


def manage(context: Context, volume_id: str, vdi_uuid: str, *, name: str = "") -> Volume:
    """Make a VDI of a backend's SR a volume, and return the volume. Idempotent.

    Where VDIs are LUNs, this is the only way to a volume.

    Raises VolumeNotFound (no such VDI), NotSupported (its SR is no backend, or it is not the disk of a VM),
    HalfWrittenDisk, UnmanagedVDI, VDITaken, VolumeExists, VolumeNotReady, InvalidSetting, XapiError.
    """
    vdis.check_names(volume_id, name)
    vdi_uuid = vdi_uuid.lower()
    for _ in range(creation.ATTEMPTS):
        view = context.view()
        found = view.find("VDI", {"uuid": vdi_uuid})
        if not found:
            raise VolumeNotFound(f"VDI {vdi_uuid}")
        ((vdi_ref, vdi),) = found.items()
        if not vdi["managed"]:
            raise UnmanagedVDI(vdi_uuid)
        check_is_whole(vdi)
        if vdi["type"] not in vdis.DISKS:
            reason = f"its type is {vdi['type']}, which no disk of a VM has"
            raise NotSupported(f"managing VDI {vdi_uuid}", reason=reason)
        if vdi["is_a_snapshot"]:
            reason = "it is a snapshot of another disk, and a volume would write to it: manage a clone of it"
            raise NotSupported(f"managing VDI {vdi_uuid}", reason=reason)
        sr_rec = view.record("SR", vdi["SR"])
        try:
            volume, backend = context.database.write(_adopt, volume_id, vdi, sr_rec, name=name)
        except IntegrityError:  # another service has just written a row with this id or this VDI
            continue
        if volume.state == "available":
            return volume
        managed = creation.finish(context, view, Made(volume, backend, VDIRef(vdi_ref)))
        if managed is not None:
            return managed
    raise Overtaken(volume_id)


def _adopt(
    connection: sa.Connection, volume_id: str, vdi: Record, sr_rec: Record, *, name: str
) -> tuple[Volume, Backend]:
    """Return the row that names the VDI, new or of an earlier attempt, and its backend. A new row is not available
    yet."""
    vdi_uuid, size = vdi["uuid"], int(vdi["virtual_size"])
    backend = backend_rows.find(connection, sr_uuid=sr_rec["uuid"], lock=True)
    if backend is None:
        reason = f"its SR {sr_rec['name_label']} ({sr_rec['uuid']}) is no backend: register it first"
        raise NotSupported(f"managing VDI {vdi_uuid}", reason=reason)
    taken = volume_rows.by_vdi(connection, vdi_uuid)
    if taken is not None and taken.id != volume_id:
        raise VDITaken(vdi_uuid, volume_id=taken.id)
    there = taken or volume_rows.find(connection, volume_id)
    if there is not None:
        if there.state == "deleting":
            raise VolumeNotReady(volume_id, state="being deleted")
        if there.vdi_uuid != vdi_uuid:
            what = "is being made" if there.vdi_uuid is None else f"is VDI {there.vdi_uuid}"
            raise VolumeExists(volume_id, difference=what)
        return there, backend
    adopted = volume_rows.add(
        connection,
        volume_id,
        backend_id=backend.id,
        size=size,
        cost=placement.cost(backend, size),
        name=name,
        vdi_uuid=vdi_uuid,
        virtual_size=size,
    )
    return adopted, backend


def unmanage(context: Context, volume_id: str) -> None:
    """Remove the volume, and keep its VDI with its data. Raises UnknownVolume, VolumeNotReady, NotSupported."""
    volume, _ = volumes.get_with_backend(context, volume_id)
    context.database.read(_check_not_needed, volume)
    view = context.view()
    for vdi_ref, vdi in view.find("VDI", {"uuid": volume.vdi_uuid or ""}).items():
        old = [mark for mark in vdis.marks_of(vdi) if not mark.is_fresh]
        vdis.unmark(view, VDIRef(vdi_ref), old)
        vdis.unmanage(view, VDIRef(vdi_ref))
    context.database.write(_release, volume)  # last: until then the same call can be repeated


def _release(connection: sa.Connection, volume: Volume) -> None:
    if not volume_rows.release(connection, volume):
        raise UnknownVolume(volume.id)
    _check_not_needed(connection, volume)


def _check_not_needed(connection: sa.Connection, volume: Volume) -> None:
    what, remedy = f"unmanaging {volume.id}", "unmanage or delete them first"
    volumes.check_no_source(connection, volume, what, remedy=remedy)
