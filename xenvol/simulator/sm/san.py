"""Block storage over a network, as the arrays see it: portals, targets, LUNs, and their access rules.

This module knows no hosts: `xenvol.simulator.sm.initiator` has each host's log-ins and the disks that it saw.
A test changes the arrays while hosts use them; a host notices at its next rescan.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from xenvol.simulator.sm.arrays import Array, ArrayKind
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.worldfile import WorldError

ISCSI_PORT = 3260

PortalState = Literal["answers", "refuses", "silent"]
"""How a portal treats connections: accepts; refuses at once; stays silent (a host gives up after 5 seconds)."""

Credentials = tuple[str, str]
"""CHAP user and password."""


class Lun(BlockDevice):
    """A volume of an array. Its SCSI id identifies it; its number is only its place in a target."""

    def __init__(
        self, file: Path, size: int, *, scsi_id: str, vendor: str = "LIO-ORG", serial: str | None = None
    ) -> None:
        super().__init__(file, size, serial=scsi_id[1:] if serial is None else serial)
        self.scsi_id = scsi_id
        self.vendor = vendor


@dataclass
class Target:
    """An iSCSI target (an IQN) or the port of a Fibre Channel array (a WWPN)."""

    name: str
    luns: dict[int, Lun] = field(default_factory=dict)
    chap: Credentials | None = None
    """What an initiator must present to log in."""
    mutual_chap: Credentials | None = None
    """What the target presents to an initiator that asks for it."""
    initiators: set[str] | None = None
    """The IQNs or WWPNs that may log in; None means all."""
    maps: dict[str, dict[int, Lun]] = field(default_factory=dict)
    """The host groups of an array, by initiator (IQN or WWPN): such an initiator sees these LUNs and no others."""

    def admits(self, initiator: str) -> bool:
        return self.initiators is None or initiator in self.initiators

    def luns_of(self, initiator: str) -> dict[int, Lun]:
        """Return the LUNs that this initiator sees, by number: its own map if it has one, else every LUN."""
        return self.maps.get(initiator, self.luns)


@dataclass
class Portal:
    address: str
    port: int = ISCSI_PORT
    targets: list[str] = field(default_factory=list)
    """IQNs, in the order of discovery."""
    state: PortalState = "answers"
    discovery_chap: Credentials | None = None

    @property
    def key(self) -> str:
        return portal_key(self.address, self.port)


def portal_key(address: str, port: int) -> str:
    """Return the key of a portal: ``10.0.0.1:3260``, ``[fd00::1]:3260``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def split_key(key: str) -> tuple[str, int]:
    """Return address and port of a portal's key; ValueError for other text."""
    address, _, port = key.rpartition(":")
    return address.removeprefix("[").removesuffix("]"), int(port)


def parse_portal(text: str) -> tuple[str, int]:
    """Parse an address, in canonical form, and a port; without a port, 3260."""
    host, bracket, rest = text.removeprefix("[").partition("]") if text.startswith("[") else (text, "", "")
    if not bracket and text.count(":") == 1:
        host, _, rest = text.partition(":")
    try:
        return str(ipaddress.ip_address(host)), int(rest.removeprefix(":") or ISCSI_PORT)
    except ValueError:
        raise WorldError(f'{text!r} is not a portal; write "10.0.0.1:3260" or "[fd00::1]:3260"') from None


