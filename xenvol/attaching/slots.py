"""A VM's disks, and which of them is the volume: found by the marks of its VBD, proved by the disk that this shows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from xenvol import storage
from xenvol.attaching import mountpoint
from xenvol.attaching.vbd import (
    VBDSpec,
    create_vbd,
    destroy_vbd,
    discard_vbd,
    plug_unless_plugged,
    plug_vbd,
    settle_vbd,
    taken_by,
    unplug_vbd,
    volumes_of,
)
from xenvol.attaching.vm import VM, check_gives_disk_back
from xenvol.connection_data.connection_info import ConnectionInfo
from xenvol.connection_data.identity import Identity
from xenvol.errors import (
    AttachedMeanwhile,
    AttachmentFenced,
    InvalidMountpoint,
    MountpointInUse,
    VolumeInUse,
    WrongVolume,
    XapiError,
    XenVolError,
)
from xenvol.pool.changes import change
from xenvol.pool.marks import ATTACHMENT, DISK, DRIVER, JOINED, SR, VDI, VOLUME
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.pool.waiting import leave_behind
from xenvol.session.refs import NULL_REF, VBDRef, VDIRef
from xenvol.storage.users import held_as, is_marked, is_moving, vbds_of

T = TypeVar("T")

_UNAVAILABLE: Final = "SR_BACKEND_FAILURE_46"
"""What the storage driver says of a LUN that is gone, and of its neighbours while the host has not noticed."""


def read_disks(view: View, vm: VM) -> dict[VBDRef, Record]:
    """The VM's VBDs; with them, in the same call, what else an attach looks at before it changes anything."""
    view.read_with_drivers(
        {"VBD": vm.vbd_refs, "VM_guest_metrics": [vm.guest_metrics_ref]},
        whole=["pool"] if vm.resident_on is not None and not vm.is_protected else ["pool", "host"],
    )
    return {VBDRef(ref): vbd for ref, vbd in view.known_of("VBD", vm.vbd_refs).items()}


def find_volume(
    disks: Mapping[VBDRef, Record], info: ConnectionInfo, volume: Identity, wish: str | int | None
) -> VBDRef | None:
    """The VBD of this volume by its marks: by the service's id; by where its disk lies when either side has no id.

    Raises InvalidMountpoint when it is at another position than the one named.
    """
    marked = volumes_of(disks)
    by_id = [
        ref for ref, vbd in marked.items() if info.volume_id is not None and _id_of(vbd) == info.volume_id
    ]
    by_place = [
        ref
        for ref, vbd in marked.items()
        if (info.volume_id is None or _id_of(vbd) is None) and volume.is_at(vbd["other_config"].get(DISK, ""))
    ]
    for vbd_ref in [*by_id, *by_place]:
        check_position(marked[vbd_ref], wish)
        return vbd_ref
    return None


def _id_of(vbd: Record) -> str | None:
    """What the service called the volume; None where it gave no id, and the place stands for it."""
    volume_id: str = vbd["other_config"][VOLUME]
    return None if volume_id == vbd["other_config"].get(DISK) else volume_id


def check_position(vbd: Record, wish: str | int | None) -> None:
    """Raise InvalidMountpoint where the disk is at another position than the one named."""
    if mountpoint.userdevice_of(wish) not in (None, mountpoint.position_of(vbd["userdevice"])):
        where = mountpoint.shown_name(vbd["userdevice"])
        raise InvalidMountpoint(wish, problem=f"is not where the volume is attached, which is {where}")


def find_unmarked(
    view: View, slots: Mapping[VBDRef, Record], info: ConnectionInfo, volume: Identity, driver: Any
) -> set[str]:
    """The VDIs of these VBDs that are the volume, whoever made the VBDs and whatever their marks say.

    Proved by uuid, by SCSI id, or by the volume's id where the disk was connected as that; what is left is asked of
    the driver, if it can tell.
    """
    if not slots:
        return set()
    view.read({"VDI": {vbd["VDI"] for vbd in slots.values()}})
    vdis = {VDIRef(vbd["VDI"]): vdi for vbd in slots.values() if (vdi := view.known("VDI", vbd["VDI"]))}
    found, open_ = set(), {}
    for vdi_ref, vdi in vdis.items():
        proof = volume.is_of(vdi["uuid"], vdi["sm_config"].get("SCSIid"))
        is_held_as_this = info.volume_id is not None and held_as(vdi).get(VOLUME) == info.volume_id
        if proof or (proof is None and is_held_as_this):
            found.add(vdi_ref)
        elif proof is None:
            open_[vdi_ref] = vdi
    find = getattr(driver, "find_volume", None)  # one that is no subclass of ours may not have it
    return {*found, *(find(info.data, open_) if find is not None and open_ else ())}


def check_not_marked_as_another(vm: VM, slots: Mapping[VBDRef, Record], vdi_refs: Collection[str]) -> None:
    """Raise WrongVolume where one of these VDIs is in the VM as another volume.

    For data that names one volume and the place of another: the VM has both, and which one is meant nobody can know.
    """
    for vbd in slots.values():
        if vbd["VDI"] in vdi_refs and is_marked(vbd):
            where, name = mountpoint.shown_name(vbd["userdevice"]), vbd["other_config"][VOLUME]
            raise WrongVolume(
                f"the volume of that id, which VM {vm} has elsewhere", found=f"volume {name} at {where}"
            )


