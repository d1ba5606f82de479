"""Files of a server, a disk or a control domain, on file systems that can be full or read-only.

A file knows its length and the space that it takes. Its bytes, if they are needed, are in a sparse file of
the simulator (`File.data`). A VHD is a model, not the format: `File.vhd` has the content of its tables, and
`data` what a guest reads of the whole disk. A base copy has no data, because it cannot be attached. VHDs are
never coalesced. Failures are the `OSError`s of the system calls, with their numbers.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from xenvol.simulator.sm.vhd import Vhd, data_blocks, length, round_up


class File:
    """A file; ``length`` is what ``ls`` shows. Without ``is_sparse`` all of it takes space."""

    def __init__(
        self, length: int = 0, *, vhd: Vhd | None = None, data: Path | None = None, is_sparse: bool = False
    ) -> None:
        self._length = length
        self.vhd = vhd
        self.data = data
        self.is_sparse = is_sparse
        self.charged = 0
        """Bytes of the file system that the file takes; the file system updates it."""

    @property
    def length(self) -> int:
        return length(self.vhd, data_blocks(self.data)) if self.vhd else self._length

    @property
    def virtual_size(self) -> int:
        return self.vhd.virtual_size if self.vhd else self._length

    def footprint(self, block: int) -> int:
        if not self.is_sparse:
            return round_up(self.length, block)
        return self.data.stat().st_blocks * 512 if self.data and self.data.exists() else 0

    def truncate(self, size: int) -> None:
        self._length = size

    def bytes_in(self, new_file: Callable[[int], Path]) -> Path:
        """Return the sparse file with the guest's bytes, ``virtual_size`` long; it is made at the first call."""
        if self.data is None:
            self.data = new_file(self.virtual_size)
        elif self.data.stat().st_size != self.virtual_size:
            os.truncate(self.data, self.virtual_size)
        return self.data


class Directory:
    """A directory; each file that is added or removed changes the used space of the file system."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem
        self._entries: dict[str, File | Directory] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, oldest first."""
        return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, path: str) -> File | Directory | None:
        node: File | Directory | None = self
        for name in _names(path):
            node = node._entries.get(name) if isinstance(node, Directory) else None
        return node

    def file(self, name: str) -> File | None:
        node = self._entries.get(name)
        return node if isinstance(node, File) else None

    def directory(self, path: str) -> Directory | None:
        node = self.find(path)
        return node if isinstance(node, Directory) else None

    def make_directory(self, path: str) -> Directory:
        """Make a directory and its parents; existing ones are used."""
        node = self
        for name in _names(path):
            child = node._entries.get(name)
            if child is None:
                self.filesystem.take(self.filesystem.block)
                child = node._entries[name] = Directory(self.filesystem)
            if isinstance(child, File):
                raise OSError(errno.ENOTDIR, "Not a directory", path)
            node = child
        return node

    def add(self, name: str, file: File) -> File:
        """Add a file; ENOSPC if it does not fit, EROFS on a read-only file system."""
        self.filesystem.charge(file)
        if (before := self.file(name)) is not None:
            self.filesystem.release(before)
        self._entries[name] = file
        return file

    def add_file(self, name: str, size: int = 0) -> File:
        """Add a plain file that is not sparse."""
        return self.add(name, File(size))

    def add_raw(self, vdi_uuid: str, size: int) -> File:
        """Add a sparse raw disk."""
        return self.add(f"{vdi_uuid}.raw", File(size, is_sparse=True))

    def add_vhd(self, vdi_uuid: str, virtual_size: int, parent: str | None = None) -> File:
        return self.add(f"{vdi_uuid}.vhd", File(vhd=Vhd(virtual_size, parent)))

    def take_out(self, name: str) -> File:
        """Remove a file from the directory, and return it with its data."""
        file = self.file(name)
        if file is None:
            raise OSError(errno.ENOENT, "No such file or directory", name)
        self.filesystem.release(file)
        del self._entries[name]
        return file

    def remove(self, name: str) -> None:
        """Remove an entry; ENOTEMPTY for a directory that is not empty, ENOENT for a missing name."""
        node = self._entries.get(name)
        if node is None:
            raise OSError(errno.ENOENT, "No such file or directory", name)
        if isinstance(node, File):
            self.filesystem.release(node)
            if node.data is not None:
                node.data.unlink(missing_ok=True)
        elif len(node):
            raise OSError(errno.ENOTEMPTY, "Directory not empty", name)
        else:
            self.filesystem.give_back(self.filesystem.block)
        del self._entries[name]


