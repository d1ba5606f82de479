"""Wait for what other attempts do to an object, with events, so that no call of xenvol waits inside xapi.

A call shows in the current_operations of the object that it changes. Between two calls of an attempt nothing shows. So
an attempt that makes no call for `GRACE` seconds counts as dead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from xenvol.pool.view import Record, View

GRACE = 1.0
"""Seconds within which a live attempt makes its next call."""
PATIENCE = 600.0
"""Seconds to wait for an operation of another attempt, such as a long scan. After that, xenvol lets xapi wait."""
FLOOR = 0.02
"""Minimum seconds of a round of reading and waiting: a busy pool always has another event."""
SHARE = 0.25
"""Largest part of the waiting time that an attempt spends on reading: the records of 1000 disks take a while."""
_SLICE = 0.5
"""Seconds of one event.from; after that, xenvol reads the object even without an event."""


@contextmanager
def grace(seconds: float = 0.05) -> Iterator[None]:
    """For tests: set `GRACE`. Short if no other attempt runs, long if no attempt dies."""
    global GRACE
    before, GRACE = GRACE, seconds
    try:
        yield
    finally:
        GRACE = before


_left_behind: set[str] = set()


def leave_behind(ref: str) -> None:
    """Note that an attempt of this process on the object has failed, and left the object as it is."""
    _left_behind.add(ref)


def take_over(ref: str) -> bool:
    """Take over an object that a failed attempt left behind. Return True to one caller only."""
    try:
        _left_behind.remove(ref)
    except KeyError:
        return False
    return True


def is_left_behind(ref: str) -> bool:
    """Whether an attempt of this process on the object has failed, and no other has taken it over."""
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
    """Read an object with `look` until it is settled. Return False if no live attempt is working on it.

    `watched` names the references whose events end a wait. An error of `look`, such as that of an object that is gone,
    reaches the caller.
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
    """Return the seconds to pause before the next read, so that constant events do not cause constant reads."""
    lasts = max(FLOOR, (looked - began) / SHARE)
    return max(0.0, min(began + lasts, looked + _SLICE) - now)
