"""VM.clone, VM.copy and VM.snapshot: another VM with disks of its own (xapi_vm_clone.ml, xapi_vm_snapshot.ml).

The disks come first, by the calls that a client would make. If one of them fails, the new disks are destroyed
again and no VM is made. Traces 04#330-331, 05#155-158.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import (
    message,
    vif,
    vm_facts,
    vm_placement,
    vm_state,
    vm_stop,
    vm_suspend,
)
from xenvol.simulator.rules.copied_disks import (
    CopyDisk,
    clone_disk,
    copy_disks,
    copy_vbd,
    destroy_disks,
    snapshot_disk,
)
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import operation

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_OWNER = "owner"
"""A key in VBD.other_config: some clients destroy such a disk with the VM."""

_NEW_IN_A_COPY: dict[str, Any] = {
    "current_operations": {},
    "allowed_operations": [],
    "blocked_operations": {},
    "is_default_template": False,
    "suspend_VDI": NULL,
    "resident_on": NULL,
    "scheduled_to_be_resident_on": NULL,
    "domid": -1,
    "domarch": "",
    "ha_always_run": False,
    "blobs": {},
    "protection_policy": NULL,
    "is_snapshot_from_vmpp": False,
    "snapshot_schedule": NULL,
    "is_vmss_snapshot": False,
    "appliance": NULL,
    "start_delay": 0,
    "shutdown_delay": 0,
    "order": 0,
    "suspend_SR": NULL,
    "version": 0,
    "requires_reboot": False,
    "transportable_snapshot_id": "",
}
_HIDDEN_KEYS = ("default_template", "xensource_internal")


@rule("VM.clone")
def vm_clone(call: Call, vm: str, new_name: str) -> str:
    with operation(call, ("VM", vm, "clone")):
        vm_placement.choose_with_srs(call.xapi, vm)
        cloned = duplicate(call, vm, new_name, "clone", clone_disk)
        _halt_copy_of_snapshot(call, vm, cloned)
        return cloned


@rule("VM.copy")
def vm_copy(call: Call, vm: str, new_name: str, sr: str) -> str:
    """Copy a VM with its disks into the SR; if the SR does not exist, each disk stays in its own SR."""
    db = call.db
    with operation(call, ("VM", vm, "copy")):
        if db.exists("SR", sr) and db.row("SR", sr)["content_type"] == "iso":
            raise Failure("OPERATION_NOT_ALLOWED", "Cannot copy a VM's disks to an ISO SR")

        def copy_disk(call: Call, vdi: str) -> str:
            target = sr if db.exists("SR", sr) else db.row("VDI", vdi)["SR"]
            copied: str = invoke(call, "VDI.copy", vdi, target, NULL, NULL)
            return copied

        copied = duplicate(call, vm, new_name, "copy", copy_disk)
        _halt_copy_of_snapshot(call, vm, copied)
        return copied


def _halt_copy_of_snapshot(call: Call, snapshot: str, copied: str) -> None:
    """Halt the copy of a snapshot with memory: in the end it has no memory (xapi_vm.ml, clone)."""
    if call.db.row("VM", snapshot)["is_a_snapshot"] and vm_facts.power_state(call.db, copied) == "Suspended":
        vm_stop.forget_memory(call, copied)


@rule("VM.snapshot")
def vm_snapshot(call: Call, vm: str, new_name: str, ignore_vdis: list[str]) -> str:
    with operation(call, ("VM", vm, "snapshot")):
        vm_placement.choose_with_srs(call.xapi, vm)
        snapshot = duplicate(call, vm, new_name, "snapshot", snapshot_disk, ignore=ignore_vdis)
    _tell(call, vm, "VM_SNAPSHOTTED", "snapshotted", new_name)
    return snapshot


@rule("VM.checkpoint")
def vm_checkpoint(call: Call, vm: str, new_name: str) -> str:
    """Take a snapshot with the VM's memory: suspend the VM, copy it with its suspend image, and resume it."""
    db = call.db
    with operation(call, ("VM", vm, "checkpoint")):
        row = db.row("VM", vm)
        running, host = row["power_state"] == "Running", row["resident_on"]
        if running:
            vm_suspend.suspend(call, vm)
        else:
            vm_placement.choose_with_srs(call.xapi, vm)
        try:
            snapshot = duplicate(call, vm, new_name, "checkpoint", snapshot_disk)
        finally:
            if running:
                vm_suspend.resume(call, vm, host, paused=False)
    _tell(call, vm, "VM_CHECKPOINTED", "checkpointed", new_name)
    return snapshot


