"""Conflicting operations wait for each other inside the server; operations under way are visible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import XenAPI
from storage_pool import GIB, NULL, StoragePool, refusal, storage_pool
from xapi_client import log_in

from xenvol.simulator import tasks
from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules.operations import IN_PROGRESS, QUEUE_LIMIT, operation, retry

NAP = "0.2"  # seconds that the slow driver takes; long enough to check it meanwhile


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with storage_pool() as pool:
        yield pool


@pytest.fixture
def slow(pool: StoragePool) -> str:
    """Return an SR whose driver is slow in everything but attaching."""
    operations = ("scan", "detach", "vdi_create", "vdi_delete", "vdi_snapshot", "vdi_resize")
    sr = pool.introduced("flaky")
    pbd = pool.pbd(sr, **{f"sleep_{operation}": NAP for operation in operations if operation != "scan"})
    pool.x.PBD.plug(pbd)
    with pool.simulator.xapi.lock:
        config = {f"sleep_{operation}": NAP for operation in operations}
        pool.db.set("PBD", pbd, device_config=config)
    return sr


def started(pool: StoragePool, cls: str, ref: str) -> None:
    """Wait until an operation on the object is under way."""
    until(lambda: bool(pool.db.row(cls, ref)["current_operations"]))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def result(pool: StoragePool, task: str) -> tuple[str, list[str]]:
    until(lambda: pool.x.task.get_status(task) != "pending")
    return pool.x.task.get_status(task), pool.x.task.get_error_info(task)


def call_of(pool: StoragePool, task: str = "OpaqueRef:task") -> Call:
    return Call(pool.simulator.xapi, "SR.scan", NULL, task, pool.master)


class TestSeen:
    def test_an_operation_under_way_stands_on_its_object(self, pool: StoragePool, slow: str) -> None:
        task = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        assert pool.x.SR.get_current_operations(slow) == {task: "scan"}
        assert pool.x.SR.get_allowed_operations(slow) == []
        assert pool.x.task.get_allowed_operations(task) == ["cancel"]
        assert result(pool, task) == ("success", [])
        assert pool.x.SR.get_current_operations(slow) == {}
        assert "scan" in pool.x.SR.get_allowed_operations(slow)

    def test_plugging_leaves_room_for_plugging_only(self, pool: StoragePool) -> None:
        sr = pool.introduced("flaky")
        pbd = pool.pbd(sr, sleep_attach=NAP)
        first = pool.x.Async.PBD.plug(pbd)
        started(pool, "SR", sr)
        assert pool.x.SR.get_allowed_operations(sr) == ["plug"]
        pool.x.PBD.plug(pbd)
        assert result(pool, first) == ("success", [])

    def test_a_disk_and_its_sr_are_marked_together(self, pool: StoragePool, slow: str) -> None:
        vdi = pool.vdi(slow)
        task = pool.x.Async.VDI.snapshot(vdi, {})
        started(pool, "VDI", vdi)
        assert pool.x.VDI.get_current_operations(vdi) == {task: "snapshot"}
        assert pool.x.SR.get_current_operations(slow) == {task: "vdi_snapshot"}
        assert pool.x.VDI.get_allowed_operations(vdi) == []
        assert result(pool, task) == ("success", [])

    def test_a_call_that_fails_leaves_no_mark(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", fail_scan="SRScan", fail_vdi_resize="VDISize")
        vdi = pool.vdi(sr)
        refusal(pool.x.SR.scan, sr)
        refusal(pool.x.VDI.resize, vdi, "5")
        assert pool.x.SR.get_current_operations(sr) == pool.x.VDI.get_current_operations(vdi) == {}


class TestWaiting:
    def test_scans_follow_each_other(self, pool: StoragePool, slow: str) -> None:
        start = time.monotonic()
        first = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        pool.x.SR.scan(slow)
        assert time.monotonic() - start > 2 * float(NAP)
        assert result(pool, first) == ("success", [])

    def test_other_srs_do_not_wait(self, pool: StoragePool, slow: str) -> None:
        other = pool.sr()
        task = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        pool.x.SR.scan(other)
        assert pool.x.task.get_status(task) == "pending"
        result(pool, task)

    def test_what_is_refused_anyway_does_not_wait(self, pool: StoragePool, slow: str) -> None:
        task = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        assert refusal(pool.x.SR.forget, slow) == ["SR_HAS_PBD", slow]
        assert pool.x.task.get_status(task) == "pending"
        result(pool, task)

    def test_a_disk_is_destroyed_after_its_snapshot_is_made(self, pool: StoragePool, slow: str) -> None:
        vdi = pool.vdi(slow)
        task = pool.x.Async.VDI.snapshot(vdi, {})
        started(pool, "VDI", vdi)
        pool.x.VDI.destroy(vdi)
        assert result(pool, task) == ("success", [])
        assert len(pool.x.SR.get_VDIs(slow)) == 1

    def test_a_call_that_waited_for_an_object_that_is_gone_is_refused(
        self, pool: StoragePool, slow: str
    ) -> None:
        vdi = pool.vdi(slow)
        task = pool.x.Async.VDI.destroy(vdi)
        started(pool, "VDI", vdi)
        assert refusal(pool.x.VDI.destroy, vdi) == ["HANDLE_INVALID", "VDI", vdi]
        assert result(pool, task) == ("success", [])

    def test_unplugging_waits_for_operations_on_a_disk(self, pool: StoragePool, slow: str) -> None:
        vdi = pool.vdi(slow)
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, current_operations={"OpaqueRef:task": "copy"})
        task = pool.x.Async.PBD.unplug(pool.the_pbd(slow))
        time.sleep(0.1)
        assert pool.x.SR.get_current_operations(slow) == {}
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, current_operations={})
        assert result(pool, task) == ("success", [])

    def test_a_disk_that_is_plugged_at_the_moment_is_waited_for(self, pool: StoragePool) -> None:
        vdi = pool.vdi(pool.sr())
        vbd = pool.vbd(vdi)
        with pool.simulator.xapi.lock:
            pool.db.set("VBD", vbd, current_operations={"OpaqueRef:task": "plug"})
        task = pool.x.Async.VDI.resize(vdi, str(2 * GIB))
        time.sleep(0.1)
        assert pool.x.task.get_status(task) == "pending"
        with pool.simulator.xapi.lock:
            pool.db.set("VBD", vbd, current_operations={}, currently_attached=True)
        assert result(pool, task) == ("failure", ["VDI_IN_USE", vdi, "resize"])

    def test_sixty_four_clients_on_one_sr_all_get_their_disk(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", sleep_vdi_create="0.005")
        failures: list[Exception] = []

        def work() -> None:
            try:
                with log_in(pool.simulator) as x:
                    StoragePool(pool.simulator, x).vdi(sr)
            except (XenAPI.Failure, OSError) as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(pool.x.SR.get_VDIs(sr)) == 64
        assert pool.x.SR.get_current_operations(sr) == {}


class TestTheJournalOfWaits:
    """A client's tests ask which of its calls would have made a real xapi wait."""

    def test_a_call_that_waited_says_for_which_operation_on_which_object(
        self, pool: StoragePool, slow: str
    ) -> None:
        first = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        pool.x.SR.scan(slow)
        journal = pool.simulator.journal
        (waited,) = journal.waits()
        assert waited.method == "SR.scan"
        assert [(wait.kind, wait.what) for wait in waited.waited_for] == [("operation", ("SR", slow, "scan"))]
        assert 0 < waited.waited <= (waited.seconds or 0)
        assert str(waited).endswith(f" s for operation SR {slow} scan]")
        assert result(pool, first) == ("success", [])
        assert all(entry.waited_for == () for entry in journal if entry is not waited)

    def test_a_call_that_still_waits_is_seen_to_wait(self, pool: StoragePool) -> None:
        sr = pool.sr()
        with pool.simulator.xapi.lock:
            pool.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
        task = pool.x.Async.SR.scan(sr)
        until(lambda: bool(pool.simulator.journal.waits()))
        (entry,) = pool.simulator.journal.waits()
        with pool.simulator.xapi.lock:
            assert entry.is_waiting
            pool.db.set("SR", sr, current_operations={})
            assert not entry.is_waiting, "it goes on as soon as it gets the lock"
        assert result(pool, task) == ("success", [])
        assert not entry.is_waiting

    @pytest.mark.parametrize("version", ["24.16.0", "25.33.1"])
    def test_of_a_vm_it_is_told_alike_for_all_releases(self, version: str) -> None:
        with storage_pool(version) as pool:
            vm = pool.simulator.add_vm("web", power_state="Halted")
            with pool.simulator.xapi.lock:
                pool.db.set("VM", vm, current_operations={"OpaqueRef:other": "clone"})
            task = pool.x.Async.VM.start(vm, False, False)
            until(lambda: bool(pool.simulator.journal.waits()))
            with pool.simulator.xapi.lock:
                pool.db.set("VM", vm, current_operations={})
            assert result(pool, task) == ("success", [])
            (entry,) = pool.simulator.journal.waits()
            assert [wait.what for wait in entry.waited_for] == [("VM", vm, "clone")]

    def test_the_storage_layer_s_lock_is_a_kind_of_its_own(self, pool: StoragePool) -> None:
        """xapi allows two plugs of one SR at once; its storage layer does one thing at a time with an SR."""
        sr = pool.introduced("flaky")
        pbd = pool.pbd(sr, sleep_attach=NAP)
        first = pool.x.Async.PBD.plug(pbd)
        started(pool, "SR", sr)
        pool.x.PBD.plug(pbd)
        assert result(pool, first) == ("success", [])
        journal = pool.simulator.journal
        assert journal.waits() == []
        (waited,) = journal.waits("storage")
        uuid = pool.db.row("SR", sr)["uuid"]
        assert [wait.what for wait in waited.waited_for] == [("SR", pool.master, uuid)]

    def test_who_waits_for_an_event_is_seen_to_wait_until_there_is_one(self, pool: StoragePool) -> None:
        token = event_from(pool, "", 0)["token"]
        waiting = threading.Thread(target=event_from, args=(pool, token, 60))
        with log_in(pool.simulator) as another:
            waiting.start()
            journal = pool.simulator.journal
            until(lambda: bool(journal.waits("event")))
            (entry,) = journal.waits("event")
            with pool.simulator.xapi.lock:
                assert entry.is_waiting
            another.SR.introduce("", "sr", "", "dummy", "user", True, {})
            waiting.join(60)
        assert not waiting.is_alive()
        assert not entry.is_waiting
        assert journal.waits() == []

    def test_kinds_that_do_not_exist_are_refused(self, pool: StoragePool) -> None:
        with pytest.raises(ValueError, match="operation, storage, event"):
            pool.simulator.journal.waits("lock")


