"""SR type ``glusterfs`` (XCP-ng's GlusterFSSR):

``server:/volume``, or a server of ``backupservers`` instead.
"""

from __future__ import annotations

from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.linkedshare import LinkedShareDriver, ShareRefused
from xenvol.simulator.sm.mounts import MOUNT_BASE


class GlusterFSSR(LinkedShareDriver):
    type: ClassVar[str] = "glusterfs"
    kind = "GlusterFS"

    def load(self) -> None:
        if "glusterfs" in self.mounts.lacks:
            raise SMFailure(47, "glusterfs is not installed")
        if "server" not in self.config:
            raise SMFailure(102)

    @property
    def mount_point(self) -> str:
        return f"{MOUNT_BASE}/GlusterFS/{self.config['server'].split(':')[0]}/{self.sr.uuid}"

    def find_share(self) -> tuple[Directory, bool]:
        """Return the volume's directory; the client asks one server after the other for the volume's description."""
        server, _, volume = self.config["server"].partition(":")
        backups = [name for name in self.config.get("backupservers", "").split(":") if name]
        for name in [server, *backups]:
            found = self.world.shares.gluster_volume(name, volume.lstrip("/"))
            if found is not None and found.is_started:
                return found.filesystem.root, found.filesystem.is_read_only
        raise ShareRefused("mount failed with return code 1")
