"""A host as an NFS client: whether a server answers, its versions, and mounts (sm/nfs.py)."""

from __future__ import annotations

from dataclasses import dataclass

from xenvol.simulator.sm.base import Driver, SMFailure
from xenvol.simulator.sm.servers import NfsServer
from xenvol.simulator.sm.xmlout import Tree, printed

TARGET_FAULT = 108
_DNS_FAULT = 140
_CRASH = 1200
_SILENCE = 5.0
"""Seconds after which a silent port counts as closed."""
_MOUNT_RETRY = 1.0
"""Seconds between the two attempts to mount (trace sm/22#8)."""
_OPTIONS = """
    _netdev ac acdirmax acdirmin acl acregmax acregmin actimeo async atime bg clientaddr cto defaults
    dev diratime exec fg fsc hard intr local_lock lock lookupcache max_connect migration minorversion
    mounthost mountport mountproto mountvers namlen nconnect nfsvers noac noacl noatime nocto nodev
    nodiratime noexec nofsc nointr nolock nomigration nordirplus noresvport nosharecache nosuid port
    proto rdirplus rdma relatime resvport retrans retry ro rsize rw sec sharecache soft softerr
    softreval suid sync tcp timeo udp vers wsize
"""
"""The options of nfs(5) and mount(8)."""


@dataclass(frozen=True, slots=True)
class MountRefused(Exception):
    """SM's error for any failure of mount.nfs: return code 110, whatever mount.nfs printed (trace sm/22#8-16)."""

    server: str

    def __str__(self) -> str:
        server = f"[{self.server}]" if ":" in self.server else self.server
        return f"mount failed on server `{server}` with return code 110"


class NoVersions(Exception):
    """The server reports no supported version."""


def check_listening(driver: Driver, server: str) -> None:
    """Raise 140 if the name does not resolve, 108 if port 2049 does not answer."""
    if not driver.world.resolves(server):
        raise SMFailure(_DNS_FAULT)
    found = _find(driver, server)
    if found is None or not found.is_listening:
        if found is not None:
            driver.xapi.sleep(_SILENCE)
        raise SMFailure(TARGET_FAULT)


def validated_version(version: str | None) -> str:
    """Return the version; a wrong one crashes the driver (trace sm/22#14)."""
    if version and version != "3" and not version.startswith("4"):
        raise SMFailure(_CRASH, text="Invalid nfsversion.")
    return version or "3"


def supported_versions(driver: Driver, server: str) -> list[str]:
    """Return the versions that rpcinfo reports; version 4 need not register there, so the driver tries it."""
    found = _find(driver, server)
    versions = sorted(set(found.versions) & {"3", "4"}) if found is not None and found.has_rpcbind else []
    if "4" not in versions and found is not None and "4" in found.versions and found.exports:
        versions.append("4")
    if not versions:
        raise NoVersions(f"Failed to read supported NFS version from server {server}")
    return versions


def _find(driver: Driver, server: str) -> NfsServer | None:
    """Return the server with that name or address, or None."""
    world = driver.world
    return world.shares.nfs_server(server) or world.shares.nfs_server(world.san.resolve(server) or "")


def exports_xml(driver: Driver, server: str) -> str:
    """Return showmount's list as XML, as a driver prints it; empty if the server does not answer (trace sm/22#6)."""
    found = _find(driver, server)
    if found is None or not found.is_listening:
        return ""
    exports: list[Tree] = [
        ("Export", [("Target", server), ("Path", path), ("Accesslist", ",".join(export.access))])
        for path, export in found.exports.items()
    ]
    return printed("nfs-exports", exports)


def mount(driver: Driver, server: str, path: str, point: str, *, options: str = "") -> None:
    """Mount an export, or a directory below one; `MountRefused` for any failure."""
    mounts = driver.world.host(driver.host.name).mounts
    names = [option.partition("=")[0] for option in options.split(",") if option]
    found = _find(driver, server)
    client = [driver.host.name, *mounts.addresses]
    target = found.find(path, client) if found is not None and found.is_listening else None
    if target is None or not set(_OPTIONS.split()).issuperset(names):
        driver.xapi.sleep(_MOUNT_RETRY)
        raise MountRefused(server)
    export, directory = target
    mounts.mount(point, directory, is_read_only=export.is_read_only or "ro" in names)
