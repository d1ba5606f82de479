"""The behaviour of simulated guests. What xapi knows about a VM is in the database.

A test arranges it with ``xapi.guest(vm).refuses_unplug = True``; the rules of VBD and VM read it. A guest
without an entry behaves well. The VM's record says whether a guest has PV drivers (``platform:sim-pv`` of an
HVM guest; docs/simulator.md).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Guest:
    """The operating system of one VM."""

    refuses_unplug: bool = False
    """If True, the guest keeps its disks: VBD.unplug of a running VM fails, and the disk stays plugged."""
    stays_in_flight: bool = False
    """While True, a live migration of the VM does not end, and the VM's current_operations contain it."""


def guest_of(guests: dict[str, Guest], vm: str) -> Guest:
    """Return the guest of that VM, given its reference; make a well-behaved one if there is none."""
    return guests.setdefault(vm, Guest())
