"""SM's scan, the same for every driver: make the rows of an SR match the disks in the storage.

A driver reads its storage, sets the SR's sizes and passes the disks that it found to `synchronise`.
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

    Disks are compared by location. The first uuid that another SR has, or that is invalid, raises
    `XapiRefusal`: earlier disks are introduced, later ones are not, and nothing is forgotten or updated
    (docs/background/recordings.md, finding 12 (storage)).
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
    """Call `synchronise`, and turn a failure into the command's own fault (40 for a scan, 202 for most)."""
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
