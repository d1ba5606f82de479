"""Which VBDs and holds use a disk. A mark counts only on the disk that it names.

A clone, a copy, a revert or another tool copies an other_config to a VBD or a VDI that shows another disk. So the marks
of xenvol name their disk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from xenvol.pool.marks import CONNECTED, DRIVER, VDI, VOLUME
from xenvol.pool.view import MOVING_VM, Record, View
from xenvol.session.refs import NULL_REF, HostRef, VBDRef

_MOVING = frozenset({"plug", "unplug", "unplug_force"})


def is_marked(vbd: Record) -> bool:
    """Whether xenvol attached the disk that this VBD shows. Earlier releases did not write which disk."""
    marks = vbd["other_config"]
    return VOLUME in marks and marks.get(VDI, vbd["VDI"]) == vbd["VDI"]


def is_moving(vbd: Record) -> bool:
    """Whether a call is plugging or unplugging this VBD."""
    return not _MOVING.isdisjoint(vbd["current_operations"].values())


def is_plugged(vbd: Record) -> bool:
    """Whether the guest has the disk.

    A real xapi says currently_attached as soon as a plug begins (docs/background/recordings.md, finding 8 (xapi)).
    """
    return bool(vbd["currently_attached"]) and not is_moving(vbd)


def is_held(vdi: Record) -> bool:
    """Whether the disk was connected without a VM. Then it is in use, also without a VBD."""
    held = vdi["other_config"].get(CONNECTED)
    return held is not None and held.partition(" ")[0] in ("", vdi["uuid"])


def held_as(vdi: Record) -> dict[str, str]:
    """Return the driver and volume of a held disk, under the keys of a VBD's marks; {} if the disk is not held."""
    if not is_held(vdi):
        return {}
    uuid, driver, volume_id = [*vdi["other_config"][CONNECTED].split(" ", 2), "", ""][:3]
    return {DRIVER: driver, VOLUME: volume_id} if uuid else {DRIVER: "", VOLUME: ""}


def is_held_by_another(vdi: Record, volume_id: object) -> bool:
    """Whether the disk is held as another volume than this one. False if one of the two has no id."""
    holder = held_as(vdi).get(VOLUME)
    return bool(holder) and volume_id is not None and holder != volume_id


def was_taken_out(view: View, vdi: Record) -> bool | None:
    """Whether this operation detached the disk from a VM; None if it detached no disk of that SR. No call."""
    out = [view.known("VDI", vbd["VDI"]) for vbd in view.remembered("VBD").values() if vbd["VM"] == NULL_REF]
    here = {each["uuid"] for each in out if each is not None and each["SR"] == vdi["SR"]}
    return vdi["uuid"] in here if here else None


def vbds_of(view: View, vdis: Iterable[Record]) -> dict[VBDRef, Record]:
    """Return the VBDs of these disks, of all VMs; one call at most."""
    refs = [ref for vdi in vdis for ref in vdi["VBDs"]]
    if not refs:
        return {}
    view.read({"VBD": refs})
    return {VBDRef(ref): vbd for ref, vbd in view.known_of("VBD", refs).items()}


def are_volumes_left(
    view: View, vdis: Collection[Record], *, but: Callable[[Record], bool] = lambda vdi: False
) -> bool:
    """Whether one of these disks is a volume of xenvol's: it is held, or a VBD has the marks; one call at most.

    That the disk `but` is held does not count.
    """
    if any(is_held(vdi) and not but(vdi) for vdi in vdis):
        return True
    return any(is_marked(vbd) for vbd in vbds_of(view, vdis).values())


def is_needed_on(view: View, host_ref: HostRef, vdis: Collection[Record]) -> bool:
    """Whether one of these disks is needed on the host: it is held, or a VM runs there or may start there with it.

    The mark of a held disk does not name hosts, so a held disk is needed on each. The master needs the disks of all
    VMs. A VM that runs on another host with the disk plugged needs it there only.
    """
    if any(is_held(vdi) for vdi in vdis):
        return True
    vbds = list(vbds_of(view, vdis).values())
    if not vbds or host_ref == view.master:
        return bool(vbds)
    vms_of(view, vbds)
    for vbd in vbds:
        vm = view.known("VM", vbd["VM"])
        if vm is None:
            continue
        may_start = not vbd["currently_attached"] and not vm["is_a_template"]
        if may_start or vm["resident_on"] == host_ref or needs_every_host(view, vm):
            return True
    return False


def needs_every_host(view: View, vm_rec: Record) -> bool:
    """Whether the VM needs its disks on every host on which it may start: it runs nowhere, HA protects it, or it is
    moving.

    The record of a moving VM does not name the destination. Templates never start, and a snapshot is a template.
    """
    return bool(
        (vm_rec["resident_on"] == NULL_REF and not vm_rec["is_a_template"])
        or (view.pool["ha_enabled"] and vm_rec.get("ha_restart_priority") == "restart")
        or is_moving_vm(vm_rec)
    )


def is_moving_vm(vm_rec: Record) -> bool:
    """Whether a call is moving the VM to another host."""
    return not MOVING_VM.isdisjoint(vm_rec["current_operations"].values())


def in_words(view: View, vbds: Iterable[Record]) -> list[str]:
    """Return texts with the VMs and devices of these VBDs, for messages; one call."""
    vbds = list(vbds)
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    return [f"{view.record('VM', vbd['VM'])['name_label']} ({vbd['device']})" for vbd in vbds]


def vms_of(view: View, vbds: Iterable[Record]) -> list[Record]:
    """Return the VMs of these VBDs, without those that are gone; one call."""
    refs = {vbd["VM"] for vbd in vbds} - {NULL_REF}
    view.read({"VM": refs})
    return list(view.known_of("VM", refs).values())
