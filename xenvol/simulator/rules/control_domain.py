"""Disks as block devices of a control domain: no hypervisor takes part, and a test can read their bytes.

Each host's ``/dev`` is a directory (`World.dev`). A plugged disk is a link in it to the sparse file with the
disk's bytes; VBD.device is the link's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xenvol.simulator.rules import datapath

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


def plug(call: Call, vbd: str) -> None:
    """Plug a disk; raises the driver's error, or INTERNAL_ERROR if the driver has no address for a control domain."""
    db = call.db
    row = db.row("VBD", vbd)
    disk = db.row("VDI", row["VDI"])
    host = db.row("VM", row["VM"])["resident_on"]
    datapath.attach(call, host, row["VDI"], read_write=row["mode"] == "RW")
    datapath.assert_nbd(
        call, row["VDI"]
    )  # the disk stays attached: the link was there afterwards (trace sm/20c#51)
    device = f"sm/backend/{db.row('SR', disk['SR'])['uuid']}/{disk['uuid']}"
    link = _link(call, host, device)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(datapath.content(call, host, row["VDI"]))
    db.set("VBD", vbd, device=device, currently_attached=True)


def unplug(call: Call, vbd: str) -> None:
    """Unplug a disk; the device goes with the last of the disk's VBDs there."""
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
