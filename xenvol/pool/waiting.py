"""Waiting for what others do to an object, with events, so that no call of ours has to wait inside xapi.

Calls show in the current_operations of what they change. Between two calls of an attempt nothing shows: an attempt
that makes no call for `GRACE` seconds is dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from xenvol.pool.view import Record, View

GRACE = 1.0
"""Seconds in which a living attempt makes its next call."""
PATIENCE = 600.0
"""Seconds to wait for another one's operation, a long scan for instance. After that xapi may wait."""
FLOOR = 0.02
"""Seconds that a round of looking and waiting takes at least. In a busy pool there is always another event."""
SHARE = 0.25
"""Of the time that it waits, an attempt looks at most so much: the records of 1000 disks take a while."""
_SLICE = 0.5
"""Seconds of one event.from: what comes without an event is seen by then."""


@contextmanager
def grace(seconds: float = 0.05) -> Iterator[None]:
    """For tests: who makes no call for so long is dead. Short where nobody else is at work; long where nobody dies."""
    global GRACE
    before, GRACE = GRACE, seconds
    try:
        yield
    finally:
        GRACE = before


_left_behind: set[str] = set()


def leave_behind(ref: str) -> None:
    """Note that an attempt of this process on the object has failed: what is left there is nobody's work."""
    _left_behind.add(ref)


def take_over(ref: str) -> bool:
    """Make it the caller's work, if it is nobody's: true for one attempt only."""
    try:
        _left_behind.remove(ref)
    except KeyError:
        return False
    return True


def is_left_behind(ref: str) -> bool:
    """Whether an attempt of this process on the object has failed."""
    return ref in _left_behind


def settle(
    view: View,
    look: Callable[[], Record],
    watched: Callable[[Record], Mapping[str, Iterable[str]]],
    *,
    is_settled: Callable[[Record], bool],
    is_busy: Callable[[Record], bool],
    is_dead: Callable[[Record], bool],
) -> bool:
    """Look at an object until it is as it shall be; False when nobody is at work that could bring it there.

    `watched` are the references whose events are waited for. What `look` raises when the object has gone leaves.
    """
    begin = last_sign = time.monotonic()
    seen: Record = {}
    while True:
        began = time.monotonic()
        record = look()
        if is_settled(record):
            return True
        now = time.monotonic()
        if is_busy(record) or record != seen:
            last_sign, seen = now, record
        if not is_busy(record) and is_dead(record):
            return False
        if now - last_sign >= GRACE or now - begin >= PATIENCE:
            return False
        view.wait(watched(record), _SLICE)
        time.sleep(pause_after_round(began, now, time.monotonic()))


def pause_after_round(began: float, looked: float, now: float) -> float:
    """Return the seconds to pause before the next look, so that endless events do not make for endless looks."""
    lasts = max(FLOOR, (looked - began) / SHARE)
    return max(0.0, min(began + lasts, looked + _SLICE) - now)
