"""Which VBD belongs to which slot of a domain, and what xapi records when a slot changes.

The hypervisor's daemon knows a disk by its device name in the guest. xapi matches the daemon's report to a
VBD by userdevice. If the userdevice is spelt in another way ("hda", "05") or was changed meanwhile, the
report finds no VBD or a wrong one (xapi_xenops.ml, update_vbd).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.domains import Domain
from xenvol.simulator.failure import NULL, internal_error
from xenvol.simulator.rules import device_numbers, releases, vm_facts
from xenvol.simulator.rules.operations import update_allowed_operations
from xenvol.simulator.rules.steps import Devices
from xenvol.simulator.rules.vbd_operations import update_vbd_and_vdi

if TYPE_CHECKING:
    from xenvol.simulator.xapi import Xapi


def domain_of(xapi: Xapi, vm: str) -> Domain:
    """Return the VM's domain; for a VM that was made running, build it from its VBDs."""
    if vm not in xapi.domains:
        row = xapi.db.row("VM", vm)
        domain = Domain(row["resident_on"])
        for vbd in xapi.db.children(vm, "VBDs"):
            if xapi.db.row("VBD", vbd)["currently_attached"]:
                domain.disks[device_of(xapi, vbd)] = xapi.db.row("VBD", vbd)["VDI"]
        xapi.domains[vm] = domain
    return xapi.domains[vm]


def device_of(xapi: Xapi, vbd: str) -> str:
    """Return the daemon's name of a VBD's slot:

    ``xvdb`` for userdevice "1"; INTERNAL_ERROR for an invalid userdevice.
    """
    row = xapi.db.row("VBD", vbd)
    hvm = vm_facts.will_have_qemu(xapi.db, row["VM"])
    checked = releases.since(xapi, releases.CHECKED_DEVICE_NUMBERS)
    device = device_numbers.parse(row["userdevice"], hvm=hvm, checked=checked)
    if device is None:
        raise internal_error(f'Failure("Failed to parse device name: {row["userdevice"]}")')
    return device_numbers.linux_name(device)


def devices_of(xapi: Xapi, vm: str) -> Devices:
    """Return the devices of the VM's domain that count for the number of steps."""
    db = xapi.db
    writable: list[bool] = []
    read_only: list[bool] = []
    for device, vdi in domain_of(xapi, vm).disks.items():
        vbd = _slot(xapi, vm, device)
        writes = vbd is None or db.row("VBD", vbd)["mode"] == "RW"
        (writable if writes else read_only).append(vdi != NULL)
    vifs = [vif for vif in db.children(vm, "VIFs") if db.row("VIF", vif)["currently_attached"]]
    return Devices(tuple(writable), tuple(read_only), len(vifs))


def report(xapi: Xapi, vm: str, device: str) -> None:
    """Record what the daemon reports about a slot (update_vbd)."""
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
    """Return the VBD whose userdevice is the device's name or its decimal number, or None."""
    parsed = device_numbers.parse(device, hvm=False, checked=True)
    names = {device}
    if parsed is not None and parsed.bus in ("xen", "ide"):
        names.add(str(parsed.disk))
    for vbd in vm_facts.slots(xapi.db, vm):
        if xapi.db.row("VBD", vbd)["userdevice"] in names:
            return vbd
    return None
