"""The storage behind a pool: arrays, servers and hosts, without anything that xapi knows.

A test or a world file arranges it, and may change it at any time (add a LUN, drop an export, fill a disk).
Storage drivers read it, and write data into it. All bytes are in sparse files below `World.directory`.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenvol.simulator.sm import mountsfile, sanfile, sharesfile, worldfile
from xenvol.simulator.sm.initiator import HBA, Initiator
from xenvol.simulator.sm.san import San
from xenvol.simulator.sm.shares import HostMounts, Shares


def new_directory() -> Path:
    """Make an empty directory for the files of a world, readable only by its owner."""
    return Path(tempfile.mkdtemp(prefix="xenvol-world-"))


@dataclass
class HostStorage:
    """The log-ins and mounts of one host."""

    initiator: Initiator = field(default_factory=Initiator)
    """iSCSI in software: sessions, and the disks behind them."""
    hbas: list[HBA] = field(default_factory=list)
    """Adapters with LUNs of their own."""
    mounts: HostMounts = field(default_factory=HostMounts)


class World:
    """All storage of a pool; `close` removes its files."""

    def __init__(self, directory: Path | None = None) -> None:
        self._owned = directory is None
        self.directory = directory or new_directory()
        self.san = San(self.directory / "luns")
        """iSCSI targets, portals, FC ports and their LUNs."""
        self.shares = Shares(self.directory / "shares")
        """NFS, gluster, CephFS and SMB exports, local directories and devices, ISO libraries."""
        self.hosts: dict[str, HostStorage] = {}

    def __repr__(self) -> str:
        return f"<World in {self.directory}: {self.san!r}, {self.shares!r}>"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the world; its copy has a directory of its own (`xenvol.simulator.checkpoint`)."""
        return {**self.__dict__, "_owned": True}

    @classmethod
    def from_dict(cls, values: Any, directory: Path | None = None, *, where: str = "storage") -> World:
        """Make a world from plain values; `WorldError` names the wrong key.

        ``san``: `xenvol.simulator.sm.sanfile` has its keys; ``shares``: `xenvol.simulator.sm.sharesfile` has
        its keys; ``hosts``: host name to a map with ``hbas``, a list of maps with ``wwpn``, ``wwnn`` and
        ``type`` (``FC``, ``iSCSI``, ``SAS``), and the keys of `xenvol.simulator.sm.mountsfile`.
        """
        given = worldfile.section(values, where, "san", "shares", "hosts")
        world = cls(directory)
        try:
            sanfile.load(world.san, given.get("san", {}), f"{where}.san")
            sharesfile.load(world.shares, given.get("shares", {}), f"{where}.shares")
            for name, entry in worldfile.section(given.get("hosts", {}), f"{where}.hosts").items():
                _load_host(world, world.host(name), entry, f"{where}.hosts.{name}")
        except BaseException:
            world.close()
            raise
        return world

    def as_dict(self) -> dict[str, Any]:
        """Return what `from_dict` would read to make this again."""
        hosts = {name: _host_as_dict(host) for name, host in self.hosts.items()}
        return {
            "san": sanfile.as_dict(self.san),
            "shares": sharesfile.as_dict(self.shares),
            "hosts": {name: entry for name, entry in hosts.items() if entry},
        }

    def resolves(self, name: str) -> bool:
        """Return True if DNS knows the name: an address, a name of the network, or the name of a file server."""
        return self.san.resolve(name) is not None or self.shares.has_name(name)

    def host(self, name: str) -> HostStorage:
        return self.hosts.setdefault(name, HostStorage())

    def dev(self, host: str) -> Path:
        """Return the directory that stands for ``/dev`` of that host's control domain: its plugged disks."""
        directory = self.directory / "dev" / host.replace("/", "_")
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def give_up_directory(self) -> Path:
        """Remove all files, and return the empty directory for another world."""
        self._owned = False
        for entry in self.directory.iterdir():
            shutil.rmtree(entry)
        return self.directory

    def close(self) -> None:
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)


def _load_host(world: World, host: HostStorage, entry: Any, where: str) -> None:
    values = worldfile.section(entry, where, "hbas", *mountsfile.KEYS)
    mountsfile.load(host.mounts, world.shares, values, where)
    hbas = values.get("hbas", [])
    if not isinstance(hbas, list):
        raise worldfile.WorldError(f"{where}.hbas: expected a list of maps, not {hbas!r}")
    for index, hba in enumerate(hbas):
        place = f"{where}.hbas[{index}]"
        given = worldfile.section(hba, place, "wwpn", "wwnn", "type")
        if "wwpn" not in given:
            raise worldfile.WorldError(f"{place}.wwpn: missing")
        texts = {key: worldfile.text(value, f"{place}.{key}") for key, value in given.items()}
        host.hbas.append(HBA(texts["wwpn"], texts.get("wwnn", ""), texts.get("type", "FC")))


def _host_as_dict(host: HostStorage) -> dict[str, Any]:
    hbas = {"hbas": [_hba_as_dict(hba) for hba in host.hbas]} if host.hbas else {}
    return {**hbas, **mountsfile.as_dict(host.mounts)}


def _hba_as_dict(hba: HBA) -> dict[str, str]:
    values = {"wwpn": hba.wwpn, "type": hba.kind}
    return {**values, "wwnn": hba.wwnn} if hba.wwnn else values
