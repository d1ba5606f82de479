"""What drivers of disks and of CD images share: a directory that a host sees at a certain path."""

from __future__ import annotations

import errno

from xenvol.simulator.sm.base import Driver, SMFailure, SRStat
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.mounts import MOUNT_BASE, HostMounts

UNEXPECTED = 1200
"""The fault of a driver that crashed; the reason is Python's error text."""


class MountedDirectory(Driver):
    @property
    def mounts(self) -> HostMounts:
        return self.world.host(self.host.name).mounts

    @property
    def path(self) -> str:
        """The path of the disks on this host."""
        return f"{MOUNT_BASE}/{self.sr.uuid}"

    @property
    def directory(self) -> Directory:
        """The SR's directory as this host sees it: the bare mount point if it is not mounted."""
        if (directory := self.mounts.directory(self.path)) is None:
            raise SMFailure(47, f"[Errno 2] No such file or directory: '{self.path}'")
        return directory

    def stat(self) -> SRStat:
        """Return the sizes of the file system below the SR, as statvfs shows them."""
        filesystem = self.directory.filesystem
        return SRStat(filesystem.size, filesystem.utilisation, self.sr.virtual_allocation)

    def set_sizes(self, virtual_allocation: int) -> None:
        stat = self.stat()
        self.xapi.set_sr(
            physical_size=stat.physical_size,
            physical_utilisation=stat.physical_utilisation,
            virtual_allocation=virtual_allocation,
        )

    def check_writable(self) -> None:
        if self.mounts.is_read_only(self.path) or self.directory.filesystem.is_read_only:
            raise OSError(errno.EROFS, "Read-only file system")
