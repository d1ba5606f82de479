"""Files over a network: every file server that the hosts can reach, and the sparse files with the disks' bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.filesystem import FileSystem
from xenvol.simulator.sm.mounts import HostMounts
from xenvol.simulator.sm.servers import CephFS, GlusterVolume, NfsServer, SmbShare

__all__ = ["HostMounts", "Shares"]


class Shares:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nfs: list[NfsServer] = []
        self.gluster: list[GlusterVolume] = []
        self.cephfs: list[CephFS] = []
        self.smb: list[SmbShare] = []
        self._files = 0

    def __repr__(self) -> str:
        counts = f"{len(self.nfs)} NFS servers, {len(self.gluster)} gluster volumes"
        return f"<Shares: {counts}, {len(self.cephfs)} CephFS, {len(self.smb)} SMB shares>"

    # ---- arranging

    def add_nfs(self, *addresses: str) -> NfsServer:
        server = NfsServer(list(addresses))
        self.nfs.append(server)
        return server

    def add_gluster(self, volume: str, *servers: str, size: int, used: int = 0) -> GlusterVolume:
        added = GlusterVolume(volume, list(servers), FileSystem(size, used=used))
        self.gluster.append(added)
        return added

    def add_cephfs(self, *monitors: str, size: int, used: int = 0) -> CephFS:
        added = CephFS(list(monitors), FileSystem(size, used=used))
        self.cephfs.append(added)
        return added

    def add_smb(
        self, server: str, share: str, *, size: int, credentials: tuple[str, str] | None = None
    ) -> SmbShare:
        added = SmbShare(server, share, FileSystem(size), credentials)
        self.smb.append(added)
        return added

    # ---- finding

    def has_name(self, name: str) -> bool:
        """Return True if one of the servers has that name."""
        return name in self._names()

    def nfs_server(self, name: str) -> NfsServer | None:
        return next((server for server in self.nfs if name in server.addresses), None)

    def gluster_volume(self, server: str, volume: str) -> GlusterVolume | None:
        """Return the volume as that server describes it, or None."""
        return next(
            (v for v in self.gluster if v.name == volume and server in v.servers and server not in v.down),
            None,
        )

    def ceph_cluster(self, monitors: list[str], port: int) -> CephFS | None:
        return next(
            (c for c in self.cephfs if c.port == port and not c.is_down and set(monitors) & set(c.monitors)),
            None,
        )

    def smb_share(self, server: str, name: str) -> SmbShare | None:
        return next((s for s in self.smb if (s.server, s.name) == (server, name) and not s.is_down), None)

    # ---- bytes

    def new_file(self, size: int) -> Path:
        """Make a new sparse file below the world's directory."""
        path = self._next_path()
        path.touch()
        os.truncate(path, size)
        return path

    def new_device(self, size: int, *, serial: str = "") -> BlockDevice:
        return BlockDevice(self._next_path(), size, serial=serial)

    def _next_path(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._files += 1
        return self.directory / f"{self._files}.img"

    def _names(self) -> Iterator[str]:
        for nfs in self.nfs:
            yield from nfs.addresses
        for volume in self.gluster:
            yield from volume.servers
        for cluster in self.cephfs:
            yield from cluster.monitors
        for share in self.smb:
            yield share.server
