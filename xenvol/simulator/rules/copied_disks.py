"""Copy the disks and VBDs of a VM to its copy: all of them, or none is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rules import releases, vbd_operations
from xenvol.simulator.rules.nested import invoke

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

CopyDisk = Callable[["Call", str], str]
"""(call, VDI): returns a copy of the VDI, made by a message that a client could send too."""


def copy_disks(call: Call, slots: Iterable[str], copy_disk: CopyDisk) -> dict[str, str]:
    """Return VBD -> its new disk, in the same order.

    A medium in a drive is not copied; the copy uses the same one.
    """
    db = call.db
    disks: dict[str, str] = {}
    for vbd in slots:
        row = db.row("VBD", vbd)
        try:
            if row["empty"]:
                disks[vbd] = NULL
            elif row["type"] == "CD":
                disks[vbd] = row["VDI"]
            else:
                disks[vbd] = copy_disk(call, row["VDI"])
        except Failure:
            destroy_disks(call, disks)
            raise
    return disks


def clone_disk(call: Call, vdi: str) -> str:
    cloned: str = invoke(call, "VDI.clone", vdi, {})
    return cloned


def snapshot_disk(call: Call, vdi: str) -> str:
    taken: str = invoke(call, "VDI.snapshot", vdi, {})
    return taken


def copy_vbd(call: Call, vbd: str, vm: str, vdi: str) -> str:
    """Create the same VBD in another VM. Older xapi leaves its allowed_operations empty (trace 04#345)."""
    db = call.db
    row = db.row("VBD", vbd)
    kept = ("userdevice", "device", "bootable", "mode", "currently_attached", "type", "unpluggable")
    settings = ("other_config", "qos_algorithm_type", "qos_algorithm_params")
    copied = db.create(
        "VBD",
        **{name: row[name] for name in (*kept, *settings)},
        VM=vm,
        VDI=vdi,
        empty=row["empty"] or vdi == NULL,
        metrics=db.create("VBD_metrics"),
    )
    if releases.since(call.xapi, releases.COPIED_VBDS_ALLOW):
        vbd_operations.update(call.xapi, copied)
    return copied


def destroy_disks(call: Call, disks: dict[str, str]) -> None:
    """Destroy the copies, ignoring failures; media were not copied."""
    for vbd, vdi in disks.items():
        if vdi != NULL and call.db.row("VBD", vbd)["type"] != "CD":
            with contextlib.suppress(Failure):
                invoke(call, "VDI.destroy", vdi)
