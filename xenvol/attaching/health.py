"""Find the volumes that a VM could not start with. Changes nothing: no SR is scanned, no VDI introduced."""

from __future__ import annotations

from dataclasses import dataclass

from xenvol import storage
from xenvol.attaching.listing import read_volumes
from xenvol.attaching.mountpoint import shown_name
from xenvol.attaching.vm import VM
from xenvol.errors import (
    UnsupportedSRType,
    XapiError,
)
from xenvol.pool.marks import VOLUME
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef
from xenvol.storage.lun_listing import has_numbers
from xenvol.storage.users import held_as, is_marked


@dataclass(frozen=True, slots=True)
class BadVolume:
    """A volume that the VM could not start with."""

    volume_id: str
    mountpoint: str
    """``/dev/xvdb``."""
    reason: str


def find_bad_volumes(view: View, vm: VM) -> list[BadVolume]:
    """Return the volumes whose disk is gone, whose SR is plugged on no host of the VM, or that the storage lacks.

    No SR is scanned, since a scan drops records. The VM's host lists the LUNs that it sees now. Of a disk that is a
    file, only its SR is checked: a missing file shows when the VM starts.
    """
    bad = []
    vbds = read_volumes(view, vm)
    vdis = view.known_of("VDI", [vbd["VDI"] for vbd in vbds.values()])
    sr_refs = {SRRef(vdi["SR"]) for vdi in vdis.values()}
    view.read({"PBD": [pbd for ref in sr_refs for pbd in view.record("SR", ref)["PBDs"]]})
    problems = {ref: _problem_of_sr(view, vm, ref) for ref in sr_refs}
    for vbd in vbds.values():
        vdi = vdis.get(vbd["VDI"])
        reason: str | None = "its disk is gone from the pool"
        if vdi is not None:
            reason = problems[vdi["SR"]] or _problem_of_lun(view, vm, vdi)
        if reason is not None:
            mountpoint = f"/dev/{vbd['device'] or shown_name(vbd['userdevice'])}"
            bad.append(BadVolume(_volume_of(vbd, vdi), mountpoint, reason))
    return bad


def _volume_of(vbd: Record, vdi: Record | None) -> str:
    """Return the volume's id: from the VBD's marks, else from the marks of a disk that was connected without a VM."""
    if is_marked(vbd) or vdi is None:
        return str(vbd["other_config"].get(VOLUME, ""))
    return held_as(vdi).get(VOLUME) or str(vdi["uuid"])


def _problem_of_sr(view: View, vm: VM, sr_ref: SRRef) -> str | None:
    sr = view.record("SR", sr_ref)
    pbds = view.known_of("PBD", sr["PBDs"]).values()
    hosts = {pbd["host"] for pbd in pbds if pbd["currently_attached"]}
    if not hosts or (vm.resident_on is not None and vm.resident_on not in hosts):
        return f"SR {sr['name_label']} is not plugged on {'the host of the VM' if hosts else 'any host'}"
    if storage.is_lun_per_vdi(sr["type"]):
        return None
    try:
        view.call("SR.update", sr_ref)  # reads the free space, and drops no record as a scan would
    except XapiError as error:
        return str(error)
    return None


def _problem_of_lun(view: View, vm: VM, vdi: Record) -> str | None:
    """Return why the VM's host (the master for a VM that is halted) does not see the LUN, or None.

    Compares SCSI ids, since each host may have another number for the LUN.
    """
    sm_config, sr_ref = vdi["sm_config"], SRRef(vdi["SR"])
    if not has_numbers(view, sr_ref) or "SCSIid" not in sm_config:
        return None
    number = sm_config.get("LUNid")
    try:
        seen = storage.seen_luns(view, sr_ref, [vm.resident_on or view.master])
    except UnsupportedSRType:
        return None  # the pool lacks the driver that lists LUNs
    except XapiError as error:
        return f"the storage does not show LUN {number}: {error}"
    for luns in seen.values():
        if sm_config["SCSIid"] not in luns.values():
            now = next((f"SCSI id {scsi_id}" for n, scsi_id in luns.items() if str(n) == number), "nothing")
            return f"the storage does not show LUN {number} with SCSI id {sm_config['SCSIid']}, but {now}"
    return None
