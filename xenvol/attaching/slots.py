"""Find the VBD of a volume among those of a VM, by its marks and by the disk that it shows; fill and empty slots."""

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
"""The storage driver's error for a LUN that is gone, and for its neighbours until the host drops its device."""


def read_disks(view: View, vm: VM) -> dict[VBDRef, Record]:
    """Return the VM's VBDs. Reads in the same call all else that an attach checks before it changes anything."""
    view.read_with_drivers(
        {"VBD": vm.vbd_refs, "VM_guest_metrics": [vm.guest_metrics_ref]},
        whole=["pool"] if vm.resident_on is not None and not vm.is_protected else ["pool", "host"],
    )
    return {VBDRef(ref): vbd for ref, vbd in view.known_of("VBD", vm.vbd_refs).items()}


def find_volume(
    disks: Mapping[VBDRef, Record], info: ConnectionInfo, volume: Identity, requested: str | int | None
) -> VBDRef | None:
    """Return the VBD whose marks name this volume, or None.

    Compares the service's ids, or, if either side has no id, the places of the disk. Raises InvalidMountpoint if the
    VBD is at another position than the requested one.
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
        check_position(marked[vbd_ref], requested)
        return vbd_ref
    return None


def find_renamed(
    view: View,
    disks: Mapping[VBDRef, Record],
    info: ConnectionInfo,
    volume: Identity,
    requested: str | int | None,
) -> VBDRef | None:
    """Return the VBD that is at the volume's place with another id in its marks, and is the volume; or None.

    A migration of the service renames a volume. A mapping that is out of date looks the same, so the VBD must have the
    service's id of the attachment, or the data must prove the disk. Makes no call unless such a VBD must be proved.
    Raises InvalidMountpoint as `find_volume` does.
    """
    there = {
        ref: vbd for ref, vbd in volumes_of(disks).items() if volume.is_at(vbd["other_config"].get(DISK, ""))
    }
    found = [
        ref
        for ref, vbd in there.items()
        if info.attachment_id is not None and vbd["other_config"].get(ATTACHMENT) == info.attachment_id
    ]
    if there and not found:
        vdi_refs = {VDIRef(vbd["VDI"]) for vbd in there.values()}
        view.read({"VDI": vdi_refs})
        proved = {
            vdi_ref
            for vdi_ref, vdi in view.known_of("VDI", vdi_refs).items()
            if volume.is_of(vdi["uuid"], vdi["sm_config"].get("SCSIid"))
        }
        found = [ref for ref, vbd in there.items() if vbd["VDI"] in proved]
    for vbd_ref in found:
        check_position(there[vbd_ref], requested)
        return vbd_ref
    return None


def _id_of(vbd: Record) -> str | None:
    """Return the service's id of the volume from the VBD's marks, or None: then the mark VOLUME has the place."""
    volume_id: str = vbd["other_config"][VOLUME]
    return None if volume_id == vbd["other_config"].get(DISK) else volume_id


def check_position(vbd: Record, requested: str | int | None) -> None:
    """Raise InvalidMountpoint if the disk is at another position than the requested one."""
    if mountpoint.userdevice_of(requested) not in (None, mountpoint.position_of(vbd["userdevice"])):
        where = mountpoint.shown_name(vbd["userdevice"])
        raise InvalidMountpoint(requested, problem=f"is not the position of the volume, which is {where}")


def find_unmarked(
    view: View, slots: Mapping[VBDRef, Record], info: ConnectionInfo, volume: Identity, driver: Any
) -> set[str]:
    """Return those VDIs of these VBDs that are the volume. Ignores the marks of the VBDs.

    The uuid or the SCSI id is a proof. Without one, the volume's id decides if the disk was connected as that volume.
    For the other VDIs the driver's `find_volume` decides, if it has one.
    """
    if not slots:
        return set()
    vdi_refs = {VDIRef(vbd["VDI"]) for vbd in slots.values()}
    view.read({"VDI": vdi_refs})
    found, undecided = set(), {}
    for vdi_ref, vdi in view.known_of("VDI", vdi_refs).items():
        proof = volume.is_of(vdi["uuid"], vdi["sm_config"].get("SCSIid"))
        is_held_as_this = info.volume_id is not None and held_as(vdi).get(VOLUME) == info.volume_id
        if proof or (proof is None and is_held_as_this):
            found.add(vdi_ref)
        elif proof is None:
            undecided[vdi_ref] = vdi
    find = getattr(driver, "find_volume", None)  # a driver that is no VolumeDriver may lack it
    return {*found, *(find(info.data, undecided) if find is not None and undecided else ())}


def check_not_marked_as_another(vm: VM, slots: Mapping[VBDRef, Record], vdi_refs: Collection[str]) -> None:
    """Raise WrongVolume if one of these VDIs is attached to the VM as another volume.

    The data then has the id of one volume and the place of another, and the VM has both: either could be meant.
    """
    for vbd in slots.values():
        if vbd["VDI"] in vdi_refs and is_marked(vbd):
            where, name = mountpoint.shown_name(vbd["userdevice"]), vbd["other_config"][VOLUME]
            raise WrongVolume(
                f"the volume of that id, which VM {vm} has elsewhere", found=f"volume {name} at {where}"
            )


def check_in_no_drive(vm: VM, vbds: Iterable[Record]) -> None:
    """Raise VolumeInUse if a CD or floppy drive of the VM shows the disk: only the operator can have put it there."""
    for vbd in vbds:
        if vbd["type"] != "Disk":
            users = [
                f"VM {vm} itself, in its drive {mountpoint.shown_name(vbd['userdevice'])} ({vbd['type']})"
            ]
            raise VolumeInUse(vbd["VDI"], users=users, is_to_go=True)


def marks(view: View, info: ConnectionInfo, volume: Identity, vdi_ref: str) -> dict[str, str]:
    """Return the marks for the other_config of a VBD of this volume. Each attachment has an id of its own."""
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
    marked_ref: VBDRef | None,
    requested: str | int | None,
    info: ConnectionInfo,
    volume: Identity,
    driver: Any,
) -> str:
    """Return the position to use: that of the volume's VBD, else the requested one, else the first free one.

    An unmarked VBD there may show the volume's own disk: then `find_twin` adopts it. Raises MountpointInUse for any
    other VBD there.
    """
    slot = requested if marked_ref is None else mountpoint.position_of(slots[marked_ref]["userdevice"])
    others = {ref: vbd for ref, vbd in slots.items() if ref != marked_ref}
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
    """Raise WrongVolume if the disk in the slot is at another place than the volume is now: the volume has moved."""
    place = vbd["other_config"].get(DISK, volume.key)
    if not volume.is_at(place):
        raise WrongVolume(
            f"the volume at {volume.key}", found=f"its old disk at {place} in the VM: detach that first"
        )


def check_mode(vm: VM, vbd: Record, mode: str) -> None:
    """Raise VolumeInUse if the VM has the disk in another mode than the requested one."""
    if vbd["mode"] != mode:
        users = [f"VM {vm} itself, in mode {vbd['mode']}, and {mode} is requested"]
        raise VolumeInUse(vbd["VDI"], users=users, is_to_go=True)


def find_twin(
    vm: VM, slots: Mapping[VBDRef, Record], marked_ref: VBDRef | None, vdi_ref: str
) -> VBDRef | None:
    """Return a VBD of the VM that shows this disk and has no marks, or None: another tool made it, or wiped its marks.

    Raises VolumeInUse if the VM has the disk as another volume: one LUN under two ids.
    """
    for vbd_ref, vbd in slots.items():
        if vbd["VDI"] == vdi_ref and vbd_ref != marked_ref:
            if is_marked(vbd):
                where, name = mountpoint.shown_name(vbd["userdevice"]), vbd["other_config"][VOLUME]
                users = [f"VM {vm} itself, at {where} as volume {name}"]
                raise VolumeInUse(vdi_ref, users=users, is_to_go=True)
            check_in_no_drive(vm, [vbd])
            return vbd_ref
    return None


def adopt(view: View, undo: Undo, vbd_ref: VBDRef, vbd: Record, its_marks: Mapping[str, str]) -> None:
    """Add marks to a VBD that exists. The rest of its other_config stays."""
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
    """Give the attachment the ids that the service has for it and for the volume now.

    The id of the attachment fences a detach that names the old one. In one call, so that the attachment is never
    without an id.
    """
    ids = {ATTACHMENT: info.attachment_id, VOLUME: info.volume_id}
    changed = {
        mark: text for mark, text in ids.items() if text is not None and text != vbd["other_config"].get(mark)
    }
    if changed:
        adopt(view, undo, vbd_ref, vbd, changed)


def make_bootable(view: View, undo: Undo, vbd_ref: VBDRef, vbd: Record) -> None:
    """Make an existing VBD bootable, from the VM's next start on."""
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
    """Destroy this VBD and raise AttachedMeanwhile if another attempt has attached the same disk to this VM.

    The caller retries then. The other attempt may have returned already, so its VBD stays.
    """
    vbd = view.record("VBD", vbd_ref)
    others = [ref for ref in view.record("VDI", vbd["VDI"])["VBDs"] if ref != vbd_ref]
    for other in vbds_of(view, [{"VBDs": others}]).values():
        if other["VM"] == vm.ref and is_marked(other):
            discard(view, vm, vbd["VDI"], vbd_ref)
            raise AttachedMeanwhile(str(vm))


