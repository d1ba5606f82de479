"""What operations on a VM share: marks on its devices, refreshed allowed_operations, a message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenvol.simulator.rules import liveness, message, vm_facts, vm_state
from xenvol.simulator.rules.operations import SHORT_PATIENCE, operation

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@contextlib.contextmanager
def forwarded(call: Call, vm: str, operation_on_vm: str) -> Iterator[None]:
    """Mark the VM during an operation that its host runs; HOST_OFFLINE or CANNOT_CONTACT_HOST if that is down."""
    with operation(call, ("VM", vm, operation_on_vm)):
        liveness.assert_runs_calls(call.xapi, vm)
        yield


@contextlib.contextmanager
def disks_marked(call: Call, vm: str) -> Iterator[None]:
    """Reserve the VM's disks during the block; VDI_IN_USE and the like if another call uses one.

    Each disk is marked before the next is checked, so a VM with one disk in two slots conflicts with itself
    (trace 04#355).
    """
    marks = [("VBD", vbd, "attach") for vbd in vm_facts.slots(call.db, vm)]
    with operation(call, *marks, patience=SHORT_PATIENCE):
        yield


@contextlib.contextmanager
def vifs_marked(call: Call, vm: str) -> Iterator[None]:
    marks = [("VIF", vif, "attach") for vif in call.db.children(vm, "VIFs")]
    with operation(call, *marks):
        yield


def started(call: Call, vm: str, host: str, name: str, verb: str) -> None:
    refresh_devices(call, vm)
    row = call.db.row("host", host)
    tell(call, vm, name, f"{verb} on host: {row['name_label']} (uuid: {row['uuid']})")


def refresh_devices(call: Call, vm: str) -> None:
    vm_state.refresh_disks(call.xapi, vm)
    vm_state.refresh_vifs(call.xapi, vm)


def tell(call: Call, vm: str, name: str, what: str) -> None:
    """Write a message about the VM."""
    row = call.db.row("VM", vm)
    message.write(call, name, "VM", vm, f"VM '{row['name_label']}' (uuid: {row['uuid']}) {what}")
