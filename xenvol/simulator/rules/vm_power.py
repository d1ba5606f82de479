"""A VM starts, stops, stands still and sleeps (message_forwarding.ml, xapi_vm.ml, xapi_xenops.ml).

Every operation marks the VM, and those that begin a domain mark its disks as well, so that two VMs never start
with one disk. Afterwards all that may be allowed is computed anew; traces 04#225-329, 05#111-152.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import (
    hypervisor,
    message,
    vm_facts,
    vm_memory,
    vm_placement,
    vm_state,
    vm_stop,
)
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import SHORT_PATIENCE, operation

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_DEVICE_MODEL = "device-model"
_OLD_DEVICE_MODEL = "qemu-trad"


@rule("VM.start")
def vm_start(call: Call, vm: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    with operation(call, ("VM", vm, "start")), disks_marked(call, vm), vifs_marked(call, vm):
        _prepare(call, vm)
        host = vm_placement.choose(call.xapi, vm)
        _start(call, vm, host, paused=start_paused)
    _finish_start(call, vm, host, "VM_STARTED", "started")


@rule("VM.start_on")
def vm_start_on(call: Call, vm: str, host: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    call.db.row("host", host)
    with operation(call, ("VM", vm, "start_on")), disks_marked(call, vm), vifs_marked(call, vm):
        _prepare(call, vm)
        vm_placement.assert_can_boot_here(call.xapi, vm, host)
        _start(call, vm, host, paused=start_paused)
    _finish_start(call, vm, host, "VM_STARTED", "started")


@rule("VM.pause")
def vm_pause(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "pause")):
        vm_state.set_power_state(call.xapi, vm, "Paused")
        vm_state.refresh(call.xapi, vm)
    _tell(call, vm, "VM_PAUSED", "paused")
    _refresh_devices(call, vm)


@rule("VM.unpause")
def vm_unpause(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "unpause")):
        vm_state.set_power_state(call.xapi, vm, "Running")
        vm_state.refresh(call.xapi, vm)
    _tell(call, vm, "VM_UNPAUSED", "unpaused")
    _refresh_devices(call, vm)


@rule("VM.clean_shutdown")
def vm_clean_shutdown(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "clean_shutdown")):
        vm_stop.shut_down(call, vm)
    _tell(call, vm, "VM_SHUTDOWN", "shutdown")
    _refresh_devices(call, vm)


@rule("VM.shutdown")
def vm_shutdown(call: Call, vm: str) -> None:
    """Cleanly, or else hard; a suspended VM loses its memory."""
    with operation(call, ("VM", vm, "shutdown")):
        if vm_facts.power_state(call.db, vm) == "Suspended":
            vm_stop.forget_memory(call, vm)
        else:
            vm_stop.shut_down(call, vm)
    _refresh_devices(call, vm)
    _tell(call, vm, "VM_SHUTDOWN", "shutdown")


@rule("VM.hard_shutdown")
def vm_hard_shutdown(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "hard_shutdown")):
        vm_stop.cancel(call, vm, vm_stop.CANCELLED_BY_SHUTDOWN)
        match vm_facts.power_state(call.db, vm):
            case "Suspended":
                vm_stop.forget_memory(call, vm)
            case "Running" | "Paused":
                vm_stop.shut_down(call, vm)
    _tell(call, vm, "VM_SHUTDOWN", "shutdown forcibly")
    _refresh_devices(call, vm)


@rule("VM.clean_reboot")
def vm_clean_reboot(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "clean_reboot")), disks_marked(call, vm), vifs_marked(call, vm):
        _reboot(call, vm)
    _tell(call, vm, "VM_REBOOTED", "rebooted cleanly")
    _refresh_devices(call, vm)


@rule("VM.hard_reboot")
def vm_hard_reboot(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "hard_reboot")):
        vm_stop.cancel(call, vm, vm_stop.CANCELLED_BY_REBOOT)
        with disks_marked(call, vm), vifs_marked(call, vm):
            if vm_facts.power_state(call.db, vm) == "Halted":  # what was cancelled had ended it
                _start(call, vm, vm_placement.choose(call.xapi, vm), paused=False)
            else:
                _reboot(call, vm)
    _tell(call, vm, "VM_REBOOTED", "rebooted forcibly")
    _refresh_devices(call, vm)


@rule("VM.suspend")
def vm_suspend(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "suspend")):
        suspend(call, vm)
    _tell(call, vm, "VM_SUSPENDED", "suspended")
    _refresh_devices(call, vm)


@rule("VM.resume")
def vm_resume(call: Call, vm: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    with operation(call, ("VM", vm, "resume")), disks_marked(call, vm):
        host = vm_placement.choose(call.xapi, vm)
        resume(call, vm, host, paused=start_paused)
    _finish_start(call, vm, host, "VM_RESUMED", "resumed")


@rule("VM.resume_on")
def vm_resume_on(call: Call, vm: str, host: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    call.db.row("host", host)
    with operation(call, ("VM", vm, "resume_on")), disks_marked(call, vm):
        vm_placement.assert_can_boot_here(call.xapi, vm, host)
        resume(call, vm, host, paused=start_paused)
    _finish_start(call, vm, host, "VM_RESUMED", "resumed")


def suspend(call: Call, vm: str) -> None:
    """The memory goes to a new VDI of the suspend SR, the domain goes away; VM_NO_SUSPEND_SR [vm]."""
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
    """The domain comes back with its memory, and the suspend image is destroyed."""
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


@contextlib.contextmanager
def disks_marked(call: Call, vm: str) -> Iterator[None]:
    """Nobody else may use the disks meanwhile; VDI_IN_USE and the like where somebody does.

    Each disk is marked before the next is looked at, so a VM with one disk in two slots is in its own way
    (trace 04#355).
    """
    marks = [("VBD", vbd, "attach") for vbd in call.db.children(vm, "VBDs")]
    with operation(call, *marks, patience=SHORT_PATIENCE):
        yield


@contextlib.contextmanager
def vifs_marked(call: Call, vm: str) -> Iterator[None]:
    marks = [("VIF", vif, "attach") for vif in call.db.children(vm, "VIFs")]
    with operation(call, *marks):
        yield


def _prepare(call: Call, vm: str) -> None:
    """What is written down before a host is looked for."""
    db = call.db
    row = db.row("VM", vm)
    if row["domain_type"] == "unspecified":
        db.set("VM", vm, domain_type="hvm" if row["HVM_boot_policy"] else "pv")
    vm_memory.update_overhead(call.xapi, vm)


def _start(call: Call, vm: str, host: str, *, paused: bool) -> None:
    db = call.db
    row = db.row("VM", vm)
    if row["ha_restart_priority"] == "restart":
        db.set("VM", vm, ha_always_run=True)
    if row["domain_type"] == "hvm":
        firmware = row["HVM_boot_params"].get("firmware", "bios")
        default = "qemu-upstream-compat" if firmware == "bios" else "qemu-upstream-uefi"
        if row["platform"].get(_DEVICE_MODEL, _OLD_DEVICE_MODEL) == _OLD_DEVICE_MODEL:
            db.map_add("VM", vm, "platform", _DEVICE_MODEL, default)
    vm_state.forget_guest(call, vm)
    version = 2 if row["has_vendor_device"] else 0
    db.set("VM", vm, hardware_platform_version=max(row["hardware_platform_version"], version))
    db.set("VM", vm, scheduled_to_be_resident_on=host)
    try:
        hypervisor.start(call, vm, host)
    except Failure:
        vm_state.domain_ended(call, vm)
        raise
    vm_state.domain_began(call, vm, host, "Paused" if paused else "Running")
    if row["start_delay"]:
        call.sleep(row["start_delay"])


def _reboot(call: Call, vm: str) -> None:
    """The same domain, begun anew: its disks stay plugged, and those that were not plugged stay out."""
    host = call.db.row("VM", vm)["resident_on"]
    vm_state.domain_began(call, vm, host, "Running")


def _suspend_sr(call: Call, vm: str) -> str:
    """Of the VM, of the pool, or of the host: the first that the VM's host has a PBD for, plugged or not."""
    db = call.db
    row = db.row("VM", vm)
    host = row["resident_on"]
    pool = db.row("pool", db.refs("pool")[0])
    seen = [db.row("PBD", pbd)["SR"] for pbd in db.children(host, "PBDs")]
    for sr in (row["suspend_SR"], pool["suspend_image_SR"], db.row("host", host)["suspend_image_sr"]):
        if sr in seen:
            return str(sr)
    raise Failure("VM_NO_SUSPEND_SR", vm)


def _finish_start(call: Call, vm: str, host: str, name: str, verb: str) -> None:
    _refresh_devices(call, vm)
    row = call.db.row("host", host)
    _tell(call, vm, name, f"{verb} on host: {row['name_label']} (uuid: {row['uuid']})")


def _refresh_devices(call: Call, vm: str) -> None:
    vm_state.refresh_disks(call.xapi, vm)
    vm_state.refresh_vifs(call.xapi, vm)


def _tell(call: Call, vm: str, name: str, what: str) -> None:
    """Leave a message about what happened to the VM."""
    row = call.db.row("VM", vm)
    message.write(call, name, "VM", vm, f"VM '{row['name_label']}' (uuid: {row['uuid']}) {what}")
