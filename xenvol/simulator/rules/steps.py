"""The number of steps that the hypervisor's daemon takes for an operation; xapi writes it to the task's other_config.

If the daemon refuses, no number is written (xapi_xenops.ml, success_task). The task could be cancelled at
each step, hence the key's name (xenops_server.ml, atomics_of_operation; walk v24-1 #33-103). Parallel steps
count in tasks of their own, which clients do not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenvol.simulator.rules import releases

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

KEY = "debug_info:cancel_points_seen"

HOTPLUG = 2
"""Plug or unplug a disk or an interface."""
SINGLE = 1
"""Pause, unpause, insert, eject."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a domain."""

    writable: tuple[bool, ...]
    """For each drive that can be written: True if it has a medium."""
    read_only: tuple[bool, ...]
    interfaces: int

    @property
    def disks(self) -> tuple[bool, ...]:
        return (*self.writable, *self.read_only)


def note(call: Call, count: int) -> None:
    """Write the number into the call's task, if it has a record; the first number of a call stays."""
    db = call.db
    if db.exists("task", call.task) and KEY not in db.row("task", call.task)["other_config"]:
        db.map_add("task", call.task, "other_config", KEY, str(count))


def start(call: Call, devices: Devices) -> int:
    return sum(_start(call, devices))


def power_off(call: Call, devices: Devices, *, clean: bool) -> int:
    if _side_by_side(call):
        per_disk = [step for medium in devices.disks for step in _serial([1] * (1 + medium))]
        deactivate = _parallel([*per_disk, *[1] * devices.interfaces])
    else:
        deactivate = [1] * (1 + len(devices.disks) + devices.interfaces)
    return clean + 2 + sum(_shutdown(call, devices)) + sum(deactivate)


def reboot(call: Call, devices: Devices, *, clean: bool) -> int:
    end_of_epoch = _parallel([1] * sum(devices.disks)) if _side_by_side(call) else [1]
    return clean + 4 + sum(_shutdown(call, devices)) + sum(end_of_epoch) + sum(_start(call, devices))


def suspend(call: Call, devices: Devices) -> int:
    return 4 + sum(_shutdown(call, devices))


def resume(call: Call, devices: Devices) -> int:
    if _side_by_side(call):
        disks = [
            step for group in (devices.writable, devices.read_only) for step in _parallel([3] * len(group))
        ]
        interfaces = _parallel([3] * devices.interfaces)
        return 6 + sum(disks) + sum(interfaces)
    return 8 + len(devices.disks) + 2 * devices.interfaces


def _start(call: Call, devices: Devices) -> list[int]:
    if not _side_by_side(call):
        return [1] * (9 + len(devices.disks) + 2 * devices.interfaces)
    disks: list[int] = []
    for group in (devices.writable, devices.read_only):
        disks += _parallel([step for medium in group for step in _serial([1] * (2 + medium))])
    plug = _parallel([*_serial(disks), *[3] * devices.interfaces])
    return [1, 1, 1, *plug, 1, 1]


def _shutdown(call: Call, devices: Devices) -> list[int]:
    """Return the steps: pause (at best), destroy the device model, unplug everything, destroy the domain."""
    count = len(devices.disks) + devices.interfaces
    if _side_by_side(call):
        return [2, 1, *_parallel([1] * count), 1]
    return [2, 1, 1, *[1] * devices.interfaces, 1]


def _parallel(steps: Sequence[int]) -> list[int]:
    """Combine steps that run in parallel: they count as one step; no steps remain none."""
    return [1] if len(steps) > 1 else list(steps)


def _serial(steps: Sequence[int]) -> list[int]:
    """Combine steps that run in sequence: their sum plus one; a single step, or none, stays as it is."""
    return [1 + sum(steps)] if len(steps) > 1 else list(steps)


def _side_by_side(call: Call) -> bool:
    return releases.since(call.xapi, releases.DEVICES_SIDE_BY_SIDE)
