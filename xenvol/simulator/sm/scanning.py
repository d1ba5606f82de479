"""What SM itself does for every driver: the rows of an SR follow the disks that the storage shows.

A driver reads its storage, sets the SR's sizes and hands the disks that it found to `synchronise`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from xenvol.simulator.sm.base import Driver, SMFailure, VDIInfo, XapiPort, XapiRefusal

SR_SCAN = 40
GENERAL = 202
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def synchronise(xapi: XapiPort, disks: Sequence[VDIInfo]) -> None:
    """Introduce new disks, forget vanished ones (plugged or not, trace sm/20c#26), update changed ones.

    Location is the key. The first uuid that another SR has, or that is none, ends it with `XapiRefusal`: what came
    before is introduced, the rest is not, and nothing is forgotten or updated (facts/sm-truth.md finding 12).
    """
    rows = {row["location"]: row for row in xapi.vdis()}
    found = {disk.location for disk in disks}
    for disk in disks:
        if disk.location not in rows:
            xapi.introduce(disk)
    for location, row in rows.items():
        if location not in found:
            xapi.forget(row["uuid"])
    for disk in disks:
        if disk.location in rows and not _is_in_sync(disk, rows[disk.location]):
            xapi.update(disk)


def scan_for(command: int, driver: Driver, disks: Sequence[VDIInfo]) -> None:
    """`synchronise` in a command whose own fault number (40 for a scan, 202 for most) wraps a failure."""
    try:
        synchronise(driver.xapi, disks)
    except XapiRefusal as error:
        raise SMFailure(command, str(error)) from error


def _is_in_sync(disk: VDIInfo, row: dict[str, Any]) -> bool:
    given = {
        "virtual_size": disk.virtual_size,
        "physical_utilisation": disk.physical_utilisation,
        "read_only": disk.read_only,
        "sm_config": disk.sm_config,
    }
    return all(value is None or value == row[field] for field, value in given.items())


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None
