"""SR type ``cephfs`` (XCP-ng's CephFSSR): a directory of a Ceph file system, given by its monitors."""

from __future__ import annotations

from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.linkedshare import LinkedShareDriver, ShareRefused
from xenvol.simulator.sm.mounteddirectory import UNEXPECTED
from xenvol.simulator.sm.mounts import MOUNT_BASE


class CephFSSR(LinkedShareDriver):
    type: ClassVar[str] = "cephfs"
    kind = "CephFS"

    def load(self) -> None:
        if "ceph" in self.mounts.lacks:
            raise SMFailure(47, "ceph is not installed")
        if "server" not in self.config:
            raise SMFailure(102)
        if "serverpath" not in self.config:
            raise SMFailure(UNEXPECTED, text="'serverpath'")

    @property
    def mount_point(self) -> str:
        return f"{MOUNT_BASE}/CephFS/{self.sr.uuid}"

    def find_share(self) -> tuple[Directory, bool]:
        monitors = [name for name in self.config["server"].split(",") if self.world.resolves(name)]
        port = self.config.get("serverport", "6789")
        shares = self.world.shares
        found = shares.ceph_cluster(monitors, int(port)) if port.isdecimal() else None
        if found is None or (found.clients and self._client not in found.clients):
            raise ShareRefused("mount failed with return code 110")
        if (directory := found.filesystem.root.directory(self.config["serverpath"])) is None:
            raise ShareRefused("mount failed with return code 110")
        return directory, found.filesystem.is_read_only

    @property
    def _client(self) -> str:
        """The ``name=`` of the mount options."""
        options = dict(option.partition("=")[::2] for option in self.config.get("options", "").split(","))
        return options.get("name", "guest")
