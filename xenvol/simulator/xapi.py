"""The state of one simulated pool, and the one lock that guards it.

Every call runs under `Xapi.lock`; a rule that waits (a slow driver, a conflicting operation, `event.from`) waits on
that condition and so lets the others run. Nothing else synchronises anything.
"""

from __future__ import annotations

import threading
import time

from xenvol.simulator import datamodel
from xenvol.simulator.database import Database
from xenvol.simulator.guests import Guest
from xenvol.simulator.sm.world import World


class Xapi:
    def __init__(self, *, version: str = "24.16.0", world: World | None = None) -> None:
        self.model = datamodel.load(version)
        self.db = Database(self.model)
        self.world = world or World()
        """The storage behind the pool: targets, exports, devices (`xenvol.simulator.sm.world`)."""
        self.guests: dict[str, Guest] = {}
        """The operating systems in the VMs, by VM reference (`xenvol.simulator.guests.guest_of`)."""
        self.lock = threading.Condition(threading.RLock())
        self.db.on_change = self.lock.notify_all
        self.storage_delays = False
        """Whether storage drivers take the time that real ones were seen to take."""
        self.queueing = 0
        """Calls that wait for another operation to end (`xenvol.simulator.rules.operations`)."""

    def sleep(self, seconds: float) -> None:
        """Sleep with the lock released; called with the lock held."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.lock.wait(left)