def check_in_no_drive(vm: VM, vbds: Iterable[Record]) -> None:
    """Raise VolumeInUse where a CD drive or a floppy drive of the VM shows the disk: the operator put it there."""
    for vbd in vbds:
        if vbd["type"] != "Disk":
            users = [
                f"VM {vm} itself, in its drive {mountpoint.shown_name(vbd['userdevice'])} ({vbd['type']})"
            ]
            raise VolumeInUse(vbd["VDI"], users=users, is_to_go=True)


def marks(view: View, info: ConnectionInfo, volume: Identity, vdi_ref: str) -> dict[str, str]:
    """What a VBD of this volume says of itself, in its other_config; each attachment has an id of its own."""
    sr_ref = view.record("VDI", vdi_ref)["SR"]
    return {
        **({JOINED: ""} if sr_ref in view.joined else {}),
        VOLUME: info.volume_id or volume.key,
        DISK: volume.key,
        SR: sr_ref,
        VDI: vdi_ref,
        ATTACHMENT: info.attachment_id or str(uuid.uuid4()),
        DRIVER: info.driver_volume_type,
    }


def choose_position(
    view: View,
    slots: Mapping[VBDRef, Record],
    there: VBDRef | None,
    wish: str | int | None,
    info: ConnectionInfo,
    volume: Identity,
    driver: Any,
) -> str:
    """The position of the volume: where it is, or the one that is wished for, or the first one free.

    An unmarked VBD at that position that shows this very disk is no obstacle: `find_twin` gives it to the attach.
    Raises MountpointInUse for any other.
    """
    slot = wish if there is None else mountpoint.position_of(slots[there]["userdevice"])
    others = {ref: vbd for ref, vbd in slots.items() if ref != there}
    try:
        return mountpoint.choose(slot, taken_by(others.values()))
    except MountpointInUse:
        position = mountpoint.userdevice_of(slot)
        here = {
            ref: vbd
            for ref, vbd in others.items()
            if mountpoint.position_of(vbd["userdevice"]) == position
            and vbd["type"] == "Disk"
            and not is_marked(vbd)
        }
        if position is None or not find_unmarked(view, here, info, volume, driver):
            raise
        return position


def check_same_place(vbd: Record, volume: Identity) -> None:
    """Raise WrongVolume where the disk in the slot lies elsewhere than the volume now does: it has moved."""
    place = vbd["other_config"].get(DISK, volume.key)
    if not volume.is_at(place):
        raise WrongVolume(
            f"the volume at {volume.key}", found=f"in its slot on the VM a disk at {place}: detach it first"
        )


def check_mode(vm: VM, vbd: Record, mode: str) -> None:
    """Raise VolumeInUse where the VM has the disk in another mode than the one asked for."""
    if vbd["mode"] != mode:
        users = [f"VM {vm} itself, in mode {vbd['mode']} where {mode} is asked for"]
        raise VolumeInUse(vbd["VDI"], users=users, is_to_go=True)


def find_twin(vm: VM, slots: Mapping[VBDRef, Record], there: VBDRef | None, vdi_ref: str) -> VBDRef | None:
    """A VBD of the VM that shows the very disk and is not marked as the volume's: made by another tool, or its marks
    were wiped. Raises VolumeInUse where it is there as another volume: one LUN under two ids."""
    for vbd_ref, vbd in slots.items():
        if vbd["VDI"] == vdi_ref and vbd_ref != there:
            if is_marked(vbd):
                where, name = mountpoint.shown_name(vbd["userdevice"]), vbd["other_config"][VOLUME]
                users = [f"VM {vm} itself, at {where} as volume {name}"]
                raise VolumeInUse(vdi_ref, users=users, is_to_go=True)
            check_in_no_drive(vm, [vbd])
            return vbd_ref
    return None


def adopt(view: View, undo: Undo, vbd_ref: VBDRef, vbd: Record, its_marks: Mapping[str, str]) -> None:
    """Mark a VBD that is in place. Its other notes stay."""
    wanted = {**vbd["other_config"], **its_marks}
    change(
        view,
        undo,
        f"marked VBD {vbd_ref}",
        ("VBD.set_other_config", vbd_ref, wanted),
        look=lambda: bool(view.call("VBD.get_other_config", vbd_ref) == wanted),
        inverse=lambda: view.call("VBD.set_other_config", vbd_ref, vbd["other_config"]),
    )


def take_over(view: View, undo: Undo, vbd_ref: VBDRef, vbd: Record, info: ConnectionInfo) -> None:
    """Give the attachment the id that the service has for it now: a detach that names the old one is then late.

    In one call, since an attachment without an id could be fenced by nobody.
    """
    if info.attachment_id is not None and info.attachment_id != vbd["other_config"].get(ATTACHMENT):
        adopt(view, undo, vbd_ref, vbd, {ATTACHMENT: info.attachment_id})


