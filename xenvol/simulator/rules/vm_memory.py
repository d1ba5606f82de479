"""A VM's memory: its four limits, its overhead, and a host's free memory.

Sources: xapi_vm_memory_constraints.ml, memory_check.ml. All amounts are bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import vm_facts
from xenvol.simulator.rules.operations import operation

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi

_MIB = 1 << 20
_PAGES_PER_MIB = 256
_PV_OVERHEAD = 4 * _MIB
_HVM_OVERHEAD = 2 * _MIB


def overhead(row: dict[str, Any]) -> int:
    """Return the hypervisor's own need for a VM: the page tables of an HVM domain grow with its memory."""
    if row["domain_type"] not in ("hvm", "pvh"):
        return _PV_OVERHEAD
    mib = -(-row["memory_static_max"] // _MIB)
    pages = _PAGES_PER_MIB * row["VCPUs_max"] + 2 * mib
    shadow = -(-pages // _PAGES_PER_MIB)
    multiplier = row["HVM_shadow_multiplier"]
    scaled = shadow * multiplier if 1 <= multiplier < 1000 else shadow
    return _HVM_OVERHEAD + int(scaled) * _MIB


def update_overhead(xapi: Xapi, vm: str) -> None:
    xapi.db.set("VM", vm, memory_overhead=overhead(xapi.db.row("VM", vm)))


def assert_coercible(row: dict[str, Any]) -> None:
    """Raise MEMORY_CONSTRAINT_VIOLATION if a maximum is below its minimum; such a VM cannot start."""
    if (
        row["memory_static_max"] < row["memory_static_min"]
        or row["memory_dynamic_max"] < row["memory_dynamic_min"]
    ):
        raise Failure("MEMORY_CONSTRAINT_VIOLATION")


def memory_to_start(xapi: Xapi, vm: str) -> int:
    """Return the memory that a VM needs to start: its dynamic minimum and the overhead."""
    row = xapi.db.row("VM", vm)
    return int(row["memory_dynamic_min"]) + overhead(row)


def free_memory(xapi: Xapi, host: str, *, apart_from: str = "") -> int:
    """Return the host's free memory if each VM on it shrinks to its minimum."""
    db = xapi.db
    row = db.row("host", host)
    total = db.row("host_metrics", row["metrics"])["memory_total"] - row["memory_overhead"]
    guests = [vm for vm in db.children(host, "resident_VMs") if vm != apart_from]
    rows = [db.row("VM", vm) for vm in guests]
    used = sum(vm["memory_dynamic_min"] + vm["memory_overhead"] for vm in rows)
    return int(total - used)


@rule("host.compute_free_memory")
def host_compute_free_memory(call: Call, host: str) -> int:
    return free_memory(call.xapi, host)


@rule("host.compute_memory_overhead")
def host_compute_memory_overhead(call: Call, host: str) -> int:
    return int(call.db.row("host", host)["memory_overhead"])


@rule("VM.compute_memory_overhead")
def vm_compute_memory_overhead(call: Call, vm: str) -> int:
    return overhead(call.db.row("VM", vm))


@rule("VM.maximise_memory")
def vm_maximise_memory(call: Call, vm: str, total: int, approximate: bool) -> int:
    """Return the largest static maximum that fits into ``total``, in whole MiB."""
    row = dict(call.db.row("VM", vm))
    if approximate:
        row["VCPUs_max"] = 64
    low, high = 0, max(total // _MIB, 0)
    while low < high:
        middle = (low + high + 1) // 2
        fits = middle * _MIB + overhead({**row, "memory_static_max": middle * _MIB}) <= total
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * _MIB


@rule("VM.set_memory_dynamic_range")
def vm_set_memory_dynamic_range(call: Call, vm: str, low: int, high: int) -> None:
    with operation(call, ("VM", vm, "changing_dynamic_range")):
        _set_limits(call, vm, memory_dynamic_min=low, memory_dynamic_max=high, memory_target=low)


@rule("VM.set_memory_dynamic_min")
def vm_set_memory_dynamic_min(call: Call, vm: str, value: int) -> None:
    vm_set_memory_dynamic_range(call, vm, value, call.db.row("VM", vm)["memory_dynamic_max"])


@rule("VM.set_memory_dynamic_max")
def vm_set_memory_dynamic_max(call: Call, vm: str, value: int) -> None:
    vm_set_memory_dynamic_range(call, vm, call.db.row("VM", vm)["memory_dynamic_min"], value)


@rule("VM.set_memory_static_range")
def vm_set_memory_static_range(call: Call, vm: str, low: int, high: int) -> None:
    with operation(call, ("VM", vm, "changing_static_range")):
        _set_limits(call, vm, memory_static_min=low, memory_static_max=high)
        update_overhead(call.xapi, vm)


@rule("VM.set_memory_static_min")
def vm_set_memory_static_min(call: Call, vm: str, value: int) -> None:
    vm_set_memory_static_range(call, vm, value, call.db.row("VM", vm)["memory_static_max"])


@rule("VM.set_memory_static_max")
def vm_set_memory_static_max(call: Call, vm: str, value: int) -> None:
    vm_set_memory_static_range(call, vm, call.db.row("VM", vm)["memory_static_min"], value)


@rule("VM.set_memory_limits")
def vm_set_memory_limits(
    call: Call, vm: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> None:
    with operation(call, ("VM", vm, "changing_memory_limits")):
        _set_limits(
            call,
            vm,
            memory_static_min=static_min,
            memory_static_max=static_max,
            memory_dynamic_min=dynamic_min,
            memory_dynamic_max=dynamic_max,
            memory_target=dynamic_min,
        )
        update_overhead(call.xapi, vm)


@rule("VM.set_memory")
def vm_set_memory(call: Call, vm: str, value: int) -> None:
    static_min = call.db.row("VM", vm)["memory_static_min"]
    vm_set_memory_limits(call, vm, static_min, value, value, value)


@rule("VM.set_HVM_shadow_multiplier")
def vm_set_shadow_multiplier(call: Call, vm: str, value: float) -> None:
    with operation(call, ("VM", vm, "changing_shadow_memory")):
        _assert_multiplier(value)
        call.db.set("VM", vm, HVM_shadow_multiplier=value)
        update_overhead(call.xapi, vm)


@rule("VM.set_shadow_multiplier_live")
def vm_set_shadow_multiplier_live(call: Call, vm: str, value: float) -> None:
    with operation(call, ("VM", vm, "changing_shadow_memory_live")):
        _assert_multiplier(value)
        call.db.set("VM", vm, HVM_shadow_multiplier=value)
        update_overhead(call.xapi, vm)


def _assert_multiplier(value: float) -> None:
    """Raise INVALID_VALUE for a multiplier below one; nan is accepted (trace 06#136)."""
    if value < 1:
        raise Failure("INVALID_VALUE", "multiplier", vm_facts.ocaml_float(value))


def _set_limits(call: Call, vm: str, **limits: int) -> None:
    """Set limits: the four must be in order, and equal for a control domain and with nested virtualisation."""
    row = {**call.db.row("VM", vm), **limits}
    order = (
        row["memory_static_min"],
        row["memory_dynamic_min"],
        row["memory_dynamic_max"],
        row["memory_static_max"],
    )
    pinned = row["is_control_domain"], vm_facts.is_true(row["platform"].get("nested-virt", ""))
    if any(pinned):
        if not (order[0] <= order[1] == order[2] == order[3]):
            reason = "control domain" if pinned[0] else "nested virt"
            raise Failure("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", reason)
    elif list(order) != sorted(order):
        raise Failure("MEMORY_CONSTRAINT_VIOLATION_ORDER")
    call.db.set("VM", vm, **limits)
