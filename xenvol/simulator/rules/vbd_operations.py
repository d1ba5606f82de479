"""Which operations a VBD allows now, and the other users of its disk: xapi_vbd_helpers.ml's table, in its order.

docs/background/xapi.md 2.4 (VBD.plug); traces 04#183-189, 05#38-128. The whole table is computed for any
operation, so a VBD whose VDI row has vanished refuses everything with HANDLE_INVALID
(docs/background/recordings.md, finding 8 (storage)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rules import releases, vm_facts
from xenvol.simulator.rules.operations import DISCIPLINES, IN_PROGRESS, Discipline, update_allowed_operations
from xenvol.simulator.rules.refusals import Refusals

if TYPE_CHECKING:
    from xenvol.simulator.xapi import Xapi

OPERATIONS = ("attach", "unpause", "unplug", "plug", "insert", "unplug_force", "eject", "pause")

_PLUGGING = ("plug", "unplug", "unplug_force")
_USING_THE_DISK = ("attach", "insert", "plug")
_PARALLEL = ("pause", "unpause")
_LEAVING = ("clean_shutdown", "hard_shutdown", "suspend", "pause")
"""Operations of a VM during which none of its disks may be plugged or unplugged."""


def refusals(xapi: Xapi, vbd: str, *, check_sharing: bool) -> Refusals:
    """Return every operation with what forbids it.

    Other users of the disk are checked only before an operation, not for allowed_operations, which are
    therefore a little too generous (docs/background/xapi.md 1.2).
    """
    db = xapi.db
    row = db.row("VBD", vbd)
    vm = row["VM"]
    state = vm_facts.power_state(db, vm)
    table = Refusals(OPERATIONS)
    _current_operations(xapi, table, vbd, row)
    if not row["unpluggable"]:
        table.forbid(("unplug", "unplug_force"), "VBD_NOT_UNPLUGGABLE", vbd)
    if row["type"] != "CD":
        table.forbid(("insert", "eject"), "VBD_NOT_REMOVABLE_MEDIA", vbd)
    if row["empty"]:
        table.forbid(("eject",), "VBD_IS_EMPTY", vbd)
    else:
        table.forbid(("insert",), "VBD_NOT_EMPTY", vbd)
    if state != "Running":
        not_running = _PLUGGING if state == "Paused" else (*_PLUGGING, *_PARALLEL)
        table.forbid(not_running, "VM_BAD_POWER_STATE", vm, "running", state.lower())
    elif is_plugged(row):
        table.forbid(("plug",), "DEVICE_ALREADY_ATTACHED", vbd)
    else:
        table.forbid(("unplug", "unplug_force"), "DEVICE_ALREADY_DETACHED", vbd)
    for operation in db.row("VM", vm)["current_operations"].values():
        if operation in _LEAVING:
            text = f"Current operation on VM:{vm} is {operation}"
            table.forbid(("plug", "unplug"), "OPERATION_NOT_ALLOWED", text)
    if vm_facts.domain_type(db, vm) == "hvm" and state == "Running":
        _hvm(xapi, table, vm, row)
    if row["type"] == "CD" and state == "Suspended":
        table.forbid(("insert", "eject"), "VM_BAD_POWER_STATE", vm, "halted, running", "suspended")
    if not row["empty"]:
        _disk(xapi, table, vbd, row, check_sharing=check_sharing)
    return table


def is_plugged(row: dict[str, Any]) -> bool:
    """Return True if the VBD's disk is in the VM, or is being plugged."""
    return bool(row["currently_attached"] or row["reserved"])


def update(xapi: Xapi, vbd: str) -> None:
    """Store allowed_operations; raises if the VBD's own references are dead."""
    allowed = refusals(xapi, vbd, check_sharing=False).allowed
    xapi.db.set("VBD", vbd, allowed_operations=allowed)


def check(xapi: Xapi, vbd: str, operation: str) -> None:
    """Raise what forbids the operation now."""
    refusals(xapi, vbd, check_sharing=True).check(operation)


DISCIPLINES["VBD"] = Discipline(check=check, update=update)


