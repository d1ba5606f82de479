"""Calls that run on: what ``Async.`` makes of a message, and the messages of the class task.

An Async call is checked like any other; only then there is a task, whose record tells how its call fares and,
at the end, its result as XML-RPC or its error (facts/xapi.md 4.5, trace 07).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from xenvol.simulator import xmlrpc
from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import Call, rule
from xenvol.simulator.values import Wire
from xenvol.simulator.xapi import Xapi

CANCELLED = "TASK_CANCELLED"


def create(call: Call, label: str, description: str = "") -> str:
    """A pending task that nobody works on yet."""
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
    """Run the work in a thread of its own, under a task."""
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
            _finish(xapi, call.task, status=status, error_info=failure.description)
        else:
            _finish(xapi, call.task, status="success", result=xmlrpc.write(result))


def _finish(xapi: Xapi, task: str, **outcome: Any) -> None:
    if not xapi.db.exists("task", task):
        return
    is_unwanted = "destroy" in xapi.db.row("task", task)["current_operations"].values()
    xapi.db.set(
        "task",
        task,
        progress=1.0,
        finished=xapi.now(),
        current_operations={},
        allowed_operations=[],
        **outcome,
    )
    if is_unwanted:
        xapi.db.delete("task", task)


def is_cancelled(xapi: Xapi, task: str) -> bool:
    """Whether somebody asked to end it; a rule that waits looks now and then, and raises TASK_CANCELLED [task]."""
    return (
        xapi.db.exists("task", task) and "cancel" in xapi.db.row("task", task)["current_operations"].values()
    )


@rule("task.create")
def task_create(call: Call, label: str, description: str) -> str:
    return create(call, label, description)


@rule("task.destroy")
def task_destroy(call: Call, task: str) -> None:
    """A pending task goes when it is over."""
    row = call.db.row("task", task)
    if row["status"] in ("pending", "cancelling"):
        call.db.map_add("task", task, "current_operations", call.task, "destroy")
    else:
        call.db.delete("task", task)


@rule("task.cancel")
def task_cancel(call: Call, task: str) -> None:
    """Ask for it; whether anything comes of it is up to what the task does (trace 07#147..156)."""
    if call.db.row("task", task)["status"] == "pending":
        call.db.map_add("task", task, "current_operations", call.task, "cancel")


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
