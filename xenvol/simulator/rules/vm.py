"""VM.create, VM.destroy, and VM.get_allowed_*_devices (xapi_vm.ml; traces 04#6-46, #180-182, #334-338)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import releases, vbd_create, vm_memory
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
"""Keys that VM.create accepts and ignores."""

VENDOR_DEVICE_PLATFORM = 2


@rule("VM.create")
def vm_create(call: Call, record: dict[str, Any]) -> str:
    """Add the rows; xapi checks most values only when the VM starts.

    A VM may be created suspended, by a caller that has its memory image.
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
        version = max(record["hardware_platform_version"], VENDOR_DEVICE_PLATFORM)
        db.set("VM", vm, hardware_platform_version=version)
    return vm


@rule("VM.destroy")
def vm_destroy(call: Call, vm: str) -> None:
    """Destroy the VM and its VBDs, never the disks in them."""
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
