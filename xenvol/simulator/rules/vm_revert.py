"""VM.revert: restore a VM to a snapshot (xapi_vm_snapshot.ml, revert).

Destructive: it first destroys the VM's VBDs, and the disks of which the snapshot has copies. If the VM itself
is gone, it is created again with its uuid.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import copied_disks, message, vif, vm_clone, vm_facts, vm_placement, vm_state
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import operation

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_KEPT = frozenset(
    (
        *("uuid", "suspend_VDI", "power_state", "parent", "current_operations", "allowed_operations"),
        *("metrics", "guest_metrics", "resident_on", "domid", "protection_policy", "snapshot_schedule"),
        *("scheduled_to_be_resident_on", "tags", "affinity", "is_snapshot_from_vmpp"),
    )
)
"""Fields that a revert keeps."""

_TOLD_AS_THEY_ARE = ("SR_BACKEND_FAILURE_44", "SR_BACKEND_FAILURE_109", "VDI_INCOMPATIBLE_TYPE")


@rule("VM.revert")
def vm_revert(call: Call, snapshot: str) -> None:
    db = call.db
    vm = db.row("VM", snapshot)["snapshot_of"]
    if not db.exists("VM", vm):
        vm = _resurrect(call, snapshot)
    with operation(call, ("VM", snapshot, "revert")), operation(call, ("VM", vm, "reverting")):
        if db.row("VM", vm)["power_state"] != "Halted":
            invoke(call, "VM.hard_shutdown", vm)
        _restore_fields(call, vm, json.loads(db.row("VM", snapshot)["snapshot_metadata"]))
        vm_placement.choose_with_srs(call.xapi, vm)
        new_id = vm_clone.new_generation_id(db.row("VM", vm)["generation_id"])
        db.set("VM", vm, generation_id=new_id)
        _revert(call, snapshot, vm)
    row, source = db.row("VM", vm), db.row("VM", snapshot)
    body = (
        f"VM '{row['name_label']}' (uuid: {row['uuid']}) reverted to snapshot: "
        f"{source['name_label']} (uuid {source['uuid']})"
    )
    message.write(call, "VM_SNAPSHOT_REVERTED", "VM", vm, body)


def _revert(call: Call, snapshot: str, vm: str) -> None:
    db = call.db
    state = db.row("VM", snapshot)["power_state"]
    try:
        _replace_devices(call, snapshot, vm)
    except Failure as failure:
        vm_state.set_power_state(call.xapi, vm, "Halted")
        if failure.code in _TOLD_AS_THEY_ARE:
            raise
        raise Failure("VM_REVERT_FAILED", snapshot, vm) from failure
    for cls, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        old = db.row("VM", vm)[field]
        if db.exists(cls, old):
            db.delete(cls, old)
    db.set(
        "VM",
        vm,
        metrics=vm_clone.copy_metrics(call, snapshot),
        guest_metrics=vm_clone.copy_guest_metrics(call, snapshot),
        parent=snapshot,
    )
    vm_state.set_power_state(call.xapi, vm, state)


def _replace_devices(call: Call, snapshot: str, vm: str) -> None:
    db = call.db
    slots = {vbd: db.row("VBD", vbd) for vbd in vm_facts.slots(db, snapshot)}
    disks = [vbd for vbd, row in slots.items() if row["type"] == "Disk"]
    drives = [vbd for vbd, row in slots.items() if row["type"] != "Disk"]
    originals = [db.row("VDI", slots[vbd]["VDI"])["snapshot_of"] for vbd in disks]
    _remove_disks(call, vm, originals)
    copies = copied_disks.copy_disks(call, disks, copied_disks.clone_disk)
    copies |= copied_disks.copy_disks(call, drives, copied_disks.clone_disk)
    for vbd, original in zip(disks, originals, strict=True):
        for sibling in db.children(original, "snapshots"):
            db.set("VDI", sibling, snapshot_of=copies[vbd])
    memory = db.row("VM", snapshot)["suspend_VDI"]
    image = copied_disks.clone_disk(call, memory) if memory != NULL else NULL
    for vbd, vdi in copies.items():
        copied_disks.copy_vbd(call, vbd, vm, vdi)
    db.set("VM", vm, suspend_VDI=image)
    for interface in db.children(vm, "VIFs"):
        vif.delete_vif(call, interface)
    for interface in db.children(snapshot, "VIFs"):
        vif.copy(call, interface, vm, keep_mac=True)


def _remove_disks(call: Call, vm: str, originals: list[str]) -> None:
    """Destroy the VM's VBDs, and those disks that the snapshot restores; other disks stay, without a VBD."""
    db = call.db
    rows = [db.row("VBD", vbd) for vbd in db.children(vm, "VBDs")]
    doomed = [row["VDI"] for row in rows if row["type"] == "Disk" and row["VDI"] in originals]
    for vbd in db.children(vm, "VBDs"):
        invoke(call, "VBD.destroy", vbd)
    for vdi in (db.row("VM", vm)["suspend_VDI"], *doomed):
        if db.exists("VDI", vdi) and db.row("SR", db.row("VDI", vdi)["SR"])["content_type"] != "iso":
            invoke(call, "VDI.destroy", vdi)


def _restore_fields(call: Call, vm: str, metadata: dict[str, Any]) -> None:
    known = call.db.row("VM", vm).keys()
    old = {name: value for name, value in metadata.items() if name in known and name not in _KEPT}
    call.db.set("VM", vm, **{**old, "ha_always_run": False})


def _resurrect(call: Call, snapshot: str) -> str:
    """Create the snapshot's VM again from the metadata in the snapshot."""
    db = call.db
    gone = db.row("VM", snapshot)["snapshot_of"]
    text = db.row("VM", snapshot)["snapshot_metadata"]
    if not text:
        raise Failure("VM_REVERT_FAILED", snapshot, gone)
    metadata = json.loads(text)
    fresh = {"power_state": "Halted", "suspend_VDI": NULL, "resident_on": NULL, "domid": -1, "parent": NULL}
    values = {**metadata, **fresh, "current_operations": {}, "metrics": db.create("VM_metrics")}
    vm = db.create("VM", **{**values, "guest_metrics": NULL})
    for sibling in db.refs("VM"):
        if db.row("VM", sibling)["snapshot_of"] == gone:
            db.set("VM", sibling, snapshot_of=vm)
    vm_state.set_power_state(call.xapi, vm, "Halted")
    return vm
