"""Make every call of an operation fail in turn; the caller judges each case, in a pool of its own.

One run without a fault records the calls. Then each of them is struck:

    for case in sweep.each_call(xapi, begin, run, sweep.refuse):
        assert isinstance(case.error, XapiError), case
        assert pool_is_as_it_was(case.trial), case

`begin` builds the pool and returns the trial: everything that `run` and the judge need. It is called once.
For each call the pool is restored as `begin` left it, with its sessions, which is much cheaper than building
it. `again` makes the trial of the case from the first one: a shallow copy, unless the trial has state outside
the pool. `run` is the operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from xenvol.simulator import Simulator
from xenvol.simulator.faults import Faults

REFUSAL = ("SR_BACKEND_FAILURE_1200", "", "ordered by the sweep", "")
"""The refusal of a struck call: a code that no caller expects, so none handles it."""

LATE_ERROR = ("INTERNAL_ERROR", "ordered by the sweep")
"""The error of a struck call that was done: xapi's code for exceptions that it does not translate."""

T = TypeVar("T")
Strike = Callable[[Faults, int], None]
"""Orders the fault at the n-th call from now."""


def refuse(faults: Faults, n: int) -> None:
    """Refuse the call, and do nothing."""
    faults.refuse("*", *REFUSAL, nth=n)


def late_error(faults: Faults, n: int) -> None:
    """Do the call, and answer with an error."""
    faults.late_error("*", *LATE_ERROR, nth=n)


def lose_answer(faults: Faults, n: int) -> None:
    """Do the call, and lose the answer."""
    faults.lose_answer("*", nth=n)


def lose_request(faults: Faults, n: int) -> None:
    """Lose the request, so that the call is not done."""
    faults.lose_request("*", nth=n)


def die(faults: Faults, n: int) -> None:
    """Lose the answer and every later call, as for a caller that is killed there."""
    faults.lose_answer("*", nth=n)
    faults.lose_request("*", nth=n + 1, every=True)


@dataclass(frozen=True)
class Case(Generic[T]):
    """One run in which one call was struck; prints as what happened."""

    trial: T
    n: int
    """The struck call's number, from 1."""
    call: str
    strike: Strike
    error: Exception | None
    """The error of the operation, or None."""

    def __str__(self) -> str:
        outcome = "it succeeded" if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return f"{self.strike.__name__} at call {self.n}, {self.call}: {outcome}"


def calls_of(xapi: Simulator, begin: Callable[[], T], run: Callable[[T], object]) -> list[str]:
    """Return the calls of a run without faults."""
    trial = begin()
    with xapi.journal.recording() as calls:
        run(trial)
    return calls.methods()


def each_call(
    xapi: Simulator,
    begin: Callable[[], T],
    run: Callable[[T], object],
    strike: Strike,
    *,
    again: Callable[[T], T] = copy.copy,
) -> Iterator[Case[T]]:
    """Strike the first call, then in the restored pool the second, and so on; faults end before a case is judged.

    The sessions of the first trial stay logged in for all cases, so the judge must not close them.
    """
    first = begin()
    kept = xapi.checkpoint()
    for n, call in enumerate(calls_of(xapi, lambda: again(first), run), 1):
        xapi.restore(kept)
        trial = again(first)
        strike(xapi.faults, n)
        error: Exception | None = None
        try:
            run(trial)
        except AssertionError as failed:  # a failed assertion of the caller is not an outcome
            failed.add_note(f"at {strike.__name__} of call {n}, {call}")
            raise
        except Exception as raised:  # noqa: BLE001  # the caller judges every error
            error = raised
        finally:
            xapi.faults.clear()
        yield Case(trial, n, call, strike, error)
