"""The hypervisor of a host: domains start and stop, disks go in and out, and xapi hears of it.

xapi tells its hypervisor daemon what to do and believes only what that reports afterwards (xapi_xenops.ml). The
daemon knows a disk by its device name in the guest, so a report is matched to a VBD by userdevice: where that is
spelt in a way of its own ("hda", "05"), or was changed meanwhile, the report finds no VBD, or another.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from xenvol.simulator.domains import Domain
from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.guests import guest_of
from xenvol.simulator.rules import datapath, device_numbers, releases, vm_facts
from xenvol.simulator.rules.operations import update_allowed_operations
from xenvol.simulator.rules.vbd_operations import update_vbd_and_vdi

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi


def domain_of(xapi: Xapi, vm: str) -> Domain:
    """The VM's domain; one for a VM that was made running is made from its VBDs."""
    if vm not in xapi.domains:
        row = xapi.db.row("VM", vm)
        domain = Domain(row["resident_on"])
        for vbd in xapi.db.children(vm, "VBDs"):
            if xapi.db.row("VBD", vbd)["currently_attached"]:
                domain.disks[device_of(xapi, vbd)] = xapi.db.row("VBD", vbd)["VDI"]
        xapi.domains[vm] = domain
    return xapi.domains[vm]


def device_of(xapi: Xapi, vbd: str) -> str:
    """What the daemon calls a VBD's slot: ``xvdb`` for userdevice "1". No name for rubbish: INTERNAL_ERROR."""
    row = xapi.db.row("VBD", vbd)
    hvm = vm_facts.will_have_qemu(xapi.db, row["VM"])
    checked = releases.since(xapi, releases.CHECKED_DEVICE_NUMBERS)
    device = device_numbers.parse(row["userdevice"], hvm=hvm, checked=checked)
    if device is None:
        raise internal_error(f'Failure("Failed to parse device name: {row["userdevice"]}")')
    return device_numbers.linux_name(device)


def start(call: Call, vm: str, host: str) -> None:
    """Build a domain on the host with the disks of all the VM's slots; all of them or no domain.

    Raises what a storage driver refuses with. A PV domain has no empty drives.
    """
    xapi, db = call.xapi, call.db
    slots = [
        vbd
        for vbd in db.children(vm, "VBDs")
        if vm_facts.will_have_qemu(db, vm) or not db.row("VBD", vbd)["empty"]
    ]
    for vbd in slots:
        db.set("VBD", vbd, currently_attached=True)
    for vif in db.children(vm, "VIFs"):
        db.set("VIF", vif, currently_attached=True)
    domain = Domain(host)
    xapi.domains[vm] = domain
    try:
        writable_first = sorted(slots, key=lambda vbd: bool(db.row("VBD", vbd)["mode"] == "RO"))
        for vbd in writable_first:
            _insert(call, domain, device_of(xapi, vbd), vbd, db.row("VBD", vbd)["VDI"])
    except Failure:
        stop(call, vm)
        raise
    for device in list(domain.disks):
        report(xapi, vm, device)


def stop(call: Call, vm: str) -> None:
    """Destroy the domain, if there is one, whatever the storage says to that.

    What the VBDs say is the caller's affair.
    """
    domain = call.xapi.domains.pop(vm, None)
    if domain is not None:
        for device in list(domain.disks):
            with contextlib.suppress(Failure):
                _remove(call, domain, device)


def suspend(call: Call, vm: str) -> None:
    """Like `stop`: what was in which slot is in the database, and comes back with `resume`."""
    domain_of(call.xapi, vm)
    stop(call, vm)


def resume(call: Call, vm: str, host: str) -> None:
    """Build the domain again with the disks that it had; all of them or no domain."""
    db = call.db
    domain = Domain(host)
    call.xapi.domains[vm] = domain
    try:
        for vbd in db.children(vm, "VBDs"):
            if db.row("VBD", vbd)["currently_attached"]:
                _insert(call, domain, device_of(call.xapi, vbd), vbd, db.row("VBD", vbd)["VDI"])
    except Failure:
        stop(call, vm)
        raise


def move(call: Call, vm: str, host: str) -> None:
    """Live migration: the disks are attached where the domain goes, then detached where it was."""
    there = Domain(host)
    here = domain_of(call.xapi, vm)
    try:
        for device, vdi in here.disks.items():
            _attach(call, there, device, vdi, writable=here.storage.get(device, (vdi, True))[1])
            there.disks[device] = vdi
    except Failure:
        for device in list(there.disks):
            _remove(call, there, device)
        raise
    call.xapi.domains[vm] = there
    for device in list(here.disks):
        with contextlib.suppress(Failure):
            _remove(call, here, device)


def plug(call: Call, vbd: str) -> None:
    """Put a disk, or an empty drive, into a running domain. Raises what the storage driver refuses with."""
    xapi, db = call.xapi, call.db
    vm = db.row("VBD", vbd)["VM"]
    db.set("VBD", vbd, currently_attached=True)  # before it is true, so that no update loses it
    device = device_of(xapi, vbd)
    domain = domain_of(xapi, vm)
    try:
        _insert(call, domain, device, vbd, db.row("VBD", vbd)["VDI"])
    finally:
        report(xapi, vm, device)
    if not db.row("VBD", vbd)["currently_attached"]:
        raise internal_error(f"vbd_plug: Unable to plug VBD {vbd}")


