"""Differences between releases of xapi, by the first release that has each; rules ask `since`, never a version.

Each release is the first tag of xapi that contains the change. The recorded releases 24.16.0 and 25.33.1
differ in the behaviour of most of them (docs/background/recordings.md; traces 04 of both).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenvol.simulator.xapi import Xapi

Release = tuple[int, int, int]

CHECKED_DEVICE_NUMBERS: Release = (24, 22, 0)
"""Device names are parsed strictly and numbers have a range; every letter names a disk, not only a..p."""

SCANS_UNTIL_STABLE: Release = (24, 40, 0)
"""SR.scan starts again if rows of the SR came or went meanwhile; setting an SR's name calls no driver."""

COPIED_VBDS_ALLOW: Release = (24, 40, 0)
"""The copy of a VBD gets its allowed_operations at once (VM.clone, VM.snapshot)."""

HA_GUARDS_REDO_LOGS: Release = (25, 23, 0)
"""While HA is being switched, redo logs cannot be destroyed; before, this applied to metadata instead."""

BLOCKING_IS_SEEN_AT_ONCE: Release = (24, 29, 0)
"""A change of VM.blocked_operations shows in allowed_operations at once, not after the next operation."""

DEVICES_SIDE_BY_SIDE: Release = (24, 37, 0)
"""The hypervisor's daemon plugs a VM's devices in parallel."""

SYSPREP: Release = (25, 24, 0)
"""VM.sysprep is among the operations of a VM."""

IN_PROGRESS_NAMES_TASK: Release = (25, 27, 0)
"""OTHER_OPERATION_IN_PROGRESS names the task."""

SIXTEEN_VIFS: Release = (25, 29, 0)
"""A VM may have 16 network interfaces; before, 7."""


HA_NAMES_THE_SR: Release = (25, 31, 0)
"""PBD.unplug names the SR when HA forbids it."""


RESIZES_ONLINE: Release = (26, 16, 1)
"""VDI.resize_online exists again."""


def since(xapi: Xapi, release: Release) -> bool:
    """Return True if the pool's xapi is that release or a newer one."""
    return _parse(xapi.model.version) >= release


@functools.cache
def _parse(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split("."))
