"""What comes once comes whole: a read gives as much as was asked for until the end, and never waits for more."""

from __future__ import annotations

import http.client
import zlib
from typing import BinaryIO

from xenvol.images.disk_image import PIECE, Stream
from xenvol.images.errors import SourceError
from xenvol.images.sources.files import problem_of


class Peekable:
    """A stream whose next bytes can be seen before they are read, and that can go back to where it was told to."""

    name: str
    length: int | None

    def __init__(self, stream: Stream) -> None:
        self.name = stream.name
        self.length = stream.length
        self._stream = stream
        self._kept = b""  # read from the stream, and to be read again from `_position` on
        self._position = 0
        self._remembers = False

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, or fewer where it ends; they stay. They are held in memory. Raises SourceError."""
        there = len(self._kept) - self._position
        if there < size:
            self._forget_before()
            self._kept += self._stream.read(size - there)
        return self._kept[self._position : self._position + size]

    def read(self, size: int, /) -> bytes:
        """`size` bytes, or fewer where it ends. Raises SourceError."""
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
        """From here on, what is read is held in memory, until `rewind` or `forget`."""
        self.forget()
        self._remembers = True

    def rewind(self) -> None:
        """Back to where `remember` was called; nothing is remembered any more."""
        if not self._remembers:
            raise ValueError("nothing was remembered")
        self._position = 0
        self._remembers = False

    def forget(self) -> None:
        """There will be no going back."""
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
        # one call of the kernel at a time: within `read` Python hears of no signal until all bytes have come
        self._read_some = getattr(file, "read1", file.read)
        self._position = 0

    def read(self, size: int, /) -> bytes:
        if self.length is not None:
            size = min(size, self.length - self._position)
        data = self._read(size) if size > 0 else b""
        if 0 < len(data) < size:  # a pipe gives what there is
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
        ) as error:  # what file-likes of the library raise
            raise SourceError(self.name, problem=str(error) or type(error).__name__) from error
        if data is None:
            raise SourceError(self.name, problem="it does not wait for its bytes (it is non-blocking)")
        if not isinstance(data, bytes):
            raise TypeError(f"{self.name} gives {type(data).__name__}, not bytes: open it in binary mode")
        return data

    def __repr__(self) -> str:
        return (
            f"<stream {self.name}: {self._position} of {'?' if self.length is None else self.length} bytes>"
        )


def stream_of(file: BinaryIO, name: str, length: int | None = None) -> Stream:
    """What a file, a pipe or anything with `read` gives, from where it stands.

    With `length` (bytes) said, nothing behind it is read, and to end before it is a SourceError. The file stays open.
    """
    return _FileStream(file, name, length)


def drain(stream: Stream) -> int:
    """Read all that is left, and say how many bytes that was. Raises SourceError."""
    total = 0
    while data := stream.read(PIECE):
        total += len(data)
    return total
