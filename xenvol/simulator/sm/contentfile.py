"""The content of a disk or a LUN in a world file, read and written as plain values.

A map with ``sr`` (a uuid) and ``type``, which is ``ext`` (then with ``files``, as in
`xenvol.simulator.sm.treefile`) or ``lvm`` (then with ``disks``: uuid to a map with ``size`` and ``raw``). A
disk without such a map is blank.
"""

from __future__ import annotations

from typing import Any

from xenvol.simulator.sm import treefile
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.filesystem import FileSystem
from xenvol.simulator.sm.vhd import EXTENT, Vhd, round_up, thick_volume
from xenvol.simulator.sm.volumegroup import (
    EXT_PREFIX,
    GROUP_PREFIX,
    MANAGEMENT,
    LogicalVolume,
    VolumeGroup,
    make_file_system,
)
from xenvol.simulator.sm.worldfile import WorldError, flag, required, section, size_in_bytes, text


def fill(device: BlockDevice, values: Any, where: str) -> None:
    """Write the content to the disk; `WorldError` names the wrong key."""
    given = section(values, where, "type", "sr", "disks", "files")
    kind, sr_uuid = required(given, "type", where), text(required(given, "sr", where), f"{where}.sr")
    if kind == "ext":
        filesystem = make_file_system(sr_uuid, [device])
        treefile.load_files(filesystem.root, given.get("files", {}), f"{where}.files")
    elif kind == "lvm":
        group = VolumeGroup(GROUP_PREFIX + sr_uuid, [device])
        group.add(MANAGEMENT, LogicalVolume(EXTENT))
        for vdi_uuid, entry in section(given.get("disks", {}), f"{where}.disks").items():
            group.add_disk(vdi_uuid, _volume(entry, f"{where}.disks.{vdi_uuid}"))
        if group.free < 0:
            raise WorldError(f"{where}.disks: the disks need {-group.free} bytes more than the device has")
    else:
        raise WorldError(f"{where}.type: {kind!r} is neither ext nor lvm")


def as_dict(group: VolumeGroup) -> dict[str, Any]:
    """Return the content; base copies and their children become separate disks."""
    if group.name.startswith(EXT_PREFIX):
        sr_uuid = group.name.removeprefix(EXT_PREFIX)
        filesystem = group.volumes[sr_uuid].filesystem or FileSystem(0)
        return {"type": "ext", "sr": sr_uuid, "files": treefile.files_as_dict(filesystem.root)}
    disks = {
        vdi_uuid: {"size": volume.virtual_size, **({} if volume.vhd else {"raw": True})}
        for vdi_uuid, volume in group.disks_in_use().items()
        if not (volume.vhd and volume.vhd.hidden)
    }
    return {"type": "lvm", "sr": group.name.removeprefix(GROUP_PREFIX), "disks": disks}


def _volume(values: Any, where: str) -> LogicalVolume:
    given = section(values, where, "size", "raw")
    size = size_in_bytes(required(given, "size", where), f"{where}.size")
    if flag(given, "raw", where):
        return LogicalVolume(round_up(size, EXTENT))
    return LogicalVolume(thick_volume(size), Vhd(size))
