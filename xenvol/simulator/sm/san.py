"""Block storage over a network: portals, targets, LUNs, and the hosts' sessions to them."""

from __future__ import annotations

from pathlib import Path


class San:
    def __init__(self, directory: Path) -> None:
        self.directory = directory


class HostSessions:
    pass
