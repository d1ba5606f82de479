"""What a simulated guest does of its own accord; what xapi knows about a VM is in the database instead.

A test arranges it with ``xapi.guest(vm).refuses_unplug = True``; the rules of VBD and VM ask it. A guest
with no entry behaves well. Whether a guest has PV drivers is no matter of this module: the VM's record says
it (``platform:sim-pv`` of an HVM guest; docs/simulator.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Guest:
    """One VM's operating system."""

    refuses_unplug: bool = False
    """It keeps its disks: VBD.unplug of a running VM fails, and the disk stays plugged."""
    stays_in_flight: bool = False
    """A live migration of the VM does not end while this is set, and its current_operations say so."""


def guest_of(guests: dict[str, Guest], vm: str) -> Guest:
    """The guest in that VM, by the VM's reference; a well-behaved one is made where there is none."""
    return guests.setdefault(vm, Guest())
