"""A host's side of the San: its iSCSI sessions and HBAs, and the disks that its kernel knows.

A kernel keeps a disk as it was when it was found. A rescan adds LUNs, drops those that are gone and replaces
those that show another volume now; it does not notice growth (docs/background/recordings.md, finding 7
(storage)).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from xenvol.simulator.sm.san import Credentials, Lun, Portal, San, portal_key, split_key


class LoginRefused(Exception):
    """Discovery or log-in failed; the tools do not say why."""


class OtherInitiatorName(Exception):
    """The initiator runs under another name and has sessions, so it cannot be restarted."""


@dataclass
class Disk:
    """A disk in the host's kernel."""

    number: int
    volume: Lun
    size: int
    """Bytes at the time when the disk was found."""

    @property
    def scsi_id(self) -> str:
        return self.volume.scsi_id


@dataclass
class Session:
    """One log-in, through one portal to one target."""

    iqn: str
    portal: str
    initiator: str
    """The name of the host that has logged in: a target may show each initiator different LUNs."""
    disks: dict[int, Disk] = field(default_factory=dict)
    """The disks by LUN number."""

    def rescan(self, san: San) -> None:
        """Update the disks, as the kernel and SM's own scan of the bus do together (trace sm/20b#20, #25).

        A portal that does not answer leaves them unchanged.
        """
        portal, target = san.portals.get(self.portal), san.targets.get(self.iqn)
        if portal is None or target is None or portal.state != "answers":
            return
        shown = target.luns_of(self.initiator)
        for number in [n for n, disk in self.disks.items() if shown.get(n) is not disk.volume]:
            del self.disks[number]
        for number in shown:
            self.add(san, number)

    def add(self, san: San, number: int) -> bool:
        """Scan one LUN number; return False if no LUN appears."""
        known = self.disks.get(number)
        if known is not None and san.shows(self.iqn, self.portal, number, known.volume, self.initiator):
            return True
        self.disks.pop(number, None)
        target = san.targets.get(self.iqn)
        volume = None if target is None else target.luns_of(self.initiator).get(number)
        if volume is None or not san.shows(self.iqn, self.portal, number, volume, self.initiator):
            return False
        self.disks[number] = Disk(number, volume, volume.size)
        return True

    def reads(self, san: San, disk: Disk) -> bool:
        """Return True if the disk answers: a LUN that was removed leaves a dead disk until the next rescan."""
        return san.shows(self.iqn, self.portal, disk.number, disk.volume, self.initiator)


class Initiator:
    """The iSCSI software initiator of one host, with SM's notes about it in dom0's files."""

    def __init__(self) -> None:
        self.name: str | None = None
        """The IQN under which it runs; None before its first start."""
        self.records: list[tuple[str, str]] = []
        """Known nodes, portal and IQN: a log-in needs no discovery if there is a record."""
        self.sessions: list[Session] = []
        self.references: dict[str, list[str]] = {}
        """The SRs (uuids) that use an IQN: the last one to leave logs out (trace sm/20e#29-37)."""

    def __repr__(self) -> str:
        sessions = ", ".join(f"{session.portal} {session.iqn}" for session in self.sessions)
        return f"<Initiator {self.name or 'not started'}: {sessions or 'no session'}>"

    def start(self, name: str) -> None:
        """Run under that name; a change of the name needs that there are no sessions, and drops all records."""
        if self.name == name:
            return
        if self.sessions:
            raise OtherInitiatorName(self.name)
        self.name = name
        self.records.clear()

    def session(self, iqn: str, address: str = "") -> Session | None:
        """Return a session to the target, through that address if one is given; None without one."""
        sessions = self.sessions_to(iqn)
        return next((s for s in sessions if address in ("", split_key(s.portal)[0])), None)

    def sessions_to(self, iqn: str) -> list[Session]:
        return [session for session in self.sessions if session.iqn == iqn]

    def discover(
        self, san: San, address: str, port: int, chap: Credentials | None
    ) -> list[tuple[Portal, str]]:
        """Ask a portal for its targets, and return each target with each of its portals.

        Makes node records.
        """
        portal = san.portals.get(portal_key(address, port))
        wants = portal.discovery_chap if portal else None
        if portal is None or portal.state != "answers" or not portal.targets or wants not in (None, chap):
            raise LoginRefused(portal_key(address, port))
        found = [(other, iqn) for iqn in portal.targets for other in san.portals_of(iqn)]
        for other, iqn in found:
            if (other.key, iqn) not in self.records:
                self.records.append((other.key, iqn))
        return found

    def login(
        self, san: San, portal: str, iqn: str, chap: Credentials | None, incoming: Credentials | None
    ) -> Session:
        """Return a session with all LUNs of the target; LoginRefused if it refuses or does not know ``incoming``."""
        known = next((s for s in self.sessions_to(iqn) if s.portal == portal), None)
        if known is not None:
            return known
        through, target = san.portals.get(portal), san.targets.get(iqn)
        if (
            through is None
            or target is None
            or through.state != "answers"
            or iqn not in through.targets
            or not target.admits(self.name or "")
            or target.chap not in (None, chap)
            or incoming not in (None, target.mutual_chap)
        ):
            raise LoginRefused(f"{portal} {iqn}")
        session = Session(iqn, portal, self.name or "")
        session.rescan(san)
        self.sessions.append(session)
        return session

    def logout(self, iqn: str) -> None:
        """Drop every session to the target; a test calls it to remove them without SM's knowledge."""
        self.sessions = [session for session in self.sessions if session.iqn != iqn]

    def forget(self, iqn: str) -> None:
        """Delete the node records of a target."""
        self.records = [record for record in self.records if record[1] != iqn]

    def take(self, iqn: str, sr_uuid: str) -> None:
        """Note that an SR uses the target."""
        users = self.references.setdefault(iqn, [])
        if sr_uuid not in users:
            users.append(sr_uuid)

    def release(self, iqn: str, sr_uuid: str) -> int:
        """Note that an SR no longer uses the target, and return how many still do."""
        users = [user for user in self.references.get(iqn, []) if user != sr_uuid]
        if users:
            self.references[iqn] = users
        else:
            self.references.pop(iqn, None)
        return len(users)

    def disks(self) -> list[Disk]:
        """Return every disk of every session, in the order of the log-ins."""
        return [disk for session in self.sessions for disk in session.disks.values()]


@dataclass
class HBA:
    """A host bus adapter with LUNs of its own: Fibre Channel, or iSCSI or SAS in hardware."""

    wwpn: str
    wwnn: str = ""
    kind: str = "FC"
    """A value of device_config:type: ``FC``, ``iSCSI``, ``SAS``."""

    def visible(self, san: San) -> list[Disk]:
        """Return the LUNs zoned to this adapter; listing them forces a rescan, so sizes are current."""
        targets = [target for target in san.fc_targets.values() if target.admits(self.wwpn)]
        return [
            Disk(number, lun, lun.size)
            for target in targets
            for number, lun in sorted(target.luns_of(self.wwpn).items())
        ]
