"""Tasks: the calls with ``Async.``, and the messages of the class task.

An Async call is checked like any other; only then there is a task. The task's record shows its progress and,
at the end, its result as XML-RPC or its error (docs/background/xapi.md 4.5, trace 07).
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any

from xenvol.simulator import xmlrpc
from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import Call, rule
from xenvol.simulator.values import Wire
from xenvol.simulator.xapi import Xapi

log = logging.getLogger(__name__)

CANCELLED = "TASK_CANCELLED"
COMPLETED = ("success", "failure", "cancelled")
COMPLETED_SECONDS = 3900.0  # a completed task's record stays this long (xapi_globs.ml)
PENDING_SECONDS = 86400.0  # the longest time that a task may be pending
MOST_TASKS = 200
_MARK = "task"
"""The key in current_operations of a task that is to be destroyed."""


def create(call: Call, label: str, description: str = "") -> str:
    """Create a pending task; the caller starts its work."""
    return call.db.create(
        "task",
        name_label=label,
        name_description=description,
        created=call.xapi.now(),
        status="pending",
        resident_on=call.host,
        type="<none/>",
        backtrace="()",
        session=call.session,
    )


def start(call: Call, label: str, work: Callable[[Call], Wire]) -> str:
    """Run the work in a thread of its own, under a task, and return the task."""
    task = create(call, label)
    under_task = dataclasses.replace(call, task=task)
    threading.Thread(target=_run, args=(under_task, work), name=label, daemon=True).start()
    return task


def _run(call: Call, work: Callable[[Call], Wire]) -> None:
    xapi = call.xapi
    with xapi.lock:
        if xapi.is_closed:
            return
        try:
            result = work(call)
        except Failure as failure:
            status = "cancelled" if failure.code == CANCELLED else "failure"
            finish(xapi, call.task, status=status, error_info=failure.description)
        except Exception as error:  # a client must not wait for ever for a task whose thread has ended
            log.exception("%s failed", call.method)
            error_info = internal_error(repr(error)).description
            finish(xapi, call.task, status="failure", error_info=error_info)
        else:
            finish(xapi, call.task, status="success", result=xmlrpc.write(result))


def finish(xapi: Xapi, task: str, **outcome: Any) -> None:
    """Set a pending task's outcome; ignore a task that is over or destroyed. Its current_operations stay."""
    if xapi.db.exists("task", task) and xapi.db.row("task", task)["status"] == "pending":
        xapi.db.set("task", task, progress=1.0, finished=xapi.now(), allowed_operations=[], **outcome)


def tell_progress(call: Call) -> Callable[[int, int], None]:
    """Return a function that writes every whole percent into the call's task, which may be none. Takes the lock."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        percent = done * 100 // total
        if percent > told:
            told = percent
            with call.xapi.lock:
                db = call.db
                if db.exists("task", call.task) and db.row("task", call.task)["status"] == "pending":
                    db.set("task", call.task, progress=percent / 100)

    return progress


def collect(xapi: Xapi) -> list[str]:
    """Collect tasks as the garbage collector does, and return the removed ones (db_gc_util.ml, timeout_tasks)."""
    db = xapi.db
    rows = {task: db.row("task", task) for task in db.refs("task")}
    over = sorted(
        (task for task, row in rows.items() if row["status"] in COMPLETED), key=lambda t: rows[t]["finished"]
    )
    gone = [task for task in over if "destroy" in rows[task]["current_operations"].values()]
    gone += [task for task in over if rows[task]["finished"] < xapi.now(-COMPLETED_SECONDS)]
    gone += [
        task
        for task, row in rows.items()
        if row["status"] not in COMPLETED and row["created"] < xapi.now(-PENDING_SECONDS)
    ]
    crowd = len(rows) - len(set(gone)) - MOST_TASKS
    if crowd > 0:
        gone += [task for task in over if task not in set(gone)][:crowd]
    gone = list(dict.fromkeys(gone))
    for task in gone:
        db.delete("task", task)
    return gone


def is_cancelled(xapi: Xapi, task: str) -> bool:
    """Return True if a client has asked to cancel it; a waiting rule polls this, and raises TASK_CANCELLED [task]."""
    return (
        xapi.db.exists("task", task) and "cancel" in xapi.db.row("task", task)["current_operations"].values()
    )


@rule("task.create")
def task_create(call: Call, label: str, description: str) -> str:
    return create(call, label, description)


@rule("task.destroy")
def task_destroy(call: Call, task: str) -> None:
    """Destroy a task; one that is not over is marked, and the first garbage collection after its end removes it.

    A second mark is refused (xapi_task.ml, destroy; xapi's maps refuse an existing key).
    """
    row = call.db.row("task", task)
    if row["status"] in COMPLETED:
        call.db.delete("task", task)
        return
    if _MARK in row["current_operations"]:
        raise Failure("MAP_DUPLICATE_KEY", "task", "current_operations", task, _MARK)
    call.db.map_add("task", task, "current_operations", _MARK, "destroy")


@rule("task.cancel")
def task_cancel(call: Call, task: str) -> None:
    """Ask for cancellation; the task itself decides whether to end (trace 07#147..156, sm/30#366)."""
    asking = (
        f"DummyRef:|{call.task.removeprefix('OpaqueRef:')}|task.cancel"  # a call without a task (sm/30#367)
    )
    call.db.set("task", task, current_operations={asking: "cancel"})


@rule("task.set_status")
def set_status(call: Call, task: str, status: str) -> None:
    call.db.set("task", task, status=status)


@rule("task.set_progress")
def set_progress(call: Call, task: str, progress: float) -> None:
    call.db.set("task", task, progress=progress)


@rule("task.set_result")
def set_result(call: Call, task: str, result: str) -> None:
    call.db.set("task", task, result=result)


@rule("task.set_error_info")
def set_error_info(call: Call, task: str, error_info: list[str]) -> None:
    call.db.set("task", task, error_info=error_info)
