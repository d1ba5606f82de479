"""Where a fault may step in between the wire and the pool, and where a call is written down.

The server shows every parsed call to an `Interceptor` once, before anything is done, and obeys the `Fate`
that it gets; it tells a `Journal` what arrived and what was answered. Both are optional, and neither knows
HTTP. Their methods may be called from several threads at once, and without the pool's lock but for
`Journal.began_to_wait`.
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
    """A call as it came off the wire, before it was checked in any way."""

    number: int
    """Counts the calls of one service from 1; unique."""
    protocol: str
    """``xmlrpc``, ``jsonrpc`` or ``jsonrpc2``."""
    method: str
    """As sent: ``Async.VDI.create``."""
    params: tuple[Any, ...]
    """Wire values as sent, the session first where there is one; may hold secrets."""
    host: str
    """Reference of the host that was asked."""

    @property
    def session(self) -> str | None:
        """What stands where calls other than log-ins have their session."""
        return self.params[0] if self.params and isinstance(self.params[0], str) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call came to. ``error`` is an ErrorDescription; without one, ``result`` counts."""

    result: Any = None
    """A wire value; `xenvol.simulator.values.plain` makes it one that JSON can hold."""
    error: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a call: what is set happens in the order of the fields; the default is to serve it."""

    delay: float = 0.0
    """Seconds before anything is done."""
    hang: threading.Event | None = None
    """Nothing is done until it is set; if the server closes or the host dies first, nothing is ever done."""
    lose_request: bool = False
    """Close the connection, with nothing done."""
    expire_session: bool = False
    """Destroy the session that the call names, then go on: it gets SESSION_INVALID."""
    inside: float = 0.0
    """Seconds that the storage takes for it, with the objects marked by the operation; none if it asks no storage."""
    refuse: Failure | None = None
    """Answer with this, with nothing done."""
    late_error: Failure | None = None
    """It is done; if it succeeded, answer with this all the same."""
    late: float = 0.0
    """Seconds between doing it and answering."""
    hang_answer: threading.Event | None = None
    """It is done; no answer until this is set."""
    lose_answer: bool = False
    """It is done; close the connection without an answer."""
    host_dies: bool = False
    """Before the answer would be sent, the host stops listening and closes all its connections.

    With ``lose_request`` the call is not done, otherwise it is. `Server.come_back` revives the host.
    """


SERVED = Fate()


class Interceptor(Protocol):
    def fate(self, call: Incoming) -> Fate:
        """Decide about one call; called exactly once for each. Return `SERVED` to leave it alone."""


class Gate(Protocol):
    """Holds calls and lets them go, so that a test decides in which order they happen."""

    def enter(self, call: Incoming) -> None:
        """A call has arrived. It is served when this returns."""

    def in_storage(self, call: Incoming, sleep: Callable[[float], None]) -> None:
        """The call's first storage driver begins: the operation is marked. Called once, with the pool's lock held.

        ``sleep(seconds)`` lets other calls run meanwhile, and returns at once when the pool is closed.
        """

    def left(self, call: Incoming) -> None:
        """The call is over, and its answer is about to be written."""


class Journal(Protocol):
    def arrived(self, call: Incoming) -> None:
        """A call was parsed; nothing has been done about it."""

    def began_to_wait(self, call: Incoming, wait: Wait) -> None:
        """A call under way, or the task of an Async call, begins to wait. Called with the pool's lock held."""

    def answered(self, call: Incoming, answer: Answer | None) -> None:
        """The call is over: what was, or would have been, answered; None where nothing was done at all.

        Called before the answer is written to the connection, so that whoever has an answer finds it here.
        """


@dataclass(frozen=True, slots=True)
class Reply:
    """A plain HTTP answer."""

    status: int
    content_type: str
    body: bytes


Control = Callable[[str, str, bytes], Reply]
"""(verb, path with query, body) -> reply: what serves the paths under /simulator/."""
