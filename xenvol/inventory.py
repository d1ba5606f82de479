"""What is attached to a VM, whether the VM could start with it, and who else uses a disk: only reading, but for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from xenvol import storage
from xenvol.attachment import Attachment
from xenvol.connection_info import ConnectionInfo
from xenvol.errors import (
    AttachedMeanwhile,
    UnmanagedVDI,
    UnsupportedSRType,
    VolumeInUse,
    XapiError,
)
from xenvol.marks import ATTACHMENT, CONNECTED, DRIVER, JOINED, SR, VOLUME
from xenvol.mountpoint import name_of
from xenvol.refs import SRRef, VBDRef, VDIRef
from xenvol.undo import Undo
from xenvol.use import held_as, in_words, is_held, is_marked, is_plugged
from xenvol.verbs import change
from xenvol.view import Record, View, gone_is_fine
from xenvol.vm import VM


@dataclass(frozen=True, slots=True)
class BadVolume:
    """A volume that the VM could not start with."""

    volume_id: str
    mountpoint: str
    """``/dev/xvdb``."""
    reason: str


def list_volumes(view: View, vm: VM) -> list[Attachment]:
    """The volumes that xenvol attached, by position; a VBD whose disk is gone is left out (see `find_bad_volumes`)."""
    return attachments(view, vm, read_volumes(view, vm))


def attachments(view: View, vm: VM, vbds: Mapping[VBDRef, Record]) -> list[Attachment]:
    """Those of the VBDs that have a disk, from what `read_volumes` has read along."""
    with_disk = [ref for ref, vbd in vbds.items() if view.known("VDI", vbd["VDI"]) is not None]
    return [attachment(view, vm, ref) for ref in with_disk]


def attachment(view: View, vm: VM, vbd_ref: VBDRef) -> Attachment:
    """One disk in a VM, from records that have been read; what has not is read now."""
    vbd = view.record("VBD", vbd_ref)
    vdi = view.record("VDI", vbd["VDI"])
    told: Mapping[str, str] = vbd["other_config"] if is_marked(vbd) else held_as(vdi)
    return Attachment(
        attachment_id=told.get(ATTACHMENT) or vbd["uuid"],
        volume_id=told.get(VOLUME) or vdi["uuid"],
        driver=told.get(DRIVER, ""),
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


def find_bad_volumes(view: View, vm: VM) -> list[BadVolume]:
    """Those whose disk is gone, whose SR is plugged on no host that the VM can run on, or whose storage has it not.

    The storage is asked without a scan, which would drop records, and without an introduce, which would add some: of
    LUNs the VM's host lists what it sees now; of files only whether their SR answers, so a single file that is gone
    shows when the VM starts.
    """
    bad = []
    vbds = read_volumes(view, vm)
    vdis = {vbd["VDI"]: vdi for vbd in vbds.values() if (vdi := view.known("VDI", vbd["VDI"])) is not None}
    sr_refs = {SRRef(vdi["SR"]) for vdi in vdis.values()}
    view.read({"PBD": [pbd for ref in sr_refs for pbd in view.record("SR", ref)["PBDs"]]})
    problems = {ref: _problem_of_sr(view, vm, ref) for ref in sr_refs}
    for vbd in vbds.values():
        vdi = vdis.get(vbd["VDI"])
        reason: str | None = "its disk is gone from the pool"
        if vdi is not None:
            reason = problems[vdi["SR"]] or _problem_of_lun(view, vm, vdi)
        if reason is not None:
            mountpoint = f"/dev/{vbd['device'] or name_of(vbd['userdevice'])}"
            bad.append(BadVolume(_volume_of(vbd, vdi), mountpoint, reason))
    return bad


def read_volumes(view: View, vm: VM) -> dict[VBDRef, Record]:
    """The VM's VBDs of volumes by position, their VDIs and SRs read along: three calls, however many there are.

    A volume's VBD has our marks, or shows a disk that was connected without a VM: its caller made the VBD.
    """
    found = {
        VBDRef(ref): vbd for ref, vbd in view.find("VBD", {"VM": vm.ref}).items() if vbd["type"] == "Disk"
    }
    view.read({"VDI": {vbd["VDI"] for vbd in found.values()}})
    vbds = {}
    for vbd_ref, vbd in sorted(found.items(), key=lambda item: int(item[1]["userdevice"])):
        vdi = view.known("VDI", vbd["VDI"])
        if is_marked(vbd) or (vdi is not None and is_held(vdi)):
            vbds[vbd_ref] = vbd
    vdis = [vdi for vbd in vbds.values() if (vdi := view.known("VDI", vbd["VDI"])) is not None]
    view.read({"SR": {vdi["SR"] for vdi in vdis}})
    return vbds


def _volume_of(vbd: Record, vdi: Record | None) -> str:
    """What the volume is called: by the VBD's marks, else by the disk, which was connected without a VM."""
    if is_marked(vbd) or vdi is None:
        return str(vbd["other_config"].get(VOLUME, ""))
    return held_as(vdi).get(VOLUME) or str(vdi["uuid"])


