"""The file servers, directories and disks of the recordings 21 to 24, and how their notes change them."""

from __future__ import annotations

import re

from recorded_world import Step, Storage

from xenvol.simulator.sm.filesystem import Directory, File

FOREIGN = "33333333-0000-4000-8000-00000000000"
_LISTED = re.compile(r"-rw-r--r-- 1 root root +(\d+) \w+ \d+ [\d:]+ (\S+)")


def sr_directory(storage: Storage, sr_name: str) -> Directory:
    """Return the directory with the disks of that SR on the host."""
    db = storage.simulator.db
    sr_uuid = db.row("SR", db.by_name("SR", sr_name)[0])["uuid"]
    directory = storage.host.mounts.directory(f"/run/sr-mount/{sr_uuid}")
    assert directory is not None, f"{sr_name} is not mounted"
    return directory


def files_are_as_seen(sr_name: str) -> Step:
    """Set the kinds and lengths of all files to those that ``ls -l`` showed."""

    def step(storage: Storage) -> None:
        directory = sr_directory(storage, sr_name)
        listed = re.findall(_LISTED, storage.seen["out"])
        seen = sorted((_kind(name), int(length)) for length, name in listed)
        files = {name: file for name in directory if (file := directory.file(name))}
        there = sorted((_kind(name), file.length) for name, file in files.items())
        assert there == seen, f"{there} is not {seen}"

    return step


def foreign_files(sr_name: str) -> Step:
    def step(storage: Storage) -> None:
        directory = sr_directory(storage, sr_name)
        directory.add_raw(f"{FOREIGN}1", 5000000)
        directory.add_vhd(f"{FOREIGN}2", 64 << 20)
        directory.add(f"{FOREIGN}3.iso", File(1000, is_sparse=True))
        directory.add_raw(f"{FOREIGN}5", 0)
        directory.add_file("readme.txt", 2)
        directory.make_directory("lost+found2")
        directory.add_raw("not-a-uuid", 5000000)

    return step


def no_file(sr_name: str, name: str) -> Step:
    def step(storage: Storage) -> None:
        sr_directory(storage, sr_name).remove(name)

    return step


def broken_vhd(sr_name: str) -> Step:
    def step(storage: Storage) -> None:
        sr_directory(storage, sr_name).add_file(f"{FOREIGN}4.vhd", 100)

    return step


def vhd_with_a_foreign_name(sr_name: str) -> Step:
    """Replace the broken VHD."""

    def step(storage: Storage) -> None:
        directory = sr_directory(storage, sr_name)
        directory.remove(f"{FOREIGN}4.vhd")
        directory.add_vhd("not-a-uuid", 2 << 20)

    return step


def no_disk(sr_name: str, vdi_name: str) -> Step:
    """Remove the file of that disk."""

    def step(storage: Storage) -> None:
        db = storage.simulator.db
        vdi_uuid = db.row("VDI", db.by_name("VDI", vdi_name)[0])["uuid"]
        sr_directory(storage, sr_name).remove(f"{vdi_uuid}.vhd")

    return step


def unmounted(sr_name: str) -> Step:
    def step(storage: Storage) -> None:
        db = storage.simulator.db
        storage.host.mounts.lose_mount(db.row("SR", db.by_name("SR", sr_name)[0])["uuid"])

    return step


def others_store(path: str, size: int) -> Step:
    """Store other data on the machine's disk; the recorded disk held such data at times."""

    def step(storage: Storage) -> None:
        directory = storage.host.mounts.directory(path)
        assert directory is not None, f"{path} is there"
        directory.filesystem.used += size

    return step


def _kind(name: str) -> str:
    """Return the kind of a disk file, because each run has other names."""
    return name.rpartition(".")[2] if name.endswith((".vhd", ".raw")) else name
