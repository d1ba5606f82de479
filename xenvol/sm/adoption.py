"""Make an existing VDI a volume, or give a volume up and keep its VDI. The data is never touched."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import UnmanagedVDI, VolumeNotFound
from xenvol.pool.marks import MANAGED
from xenvol.pool.transfer_mark import check_is_whole
from xenvol.pool.view import Record
from xenvol.session.refs import VDIRef
from xenvol.sm import backend_rows, creation, placement, same_storage, vdis, volume_rows, volumes
from xenvol.sm.context import Context
from xenvol.sm.creation import Made
from xenvol.sm.errors import (
    NotSupported,
    Overtaken,
    UnknownVolume,
    VDIMarked,
    VDITaken,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.records import Backend, Volume
from xenvol.storage import TYPES_ON_DEVICES, check_under_no_sr, is_lun_per_vdi


def manage(
    context: Context, volume_id: str, vdi_uuid: str, *, name: str = "", marked_as: str | None = None
) -> Volume:
    """Make a VDI of a backend's SR a volume, and return the volume. Idempotent.

    Where VDIs are LUNs, this is the only way to a volume. If the VDI is marked as another volume, `marked_as` must name
    that volume: the database may have lost it.

    Raises VolumeNotFound (no such VDI), NotSupported (its SR is no backend, or it is not the disk of a VM),
    HalfWrittenDisk, UnmanagedVDI, VDITaken, VDIMarked, VolumeInUse (a LUN on which an SR lies), VolumeExists,
    VolumeNotReady, InvalidSetting, XapiError.
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
        if is_lun_per_vdi(sr_rec["type"]):
            check_under_no_sr(vdi, view.find("SR", {"type": TYPES_ON_DEVICES}).values())
        try:
            volume, backend = context.database.write(
                _adopt, volume_id, vdi, sr_rec, name=name, marked_as=marked_as
            )
        except IntegrityError:  # another service has just written a row with this id or this VDI
            continue
        if volume.state == "available":
            return volume
        managed = creation.finish(context, view, Made(volume, backend, VDIRef(vdi_ref)))
        if managed is not None:
            return managed
    raise Overtaken(volume_id)


def _adopt(
    connection: sa.Connection,
    volume_id: str,
    vdi: Record,
    sr_rec: Record,
    *,
    name: str,
    marked_as: str | None,
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
    if (marked := _other_volume(connection, volume_id, vdi)) not in (None, marked_as):
        raise VDIMarked(vdi_uuid, volume_id=str(marked))
    if backend.type.luns:
        same_storage.check_under_none(connection, vdi_uuid)
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


def _other_volume(connection: sa.Connection, volume_id: str, vdi: Record) -> str | None:
    """Return the other volume that the VDI is marked as; None if that is another VDI, whose copy inherited the mark."""
    marked: str | None = vdi["other_config"].get(MANAGED)
    if marked is None or marked == volume_id:
        return None
    there = volume_rows.find(connection, marked)
    is_another = there is not None and there.vdi_uuid not in (None, vdi["uuid"])
    return None if is_another else marked


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
