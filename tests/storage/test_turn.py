"""No call of ours makes a real pool wait: attempts that change one SR at once take turns, and see each other.

v24.16.0 sleeps 1 to 20 seconds where calls conflict (docs/background/recordings.md, finding 1 (xapi)), and so does the
simulator with ``storage_delays``: a test here that let one wait would take as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

import xenvol
from tests.meanwhile import another_process, interrupted
from tests.scenarios import arrange_target, changes, iscsi, touch_hosts
from tests.test_concurrency import at_once
from xenvol.pool import waiting
from xenvol.pool.marks import JOINED, LEFT, TURN
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.waits import EVENT
from xenvol.volumeops import VolumeOps

SLOW = 0.01
"""Of the time that real storage takes: a PBD.plug takes a tenth of a second."""


@pytest.fixture
def sessions(xapi: Simulator) -> Iterator[Callable[[int], list[VolumeOps]]]:
    opened: list[Session] = []

    def open_some(count: int) -> list[VolumeOps]:
        opened.extend(xenvol.connect(xapi.url, xapi.user, xapi.password) for _ in range(count))
        return [VolumeOps(session) for session in opened[-count:]]

    yield open_some
    for session in opened:
        session.close()


def arrange(xapi: Simulator, count: int) -> None:
    arrange_target(xapi, luns=count)
    touch_hosts(xapi)
    hosts = xapi.db.refs("host")
    for number in range(count):
        xapi.add_vm(f"vm{number}", resident_on=hosts[number % len(hosts)])


@pytest.mark.parametrize("count", [2, 8, 16])
@pytest.mark.parametrize(
    "hosts",
    [
        pytest.param(n, marks=pytest.mark.xapi(hosts=n, version="24.16.0", storage_delays=SLOW))
        for n in (1, 2)
    ],
)
def test_first_attaches_of_many_luns_and_their_detaches_all_succeed_and_none_makes_the_pool_wait(
    xapi: Simulator, sessions: Callable[[int], list[VolumeOps]], hosts: int, count: int
) -> None:
    arrange(xapi, count)
    before = xapi.snapshot()
    for call in ("PBD.plug", "PBD.unplug"):
        xapi.faults.delay(call, 0.05, inside=True, every=True)
    ops = sessions(count)
    with waiting.grace(60):  # on a busy machine a living attempt may pause
        at_once(*(lambda n=n: ops[n].attach_volume(iscsi(n), f"vm{n}") for n in range(count)))
        assert xapi.db.count("SR") == 1
        assert all(xapi.db.get("VBD", vbd, "currently_attached") for vbd in xapi.db.refs("VBD"))
        at_once(*(lambda n=n: ops[n].detach_volume(iscsi(n), f"vm{n}") for n in range(count)))
    assert changes(before, xapi.snapshot()) == []
    assert xapi.journal.waits() == []


@pytest.mark.usefixtures("impatient")
def test_the_turn_of_an_attempt_that_died_holds_nobody_up(xapi: Simulator, volume_ops: VolumeOps) -> None:
    arrange(xapi, 2)
    before = xapi.snapshot()
    sr = volume_ops.attach_volume(iscsi(0), "vm0").sr_ref
    volume_ops._session.call(
        "SR.add_to_other_config", sr, TURN, "elsewhere 1 host9 2026-01-01T00:00:00+00:00"
    )
    volume_ops.detach_volume(iscsi(0), "vm0")
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.xapi(hosts=2)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("after", ["SR.introduce", "PBD.create", "PBD.plug", "VBD.create"])
@pytest.mark.parametrize("host", [0, 1])
def test_an_attempt_that_pauses_is_overtaken_and_both_succeed(xapi: Simulator, host: int, after: str) -> None:
    arrange(xapi, 2)
    before = xapi.snapshot()
    with another_process(xapi) as other:

        def overtake() -> None:
            other.attach_volume(iscsi(1 - host), f"vm{1 - host}")

        with interrupted(xapi, after, overtake) as ops:
            ops.attach_volume(iscsi(host), f"vm{host}")
        assert [xapi.db.get("VBD", vbd, "currently_attached") for vbd in xapi.db.refs("VBD")] == [True] * 2
        for number in (0, 1):
            other.detach_volume(iscsi(number), f"vm{number}")
    assert changes(before, xapi.snapshot()) == []
    assert xapi.journal.waits() == []


@pytest.mark.xapi(hosts=2)
def test_an_operators_scan_is_waited_for_with_events(xapi: Simulator, volume_ops: VolumeOps) -> None:
    """The attach on the second host needs a PBD, which xapi would make only after the scan."""
    arrange(xapi, 2)
    sr = volume_ops.attach_volume(iscsi(0), "vm0").sr_ref
    with xapi.xapi.lock:
        xapi.db.set("SR", sr, current_operations={"OpaqueRef:theirs": "scan"})
    attach = threading.Thread(target=volume_ops.attach_volume, args=(iscsi(1), "vm1"))
    attach.start()
    while not xapi.journal.waits(EVENT):
        attach.join(0.01)
    assert xapi.db.count("PBD") == 1
    with xapi.xapi.lock:
        xapi.db.set("SR", sr, current_operations={})
    attach.join(60)
    assert xapi.db.count("PBD") == 2
    assert xapi.journal.waits() == []


def test_the_disk_that_came_first_says_when_it_leaves_and_nothing_stays(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    arrange(xapi, 2)
    before = xapi.snapshot()
    first = volume_ops.attach_volume(iscsi(0), "vm0")
    later = volume_ops.attach_volume(iscsi(1), "vm1")
    marks = [xapi.db.get("VBD", ref, "other_config") for ref in (first.vbd_ref, later.vbd_ref)]
    assert [JOINED in mark for mark in marks] == [False, True]
    volume_ops.detach_volume(iscsi(0), "vm0")
    assert LEFT in xapi.db.get("SR", later.sr_ref, "other_config")
    with xapi.journal.recording() as calls:
        volume_ops.detach_volume(iscsi(1), "vm1")
    assert calls.waits(EVENT) == []
    assert changes(before, xapi.snapshot()) == []


def test_a_volume_that_is_connected_and_disconnected_leaves_its_neighbours_sr_without_a_mark(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    arrange(xapi, 2)
    volume_ops.attach_volume(iscsi(0), "vm0")
    before = xapi.snapshot()
    volume = volume_ops.connect_volume(iscsi(1))
    assert JOINED in xapi.db.get("VDI", volume.vdi_ref, "other_config")
    volume_ops.disconnect_volume(iscsi(1))
    assert not [line for line in changes(before, xapi.snapshot()) if "xenvol:" in line]
