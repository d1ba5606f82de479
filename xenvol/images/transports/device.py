"""A block device of this machine, written and read directly; never one that another program has claimed.

xenvol opens it exclusively: the kernel refuses a mounted device, or one that is part of another. xenvol never
creates nor truncates it.
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
"""The `vdi_ref` for a `DeviceTransport`, which has its own disk and ignores the reference."""


class Device:
    """An open device. An error with its bytes becomes TransferFailed, which names `what`."""

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
        """Use only the first `size` bytes: a device may be larger than its disk."""
        self.virtual_size = self.allocated = size

    def write(self, pieces: Iterable[Piece]) -> None:
        """Write all pieces, and flush. When it returns, the storage has them."""
        for offset, data in fitting(pieces, self.virtual_size, self.what):
            self._write(offset, data)
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed("flushing", error) from error

    def pieces(self) -> Iterator[Piece]:
        with suppress(OSError):  # so that the reads come from the storage, and not from the page cache
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
        """Yield the ranges that are not holes; all of it if the kernel does not tell (for a block device it does
        not)."""
        position = 0
        while position < self.virtual_size:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
                end = min(os.lseek(self._fd, start, os.SEEK_HOLE), self.virtual_size)
            except OSError as error:
                if error.errno != errno.ENXIO:  # ENXIO: no data from here on
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
    """Open a block device. Raises TargetError if it is not one, is missing, or is in use."""
    flags = (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        mode = path.stat().st_mode
        if stat.S_ISBLK(mode):
            flags |= (
                os.O_EXCL if writes else 0
            )  # O_EXCL without O_CREAT: a block device that is claimed is refused
        elif not (may_be_file and stat.S_ISREG(mode)):
            raise TargetError(str(path), problem="it is not a block device")
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
    """The device of a volume that is attached to this machine. It ignores `vdi_ref`."""

    name = "device"

    def __init__(self, path: Path, *, may_be_file: bool = False) -> None:
        self.path = path
        self._may_be_file = may_be_file

    @property
    def size(self) -> int:
        """Return the bytes of the device. Raises TargetError."""
        with self._open(writes=False) as device:
            return device.size

    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        """As `Transport.fill`; also raises TargetError."""
        with self._open(writes=True) as device:
            device.write(pieces)

    @contextmanager
    def contents(self, vdi_ref: VDIRef = NO_VDI) -> Iterator[DiskImage]:
        """As `Transport.contents`; also raises TargetError."""
        with self._open(writes=False) as device:
            yield device

    def _open(self, *, writes: bool) -> AbstractContextManager[Device]:
        what = f"device {self.path}"
        return open_device(self.path, writes=writes, what=what, may_be_file=self._may_be_file)
