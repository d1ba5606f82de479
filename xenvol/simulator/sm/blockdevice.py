"""A disk as an array or a server holds it: bytes in a sparse file, and what somebody has made of them."""

from __future__ import annotations

import os
from pathlib import Path


class BlockDevice:
    """A LUN or a local disk. Its file is made when first asked for: a thousand LUNs cost nothing."""

    def __init__(self, file: Path, size: int, *, serial: str = "") -> None:
        self._file = file
        self.size = size
        """Bytes."""
        self.serial = serial
        self.content: object | None = None
        """What a driver or a test made of the disk (a volume group, a file system); None: it is blank."""

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
        """Grow or shrink the disk itself; who has it open sees the old size until it looks again."""
        self.size = size
        if self._file.exists():
            os.truncate(self._file, size)
