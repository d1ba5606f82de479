"""What xapi itself writes into VDI rows after a driver's command (xapi_sr.ml, update_vdis).

The modelled drivers write most of their rows themselves. xapi clears snapshot_of if the source is gone, and
recognises tools ISOs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL

if TYPE_CHECKING:
    from xenvol.simulator.database import Database


def refresh(db: Database, vdi: str, nameless: str | None = None) -> None:
    """Update one row. ``nameless`` is the VDI with an empty location, which counts as the source if no source exists.

    Without a scan of the whole SR it can only be the VDI itself: VDI.introduce with an empty location makes a
    snapshot of itself (xapi_sr.ml, find_vdi).
    """
    row = db.row("VDI", vdi)
    if nameless is None:
        nameless = NULL if row["location"] else vdi
    source = row["snapshot_of"] if db.exists("VDI", row["snapshot_of"]) else nameless
    is_tools_iso = row["sm_config"].get("xs-tools") == "true"
    db.set("VDI", vdi, snapshot_of=source, is_tools_iso=is_tools_iso)


def refresh_all(db: Database, sr: str) -> None:
    """Update every VDI of an SR, as a scan does."""
    vdis = db.children(sr, "VDIs")
    nameless = [vdi for vdi in vdis if not db.row("VDI", vdi)["location"]]
    for vdi in vdis:
        refresh(db, vdi, nameless[-1] if nameless else NULL)
