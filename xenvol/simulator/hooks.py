"""The hooks between the wire and the pool: faults intervene here, and the journal records calls.

The server shows every parsed call to an `Interceptor` once, before it does anything, and obeys the `Fate`
that the interceptor returns. It tells a `Journal` each call and its answer. Both are optional and independent
of HTTP. Several threads may call their methods at once, without the pool's lock; only `Journal.began_to_wait`
is called with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from xenvol.simulator.failure import Failure
from xenvol.simulator.waits import Wait


@dataclass(frozen=True, slots=True)
class Incoming:
    """A call as it came off the wire, before any check."""

    number: int
    """A unique number: counts the calls of one service from 1."""
    protocol: str
    """``xmlrpc``, ``jsonrpc`` or ``jsonrpc2``."""
    method: str
    """The method as sent: ``Async.VDI.create``."""
    params: tuple[Any, ...]
    """Wire values as sent, the session first if there is one; may hold secrets."""
    host: str
    """The reference of the host that received the call."""

    @property
    def session(self) -> str | None:
        """The first parameter if it is a string: the session, in all calls but log-ins."""
        return self.params[0] if self.params and isinstance(self.params[0], str) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a call. ``error`` is an ErrorDescription; without one, ``result`` counts."""

    result: Any = None
    """A wire value; `xenvol.simulator.values.plain` makes it a value that JSON can hold."""
    error: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to a call.

    The fields that are set apply in their order; the default is to serve the call.
    """

    delay: float = 0.0
    """Seconds to wait before doing anything."""
    hang: threading.Event | None = None
    """Nothing is done until this is set; nothing is ever done if the server closes or the host dies first."""
    lose_request: bool = False
    """Close the connection and do nothing."""
    expire_session: bool = False
    """Destroy the session that the call names, then go on: the call gets SESSION_INVALID."""
    inside: float = 0.0
    """Seconds that the storage takes, with the operation in current_operations; none without a storage operation."""
    refuse: Failure | None = None
    """Answer with this, and do nothing."""
    late_error: Failure | None = None
    """Do the call, and answer with this if it succeeded."""
    late: float = 0.0
    """Seconds between doing the call and answering."""
    hang_answer: threading.Event | None = None
    """Do the call; do not answer until this is set."""
    lose_answer: bool = False
    """Do the call, and close the connection without an answer."""
    host_dies: bool = False
    """Before the answer would be sent, the host stops listening and closes all its connections.

    With ``lose_request`` the call is not done, otherwise it is. `Server.come_back` revives the host.
    """


SERVED = Fate()


class Interceptor(Protocol):
    def fate(self, call: Incoming) -> Fate:
        """Decide about one call; called exactly once for each call.

        Return `SERVED` to leave the call alone.
        """


class Gate(Protocol):
    """Holds and releases calls, so that a test decides their order."""

    def enter(self, call: Incoming) -> None:
        """Called when a call arrives. The call is served when this returns."""

    def in_storage(self, call: Incoming, sleep: Callable[[float], None]) -> None:
        """Called when the call's first storage driver begins; the operation is in current_operations.

        Called at most once for a call, with the pool's lock held. ``sleep(seconds)`` lets other calls run
        meanwhile, and returns at once when the pool is closed.
        """

    def left(self, call: Incoming) -> None:
        """Called when a call is over, just before its answer is written."""


class Journal(Protocol):
    def arrived(self, call: Incoming) -> None:
        """Record a parsed call; nothing is done about it yet."""

    def began_to_wait(self, call: Incoming, wait: Wait) -> None:
        """Record that a call, or the task of an Async call, begins to wait.

        Called with the pool's lock held.
        """

    def answered(self, call: Incoming, answer: Answer | None) -> None:
        """Record the end of a call: its answer, sent or not; None if nothing was done.

        Called before the answer is written, so that a client that has the answer finds it here.
        """


@dataclass(frozen=True, slots=True)
class Reply:
    """A plain HTTP answer."""

    status: int
    content_type: str
    body: bytes


Control = Callable[[str, str, bytes], Reply]
"""(verb, path with query, body) -> reply: serves the paths under /simulator/."""
