"""The state of a storage world at one moment, as a tree of plain values: sessions, mounts, files, volumes.

It leaves out what clients never notice: an initiator's name and node records, a host's empty directories, and
the sparse files that hold bytes, which are made at first use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.filesystem import Directory, File
from xenvol.simulator.sm.initiator import Initiator
from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.simulator.sm.world import HostStorage, World


def storage_state(world: World) -> dict[str, Any]:
    """Return the state of hosts, servers and LUNs."""
    hosts = {name: _host(host) for name, host in sorted(world.hosts.items())}
    return {
        "hosts": {name: state for name, state in hosts.items() if state},
        "servers": dict(_servers(world)),
        "luns": {scsi_id: _disk(lun) for scsi_id, lun in sorted(world.san.volumes.items())},
    }


def _host(host: HostStorage) -> dict[str, Any]:
    """Return a host's state without empty parts; a host that used no storage yet has an empty state."""
    state = {
        "iscsi_sessions": _sessions(host.initiator),
        "iscsi_users": {iqn: sorted(users) for iqn, users in host.initiator.references.items()},
        "mounts": host.mounts.view(),
        "files": {path: size for path, size in _files(host.mounts.local.root) if not path.endswith("/")},
        "devices": {path: _disk(disk) for path, disk in host.mounts.devices.items()},
    }
    return {key: value for key, value in state.items() if value}


def _sessions(initiator: Initiator) -> dict[str, dict[str, str]]:
    return {
        f"{session.portal} {session.iqn}": {
            str(number): disk.scsi_id for number, disk in session.disks.items()
        }
        for session in initiator.sessions
    }


def _servers(world: World) -> Iterator[tuple[str, dict[str, int]]]:
    shares = world.shares
    for server in shares.nfs:
        for path, export in server.exports.items():
            yield f"nfs {server.addresses[0]}:{path}", dict(_files(export.filesystem.root))
    for volume in shares.gluster:
        yield f"gluster {volume.name}", dict(_files(volume.filesystem.root))
    for cluster in shares.cephfs:
        yield f"cephfs {cluster.monitors[0]}", dict(_files(cluster.filesystem.root))
    for share in shares.smb:
        yield rf"smb \\{share.server}\{share.name}", dict(_files(share.filesystem.root))


def _files(directory: Directory, above: str = "") -> Iterator[tuple[str, int]]:
    """Yield path and length of each file; an empty directory's path ends with a slash."""
    for name in sorted(directory):
        path = f"{above}/{name}"
        node = directory.file(name) or directory.directory(name)
        if isinstance(node, File):
            yield path, node.length
        elif isinstance(node, Directory) and len(node):
            yield from _files(node, path)
        else:
            yield f"{path}/", 0


def _disk(disk: BlockDevice) -> Any:
    """Return the size of a blank disk; with a volume group on it, also its volumes."""
    group = disk.content
    if not isinstance(group, VolumeGroup):
        return disk.size if group is None else {"size": disk.size, "content": type(group).__name__}
    volumes = {name: volume.size for name, volume in sorted(group.volumes.items())}
    return {"size": disk.size, "volume_group": group.name, "volumes": volumes}
