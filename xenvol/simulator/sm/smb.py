"""SR type ``smb``: a directory of an SMB share, named after the SR."""

from __future__ import annotations

from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.linkedshare import LinkedShareDriver, ShareRefused
from xenvol.simulator.sm.mounts import MOUNT_BASE
from xenvol.simulator.sm.smbclient import find_share, split_location


class SMBSR(LinkedShareDriver):
    type: ClassVar[str] = "smb"
    kind = "SMB"

    def load(self) -> None:
        if "server" not in self.config:
            raise SMFailure(102)

    @property
    def mount_point(self) -> str:
        return "/".join((MOUNT_BASE, "SMB", *split_location(self.config["server"]), self.sr.uuid))

    def find_share(self) -> tuple[Directory, bool]:
        """Return the share; mount.cifs has one code for all failures, and ENOENT if it is missing (trace sm/23#26)."""
        if "mount.cifs" in self.mounts.lacks:
            raise ShareRefused("mount failed with return code 2")
        share = find_share(self, self.config["server"], prefix="")
        if share is None:
            raise ShareRefused("mount failed with return code 110")
        return share.filesystem.root, share.filesystem.is_read_only

    def check_attached(self) -> None:
        self.check_shared()

    def attach_failed(self, why: str) -> SMFailure:
        return SMFailure(111, why)

    def probe_failed(self, why: str) -> SMFailure:
        return SMFailure(111, why)

    def unmount_failed(self, why: str) -> SMFailure:
        return SMFailure(112, why)
