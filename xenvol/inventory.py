"""What is attached to a VM, whether the VM could start with it, and who else uses a disk: only reading, but for one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from xenvol import storage
from xenvol.attachment import Attachment
from xenvol.connection_info import ConnectionInfo
from xenvol.errors import UnmanagedVDI, VolumeInUse, XapiError, XenVolError
from xenvol.mountpoint import name_of
from xenvol.refs import SRRef, VBDRef, VDIRef
from xenvol.vbd import ATTACHMENT, DRIVER, VOLUME, volumes_of
from xenvol.view import Record, View, is_gone
from xenvol.vm import VM

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BadVolume:
    """A volume that the VM could not start with."""

    volume_id: str
    mountpoint: str
    """``/dev/xvdb``."""
    reason: str


def list_volumes(view: View, vm: VM) -> list[Attachment]:
    """The volumes that xenvol attached, by position; a VBD whose disk is gone is left out (see `find_bad_volumes`)."""
    vbds = _read_volumes(view, vm)
    return [
        attachment(view, vm, ref) for ref, vbd in vbds.items() if view.known("VDI", vbd["VDI"]) is not None
    ]


def attachment(view: View, vm: VM, vbd_ref: VBDRef) -> Attachment:
    """One disk in a VM, from records that have been read; what has not is read now."""
    vbd = view.record("VBD", vbd_ref)
    vdi = view.record("VDI", vbd["VDI"])
    return Attachment(
        attachment_id=vbd["other_config"][ATTACHMENT],
        volume_id=vbd["other_config"][VOLUME],
        driver=vbd["other_config"][DRIVER],
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
        is_plugged=vbd["currently_attached"],
    )


def find_bad_volumes(view: View, vm: VM) -> list[BadVolume]:
    """Those whose disk is gone, or whose SR is plugged on no host that the VM can run on, or cannot be read.

    Whether the storage answers is found out by a scan, and so only where no disk of the SR is plugged: a scan
    under a plugged disk can lose it (facts/sm-truth.md finding 8). A scan drops the record of a disk that the
    storage has no more; xapi then takes the disk from the VM by itself, within half a minute.
    """
    bad = []
    reason: str | None
    vbds = _read_volumes(view, vm)
    vdis = {vbd["VDI"]: vdi for vbd in vbds.values() if (vdi := view.known("VDI", vbd["VDI"])) is not None}
    sr_refs = {vdi["SR"] for vdi in vdis.values()}
    view.read({"PBD": [pbd for ref in sr_refs for pbd in view.record("SR", ref)["PBDs"]]})
    reasons = {ref: _why_unusable(view, vm, SRRef(ref)) for ref in sr_refs}
    view.read({"VDI": vdis})  # again, after the scans
    for vbd in vbds.values():
        if vbd["VDI"] not in vdis:
            reason = "its disk is gone from the pool"
        elif view.known("VDI", vbd["VDI"]) is None:
            reason = "its disk is gone from the storage"
        else:
            reason = reasons[vdis[vbd["VDI"]]["SR"]]
        if reason is not None:
            mountpoint = f"/dev/{vbd['device'] or name_of(vbd['userdevice'])}"
            bad.append(BadVolume(vbd["other_config"][VOLUME], mountpoint, reason))
    return bad


def _read_volumes(view: View, vm: VM) -> dict[VBDRef, Record]:
    """xenvol's VBDs in the VM by position, their VDIs and SRs read along: three calls, however many there are."""
    found = volumes_of(view.find("VBD", {"VM": vm.ref}))
    vbds = dict(sorted(found.items(), key=lambda item: int(item[1]["userdevice"])))
    view.read({"VDI": {vbd["VDI"] for vbd in vbds.values()}})
    vdis = [vdi for vbd in vbds.values() if (vdi := view.known("VDI", vbd["VDI"])) is not None]
    view.read({"SR": {vdi["SR"] for vdi in vdis}})
    return vbds


def _why_unusable(view: View, vm: VM, sr_ref: SRRef) -> str | None:
    sr = view.record("SR", sr_ref)
    pbds = [pbd for ref in sr["PBDs"] if (pbd := view.known("PBD", ref)) is not None]
    hosts = {pbd["host"] for pbd in pbds if pbd["currently_attached"]}
    if not hosts or (vm.resident_on is not None and vm.resident_on not in hosts):
        return f"SR {sr['name_label']} is not plugged on {'the host of the VM' if hosts else 'any host'}"
    vbd_refs = [vbd for vdi in view.find("VDI", {"SR": sr_ref}).values() for vbd in vdi["VBDs"]]
    view.read({"VBD": vbd_refs})
    if any(vbd["currently_attached"] for ref in vbd_refs if (vbd := view.known("VBD", ref)) is not None):
        return None
    try:
        view.call("SR.scan", sr_ref)
    except XapiError as error:
        return str(error)
    return None


def check_not_in_use(view: View, vdi_ref: VDIRef, info: ConnectionInfo, *, mode: str) -> None:
    """Raise VolumeInUse where another VM's use of the disk excludes ours, and UnmanagedVDI where xapi would.

    xapi lets a disk be plugged twice when all read only, or when it is sharable; only plugged disks count there.
    """
    vdi = view.record("VDI", vdi_ref)
    if not vdi["managed"]:
        raise UnmanagedVDI(vdi["uuid"])
    if not vdi["VBDs"] or (info.multiattach and vdi["sharable"]):
        return
    users = [vbd for vbd in view.find("VBD", {"VDI": vdi_ref}).values() if vbd["currently_attached"]]
    if users and (mode == "RW" or any(vbd["mode"] == "RW" for vbd in users)):
        view.read({"VM": {vbd["VM"] for vbd in users}})
        names = [f"{view.record('VM', vbd['VM'])['name_label']} ({vbd['device']})" for vbd in users]
        raise VolumeInUse(vdi["uuid"], users=names)


def safe_cleanup_from_vdis(view: View, vdi_refs: Iterable[VDIRef]) -> None:
    """Release what showed these disks, as far as nobody uses it; one that fails is logged and the others are tried."""
    for vdi_ref in vdi_refs:
        try:
            storage.release_sr(view, SRRef(view.call("VDI.get_SR", vdi_ref)))
        except XenVolError as error:
            if not (isinstance(error, XapiError) and is_gone(error, "VDI")):
                log.warning("VDI %s: what shows it could not be released: %s", vdi_ref, error)
