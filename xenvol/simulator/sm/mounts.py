"""One host's view of files: its own directories and disks, and what is mounted over them."""

from __future__ import annotations

from dataclasses import dataclass

from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.filesystem import Directory, File, FileSystem

MOUNT_BASE = "/run/sr-mount"
"""The directory below which storage drivers mount."""


@dataclass(frozen=True, slots=True)
class Mount:
    directory: Directory
    is_read_only: bool = False


class HostMounts:
    """The mounts of a host.

    Paths are absolute. A mount hides the bare directory below it until it is unmounted.
    """

    def __init__(self) -> None:
        self.local = FileSystem(256 << 30, used=8 << 30)
        """The file system of the control domain."""
        self.devices: dict[str, BlockDevice] = {}
        """Local disks by path (``/dev/sdb``)."""
        self.characters = {"/dev/null", "/dev/zero"}
        """Devices that exist and are not disks."""
        self.addresses: list[str] = []
        """The host's own addresses, for access lists; its name counts as well."""
        self.lacks: set[str] = set()
        """Programs that are not installed: ``mount.cifs``, ``glusterfs``, ``ceph``."""
        self._mounts: dict[str, Mount] = {}
        self._links: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<HostMounts: {', '.join(sorted(self._mounts)) or 'nothing mounted'}>"

    def view(self) -> dict[str, str]:
        """Return the mounts and links as text, for snapshots."""
        mounted = {
            point: "read-only" if mount.is_read_only else "mounted" for point, mount in self._mounts.items()
        }
        return mounted | {path: f"link to {target}" for path, target in self._links.items()}

    # ---- for tests and world files

    def make_directory(self, path: str, *, size: int | None = None, used: int = 0) -> Directory:
        """Make a local directory; with a size, it is the root of a file system of its own."""
        directory = self.local.root.make_directory(path)
        if size is not None:
            directory = FileSystem(size, used=used).root
            self._mounts[path] = Mount(directory)
        return directory

    def lose_mount(self, sr_uuid: str) -> None:
        """Unmount an SR without xapi's knowledge."""
        target = self._resolve(f"{MOUNT_BASE}/{sr_uuid}") + "/"
        self.unmount(max((point for point in self._mounts if target.startswith(point + "/")), key=len))

    def own_file_systems(self) -> dict[str, Directory]:
        """Return mounted directories by path, except those that drivers mounted."""
        mounted = self._mounts.items()
        return {path: mount.directory for path, mount in mounted if not path.startswith(MOUNT_BASE + "/")}

    # ---- for drivers

    def find(self, path: str) -> Directory | File | None:
        path = self._resolve(path)
        for point in sorted(self._mounts, key=len, reverse=True):
            if path == point or path.startswith(point + "/"):
                return self._mounts[point].directory.find(path[len(point) :])
        return self.local.root.find(path)

    def directory(self, path: str) -> Directory | None:
        node = self.find(path)
        return node if isinstance(node, Directory) else None

    def is_read_only(self, path: str) -> bool:
        path = self._resolve(path)
        return any(
            mount.is_read_only
            for point, mount in self._mounts.items()
            if path == point or path.startswith(point + "/")
        )

    def is_mounted(self, path: str) -> bool:
        return path in self._mounts

    def mount(self, point: str, directory: Directory, *, is_read_only: bool = False) -> None:
        """Mount a directory; the mount point is made if needed, and its content is hidden."""
        self.local.root.make_directory(point)
        self._mounts[point] = Mount(directory, is_read_only)

    def unmount(self, point: str) -> None:
        del self._mounts[point]

    def remove_mount_point(self, point: str) -> None:
        """Remove the mount point (rmdir):

        ENOTEMPTY if the bare directory has files, ENOENT if it is missing.
        """
        above, _, name = point.rpartition("/")
        directory = self.local.root.directory(above)
        if directory is None:
            raise FileNotFoundError(2, "No such file or directory", point)
        directory.remove(name)

    def link(self, path: str, target: str) -> None:
        self._links[path] = target

    def unlink(self, path: str) -> None:
        self._links.pop(path, None)

    def _resolve(self, path: str) -> str:
        for link, target in self._links.items():
            if path == link or path.startswith(link + "/"):
                return target + path[len(link) :]
        return path
