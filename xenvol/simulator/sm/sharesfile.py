"""File servers in a world file, read and written as plain values.

Keys of ``shares``, all optional, each a list of maps:

``nfs``
    ``addresses`` (a list; names count too), ``exports`` (path to a file system, `xenvol.simulator.sm.treefile`,
    with ``access``, a list as in exports(5), and ``read_only``), ``versions`` (``["3", "4"]``), ``listening``
    and ``rpcbind`` (true or false).
``gluster``
    ``volume``, ``servers``, a file system, ``down`` (servers that do not answer), ``started``.
``cephfs``
    ``monitors``, a file system, ``port``, ``clients`` (names that may mount), ``down``.
``smb``
    ``server``, ``share``, a file system, ``credentials`` (``[user, password]``; without, for guests), ``down``.
"""

from __future__ import annotations

from typing import Any

from xenvol.simulator.sm import treefile
from xenvol.simulator.sm.servers import CephFS, Export, GlusterVolume, NfsServer, SmbShare
from xenvol.simulator.sm.shares import Shares
from xenvol.simulator.sm.worldfile import WorldError, credentials, flag, maps, required, section, text, texts


def load(shares: Shares, values: Any, where: str = "shares") -> None:
    """Add what the section describes; `WorldError` names the wrong key."""
    given = section(values, where, "nfs", "gluster", "cephfs", "smb")
    for entry, place in maps(given, "nfs", where):
        shares.nfs.append(_nfs(entry, place))
    for entry, place in maps(given, "gluster", where):
        shares.gluster.append(_gluster(entry, place))
    for entry, place in maps(given, "cephfs", where):
        shares.cephfs.append(_cephfs(entry, place))
    for entry, place in maps(given, "smb", where):
        shares.smb.append(_smb(entry, place))


def as_dict(shares: Shares) -> dict[str, Any]:
    """Return what `load` would read to make these again."""
    values = {
        "nfs": [_nfs_as_dict(server) for server in shares.nfs],
        "gluster": [_gluster_as_dict(volume) for volume in shares.gluster],
        "cephfs": [_cephfs_as_dict(cluster) for cluster in shares.cephfs],
        "smb": [_smb_as_dict(share) for share in shares.smb],
    }
    return {key: found for key, found in values.items() if found}


def _nfs(values: Any, where: str) -> NfsServer:
    given = section(values, where, "addresses", "exports", "versions", "listening", "rpcbind")
    server = NfsServer(
        texts(required(given, "addresses", where), f"{where}.addresses"),
        versions=texts(given.get("versions", ["3", "4"]), f"{where}.versions"),
        is_listening=flag(given, "listening", where, default=True),
        has_rpcbind=flag(given, "rpcbind", where, default=True),
    )
    for path, entry in section(given.get("exports", {}), f"{where}.exports").items():
        server.exports[path] = _export(entry, f"{where}.exports.{path}")
    return server


def _export(values: Any, where: str) -> Export:
    given = section(values, where, *treefile.KEYS, "access", "read_only")
    access = texts(given.get("access", ["*"]), f"{where}.access")
    return Export(treefile.load(given, where), access, flag(given, "read_only", where))


def _gluster(values: Any, where: str) -> GlusterVolume:
    given = section(values, where, "volume", "servers", *treefile.KEYS, "down", "started")
    servers = texts(required(given, "servers", where), f"{where}.servers")
    down = set(texts(given.get("down", []), f"{where}.down"))
    if stranger := next(iter(down - set(servers)), None):
        raise WorldError(f"{where}.down: {stranger} is not one of the volume's servers")
    name = text(required(given, "volume", where), f"{where}.volume")
    started = flag(given, "started", where, default=True)
    return GlusterVolume(name, servers, treefile.load(given, where), down, started)


def _cephfs(values: Any, where: str) -> CephFS:
    given = section(values, where, "monitors", *treefile.KEYS, "port", "clients", "down")
    port = given.get("port", 6789)
    if not isinstance(port, int):
        raise WorldError(f"{where}.port: {port!r} is not a number")
    monitors = texts(required(given, "monitors", where), f"{where}.monitors")
    clients = texts(given.get("clients", []), f"{where}.clients")
    return CephFS(monitors, treefile.load(given, where), port, clients, flag(given, "down", where))


def _smb(values: Any, where: str) -> SmbShare:
    given = section(values, where, "server", "share", *treefile.KEYS, "credentials", "down")
    return SmbShare(
        text(required(given, "server", where), f"{where}.server"),
        text(required(given, "share", where), f"{where}.share"),
        treefile.load(given, where),
        credentials(given["credentials"], f"{where}.credentials") if "credentials" in given else None,
        flag(given, "down", where),
    )


def _nfs_as_dict(server: NfsServer) -> dict[str, Any]:
    exports = {path: _export_as_dict(export) for path, export in server.exports.items()}
    values: dict[str, Any] = {"addresses": server.addresses, "exports": exports, "versions": server.versions}
    return {**values, "listening": server.is_listening, "rpcbind": server.has_rpcbind}


def _export_as_dict(export: Export) -> dict[str, Any]:
    values = {"access": export.access, "read_only": export.is_read_only}
    return {**values, **treefile.as_dict(export.filesystem)}


def _gluster_as_dict(volume: GlusterVolume) -> dict[str, Any]:
    values = {"volume": volume.name, "servers": volume.servers, "down": sorted(volume.down)}
    return {**values, "started": volume.is_started, **treefile.as_dict(volume.filesystem)}


def _cephfs_as_dict(cluster: CephFS) -> dict[str, Any]:
    values = {"monitors": cluster.monitors, "port": cluster.port, "clients": cluster.clients}
    return {**values, "down": cluster.is_down, **treefile.as_dict(cluster.filesystem)}


def _smb_as_dict(share: SmbShare) -> dict[str, Any]:
    values: dict[str, Any] = {"server": share.server, "share": share.name, "down": share.is_down}
    if share.credentials is not None:
        values["credentials"] = list(share.credentials)
    return {**values, **treefile.as_dict(share.filesystem)}
