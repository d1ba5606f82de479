"""Decompress a stream as it passes, in pieces of bounded size.

The reader's own thread reads the compressed bytes. One other thread decompresses, one piece ahead: zlib and zstd
release Python's lock meanwhile.
"""

from __future__ import annotations

import importlib
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from xenvol.images.disk_image import PIECE, Stream
from xenvol.images.errors import InvalidImage, MissingReader, TruncatedImage, UnsupportedImage
from xenvol.images.sources.expanders import (
    GZIP_MAGIC,
    XZ_MAGIC,
    ZSTD_MAGIC,
    BadCompression,
    Bzip2,
    Expander,
    Gzip,
    TooLargeWindow,
    Xz,
    Zstd,
    is_bzip2,
    is_skippable,
)
from xenvol.images.sources.streams import Peekable

_OUTPUT: Final = 256 << 10  # bytes: with 1 MiB at once, zstd takes twice the time (for fresh memory)
_INPUT: Final = 256 << 10  # bytes: zlib copies what it has not used yet at every call


def zstd_library(image: str, *, format: str = "zstd") -> Any:
    """Return Python's module from 3.14 on, before that its backport. Raises MissingReader."""
    try:
        if sys.version_info >= (3, 14):
            return importlib.import_module("compression.zstd")
        return importlib.import_module("backports.zstd")
    except ImportError as error:
        raise MissingReader(
            image, format=format, package="backports.zstd (pip install 'xenvol[images]')"
        ) from error


class _Step(NamedTuple):
    parts: list[bytes]
    is_hungry: bool
    is_complete: bool


class _Decompressed:
    length: int | None = None  # gzip gives it modulo 4 GiB, and only of the last member

    def __init__(self, stream: Stream, expander: Expander) -> None:
        self.name = stream.name
        self._stream = stream
        self._expander = expander
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xenvol-decompress")
        self._step: Future[_Step] | None = None  # computes the next piece
        self._fed = 0
        self._parts: deque[bytes] = deque()  # of the current piece
        self._rest = b""  # the current part of it; the bytes from `_position` on are left
        self._position = 0
        self._is_at_end = False

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer where the stream ends. Raises InvalidImage, TruncatedImage, SourceError."""
        parts: list[bytes] = []
        missing = size
        while missing:
            if self._position == len(self._rest):
                self._rest, self._position = self._next(), 0
                if not self._rest:
                    break
            part = self._rest[self._position : self._position + missing]
            parts.append(part)
            self._position += len(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _next(self) -> bytes:
        """Return the next part, at most _OUTPUT bytes; none at the end."""
        while not (self._parts or self._is_at_end):
            if self._step is None:
                self._step = self._thread.submit(self._expand)
            step = self._result(self._step)
            if step.is_hungry:
                data = self._stream.read(_INPUT)
                self._fed += len(data)
                if data:
                    self._expander.feed(data)
                elif not step.parts:
                    self._end(step)
                    break
            self._step = self._thread.submit(self._expand)
            self._parts.extend(step.parts)
        return self._parts.popleft() if self._parts else b""

    def _result(self, step: Future[_Step]) -> _Step:
        try:
            return step.result()
        except BadCompression as error:
            self._thread.shutdown(wait=False)
            raise InvalidImage(
                self.name, format=self._expander.format, problem=str(error), offset=self._fed
            ) from error
        except TooLargeWindow as error:
            self._thread.shutdown(wait=False)
            raise UnsupportedImage(
                self.name,
                problem=f"to decompress it takes {error} bytes of memory or more, and xenvol gives it less",
                remedy="compress it without --long, --ultra and large dictionaries, or decompress it first",
            ) from error

    def _expand(self) -> _Step:
        parts: list[bytes] = []
        missing = PIECE
        while missing and (part := self._expander.expand(min(missing, _OUTPUT))):
            parts.append(part)
            missing -= len(part)
        return _Step(parts, self._expander.is_hungry, self._expander.is_complete)

    def _end(self, step: _Step) -> None:
        self._is_at_end = True
        self._thread.shutdown(wait=False)
        if not step.is_complete:
            raise TruncatedImage(
                self.name, format=self._expander.format, problem="it ends in the middle", offset=self._fed
            )

    def __repr__(self) -> str:
        return f"<{self._expander.format} stream {self.name}: {self._fed} compressed bytes read>"


def decompressed(stream: Peekable) -> Stream:
    """Return the decompressed stream of a gzip, bzip2, xz or zstd stream, whose length is not known; any other itself.

    The first bytes tell the compression. Raises MissingReader: zstd before Python 3.14 needs the extra. Its reads
    raise InvalidImage, TruncatedImage, UnsupportedImage (zstd that needs more memory than xenvol allows),
    SourceError.
    """
    start = stream.peek(10)
    magic = start[:4]
    if magic.startswith(GZIP_MAGIC):
        return _Decompressed(stream, Gzip())
    if start.startswith(XZ_MAGIC):
        return _Decompressed(stream, Xz())
    if is_bzip2(start):
        return _Decompressed(stream, Bzip2())
    if magic == ZSTD_MAGIC or is_skippable(magic):
        return _Decompressed(stream, Zstd(zstd_library(stream.name)))
    return stream
