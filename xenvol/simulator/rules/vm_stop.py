"""Halt a VM from any state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import RULES, rule
from xenvol.simulator.rules import hypervisor, liveness, vm_facts, vm_placement, vm_state
from xenvol.simulator.rules.nested import invoke

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

CANCELLED_BY_REBOOT = ("clean_shutdown", "clean_reboot", "pool_migrate", "call_plugin", "suspend")
CANCELLED_BY_SHUTDOWN = (*CANCELLED_BY_REBOOT, "hard_reboot")
_PATIENCE = 30.0  # seconds that a cancelled operation may take to end; more than any here needs


def shut_down(call: Call, vm: str, *, clean: bool) -> None:
    """End the domain, and ignore errors of the storage."""
    call.db.set("VM", vm, ha_always_run=False)
    hypervisor.power_off(call, vm, clean=clean)
    vm_state.domain_ended(call, vm)
    delay = call.db.row("VM", vm)["shutdown_delay"]
    if delay:
        call.sleep(delay)


def forget_memory(call: Call, vm: str) -> None:
    """Halt a suspended VM by destroying its suspend image, on a host that sees the VM's SRs."""
    db = call.db
    db.set("VM", vm, ha_always_run=False)
    srs = [db.row("VDI", vdi)["SR"] for vdi in vm_facts.vdis(db, vm)]
    vm_placement.choose_seeing(call.xapi, srs)
    image = db.row("VM", vm)["suspend_VDI"]
    if image != NULL:
        with contextlib.suppress(Failure):
            invoke(call, "VDI.destroy", image)
    db.set("VM", vm, suspend_VDI=NULL)
    vm_state.domain_ended(call, vm)


def cancel(call: Call, vm: str, operations: Iterable[str]) -> None:
    """Cancel operations that conflict with a hard shutdown, if they have tasks, and wait for their end."""
    db = call.db
    current = db.row("VM", vm)["current_operations"]
    tasks = [task for task, op in current.items() if op in operations and db.exists("task", task)]
    for task in tasks:
        with contextlib.suppress(Failure):
            RULES["task.cancel"](call, task)
    waited = 0.0
    while waited < _PATIENCE and any(task in db.row("VM", vm)["current_operations"] for task in tasks):
        call.sleep(0.05)
        waited += 0.05


@rule("VM.power_state_reset")
def vm_power_state_reset(call: Call, vm: str) -> None:
    """Reset the power state of a VM whose host is lost; refuse for a VM that runs.

    The guest's report and its type of domain stay until the next start (xapi_vm_lifecycle.ml, force_state_reset).
    """
    db = call.db
    row = db.row("VM", vm)
    if row["is_control_domain"]:
        raise Failure("CANNOT_RESET_CONTROL_DOMAIN", vm)
    if vm_facts.is_live(db, vm):
        home = row["resident_on"]
        if home == call.xapi.master:
            if vm in call.xapi.domains:
                raise Failure("DOMAIN_EXISTS", vm)
        elif liveness.is_alive(call.xapi, home):
            raise Failure("HOST_IS_LIVE", home)
    hypervisor.stop(call, vm)
    for cls, ref in (
        ("VM", vm),
        *(("VBD", vbd) for vbd in db.children(vm, "VBDs")),
        *(("VIF", vif) for vif in db.children(vm, "VIFs")),
    ):
        db.set(cls, ref, current_operations={})
    vm_state.set_power_state(call.xapi, vm, "Halted")
