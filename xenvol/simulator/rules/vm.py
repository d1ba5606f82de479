"""VM.create and VM.destroy, and the changes of a VM's record that are more than a field (xapi_vm.ml).

Traces 04#6-46, #330-338, 05#147-153, 06#37-44, #152.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import releases, vbd_create, vm_facts, vm_memory, vm_operations
from xenvol.simulator.rules.maps import map_messages
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import operation, update_allowed_operations
from xenvol.simulator.rules.vbd import delete_vbd
from xenvol.simulator.rules.vif import delete_vif

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

MAC_SEED = "mac_seed"
_IGNORED = (
    "blocked_operations",
    "protection_policy",
    "is_snapshot_from_vmpp",
    "snapshot_schedule",
    "is_vmss_snapshot",
)
"""Keys that VM.create accepts and does not look at."""

_VENDOR_DEVICE_PLATFORM = 2


@rule("VM.create")
def vm_create(call: Call, record: dict[str, Any]) -> str:
    """Rows; of what is wrong with the values, xapi complains when the VM is started.

    A VM may be created suspended, by one who brings its memory along.
    """
    db = call.db
    values = {key: value for key, value in record.items() if key not in _IGNORED}
    values["other_config"] = {**record["other_config"]}
    values["other_config"].setdefault(MAC_SEED, str(uuid.uuid4()))
    if values["domain_type"] == "unspecified":
        values["domain_type"] = "hvm" if record["HVM_boot_policy"] else "pv"
    suspended = record["power_state"] == "Suspended"
    if not suspended:
        values |= {
            "power_state": "Halted",
            "suspend_VDI": NULL,
            "last_boot_CPU_flags": {},
            "last_booted_record": "",
        }
    elif (
        not record["last_boot_CPU_flags"] or not record["last_booted_record"] or record["suspend_VDI"] == NULL
    ):
        raise Failure("VM_BAD_POWER_STATE", f"OpaqueRef:{uuid.uuid4()}", "halted", "suspended")
    metrics = db.create(
        "VM_metrics",
        VCPUs_utilisation={0: 0.0},
        current_domain_type=record["domain_type"] if suspended else "unspecified",
    )
    vm = db.create("VM", **values, metrics=metrics, domid=-1)
    update_allowed_operations(call.xapi, "VM", vm)
    vm_memory.update_overhead(call.xapi, vm)
    if record["has_vendor_device"]:
        version = max(record["hardware_platform_version"], _VENDOR_DEVICE_PLATFORM)
        db.set("VM", vm, hardware_platform_version=version)
    return vm


@rule("VM.destroy")
def vm_destroy(call: Call, vm: str) -> None:
    """The VM and its slots go; never the disks in them."""
    with operation(call, ("VM", vm, "destroy")):
        destroy(call, vm)


def destroy(call: Call, vm: str) -> None:
    db = call.db
    row = db.row("VM", vm)
    for child in db.children(vm, "children"):
        db.set("VM", child, parent=row["parent"])
    for blob in row["blobs"].values():
        if db.exists("blob", blob):
            db.delete("blob", blob)
    if row["other_config"].get("default_template") == "true":
        raise Failure("VM_CANNOT_DELETE_DEFAULT_TEMPLATE")
    for vbd in db.children(vm, "VBDs"):
        delete_vbd(call, vbd)
    for vif in db.children(vm, "VIFs"):
        delete_vif(call, vif)
    for console in db.children(vm, "consoles"):
        db.delete("console", console)
    for cls, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        if db.exists(cls, row[field]):
            db.delete(cls, row[field])
    call.xapi.domains.pop(vm, None)
    call.xapi.guests.pop(vm, None)
    db.delete("VM", vm)


@rule("VM.get_allowed_VBD_devices")
def vm_get_allowed_vbd_devices(call: Call, vm: str) -> list[str]:
    return [str(device.disk) for device in vbd_create.free_devices(call.xapi, vm, "Disk")]


@rule("VM.get_allowed_VIF_devices")
def vm_get_allowed_vif_devices(call: Call, vm: str) -> list[str]:
    db = call.db
    db.row("VM", vm)
    used = {db.row("VIF", vif)["device"] for vif in db.children(vm, "VIFs")}
    count = 16 if releases.since(call.xapi, releases.SIXTEEN_VIFS) else 7
    return [str(number) for number in range(count) if str(number) not in used]


@rule("VM.assert_operation_valid")
def vm_assert_operation_valid(call: Call, vm: str, op: str) -> None:
    vm_operations.check(call.xapi, vm, op)


@rule("VM.set_is_a_template")
def vm_set_is_a_template(call: Call, vm: str, value: bool) -> None:
    """A template has no metrics; a VM that stops being one counts as installed now."""
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
    """A template becomes a VM; making its disks from ``other_config:disks`` is the installer's work."""
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
    """Old for the priority, and nothing else any more (trace 06#152)."""
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
    needed = _VENDOR_DEVICE_PLATFORM if value else 0
    call.db.set("VM", vm, has_vendor_device=value, hardware_platform_version=max(version, needed))


@rule("VM.set_xenstore_data")
def vm_set_xenstore_data(call: Call, vm: str, value: dict[str, str]) -> None:
    call.db.set("VM", vm, xenstore_data=value)


@rule("VM.create_new_blob")
def vm_create_new_blob(call: Call, vm: str, name: str, mime_type: str, public: bool) -> str:
    call.db.row("VM", vm)
    blob: str = invoke(call, "blob.create", mime_type, public)
    call.db.map_add("VM", vm, "blobs", name, blob)
    return blob


@rule("VM.get_boot_record")
def vm_get_boot_record(call: Call, vm: str) -> dict[str, Any]:
    with operation(call, ("VM", vm, "get_boot_record")):
        return call.db.record("VM", vm)


@rule("VM.get_cooperative")
def vm_get_cooperative(_call: Call, _vm: str) -> bool:
    return True


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
