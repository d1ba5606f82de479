"""Who may work on an object at the same time: one mark per operation, and whoever conflicts waits for it.

xapi marks the object with ``current_operations[task] = op``, works, and unmarks it. A call whose operation
does not go with one that is under way does not fail: inside the server it waits until the other is done and
looks again (facts/xapi.md 2.2; trace 12). What excludes what, and what an object allows at all, is each
class's own affair: it registers a `Discipline`.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from xenvol.simulator import tasks
from xenvol.simulator.failure import Failure
from xenvol.simulator.rules import releases
from xenvol.simulator.waits import OPERATION, Wait

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi

T = TypeVar("T")

Mark = tuple[str, str, str]
"""(class, reference, operation): ``("SR", sr, "scan")``."""

IN_PROGRESS = "OTHER_OPERATION_IN_PROGRESS"

STANDARD_PATIENCE = 7200.0  # seconds that most calls wait (helpers.ml, Policy.standard)
SHORT_PATIENCE = (
    120.0  # seconds that calls wait which should fail soon, VM.start for one (Policy.fail_quickly)
)
STANDARD_NAP = (
    1.0,
    20.0,
)  # seconds between two tries of a release that is not woken, at random (Policy.standard)
SHORT_NAP = 2.0  # Policy.fail_quickly
NO_PATIENCE = 0.0  # Policy.fail_immediately, but for its one short wait
QUEUE_LIMIT = 100  # calls that may wait at once (helpers.ml, max_number_of_queueing_threads)

_BREATH = 0.002  # seconds between two attempts, so that calls which are in each other's way do not race


@dataclass(frozen=True, slots=True)
class Discipline:
    """How the operations on one class exclude each other."""

    check: Callable[[Xapi, str, str], None]
    """(pool, reference, operation): raises what forbids it; OTHER_OPERATION_IN_PROGRESS means "wait"."""
    update: Callable[[Xapi, str], None]
    """(pool, reference): stores allowed_operations."""


DISCIPLINES: dict[str, Discipline] = {}


def in_progress(cls: str, ref: str, operation: str, task: str) -> Failure:
    """The refusal that makes a caller wait; the client sees it only when patience runs out."""
    return Failure(IN_PROGRESS, cls, ref, operation, task)


def update_allowed_operations(xapi: Xapi, cls: str, ref: str) -> None:
    """Store what the object allows now; what cannot be told, because a reference dangles, stays as it was."""
    if xapi.db.exists(cls, ref):
        with contextlib.suppress(Failure):
            DISCIPLINES[cls].update(xapi, ref)


def mark(call: Call, cls: str, ref: str, operation: str) -> None:
    """Raises what forbids the operation, and marks the object otherwise."""
    DISCIPLINES[cls].check(call.xapi, ref, operation)
    call.db.map_add(cls, ref, "current_operations", call.task, operation)
    update_allowed_operations(call.xapi, cls, ref)


def unmark(call: Call, cls: str, ref: str) -> None:
    """Idempotent, also when the object is gone."""
    if call.db.exists(cls, ref):
        call.db.map_remove(cls, ref, "current_operations", call.task)
        update_allowed_operations(call.xapi, cls, ref)


def retry(call: Call, attempt: Callable[[], T], *, patience: float = STANDARD_PATIENCE) -> T:
    """Repeat an attempt for as long as another operation is in its way.

    The attempt runs under the pool's lock and must leave nothing behind when it raises. Every change of the
    pool is an occasion to look again; with `Xapi.storage_delays` an older release looks again when a real one
    does. Raises TASK_CANCELLED when the task is cancelled meanwhile, and TOO_MANY_PENDING_TASKS when a hundred
    calls wait already.
    """
    _make_cancellable(call)
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        wait: Wait | None = None
        while True:
            _raise_if_cancelled(call)
            try:
                return attempt()
            except Failure as failure:
                left = deadline - time.monotonic()
                if failure.code != IN_PROGRESS or left <= 0 or call.xapi.is_closed:
                    raise
                wait = _goes_on_waiting(call, stack, wait, failure)
                nap = _nap(call.xapi, failure, patience)
            with _queueing(call.xapi):
                if nap is None:
                    call.xapi.lock.wait(left)
                    call.sleep(_BREATH)
                else:
                    call.sleep(min(nap, left))


def _goes_on_waiting(call: Call, stack: contextlib.ExitStack, wait: Wait | None, failure: Failure) -> Wait:
    """The wait that lasts now: the one before, or another if something else is in the way."""
    what = _in_the_way(failure)
    seen = call.db.stamp  # every change is an occasion to look again, so without one the call goes on waiting

    def lasts() -> bool:
        return call.db.stamp == seen

    if wait is not None and wait.what == what:
        wait.lasts = lasts
        return wait
    stack.close()
    return stack.enter_context(call.waiting(OPERATION, *what, lasts=lasts))


def _in_the_way(failure: Failure) -> tuple[str, ...]:
    """Class, reference and operation, whichever way the release writes them."""
    first, ref, *rest = failure.params
    cls, _, operation = first.partition(".")  # "VM.start" in releases before 25.27
    return cls, ref, operation or rest[0]


def _nap(xapi: Xapi, failure: Failure, patience: float) -> float | None:
    """Seconds that a real xapi sleeps before it tries again; None where the end of the operation wakes it.

    Until 25.27 only an error of two parameters let it be woken, which is that of a VM's operation (helpers.ml,
    Repeat_with_uniform_backoff.wait). Seen: facts/truth.md, last section, finding 1.
    """
    if not xapi.storage_delays or len(failure.params) == 2:
        return None
    if releases.since(xapi, releases.IN_PROGRESS_NAMES_TASK):
        return None
    return random.uniform(*STANDARD_NAP) if patience == STANDARD_PATIENCE else SHORT_NAP


@contextlib.contextmanager
def operation(call: Call, *marks: Mark, patience: float = STANDARD_PATIENCE) -> Iterator[None]:
    """Do the body with these objects marked, in this order; all of them or none.

        with operation(call, ("SR", sr, "vdi_resize"), ("VDI", vdi, "resize")): ...

    Waits where another operation is in the way. Raises what the disciplines of the classes refuse with; the
    objects before the one that refuses were marked by then, so that what they allow is computed anew
    (message_forwarding.ml, with_sr_andor_vdi and mark_vbds).
    """

    def mark_all() -> None:
        _assert_nothing_in_the_way(call, marks)
        done: list[Mark] = []
        try:
            for cls, ref, op in marks:  # each is looked at again: a mark may be in the way of the next one
                mark(call, cls, ref, op)
                done.append((cls, ref, op))
        except Failure:
            for cls, ref, _ in done:
                unmark(call, cls, ref)
            raise

    retry(call, mark_all, patience=patience)
    try:
        yield
    finally:
        for cls, ref, _ in marks:
            unmark(call, cls, ref)


def _assert_nothing_in_the_way(call: Call, marks: Iterable[Mark]) -> None:
    """Raises only what would have to be waited for: whoever waits marks nothing, and so wakes nobody."""
    for cls, ref, op in marks:
        try:
            DISCIPLINES[cls].check(call.xapi, ref, op)
        except Failure as failure:
            if failure.code == IN_PROGRESS:
                raise
            return


def _make_cancellable(call: Call) -> None:
    """A call that may have to wait can be cancelled (helpers.ml, retry; trace 12#7: its task says so)."""
    if call.db.exists("task", call.task):
        call.db.set("task", call.task, allowed_operations=["cancel"])


def _raise_if_cancelled(call: Call) -> None:
    if tasks.is_cancelled(call.xapi, call.task):
        raise Failure(tasks.CANCELLED, call.task)


@contextlib.contextmanager
def _queueing(xapi: Xapi) -> Iterator[None]:
    if xapi.queueing > QUEUE_LIMIT:
        raise Failure("TOO_MANY_PENDING_TASKS")
    xapi.queueing += 1
    try:
        yield
    finally:
        xapi.queueing -= 1
