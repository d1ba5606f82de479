"""What a call waits for inside the pool, and how long; the journal has the waits of each call.

There are three kinds. ``operation``: a conflicting operation is under way on the object; a real xapi may
sleep up to 20 seconds here (`xenvol.simulator.rules.operations`). ``storage``: the host's storage layer is
busy with the same SR or host, or its hypervisor's daemon with the same VM; the call continues when its turn
comes. ``event``: event.from or event.next, which the caller asked to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

OPERATION = "operation"
STORAGE = "storage"
EVENT = "event"
KINDS = (OPERATION, STORAGE, EVENT)


@dataclass(eq=False, slots=True)
class Wait:
    """One wait of one call. Ends with `end`, which is idempotent."""

    kind: str
    what: tuple[str, ...]
    """For an operation: class, reference, and the operation under way.

    Otherwise the storage layer's key, or the topics of the events.
    """
    lasts: Callable[[], bool] = field(repr=False)
    """Called with the pool's lock held: False if the call would continue as soon as it gets the lock."""
    _began: float = field(default_factory=time.monotonic, repr=False)
    _seconds: float | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """The duration of the wait; until now, if it is not over."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    @property
    def is_over(self) -> bool:
        return self._seconds is not None

    def end(self) -> None:
        self._seconds = self.seconds

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.what)}"


Listener = Callable[[Wait], None]
"""Called when a wait begins."""


def ignore_wait(wait: Wait) -> None:
    """Ignore the wait: the listener of a call that is not watched."""
