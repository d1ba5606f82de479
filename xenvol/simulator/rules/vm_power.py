"""Start, stop, pause and suspend a VM (message_forwarding.ml, xapi_vm.ml, xapi_xenops.ml).

Every operation marks the VM. Those that begin a domain mark its disks as well, so two VMs never start with
one disk. Afterwards allowed_operations are computed anew; traces 04#225-329, 05#111-152.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import (
    hypervisor,
    liveness,
    sr_hosts,
    vm_facts,
    vm_memory,
    vm_placement,
    vm_state,
    vm_stop,
)
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.vm_work import (
    disks_marked,
    forwarded,
    refresh_devices,
    started,
    tell,
    vifs_marked,
)

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
    started(call, vm, host, "VM_STARTED", "started")


@rule("VM.start_on")
def vm_start_on(call: Call, vm: str, host: str, start_paused: bool, _force: bool) -> None:
    call.db.row("VM", vm)
    call.db.row("host", host)
    with operation(call, ("VM", vm, "start_on")), disks_marked(call, vm), vifs_marked(call, vm):
        _prepare(call, vm)
        vm_placement.assert_can_boot_here(call.xapi, vm, host)
        _start(call, vm, host, paused=start_paused)
    started(call, vm, host, "VM_STARTED", "started")


@rule("VM.pause")
def vm_pause(call: Call, vm: str) -> None:
    with forwarded(call, vm, "pause"):
        hypervisor.pause(call)
        vm_state.set_power_state(call.xapi, vm, "Paused")
        vm_state.refresh(call.xapi, vm)
    tell(call, vm, "VM_PAUSED", "paused")
    refresh_devices(call, vm)


@rule("VM.unpause")
def vm_unpause(call: Call, vm: str) -> None:
    with forwarded(call, vm, "unpause"):
        hypervisor.pause(call)
        vm_state.set_power_state(call.xapi, vm, "Running")
        vm_state.refresh(call.xapi, vm)
    tell(call, vm, "VM_UNPAUSED", "unpaused")
    refresh_devices(call, vm)


@rule("VM.clean_shutdown")
def vm_clean_shutdown(call: Call, vm: str) -> None:
    with forwarded(call, vm, "clean_shutdown"):
        vm_stop.shut_down(call, vm, clean=True)
    tell(call, vm, "VM_SHUTDOWN", "shutdown")
    refresh_devices(call, vm)


@rule("VM.shutdown")
def vm_shutdown(call: Call, vm: str) -> None:
    """Shut down cleanly, or else hard; a suspended VM loses its memory."""
    with forwarded(call, vm, "shutdown"):
        if vm_facts.power_state(call.db, vm) == "Suspended":
            vm_stop.forget_memory(call, vm)
        else:
            vm_stop.shut_down(call, vm, clean=True)
    refresh_devices(call, vm)
    tell(call, vm, "VM_SHUTDOWN", "shutdown")


@rule("VM.hard_shutdown")
def vm_hard_shutdown(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "hard_shutdown")):
        vm_stop.cancel(call, vm, vm_stop.CANCELLED_BY_SHUTDOWN)
        liveness.assert_runs_calls(call.xapi, vm)
        match vm_facts.power_state(call.db, vm):
            case "Suspended":
                vm_stop.forget_memory(call, vm)
            case "Running" | "Paused":
                vm_stop.shut_down(call, vm, clean=False)
    tell(call, vm, "VM_SHUTDOWN", "shutdown forcibly")
    refresh_devices(call, vm)


@rule("VM.clean_reboot")
def vm_clean_reboot(call: Call, vm: str) -> None:
    with forwarded(call, vm, "clean_reboot"), disks_marked(call, vm), vifs_marked(call, vm):
        _reboot(call, vm, clean=True)
    tell(call, vm, "VM_REBOOTED", "rebooted cleanly")
    refresh_devices(call, vm)


@rule("VM.hard_reboot")
def vm_hard_reboot(call: Call, vm: str) -> None:
    with operation(call, ("VM", vm, "hard_reboot")):
        vm_stop.cancel(call, vm, vm_stop.CANCELLED_BY_REBOOT)
        liveness.assert_runs_calls(call.xapi, vm)
        with disks_marked(call, vm), vifs_marked(call, vm):
            if vm_facts.power_state(call.db, vm) == "Halted":  # the cancelled operation had ended the domain
                _start(call, vm, vm_placement.choose(call.xapi, vm), paused=False)
            else:
                _reboot(call, vm, clean=False)
    tell(call, vm, "VM_REBOOTED", "rebooted forcibly")
    refresh_devices(call, vm)


def _prepare(call: Call, vm: str) -> None:
    """Write what xapi writes before it chooses a host."""
    db = call.db
    row = db.row("VM", vm)
    if row["domain_type"] == "unspecified":
        db.set("VM", vm, domain_type="hvm" if row["HVM_boot_policy"] else "pv")
    vm_memory.update_overhead(call.xapi, vm)


def _start(call: Call, vm: str, host: str, *, paused: bool) -> None:
    sr_hosts.assert_live(call.xapi, host)
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


def _reboot(call: Call, vm: str, *, clean: bool) -> None:
    """Restart the domain: plugged disks stay plugged, unplugged disks stay unplugged."""
    hypervisor.reboot(call, vm, clean=clean)
    host = call.db.row("VM", vm)["resident_on"]
    vm_state.domain_began(call, vm, host, "Running")