def duplicate(
    call: Call, vm: str, name: str, how: str, copy_disk: CopyDisk, *, ignore: Iterable[str] = ()
) -> str:
    """Return a new VM with copies of all the disks; if one fails, none is left."""
    db = call.db
    state = db.row("VM", vm)["power_state"]
    suspended = (how == "checkpoint" and state in ("Running", "Suspended")) or (
        how in ("clone", "copy") and state == "Suspended"
    )
    slots = [vbd for vbd in vm_facts.slots(db, vm) if db.row("VBD", vbd)["VDI"] not in ignore]
    disks = copy_disks(call, slots, copy_disk)
    copied: str | None = None
    try:
        copied = _copy_record(call, vm, name, how, "Suspended" if suspended else "Halted")
        for vbd, vdi in disks.items():
            slot = copy_vbd(call, vbd, copied, vdi)
            if db.row("VBD", slot)["type"] == "Disk":
                db.map_add(
                    "VBD", slot, "other_config", _OWNER, db.row("VBD", slot)["other_config"].get(_OWNER, "")
                )
        for interface in db.children(vm, "VIFs"):
            vif.copy(call, interface, copied, keep_mac=how in ("snapshot", "checkpoint"))
        memory = db.row("VM", vm)["suspend_VDI"]
        if memory != NULL and how != "snapshot":
            db.set("VM", copied, suspend_VDI=copy_disk(call, memory))
    except Failure:
        if copied is not None:
            db.delete("VM", copied)
        destroy_disks(call, disks)
        raise
    vm_state.set_power_state(call.xapi, copied, "Suspended" if suspended else "Halted")
    return copied


def copy_metrics(call: Call, vm: str) -> str:
    """Copy the VM's metrics, or create fresh ones."""
    db = call.db
    ref = db.row("VM", vm)["metrics"]
    if not db.exists("VM_metrics", ref):
        return db.create("VM_metrics", VCPUs_utilisation={0: 0.0}, current_domain_type="unspecified")
    return db.create("VM_metrics", **_values(db.row("VM_metrics", ref)))


def copy_guest_metrics(call: Call, vm: str) -> str:
    """Copy the guest's report, if there is one; else NULL."""
    db = call.db
    ref = db.row("VM", vm)["guest_metrics"]
    if not db.exists("VM_guest_metrics", ref):
        return NULL
    return db.create("VM_guest_metrics", **_values(db.row("VM_guest_metrics", ref)))


def new_generation_id(old: str) -> str:
    """Return a new generation id, by which a guest notices that it was copied; empty if the old one is."""
    source = random.SystemRandom()
    return f"{source.getrandbits(63)}:{source.getrandbits(63)}" if old else ""


def _copy_record(call: Call, vm: str, name: str, how: str, state: str) -> str:
    db = call.db
    row = db.row("VM", vm)
    is_snapshot = how in ("snapshot", "checkpoint")
    other_config = {key: value for key, value in row["other_config"].items() if key not in _HIDDEN_KEYS}
    if not is_snapshot:
        other_config["mac_seed"] = str(uuid.uuid4())
    if row["is_a_template"]:
        other_config.setdefault("base_template_name", row["name_label"])
    info = {"power-state-at-snapshot": row["power_state"], "disk-snapshot-type": "crash_consistent"}
    values = {
        **_values(row),
        **_NEW_IN_A_COPY,
        "name_label": name,
        "power_state": state,
        "is_a_template": is_snapshot or row["is_a_template"],
        "is_a_snapshot": is_snapshot,
        "snapshot_of": vm if is_snapshot else NULL,
        "snapshot_time": call.xapi.now() if is_snapshot else "19700101T00:00:00Z",
        "snapshot_info": info if is_snapshot else {},
        "snapshot_metadata": json.dumps(row) if is_snapshot else "",
        "other_config": other_config,
        "metrics": copy_metrics(call, vm),
        "guest_metrics": copy_guest_metrics(call, vm),
        "parent": row["parent"] if is_snapshot else NULL,
        "generation_id": new_generation_id(row["generation_id"]),
    }
    copied = db.create("VM", **values)
    if is_snapshot:
        db.set("VM", vm, parent=copied)
    return copied


def _values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "uuid"}


def _tell(call: Call, vm: str, kind: str, verb: str, new_name: str) -> None:
    row = call.db.row("VM", vm)
    body = f"VM '{row['name_label']}' (uuid: {row['uuid']}) {verb}, snapshot name: {new_name}"
    message.write(call, kind, "VM", vm, body)
