"""Marks and waits: an operation marks its objects, and a conflicting operation waits for it.

xapi marks an object with ``current_operations[task] = op``, works, and unmarks it. A call does not fail if
its operation conflicts with one under way: it waits inside the server until the other one ends, and tries
again (docs/background/xapi.md 2.2; trace 12). Each class registers a `Discipline`: what excludes what, and
what an object allows at all.
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
SHORT_PATIENCE = 120.0  # seconds for calls that should fail soon, e.g. VM.start (Policy.fail_quickly)
STANDARD_SLEEP = (
    1.0,
    20.0,
)  # random seconds between two tries of a release that is not woken (Policy.standard)
SHORT_SLEEP = 2.0  # Policy.fail_quickly
NO_PATIENCE = 0.0  # Policy.fail_immediately, but for its one short wait
QUEUE_LIMIT = 100  # calls that may wait at once (helpers.ml, max_number_of_queueing_threads)

_RETRY_SECONDS = 0.002  # seconds between two attempts, so that conflicting calls do not race


@dataclass(frozen=True, slots=True)
class Discipline:
    """How the operations on one class exclude each other."""

    check: Callable[[Xapi, str, str], None]
    """(pool, reference, operation): raises what forbids it; OTHER_OPERATION_IN_PROGRESS means "wait"."""
    update: Callable[[Xapi, str], None]
    """(pool, reference): stores allowed_operations."""


DISCIPLINES: dict[str, Discipline] = {}


def in_progress(cls: str, ref: str, operation: str, task: str) -> Failure:
    """Return the refusal that makes a caller wait; the client sees it only after the longest wait."""
    return Failure(IN_PROGRESS, cls, ref, operation, task)


def update_allowed_operations(xapi: Xapi, cls: str, ref: str) -> None:
    """Store what the object allows now; if a dangling reference prevents that, leave the old value."""
    if xapi.db.exists(cls, ref):
        with contextlib.suppress(Failure):
            DISCIPLINES[cls].update(xapi, ref)


def mark(call: Call, cls: str, ref: str, operation: str) -> None:
    """Mark the object with the operation, or raise what forbids it."""
    DISCIPLINES[cls].check(call.xapi, ref, operation)
    call.db.map_add(cls, ref, "current_operations", call.task, operation)
    update_allowed_operations(call.xapi, cls, ref)


def unmark(call: Call, cls: str, ref: str) -> None:
    """Remove the mark; idempotent, and the object may be gone."""
    if call.db.exists(cls, ref):
        call.db.map_remove(cls, ref, "current_operations", call.task)
        update_allowed_operations(call.xapi, cls, ref)


def retry(call: Call, attempt: Callable[[], T], *, patience: float = STANDARD_PATIENCE) -> T:
    """Repeat an attempt as long as a conflicting operation is under way.

    The attempt runs under the pool's lock and must leave nothing behind when it raises. It is repeated after
    every change of the pool; with `Xapi.storage_delays`, an older release repeats it when a real one would.
    Raises TASK_CANCELLED when the task is cancelled meanwhile, and TOO_MANY_PENDING_TASKS when a hundred
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
                seconds = _retry_sleep(call.xapi, failure, patience)
            with _queueing(call.xapi):
                if seconds is None:
                    call.xapi.lock.wait(left)
                    call.sleep(_RETRY_SECONDS)
                else:
                    call.sleep(min(seconds, left))


def _goes_on_waiting(call: Call, stack: contextlib.ExitStack, wait: Wait | None, failure: Failure) -> Wait:
    """Return the current wait: the one before, or a new one if another operation conflicts now."""
    what = _in_the_way(failure)
    seen = call.db.stamp  # the next attempt follows a change, so without a change the call goes on waiting

    def lasts() -> bool:
        return call.db.stamp == seen

    if wait is not None and wait.what == what:
        wait.lasts = lasts
        return wait
    stack.close()
    return stack.enter_context(call.waiting(OPERATION, *what, lasts=lasts))


def _in_the_way(failure: Failure) -> tuple[str, ...]:
    """Return class, reference and operation of the conflict, in either form that releases use."""
    first, ref, *rest = failure.params
    cls, _, operation = first.partition(".")  # "VM.start" in releases before 25.27
    return cls, ref, operation or rest[0]


def _retry_sleep(xapi: Xapi, failure: Failure, patience: float) -> float | None:
    """Return the seconds that a real xapi sleeps before it tries again; None if the end of the operation wakes it.

    Until 25.27 only an error of two parameters is woken: the error of a VM's operation (helpers.ml,
    Repeat_with_uniform_backoff.wait; docs/background/recordings.md, finding 1 (xapi)).
    """
    if not xapi.storage_delays or len(failure.params) == 2:
        return None
    if releases.since(xapi, releases.IN_PROGRESS_NAMES_TASK):
        return None
    return random.uniform(*STANDARD_SLEEP) if patience == STANDARD_PATIENCE else SHORT_SLEEP


@contextlib.contextmanager
def operation(call: Call, *marks: Mark, patience: float = STANDARD_PATIENCE) -> Iterator[None]:
    """Run the block with these objects marked, in this order; all of them or none.

        with operation(call, ("SR", sr, "vdi_resize"), ("VDI", vdi, "resize")): ...

    Waits for conflicting operations. Raises what the classes' disciplines refuse with. The objects before the
    one that refuses were marked until then, so their allowed_operations are computed anew
    (message_forwarding.ml, with_sr_andor_vdi and mark_vbds).
    """

    def mark_all() -> None:
        _assert_nothing_in_the_way(call, marks)
        done: list[Mark] = []
        try:
            for cls, ref, op in marks:  # checked again each time: a mark may conflict with the next one
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
    """Raise only conflicts to wait for. A call that waits marks nothing, and so wakes no other call."""
    for cls, ref, op in marks:
        try:
            DISCIPLINES[cls].check(call.xapi, ref, op)
        except Failure as failure:
            if failure.code == IN_PROGRESS:
                raise
            return


def _make_cancellable(call: Call) -> None:
    """Allow cancelling: a call that may have to wait can be cancelled (helpers.ml, retry; trace 12#7)."""
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
