"""Streams: a read returns as many bytes as it was asked for, except at the end."""

from __future__ import annotations

import http.client
import zlib
from typing import BinaryIO

from xenvol.images.disk_image import PIECE, Stream
from xenvol.images.errors import SourceError
from xenvol.images.sources.files import problem_of


class Peekable:
    """A stream whose next bytes can be seen before they are read. It can go back to a remembered position."""

    name: str
    length: int | None

    def __init__(self, stream: Stream) -> None:
        self.name = stream.name
        self.length = stream.length
        self._stream = stream
        self._kept = b""  # read from the stream; the bytes from `_position` on are read again
        self._position = 0
        self._remembers = False

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer where the stream ends, without taking them. Raises SourceError."""
        there = len(self._kept) - self._position
        if there < size:
            self._forget_before()
            self._kept += self._stream.read(size - there)
        return self._kept[self._position : self._position + size]

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer where the stream ends. Raises SourceError."""
        if not self._kept and not self._remembers:
            return self._stream.read(size)
        if self._remembers:
            data = self.peek(size)
            self._position += len(data)
            return data
        data = self._kept[self._position : self._position + size]
        self._position += len(data)
        if self._position == len(self._kept):
            self._kept, self._position = b"", 0
        return data + self._stream.read(size - len(data)) if len(data) < size else data

    def remember(self) -> None:
        """Keep in memory what is read from here on, until `rewind` or `forget`."""
        self.forget()
        self._remembers = True

    def rewind(self) -> None:
        """Go back to the position of `remember`, and stop remembering."""
        if not self._remembers:
            raise ValueError("nothing was remembered")
        self._position = 0
        self._remembers = False

    def forget(self) -> None:
        """Stop remembering, and free the bytes that have been read."""
        self._remembers = False
        self._forget_before()

    def _forget_before(self) -> None:
        if not self._remembers and self._position:
            self._kept, self._position = self._kept[self._position :], 0

    def __repr__(self) -> str:
        return f"<Peekable {self.name}: {len(self._kept) - self._position} bytes seen>"


class _FileStream:
    def __init__(self, file: BinaryIO, name: str, length: int | None) -> None:
        self.name = name
        self.length = length
        # one system call at a time: within `read`, Python handles no signal until all bytes have come
        self._read_some = getattr(file, "read1", file.read)
        self._position = 0

    def read(self, size: int, /) -> bytes:
        if self.length is not None:
            size = min(size, self.length - self._position)
        data = self._read(size) if size > 0 else b""
        if 0 < len(data) < size:  # a pipe returns what it has
            parts = [data]
            missing = size - len(data)
            while missing and (data := self._read(missing)):
                parts.append(data)
                missing -= len(data)
            data = b"".join(parts)
        self._position += len(data)
        if len(data) < size and self.length is not None:
            raise SourceError(self.name, problem=f"it ended after {self._position} of {self.length} bytes")
        return data

    def _read(self, size: int) -> bytes:
        try:
            data = self._read_some(size)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise SourceError(self.name, problem=problem_of(error)) from error
        except (
            EOFError,
            zlib.error,
            http.client.HTTPException,
        ) as error:  # errors of file-like objects of the standard library
            raise SourceError(self.name, problem=str(error) or type(error).__name__) from error
        if data is None:
            raise SourceError(self.name, problem="it is non-blocking")
        if not isinstance(data, bytes):
            raise TypeError(f"{self.name} gives {type(data).__name__}, not bytes: open it in binary mode")
        return data

    def __repr__(self) -> str:
        return (
            f"<stream {self.name}: {self._position} of {'?' if self.length is None else self.length} bytes>"
        )


def stream_of(file: BinaryIO, name: str, length: int | None = None) -> Stream:
    """Return a stream of a file, a pipe or any object with `read`, from its current position.

    With `length` (bytes), it ends there, and an earlier end is a SourceError. The file stays open.
    """
    return _FileStream(file, name, length)


def drain(stream: Stream) -> int:
    """Read the rest, and return the number of bytes. Raises SourceError."""
    total = 0
    while data := stream.read(PIECE):
        total += len(data)
    return total
