"""Read a file at any offset, and never beyond its end. An error of the system becomes a SourceError."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from xenvol.images.disk_image import ByteFile, EndOfFile, Stream
from xenvol.images.errors import SourceError

_PROBLEMS: Final = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a directory",
    errno.ENOMEDIUM: "no medium in the drive",
}


class FileSource:
    """A file or a block device by its path, or an open binary file that can seek. Offsets count from the file's
    start.

    The constructor opens the path, and raises SourceError: no such file, a directory, a pipe, no permission. An open
    file stays open, with an undefined position.
    """

    name: str
    """The path, or the name of the open file."""
    size: int
    """Bytes at the time of opening."""
    path: Path | None
    """None for an open file."""

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, *, name: str | None = None) -> None:
        self._descriptor: int | None = None
        self._file: BinaryIO | None = None
        self._owned = False
        self._closed = False
        self._lock = threading.Lock()  # guards the position, where reading has to seek first
        if isinstance(source, (str, os.PathLike)):
            self.path = Path(source)
            self.name = str(self.path) if name is None else name
            self._descriptor, self._owned = _open(self.path, self.name), True
        else:
            self.path = None
            self.name = name_of(source) if name is None else name
            self._descriptor = _descriptor_of(source)
            if self._descriptor is None:
                self._file = source
        try:
            self.size = self._find_size()
        except BaseException:
            self.close()
            raise

    def _find_size(self) -> int:
        try:
            if self._descriptor is None:
                assert self._file is not None
                return self._file.seek(0, os.SEEK_END)
            return os.lseek(self._descriptor, 0, os.SEEK_END)  # a block device has the st_size 0
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise SourceError(self.name, problem=problem_of(error)) from error

    def pread(self, offset: int, size: int, /) -> bytes:
        """Return exactly `size` bytes. Raises EndOfFile beyond the end, SourceError."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise EndOfFile(f"{self.name} has {self.size} bytes; {size} at {offset} were asked for")
        if self._closed:
            raise SourceError(self.name, problem="it is closed")
        try:
            data = self._pread(offset, size)
            while len(data) < size:  # Linux reads at most 2 GiB at once; a network file system may read less
                more = self._pread(offset + len(data), size - len(data))
                if not more:
                    raise SourceError(
                        self.name,
                        problem=f"it became shorter: {self.size} bytes, and now {offset + len(data)}",
                    )
                data += more
        except (OSError, ValueError) as error:
            raise SourceError(self.name, problem=problem_of(error)) from error
        return data

    def _pread(self, offset: int, size: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, size, offset)
        assert self._file is not None
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size) or b""

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each range that is not a hole; all of the file if its holes are not known."""
        position = 0
        while position < self.size:
            try:
                start, end = self._data_range(position)
            except OSError as error:
                if error.errno == errno.ENXIO:  # no data from here on
                    return
                start, end = position, self.size  # a block device, or a file system without this call
            except ValueError:  # not a file of the system
                start, end = position, self.size
            if start >= self.size:
                return  # the file has grown
            yield start, min(end, self.size)
            position = end

    def _data_range(self, position: int) -> tuple[int, int]:
        if self._descriptor is None or self._closed or not hasattr(os, "SEEK_DATA"):
            raise ValueError("cannot tell")
        start = os.lseek(self._descriptor, position, os.SEEK_DATA)
        return start, os.lseek(self._descriptor, start, os.SEEK_HOLE)

    def close(self) -> None:
        """Close the file, unless the caller opened it. Idempotent."""
        if self._owned and not self._closed and self._descriptor is not None:
            os.close(self._descriptor)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):  # the constructor may have failed at once
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.size} bytes"
        return f"<{type(self).__name__} {self.name}: {state}>"


class Window:
    """A part of another file, such as a member of a tar: `size` bytes from `offset` on, which must lie within the
    file."""

    def __init__(self, file: ByteFile, *, offset: int, size: int, name: str) -> None:
        if offset < 0 or size < 0 or offset + size > file.size:
            raise ValueError(f"{file.name} has {file.size} bytes: {size} at {offset} do not lie within")
        self.name = name
        self.size = size
        self._file = file
        self._offset = offset

    def pread(self, offset: int, size: int, /) -> bytes:
        """Return exactly `size` bytes. Raises EndOfFile beyond the part, SourceError."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise EndOfFile(f"{self.name} has {self.size} bytes; {size} at {offset} were asked for")
        return self._file.pread(self._offset + offset, size)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of each range that is not a hole of the file."""
        for start, end in self._file.data_ranges():
            start, end = max(start - self._offset, 0), min(end - self._offset, self.size)
            if start >= self.size:
                return
            if start < end:
                yield start, end

    def __repr__(self) -> str:
        return f"<Window {self.name}: {self.size} bytes at {self._offset}>"


class _Sequence:
    def __init__(self, file: ByteFile) -> None:
        self.name = file.name
        self.length: int | None = file.size
        self._file = file
        self._position = 0

    def read(self, size: int, /) -> bytes:
        data = self._file.pread(self._position, min(size, self._file.size - self._position))
        self._position += len(data)
        return data


def as_stream(file: ByteFile) -> Stream:
    """Return a stream of the whole file, with holes as zeros."""
    return _Sequence(file)


def name_of(file: BinaryIO) -> str:
    """Return the name of an open file for errors."""
    name = getattr(file, "name", None)
    if isinstance(name, (str, bytes)) and name:
        text = os.fsdecode(name)
        return "standard input" if text == "<stdin>" else text
    return "standard input" if name == 0 else f"an open {type(file).__name__}"


def problem_of(error: OSError | ValueError) -> str:
    """Return the system's reason as words that can follow a colon."""
    if isinstance(error, OSError) and error.errno is not None:
        return _PROBLEMS.get(error.errno) or error.strerror or str(error)
    return str(error) or type(error).__name__


def _open(path: Path, name: str) -> int:
    try:
        # without O_NONBLOCK, opening a pipe waits for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SourceError(name, problem=problem_of(error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise SourceError(name, problem="it is a directory")
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise SourceError(
                name, problem="it is neither a file nor a block device; give it as standard input"
            )
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _descriptor_of(file: BinaryIO) -> int | None:
    """Return the file's descriptor; None if it has none, or if its bytes are not the descriptor's (gzip.open)."""
    file = getattr(file, "file", file) if type(file).__module__ == "tempfile" else file
    raw = file.raw if isinstance(file, (io.BufferedReader, io.BufferedRandom)) else file
    if not isinstance(raw, io.FileIO):
        return None
    try:
        if isinstance(file, io.BufferedRandom):
            file.flush()
        return raw.fileno()
    except (OSError, ValueError) as error:
        raise SourceError(name_of(file), problem=problem_of(error)) from error
