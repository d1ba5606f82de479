"""One pool behind however many listeners: every call passes the faults and the journal here, then is dispatched.

Knows the pool and the calls, but no sockets. `Service.xapi` may be replaced (a reset): calls under way end on
the pool that they began on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

from xenvol.simulator import dispatch, sessions
from xenvol.simulator.failure import Failure
from xenvol.simulator.hooks import SERVED, Answer, Control, Fate, Incoming, Interceptor, Journal
from xenvol.simulator.values import Wire
from xenvol.simulator.xapi import Xapi


class Dropped(Exception):
    """There is to be no answer: the connection is closed."""

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
        """Serves the paths under /simulator/, if there is one."""
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<Service of xapi {self.xapi.model.version}>"

    def call(
        self, protocol: str, method: str, params: Sequence[Wire], host: str, gone: threading.Event
    ) -> Answer:
        """Answer a call, or raise `Dropped`. ``gone`` is set when the listener closes: then nothing waits."""
        incoming = Incoming(next(self._numbers), protocol, method, tuple(params), host)
        if self.journal is not None:
            self.journal.arrived(incoming)
        answer = None
        try:
            fate = SERVED if self.interceptor is None else self.interceptor.fate(incoming)
            _before(fate, gone)
            if fate.refuse is not None:
                answer = Answer(error=tuple(fate.refuse.description))
            else:
                answer = self._serve(incoming, fate)
            _after(fate, gone)
        finally:
            if self.journal is not None:
                self.journal.answered(incoming, answer)
        return answer

    def _serve(self, call: Incoming, fate: Fate) -> Answer:
        xapi = self.xapi
        if fate.expire_session and call.session is not None:
            with xapi.lock:
                sessions.destroy(xapi, call.session)
        try:
            return Answer(dispatch.dispatch(xapi, call.host, call.method, call.params))
        except Failure as failure:
            return Answer(error=tuple(failure.description))


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
    """Wait for either; whoever hangs is in no hurry, so looking now and then will do."""
    while not released.wait(0.05):
        if gone.is_set():
            raise Dropped
