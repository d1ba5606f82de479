"""The SR's side of every file-based type: mount, scan, empty and unmount its directory.

A subclass defines what is mounted where (docs/background/recordings.md, findings on file and nfs).
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
        """The mount point of the file system with the disks; by default the SR's directory."""
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
        """Erase files that are not disks; unused base copies do not count as disks (trace sm/24#108)."""
        self.attach()
        if self.disks():
            raise SMFailure(39, "VDIs still exist in SR")
        directory = self.directory
        for name in directory:
            if directory.file(name) is not None:
                directory.remove(name)
        self.detach()

    def vdi_room(self, uuid: str) -> int | None:
        """Return the file system's free space; files grow only with what is written to them."""
        try:
            self.check_writable()
        except OSError:
            return 0
        self._recount()
        return self.directory.filesystem.free

    def unmount(self, point: str) -> None:
        """Unmount and remove the mount point; ENOTEMPTY if something wrote into the bare mount point."""
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
    """File systems of servers; attaching tests write access and hard links, and notes whether there are any."""

    def check_shared(self) -> None:
        """Raise fault 461 if the directory is missing or cannot be written."""
        directory = self.mounts.directory(self.path)
        try:
            if directory is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", self.path)
            self.check_writable()
            if _HARDLINKS not in directory:
                directory.add(_HARDLINKS, File(1))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return  # an empty file for the test always fits; the note does not, and its absence is ignored
            raise SMFailure(_NO_WRITE) from error

    def make_sr_directory(self, root: Directory, create_fault: tuple[int, str]) -> None:
        """Make the directory with the SR's uuid:

        42 if it exists and is not empty, 461 without write access.
        """
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
    """Return the directories whose names are uuids."""
    return [name for name in directory if is_uuid(name) and directory.directory(name) is not None]