def make_bootable(view: View, undo: Undo, vbd_ref: VBDRef, vbd: Record) -> None:
    """Let the VM start from a disk that is in place, from its next start on."""
    if not vbd["bootable"]:
        change(
            view,
            undo,
            f"made VBD {vbd_ref} bootable",
            ("VBD.set_bootable", vbd_ref, True),
            look=lambda: bool(view.call("VBD.get_bootable", vbd_ref)),
            inverse=lambda: view.call("VBD.set_bootable", vbd_ref, False),
        )


def discard_if_second(view: View, vm: VM, vbd_ref: VBDRef) -> None:
    """Of two attempts that put one volume into one VM at once, the later one gives way, and looks again.

    The other may have returned already. Raises AttachedMeanwhile, our slot being empty again.
    """
    vbd = view.record("VBD", vbd_ref)
    others = [ref for ref in view.record("VDI", vbd["VDI"])["VBDs"] if ref != vbd_ref]
    for other in vbds_of(view, [{"VBDs": others}]).values():
        if other["VM"] == vm.ref and is_marked(other):
            discard(view, vm, vbd["VDI"], vbd_ref)
            raise AttachedMeanwhile(str(vm))


def put_in(view: View, undo: Undo, vm: VM, vdi_ref: VDIRef, spec: VBDSpec) -> VBDRef:
    """Put the disk into a slot of the VM, not yet plugged. Raises MountpointInUse where somebody was faster."""

    def inverse(view: View, vbd_ref: VBDRef) -> None:
        discard(view, vm, vdi_ref, vbd_ref)

    return create_vbd(view, undo, vm, vdi_ref, spec, inverse=inverse)


def discard(view: View, vm: VM, vdi_ref: str, vbd_ref: VBDRef) -> None:
    """Take a disk that we have put in out again, also where LUNs of its target have vanished since."""
    discard_vbd(view, vbd_ref, through=partial(_past_dead_luns, view, vm, vdi_ref))


def check_fence(vbd: Record, attachment_id: str | None) -> None:
    """Raise AttachmentFenced unless this is the attachment that is meant; None means whichever is in place.

    A VBD that has no mark of its own is known by its uuid: the marks of a copy name the attachment of the original.
    """
    current = vbd["other_config"].get(ATTACHMENT, vbd["uuid"]) if is_marked(vbd) else vbd["uuid"]
    if attachment_id is not None and attachment_id != current:
        raise AttachmentFenced(attachment_id, current=current)


def take_out(view: View, vm: VM, vbd_ref: VBDRef, vbd: Record) -> None:
    """Unplug the disk if it is plugged, and empty its slot; a disk that cannot go is plugged again."""
    undo = Undo()
    try:
        if vbd["currently_attached"] or is_moving(vbd):
            device = vbd["device"] or mountpoint.shown_name(vbd["userdevice"])
            check_gives_disk_back(vm, device)
            if is_moving(vbd):
                settle_vbd(view, vbd_ref, lambda vbd: not is_moving(vbd))
            unplug = partial(unplug_vbd, view, undo, vbd_ref, device=device, vm=vm)
            _past_dead_luns(view, vm, vbd["VDI"], unplug)
        destroy_vbd(view, vbd_ref)
    except BaseException as error:
        undo.unwind(error)
        leave_behind(vbd_ref)
        raise
    view.remember("VBD", vbd_ref, vbd | {"VM": NULL_REF})  # it is out


def plug(view: View, undo: Undo, vm: VM, vbd_ref: VBDRef, vdi_ref: str, was: Record | None) -> None:
    """Make the disk live in the running VM. Idempotent. Raises VolumeNotFound where it is a LUN that is gone.

    `was` is the VBD as it was before; None for one that we made, which is unplugged when that is undone.
    """
    do = plug_vbd if was is None else plug_unless_plugged
    is_by_us = _past_dead_luns(view, vm, vdi_ref, partial(do, view, vbd_ref))
    if was is not None and is_by_us:
        undo.did(f"plugged VBD {vbd_ref}", view.call, "VBD.unplug", vbd_ref)


def _past_dead_luns(view: View, vm: VM, vdi_ref: str, do: Callable[[], T]) -> T:
    """Plug or unplug a disk. Where the storage driver refuses because of LUNs that have vanished, the VM's host is told
    to drop those, and it is done once more.

    The guest may have released the disk although the driver refused; the second unplug then succeeds.
    """
    gone: XenVolError | None = None
    try:
        return do()
    except XapiError as refusal:
        host_ref = view.record("VM", vm.ref)["resident_on"]
        if refusal.code != _UNAVAILABLE or host_ref == NULL_REF:
            raise
        try:
            gone = storage.look_anew(view, vdi_ref, host_ref)
        except XenVolError as error:
            refusal.add_note(f"the host could not look for LUNs that have vanished: {error}")
        try:
            return do()
        except XapiError as again:
            if again.code != _UNAVAILABLE:
                raise
            raise gone or refusal from again
