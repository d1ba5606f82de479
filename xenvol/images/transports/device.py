"""A block device that this machine shows, written and read straight; never one that somebody else has open for good.

It is opened exclusively (the kernel refuses what is mounted or part of something), never made and never truncated.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from xenvol.images.disk_image import PIECE, DiskImage, Piece, without_zeros
from xenvol.images.errors import TargetError, TransferFailed
from xenvol.images.transports.base import Transport, fitting
from xenvol.session.refs import NULL_REF, VDIRef

NO_VDI: Final = VDIRef(NULL_REF)
"""What a `DeviceTransport` takes for the disk: it has one, and looks at no VDI."""


class Device:
    """A device that is open. Raises TransferFailed, of `what`, for whatever goes wrong with its bytes."""

    format = "raw"
    is_ordered = True

    def __init__(self, fd: int, path: Path, *, what: str) -> None:
        self._fd = fd
        self.path = path
        self.what = what
        self.size = os.lseek(fd, 0, os.SEEK_END)
        self.virtual_size = self.size
        self.allocated: int | None = self.size

    def limit(self, size: int) -> None:
        """The disk has so many bytes; the device may have more."""
        self.virtual_size = self.allocated = size

    def write(self, pieces: Iterable[Piece]) -> None:
        """All of them, and flush: when it returns, the storage has them."""
        for offset, data in fitting(pieces, self.virtual_size, self.what):
            self._write(offset, data)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("flushing", error) from error

    def pieces(self) -> Iterator[Piece]:
        with suppress(
            OSError
        ):  # what is read back comes from the storage, and not from what was just written
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return without_zeros(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        for start, end in self._ranges():
            for offset in range(start, end, PIECE):
                yield Piece(offset, self._read(offset, min(PIECE, end - offset)))

    def _write(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise self._failed(f"writing at byte {offset}", error) from error

    def _read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    raise OSError(errno.EIO, "it ends there")
                data += more
        except OSError as error:
            raise self._failed(f"reading at byte {offset}", error) from error
        return data

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """What is not in a hole; all of it where the kernel does not say (of block devices it does not)."""
        position = 0
        while position < self.virtual_size:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
                end = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.virtual_size)
            except OSError as error:
                if error.errno != errno.ENXIO:  # which is: there is no data any more
                    yield position, self.virtual_size
                return
            if start >= self.virtual_size:
                return
            yield start, end
            position = end

    def _failed(self, doing: str, error: OSError) -> TransferFailed:
        return TransferFailed(self.what, problem=f"{doing} of {self.path} failed: {error.strerror or error}")


@contextmanager
def open_device(path: Path, *, writes: bool, what: str, may_be_file: bool = False) -> Iterator[Device]:
    """Raises TargetError for what is no block device, is not there, or is in use."""
    flags = (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            flags |= (
                os.O_EXCL if writes else 0
            )  # without O_CREAT, of a block device: unless somebody has claimed it
        elif not (may_be_file and stat.S_ISREG(mode)):
            raise TargetError(str(path), problem="it is no block device")
        fd = os.open(path, flags)
    except OSError as error:
        problem = (
            "it is mounted, or part of a RAID, LVM or multipath device"
            if error.errno == errno.EBUSY
            else error
        )
        raise TargetError(str(path), problem=str(problem)) from error
    try:
        yield Device(fd, path, what=what)
    finally:
        os.close(fd)


class DeviceTransport(Transport):
    """To a volume's device that is attached here; `vdi_ref` is looked at by nobody."""

    name = "device"

    def __init__(self, path: Path, *, may_be_file: bool = False) -> None:
        self.path = path
        self._may_be_file = may_be_file

    @property
    def size(self) -> int:
        """Bytes. Raises TargetError."""
        with self._open(writes=False) as device:
            return device.size

    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        """Raises TargetError besides."""
        with self._open(writes=True) as device:
            device.write(pieces)

    @contextmanager
    def contents(self, vdi_ref: VDIRef = NO_VDI) -> Iterator[DiskImage]:
        """Raises TargetError besides."""
        with self._open(writes=False) as device:
            yield device

    def _open(self, *, writes: bool) -> AbstractContextManager[Device]:
        what = f"device {self.path}"
        return open_device(self.path, writes=writes, what=what, may_be_file=self._may_be_file)
