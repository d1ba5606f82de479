"""The hypervisor of a host: start, stop, suspend and move domains, with their disks.

xapi gives orders to its hypervisor's daemon, and records only what the daemon reports afterwards
(`slots.report`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from xenvol.simulator.domains import Domain
from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.rules import backend, datapath, steps, vm_facts
from xenvol.simulator.rules.slots import device_of, devices_of, domain_of, report

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from xenvol.simulator.rulebook import Call

P = ParamSpec("P")


def busy_with(call: Call, vm: str) -> AbstractContextManager[None]:
    """Hold the VM: the daemon does one thing at a time with a VM, and other work waits (xenops_server.ml, Redirector).

    So a VM is neither shut down nor moved while a disk is being plugged into it.
    """
    return backend.holding(call, "VM", vm)


def _one_at_a_time(
    act: Callable[Concatenate[Call, str, P], None],
) -> Callable[Concatenate[Call, str, P], None]:
    def alone(call: Call, vm: str, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with busy_with(call, vm):
            act(call, vm, *args, **kwargs)

    return alone


@_one_at_a_time
def start(call: Call, vm: str, host: str) -> None:
    """Build a domain on the host with the disks of all the VM's slots; all of them or no domain.

    Raises the storage driver's error. A PV domain has no empty drives.
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
            put_in(call, domain, device_of(xapi, vbd), vbd, db.row("VBD", vbd)["VDI"])
    except Failure:
        stop(call, vm)
        raise
    steps.note(call, steps.start(call, devices_of(xapi, vm)))
    for device in list(domain.disks):
        report(xapi, vm, device)


def pause(call: Call) -> None:
    """Pause or unpause the domain; its disks do not change."""
    steps.note(call, steps.SINGLE)


@_one_at_a_time
def power_off(call: Call, vm: str, *, clean: bool) -> None:
    """End the domain, cleanly or not; its disks are reported before it ends."""
    steps.note(call, steps.power_off(call, devices_of(call.xapi, vm), clean=clean))
    _empty(call, vm)
    stop(call, vm)


def reboot(call: Call, vm: str, *, clean: bool) -> None:
    """Restart the domain with the disks that it has."""
    steps.note(call, steps.reboot(call, devices_of(call.xapi, vm), clean=clean))


def stop(call: Call, vm: str) -> None:
    """Destroy the domain, if there is one, and ignore errors of the storage.

    The caller updates the VBDs.
    """
    domain = call.xapi.domains.pop(vm, None)
    if domain is not None:
        for device in list(domain.disks):
            with contextlib.suppress(Failure):
                take_out(call, domain, device)


@_one_at_a_time
def suspend(call: Call, vm: str) -> None:
    """End the domain as `stop` does; the database keeps its slots, and `resume` restores them.

    On the recorded host the hypervisor's stand-in lost the disks of a suspended VM (trace 05#129).
    """
    steps.note(call, steps.suspend(call, devices_of(call.xapi, vm)))
    if not call.xapi.domains_use_storage:
        _empty(call, vm)
    stop(call, vm)


def _empty(call: Call, vm: str) -> None:
    """Detach and report all disks of a domain that is about to end."""
    domain = domain_of(call.xapi, vm)
    for device in list(domain.disks):
        with contextlib.suppress(Failure):
            take_out(call, domain, device)
        report(call.xapi, vm, device)


@_one_at_a_time
def resume(call: Call, vm: str, host: str) -> None:
    """Build the domain again with the disks that it had; all of them or no domain."""
    db = call.db
    domain = Domain(host)
    call.xapi.domains[vm] = domain
    try:
        for vbd in db.children(vm, "VBDs"):
            if db.row("VBD", vbd)["currently_attached"]:
                put_in(call, domain, device_of(call.xapi, vbd), vbd, db.row("VBD", vbd)["VDI"])
    except Failure:
        stop(call, vm)
        raise
    steps.note(call, steps.resume(call, devices_of(call.xapi, vm)))


@_one_at_a_time
def move(call: Call, vm: str, host: str) -> None:
    """Migrate live: attach the disks at the destination, then detach them at the source."""
    there = Domain(host)
    here = domain_of(call.xapi, vm)
    try:
        for device, vdi in here.disks.items():
            attach(call, there, device, vdi, writable=here.storage.get(device, (vdi, True))[1])
            there.disks[device] = vdi
    except Failure:
        for device in list(there.disks):
            take_out(call, there, device)
        raise
    call.xapi.domains[vm] = there
    for device in list(here.disks):
        with contextlib.suppress(Failure):
            take_out(call, here, device)


def put_in(call: Call, domain: Domain, device: str, vbd: str, vdi: str) -> None:
    if device in domain.disks:
        raise internal_error(f"Object with type vbd and id {device} already exists in xenopsd")
    attach(call, domain, device, vdi, writable=call.db.row("VBD", vbd)["mode"] == "RW")
    domain.disks[device] = vdi


def take_out(call: Call, domain: Domain, device: str) -> None:
    domain.disks.pop(device, None)
    detach(call, domain, device)


def attach(call: Call, domain: Domain, device: str, vdi: str, *, writable: bool) -> None:
    """Attach a disk on the domain's host through the storage driver, if this pool's disks need that."""
    if vdi != NULL and call.xapi.domains_use_storage:
        datapath.attach(call, domain.host, vdi, read_write=writable)
        domain.storage[device] = (vdi, writable)


def detach(call: Call, domain: Domain, device: str) -> None:
    attached = domain.storage.pop(device, None)
    if attached is not None:
        datapath.detach(call, domain.host, attached[0])