class FileSystem:
    """A file system with the sizes of statvfs. ``used`` is space taken by data outside this model."""

    def __init__(self, size: int, *, used: int = 0, block: int = 4096, is_read_only: bool = False) -> None:
        self.size = size
        self.used = used
        self.block = block
        self.is_read_only = is_read_only
        self._held = 0
        self.root = Directory(self)

    def __repr__(self) -> str:
        return f"<FileSystem: {self.utilisation} of {self.size} bytes used>"

    @property
    def utilisation(self) -> int:
        return self.used + self._held

    @property
    def free(self) -> int:
        return max(0, self.size - self.utilisation)

    def fill(self, leaving: int = 0) -> None:
        """Take all free space but ``leaving`` bytes, as another user of the file system would."""
        self.used = self.size - self._held - leaving

    def charge(self, file: File) -> None:
        """Count the space that the file takes now."""
        footprint = file.footprint(self.block)
        self.take(footprint - file.charged)
        file.charged = footprint

    def check_space(self, *files: File) -> None:
        """Raise ENOSPC unless all these files would fit."""
        if sum(file.footprint(self.block) for file in files) > self.free:
            raise OSError(errno.ENOSPC, "No space left on device")

    def recount(self, file: File) -> None:
        """Count what a guest has written since; the bytes exist, whether they fit or not."""
        footprint = file.footprint(self.block)
        self._held += footprint - file.charged
        file.charged = footprint

    def release(self, file: File) -> None:
        self.give_back(file.charged)
        file.charged = 0

    def take(self, size: int) -> None:
        if self.is_read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        if size > self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._held += size

    def give_back(self, size: int) -> None:
        if self.is_read_only:
            raise OSError(errno.EROFS, "Read-only file system")
        self._held -= size


def ext4_on(volume: int) -> tuple[int, int]:
    """Return size and initial use of an ext4 with mkfs' defaults: 1025114112 and 24576 of 1012 MiB (trace sm/24#57).

    The rest goes into inode tables, bitmaps, the journal, and copies of the superblock with room to grow.
    """
    block = 4096
    blocks = volume // block
    groups = -(-blocks // 32768)
    inodes_per_group = round_up(-(-volume // 16384 // groups), 16)
    inode_tables = groups * (inodes_per_group * 256 // block + 2)
    journal = next((size for limit, size in _JOURNALS if blocks < limit), 262144)
    descriptors = -(-groups * 64 // block)
    reserved = min(-(-(blocks * 1024 // 32768) * 64 // block), 1024) - descriptors
    copies = _superblocks(groups)
    overhead = inode_tables + journal + copies * (1 + descriptors + reserved)
    return (blocks - overhead) * block, 6 * block


_JOURNALS = (
    (32768, 1024),
    (262144, 4096),
    (524288, 8192),
    (4194304, 16384),
    (8388608, 32768),
    (16777216, 65536),
    (33554432, 131072),
)
"""Blocks of the journal, by blocks of the file system."""


def _superblocks(groups: int) -> int:
    """Return how many groups have a superblock: groups 0 and 1, and the powers of 3, 5 and 7."""
    powers: set[int] = {base**power for base in (3, 5, 7) for power in range(1, 64)}
    return min(groups, 2) + sum(power < groups for power in powers)


def _names(path: str) -> list[str]:
    return [part for part in PurePosixPath(path).parts if part != "/"]
