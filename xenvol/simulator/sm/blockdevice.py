"""A block device of an array or a server: bytes in a sparse file, and the structure that a driver gave them."""

from __future__ import annotations

import os
from pathlib import Path


class BlockDevice:
    """A LUN or a local disk. Its file is created at first use, so a thousand LUNs cost nothing."""

    def __init__(self, file: Path, size: int, *, serial: str = "") -> None:
        self._file = file
        self.size = size
        """Bytes."""
        self.serial = serial
        self.content: object | None = None
        """The structure on the disk (a volume group, a file system); None for a blank disk."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file.stem}: {self.size} bytes, {self.content or 'blank'}>"

    @property
    def path(self) -> Path:
        """The sparse file that holds the disk's bytes, ``size`` long."""
        if not self._file.exists():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
            os.truncate(self._file, self.size)
        return self._file

    def resize(self, size: int) -> None:
        """Grow or shrink the disk; a host that has it open sees the old size until it rescans."""
        self.size = size
        if self._file.exists():
            os.truncate(self._file, size)
