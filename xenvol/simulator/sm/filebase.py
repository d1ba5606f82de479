"""The SR's side of every file-based type: its directory is mounted, scanned, emptied, unmounted.

A subclass says what is mounted where; facts/sm-truth.md, findings on file and nfs, has what follows from that.
"""

from __future__ import annotations

import errno

from xenvol.simulator.sm.base import SMFailure, VDIInfo
from xenvol.simulator.sm.diskfiles import DiskFiles
from xenvol.simulator.sm.filesystem import Directory, File
from xenvol.simulator.sm.scanning import SR_SCAN, is_uuid, scan_for

_NO_WRITE = 461
_HARDLINKS = "sm-hardlink.conf"


class FileDriver(DiskFiles):
    @property
    def mount_point(self) -> str:
        """Where the file system is mounted that has the disks; the directory itself, if nothing else is said."""
        return self.path

    def is_mounted(self) -> bool:
        return self.mounts.is_mounted(self.mount_point)

    def scan(self) -> list[VDIInfo]:
        self._check_mount()
        self._recount()
        disks = self.disks()
        self.set_sizes(sum(disk.virtual_size for disk in disks if disk.managed))
        scan_for(SR_SCAN, self, disks)
        return disks

    def update(self) -> None:
        self._check_mount()
        self.set_sizes(self.sr.virtual_allocation)

    def delete(self) -> None:
        """Erase what is no disk; base copies that nobody needs count as nothing (trace sm/24#108)."""
        self.attach()
        if self.disks():
            raise SMFailure(39, "VDIs still exist in SR")
        directory = self.directory
        for name in directory:
            if directory.file(name) is not None:
                directory.remove(name)
        self.detach()

    def vdi_room(self, uuid: str) -> int | None:
        """What the file system has left; its files grow with what is written to them, and with nothing else."""
        try:
            self.check_writable()
        except OSError:
            return 0
        self._recount()
        return self.directory.filesystem.free

    def unmount(self, point: str) -> None:
        """umount and rmdir: a bare mount point into which somebody wrote stays, and is ENOTEMPTY."""
        self.mounts.unmount(point)
        self.mounts.remove_mount_point(point)

    def _check_mount(self) -> None:
        if not self.is_mounted():
            raise SMFailure(47, f"no such directory {self.path}")

    def _recount(self) -> None:
        directory = self.directory
        for name in directory:
            if (file := directory.file(name)) is not None:
                directory.filesystem.recount(file)


class SharedFileDriver(FileDriver):
    """File systems of servers: tried for writing when they are attached, and for hard links, which is noted there."""

    def check_shared(self) -> None:
        """461 for a directory that is not there or cannot be written."""
        directory = self.mounts.directory(self.path)
        try:
            if directory is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", self.path)
            self.check_writable()
            if _HARDLINKS not in directory:
                directory.add(_HARDLINKS, File(1))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return  # an empty file for the test fits always; the note does not, and nobody looks
            raise SMFailure(_NO_WRITE) from error

    def make_sr_directory(self, root: Directory, create_fault: tuple[int, str]) -> None:
        """The directory with the SR's uuid: 42 when it is there with something in it, 461 without write access."""
        if (directory := root.directory(self.sr.uuid)) is not None:
            if len(directory):
                raise SMFailure(42)
            return
        try:
            if self.mounts.is_read_only(self.mount_point):
                raise OSError(errno.EROFS, "Read-only file system")
            root.make_directory(self.sr.uuid)
        except OSError as error:
            if error.errno == errno.EROFS:
                raise SMFailure(
                    _NO_WRITE, f"remote filesystem is read-only error is {error.errno}"
                ) from error
            number, text = create_fault
            raise SMFailure(number, text.format(number=error.errno, text=error.strerror)) from error


def sr_uuids(directory: Directory) -> list[str]:
    """The directories that are named like an SR."""
    return [name for name in directory if is_uuid(name) and directory.directory(name) is not None]
