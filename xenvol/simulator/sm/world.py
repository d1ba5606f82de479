"""The storage that stands behind a pool: what the arrays, servers and hosts hold, and nothing that xapi knows.

A test or a world file arranges it and changes it under the pool's feet (add a LUN, drop an export, fill a disk);
storage drivers read it, and write data into it. All bytes lie in sparse files below `World.directory`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from xenvol.simulator.sm.san import HostSessions, San
from xenvol.simulator.sm.shares import HostMounts, Shares


@dataclass
class HostStorage:
    """What one host has logged in to and mounted."""

    sessions: HostSessions = field(default_factory=HostSessions)
    mounts: HostMounts = field(default_factory=HostMounts)


class World:
    """Create, arrange, and close: the files go with it."""

    def __init__(self, directory: Path | None = None) -> None:
        self._owned = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="xenvol-world-"))
        self.san = San(self.directory / "luns")
        """iSCSI targets, portals, FC ports and their LUNs."""
        self.shares = Shares(self.directory / "shares")
        """NFS, gluster, CephFS and SMB exports, local directories and devices, ISO libraries."""
        self.hosts: dict[str, HostStorage] = {}

    def host(self, name: str) -> HostStorage:
        return self.hosts.setdefault(name, HostStorage())

    def close(self) -> None:
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)