def event_from(pool: StoragePool, token: str, seconds: float) -> dict[str, Any]:
    return dict(getattr(pool.x.event, "from")(["sr"], token, float(seconds)))


@contextmanager
def short_naps(pool: StoragePool) -> Iterator[list[float]]:
    """Yield the seconds for which calls would sleep in the pool; none really sleeps that long."""
    xapi, naps = pool.simulator.xapi, list[float]()
    sleep = xapi.sleep

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(min(seconds, 0.01))

    xapi.sleep = nap  # type: ignore[method-assign]  # stands in for the sleep of the pool
    yield naps
    xapi.sleep = sleep  # type: ignore[method-assign]  # stands in for the sleep of the pool


class TestTheTimeOfAWait:
    """docs/background/recordings.md, finding 1 (xapi); helpers.ml, Repeat_with_uniform_backoff."""

    @pytest.mark.parametrize(
        ("version", "delays", "least", "most"),
        [
            ("24.16.0", True, 1, 20),  # not woken: sleeps and tries again
            ("25.33.1", True, 0, 0.01),  # woken by the end of the operation
            ("24.16.0", False, 0, 0.01),  # a test that does not ask for real times is fast
        ],
    )
    def test_is_that_of_the_release_under_storage_delays(
        self, version: str, delays: bool, least: float, most: float
    ) -> None:
        with storage_pool(version) as pool, short_naps(pool) as naps:
            pool.simulator.xapi.storage_delays = delays
            sr = pool.sr()
            naps.clear()
            with pool.simulator.xapi.lock:
                pool.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
            task = pool.x.Async.SR.scan(sr)
            until(lambda: bool(pool.simulator.journal.waits()))
            with pool.simulator.xapi.lock:
                pool.db.set("SR", sr, current_operations={})
            assert result(pool, task) == ("success", [])
            assert naps
            assert all(least <= nap <= most for nap in naps)

    def test_for_a_vm_the_older_release_is_woken_too(self) -> None:
        """Its error has two parameters, which the older release checks for."""
        with storage_pool("24.16.0") as pool, short_naps(pool) as naps:
            pool.simulator.xapi.storage_delays = True
            vm = pool.simulator.add_vm("web", power_state="Halted")
            with pool.simulator.xapi.lock:
                pool.db.set("VM", vm, current_operations={"OpaqueRef:other": "clone"})
            task = pool.x.Async.VM.start(vm, False, False)
            until(lambda: bool(pool.simulator.journal.waits()))
            with pool.simulator.xapi.lock:
                pool.db.set("VM", vm, current_operations={})
            assert result(pool, task) == ("success", [])
            assert all(nap < 1 for nap in naps)

    def test_is_never_longer_than_the_patience_of_the_call(self) -> None:
        with storage_pool("24.16.0") as pool, short_naps(pool) as naps:
            xapi = pool.simulator.xapi
            xapi.storage_delays = True
            sr = pool.sr()
            naps.clear()
            with xapi.lock:
                pool.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
                with pytest.raises(Failure), operation(call_of(pool), ("SR", sr, "scan"), patience=0.05):
                    pass
        assert naps
        assert all(nap <= 0.05 for nap in naps)


