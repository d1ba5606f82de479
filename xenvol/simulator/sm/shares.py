"""File servers and local disks: exports, directories, devices, and the hosts' mounts of them."""

from __future__ import annotations

from pathlib import Path


class Shares:
    def __init__(self, directory: Path) -> None:
        self.directory = directory


class HostMounts:
    pass
