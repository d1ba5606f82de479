"""A disk that is there already becomes a volume, and a volume a disk that is nobody's; its data is not touched."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import UnmanagedVDI, VolumeNotFound
from xenvol.marks import MANAGED
from xenvol.refs import VDIRef
from xenvol.sm import backend_rows, capacity, placement, vdis, volume_rows, volumes
from xenvol.sm.context import Context
from xenvol.sm.errors import NotSupported, VDITaken, VolumeExists
from xenvol.sm.records import Backend, Volume
from xenvol.view import gone_is_fine


def manage(context: Context, volume_id: str, vdi_uuid: str, *, name: str = "") -> Volume:
    """Make a VDI in a backend's SR a volume. The only way to a volume where VDIs are LUNs. Idempotent.

    Raises VolumeNotFound (no such VDI), NotSupported (its SR is no backend, or it is no disk of a VM's), UnmanagedVDI,
    VDITaken, VolumeExists, XapiError.
    """
    vdi_uuid = vdi_uuid.lower()
    view = context.view()
    found = view.find("VDI", {"uuid": vdi_uuid})
    if not found:
        raise VolumeNotFound(f"VDI {vdi_uuid}")
    ((vdi_ref, vdi),) = found.items()
    if not vdi["managed"]:
        raise UnmanagedVDI(vdi_uuid)
    if vdi["type"] not in ("user", "system", "ephemeral"):
        raise NotSupported(
            f"managing VDI {vdi_uuid}", reason=f"it is of type {vdi['type']}, no disk of a VM's"
        )
    sr_rec = view.record("SR", vdi["SR"])
    size = int(vdi["virtual_size"])

    def adopt(connection: sa.Connection) -> tuple[Volume, Backend]:
        backend = backend_rows.find(connection, sr_uuid=sr_rec["uuid"], lock=True)
        if backend is None:
            reason = f"its SR {sr_rec['name_label']} ({sr_rec['uuid']}) is no backend: register it first"
            raise NotSupported(f"managing VDI {vdi_uuid}", reason=reason)
        taken = volume_rows.by_vdi(connection, vdi_uuid)
        if taken is not None and taken.id != volume_id:
            raise VDITaken(vdi_uuid, volume_id=taken.id)
        there = taken or volume_rows.find(connection, volume_id)
        if there is not None:
            if there.vdi_uuid != vdi_uuid:
                raise VolumeExists(volume_id, difference=f"is VDI {there.vdi_uuid}")
            return there, backend
        adopted = volume_rows.add(
            connection,
            volume_id,
            backend_id=backend.id,
            size=size,
            cost=placement.cost(backend, size),
            name=name,
            state="available",
            vdi_uuid=vdi_uuid,
            virtual_size=size,
        )
        return adopted, backend

    try:
        volume, backend = context.database.write(adopt)
    except IntegrityError:  # another service has just told one of the two something else: look again
        volume, backend = context.database.write(adopt)
    view.remember("VDI", vdi_ref, vdi)
    vdis.settle_vdi(view, VDIRef(vdi_ref), volume)
    capacity.note(context, backend, sr_rec)
    return volume


def unmanage(context: Context, volume_id: str) -> None:
    """Let go of a volume; its VDI stays, with its data. Raises UnknownVolume, VolumeNotReady, NotSupported."""
    volume, _ = volumes.get_with_backend(context, volume_id)
    if context.database.read(volume_rows.list_of, snapshot_of=volume_id, limit=1):
        raise NotSupported(
            f"unmanaging {volume_id}", reason="it has snapshots: unmanage or delete them first"
        )
    context.database.write(volume_rows.release, volume)
    view = context.view()
    for vdi_ref in view.find("VDI", {"uuid": volume.vdi_uuid or ""}):
        with gone_is_fine("VDI"):
            view.call("VDI.remove_from_other_config", vdi_ref, MANAGED)