class TestGivingUp:
    def test_a_waiting_call_can_be_cancelled(self, pool: StoragePool, slow: str) -> None:
        first = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        second = pool.x.Async.SR.scan(slow)
        pool.x.task.cancel(second)
        assert result(pool, second) == ("cancelled", ["TASK_CANCELLED", second])
        assert result(pool, first) == ("success", [])

    def test_a_hundred_wait_and_no_more(self, pool: StoragePool, slow: str) -> None:
        task = pool.x.Async.SR.scan(slow)
        started(pool, "SR", slow)
        pool.simulator.xapi.queueing += QUEUE_LIMIT + 1
        assert refusal(pool.x.SR.scan, slow) == ["TOO_MANY_PENDING_TASKS"]
        pool.simulator.xapi.queueing -= QUEUE_LIMIT + 1
        result(pool, task)

    def test_patience_has_an_end(self, pool: StoragePool) -> None:
        sr = pool.sr()
        call = call_of(pool)
        with pool.simulator.xapi.lock:
            pool.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
            with pytest.raises(Failure) as raised, operation(call, ("SR", sr, "scan"), patience=0.05):
                pass
        assert raised.value.description == [IN_PROGRESS, "SR", sr, "scan", "OpaqueRef:other"]

    def test_nothing_is_marked_when_one_of_the_objects_is_busy(self, pool: StoragePool) -> None:
        sr = pool.sr()
        vdi = pool.vdi(sr)
        marks = ("SR", sr, "vdi_resize"), ("VDI", vdi, "resize")
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, current_operations={"OpaqueRef:other": "clone"})
            with pytest.raises(Failure), operation(call_of(pool), *marks, patience=0):
                pass
            assert pool.db.row("SR", sr)["current_operations"] == {}

    def test_an_attempt_is_repeated_when_the_pool_changes(self, pool: StoragePool) -> None:
        attempts: list[float] = []

        def attempt() -> str:
            attempts.append(time.monotonic())
            if len(attempts) < 3:
                raise Failure(IN_PROGRESS, "SR", NULL, "scan", NULL)
            return "done"

        def keep_changing() -> None:
            while len(attempts) < 3:
                pool.introduced()
                time.sleep(0.05)

        changing = threading.Thread(target=keep_changing)
        changing.start()
        with pool.simulator.xapi.lock:
            assert retry(call_of(pool), attempt) == "done"
        changing.join()
        assert len(attempts) == 3

    def test_closing_the_simulator_ends_the_waiting(self) -> None:
        with storage_pool() as pool:
            sr = pool.sr()
            with pool.simulator.xapi.lock:
                pool.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
            pool.x.Async.SR.scan(sr)
            start = time.monotonic()
        assert time.monotonic() - start < 60


class TestInItsOwnWay:
    def test_marks_that_exclude_each_other_are_all_taken_back(self, pool: StoragePool) -> None:
        sr = pool.sr()
        with pool.simulator.xapi.lock:
            marks = ("SR", sr, "scan"), ("SR", sr, "update")
            with pytest.raises(Failure), operation(call_of(pool), *marks, patience=0.05):
                pass
            assert pool.db.row("SR", sr)["current_operations"] == {}


class TestBrokenTasks:
    def test_a_task_whose_work_breaks_is_a_failure_and_does_not_stay_pending(self, pool: StoragePool) -> None:
        def work(_: Call) -> str:
            raise ValueError("a mistake of the simulator's own")

        with pool.simulator.xapi.lock:
            task = tasks.start(call_of(pool), "Async.SR.scan", work)
        status, error = result(pool, task)
        assert (status, error[0]) == ("failure", "INTERNAL_ERROR")
