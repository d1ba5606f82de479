"""A VM's disks, and which of them is the volume: told by what its VBD says of itself, never by where it sits."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from xenvol import mountpoint
from xenvol.connection_info import ENVELOPE_KEYS, ConnectionInfo
from xenvol.errors import AttachmentFenced, InvalidMountpoint
from xenvol.refs import VBDRef
from xenvol.undo import Undo
from xenvol.vbd import ATTACHMENT, DRIVER, VOLUME, destroy_vbd, unplug_vbd, volumes_of
from xenvol.view import Record, View
from xenvol.vm import VM, check_gives_disk_back


def read_disks(view: View, vm: VM) -> dict[VBDRef, Record]:
    """The VM's VBDs; with them, in the same call, what else an attach looks at before it changes anything."""
    view.read(
        {"VBD": vm.vbd_refs, "VM_guest_metrics": [vm.guest_metrics_ref]},
        whole=["SM", "pool"] if vm.resident_on is not None else ["SM", "pool", "host"],
    )
    return {VBDRef(ref): vbd for ref in vm.vbd_refs if (vbd := view.known("VBD", ref)) is not None}


def find_volume(disks: Mapping[Any, Record], info: ConnectionInfo, wish: str | int | None) -> VBDRef | None:
    """The VBD of this volume. Raises InvalidMountpoint when it is at another position than the one named."""
    wanted = mountpoint.userdevice_of(wish)
    for vbd_ref, vbd in volumes_of(disks).items():
        if vbd["other_config"][VOLUME] == _volume_id(info):
            if wanted not in (None, vbd["userdevice"]):
                where = mountpoint.name_of(vbd["userdevice"])
                raise InvalidMountpoint(
                    wish, problem=f"is not where the volume is attached, which is {where}"
                )
            return vbd_ref
    return None


def marks(info: ConnectionInfo) -> dict[str, str]:
    """What a VBD of this volume says of itself, in its other_config; each attachment has an id of its own."""
    attachment_id = info.attachment_id or str(uuid.uuid4())
    return {VOLUME: _volume_id(info), ATTACHMENT: attachment_id, DRIVER: info.driver_volume_type}


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


def _volume_id(info: ConnectionInfo) -> str:
    """The service's id of the volume, or a digest of the data where it gives none."""
    if info.volume_id is not None:
        return info.volume_id
    told = sorted((key, value) for key, value in info.data.items() if key not in ENVELOPE_KEYS)
    return f"data-{uuid.uuid5(uuid.NAMESPACE_URL, repr(told))}"
