"""The body of a request, read once and forwards; only the piece that is asked for is in memory."""

from __future__ import annotations

from typing import BinaryIO

PIECE = 1 << 20
"""Bytes that are handled at a time."""


class Broken(Exception):
    """The stream or the disk ended too soon, or the stream has another format; xapi reports an I/O error."""


class Body:
    def __init__(self, stream: BinaryIO, length: int | None) -> None:
        self._stream = stream
        self.length = length
        """Bytes; None if the client sent no length, so that the body ends with the connection."""
        self.position = 0
        """Bytes that were read so far."""

    @property
    def left(self) -> int | None:
        return None if self.length is None else self.length - self.position

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes; `Broken` if the body or the connection ends before."""
        if self.left is not None and size > self.left:
            raise Broken(f"{size} bytes wanted, {self.left} left")
        data = self._stream.read(size)
        self.position += len(data)
        if len(data) < size:
            raise Broken(f"the connection ended after {self.position} bytes")
        return data

    def skip_to(self, position: int) -> None:
        """Read on to that position; `Broken` if it is already past."""
        if position < self.position:
            raise Broken(f"at {self.position} already, not before {position}")
        while self.position < position:
            self.read(min(PIECE, position - self.position))
