"""Write into the sparse file behind a disk, and keep its holes."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from xenvol.simulator.images.body import Broken

_GRAIN = 64 * 1024
"""Bytes: runs of zeros of this length and alignment become holes."""
_ZEROS = bytes(_GRAIN)


class Sink:
    """A disk that cannot grow:

    `Broken` for data beyond its end or beyond the storage's room; data before that is written.
    """

    def __init__(self, path: Path, size: int, room: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.size = size
        self.room = room
        """Bytes that the storage can still allocate for holes; None means no limit."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, offset: int, data: bytes) -> None:
        fitting = max(0, min(len(data), self.size - offset))
        start = 0
        while start < fitting:
            end = min(fitting, start + _GRAIN - (offset + start) % _GRAIN)
            piece = data[start:end]
            if piece != _ZEROS[: len(piece)]:
                self._make_room(offset + start, len(piece))
                self._write(offset + start, piece)
            elif self._holds_data(offset + start, len(piece)):
                self._write(offset + start, piece)
            start = end
        if fitting < len(data):
            raise Broken(f"{offset + len(data)} is beyond the disk's {self.size} bytes")

    def _make_room(self, offset: int, size: int) -> None:
        if self.room is not None and not self._holds_data(offset, size):
            if size > self.room:
                raise Broken("no space left on the storage")
            self.room -= size

    def _write(self, offset: int, piece: bytes) -> None:
        while piece:
            written = os.pwrite(self._fd, piece, offset)
            offset, piece = offset + written, piece[written:]

    def _holds_data(self, offset: int, size: int) -> bool:
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA) < offset + size
        except OSError:  # ENXIO: no data after this position
            return False
