"""Standard input and output as an image: bytes, never at a terminal; what goes wrong with them is said as of a file.

Holes are left in standard output only where it is an empty file that nobody appends to; elsewhere zeros are written.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys
from typing import BinaryIO, cast

import click

from xenvol.images.errors import TargetError


def standard_input() -> BinaryIO:
    """Raises UsageError at a terminal."""
    if sys.stdin.isatty():
        raise click.UsageError(
            "- is standard input, which is the terminal: pipe the image in, or name a file",
            click.get_current_context(),
        )
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Raises UsageError at a terminal; what it gives raises TargetError."""
    if sys.stdout.isatty():
        raise click.UsageError(
            "- is standard output, which is the terminal: send it to a file or a pipe, or name a file",
            click.get_current_context(),
        )
    file = sys.stdout.buffer
    file.flush()
    # without a buffer: what a broken pipe has not taken would be written once more when the program ends
    return cast(BinaryIO, _Output(cast(BinaryIO, getattr(file, "raw", file))))


class _Output:
    name = "standard output"

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._has_holes = _is_new_file(file)

    def write(self, data: bytes) -> int:
        """All of it."""
        left = memoryview(data)
        while left:
            try:
                written = self._file.write(left)
            except OSError as error:
                raise _broken(error) from error
            if written is None:  # what a raw file says
                raise TargetError(self.name, problem="it does not wait for its bytes (it is non-blocking)")
            left = left[written:]
        return len(data)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise _broken(error) from error

    # ---- only of a file that may have holes

    def fileno(self) -> int:
        if not self._has_holes:
            raise io.UnsupportedOperation("fileno")
        return self._file.fileno()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            raise _broken(error) from error

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            raise _broken(error) from error


def _broken(error: OSError) -> TargetError:
    if isinstance(error, BrokenPipeError):
        return TargetError(_Output.name, problem="whoever read it is gone")
    return TargetError(_Output.name, problem=error.strerror or str(error))


def _is_new_file(file: BinaryIO) -> bool:
    """A regular one, empty, and not opened to append (of which a seek is ignored)."""
    try:
        descriptor = file.fileno()
        state = os.fstat(descriptor)
        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        return stat.S_ISREG(state.st_mode) and state.st_size == 0 and not appends
    except (OSError, AttributeError, ValueError):
        return False
