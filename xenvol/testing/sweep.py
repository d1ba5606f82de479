"""Every call of an operation goes wrong in turn; the caller judges each case, in a pool of its own.

One run without a fault tells which calls there are. Then each is struck:

    for case in sweep.each_call(xapi, begin, run, sweep.refuse):
        assert isinstance(case.error, XapiError), case
        assert pool_is_as_it_was(case.trial), case

`begin` builds the pool and returns the trial: whatever `run` and the judge need. It is called once. For each call the
pool is restored as `begin` left it, sessions too, which is much cheaper than to build it, and `again` makes the trial
of the case from the first one: a shallow copy, unless the trial has state outside the pool. `run` is the operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from xenvol.simulator import Simulator
from xenvol.simulator.faults import Faults

REFUSAL = ("SR_BACKEND_FAILURE_1200", "", "ordered by the sweep", "")
"""What a struck call is refused with: a code that nobody expects, so nobody has an answer to it."""

LATE_ERROR = ("INTERNAL_ERROR", "ordered by the sweep")
"""What a struck call that was done answers: the code that xapi has for what it did not foresee."""

T = TypeVar("T")
Strike = Callable[[Faults, int], None]
"""Order what shall go wrong at the n-th call from now."""


def refuse(faults: Faults, n: int) -> None:
    """xapi says no, and does nothing."""
    faults.refuse("*", *REFUSAL, nth=n)


def late_error(faults: Faults, n: int) -> None:
    """xapi does it, and answers that something went wrong."""
    faults.late_error("*", *LATE_ERROR, nth=n)


def lose_answer(faults: Faults, n: int) -> None:
    """xapi does it, and nobody hears."""
    faults.lose_answer("*", nth=n)


def lose_request(faults: Faults, n: int) -> None:
    """The call never arrives."""
    faults.lose_request("*", nth=n)


def die(faults: Faults, n: int) -> None:
    """The answer is lost and no later call gets through: what a caller leaves that is killed there."""
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
    """What the operation raised."""

    def __str__(self) -> str:
        outcome = "it succeeded" if self.error is None else f"{type(self.error).__name__}: {self.error}"
        return f"{self.strike.__name__} at call {self.n}, {self.call}: {outcome}"


def calls_of(xapi: Simulator, begin: Callable[[], T], run: Callable[[T], object]) -> list[str]:
    """The calls of a run in which nothing goes wrong."""
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
    """Strike the first call, then in the pool as it was the second, and so on; faults are over when a case is judged.

    A session of the first trial stays logged in for all cases: the judge leaves it open.
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
        except AssertionError as failed:  # a test of the caller's own, and no outcome
            failed.add_note(f"at {strike.__name__} of call {n}, {call}")
            raise
        except Exception as raised:  # noqa: BLE001  # whatever leaves is what the caller judges
            error = raised
        finally:
            xapi.faults.clear()
        yield Case(trial, n, call, strike, error)
