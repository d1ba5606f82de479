"""The names of the storage that a device_config leads to: two configs that share a name lead to the same storage.

One function per kind of storage; each takes a device_config and returns names in one spelling, ``nfs 10.0.0.2:/vols``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import Final

Config = Mapping[str, str]

_ADAPTERS: Final = ("fc", "iscsi", "sas")
"""The kinds of host bus adapters that SM knows."""


def _host(name: str) -> str:
    """Names of hosts have no case; an IPv6 address may stand in brackets."""
    return name.strip().lower().rstrip(".").removeprefix("[").removesuffix("]")


def _path(path: str) -> str:
    """Without doubled or trailing slashes."""
    return posixpath.normpath(f"/{path.strip()}").replace("//", "/")


def _each(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def export(config: Config) -> list[str]:
    return [f"nfs {_host(config.get('server', ''))}:{_path(config.get('serverpath', ''))}"]


def smb_share(config: Config) -> list[str]:
    """Server and share have no case; what follows them the driver does not look at."""
    server, _, share = config.get("server", "").replace("\\", "/").strip("/").partition("/")
    return [f"smb //{_host(server)}/{share.strip('/').partition('/')[0].lower()}"]


def ceph(config: Config) -> list[str]:
    """Each monitor knows all of the cluster."""
    port, path = config.get("serverport") or "6789", _path(config.get("serverpath", ""))
    return [f"cephfs {_host(monitor)}:{port}:{path}" for monitor in _each(config.get("server", ""))]


def gluster(config: Config) -> list[str]:
    """Each server knows all of the volume."""
    server, _, volume = config.get("server", "").rpartition(":")
    servers = [server, *_each(config.get("backupservers", ""), ":")]
    return [f"glusterfs {_host(name)}:{_path(volume)}" for name in servers]


def moosefs(config: Config) -> list[str]:
    port, path = config.get("masterport") or "9421", _path(config.get("rootpath", ""))
    return [f"moosefs {_host(config.get('masterhost', ''))}:{port}:{path}"]


def directory(config: Config) -> list[str]:
    return [f"directory {_path(config.get('location', ''))}"]


def devices(config: Config) -> list[str]:
    """Of whichever type: a device holds one SR."""
    return [f"device {_path(device)}" for device in _each(config.get("device", ""))]


def lun(config: Config) -> list[str]:
    """Of whichever type, and through whichever portal."""
    return [f"LUN {config.get('SCSIid', '').strip().lower()}"]


def target(config: Config) -> list[str]:
    """Through whichever portal: a pool can hold a target in one SR only (recordings.md, finding 12 (storage))."""
    return [f"target {config.get('targetIQN', '').strip().lower()}"]


def adapters(config: Config) -> list[str]:
    kind = config.get("type", "").strip().lower() or "any"
    return [f"adapters of type {each}" for each in ((kind, *_ADAPTERS) if kind == "any" else (kind,))]


def array(name: str, pool: str) -> Callable[[Config], list[str]]:
    return lambda config: [f"{name} {_host(config.get('target', ''))} {config.get(pool, '')}"]


def linstor_group(config: Config) -> list[str]:
    return [f"linstor {config.get('group-name', '')}"]
