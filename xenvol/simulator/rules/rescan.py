"""The scan of SRs that a plug left ``dirty`` or that ask for it; a pool does it every 30 seconds.

An ISO library's disks appear no earlier, because its driver does not scan when it is plugged
(docs/background/xapi.md 2.4).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import RULES, Call
from xenvol.simulator.rules import sr_hosts

if TYPE_CHECKING:
    from xenvol.simulator.xapi import Xapi

INTERVAL = 30.0  # seconds, unless the master's other_config:auto-scan-interval says otherwise


def scan_marked(xapi: Xapi) -> list[str]:
    """Scan all marked SRs that are plugged, and return the SRs that were scanned. Takes the lock."""
    with xapi.lock:
        return [sr for sr in _marked(xapi) if _scan(xapi, sr)]


def _marked(xapi: Xapi) -> list[str]:
    db = xapi.db
    marks = {sr: db.row("SR", sr)["other_config"] for sr in db.refs("SR") if sr_hosts.plugged_pbds(db, sr)}
    return [sr for sr, mark in marks.items() if "dirty" in mark or mark.get("auto-scan") == "true"]


def _scan(xapi: Xapi, sr: str) -> bool:
    """Scan one SR; return False if it fails, which xapi only writes to its log."""
    call = Call(xapi, "SR.scan", NULL, f"OpaqueRef:{uuid.uuid4()}", xapi.master)
    try:
        RULES["SR.scan"](call, sr)
    except Failure:
        return False
    return True
