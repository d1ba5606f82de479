"""The record of what one attempt did, and how to take it back. A step is recorded after its call, never before it.

`unwind` runs all steps, newest first, each in its own ``try``. A step that succeeded leaves the record and never runs
again. A step that failed stays, so that a later unwind retries it: a refused call changed nothing, and after a missing
answer the result is unknown. So an inverse must accept that its object is already gone.
"""

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple, ParamSpec

from xenvol.secret import Secret, without

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class _Step(NamedTuple):
    description: str
    inverse: Callable[[], object]


class Undo:
    """The record of one attempt. Not thread-safe: one attempt belongs to one thread."""

    def __init__(self, *, hidden: Collection[Secret] = ()) -> None:
        """`hidden` are secrets that never show in the text about a failed step; read when a step fails."""
        self._steps: list[_Step] = []
        self._hidden = hidden

    def did(self, description: str, inverse: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Record a step ("introduced SR …", a text without secrets) and the call that takes it back."""
        self._steps.append(_Step(description, lambda: inverse(*args, **kwargs)))

    @property
    def pending(self) -> tuple[str, ...]:
        """The descriptions of the recorded steps, oldest first."""
        return tuple(step.description for step in self._steps)

    def forget(self) -> None:
        """Drop the record, so that `unwind` takes nothing back."""
        self._steps.clear()

    def unwind(self, error: BaseException | None = None) -> list[str]:
        """Take all steps back, newest first, and return a text for each one that failed.

        `error` is the reason for unwinding. Each failure is logged and noted on `error`; it never replaces `error`.
        A step that is interrupted (KeyboardInterrupt, SystemExit) runs once more, since half an undo is worse than
        none; a second interrupt ends that step, and the other steps still run. With an `error`, an interrupt becomes
        a note. Without one, it is raised when all steps have run.
        """
        failed: list[_Step] = []
        residue: list[str] = []
        interrupt: BaseException | None = None
        while self._steps:
            step = self._steps[-1]
            for is_last in (False, True):
                try:
                    _run(step)
                    break
                except BaseException as failure:  # noqa: BLE001  # the remaining steps must run even if this one fails
                    is_interrupt = not isinstance(failure, Exception)
                    if is_interrupt and interrupt is None:
                        interrupt = failure
                    if is_interrupt and not is_last:
                        continue
                    text = f"not undone: {step.description} ({type(failure).__name__}: {failure})"
                    residue.append(without(text, self._hidden))
                    failed.append(step)
                    break
            self._steps.pop()
        self._steps.extend(reversed(failed))
        for text in residue:
            logger.error("%s", text)
            if error is not None:
                error.add_note(text)
        if interrupt is not None:
            if error is None:
                raise interrupt
            if not residue:
                error.add_note(
                    f"interrupted while undoing ({type(interrupt).__name__}): all of it was undone"
                )
        return residue

    def __repr__(self) -> str:
        if not self._steps:
            return "<Undo: nothing to take back>"
        return f"<Undo: {len(self._steps)} to take back, newest: {self._steps[-1].description}>"


def _run(step: _Step) -> None:
    """Run one inverse, in a frame of its own: an interrupt may end it at any time, and `unwind` continues."""
    step.inverse()
