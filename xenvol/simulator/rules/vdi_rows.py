"""What xapi itself writes into VDI rows after a driver has spoken (xapi_sr.ml, update_vdis).

The drivers that we model write most of their rows themselves, so that little is left: a snapshot whose source is
gone loses its snapshot_of, and tools ISOs are recognised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL

if TYPE_CHECKING:
    from xenvol.simulator.database import Database


def refresh(db: Database, vdi: str, nameless: str | None = None) -> None:
    """``nameless`` is the VDI that lies at the empty location: what "no source" finds where there is one.

    Unless the whole SR is looked at, that can only be the VDI itself: VDI.introduce with an empty location makes
    a snapshot of itself (xapi_sr.ml, find_vdi).
    """
    row = db.row("VDI", vdi)
    if nameless is None:
        nameless = NULL if row["location"] else vdi
    source = row["snapshot_of"] if db.exists("VDI", row["snapshot_of"]) else nameless
    is_tools_iso = row["sm_config"].get("xs-tools") == "true"
    db.set("VDI", vdi, snapshot_of=source, is_tools_iso=is_tools_iso)


def refresh_all(db: Database, sr: str) -> None:
    """The same for every VDI of an SR, as a scan does."""
    vdis = db.children(sr, "VDIs")
    nameless = [vdi for vdi in vdis if not db.row("VDI", vdi)["location"]]
    for vdi in vdis:
        refresh(db, vdi, nameless[-1] if nameless else NULL)