def unplug(call: Call, vbd: str, *, force: bool) -> None:
    """Take a disk out of a running domain: DEVICE_DETACH_REJECTED where the guest keeps it, unless forced."""
    xapi, db = call.xapi, call.db
    vm = db.row("VBD", vbd)["VM"]
    device = device_of(xapi, vbd)
    domain = domain_of(xapi, vm)
    if device not in domain.disks:
        db.set("VBD", vbd, currently_attached=False)
        return
    if not force and guest_of(xapi.guests, vm).refuses_unplug:
        raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd, "")
    try:
        _remove(call, domain, device)
    finally:
        report(xapi, vm, device)
    if db.row("VBD", vbd)["currently_attached"]:
        raise internal_error(f"vbd_unplug: Unable to unplug VBD {vbd}")


def insert(call: Call, vbd: str, vdi: str) -> None:
    """Put a medium into a drive of a running VM; a drive that came after the start of an HVM VM is not there."""
    db = call.db
    vm = db.row("VBD", vbd)["VM"]
    if not vm_facts.has_qemu(db, vm):
        db.set("VBD", vbd, VDI=vdi, empty=False)
        plug(call, vbd)
        return
    device, domain = _drive(call, vbd)
    _attach(call, domain, device, vdi, writable=False)
    domain.disks[device] = vdi
    report(call.xapi, vm, device)


def eject(call: Call, vbd: str) -> None:
    """Take the medium out of a drive of a running VM; from a PV VM the drive goes with it."""
    db = call.db
    vm = db.row("VBD", vbd)["VM"]
    if not vm_facts.has_qemu(db, vm):
        unplug(call, vbd, force=False)
        db.set("VBD", vbd, VDI=NULL, empty=True)
        return
    device, domain = _drive(call, vbd)
    _detach(call, domain, device)
    domain.disks[device] = NULL
    report(call.xapi, vm, device)


def report(xapi: Xapi, vm: str, device: str) -> None:
    """What xapi writes down when the daemon says that something about a slot changed (update_vbd)."""
    db = xapi.db
    if (vbd := _slot(xapi, vm, device)) is None:
        return
    disks = domain_of(xapi, vm).disks
    db.set("VBD", vbd, device=device, currently_attached=device in disks)
    vdi = disks.get(device)
    if vdi is not None and db.exists("VDI", vdi):
        db.set("VBD", vbd, VDI=vdi, empty=False)
        update_allowed_operations(xapi, "VDI", vdi)
    elif vdi == NULL and db.row("VBD", vbd)["type"] == "CD":
        db.set("VBD", vbd, VDI=NULL, empty=True)
    update_vbd_and_vdi(xapi, vbd)


def _slot(xapi: Xapi, vm: str, device: str) -> str | None:
    """The VBD whose userdevice is spelt like the device, or is its decimal number."""
    parsed = device_numbers.parse(device, hvm=False, checked=True)
    names = {device}
    if parsed is not None and parsed.bus in ("xen", "ide"):
        names.add(str(parsed.disk))
    for vbd in xapi.db.children(vm, "VBDs"):
        if xapi.db.row("VBD", vbd)["userdevice"] in names:
            return vbd
    return None


def _drive(call: Call, vbd: str) -> tuple[str, Domain]:
    """The slot of a drive in a running HVM domain; INTERNAL_ERROR where the domain does not have it."""
    vm = call.db.row("VBD", vbd)["VM"]
    device = device_of(call.xapi, vbd)
    domain = domain_of(call.xapi, vm)
    if device not in domain.disks:
        name = f"{call.db.row('VM', vm)['uuid']}/vbd.{device}"
        raise internal_error(f"Object with type VM and id {name} does not exist in xenopsd")
    return device, domain


def _insert(call: Call, domain: Domain, device: str, vbd: str, vdi: str) -> None:
    if device in domain.disks:
        raise internal_error(f"Object with type vbd and id {device} already exists in xenopsd")
    _attach(call, domain, device, vdi, writable=call.db.row("VBD", vbd)["mode"] == "RW")
    domain.disks[device] = vdi


def _remove(call: Call, domain: Domain, device: str) -> None:
    domain.disks.pop(device, None)
    _detach(call, domain, device)


def _attach(call: Call, domain: Domain, device: str, vdi: str, *, writable: bool) -> None:
    """Have the storage driver attach a disk on the domain's host, where disks need that at all."""
    if vdi != NULL and call.xapi.domains_use_storage:
        datapath.attach(call, domain.host, vdi, read_write=writable)
        domain.storage[device] = (vdi, writable)


def _detach(call: Call, domain: Domain, device: str) -> None:
    attached = domain.storage.pop(device, None)
    if attached is not None:
        datapath.detach(call, domain.host, attached[0])