class San:
    """All arrays together, with the names that hosts can resolve to their addresses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.portals: dict[str, Portal] = {}
        self.targets: dict[str, Target] = {}
        """iSCSI targets by IQN."""
        self.fc_targets: dict[str, Target] = {}
        """Fibre Channel targets by WWPN."""
        self.volumes: dict[str, Lun] = {}
        """Volumes by SCSI id: one may be shown under several numbers and by several targets."""
        self.arrays: dict[str, Array] = {}
        """Arrays that make LUNs on demand, by management address."""
        self.names: dict[str, str] = {"localhost": "127.0.0.1"}

    def __repr__(self) -> str:
        targets = len(self.targets) + len(self.fc_targets)
        return f"<San: {len(self.portals)} portals, {targets} targets, {len(self.volumes)} volumes>"

    # ---- arranging and changing

    def add_portal(
        self,
        portal: str,
        *targets: str,
        state: PortalState = "answers",
        discovery_chap: Credentials | None = None,
    ) -> Portal:
        """Add a portal that offers those targets (IQNs; unknown ones are made, without LUNs)."""
        address, port = parse_portal(portal)
        added = Portal(address, port, list(targets), state, discovery_chap)
        self.portals[added.key] = added
        for iqn in targets:
            self.targets.setdefault(iqn, Target(iqn))
        return added

    def add_target(
        self,
        iqn: str,
        portal: str = "",
        *,
        chap: Credentials | None = None,
        mutual_chap: Credentials | None = None,
        initiators: set[str] | None = None,
    ) -> Target:
        """Add a target, offered at a portal, which is made if needed."""
        target = self.targets.setdefault(iqn, Target(iqn))
        target.chap, target.mutual_chap, target.initiators = chap, mutual_chap, initiators
        if portal:
            found = self.portals.get(portal_key(*parse_portal(portal))) or self.add_portal(portal)
            if iqn not in found.targets:
                found.targets.append(iqn)
        return target

    def add_lun(
        self,
        target: str,
        number: int,
        size: int,
        *,
        scsi_id: str = "",
        vendor: str = "LIO-ORG",
        serial: str | None = None,
    ) -> Lun:
        """Show a volume as that LUN of a target (an IQN, or a WWPN of `fc_targets`).

        If the San has a volume with that SCSI id, it is shown, and resized to ``size``. Without a SCSI id,
        the id is derived from target and number.
        """
        volume = self.volume(f"{target} {number}", size, scsi_id=scsi_id, vendor=vendor, serial=serial)
        self.target(target).luns[number] = volume
        return volume

    def volume(
        self, name: str, size: int, *, scsi_id: str = "", vendor: str = "LIO-ORG", serial: str | None = None
    ) -> Lun:
        """Return the volume with that SCSI id, resized, or a new one; the default id is derived from the name."""
        scsi_id = scsi_id or "36001405" + hashlib.sha256(name.encode()).hexdigest()[:25]
        volume = self.volumes.get(scsi_id)
        if volume is None:
            file = self.directory / (scsi_id.replace("/", "_") + ".img")
            volume = self.volumes[scsi_id] = Lun(file, size, scsi_id=scsi_id, vendor=vendor, serial=serial)
        elif volume.size != size:
            volume.resize(size)
        return volume

    def map_lun(self, target: str, initiator: str, number: int, scsi_id: str) -> None:
        """Show a volume to one initiator under a number of its own.

        Its first map hides every other LUN from it.
        """
        volume = self.volumes.get(scsi_id)
        if volume is None:
            known = ", ".join(self.volumes) or "none"
            raise WorldError(f"no volume has the SCSI id {scsi_id!r}; there are: {known}")
        self.target(target).maps.setdefault(initiator, {})[number] = volume

    def unmap_lun(self, target: str, initiator: str, number: int) -> Lun:
        """Hide a volume from an initiator that has a map; the volume keeps its bytes."""
        return self.target(target).maps[initiator].pop(number)

    def remove_lun(self, target: str, number: int) -> Lun:
        """Hide a LUN; its volume keeps its bytes, and its SCSI id can show it again."""
        return self.target(target).luns.pop(number)

    def replace_lun(self, target: str, number: int, size: int, *, scsi_id: str) -> Lun:
        """Show another volume under the same number."""
        self.remove_lun(target, number)
        return self.add_lun(target, number, size, scsi_id=scsi_id)

    def resize_lun(self, target: str, number: int, size: int) -> Lun:
        """Resize a LUN; hosts see the old size until the next log-in.

        docs/background/recordings.md, finding 7 (storage).
        """
        volume = self.target(target).luns[number]
        volume.resize(size)
        return volume

    def add_array(
        self, address: str, kind: ArrayKind, username: str, password: str, pools: dict[str, int]
    ) -> Array:
        """Add an array that the drivers of that type manage; ``pools`` is name to bytes."""
        added = self.arrays[address] = Array(kind, username, password, pools, self.directory)
        return added

    def remove_target(self, target: str) -> None:
        self.targets.pop(target, None)
        self.fc_targets.pop(target, None)
        for portal in self.portals.values():
            portal.targets = [iqn for iqn in portal.targets if iqn != target]

    def unreachable(self, portal: str, state: PortalState = "silent") -> None:
        """Make a portal fail: its sessions stay, but every disk behind it fails, until it ``answers`` again."""
        self.portals[portal_key(*parse_portal(portal))].state = state

    def reachable(self, portal: str) -> None:
        self.portals[portal_key(*parse_portal(portal))].state = "answers"

    # ---- answers of the network and the arrays

    def target(self, name: str) -> Target:
        """Return an iSCSI or a Fibre Channel target."""
        try:
            return self.targets.get(name) or self.fc_targets[name]
        except KeyError:
            known = ", ".join([*self.targets, *self.fc_targets]) or "none"
            raise WorldError(f"no target {name}; there are: {known}") from None

    def resolve(self, name: str) -> str | None:
        """Return the address of a host name, or an address in canonical form; None for an unknown name."""
        try:
            return str(ipaddress.ip_address(name))
        except ValueError:
            return self.names.get(name)

    def knock(self, address: str, port: int) -> PortalState:
        """Return the result of a connection attempt: an address without portals is silent, its other ports refuse."""
        portal = self.portals.get(portal_key(address, port))
        if portal is not None:
            return portal.state
        return "refuses" if any(other.address == address for other in self.portals.values()) else "silent"

    def portals_of(self, iqn: str) -> list[Portal]:
        return [portal for portal in self.portals.values() if iqn in portal.targets]

    def shows(self, iqn: str, portal: str, number: int, volume: Lun, initiator: str) -> bool:
        """Return True if that volume can be read now through that portal under that number."""
        through = self.portals.get(portal)
        target = self.targets.get(iqn)
        if through is None or target is None or through.state != "answers" or iqn not in through.targets:
            return False
        return target.luns_of(initiator).get(number) is volume
