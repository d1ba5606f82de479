"""Suspend a VM: its memory is in a VDI of the suspend SR until it is resumed (xapi_xenops.ml; trace 05#121-131)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import hypervisor, sr_hosts, vm_placement, vm_state
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.vm_work import disks_marked, forwarded, refresh_devices, started, tell

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@rule("VM.suspend")
def vm_suspend(call: Call, vm: str) -> None:
    with forwarded(call, vm, "suspend"):
        suspend(call, vm)
    tell(call, vm, "VM_SUSPENDED", "suspended")
    refresh_devices(call, vm)


@rule("VM.resume")
def vm_resume(call: Call, vm: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    with operation(call, ("VM", vm, "resume")), disks_marked(call, vm):
        host = vm_placement.choose(call.xapi, vm)
        resume(call, vm, host, paused=start_paused)
    started(call, vm, host, "VM_RESUMED", "resumed")


@rule("VM.resume_on")
def vm_resume_on(call: Call, vm: str, host: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    call.db.row("host", host)
    with operation(call, ("VM", vm, "resume_on")), disks_marked(call, vm):
        vm_placement.assert_can_boot_here(call.xapi, vm, host)
        resume(call, vm, host, paused=start_paused)
    started(call, vm, host, "VM_RESUMED", "resumed")


def suspend(call: Call, vm: str) -> None:
    """Save the memory to a new VDI of the suspend SR, and end the domain; VM_NO_SUSPEND_SR [vm]."""
    db = call.db
    row = db.row("VM", vm)
    sr = _suspend_sr(call, vm)
    db.set("VM", vm, ha_always_run=False)
    size = int(row["memory_static_max"] * 1.2 * 1.05) + 104857600
    vdi = invoke(
        call,
        "VDI.create",
        {
            "name_label": "Suspend image",
            "name_description": "Suspend image",
            "SR": sr,
            "virtual_size": size,
            "type": "suspend",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {"vmhint": row["uuid"], "initial_allocation": str(size)},
            "tags": [],
        },
    )
    db.set("VM", vm, suspend_VDI=vdi)
    hypervisor.suspend(call, vm)
    vm_state.set_power_state(call.xapi, vm, "Suspended")
    vm_state.refresh(call.xapi, vm)


def resume(call: Call, vm: str, host: str, *, paused: bool) -> None:
    """Start the domain again with its memory, and destroy the suspend image."""
    sr_hosts.assert_live(call.xapi, host)
    db = call.db
    image = db.row("VM", vm)["suspend_VDI"]
    if image == NULL:
        vm_state.domain_ended(call, vm)
        raise Failure("VM_HAS_NO_SUSPEND_VDI", "VM", vm)
    if db.row("VM", vm)["ha_restart_priority"] == "restart":
        db.set("VM", vm, ha_always_run=True)
    hypervisor.resume(call, vm, host)
    db.set("VM", vm, suspend_VDI=NULL)
    vm_state.domain_began(call, vm, host, "Paused" if paused else "Running")
    invoke(call, "VDI.destroy", image)


def _suspend_sr(call: Call, vm: str) -> str:
    """Return the suspend SR of the VM, the pool or the host: the first that the host has a PBD for, plugged or not."""
    db = call.db
    row = db.row("VM", vm)
    host = row["resident_on"]
    pool = db.row("pool", db.refs("pool")[0])
    seen = [db.row("PBD", pbd)["SR"] for pbd in db.children(host, "PBDs")]
    for sr in (row["suspend_SR"], pool["suspend_image_SR"], db.row("host", host)["suspend_image_sr"]):
        if sr in seen:
            return str(sr)
    raise Failure("VM_NO_SUSPEND_SR", vm)
