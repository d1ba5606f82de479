"""What a call waits for inside the pool, from when until when; the journal has the waits of each call.

Three kinds. ``operation``: an operation is under way on the object that does not go with the call's own; a real xapi
may sleep up to 20 seconds here (`xenvol.simulator.rules.operations`). ``storage``: the host's storage layer is busy
with the same SR or host, or its hypervisor's daemon with the same VM; the call goes on as soon as it is its turn.
``event``: event.from or event.next, by the caller's own wish.
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
    """Of an operation: class, reference, and the operation that is under way. Else the storage layer's key or the
    topics of the events."""
    lasts: Callable[[], bool] = field(repr=False)
    """Asked with the pool's lock held: False if the call would go on as soon as it gets the lock."""
    _began: float = field(default_factory=time.monotonic, repr=False)
    _seconds: float | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """How long it took; until now, if it is not over."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    @property
    def is_over(self) -> bool:
        return self._seconds is not None

    def end(self) -> None:
        self._seconds = self.seconds

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.what)}"


Listener = Callable[[Wait], None]
"""Told when a wait begins."""


def unheard(wait: Wait) -> None:
    """The listener of a call that nobody watches."""
