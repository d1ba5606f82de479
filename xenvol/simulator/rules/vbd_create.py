"""VBD.create: add the rows of a slot and its disk; a running VM does not notice (xapi_vbd.ml, create)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import device_numbers, releases, vbd_operations, vm_facts
from xenvol.simulator.rules.device_numbers import AUTODETECT, Device
from xenvol.simulator.rules.vdi_operations import TYPE_NAMES
from xenvol.simulator.rules.vm_placement import is_everywhere

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi

_TYPES_FOR_VMS = ("system", "user", "ephemeral", "suspend", "crashdump", "metadata", "rrd", "pvs_cache")
_BACKEND_KIND = "backend-kind"


@rule("VBD.create")
def vbd_create(call: Call, record: dict[str, Any]) -> str:
    db = call.db
    vm, vdi = record["VM"], record["VDI"]
    suspended = vm_facts.power_state(db, vm) == "Suspended"
    _check_disk(call, record)
    _assert_not_migrating(call.xapi, vm)
    userdevice = _resolve(call.xapi, vm, record["userdevice"], record["type"])
    if not record["empty"]:
        assert_stays_agile(call, vm, vdi)
    backend_kind = db.row("VDI", vdi)["sm_config"].get(_BACKEND_KIND) if db.exists("VDI", vdi) else None
    other_config = dict(record["other_config"])
    if backend_kind is not None:
        other_config = {_BACKEND_KIND: backend_kind, **other_config}
    vbd = db.create(
        "VBD",
        VM=vm,
        VDI=vdi,
        userdevice=userdevice,
        device=record["device"] if suspended else "",
        currently_attached=bool(record["currently_attached"] and suspended),
        bootable=record["bootable"],
        mode=record["mode"],
        type=record["type"],
        unpluggable=record["unpluggable"],
        empty=record["empty"],
        other_config=other_config,
        qos_algorithm_type=record["qos_algorithm_type"],
        qos_algorithm_params=record["qos_algorithm_params"],
        metrics=db.create("VBD_metrics"),
    )
    vbd_operations.update(call.xapi, vbd)
    return vbd


def free_devices(xapi: Xapi, vm: str, vbd_type: str) -> list[Device]:
    """Return the slots that no VBD of the VM uses, by userdevice or by device."""
    row = xapi.db.row("VM", vm)
    used = set(used_devices(xapi, vm))
    offered = device_numbers.candidates(
        vbd_type=vbd_type,
        hvm=vm_facts.will_have_qemu(xapi.db, vm),
        control_domain=row["is_control_domain"],
    )
    return [device for device in offered if device not in used]


def used_devices(xapi: Xapi, vm: str) -> list[Device]:
    checked = releases.since(xapi, releases.CHECKED_DEVICE_NUMBERS)
    rows = [xapi.db.row("VBD", vbd) for vbd in xapi.db.children(vm, "VBDs")]
    names = [row["device"] for row in rows] + [row["userdevice"] for row in rows]
    return [device for name in names for device in device_numbers.possible(name, checked=checked)]


def _check_disk(call: Call, record: dict[str, Any]) -> None:
    """Check that disk and slot fit each other; whether the disk is in use is not checked."""
    db, vdi = call.db, record["VDI"]
    if not record["empty"]:
        vdi_type = db.row("VDI", vdi)["type"]
        if vdi_type not in _TYPES_FOR_VMS:
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES[vdi_type])
    if record["type"] == "CD" and record["mode"] != "RO":
        raise Failure("VBD_CDS_MUST_BE_READONLY")
    if record["type"] != "CD" and record["empty"]:
        raise Failure("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
    if record["mode"] == "RW" and db.row("VDI", vdi)["read_only"]:
        raise Failure("VDI_READONLY", vdi)


def _assert_not_migrating(xapi: Xapi, vm: str) -> None:
    for task, operation in xapi.db.row("VM", vm)["current_operations"].items():
        if operation in ("migrate_send", "pool_migrate"):
            raise vbd_operations.in_progress(xapi, "VM", vm, operation, task)


def _resolve(xapi: Xapi, vm: str, userdevice: str, vbd_type: str) -> str:
    """Return the slot for a userdevice; "autodetect" is the lowest free one, which may still clash (04#269)."""
    free = free_devices(xapi, vm, vbd_type)
    if vbd_type == "Floppy" and not vm_facts.will_have_qemu(xapi.db, vm):
        raise Failure("NOT_IMPLEMENTED", "VBD of type 'floppy' is not supported on PV domain")
    checked = releases.since(xapi, releases.CHECKED_DEVICE_NUMBERS)
    if not device_numbers.is_valid(userdevice, vbd_type=vbd_type, checked=checked):
        raise Failure("INVALID_DEVICE", userdevice)
    if userdevice == AUTODETECT:
        if not free:
            raise Failure("INVALID_DEVICE", userdevice)
        userdevice = device_numbers.linux_name(free[0]) if vbd_type == "Floppy" else str(free[0].disk)
    wanted = device_numbers.possible(userdevice, checked=checked)
    if not set(wanted).isdisjoint(used_devices(xapi, vm)):
        raise Failure("DEVICE_ALREADY_EXISTS", userdevice)
    return userdevice


def assert_stays_agile(call: Call, vm: str, vdi: str) -> None:
    """Refuse a disk that binds a VM protected by high availability to some hosts (Failure HA_CONSTRAINT...)."""
    db = call.db
    sr = db.row("VDI", vdi)["SR"]
    pool = db.row("pool", db.refs("pool")[0])
    row = db.row("VM", vm)
    protected = row["ha_restart_priority"] == "restart" and row["ha_always_run"]
    strict = pool["ha_enabled"] and not pool["ha_allow_overcommit"]
    if strict and protected and not is_everywhere(call.xapi, sr):
        raise Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)
