"""What SMB, gluster, CephFS and MooseFS share: the share is mounted elsewhere, and the SR's path is a link into it.

The link is made even if its target is missing. So a type that does not test writing in time gets an SR
without a directory, and its first access to the file system fails.
"""

from __future__ import annotations

import abc

from xenvol.simulator.sm.base import SMFailure, SRStat
from xenvol.simulator.sm.filebase import SharedFileDriver, sr_uuids
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.mounteddirectory import UNEXPECTED
from xenvol.simulator.sm.mounts import MOUNT_BASE
from xenvol.simulator.sm.xmlout import pretty


class ShareRefused(Exception):
    """The share cannot be mounted; its text is the driver's message."""


class LinkedShareDriver(SharedFileDriver):
    kind: str
    """The name in paths and messages, e.g. ``GlusterFS``."""

    @abc.abstractmethod
    def find_share(self) -> tuple[Directory, bool]:
        """Return the configured directory, and True if it is read-only there; `ShareRefused`."""

    @property
    @abc.abstractmethod
    def mount_point(self) -> str: ...

    @property
    def link_target(self) -> str:
        return f"{self.mount_point}/{self.sr.uuid}"

    def has_link(self) -> bool:
        """Return True if the share is mounted and has the SR's directory, which these drivers call attached."""
        return self.is_mounted() and self.mounts.directory(self.link_target) is not None

    def create(self, size: int) -> None:
        if self.has_link():
            raise self.already_attached()
        try:
            self._mount(self.mount_point)
        except ShareRefused as refusal:
            raise self.mount_failed(str(refusal)) from refusal
        try:
            self.make_sr_directory(self._root(self.mount_point), self.create_fault())
        finally:
            self.unmount(self.mount_point)

    def attach(self) -> None:
        if self.has_link():
            return
        try:
            if not self.is_mounted():
                self._mount(self.mount_point)
        except ShareRefused as refusal:
            raise self.attach_failed(str(refusal)) from refusal
        self.mounts.link(self.path, self.link_target)
        try:
            self.check_attached()
        except SMFailure:
            self.mounts.unlink(self.path)
            self.unmount(self.mount_point)
            raise

    def detach(self) -> None:
        if not self.has_link():
            return
        try:
            self.unmount(self.mount_point)
        except OSError as error:
            raise self.unmount_failed(f"rmdir failed with error '{error.strerror}'") from error
        self.mounts.unlink(self.path)

    def delete(self) -> None:
        super().delete()
        try:
            self._mount(self.mount_point)
        except ShareRefused as refusal:
            raise self.mount_failed(str(refusal)) from refusal
        root = self._root(self.mount_point)
        try:
            if self.sr.uuid in root:
                root.remove(self.sr.uuid)
        except OSError as error:
            raise self.delete_failed() from error
        finally:
            self.unmount(self.mount_point)

    def probe(self) -> str:
        point = f"{MOUNT_BASE}/probe"
        try:
            self._mount(point)
        except ShareRefused as refusal:
            raise self.probe_failed(str(refusal)) from refusal
        found = sr_uuids(self._root(point))
        self.unmount(point)
        return pretty("SRlist", [("SR", [("UUID", sr_uuid)]) for sr_uuid in found])

    def stat(self) -> SRStat:
        """Return the sizes; with a dangling link statvfs fails and the driver crashes."""
        if self.mounts.directory(self.path) is None:
            where = f"[Errno 2] No such file or directory: '{self.path}'"
            raise SMFailure(UNEXPECTED, text=where)
        return super().stat()

    # ---- differences between the types

    def check_attached(self) -> None:
        """Check the SR after the mount."""

    def attach_failed(self, why: str) -> SMFailure:
        return SMFailure(12, text=why)

    def probe_failed(self, why: str) -> SMFailure:
        """Return the driver's crash: it does not catch its own exception."""
        return SMFailure(UNEXPECTED, text=why)

    def mount_failed(self, why: str) -> SMFailure:
        return SMFailure(111, text=f"{self.kind} mount error [opterr={why}]")

    def unmount_failed(self, why: str) -> SMFailure:
        return SMFailure(UNEXPECTED, text=why)

    def already_attached(self) -> SMFailure:
        return SMFailure(113, text=f"{self.kind} mount point already attached")

    def delete_failed(self) -> SMFailure:
        return SMFailure(114, text=f"Failed to remove {self.kind} mount point")

    def create_fault(self) -> tuple[int, str]:
        return 116, f"Failed to create {self.kind} SR. remote directory creation error: {{text}}"

    # ---- inside

    def _mount(self, point: str) -> None:
        directory, is_read_only = self.find_share()
        self.mounts.mount(point, directory, is_read_only=is_read_only)

    def _root(self, point: str) -> Directory:
        root = self.mounts.directory(point)
        assert root is not None, f"{point} has just been mounted"
        return root
