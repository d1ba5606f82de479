"""Wake the threads that wait for a change, and no others.

A waiter is woken once and then dropped; it reads the database itself and waits again if it needs more. So a
change costs nothing for a client that does not wait, or waits for another change.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

EVERYTHING = ""


class Waiter:
    """One waiting thread. Its condition shares the pool's lock."""

    def __init__(self, mutex: threading.RLock, topics: Iterable[str]) -> None:
        self.topics = tuple(topics)
        self._woken = threading.Condition(mutex)

    def wait(self, seconds: float) -> None:
        self._woken.wait(seconds)

    def wake(self) -> None:
        self._woken.notify()


class Bell:
    """The waiting threads by topic: class in lower case, reference, session, or `EVERYTHING`.

    Hold the pool's lock to use it.
    """

    def __init__(self, mutex: threading.RLock) -> None:
        self._mutex = mutex
        self._waiting: dict[str, dict[Waiter, None]] = {}

    def wait(self, topics: Iterable[str], seconds: float) -> None:
        """Release the lock until one of the topics rings or the time is over."""
        waiter = Waiter(self._mutex, topics)
        for topic in waiter.topics:
            self._waiting.setdefault(topic, {})[waiter] = None
        try:
            waiter.wait(seconds)
        finally:
            self._forget(waiter)

    def ring(self, *topics: str) -> None:
        """Wake the threads that wait for one of these topics."""
        for topic in topics:
            for waiter in list(self._waiting.get(topic, ())):
                self._forget(waiter)
                waiter.wake()

    @property
    def waiters(self) -> int:
        """The number of waiting threads."""
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
