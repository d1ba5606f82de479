"""A moment by which an operation must end: it bounds each call of the operation, and every wait between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from xenvol.errors import DeadlineExceeded, InvalidArgument

UNDO_TIME: Final = 1.0
"""Seconds after the deadline for taking back what the operation began."""
LONGEST: Final = 1e6
"""Seconds, some eleven days. Of more than a few hundred years, the operating system's clocks can make nothing."""


class Deadline:
    """The deadline of one operation. When it has passed, the operation has `UNDO_TIME` more, for its undo."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = check_seconds("deadline", seconds)
        self._clock = clock
        self._end = clock() + seconds
        self._has_passed = False

    @property
    def end(self) -> float:
        """The moment, by the clock, at which a call must have ended."""
        return self._end

    @property
    def left(self) -> float:
        """The seconds that are left; 0 if none."""
        return max(0.0, self._end - self._clock())

    def check(self, call: str) -> None:
        """Raise DeadlineExceeded if no time is left for this call."""
        if not self.left:
            raise self.exceeded(call, None)

    def exceeded(self, call: str, cause: BaseException | None) -> DeadlineExceeded:
        """Return the error of a call that `cause` ended, or None: it was not sent. From the first on, the undo runs."""
        if not self._has_passed:
            self._has_passed = True
            self._end = self._clock() + UNDO_TIME
        return DeadlineExceeded(call, cause, seconds=self.seconds)

    def __repr__(self) -> str:
        return f"<Deadline of {self.seconds:g} s, {self.left:.3f} s left{' for the undo' * self._has_passed}>"


def check_seconds(name: str, seconds: object) -> float:
    """Return an argument that is a time. Raises InvalidArgument if it is none, or one that no clock can measure."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST:
        raise InvalidArgument(
            f"{name} is a number of seconds above 0 and at most {LONGEST:.0f}, not {seconds!r}"
        )
    return seconds
