"""The body of a request as it arrives, read once and forwards; no more of it is kept than is asked for."""

from __future__ import annotations

from typing import BinaryIO

PIECE = 1 << 20
"""Bytes that are handled at a time, whatever the size of a disk."""


class Broken(Exception):
    """The stream or the disk ended too soon, or the stream is not what it is said to be: an I/O error to xapi."""


class Body:
    def __init__(self, stream: BinaryIO, length: int | None) -> None:
        self._stream = stream
        self.length = length
        """Bytes; None where nobody said, and the connection's end is the body's."""
        self.position = 0
        """Bytes that were read."""

    @property
    def left(self) -> int | None:
        return None if self.length is None else self.length - self.position

    def read(self, size: int) -> bytes:
        """Exactly so much; `Broken` where the body or the connection ends before."""
        if self.left is not None and size > self.left:
            raise Broken(f"{size} bytes wanted, {self.left} left")
        data = self._stream.read(size)
        self.position += len(data)
        if len(data) < size:
            raise Broken(f"the connection ended after {self.position} bytes")
        return data

    def skip_to(self, position: int) -> None:
        """Read on to there; `Broken` where it is past."""
        if position < self.position:
            raise Broken(f"at {self.position} already, not before {position}")
        while self.position < position:
            self.read(min(PIECE, position - self.position))