def put_in(view: View, undo: Undo, vm: VM, vdi_ref: VDIRef, spec: VBDSpec) -> VBDRef:
    """Create a VBD of the disk, not yet plugged. Raises MountpointInUse if another process has taken the position."""

    def inverse(view: View, vbd_ref: VBDRef) -> None:
        discard(view, vm, vdi_ref, vbd_ref)

    return create_vbd(view, undo, vm, vdi_ref, spec, inverse=inverse)


def discard(view: View, vm: VM, vdi_ref: str, vbd_ref: VBDRef) -> None:
    """Unplug and destroy a VBD that this attempt made, also if LUNs of its target have vanished since."""
    discard_vbd(view, vbd_ref, run=partial(_retry_without_dead_luns, view, vm, vdi_ref))


def check_fence(vbd: Record, attachment_id: str | None) -> None:
    """Raise AttachmentFenced unless this VBD is the attachment of that id. None allows any.

    The id of a VBD without marks of its own is its uuid: copied marks name the attachment of the original.
    """
    current = vbd["other_config"].get(ATTACHMENT, vbd["uuid"]) if is_marked(vbd) else vbd["uuid"]
    if attachment_id is not None and attachment_id != current:
        raise AttachmentFenced(attachment_id, current=current)


def take_out(view: View, vm: VM, vbd_ref: VBDRef, vbd: Record) -> None:
    """Unplug the disk if it is plugged, and destroy its VBD. If that fails, plug the disk again."""
    undo = Undo()
    try:
        if vbd["currently_attached"] or is_moving(vbd):
            device = vbd["device"] or mountpoint.shown_name(vbd["userdevice"])
            check_gives_disk_back(vm, device)
            if is_moving(vbd):
                settle_vbd(view, vbd_ref, lambda vbd: not is_moving(vbd))
            unplug = partial(unplug_vbd, view, undo, vbd_ref, device=device, vm=vm)
            _retry_without_dead_luns(view, vm, vbd["VDI"], unplug)
        destroy_vbd(view, vbd_ref)
    except BaseException as error:
        undo.unwind(error)
        leave_behind(vbd_ref)
        raise
    view.remember("VBD", vbd_ref, vbd | {"VM": NULL_REF})  # it was taken out of the VM


def plug(view: View, undo: Undo, vm: VM, vbd_ref: VBDRef, vdi_ref: str, was: Record | None) -> None:
    """Plug the disk into the running VM. Idempotent. Raises VolumeNotFound if it is a LUN that is gone.

    `was` is the record of a VBD that existed before; then the plug is recorded in `undo`. None is a VBD that this
    attempt made: undoing that unplugs it as well.
    """
    do = plug_vbd if was is None else plug_unless_plugged
    is_plugged_now = _retry_without_dead_luns(view, vm, vdi_ref, partial(do, view, vbd_ref))
    if was is not None and is_plugged_now:
        undo.did(f"plugged VBD {vbd_ref}", view.call, "VBD.unplug", vbd_ref)


def _retry_without_dead_luns(view: View, vm: VM, vdi_ref: str, do: Callable[[], T]) -> T:
    """Plug or unplug a disk. If the driver refuses because of vanished LUNs, let the host drop those and retry once.

    The guest may have released the disk although the driver refused: then the second unplug succeeds.
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
            refusal.add_note(f"the host could not drop LUNs that have vanished: {error}")
        try:
            return do()
        except XapiError as again:
            if again.code != _UNAVAILABLE:
                raise
            raise gone or refusal from again
