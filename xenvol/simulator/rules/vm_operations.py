"""Which operations a VM allows now: the checks of xapi_vm_lifecycle.ml, in their order.

docs/background/xapi.md 2.4; traces 04#230, #311-327, 05#27, #113, #144-156. There are two modes: strict, if
the guest's drivers must take part, and lenient, if the caller insists (VM.pool_migrate with ``force``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rules import releases, vm_facts
from xenvol.simulator.rules.operations import DISCIPLINES, IN_PROGRESS, Discipline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenvol.simulator.xapi import Xapi

_STATES: dict[str, tuple[str, ...]] = {
    "create_vtpm": ("Halted",),
    "destroy": ("Halted", "Suspended"),
    "metadata_export": ("Halted", "Paused", "Suspended", "Running"),
    "export": ("Halted", "Suspended"),
    "make_into_template": ("Halted",),
    "changing_NVRAM": ("Halted",),
    "changing_VCPUs_live": ("Running",),
    "changing_shadow_memory": ("Halted",),
    "changing_static_range": ("Halted",),
    "changing_dynamic_range": ("Halted", "Running"),
    "migrate_send": ("Halted", "Suspended", "Running"),
    "pool_migrate": ("Running",),
    "resume_on": ("Suspended",),
    "resume": ("Suspended",),
    "suspend": ("Running",),
    "hard_reboot": ("Paused", "Running"),
    "hard_shutdown": ("Paused", "Suspended", "Running"),
    "clean_reboot": ("Running",),
    "clean_shutdown": ("Running",),
    "unpause": ("Paused",),
    "pause": ("Running",),
    "start_on": ("Halted",),
    "start": ("Halted",),
    "provision": ("Halted",),
    "snapshot_with_quiesce": ("Running",),
    "checkpoint": ("Paused", "Suspended", "Running"),
    "revert": ("Halted", "Paused", "Suspended", "Running"),
    "copy": ("Halted",),
    "clone": ("Halted",),
    "snapshot": ("Halted", "Paused", "Suspended", "Running"),
}
"""The operations that allowed_operations may list, in xapi's order, with the power states that they need."""

_UNLISTED_STATES: dict[str, tuple[str, ...]] = {
    "import": (),
    "changing_VCPUs": ("Halted",),
    "changing_memory_limits": ("Halted",),
    "csvm": ("Suspended",),
    "awaiting_memory_live": ("Running",),
    "call_plugin": ("Running",),
    "changing_memory_live": ("Running",),
    "changing_shadow_memory_live": ("Running",),
    "data_source_op": ("Running",),
    "send_sysrq": ("Running",),
    "send_trigger": ("Running",),
    "sysprep": ("Running",),
    "create_template": ("Halted", "Suspended"),
    "get_boot_record": ("Paused", "Suspended", "Running"),
    "shutdown": ("Paused", "Suspended", "Running"),
    "assert_operation_valid": ("Halted", "Paused", "Suspended", "Running"),
    "power_state_reset": ("Halted", "Paused", "Suspended", "Running"),
    "reverting": ("Halted", "Paused", "Suspended", "Running"),
    "update_allowed_operations": ("Halted", "Paused", "Suspended", "Running"),
    "query_services": ("Halted", "Paused", "Suspended", "Running"),
}

_OF_RUNNING_CONTROL_DOMAINS = ("changing_VCPUs", "changing_static_range", "changing_memory_limits")

_LONG_COPIES = {"clone", "copy", "export"}
_SNAPSHOTS = {"snapshot", "checkpoint"}
_BOOT_RECORDS = {"get_boot_record"}
_AFTER = {
    ("snapshot_with_quiesce", "snapshot"),
    ("migrate_send", "metadata_export"),
    ("migrate_send", "clean_shutdown"),
    ("migrate_send", "clean_reboot"),
}
"""Pairs: (the only operation under way, an operation that may begin nevertheless)."""

