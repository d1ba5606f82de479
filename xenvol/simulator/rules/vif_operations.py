"""Which operations a VIF allows now: the table of xapi_vif_helpers.ml, in its order (trace 11#57-64)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.rules import vm_facts
from xenvol.simulator.rules.operations import DISCIPLINES, Discipline
from xenvol.simulator.rules.refusals import Refusals
from xenvol.simulator.rules.vbd_operations import in_progress, is_plugged

if TYPE_CHECKING:
    from xenvol.simulator.xapi import Xapi

OPERATIONS = ("attach", "unplug", "plug")
_PLUGGING = ("plug", "unplug")
_LEAVING = ("clean_shutdown", "hard_shutdown", "suspend", "pause")


def refusals(xapi: Xapi, vif: str) -> Refusals:
    db = xapi.db
    row = db.row("VIF", vif)
    vm = row["VM"]
    state = vm_facts.power_state(db, vm)
    table = Refusals(OPERATIONS)
    for task, operation in row["current_operations"].items():
        table.forbid_with(OPERATIONS, in_progress(xapi, "VIF", vif, operation, task))
    if vm_facts.is_dom0(db, vm):
        table.forbid(("plug",), "OPERATION_NOT_ALLOWED", "Control domain does not support hotplug")
    if state != "Running":
        table.forbid(_PLUGGING, "VM_BAD_POWER_STATE", vm, "running", state.lower())
    elif is_plugged(row):
        table.forbid(("plug",), "DEVICE_ALREADY_ATTACHED", vif)
    else:
        table.forbid(("unplug",), "DEVICE_ALREADY_DETACHED", vif)
    for operation in db.row("VM", vm)["current_operations"].values():
        if operation in _LEAVING:
            text = f"Current operation on VM:{vm} is {operation}"
            table.forbid(_PLUGGING, "OPERATION_NOT_ALLOWED", text)
    if state == "Running" and vm_facts.domain_type(db, vm) == "hvm":
        metrics = vm_facts.guest_metrics(db, vm)
        hotplug = metrics["can_use_hotplug_vif"] if metrics else "unspecified"
        if hotplug == "no":
            text = "VM states it does not support VIF hotplug."
            table.forbid(_PLUGGING, "OPERATION_NOT_ALLOWED", text)
        elif hotplug == "unspecified" and not vm_facts.has_pv_drivers(metrics):
            table.forbid(_PLUGGING, "VM_MISSING_PV_DRIVERS", vm)
    return table


def check(xapi: Xapi, vif: str, operation: str) -> None:
    refusals(xapi, vif).check(operation)


def update(xapi: Xapi, vif: str) -> None:
    xapi.db.set("VIF", vif, allowed_operations=refusals(xapi, vif).allowed)


DISCIPLINES["VIF"] = Discipline(check=check, update=update)
