"""Who waits for which change: a change wakes the few that it concerns, whatever else waits.

A waiter is woken once and then forgotten; it looks at the database itself and comes back if it wants more. So a
change costs nothing for a client that is not waiting, or waits for something else.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

EVERYTHING = ""


class Waiter:
    """One thread that waits. Its condition shares the pool's lock."""

    def __init__(self, mutex: threading.RLock, topics: Iterable[str]) -> None:
        self.topics = tuple(topics)
        self._woken = threading.Condition(mutex)

    def wait(self, seconds: float) -> None:
        self._woken.wait(seconds)

    def wake(self) -> None:
        self._woken.notify()


class Bell:
    """Topics are classes in lower case, references, sessions, or `EVERYTHING`. Used with the pool's lock held."""

    def __init__(self, mutex: threading.RLock) -> None:
        self._mutex = mutex
        self._waiting: dict[str, dict[Waiter, None]] = {}

    def wait(self, topics: Iterable[str], seconds: float) -> None:
        """Give up the lock until one of the topics rings, or the time is over."""
        waiter = Waiter(self._mutex, topics)
        for topic in waiter.topics:
            self._waiting.setdefault(topic, {})[waiter] = None
        try:
            waiter.wait(seconds)
        finally:
            self._forget(waiter)

    def ring(self, *topics: str) -> None:
        """Wake whoever waits for one of these."""
        for topic in topics:
            for waiter in list(self._waiting.get(topic, ())):
                self._forget(waiter)
                waiter.wake()

    @property
    def waiters(self) -> int:
        """How many threads wait."""
        return len({waiter for waiters in self._waiting.values() for waiter in waiters})

    def ring_all(self) -> None:
        self.ring(*list(self._waiting))

    def _forget(self, waiter: Waiter) -> None:
        for topic in waiter.topics:
            waiters = self._waiting.get(topic)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiting[topic]
