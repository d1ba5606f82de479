"""Log in to an iSCSI target as SM does, log out, and find its disks.

The LUN-per-VDI driver and LVM over iSCSI share it, as BaseISCSI in SM. The refusals and their order are those
of traces sm/20a and sm/20d (docs/background/recordings.md, "iSCSI errors").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from xenvol.simulator.sm import xmlout
from xenvol.simulator.sm.base import Request, SMFailure
from xenvol.simulator.sm.initiator import Disk, LoginRefused, OtherInitiatorName, Session
from xenvol.simulator.sm.iscsiconfig import TargetConfig
from xenvol.simulator.sm.san import ISCSI_PORT, split_key

DEVICE_MISSING = 67
LOGIN = 68
INITIATOR = 70
DISCOVERY = 83
NO_TARGET_IQN = 96
WRONG_SCSI_ID = 107
UNREACHABLE = 141
UNEXPECTED = 1200
"""The fault of a driver that crashed; the reason is Python's error text."""

CONNECT_SECONDS = 5.0
"""How long a connection attempt waits for a silent address."""
SETTLE_SECONDS = 5.5
"""How long a log-in took: SM waits 5 seconds for disks."""
DEVICE_SECONDS = 15.0
"""How long SM waits for one disk to appear."""


class TargetLogin:
    """One target (an IQN behind a portal) for one SR on one host."""

    def __init__(self, request: Request, target: TargetConfig, *, listed_as: str = "") -> None:
        """Store the arguments; ``listed_as`` is the address of the "*" entry in a list of targets."""
        self.request = request
        self.target = target
        self.listed_as = listed_as or target.address
        self.san = request.world.san
        self.initiator = request.world.host(request.host.name).initiator
        self.xapi = request.xapi
        self.sr_uuid = request.sr.uuid

    def __repr__(self) -> str:
        state = "attached" if self.is_attached else "not attached"
        return f"<TargetLogin {self.target.portal} {self.target.iqn}, {state}>"

    def check_iqn(self) -> None:
        """Require targetIQN; without it, raise 96 with the list of the portal's targets."""
        if not self.target.iqn:
            raise SMFailure(NO_TARGET_IQN, output=self._offered())

    # ---- sessions

    @property
    def is_attached(self) -> bool:
        return self.initiator.session(self.target.iqn, self.target.address) is not None

    def attach(self) -> None:
        """Log in unless there is a session, and count this SR among its users."""
        if not self.is_attached or self._lacks_paths():
            self._connect()
        self.initiator.take(self.target.iqn, self.sr_uuid)
        sessions = len(self.initiator.sessions_to(self.target.iqn))
        self.xapi.pbd_other_config({"iscsi_sessions": str(sessions)})
        if self.target.scsi_id is not None and self._by_scsi_id(self.target.scsi_id) is None:
            self.xapi.sleep(DEVICE_SECONDS)
            raise SMFailure(WRONG_SCSI_ID)  # the session and its reference stay (trace sm/20e#68)

    def detach(self, *, forget: bool) -> None:
        """Log out if no other SR uses the target; ``forget`` also deletes the node records."""
        if self.initiator.release(self.target.iqn, self.sr_uuid):
            return
        if self.initiator.sessions_to(self.target.iqn):
            self.initiator.logout(self.target.iqn)
            if forget:
                self.initiator.forget(self.target.iqn)

    def _lacks_paths(self) -> bool:
        """Return True if a multihomed SR has fewer sessions than portals; SM then tries the other portals again."""
        return len(self.initiator.sessions_to(self.target.iqn)) < len(self._noted())

    def _noted(self) -> list[str]:
        """Return the portals that SM wrote into the PBD of a multihomed SR."""
        return [portal for portal in self.request.device_config.get("multihomelist", "").split(",") if portal]

    def _connect(self) -> None:
        self._reach_portal()
        self._start_initiator()
        if not self.is_attached or self._lacks_paths():
            self._log_in()
            self.xapi.sleep(SETTLE_SECONDS)

    def _reach_portal(self) -> None:
        """Raise 141 unless the portal (or one that SM noted earlier) accepts connections."""
        try:
            portals = [split_key(portal) for portal in self._noted()]
        except ValueError as error:
            raise SMFailure(UNEXPECTED, text=str(error)) from error
        for address, port in portals or [(self.target.address, self.target.port)]:
            if self._is_reachable(address, port):
                self.target = replace(self.target, address=address, port=port)
                return
        raise SMFailure(UNREACHABLE)

    def _is_reachable(self, address: str, port: int) -> bool:
        answer = self.san.knock(address, port)
        if answer == "silent":
            self.xapi.sleep(CONNECT_SECONDS)
        return answer == "answers"

    def _start_initiator(self) -> None:
        try:
            self.initiator.start(self.target.initiator)
        except OtherInitiatorName:
            text = "Daemon already running with target(s) attached using different IQN"
            raise SMFailure(INITIATOR, text) from None

    def _log_in(self) -> None:
        known = [portal for portal, iqn in self.initiator.records if iqn == self.target.iqn]
        if self.target.portal not in known:
            known = [portal for portal, iqn in self._discover() if iqn == self.target.iqn]
        if not known:
            raise SMFailure(DISCOVERY, "check target settings", self._offered())
        for portal in known:
            address, port = split_key(portal)
            if not self.target.is_multihomed and address != self.target.address:
                continue
            if not self._is_reachable(address, port):
                continue
            try:
                self.initiator.login(
                    self.san, portal, self.target.iqn, self.target.chap, self.target.incoming
                )
            except LoginRefused:
                raise SMFailure(LOGIN) from None
        if not self.initiator.sessions_to(self.target.iqn):
            raise SMFailure(DEVICE_MISSING, "during login")
        if self.target.is_multihomed:
            self._note_portals(known)

    def _note_portals(self, portals: Iterable[str]) -> None:
        """Write the portals of a multihomed target into the PBD, as SM does, its own portal first."""
        mine = ["{}:{}".format(*split_key(portal)) for portal in (self.target.portal, *portals)]
        both = list(dict.fromkeys([*self._noted(), *mine]))
        if both != self._noted():
            self.xapi.pbd_device_config({"multihomelist": ",".join(both)})

    # ---- discovery

    def discover(self) -> list[tuple[str, int, str]]:
        """Return address, port and IQN of each reachable target that the portal offers."""
        self._start_initiator()
        found = [(*split_key(portal), iqn) for portal, iqn in self._discover()]
        return [entry for entry in found if self._is_reachable(entry[0], entry[1])]

    def _discover(self) -> list[tuple[str, str]]:
        """Return portal and IQN of each target that the portal offers; none is an error, as for a log-in (68)."""
        target = self.target
        try:
            found = self.initiator.discover(self.san, target.address, target.port, target.chap)
        except LoginRefused:
            raise SMFailure(LOGIN) from None
        return [(portal.key, iqn) for portal, iqn in found]

    def _offered(self) -> str:
        """Return the list of targets in errors 83 and 96 (trace sm/20a#19)."""
        if not self._is_reachable(self.target.address, self.target.port):
            raise SMFailure(UNREACHABLE)
        self._start_initiator()
        every = (f"{self.listed_as}:{self.target.port}", "*")
        targets = []
        for index, (portal, iqn) in enumerate([*self._discover(), every]):
            address, _, port = portal.rpartition(":")
            entry: list[xmlout.Tree] = [("Index", str(index)), ("IPAddress", address)]
            if int(port) != ISCSI_PORT:
                entry.append(("Port", port))
            targets.append(("TGT", [*entry, ("TargetIQN", iqn)]))
        return xmlout.printed("iscsi-target-iqns", targets)

    # ---- disks

    @property
    def session(self) -> Session | None:
        """The session that shows the disks: through the portal of device_config, or another path; None without one."""
        sessions = self.initiator.sessions_to(self.target.iqn)
        own = [session for session in sessions if session.portal == self.target.portal]
        return next(iter([*own, *sessions]), None)

    def disks(self) -> list[Disk]:
        """Return the target's disks as the host knows them, by number."""
        session = self.session
        return sorted(session.disks.values(), key=lambda disk: disk.number) if session else []

    def reads(self, disk: Disk) -> bool:
        return any(session.reads(self.san, disk) for session in self.initiator.sessions_to(self.target.iqn))

    def rescan(self) -> None:
        for session in self.initiator.sessions_to(self.target.iqn):
            session.rescan(self.san)

    def add_disk(self, number: int) -> Disk | None:
        """Scan one LUN number on every path, and return its disk, or None."""
        for path in self.initiator.sessions_to(self.target.iqn):
            path.add(self.san, number)
        session = self.session
        return session.disks.get(number) if session else None

    def disk_with(self, scsi_id: str) -> Disk | None:
        return next((disk for disk in self.disks() if disk.scsi_id == scsi_id), None)

    def _by_scsi_id(self, scsi_id: str) -> Disk | None:
        """Return a disk of any session of the host, because SM searches /dev/disk."""
        return next((disk for disk in self.initiator.disks() if disk.scsi_id == scsi_id), None)
