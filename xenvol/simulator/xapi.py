"""The state of one simulated pool, and the one lock that guards it.

Every call runs under `Xapi.lock`. A rule that waits (a slow driver, a conflicting operation, `event.from`)
waits on that condition and so lets the others run. There is no other synchronisation.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.simulator import datamodel
from xenvol.simulator.database import Database
from xenvol.simulator.domains import Domain
from xenvol.simulator.failure import NULL
from xenvol.simulator.guests import Guest
from xenvol.simulator.notify import EVERYTHING, Bell
from xenvol.simulator.sm.world import World

_STATE = (
    "db",
    "world",
    "guests",
    "domains",
    "domains_use_storage",
    "storage_delays",
    "dead",
    "host_assumed_dead_interval",
    "attached_srs",
    "datapaths",
    "users",
    "login_penalty",
    "local_sessions",
)
"""The attributes of `Xapi` that a checkpoint keeps; the others belong to the running program."""

HOST_ASSUMED_DEAD_INTERVAL = 600.0  # seconds (xapi_globs.ml, host_assumed_dead_interval)


@dataclass(frozen=True, slots=True)
class Death:
    """A host that does not answer."""

    since: float
    """By the pool's clock."""
    was_enabled: bool


class Xapi:
    def __init__(self, *, version: str = "24.16.0", world: World | None = None) -> None:
        self.model = datamodel.load(version)
        self.db = Database(self.model)
        self.world = world or World()
        """The storage behind the pool: targets, exports, devices (`xenvol.simulator.sm.world`)."""
        self.guests: dict[str, Guest] = {}
        """The VMs' guests, by VM reference (`xenvol.simulator.guests.guest_of`)."""
        self.domains: dict[str, Domain] = {}
        """The running domains, by VM reference (`xenvol.simulator.rules.hypervisor`)."""
        self.domains_use_storage = True
        """True if a VM's disks are attached through storage drivers, as by a real hypervisor.

        The recorded host had a stand-in, which attached nothing, and lost the disks of a suspended VM.
        """
        mutex = threading.RLock()
        self.lock = threading.Condition(mutex)
        """Notified after every change, for rules that wait until an operation is over."""
        self.bell = Bell(mutex)
        """For rules that wait for certain changes: `event.from`."""
        self._asleep = threading.Condition(mutex)
        self.observers: list[Callable[[str, str], None]] = []
        """Called with (class, reference) after every change, with the lock held."""
        self.is_closed = False
        self.db.on_change = self._changed
        self.storage_delays: float = False
        """True if storage drivers take the time of real ones; a number is the fraction of it."""
        self.dead: dict[str, Death] = {}
        """The hosts that do not answer (`xenvol.simulator.rules.liveness`)."""
        self.host_assumed_dead_interval = HOST_ASSUMED_DEAD_INTERVAL
        """Seconds of silence after which the master takes a host for dead."""
        self.queueing = 0
        """Calls that wait for another operation to end (`xenvol.simulator.rules.operations`)."""
        self.held: set[tuple[str, ...]] = set()
        """What the hosts' storage layers are busy with (`xenvol.simulator.rules.backend.holding`)."""
        self.attached_srs: set[tuple[str, str]] = set()
        """(host, SR uuid): what the hosts' storage layers attached (`xenvol.simulator.rules.attachment`)."""
        self.datapaths: Counter[tuple[str, str]] = Counter()
        """(host, VDI): how many users a disk has there (`xenvol.simulator.rules.datapath`)."""

        self.clock: Callable[[], float] = time.time
        """The pool's clock, in seconds since 1970; a test may move it."""
        self.users = {"root": "secret"}
        """The users that may log in, with their passwords."""
        self.login_penalty = 0.0
        """Seconds that a failed log-in takes; about 2 for a real PAM."""
        self.local_sessions: dict[str, str] = {}
        """Sessions of session.slave_local_login_with_password, and the host that knows them."""

    def state(self) -> dict[str, Any]:
        """Return the pool's state for pickling: everything but locks, listeners and work under way."""
        return {name: getattr(self, name) for name in _STATE}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Xapi:
        """Make a pool from a state, which it takes over."""
        xapi = cls(version=state["db"].model.version, world=state["world"])
        for name, value in state.items():
            setattr(xapi, name, value)
        xapi.db.on_change = xapi._changed
        return xapi

    @property
    def master(self) -> str:
        """The host that answers for the pool."""
        db = self.db
        pool = db.first("pool")
        return db.row("pool", pool)["master"] if pool else (db.first("host") or NULL)

    def now(self, later: float = 0.0) -> str:
        """Return the time, ``later`` seconds from now, as xapi stores it:

        ``20261121T02:35:29Z``; these texts sort by time.
        """
        return time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(self.clock() + later))

    def sleep(self, seconds: float) -> None:
        """Sleep with the lock released; called with the lock held."""
        end = time.monotonic() + seconds
        while not self.is_closed and (left := end - time.monotonic()) > 0:
            self._asleep.wait(left)

    def close(self) -> None:
        """Wake everything that sleeps or waits; calls under way end as they can."""
        with self.lock:
            self.is_closed = True
            self._asleep.notify_all()
            self.lock.notify_all()
            self.bell.ring_all()

    def _changed(self, cls: str, ref: str) -> None:
        for observer in self.observers:
            observer(cls, ref)
        self.lock.notify_all()
        self.bell.ring(EVERYTHING, cls.lower(), ref)
