"""What was done, and how to take it back; the step is recorded on the line after the do, never before it.

Unwinding goes newest first, each step in its own ``try``, through all of them. A step that succeeded has left
the record and is never run again; a step that failed stays on it, so that a later unwind tries it once more:
a refusal means that it did not happen, and after a silence nobody knows. An inverse must therefore accept
that what it takes back is already gone.
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
    """One attempt's ledger. Not shared between threads: one attempt is one thread's."""

    def __init__(self, *, hidden: Collection[Secret] = ()) -> None:
        """`hidden` are secrets that show in no text about a step that failed; looked at when it fails."""
        self._steps: list[_Step] = []
        self._hidden = hidden

    def did(self, description: str, inverse: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Record what was done ("introduced SR …", words without secrets) and the call that takes it back."""
        self._steps.append(_Step(description, lambda: inverse(*args, **kwargs)))

    @property
    def pending(self) -> tuple[str, ...]:
        """What unwinding would take back, oldest first."""
        return tuple(step.description for step in self._steps)

    def forget(self) -> None:
        """Drop the record: what was done shall stay."""
        self._steps.clear()

    def unwind(self, error: BaseException | None = None) -> list[str]:
        """Take everything back, newest first, and say what could not be.

        Each failure is logged, noted on `error`, the reason for unwinding, and returned as text; it never
        takes the error's place. A step that is interrupted (KeyboardInterrupt, SystemExit) runs once more, since
        half an undo is worse than none; a second interrupt costs that step and no other. With an `error` to carry
        it, an interrupt becomes a note like any failure, without one it is raised when all steps have run.
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
                except BaseException as failure:  # noqa: BLE001  # the remaining steps must run whatever this one does
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
    """Take one step back. An interrupt may end this at any time: `unwind` goes on."""
    step.inverse()