_OF_TEMPLATES = {
    "changing_dynamic_range",
    "changing_static_range",
    "changing_memory_limits",
    "changing_shadow_memory",
    "changing_VCPUs",
    "changing_NVRAM",
    "clone",
    "copy",
    "export",
    "metadata_export",
    "provision",
}
_OF_SNAPSHOTS = {"revert", "clone", "copy", "export", "destroy", "hard_shutdown", "metadata_export"}
_OF_CONTROL_DOMAINS = {
    "data_source_op",
    "changing_memory_live",
    "awaiting_memory_live",
    "metadata_export",
    "changing_dynamic_range",
    "changing_memory_limits",
    "changing_static_range",
    "start",
    "start_on",
    "changing_VCPUs",
    "destroy",
}
_SUSPENDING = {"suspend", "checkpoint", "pool_migrate", "migrate_send"}
_READING_DISKS = {"checkpoint", "snapshot", "suspend", "snapshot_with_quiesce"}


def operations(xapi: Xapi) -> list[str]:
    """Return the operations that allowed_operations may list, in its order."""
    newest = ["sysprep"] if releases.since(xapi, releases.SYSPREP) else []
    return [*newest, *_STATES]


def check(xapi: Xapi, vm: str, operation: str, *, strict: bool = True) -> None:
    """Raise the first thing that forbids the operation."""
    for reason in _reasons(xapi, vm, operation, strict=strict):
        raise reason


def update(xapi: Xapi, vm: str) -> None:
    """Store allowed_operations."""
    allowed = [op for op in operations(xapi) if next(_reasons(xapi, vm, op, strict=True), None) is None]
    xapi.db.set("VM", vm, allowed_operations=allowed)


DISCIPLINES["VM"] = Discipline(check=check, update=update)


