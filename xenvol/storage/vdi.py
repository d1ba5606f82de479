"""Find a disk of an SR, describe it, drop its record."""

from __future__ import annotations

from xenvol.pool.changes import call_and_confirm, is_no_more
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import SRRef, VDIRef


def vdis_of(view: View, sr_ref: SRRef) -> dict[VDIRef, Record]:
    """Return all disks of an SR; one call."""
    return {VDIRef(ref): vdi for ref, vdi in view.find("VDI", {"SR": sr_ref}).items()}


def known_vdis(view: View, sr_ref: SRRef) -> dict[VDIRef, Record]:
    """Return the disks of the SR that this operation has read; no call."""
    found = view.remembered("VDI")
    return {VDIRef(ref): vdi for ref, vdi in found.items() if vdi["SR"] == sr_ref}


def find_vdi(view: View, vdi_uuid: str) -> tuple[VDIRef, Record] | None:
    """Return the disk with this uuid, in any SR, or None; one call."""
    return next(((VDIRef(ref), vdi) for ref, vdi in view.find("VDI", {"uuid": vdi_uuid}).items()), None)


def forget_vdi(view: View, vdi_ref: VDIRef) -> None:
    """Drop the record of a disk without VBDs; its data stays. Idempotent."""
    with gone_is_fine("VDI"):
        call_and_confirm(view, ("VDI.forget", vdi_ref), is_done=lambda: is_no_more(view, "VDI", vdi_ref))


def describe(vdi_rec: Record) -> str:
    """Return a text about a disk for messages: its LUN number, SCSI id, uuid and size."""
    sm_config = vdi_rec["sm_config"]
    known_by = [f"{key} {sm_config[key]}" for key in ("LUNid", "SCSIid") if key in sm_config]
    return ", ".join([*known_by, f"VDI {vdi_rec['uuid']}", f"{vdi_rec['virtual_size']} bytes"])
