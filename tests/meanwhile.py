"""Two processes on one pool, one of which acts between two calls of the other, wherever a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import xenvol
from xenvol.session import CallRecord
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@contextmanager
def another_process(xapi: Simulator) -> Iterator[VolumeOps]:
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        yield VolumeOps(session)


@contextmanager
def interrupted(
    xapi: Simulator, after: str, action: Callable[[], object], *, nth: int = 1
) -> Iterator[VolumeOps]:
    """A VolumeOps of its own, after whose n-th call of a method the action takes place, once."""
    calls = 0

    def seen(record: CallRecord) -> None:
        nonlocal calls
        calls += record.call == after
        if record.call == after and calls == nth:
            action()

    with xenvol.connect(xapi.url, xapi.user, xapi.password, on_call=seen) as session:
        yield VolumeOps(session)
    assert calls >= nth, f"{after} was called {calls} times, so nothing happened meanwhile"
