"""A host's own files and disks in a world file, read and written as plain values.

Keys of a host, all optional:

``directories``
    Path to a file system (`xenvol.simulator.sm.treefile`); without ``size`` the directory is on the host's own.
``devices``
    Path to a map with ``size``, ``serial``, and ``content`` unless it is blank (`xenvol.simulator.sm.contentfile`).
``addresses``, ``lacks``
    Lists, as in `HostMounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenvol.simulator.sm import contentfile, treefile
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.mounts import MOUNT_BASE, HostMounts
from xenvol.simulator.sm.shares import Shares
from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.simulator.sm.worldfile import required, section, size_in_bytes, text, texts

KEYS = ("directories", "devices", "addresses", "lacks")


def load(mounts: HostMounts, shares: Shares, given: Mapping[str, Any], where: str) -> None:
    """Add the files and disks of a host's map; the caller has handled its other keys."""
    for path, entry in section(given.get("directories", {}), f"{where}.directories").items():
        place = f"{where}.directories.{path}"
        values = section(entry, place, *treefile.KEYS)
        if "size" in values:
            mounts.mount(path, treefile.load(values, place).root)
        else:
            treefile.load_files(mounts.make_directory(path), values.get("files", {}), f"{place}.files")
    for path, entry in section(given.get("devices", {}), f"{where}.devices").items():
        mounts.devices[path] = _device(shares, entry, f"{where}.devices.{path}")
    mounts.addresses += texts(given.get("addresses", []), f"{where}.addresses")
    mounts.lacks |= set(texts(given.get("lacks", []), f"{where}.lacks"))


def as_dict(mounts: HostMounts) -> dict[str, Any]:
    """Return what `load` would read, without the mounts of drivers."""
    directories = {
        path: treefile.as_dict(directory.filesystem) for path, directory in mounts.own_file_systems().items()
    }
    local = treefile.files_as_dict(mounts.local.root)
    elsewhere = (MOUNT_BASE, *directories)
    files = {path: entry for path, entry in local.items() if not f"/{path}".startswith(elsewhere)}
    if files:
        directories["/"] = {"files": files}
    devices = {path: _device_as_dict(device) for path, device in mounts.devices.items()}
    values = {
        "directories": directories,
        "devices": devices,
        "addresses": mounts.addresses,
        "lacks": sorted(mounts.lacks),
    }
    return {key: found for key, found in values.items() if found}


def _device(shares: Shares, values: Any, where: str) -> BlockDevice:
    given = section(values, where, "size", "serial", "content")
    size = size_in_bytes(required(given, "size", where), f"{where}.size")
    device = shares.new_device(size, serial=text(given["serial"], where) if "serial" in given else "")
    if "content" in given:
        contentfile.fill(device, given["content"], f"{where}.content")
    return device


def _device_as_dict(device: BlockDevice) -> dict[str, Any]:
    values: dict[str, Any] = {"size": device.size}
    if device.serial:
        values["serial"] = device.serial
    if isinstance(device.content, VolumeGroup):
        values["content"] = contentfile.as_dict(device.content)
    return values