def _reasons(xapi: Xapi, vm: str, op: str, *, strict: bool) -> Iterator[Failure]:
    """Yield what forbids the operation, in xapi's order; only the first one counts."""
    db = xapi.db
    row = db.row("VM", vm)
    if op in row["blocked_operations"]:
        yield Failure("OPERATION_BLOCKED", vm, row["blocked_operations"][op])
    pool = db.row("pool", db.refs("pool")[0])
    clones_suspended = pool["other_config"].get("allow_clone_suspended_vm") == "true"
    states = _allowed_states(row, op, clones_suspended=clones_suspended)
    if row["power_state"] not in states:
        expected = ", ".join(state.lower() for state in states)
        yield Failure("VM_BAD_POWER_STATE", vm, expected, row["power_state"].lower())
    if row["current_operations"] and not _goes_with(op, list(row["current_operations"].values())):
        yield _in_progress(xapi, vm, row["current_operations"])
    yield from _kind(row, vm, op)
    if op in _SUSPENDING and strict and _is_immobile(xapi, row):
        yield Failure("VM_IS_IMMOBILE", vm)
    if op == "changing_dynamic_range" and strict and _switch(xapi, row, "nested_virt", "nested-virt"):
        yield Failure("VM_IS_USING_NESTED_VIRT", vm)
    if op in ("changing_VCPUs", "destroy") and vm_facts.is_dom0(db, vm):
        yield Failure("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
    elif row["is_control_domain"] and op not in _OF_CONTROL_DOMAINS:
        yield Failure("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain")
    if strict and _lacks_feature(xapi, vm, op):
        yield Failure("VM_LACKS_FEATURE", vm)
    if op == "snapshot_with_quiesce":
        yield Failure("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm)
    reads_disks = op in _READING_DISKS or op == "pool_migrate"
    if reads_disks and _disks_are_reset(xapi, vm, also_cached=op == "pool_migrate"):
        yield Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if op == "query_services" and not vm_facts.is_true(row["other_config"].get("is_system_domain", "")):
        yield Failure("NOT_SYSTEM_DOMAIN", vm)


def _allowed_states(row: dict[str, Any], op: str, *, clones_suspended: bool) -> tuple[str, ...]:
    """Return the power states that allow an operation; ``clones_suspended``: a suspended VM may be copied."""
    states = _STATES.get(op, _UNLISTED_STATES.get(op, ()))
    if op in ("clone", "copy") and (row["is_a_snapshot"] or clones_suspended):
        return (*states, "Suspended")
    if op in _OF_RUNNING_CONTROL_DOMAINS and row["is_control_domain"]:
        return (*states, "Running")
    return states


def _goes_with(op: str, current: list[str]) -> bool:
    """Return True if an operation may begin while the others are under way."""
    for together in (_LONG_COPIES, _SNAPSHOTS, _BOOT_RECORDS):
        if op in together and together.issuperset(current):
            return True
    if op == "hard_shutdown":
        return op not in current
    if op == "hard_reboot":
        return "hard_shutdown" not in current and op not in current
    return len(current) == 1 and (current[0], op) in _AFTER


def _in_progress(xapi: Xapi, vm: str, current: dict[str, str]) -> Failure:
    """Return OTHER_OPERATION_IN_PROGRESS with the operations, in newer xapi also with their tasks."""
    many = len(current) > 1
    names = f"{{{','.join(current.values())}}}" if many else next(iter(current.values()))
    tasks = f"{{{','.join(current)}}}" if many else next(iter(current))
    if releases.since(xapi, releases.IN_PROGRESS_NAMES_TASK):
        return Failure(IN_PROGRESS, "VM", vm, names, tasks)
    return Failure(IN_PROGRESS, f"VM.{names}", vm)


def _kind(row: dict[str, Any], vm: str, op: str) -> Iterator[Failure]:
    """Forbid what templates and snapshots do not allow."""
    if row["is_a_template"] and not row["is_a_snapshot"] and op not in _OF_TEMPLATES:
        default = row["is_default_template"] or vm_facts.is_true(
            row["other_config"].get("default_template", "")
        )
        if default or op not in ("destroy", "migrate_send"):
            yield Failure("VM_IS_TEMPLATE", vm, op)
    if row["is_a_snapshot"] and op not in _OF_SNAPSHOTS:
        yield Failure("VM_IS_SNAPSHOT", vm, op)
    if op == "provision" and not row["is_a_template"]:
        yield Failure("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    if op == "revert" and not row["is_a_snapshot"]:
        yield Failure("REVERT_ONLY_ALLOWED_ON_SNAPSHOT")


def _is_immobile(xapi: Xapi, row: dict[str, Any]) -> bool:
    return _switch(xapi, row, "nomigrate", "nomigrate") or _switch(xapi, row, "nested_virt", "nested-virt")


def _switch(xapi: Xapi, row: dict[str, Any], field: str, key: str) -> bool:
    """Read a property that is fixed when a VM starts; without metrics, read the VM's setting."""
    if xapi.db.exists("VM_metrics", row["metrics"]):
        return bool(xapi.db.row("VM_metrics", row["metrics"])[field])
    return vm_facts.is_true(row["platform"].get(key, ""))


def _lacks_feature(xapi: Xapi, vm: str, op: str) -> bool:
    """Return True for an HVM guest without drivers if the operation needs its help; never for PV (trace 04#311-327)."""
    metrics = vm_facts.guest_metrics(xapi.db, vm)
    if vm_facts.power_state(xapi.db, vm) != "Running" or vm_facts.has_booted_pv(xapi.db, vm):
        return False
    if vm_facts.has_pv_drivers(metrics):
        return False

    def lacks(feature: str) -> bool:
        return not vm_facts.has_feature(metrics, feature)

    match op:
        case "clean_shutdown":
            return lacks("feature-shutdown") and lacks("feature-poweroff")
        case "clean_reboot":
            return lacks("feature-shutdown") and lacks("feature-reboot")
        case "changing_VCPUs_live":
            return lacks("feature-vcpu-hotplug")
        case _:
            return op in _SUSPENDING and lacks("feature-suspend")


def _disks_are_reset(xapi: Xapi, vm: str, *, also_cached: bool) -> bool:
    """Return True if a disk loses its changes when the VM starts again (sm_config says so)."""
    for vdi in vm_facts.vdis(xapi.db, vm):
        if xapi.db.exists("VDI", vdi):
            sm_config = xapi.db.row("VDI", vdi)["sm_config"]
            cached = vm_facts.is_true(sm_config.get("caching", ""))
            if sm_config.get("on_boot") == "reset" and (cached or not also_cached):
                return True
    return False
