"""File servers: their exports, who may mount them, and their failures."""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from xenvol.simulator.sm.filesystem import Directory, FileSystem


@dataclass(eq=False)
class Export:
    """A directory of an NFS server. The export or its file system may be read-only."""

    filesystem: FileSystem
    access: list[str] = field(default_factory=lambda: ["*"])
    """Names, addresses, networks or patterns, as in exports(5)."""
    is_read_only: bool = False

    def admits(self, names: Iterable[str]) -> bool:
        return any(_matches(pattern, name) for pattern in self.access for name in names)


@dataclass(eq=False)
class NfsServer:
    addresses: list[str]
    """Addresses and names; all are equivalent."""
    exports: dict[str, Export] = field(default_factory=dict)
    versions: list[str] = field(default_factory=lambda: ["3", "4"])
    is_listening: bool = True
    """True if port 2049 answers."""
    has_rpcbind: bool = True
    """True if rpcinfo and showmount get an answer; a server of version 4 only needs no rpcbind."""

    def export(
        self, path: str, *, size: int, used: int = 0, block: int = 4096, is_read_only: bool = False
    ) -> Export:
        filesystem = FileSystem(size, used=used, block=block)
        self.exports[path] = export = Export(filesystem, is_read_only=is_read_only)
        return export

    def unexport(self, path: str) -> None:
        del self.exports[path]

    def find(self, path: str, client: Iterable[str]) -> tuple[Export, Directory] | None:
        """Return the export of a path and the directory in it; None if it is missing or closed to the client."""
        client = list(client)
        for root in sorted(self.exports, key=len, reverse=True):
            export = self.exports[root]
            if path.rstrip("/") == root.rstrip("/") or path.startswith(root.rstrip("/") + "/"):
                directory = export.filesystem.root.directory(path[len(root.rstrip("/")) :])
                return (export, directory) if directory is not None and export.admits(client) else None
        return None


@dataclass(eq=False)
class GlusterVolume:
    """A volume, ``server:/volume``; any server of the cluster can describe it to a client."""

    name: str
    servers: list[str]
    filesystem: FileSystem
    down: set[str] = field(default_factory=set)
    """Servers that do not answer."""
    is_started: bool = True
    """False if it is stopped, or too many bricks are down."""


@dataclass(eq=False)
class CephFS:
    monitors: list[str]
    filesystem: FileSystem
    port: int = 6789
    clients: list[str] = field(default_factory=list)
    """Names that may mount (``name=`` in the options); empty: no authentication."""
    is_down: bool = False


@dataclass(eq=False)
class SmbShare:
    r"""A share, ``\\server\name``; without credentials, guests may mount it."""

    server: str
    name: str
    filesystem: FileSystem
    credentials: tuple[str, str] | None = None
    is_down: bool = False


def _matches(pattern: str, name: str) -> bool:
    if fnmatch.fnmatchcase(name, pattern):
        return True
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(pattern)
    except ValueError:
        return False
