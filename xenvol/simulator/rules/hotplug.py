"""Plug disks and media into a running domain and unplug them (xapi_xenops.ml, vbd_plug to vbd_eject)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.domains import Domain
from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.guests import guest_of
from xenvol.simulator.rules import hypervisor, steps, vm_facts
from xenvol.simulator.rules.slots import device_of, domain_of, report

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


def plug(call: Call, vbd: str) -> None:
    """Plug a disk, or an empty drive, into a running domain. Raises the storage driver's error.

    If the domain already has the device, the daemon refuses without a report, because nothing changes for the
    domain. A medium for an empty drive is recorded all the same, by xapi and by the daemon.
    """
    xapi, db = call.xapi, call.db
    vm, vdi = db.row("VBD", vbd)["VM"], db.row("VBD", vbd)["VDI"]
    db.set("VBD", vbd, currently_attached=True)  # set early, so that no update loses it
    device = device_of(xapi, vbd)
    with hypervisor.busy_with(call, vm):
        domain = domain_of(xapi, vm)
        if device in domain.disks:
            if domain.disks[device] == NULL:
                domain.disks[device] = vdi
            raise internal_error(f"Object with type vbd and id {device} already exists in xenopsd")
        try:
            hypervisor.put_in(call, domain, device, vbd, vdi)
        finally:
            report(xapi, vm, device)
    if not db.row("VBD", vbd)["currently_attached"]:
        raise internal_error(f"vbd_plug: Unable to plug VBD {vbd}")
    steps.note(call, steps.HOTPLUG)


def unplug(call: Call, vbd: str, *, force: bool) -> None:
    """Unplug a disk from a running domain; DEVICE_DETACH_REJECTED if the guest keeps it, unless ``force``."""
    xapi, db = call.xapi, call.db
    vm = db.row("VBD", vbd)["VM"]
    device = device_of(xapi, vbd)
    with hypervisor.busy_with(call, vm):
        domain = domain_of(xapi, vm)
        if device not in domain.disks:
            db.set("VBD", vbd, currently_attached=False)
            return
        if not force and guest_of(xapi.guests, vm).refuses_unplug:
            raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd, "")
        try:
            hypervisor.take_out(call, domain, device)
        finally:
            report(xapi, vm, device)
    steps.note(call, steps.HOTPLUG)
    if db.row("VBD", vbd)["currently_attached"]:
        raise internal_error(f"vbd_unplug: Unable to unplug VBD {vbd}")


def insert(call: Call, vbd: str, vdi: str) -> None:
    """Insert a medium into a drive of a running VM; an HVM domain lacks drives that were added after its start."""
    db = call.db
    vm = db.row("VBD", vbd)["VM"]
    if not vm_facts.has_qemu(db, vm):
        db.set("VBD", vbd, VDI=vdi, empty=False)
        plug(call, vbd)
        return
    device, domain = _drive(call, vbd)
    steps.note(call, steps.SINGLE)
    hypervisor.attach(call, domain, device, vdi, writable=False)
    domain.disks[device] = vdi
    report(call.xapi, vm, device)


def eject(call: Call, vbd: str) -> None:
    """Eject the medium from a drive of a running VM; a PV VM loses the drive as well."""
    db = call.db
    vm = db.row("VBD", vbd)["VM"]
    if not vm_facts.has_qemu(db, vm):
        unplug(call, vbd, force=False)
        db.set("VBD", vbd, VDI=NULL, empty=True)
        return
    device, domain = _drive(call, vbd)
    steps.note(call, steps.SINGLE)
    hypervisor.detach(call, domain, device)
    domain.disks[device] = NULL
    report(call.xapi, vm, device)


def _drive(call: Call, vbd: str) -> tuple[str, Domain]:
    """Return the device and domain of a drive in a running HVM VM; INTERNAL_ERROR if the domain does not have it."""
    vm = call.db.row("VBD", vbd)["VM"]
    device = device_of(call.xapi, vbd)
    domain = domain_of(call.xapi, vm)
    if device not in domain.disks:
        name = f"{call.db.row('VM', vm)['uuid']}/vbd.{device}"
        raise internal_error(f"Object with type VM and id {name} does not exist in xenopsd")
    return device, domain
