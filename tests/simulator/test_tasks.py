"""Calls with Async: what the task's record says meanwhile and afterwards, and how long it stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from direct import Direct

from xenvol.simulator import tasks
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import RULES, Call


@pytest.fixture
def pool() -> Iterator[Direct]:
    with Direct() as found:
        yield found


class Work:
    """Replaces the rule of Async.secret.create by work that the test controls."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, call: Call, record: dict[str, Any]) -> str:
        self.begun.set()
        while not self.may_end.is_set():
            if tasks.is_cancelled(call.xapi, call.task):
                raise Failure("TASK_CANCELLED", call.task)
            call.sleep(0.01)
        if record["value"] == "refuse":
            raise Failure("NO_SECRETS", "today")
        if record["value"] == "break":
            raise ZeroDivisionError
        return "OpaqueRef:result"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    found = Work()
    monkeypatch.setitem(RULES, "secret.create", found)
    yield found
    found.may_end.set()


def start(pool: Direct, work: Work, value: str = "x") -> str:
    task: str = pool.call("Async.secret.create", {"value": value})
    assert work.begun.wait(60)
    return task


def finished(pool: Direct, task: str) -> dict[str, Any]:
    """Return the task's record when it is no longer pending."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        record: dict[str, Any] = pool.call("task.get_record", task)
        if record["status"] != "pending":
            return record
        time.sleep(0.005)
    raise AssertionError("it is still pending")


def test_a_task_is_there_while_its_call_runs_and_others_are_served(pool: Direct, work: Work) -> None:
    task = start(pool, work)
    record = pool.call("task.get_record", task)
    assert (record["name_label"], record["status"], record["progress"]) == (
        "Async.secret.create",
        "pending",
        0.0,
    )
    assert (record["type"], record["result"], record["error_info"]) == ("<none/>", "", [])
    assert (record["resident_on"], record["subtask_of"]) == (pool.xapi.master, NULL)
    work.may_end.set()
    record = finished(pool, task)
    assert (record["status"], record["progress"]) == ("success", 1.0)
    assert record["result"] == "<value>OpaqueRef:result</value>"


def test_a_refusal_ends_in_the_record(pool: Direct, work: Work) -> None:
    work.may_end.set()
    record = finished(pool, start(pool, work, "refuse"))
    assert (record["status"], record["error_info"]) == ("failure", ["NO_SECRETS", "today"])
    assert (record["result"], record["progress"]) == ("", 1.0)


def test_a_call_that_breaks_ends_in_the_record_too(pool: Direct, work: Work) -> None:
    work.may_end.set()
    record = finished(pool, start(pool, work, "break"))
    assert (record["status"], record["error_info"][0]) == ("failure", "INTERNAL_ERROR")


def test_what_is_wrong_with_the_call_is_told_at_once(pool: Direct) -> None:
    assert pool.refusal("Async.secret.create") == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH", "secret.create", "1", "0",
    ]  # fmt: skip  # an ErrorDescription is one line
    assert pool.refusal("Async.secret.create", {})[0] == "INTERNAL_ERROR"
    assert pool.refusal("Async.VM.get_all") == ["Fault", "No async mode for this operation (rpc: VM.get_all)"]
    assert pool.refusal("Async.no.such") == ["MESSAGE_METHOD_UNKNOWN", "no.such"]
    assert pool.db.refs("task") == []


def test_a_cancelled_call_stops_when_it_looks(pool: Direct, work: Work) -> None:
    task = start(pool, work)
    pool.call("task.cancel", task)
    record = finished(pool, task)
    assert (record["status"], record["error_info"]) == ("cancelled", ["TASK_CANCELLED", task])
    assert list(record["current_operations"].values()) == ["cancel"]


def test_cancelling_is_a_request_that_a_task_may_ignore(pool: Direct) -> None:
    task = pool.call("task.create", "mine", "")
    pool.call("task.cancel", task)
    assert pool.call("task.get_status", task) == "pending"


def test_a_pending_task_that_is_destroyed_goes_when_it_is_over(pool: Direct, work: Work) -> None:
    task = start(pool, work)
    pool.call("task.destroy", task)
    assert pool.call("task.get_current_operations", task) == {"task": "destroy"}
    work.may_end.set()
    assert finished(pool, task)["status"] == "success"
    with pool.xapi.lock:
        assert tasks.collect(pool.xapi) == [task]
    assert pool.refusal("task.get_record", task) == ["HANDLE_INVALID", "task", task]


def test_a_task_that_is_over_goes_at_once(pool: Direct) -> None:
    task = pool.call("task.create", "mine", "my own")
    pool.call("task.set_status", task, "success")
    pool.call("task.destroy", task)
    assert pool.refusal("task.destroy", task) == ["HANDLE_INVALID", "task", task]


def test_the_owner_of_a_task_may_write_it(pool: Direct) -> None:
    task = pool.call("task.create", "mine", "my own")
    pool.call("task.set_progress", task, 0.5)
    pool.call("task.set_result", task, "<value>x</value>")
    pool.call("task.set_error_info", task, ["A", "b"])
    pool.call("task.add_to_other_config", task, "k", "v")
    record = pool.call("task.get_record", task)
    assert (record["name_description"], record["progress"], record["result"]) == (
        "my own",
        0.5,
        "<value>x</value>",
    )
    assert (record["error_info"], record["other_config"]) == (["A", "b"], {"k": "v"})


def test_a_status_that_a_client_set_is_not_changed_by_the_end_of_the_call(pool: Direct, work: Work) -> None:
    task = start(pool, work)
    pool.call("task.set_status", task, "failure")
    work.may_end.set()
    time.sleep(0.05)
    assert pool.call("task.get_result", task) == ""
    assert pool.call("task.get_status", task) == "failure"


def test_tasks_go_some_time_after_their_end(pool: Direct) -> None:
    pending, over = (pool.call("task.create", name, "") for name in ("pending", "over"))
    with pool.xapi.lock:
        pool.db.set("task", over, status="success", finished=pool.xapi.now())
        pool.clock.seconds += 64 * 60
        assert tasks.collect(pool.xapi) == []
        pool.clock.seconds += 2 * 60
        assert tasks.collect(pool.xapi) == [over]
        pool.clock.seconds += 86400
        assert tasks.collect(pool.xapi) == [pending]


def test_of_too_many_tasks_the_first_that_ended_go(pool: Direct) -> None:
    created = [pool.call("task.create", str(number), "") for number in range(205)]
    with pool.xapi.lock:
        for task in created[10:20]:
            pool.clock.seconds += 1
            pool.db.set("task", task, status="failure", finished=pool.xapi.now())
        assert tasks.collect(pool.xapi) == created[10:15]
        assert tasks.collect(pool.xapi) == []


def test_who_closes_the_pool_waits_for_no_task(pool: Direct, work: Work) -> None:
    start(pool, work)
    pool.xapi.close()
    work.may_end.set()
