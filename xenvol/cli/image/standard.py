"""Standard input and output as an image: bytes, never at a terminal. Their errors read like those of a file.

If standard output is an empty file that is not opened to append, holes are left in it; else zeros are written.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, cast

import click

from xenvol.images.errors import TargetError

NAME: Final = "standard output"


def standard_input() -> BinaryIO:
    """Return standard input. Raises UsageError at a terminal."""
    if sys.stdin.isatty():
        raise click.UsageError(
            "- is standard input, which is the terminal: pipe the image in, or name a file",
            click.get_current_context(),
        )
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Return standard output, whose errors are TargetError. Raises UsageError at a terminal."""
    if sys.stdout.isatty():
        raise click.UsageError(
            "- is standard output, which is the terminal: send it to a file or a pipe, or name a file",
            click.get_current_context(),
        )
    file = sys.stdout.buffer
    file.flush()
    if _is_new_file(file):
        return cast(BinaryIO, _NewFile(file.fileno()))
    # without a buffer: Python would write what a broken pipe has not taken once more when the program ends
    return cast(BinaryIO, _Pipe(cast(BinaryIO, getattr(file, "raw", file))))


class _Pipe:
    """Standard output that cannot seek: written from its beginning to its end."""

    name = NAME

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return _write(self._file.write, data)

    def flush(self) -> None:
        with _told():
            self._file.flush()


class _NewFile(io.FileIO):
    """Standard output that is an empty file: holes can be left in it, and it stays open."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.name = NAME  # else its number is

    def write(self, data: Any, /) -> int:
        return _write(super().write, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _told():
            return super().seek(offset, whence)

    def truncate(self, size: int | None = None, /) -> int:
        with _told():
            return super().truncate(size)


def _write(write: Callable[[memoryview], int | None], data: bytes) -> int:
    """Write all of the data: a raw file may take less at a time."""
    left = memoryview(data)
    while left:
        with _told():
            written = write(left)
        if written is None:
            raise TargetError(NAME, problem="it is non-blocking, so it does not wait for its bytes")
        left = left[written:]
    return len(data)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise TargetError(NAME, problem="the program that read it has ended") from error
    except OSError as error:
        raise TargetError(NAME, problem=error.strerror or str(error)) from error


def _is_new_file(file: BinaryIO) -> bool:
    """Whether it is a regular file, empty, and not opened to append: then a seek would be ignored."""
    try:
        descriptor = file.fileno()
        state = os.fstat(descriptor)
        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        return stat.S_ISREG(state.st_mode) and state.st_size == 0 and not appends
    except (OSError, ValueError):
        return False
