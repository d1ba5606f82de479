"""Operations on a VBD: plug, unplug, insert, eject, and changes of its record (xapi_vbd.ml).

docs/background/xapi.md 2.4; traces 04, 05. An operation marks the VBD, runs on the VM's host, and refreshes
allowed_operations of VBD and VDI only if it succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import control_domain, hotplug, liveness, vbd_operations, vm_facts
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.vbd_create import assert_stays_agile
from xenvol.simulator.rules.vbd_operations import is_plugged, update_vbd_and_vdi

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@rule("VBD.plug")
def vbd_plug(call: Call, vbd: str) -> None:
    with operation(call, ("VBD", vbd, "plug")):
        db = call.db
        row = db.row("VBD", vbd)
        liveness.assert_runs_calls(call.xapi, row["VM"])
        if db.row("VM", row["VM"])["is_control_domain"]:
            control_domain.plug(call, vbd)
        else:
            if vm_facts.has_qemu(db, row["VM"]) and row["type"] != "CD" and row["mode"] == "RO":
                raise Failure("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd)
            hotplug.plug(call, vbd)
    update_vbd_and_vdi(call.xapi, vbd)


@rule("VBD.unplug")
def vbd_unplug(call: Call, vbd: str) -> None:
    with operation(call, ("VBD", vbd, "unplug")):
        _unplug(call, vbd, force=False)
    update_vbd_and_vdi(call.xapi, vbd)


@rule("VBD.unplug_force", "VBD.unplug_force_no_safety_check")
def vbd_unplug_force(call: Call, vbd: str) -> None:
    with operation(call, ("VBD", vbd, "unplug_force")):
        _unplug(call, vbd, force=True)
    update_vbd_and_vdi(call.xapi, vbd)


@rule("VBD.insert")
def vbd_insert(call: Call, vbd: str, vdi: str) -> None:
    db = call.db
    with operation(call, ("VBD", vbd, "insert")):
        vm = db.row("VBD", vbd)["VM"]
        _assert_not_suspended(call, vm)
        if not db.row("VDI", vdi)["managed"]:
            raise Failure("VDI_NOT_MANAGED", vdi)
        assert_stays_agile(call, vm, vdi)
        if vm_facts.power_state(db, vm) == "Halted":
            db.set("VBD", vbd, VDI=vdi, empty=False)
        else:
            liveness.assert_runs_calls(call.xapi, vm)
            hotplug.insert(call, vbd, vdi)
    update_vbd_and_vdi(call.xapi, vbd)


@rule("VBD.eject")
def vbd_eject(call: Call, vbd: str) -> None:
    db = call.db
    with operation(call, ("VBD", vbd, "eject")):
        vm = db.row("VBD", vbd)["VM"]
        _assert_not_suspended(call, vm)
        if vm_facts.power_state(db, vm) == "Halted":
            db.set("VBD", vbd, VDI=NULL, empty=True)
        else:
            liveness.assert_runs_calls(call.xapi, vm)
            hotplug.eject(call, vbd)
    update_vbd_and_vdi(call.xapi, vbd)


@rule("VBD.pause")
def vbd_pause(call: Call, vbd: str) -> str:
    _refuse_pausing(call, vbd, "pause")
    return ""


@rule("VBD.unpause")
def vbd_unpause(call: Call, vbd: str, _token: str) -> None:
    _refuse_pausing(call, vbd, "unpause")


@rule("VBD.assert_attachable")
def vbd_assert_attachable(call: Call, vbd: str) -> None:
    vbd_operations.check(call.xapi, vbd, "attach")


@rule("VBD.set_mode")
def vbd_set_mode(call: Call, vbd: str, mode: str) -> None:
    vm = call.db.row("VBD", vbd)["VM"]
    state = vm_facts.power_state(call.db, vm)
    if state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())
    call.db.set("VBD", vbd, mode=mode)


@rule("VBD.destroy")
def vbd_destroy(call: Call, vbd: str) -> None:
    db = call.db
    row = db.row("VBD", vbd)
    if is_plugged(row):
        vm_uuid = db.row("VM", row["VM"])["uuid"]
        text = f"VBD '{row['uuid']}' still attached to '{vm_uuid}'"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    delete_vbd(call, vbd)


def delete_vbd(call: Call, vbd: str) -> None:
    """Delete the row and its metrics, even while an operation on the VBD is under way."""
    db = call.db
    metrics = db.row("VBD", vbd)["metrics"]
    if db.exists("VBD_metrics", metrics):
        db.delete("VBD_metrics", metrics)
    db.delete("VBD", vbd)


def _unplug(call: Call, vbd: str, *, force: bool) -> None:
    db = call.db
    row = db.row("VBD", vbd)
    liveness.assert_runs_calls(call.xapi, row["VM"])
    if db.row("VM", row["VM"])["is_control_domain"]:
        control_domain.unplug(call, vbd)
    else:
        hotplug.unplug(call, vbd, force=force)


def _refuse_pausing(call: Call, vbd: str, name: str) -> None:
    """Refuse, as xapi no longer supports it: SR_OPERATION_NOT_SUPPORTED [sr] at best (xapi_vbd.ml, pause)."""
    with operation(call, ("VBD", vbd, name)):
        vdi = call.db.row("VBD", vbd)["VDI"]
        raise Failure("SR_OPERATION_NOT_SUPPORTED", call.db.row("VDI", vdi)["SR"])


def _assert_not_suspended(call: Call, vm: str) -> None:
    if vm_facts.power_state(call.db, vm) == "Suspended":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted, running", "suspended")
