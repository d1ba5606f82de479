"""Changes of a VM's record that set more than a field (xapi_vm.ml; traces 05#147-152, 06#37-44, #152)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import releases, vm_facts, vm_memory, vm_operations
from xenvol.simulator.rules.maps import map_messages
from xenvol.simulator.rules.operations import operation, update_allowed_operations
from xenvol.simulator.rules.vm import VENDOR_DEVICE_PLATFORM

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@rule("VM.assert_operation_valid")
def vm_assert_operation_valid(call: Call, vm: str, op: str) -> None:
    vm_operations.check(call.xapi, vm, op)


@rule("VM.set_is_a_template")
def vm_set_is_a_template(call: Call, vm: str, value: bool) -> None:
    """Set is_a_template; if it becomes False, the VM counts as installed now."""
    db = call.db
    if not value:
        metrics = db.row("VM", vm)["metrics"]
        if db.exists("VM_metrics", metrics):
            db.set("VM_metrics", metrics, install_time=call.xapi.now())
        db.set("VM", vm, is_a_template=False)
        return
    with operation(call, ("VM", vm, "make_into_template")):
        _make_template(call, vm)


@rule("VM.set_is_default_template")
def vm_set_is_default_template(call: Call, vm: str, value: bool) -> None:
    db = call.db
    if value and not db.row("VM", vm)["is_a_template"]:
        with operation(call, ("VM", vm, "make_into_template")):
            _make_template(call, vm)
    db.map_add("VM", vm, "other_config", "default_template", str(value).lower())
    db.set("VM", vm, is_default_template=value)
    update_allowed_operations(call.xapi, "VM", vm)


@rule("VM.provision")
def vm_provision(call: Call, vm: str) -> None:
    """Turn a template into a VM; the installer makes its disks from ``other_config:disks``."""
    with operation(call, ("VM", vm, "provision")):
        vm_set_is_a_template(call, vm, False)


@rule("VM.set_actions_after_crash")
def vm_set_actions_after_crash(call: Call, vm: str, value: str) -> None:
    call.db.set("VM", vm, actions_after_crash=value)


@rule("VM.set_ha_restart_priority")
def vm_set_ha_restart_priority(call: Call, vm: str, value: str) -> None:
    db = call.db
    if value not in ("restart", "best-effort", ""):
        raise Failure("INVALID_VALUE", "ha_restart_priority", value)
    row = db.row("VM", vm)
    if row["ha_restart_priority"] != value:
        db.set("VM", vm, ha_restart_priority=value)
        if row["power_state"] == "Running":
            db.set("VM", vm, ha_always_run=value == "restart")
    update_allowed_operations(call.xapi, "VM", vm)


@rule("VM.set_ha_always_run")
def vm_set_ha_always_run(call: Call, vm: str, value: bool) -> None:
    """Set the restart priority: the field is an older form of it, without another effect (trace 06#152)."""
    vm_set_ha_restart_priority(call, vm, "restart" if value else "")


@rule("VM.set_VCPUs_max")
def vm_set_vcpus_max(call: Call, vm: str, value: int) -> None:
    with operation(call, ("VM", vm, "changing_VCPUs")):
        if value < 1 or value < call.db.row("VM", vm)["VCPUs_at_startup"]:
            raise Failure("INVALID_VALUE", _VCPU_LAW, str(value))
        call.db.set("VM", vm, VCPUs_max=value)
        vm_memory.update_overhead(call.xapi, vm)


@rule("VM.set_VCPUs_at_startup")
def vm_set_vcpus_at_startup(call: Call, vm: str, value: int) -> None:
    row = call.db.row("VM", vm)
    if vm_facts.is_dom0(call.db, vm):
        raise Failure("OPERATION_NOT_ALLOWED", "set_VCPUs_at_startup is not allowed on dom0")
    if value < 1 or value > row["VCPUs_max"]:
        raise Failure("INVALID_VALUE", _VCPU_LAW, str(value))
    call.db.set("VM", vm, VCPUs_at_startup=value)


_VCPU_LAW = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"


@rule("VM.set_start_delay", "VM.set_shutdown_delay", "VM.set_order")
def vm_set_in_appliance(call: Call, vm: str, value: int) -> None:
    field = call.method.removeprefix("VM.set_")
    call.db.row("VM", vm)
    if value < 0:
        raise Failure("INVALID_VALUE", f"{field} must be non-negative", str(value))
    call.db.set("VM", vm, **{field: value})


@rule("VM.set_domain_type")
def vm_set_domain_type(call: Call, vm: str, value: str) -> None:
    if value == "unspecified":
        raise Failure("INVALID_VALUE", "domain_type", value)
    call.db.set("VM", vm, domain_type=value, HVM_boot_policy="BIOS order" if value == "hvm" else "")


@rule("VM.set_HVM_boot_policy")
def vm_set_boot_policy(call: Call, vm: str, value: str) -> None:
    call.db.row("VM", vm)
    domain_type = "hvm" if value else "pv"
    call.db.set("VM", vm, domain_type=domain_type, HVM_boot_policy=value)


@rule("VM.set_has_vendor_device")
def vm_set_has_vendor_device(call: Call, vm: str, value: bool) -> None:
    state = vm_facts.power_state(call.db, vm)
    if state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())
    version = call.db.row("VM", vm)["hardware_platform_version"]
    needed = VENDOR_DEVICE_PLATFORM if value else 0
    call.db.set("VM", vm, has_vendor_device=value, hardware_platform_version=max(version, needed))


@rule("VM.set_xenstore_data")
def vm_set_xenstore_data(call: Call, vm: str, value: dict[str, str]) -> None:
    call.db.set("VM", vm, xenstore_data=value)


def _block(call: Call, vm: str, change: Callable[[], None]) -> None:
    change()
    if releases.since(call.xapi, releases.BLOCKING_IS_SEEN_AT_ONCE):
        update_allowed_operations(call.xapi, "VM", vm)


def _change_nvram(call: Call, vm: str, change: Callable[[], None]) -> None:
    with operation(call, ("VM", vm, "changing_NVRAM")):
        change()


map_messages("VM", "other_config")
map_messages("VM", "platform")
map_messages("VM", "blocked_operations", _block)
map_messages("VM", "NVRAM", _change_nvram)


def _make_template(call: Call, vm: str) -> None:
    db = call.db
    metrics = db.row("VM", vm)["metrics"]
    db.set("VM", vm, ha_always_run=False, metrics=NULL)
    if db.exists("VM_metrics", metrics):
        db.delete("VM_metrics", metrics)
    db.set("VM", vm, is_a_template=True)
