"""One pool behind its listeners: every call passes the faults and the journal, and is then dispatched.

This module knows the pool and the calls, but no sockets. `Service.xapi` may be replaced (by a reset): calls
under way end on the pool on which they began.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from xenvol.simulator import dispatch, sessions
from xenvol.simulator.failure import Failure
from xenvol.simulator.hooks import SERVED, Answer, Control, Fate, Gate, Incoming, Interceptor, Journal
from xenvol.simulator.images import handlers
from xenvol.simulator.images.exchange import Exchange
from xenvol.simulator.images.visit import Visit
from xenvol.simulator.rules import liveness
from xenvol.simulator.values import Wire
from xenvol.simulator.waits import Wait
from xenvol.simulator.xapi import Xapi

UrlOf = Callable[[str], str]
"""Host reference to the host's URL."""


class Dropped(Exception):
    """Close the connection without an answer."""

    def __init__(self, *, host_dies: bool = False) -> None:
        super().__init__(host_dies)
        self.host_dies = host_dies


class Service:
    def __init__(
        self,
        xapi: Xapi,
        *,
        interceptor: Interceptor | None = None,
        journal: Journal | None = None,
        control: Control | None = None,
    ) -> None:
        dispatch.load_rules()
        self.xapi = xapi
        self.interceptor = interceptor
        self.journal = journal
        self.control = control
        """Serves the paths under /simulator/; None if nothing does."""
        self.gate: Gate | None = None
        """Holds and releases calls; None if nothing does."""
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Service of xapi {self.xapi.model.version}>"

    def call(
        self, protocol: str, method: str, params: Sequence[Wire], host: str, gone: threading.Event
    ) -> Answer:
        """Answer a call, or raise `Dropped`. ``gone`` is set when the listener closes; it ends all waits."""
        incoming = Incoming(next(self._numbers), protocol, method, tuple(params), host)
        return self._through(incoming, gone, self._serve)

    def transfer(
        self, name: str, exchange: Exchange, host: str, url_of: UrlOf, gone: threading.Event
    ) -> None:
        """Serve an image request, or raise `Dropped`. The journal and the faults treat it like a call."""
        query = dict(exchange.query)
        session = query.pop("session_id", None)
        params: tuple[Wire, ...] = (query,) if session is None else (session, query)

        def serve(call: Incoming, fate: Fate) -> Answer:
            xapi = self.xapi
            self._expire(xapi, call, fate)
            exchange.is_mute = fate.lose_answer
            visit = Visit(
                exchange, xapi, host, url_of, gone, fate.refuse, on_wait=lambda wait: self._waits(call, wait)
            )
            return handlers.serve(name, visit)

        self._through(Incoming(next(self._numbers), "http", name, params, host), gone, serve)

    def lose(self, host: str) -> None:
        """Note in the pool that a host does not answer any more."""
        with self.xapi.lock:
            liveness.die(self.xapi, host)

    def _through(
        self, incoming: Incoming, gone: threading.Event, serve: Callable[[Incoming, Fate], Answer]
    ) -> Answer:
        if self.journal is not None:
            self.journal.arrived(incoming)
        answer, gate = None, self.gate
        try:
            if gate is not None:
                gate.enter(incoming)
            fate = SERVED if self.interceptor is None else self.interceptor.fate(incoming)
            _before(fate, gone)
            answer = serve(incoming, fate)
            _after(fate, gone)
        finally:
            if self.journal is not None:
                self.journal.answered(incoming, answer)
            if gate is not None:
                gate.left(incoming)
        return answer

    def _serve(self, call: Incoming, fate: Fate) -> Answer:
        if fate.refuse is not None:
            return Answer(error=tuple(fate.refuse.description))
        xapi = self.xapi
        self._expire(xapi, call, fate)
        try:
            result = dispatch.dispatch(
                xapi,
                call.host,
                call.method,
                call.params,
                on_wait=lambda wait: self._waits(call, wait),
                storage_begins=self._once_in_storage(xapi, call, fate),
            )
            if fate.late_error is not None:
                raise fate.late_error
            return Answer(result)
        except Failure as failure:
            return Answer(error=tuple(failure.description))

    def _once_in_storage(self, xapi: Xapi, call: Incoming, fate: Fate) -> Callable[[], None]:
        """Return the function to call, with the pool's lock held, when the call's first storage driver begins."""
        is_first = True

        def begins() -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                if fate.inside:
                    xapi.sleep(fate.inside)
                if self.gate is not None:
                    self.gate.in_storage(call, xapi.sleep)

        return begins

    def _waits(self, call: Incoming, wait: Wait) -> None:
        if self.journal is not None:
            self.journal.began_to_wait(call, wait)

    def _expire(self, xapi: Xapi, call: Incoming, fate: Fate) -> None:
        if fate.expire_session and call.session is not None:
            with xapi.lock:
                sessions.destroy(xapi, call.session)


def _before(fate: Fate, gone: threading.Event) -> None:
    if gone.wait(fate.delay) if fate.delay else gone.is_set():
        raise Dropped
    if fate.hang is not None:
        _hang(fate.hang, gone)
    if fate.lose_request:
        raise Dropped(host_dies=fate.host_dies)


def _after(fate: Fate, gone: threading.Event) -> None:
    if fate.late and gone.wait(fate.late):
        raise Dropped
    if fate.hang_answer is not None:
        _hang(fate.hang_answer, gone)
    if fate.lose_answer or fate.host_dies:
        raise Dropped(host_dies=fate.host_dies)


def _hang(released: threading.Event, gone: threading.Event) -> None:
    """Wait for ``released``; `Dropped` if the host is gone.

    Polling is enough, because a hanging call has no deadline.
    """
    while not released.wait(0.05):
        if gone.is_set():
            raise Dropped