def update_vbd_and_vdi(xapi: Xapi, vbd: str) -> None:
    """Refresh what xapi refreshes after a successful operation on a VBD; failures are ignored."""
    update_allowed_operations(xapi, "VBD", vbd)
    if xapi.db.exists("VBD", vbd) and not xapi.db.row("VBD", vbd)["empty"]:
        update_allowed_operations(xapi, "VDI", xapi.db.row("VBD", vbd)["VDI"])


def in_progress(xapi: Xapi, cls: str, ref: str, operation: str, task: str) -> Failure:
    """Return OTHER_OPERATION_IN_PROGRESS; newer xapi names the task in it (`releases.IN_PROGRESS_NAMES_TASK`)."""
    named = (task,) if releases.since(xapi, releases.IN_PROGRESS_NAMES_TASK) else ()
    return Failure(IN_PROGRESS, cls, ref, operation, *named)


def _current_operations(xapi: Xapi, table: Refusals, vbd: str, row: dict[str, Any]) -> None:
    current = list(row["current_operations"].items())
    exclusive = [(task, op) for task, op in current if op not in _PARALLEL]
    others = [(task, op) for task, op in exclusive if op != "attach"]
    serial = [op for op in OPERATIONS if op not in _PARALLEL]
    for operations, in_the_way in ((serial, current), (("pause",), exclusive), (("unpause",), others)):
        if in_the_way:
            task, operation = in_the_way[0]
            table.forbid_with(operations, in_progress(xapi, "VBD", vbd, operation, task))


def _hvm(xapi: Xapi, table: Refusals, vm: str, row: dict[str, Any]) -> None:
    """Forbid hotplug in an HVM VM for a guest without drivers, and for CD drives."""
    metrics = vm_facts.guest_metrics(xapi.db, vm)
    hotplug = metrics["can_use_hotplug_vbd"] if metrics else "unspecified"
    if hotplug == "no":
        table.forbid(_PLUGGING, "OPERATION_NOT_ALLOWED", "VM states it does not support VBD hotplug.")
    elif hotplug == "unspecified" and not vm_facts.has_pv_drivers(metrics):
        table.forbid(_PLUGGING, "VM_MISSING_PV_DRIVERS", vm)
    if row["type"] == "CD":
        text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
        table.forbid(_PLUGGING, "OPERATION_NOT_ALLOWED", text)


def _disk(xapi: Xapi, table: Refusals, vbd: str, row: dict[str, Any], *, check_sharing: bool) -> None:
    vdi = row["VDI"]
    disk = xapi.db.row("VDI", vdi)
    if not disk["managed"]:
        table.forbid(OPERATIONS, "VDI_NOT_MANAGED", vbd)
    busy = [item for item in disk["current_operations"].items() if item[1] not in ("mirror", "copy")]
    if busy:
        task, operation = busy[0]
        table.forbid_with(_USING_THE_DISK, in_progress(xapi, "VDI", vdi, operation, task))
    if check_sharing and not row["currently_attached"]:
        writes = row["mode"] == "RW"
        users = _other_users(xapi, vbd, vdi)
        alone = disk["sharable"] or vm_facts.is_system_domain(xapi.db, row["VM"])
        if not alone and ("RW" in users or (writes and users)):
            table.forbid(_USING_THE_DISK, "VDI_IN_USE", vdi)
        if writes and disk["read_only"]:
            table.forbid(_USING_THE_DISK, "VDI_READONLY", vdi)


def _other_users(xapi: Xapi, vbd: str, vdi: str) -> list[str]:
    """Return the modes of the disk's other VBDs, without those of suspended VMs and of system domains."""
    rows = [xapi.db.row("VBD", other) for other in xapi.db.children(vdi, "VBDs") if other != vbd]
    return [
        row["mode"]
        for row in rows
        if vm_facts.power_state(xapi.db, row["VM"]) != "Suspended"
        and not vm_facts.is_system_domain(xapi.db, row["VM"])
        and (is_plugged(row) or row["current_operations"])
    ]
