"""Read which volumes a VM has, and describe each as an `Attachment`. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

from xenvol.attaching.attachment import Attachment
from xenvol.attaching.mountpoint import order_of
from xenvol.attaching.vm import VM
from xenvol.pool.marks import ATTACHMENT, DRIVER, VOLUME
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VBDRef, VDIRef
from xenvol.storage.users import held_as, is_held, is_marked, is_plugged


def list_volumes(view: View, vm: VM) -> list[Attachment]:
    """Return the volumes that xenvol attached, by position, without those whose disk is gone (`find_bad_volumes`)."""
    return attachments(view, vm, read_volumes(view, vm))


def attachments(view: View, vm: VM, vbds: Mapping[VBDRef, Record]) -> list[Attachment]:
    """Return the attachments of the VBDs whose disk exists, from the records that `read_volumes` has read."""
    with_disk = [ref for ref, vbd in vbds.items() if view.known("VDI", vbd["VDI"]) is not None]
    return [attachment(view, vm, ref) for ref in with_disk]


def attachment(view: View, vm: VM, vbd_ref: VBDRef) -> Attachment:
    """Return the attachment of one VBD. Reads only the records that the view does not have."""
    vbd = view.record("VBD", vbd_ref)
    vdi = view.record("VDI", vbd["VDI"])
    marks: Mapping[str, str] = vbd["other_config"] if is_marked(vbd) else held_as(vdi)
    return Attachment(
        attachment_id=marks.get(ATTACHMENT) or vbd["uuid"],
        volume_id=marks.get(VOLUME) or vdi["uuid"],
        driver=marks.get(DRIVER, ""),
        vm_ref=vm.ref,
        vm_uuid=vm.uuid,
        vbd_ref=vbd_ref,
        vbd_uuid=vbd["uuid"],
        vdi_ref=VDIRef(vbd["VDI"]),
        vdi_uuid=vdi["uuid"],
        virtual_size=int(vdi["virtual_size"]),
        sr_ref=SRRef(vdi["SR"]),
        sr_uuid=view.record("SR", vdi["SR"])["uuid"],
        userdevice=vbd["userdevice"],
        device=vbd["device"],
        mode=vbd["mode"],
        is_plugged=is_plugged(vbd),
    )


def read_volumes(view: View, vm: VM) -> dict[VBDRef, Record]:
    """Return the VBDs of the VM's volumes by position, and read their VDIs and SRs. Always three calls.

    The VBD of a volume has xenvol's marks, or it shows a disk that was connected without a VM and the caller made it.
    """
    found = {
        VBDRef(ref): vbd for ref, vbd in view.find("VBD", {"VM": vm.ref}).items() if vbd["type"] == "Disk"
    }
    view.read({"VDI": {vbd["VDI"] for vbd in found.values()}})
    vbds = {}
    for vbd_ref, vbd in sorted(found.items(), key=lambda item: order_of(item[1]["userdevice"])):
        vdi = view.known("VDI", vbd["VDI"])
        if is_marked(vbd) or (vdi is not None and is_held(vdi)):
            vbds[vbd_ref] = vbd
    vdis = view.known_of("VDI", [vbd["VDI"] for vbd in vbds.values()])
    view.read({"SR": {vdi["SR"] for vdi in vdis.values()}})
    return vbds
