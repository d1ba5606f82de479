"""What changes with a VM's power state, on the VM and its devices (xapi_vm_lifecycle.ml, xapi_xenops.ml).

The database follows the hypervisor: a new state is written after the domain has changed. Then
allowed_operations of the VM, its VBDs, their VDIs and its VIFs are computed anew.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import vm_facts
from xenvol.simulator.rules.operations import DISCIPLINES, update_allowed_operations

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi

_DRIVERS = {"major": "7", "minor": "30", "micro": "0", "build": "1"}
_FEATURES = ("shutdown", "poweroff", "reboot", "suspend", "balloon")
"""What the guest agent of a VM with PV drivers reports (trace 05#30)."""


def set_power_state(xapi: Xapi, vm: str, state: str) -> None:
    """Set the power state, and the fields of devices and host that follow from it."""
    db = xapi.db
    db.set("VM", vm, power_state=state)
    if state == "Halted":
        for vbd in db.children(vm, "VBDs"):
            db.set("VBD", vbd, currently_attached=False, reserved=False)
        for vif in db.children(vm, "VIFs"):
            db.set("VIF", vif, currently_attached=False, reserved=False)
        db.set("VM", vm, requires_reboot=False)
    if state == "Halted" or (state == "Suspended" and not _is_checkpointed(xapi, vm)):
        db.set("VM", vm, resident_on=NULL, scheduled_to_be_resident_on=NULL, domid=-1)
    update_allowed_operations(xapi, "VM", vm)


def refresh(xapi: Xapi, vm: str) -> None:
    """Compute allowed_operations anew.

    A VBD whose VDI has vanished ends the computation: the VM's older VBDs and its VIFs keep theirs
    (xapi_vm.ml, update_allowed_operations).
    """
    with contextlib.suppress(Failure):
        refresh_disks(xapi, vm)
        refresh_vifs(xapi, vm)
    update_allowed_operations(xapi, "VM", vm)


def refresh_disks(xapi: Xapi, vm: str) -> None:
    """Refresh VBDs and VDIs after a power operation; raises for a VBD whose VDI has vanished.

    docs/background/recordings.md, finding 8 (storage).
    """
    for vbd in vm_facts.slots(xapi.db, vm):
        DISCIPLINES["VBD"].update(xapi, vbd)
        update_allowed_operations(xapi, "VDI", xapi.db.row("VBD", vbd)["VDI"])


def refresh_vifs(xapi: Xapi, vm: str) -> None:
    for vif in xapi.db.children(vm, "VIFs"):
        update_allowed_operations(xapi, "VIF", vif)


@rule("VM.update_allowed_operations")
def vm_update_allowed_operations(call: Call, vm: str) -> None:
    call.db.row("VM", vm)
    refresh(call.xapi, vm)


def domain_began(call: Call, vm: str, host: str, state: str) -> None:
    """Record that a domain runs, or is paused, on the host."""
    db = call.db
    row = db.row("VM", vm)
    if db.exists("VM_metrics", row["metrics"]):
        db.set(
            "VM_metrics",
            row["metrics"],
            current_domain_type=row["domain_type"],
            hvm=row["domain_type"] == "hvm",
            nomigrate=vm_facts.is_true(row["platform"].get("nomigrate", "")),
            nested_virt=vm_facts.is_true(row["platform"].get("nested-virt", "")),
            VCPUs_number=row["VCPUs_at_startup"],
            memory_actual=row["memory_dynamic_max"],
            start_time=call.xapi.now(),
        )
    domids = (db.row("VM", other)["domid"] for other in db.children(host, "resident_VMs"))
    db.set(
        "VM",
        vm,
        resident_on=host,
        scheduled_to_be_resident_on=NULL,
        domid=max(domids, default=0) + 1,
        memory_target=row["memory_dynamic_max"],
    )
    report_guest(call, vm)
    set_power_state(call.xapi, vm, state)
    refresh(call.xapi, vm)


def domain_ended(call: Call, vm: str) -> None:
    """Record that the domain has ended."""
    metrics = call.db.row("VM", vm)["metrics"]
    if call.db.exists("VM_metrics", metrics):
        call.db.set("VM_metrics", metrics, current_domain_type="unspecified")
    set_power_state(call.xapi, vm, "Halted")
    refresh(call.xapi, vm)


def report_guest(call: Call, vm: str) -> None:
    """Write the guest agent's report; an HVM guest without drivers reports nothing."""
    db = call.db
    forget_guest(call, vm)
    row = db.row("VM", vm)
    has_drivers = row["domain_type"] == "hvm" and vm_facts.is_true(row["platform"].get("sim-pv", ""))
    metrics = db.create("VM_guest_metrics", last_updated=call.xapi.now(), live=True)
    if has_drivers:
        db.set(
            "VM_guest_metrics",
            metrics,
            os_version={"name": "Simulated Linux", "uname": "6.1", "distro": "sim"},
            PV_drivers_version=dict(_DRIVERS),
            PV_drivers_up_to_date=True,
            PV_drivers_detected=True,
            can_use_hotplug_vbd="yes",
            other={f"feature-{feature}": "1" for feature in _FEATURES},
        )
    db.set("VM", vm, guest_metrics=metrics)


def forget_guest(call: Call, vm: str) -> None:
    """Delete the report of the last guest."""
    db = call.db
    metrics = db.row("VM", vm)["guest_metrics"]
    db.set("VM", vm, guest_metrics=NULL)
    if db.exists("VM_guest_metrics", metrics):
        db.delete("VM_guest_metrics", metrics)


def _is_checkpointed(xapi: Xapi, vm: str) -> bool:
    return "checkpoint" in xapi.db.row("VM", vm)["current_operations"].values()