def _problem_of_sr(view: View, vm: VM, sr_ref: SRRef) -> str | None:
    sr = view.record("SR", sr_ref)
    pbds = [pbd for ref in sr["PBDs"] if (pbd := view.known("PBD", ref)) is not None]
    hosts = {pbd["host"] for pbd in pbds if pbd["currently_attached"]}
    if not hosts or (vm.resident_on is not None and vm.resident_on not in hosts):
        return f"SR {sr['name_label']} is not plugged on {'the host of the VM' if hosts else 'any host'}"
    if storage.is_lun_per_vdi(sr["type"]):
        return None
    try:
        view.call("SR.update", sr_ref)  # the free space anew: it drops no record, as a scan would
    except XapiError as error:
        return str(error)
    return None


def _problem_of_lun(view: View, vm: VM, vdi: Record) -> str | None:
    """What the VM's host (the master, where it runs nowhere) sees in the place of the LUN, if not the LUN.

    Its number may be another one on that host: the disk is known by its SCSI id.
    """
    sm_config, sr_ref = vdi["sm_config"], SRRef(vdi["SR"])
    if view.record("SR", sr_ref)["type"] != "iscsi" or "SCSIid" not in sm_config:
        return None
    number = sm_config.get("LUNid")
    try:
        seen = storage.seen_luns(view, sr_ref, [vm.resident_on or view.master])
    except UnsupportedSRType:
        return None  # no host can list its LUNs
    except XapiError as error:
        return f"the storage does not show LUN {number}: {error}"
    for luns in seen.values():
        if sm_config["SCSIid"] not in luns.values():
            now = next((f"SCSI id {scsi_id}" for n, scsi_id in luns.items() if str(n) == number), "nothing")
            return f"the storage does not show LUN {number} with SCSI id {sm_config['SCSIid']}, but {now}"
    return None


def check_not_in_use(view: View, vdi_ref: VDIRef, info: ConnectionInfo, *, vm: VM, mode: str) -> None:
    """Raise VolumeInUse where another VM's use of the disk excludes ours, and UnmanagedVDI where xapi would.

    xapi lets a disk be plugged twice when all read only, or when it is sharable; only plugged disks count there.
    Raises AttachedMeanwhile where it is another attempt to attach it to the same VM.
    """
    vdi = view.record("VDI", vdi_ref)
    if not vdi["managed"]:
        raise UnmanagedVDI(vdi["uuid"])
    if not vdi["VBDs"] or (info.multiattach and vdi["sharable"]):
        return
    users = [vbd for vbd in view.find("VBD", {"VDI": vdi_ref}).values() if vbd["currently_attached"]]
    if any(vbd["VM"] == vm.ref and is_marked(vbd) for vbd in users):
        raise AttachedMeanwhile(str(vm))
    if users and (mode == "RW" or any(vbd["mode"] == "RW" for vbd in users)):
        raise VolumeInUse(vdi["uuid"], users=in_words(view, users), can_share=not info.multiattach)


def hold(view: View, undo: Undo, vdi_ref: VDIRef, vdi: Record, info: ConnectionInfo) -> None:
    """Say on the disk that it is in use although it has no VBD, and as which volume, so that others spare it.

    Idempotent, also where another attempt to connect it is faster.
    """
    if is_held(vdi):
        return
    # a copy has inherited them from the disk that it was made of
    for mark in {CONNECTED, JOINED} & set(vdi["other_config"]):
        view.call("VDI.remove_from_other_config", vdi_ref, mark)
    if vdi["SR"] in view.joined:
        _mark(view, undo, vdi_ref, JOINED, "")
    _mark(view, undo, vdi_ref, CONNECTED, f"{vdi['uuid']} {info.driver_volume_type} {info.volume_id or ''}")


def _mark(view: View, undo: Undo, vdi_ref: VDIRef, mark: str, text: str) -> None:
    def unmark() -> None:
        with gone_is_fine("VDI"):
            view.call("VDI.remove_from_other_config", vdi_ref, mark)

    try:
        change(
            view,
            undo,
            f"marked VDI {vdi_ref} as {mark}",
            ("VDI.add_to_other_config", vdi_ref, mark, text),
            look=lambda: mark in view.call("VDI.get_other_config", vdi_ref),
            inverse=unmark,
        )
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise


def _is_same(one: Record, other: Record) -> bool:
    return bool(one["uuid"] == other["uuid"])


def release_disk(view: View, vbd: Record) -> None:
    """Release what showed the disk of a VBD that is out of its VM, also where the disk's record is gone."""
    vdi = view.known("VDI", vbd["VDI"])
    if vdi is None:
        if is_marked(vbd) and SR in vbd["other_config"]:
            storage.release_sr(view, SRRef(vbd["other_config"][SR]))
        return
    sr_ref = SRRef(vdi["SR"])
    sr = view.record("SR", sr_ref)
    is_released = storage.release_sr(view, sr_ref, of=partial(_is_same, vdi))
    if not is_released and storage.is_lun_per_vdi(sr["type"]) and "LUNid" in vdi["sm_config"]:
        storage.forget_lun(view, sr_ref, int(vdi["sm_config"]["LUNid"]))


def release_vdi(view: View, vdi_ref: VDIRef) -> None:
    """Release what showed a disk, unless somebody uses it. Does nothing for a disk that is gone."""
    with gone_is_fine("VDI"):
        vdi = view.record("VDI", vdi_ref)
        storage.release_sr(view, SRRef(vdi["SR"]), of=partial(_is_same, vdi))
