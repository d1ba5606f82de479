"""Who uses a disk: what its VBDs and its VDI say, whoever made them; a mark about another disk says nothing.

A clone, a copy, a revert or another tool copies an other_config to a VBD or a VDI that shows another disk. So our marks
name the disk that they are about, and are believed there only.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenvol.pool.marks import CONNECTED, DRIVER, VDI, VOLUME
from xenvol.pool.view import MOVING_VM, Record, View
from xenvol.session.refs import NULL_REF, VBDRef

_MOVING = frozenset({"plug", "unplug", "unplug_force"})


def is_marked(vbd: Record) -> bool:
    """Whether xenvol attached the disk that this VBD shows. Earlier releases did not write which disk."""
    marks = vbd["other_config"]
    return VOLUME in marks and marks.get(VDI, vbd["VDI"]) == vbd["VDI"]


def is_moving(vbd: Record) -> bool:
    """Whether a call that plugs or unplugs it is under way."""
    return not _MOVING.isdisjoint(vbd["current_operations"].values())


def is_plugged(vbd: Record) -> bool:
    """Whether the guest has the disk.

    A real xapi says currently_attached as soon as a plug begins (docs/background/recordings.md, finding 8 (xapi)).
    """
    return bool(vbd["currently_attached"]) and not is_moving(vbd)


def is_held(vdi: Record) -> bool:
    """Whether the disk was connected without a VM: it is in use, although it may have no VBD."""
    held = vdi["other_config"].get(CONNECTED)
    return held is not None and held.partition(" ")[0] in ("", vdi["uuid"])


def held_as(vdi: Record) -> dict[str, str]:
    """Return the driver and the volume as which a disk is held, under the keys of a VBD's marks; {} if it is not."""
    if not is_held(vdi):
        return {}
    uuid, driver, volume_id = [*vdi["other_config"][CONNECTED].split(" ", 2), "", ""][:3]
    return {DRIVER: driver, VOLUME: volume_id} if uuid else {DRIVER: "", VOLUME: ""}


def is_held_by_another(vdi: Record, volume_id: object) -> bool:
    """Whether the disk is held as another volume than this one; where either side has no id, it is not."""
    holder = held_as(vdi).get(VOLUME)
    return bool(holder) and volume_id is not None and holder != volume_id


def was_taken_out(view: View, vdi: Record) -> bool | None:
    """Whether this operation took the disk out of a VM; None where it took out no disk of that SR. No call."""
    out = [view.known("VDI", vbd["VDI"]) for vbd in view.remembered("VBD").values() if vbd["VM"] == NULL_REF]
    here = {each["uuid"] for each in out if each is not None and each["SR"] == vdi["SR"]}
    return vdi["uuid"] in here if here else None


def vbds_of(view: View, vdis: Iterable[Record]) -> dict[VBDRef, Record]:
    """Return the VBDs of these disks, of whichever VM; one call at most."""
    refs = [ref for vdi in vdis for ref in vdi["VBDs"]]
    if not refs:
        return {}
    view.read({"VBD": refs})
    return {VBDRef(ref): vbd for ref in refs if (vbd := view.known("VBD", ref)) is not None}


def needs_every_host(view: View, vm_rec: Record) -> bool:
    """Whether the VM needs its disks on every host that it may start on: it runs nowhere, or HA protects it.

    So does a VM that is moving, since its record does not tell where to. A snapshot is a template, too, and neither of
    them starts.
    """
    return bool(
        (vm_rec["resident_on"] == NULL_REF and not vm_rec["is_a_template"])
        or (view.pool["ha_enabled"] and vm_rec.get("ha_restart_priority") == "restart")
        or is_moving_vm(vm_rec)
    )


def is_moving_vm(vm_rec: Record) -> bool:
    """Whether a call that moves the VM to another host is under way."""
    return not MOVING_VM.isdisjoint(vm_rec["current_operations"].values())


def in_words(view: View, vbds: Iterable[Record]) -> list[str]:
    """Return VMs and their devices for messages; one call."""
    vbds = list(vbds)
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    return [f"{view.record('VM', vbd['VM'])['name_label']} ({vbd['device']})" for vbd in vbds]


def vms_of(view: View, vbds: Iterable[Record]) -> list[Record]:
    """Return the VMs of these VBDs that are still there; one call."""
    refs = {vbd["VM"] for vbd in vbds} - {NULL_REF}
    view.read({"VM": refs})
    return [vm for ref in refs if (vm := view.known("VM", ref)) is not None]
