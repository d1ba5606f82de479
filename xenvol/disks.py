"""A VM's disks, and which of them is the volume: told by what its VBD says of itself, never by where it sits."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from xenvol import mountpoint
from xenvol.connection_info import ConnectionInfo
from xenvol.errors import AttachedMeanwhile, AttachmentFenced, InvalidMountpoint, WrongVolume
from xenvol.marks import ATTACHMENT, DISK, DRIVER, SR, VOLUME
from xenvol.refs import VBDRef
from xenvol.undo import Undo
from xenvol.vbd import destroy_vbd, discard_vbd, unplug_vbd, volumes_of
from xenvol.view import Record, View
from xenvol.vm import VM, check_gives_disk_back


def read_disks(view: View, vm: VM) -> dict[VBDRef, Record]:
    """The VM's VBDs; with them, in the same call, what else an attach looks at before it changes anything."""
    view.read(
        {"VBD": vm.vbd_refs, "VM_guest_metrics": [vm.guest_metrics_ref]},
        whole=["SM", "pool"]
        if vm.resident_on is not None and not vm.is_protected
        else ["SM", "pool", "host"],
    )
    return {VBDRef(ref): vbd for ref in vm.vbd_refs if (vbd := view.known("VBD", ref)) is not None}


def find_volume(
    disks: Mapping[Any, Record], info: ConnectionInfo, key: str, wish: str | int | None
) -> VBDRef | None:
    """The VBD of this volume: by the service's id, or by where its disk lies (`key`) when either side has no id.

    Raises InvalidMountpoint when it is at another position than the one named.
    """
    wanted = mountpoint.userdevice_of(wish)
    for vbd_ref, vbd in volumes_of(disks).items():
        if _is_of(vbd["other_config"], info.volume_id, key):
            if wanted not in (None, vbd["userdevice"]):
                where = mountpoint.name_of(vbd["userdevice"])
                raise InvalidMountpoint(
                    wish, problem=f"is not where the volume is attached, which is {where}"
                )
            return vbd_ref
    return None


def _is_of(other_config: Mapping[str, str], volume_id: str | None, key: str) -> bool:
    if volume_id is not None and other_config[VOLUME] == volume_id:
        return True
    has_no_id = volume_id is None or other_config[VOLUME] == other_config.get(DISK)
    return has_no_id and other_config.get(DISK) == key


def marks(info: ConnectionInfo, key: str, sr_ref: str) -> dict[str, str]:
    """What a VBD of this volume says of itself, in its other_config; each attachment has an id of its own."""
    return {
        VOLUME: info.volume_id or key,
        DISK: key,
        SR: sr_ref,
        ATTACHMENT: info.attachment_id or str(uuid.uuid4()),
        DRIVER: info.driver_volume_type,
    }


def check_same_place(vbd: Record, key: str) -> None:
    """Raise WrongVolume where the disk in the slot lies elsewhere than the volume now does: it has moved."""
    its_key = vbd["other_config"].get(DISK, key)
    if its_key != key:
        raise WrongVolume(
            f"the volume at {key}", found=f"in its slot on the VM a disk at {its_key}: detach it first"
        )


def take_over(view: View, vbd_ref: VBDRef, vbd: Record, info: ConnectionInfo) -> None:
    """Give the attachment the id that the service has for it now: a detach that names the old one is then late."""
    if info.attachment_id is None or info.attachment_id == vbd["other_config"].get(ATTACHMENT):
        return
    view.call("VBD.remove_from_other_config", vbd_ref, ATTACHMENT)
    view.call("VBD.add_to_other_config", vbd_ref, ATTACHMENT, info.attachment_id)


def discard_if_second(view: View, vm: VM, vbd_ref: VBDRef) -> None:
    """Of two attempts that put one volume into one VM at once, the later one gives way, and looks again.

    The other may have returned already. Raises AttachedMeanwhile, our slot being empty again.
    """
    vbd = view.record("VBD", vbd_ref)
    others = [ref for ref in view.record("VDI", vbd["VDI"])["VBDs"] if ref != vbd_ref]
    if not others:
        return
    view.read({"VBD": others})
    for ref in others:
        other = view.known("VBD", ref)
        if other is None or other["VM"] != vm.ref:
            continue
        if other["other_config"].get(VOLUME) == vbd["other_config"][VOLUME]:
            discard_vbd(view, vbd_ref)
            raise AttachedMeanwhile(str(vm))


def check_fence(vbd: Record, attachment_id: str | None) -> None:
    """Raise AttachmentFenced unless this is the attachment that is meant; None means whichever is in place."""
    current = vbd["other_config"].get(ATTACHMENT)
    if attachment_id is not None and attachment_id != current:
        raise AttachmentFenced(attachment_id, current=current)


def take_out(view: View, vm: VM, vbd_ref: VBDRef, vbd: Record) -> None:
    """Unplug the disk if it is plugged, and empty its slot; a disk that cannot go is plugged again."""
    undo = Undo()
    try:
        if vbd["currently_attached"]:
            device = vbd["device"] or mountpoint.name_of(vbd["userdevice"])
            check_gives_disk_back(vm, device)
            unplug_vbd(view, undo, vbd_ref, device=device, vm=vm)
        destroy_vbd(view, vbd_ref)
    except BaseException as error:
        undo.unwind(error)
        raise
