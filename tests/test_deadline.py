"""An operation ends by its deadline, whatever hangs, and takes back what it began."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

import xenvol
from tests.scenarios import GIB, arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import DeadlineExceeded, InvalidArgument, XapiUnreachable
from xenvol.pool.marks import TURN
from xenvol.session import Session, deadline
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

HANGS = 60.0
"""Seconds: less than a call would hang without a deadline, and more than a busy machine needs."""
SOON = 0.4

Operation = Callable[[VolumeOps, float | None], object]
OPERATIONS: dict[str, tuple[Operation | None, Operation]] = {
    "attach": (None, lambda ops, seconds: ops.attach_volume(iscsi(0), "web", deadline=seconds)),
    "connect": (None, lambda ops, seconds: ops.connect_volume(iscsi(0), deadline=seconds)),
    "detach": (
        lambda ops, _: ops.attach_volume(iscsi(0), "web"),
        lambda ops, seconds: ops.detach_volume(iscsi(0), "web", deadline=seconds),
    ),
    "detach all": (
        lambda ops, _: ops.attach_volume(iscsi(0), "web"),
        lambda ops, seconds: ops.detach_all("web", deadline=seconds),
    ),
    "disconnect": (
        lambda ops, _: ops.connect_volume(iscsi(0)),
        lambda ops, seconds: ops.disconnect_volume(iscsi(0), deadline=seconds),
    ),
    "extend": (
        lambda ops, _: ops.connect_volume(iscsi(0)),
        lambda ops, seconds: ops.extend_volume(iscsi(0), deadline=seconds),
    ),
    "list": (
        lambda ops, _: ops.attach_volume(iscsi(0), "web"),
        lambda ops, seconds: ops.list_volumes("web", deadline=seconds),
    ),
    "find bad volumes": (
        lambda ops, _: ops.attach_volume(iscsi(0), "web"),
        lambda ops, seconds: ops.find_bad_volumes("web", deadline=seconds),
    ),
    "prepare a migration": (
        lambda ops, _: ops.attach_volume(iscsi(0), "web"),
        lambda ops, seconds: ops.prepare_migration("web", "host2", deadline=seconds),
    ),
    "connectors": (None, lambda ops, seconds: ops.get_connectors("web", deadline=seconds)),
}
GOES_FORWARD = ("detach", "detach all", "disconnect")


@pytest.fixture
def pool(xapi: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    monkeypatch.setattr(deadline, "UNDO_TIME", HANGS)  # a busy machine may need more than a second
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    return xapi


def counts(pool: Simulator) -> dict[str, int]:
    return {cls: pool.db.count(cls) for cls in ("SR", "PBD", "VDI", "VBD", "secret")}


@pytest.mark.xapi(hosts=2)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("attach", "detach") else pytest.mark.slow) for n in OPERATIONS],
)
def test_each_call_of_an_operation_hangs_in_turn(pool: Simulator, volume_ops: VolumeOps, name: str) -> None:
    """What was begun is taken back; a detach goes forward, and a later one completes it.

    An operation whose last step comes after the deadline may be done before the error is raised.
    """
    prepare, run = OPERATIONS[name]
    if prepare is not None:
        prepare(volume_ops, None)
    before, kept = pool.snapshot(), pool.checkpoint()
    with pool.journal.recording() as calls:
        run(volume_ops, None)
    done, after, number = pool.snapshot(), counts(pool), len(calls)
    assert number > 0
    for nth in range(1, number + 1):
        pool.restore(kept)
        order = pool.faults.hang("*", nth=nth)
        began = time.monotonic()
        error: DeadlineExceeded | None = None
        try:
            run(volume_ops, SOON)
        except DeadlineExceeded as caught:
            error = caught
        assert time.monotonic() - began < HANGS
        if error is None:
            assert nth == number
            assert counts(pool) == after, nth
            continue
        assert str(error).startswith("the deadline of 0.4 s passed at ")
        if name not in GOES_FORWARD:
            assert changes(before, pool.snapshot()) == [], nth
            continue
        order.release()
        volume_ops.detach_volume(iscsi(0), "web")
        if name == "disconnect":
            volume_ops.disconnect_volume(iscsi(0))
        assert changes(done, pool.snapshot()) == [], nth


@pytest.mark.parametrize("name", ["attach", "connect"])
def test_a_pool_that_answers_slowly(pool: Simulator, volume_ops: VolumeOps, name: str) -> None:
    before = pool.snapshot()
    pool.faults.delay("*", 0.1, every=True)
    with pytest.raises(DeadlineExceeded):
        OPERATIONS[name][1](volume_ops, SOON)
    assert changes(before, pool.snapshot()) == []


def test_another_attempt_that_works_on_the_sr(pool: Simulator, volume_ops: VolumeOps) -> None:
    """xenvol waits for events, and not longer than until the deadline."""
    sr = volume_ops.connect_volume(iscsi(1)).sr_ref
    theirs = "elsewhere 1 host9 2026-01-01T00:00:00+00:00"
    with pool.xapi.lock:
        pool.db.map_add("SR", sr, "other_config", TURN, theirs)
        pool.db.set("SR", sr, current_operations={"OpaqueRef:theirs": "scan"})
    before = pool.snapshot()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        volume_ops.extend_volume(iscsi(1), deadline=SOON)
    assert time.monotonic() - began < HANGS
    assert changes(before, pool.snapshot()) == []


def test_the_deadline_of_the_facade_is_for_each_operation(pool: Simulator, xapi_session: Session) -> None:
    ops = VolumeOps(xapi_session, deadline=HANGS)
    ops.attach_volume(iscsi(0), "web")
    assert len(ops.list_volumes("web")) == 1
    pool.faults.hang("VM.get_all_records_where")
    with pytest.raises(DeadlineExceeded):
        VolumeOps(xapi_session, deadline=SOON).detach_volume(iscsi(0), "web")
    pool.faults.clear()
    assert ops.detach_volume(iscsi(0), "web", deadline=2 * HANGS)


def test_a_deadline_that_has_passed_sends_nothing(pool: Simulator, volume_ops: VolumeOps) -> None:
    before = pool.snapshot()
    with pool.journal.recording() as calls, pytest.raises(DeadlineExceeded) as caught:
        volume_ops.attach_volume(iscsi(0), "web", deadline=1e-9)
    assert "which finds out and completes it" in str(caught.value)
    assert not caught.value.was_sent
    assert isinstance(caught.value, XapiUnreachable)
    assert calls.methods() == []
    assert changes(before, pool.snapshot()) == []


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, True, "5"])
def test_a_deadline_that_is_no_time_is_refused(volume_ops: VolumeOps, seconds: Any) -> None:
    with pytest.raises(InvalidArgument, match="deadline is a number of seconds above 0"):
        volume_ops.list_volumes("web", deadline=seconds)
    with pytest.raises(InvalidArgument, match="deadline is a number of seconds above 0"):
        VolumeOps(volume_ops._session, deadline=seconds)


def test_the_undo_has_a_time_of_its_own(xapi: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment at which the deadline passed; what could not be undone is in a note."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    monkeypatch.setattr(deadline, "UNDO_TIME", 0.2)
    xapi.faults.hang("PBD.plug", every=True)
    xapi.faults.hang("PBD.destroy", every=True)
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            VolumeOps(session).attach_volume(iscsi(0), "web", deadline=3)
        assert time.monotonic() - began < HANGS
        assert any(note.startswith("not undone: ") for note in caught.value.__notes__)
        xapi.faults.clear()
        before = xapi.snapshot()
        VolumeOps(session).attach_volume(iscsi(0), "web")
        VolumeOps(session).detach_volume(iscsi(0), "web")
        assert changes(before, xapi.snapshot())  # what the first attempt left is gone, too
        assert xapi.db.refs("SR") == []


def test_of_several_threads_each_has_its_own(pool: Simulator, xapi_session: Session) -> None:
    """One thread's deadline does not end the calls of another one over the same session."""
    ops = VolumeOps(xapi_session)
    with pytest.raises(DeadlineExceeded):
        ops.list_volumes("web", deadline=1e-9)
    assert ops.list_volumes("web") == []
    assert ops.connect_volume(iscsi(0)).virtual_size == GIB
