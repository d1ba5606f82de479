"""Disks as block devices of a control domain itself: no hypervisor takes part, and their bytes can be had.

Each host's ``/dev`` is a directory (`World.dev`). A disk that is plugged there is a link in it to the sparse file
that holds the disk's bytes, under the name that VBD.device has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xenvol.simulator.rules import datapath

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


def plug(call: Call, vbd: str) -> None:
    """Raises what the driver refuses with, or INTERNAL_ERROR where it has no address for a control domain."""
    db = call.db
    row = db.row("VBD", vbd)
    disk = db.row("VDI", row["VDI"])
    host = db.row("VM", row["VM"])["resident_on"]
    datapath.attach(call, host, row["VDI"], read_write=row["mode"] == "RW")
    datapath.assert_nbd(
        call, row["VDI"]
    )  # the disk stays attached: there was a link afterwards (trace sm/20c#51)
    device = f"sm/backend/{db.row('SR', disk['SR'])['uuid']}/{disk['uuid']}"
    link = _link(call, host, device)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(datapath.content(call, host, row["VDI"]))
    db.set("VBD", vbd, device=device, currently_attached=True)


def unplug(call: Call, vbd: str) -> None:
    """The device is gone with the last of the disk's slots there."""
    db = call.db
    row = db.row("VBD", vbd)
    host = db.row("VM", row["VM"])["resident_on"]
    if not row["empty"]:
        datapath.detach(call, host, row["VDI"])
    db.set("VBD", vbd, currently_attached=False)
    others = [db.row("VBD", other) for other in db.children(row["VM"], "VBDs")]
    if not any(other["currently_attached"] and other["device"] == row["device"] for other in others):
        _link(call, host, row["device"]).unlink(missing_ok=True)


def _link(call: Call, host: str, device: str) -> Path:
    return call.xapi.world.dev(call.db.row("host", host)["hostname"]) / device
