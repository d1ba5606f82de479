"""Concurrent attempts on one SR take turns, so that xapi lets no call of xenvol wait.

v24.16.0 sleeps 1 to 20 seconds where calls conflict (docs/background/recordings.md, finding 1 (xapi)). With
``storage_delays`` the simulator does the same, so a test in which a call waits takes as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import xenvol
from tests.meanwhile import another_process, interrupted
from tests.pairs import DRIVERS, Driver
from tests.scenarios import GIB, arrange_target, changes, iscsi, touch_hosts
from tests.test_concurrency import at_once
from xenvol.errors import VolumeInUse, XapiError, XenVolError
from xenvol.pool import waiting
from xenvol.pool.marks import JOINED, LEFT, TURN
from xenvol.session import CallRecord, Session
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
    with waiting.grace(60):  # on a busy machine a live attempt may pause
        at_once(*(lambda n=n: ops[n].attach_volume(iscsi(n), f"vm{n}") for n in range(count)))
        assert xapi.db.count("SR") == 1
        assert all(xapi.db.get("VBD", vbd, "currently_attached") for vbd in xapi.db.refs("VBD"))
        at_once(*(lambda n=n: ops[n].detach_volume(iscsi(n), f"vm{n}") for n in range(count)))
    assert changes(before, xapi.snapshot()) == []
    assert xapi.journal.waits() == []


@pytest.mark.usefixtures("impatient")
def test_the_turn_of_a_dead_attempt_delays_no_other(xapi: Simulator, volume_ops: VolumeOps) -> None:
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
def test_a_detach_of_all_sees_who_has_come_while_the_guest_took_its_time(
    xapi: Simulator, sessions: Callable[[int], list[VolumeOps]]
) -> None:
    arrange(xapi, 2)
    (attaching,) = sessions(1)
    attach = threading.Thread(target=attaching.attach_volume, args=(iscsi(1), "vm1"))

    def come() -> None:
        attach.start()
        wait_until(lambda: is_busy_with(xapi, "plug"))

    with interrupted(xapi, "VBD.unplug", come) as detaching, waiting.grace(60):
        detaching.attach_volume(iscsi(0), "vm0")
        xapi.faults.delay("PBD.plug", 0.3, inside=True)
        detaching.detach_all("vm0")
        attach.join(60)
    (vbd,) = xapi.db.refs("VBD")
    assert xapi.db.get("VBD", vbd, "currently_attached")
    assert xapi.journal.waits() == []


@pytest.mark.xapi(hosts=2)
@pytest.mark.usefixtures("impatient")
def test_an_attempt_that_was_overtaken_leaves_the_turn_of_its_successor_alone(
    xapi: Simulator, sessions: Callable[[int], list[VolumeOps]]
) -> None:
    nfs = next(driver for driver in DRIVERS if str(driver) == "nfs")
    nfs.arrange(xapi)
    xapi.add_vm("far", resident_on=xapi.db.refs("host")[1])
    (attaching,) = sessions(1)
    attach = threading.Thread(target=attaching.attach_volume, args=(nfs.neighbour, "far"))
    xapi.faults.delay("PBD.plug", 1, inside=True, nth=2)

    def overtake() -> None:
        attach.start()
        wait_until(lambda: is_busy_with(xapi, "plug"))

    with interrupted(xapi, "SR.scan", overtake) as extending:
        sr = extending.connect_volume(nfs.volume, hosts=[xapi.db.refs("host")[0]]).sr_ref
        extending.extend_volume(nfs.volume)
        assert is_busy_with(xapi, "plug")
        assert TURN in xapi.db.get("SR", sr, "other_config")
    attach.join(60)
    assert xapi.db.count("VBD") == 1
    assert TURN not in xapi.db.get("SR", sr, "other_config")
    assert xapi.journal.waits() == []


@pytest.mark.xapi(hosts=2)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("does", ["attach", "detach", "extend", "connect"])
@pytest.mark.parametrize("nth", range(1, 4))
def test_an_attempt_that_pauses_in_its_turn_ends_well_although_it_is_overtaken(
    xapi: Simulator, volume_ops: VolumeOps, does: str, nth: int
) -> None:
    """Without the turn, xapi keeps the calls apart: the attempt succeeds, or its error says that it was overtaken."""
    arrange(xapi, 3)
    before = xapi.snapshot()
    volume_ops.connect_volume(iscsi(0), hosts=[xapi.db.refs("host")[0]])  # on vm0's host, and not on vm1's
    if does == "detach":
        volume_ops.attach_volume(iscsi(1), "vm1")
        volume_ops.disconnect_volume(iscsi(0))
    has_paused = []

    def seen(record: CallRecord) -> None:
        if record.call == "SR.add_to_other_config" or has_paused:
            has_paused.append(record.call)
            if len(has_paused) == nth:
                volume_ops.attach_volume(iscsi(2), "vm2" if does == "extend" else "vm1")
                if does != "attach":
                    volume_ops.detach_volume(iscsi(2), "vm2" if does == "extend" else "vm1")

    with xenvol.connect(xapi.url, xapi.user, xapi.password, on_call=seen) as session:
        ops = VolumeOps(session)
        operations: dict[str, Callable[[], object]] = {
            "attach": lambda: ops.attach_volume(iscsi(1), "vm1"),
            "detach": lambda: ops.detach_volume(iscsi(1), "vm1"),
            "extend": lambda: ops.extend_volume(iscsi(0)),
            "connect": lambda: ops.connect_volume(iscsi(1)),
        }
        errors: list[XenVolError] = []
        try:
            operations[does]()
        except XenVolError as error:
            errors.append(error)
        assert all(error.is_transient for error in errors), errors
        if errors:
            operations[does]()
    assert len(has_paused) >= nth
    for sr in xapi.db.refs("SR"):
        assert TURN not in xapi.db.get("SR", sr, "other_config")
    for number in range(3):
        volume_ops.detach_volume(iscsi(number), f"vm{number}")
        volume_ops.detach_volume(iscsi(number), "vm1")
        volume_ops.disconnect_volume(iscsi(number))
    assert changes(before, xapi.snapshot()) == []


def test_a_turn_mark_that_could_not_be_removed_delays_no_attempt_of_its_process(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    nfs = next(driver for driver in DRIVERS if str(driver) == "nfs")
    nfs.arrange(xapi)
    sr = volume_ops.connect_volume(nfs.volume).sr_ref
    xapi.faults.refuse("SR.remove_from_other_config", "INTERNAL_ERROR", "ordered")
    with pytest.raises(XapiError, match="ordered"):
        volume_ops.extend_volume(nfs.volume)
    assert TURN in xapi.db.get("SR", sr, "other_config")
    began = time.monotonic()
    with waiting.grace(40):
        volume_ops.extend_volume(nfs.volume)
    assert time.monotonic() - began < 40
    assert TURN not in xapi.db.get("SR", sr, "other_config")


@pytest.mark.parametrize("refused", ["SR.remove_from_other_config", "SR.get_other_config"])
def test_an_extend_that_may_not_give_its_turn_back_ends_with_the_refusal_and_the_pool_as_before(
    xapi: Simulator, volume_ops: VolumeOps, refused: str
) -> None:
    """The undo takes the turn once more, over the mark that the extend could not remove."""
    arrange(xapi, 1)
    volume_ops.connect_volume(iscsi(0))
    before = xapi.snapshot()
    xapi.faults.refuse(refused, "RBAC_PERMISSION_DENIED", refused, "ordered")
    with pytest.raises(XapiError, match="RBAC_PERMISSION_DENIED"):
        volume_ops.extend_volume(iscsi(0))
    assert changes(before, xapi.snapshot()) == []
    assert volume_ops.extend_volume(iscsi(0)) == GIB


@pytest.mark.xapi(hosts=2)
def test_a_long_operation_on_a_disk_holds_an_unplug_up_and_nothing_else(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """xapi copies another disk of the SR for hours."""
    arrange(xapi, 3)
    before = xapi.snapshot()
    volume_ops.attach_volume(iscsi(0), "vm0")
    copied = next(ref for ref in xapi.db.refs("VDI") if not xapi.db.get("VDI", ref, "VBDs"))
    with xapi.xapi.lock:
        xapi.db.set("VDI", copied, current_operations={"OpaqueRef:theirs": "copy"})
    began = time.monotonic()
    with waiting.grace(40):
        volume_ops.attach_volume(iscsi(1), "vm1")  # on the other host, which has no PBD yet
        assert time.monotonic() - began < 40
        volume_ops.detach_volume(iscsi(0), "vm0")
        detach = threading.Thread(target=volume_ops.detach_volume, args=(iscsi(1), "vm1"))
        with xapi.journal.recording() as calls:
            detach.start()
            wait_until(lambda: bool(calls.waits(EVENT)))
            assert "PBD.unplug" not in calls.methods()
            with xapi.xapi.lock:
                xapi.db.set("VDI", copied, current_operations={})
            detach.join(60)
    assert changes(before, xapi.snapshot()) == []
    assert xapi.journal.waits() == []


@pytest.mark.xapi(hosts=2)
def test_an_operators_scan_is_waited_for_with_events(xapi: Simulator, volume_ops: VolumeOps) -> None:
    """The attach on the second host needs a PBD, which xapi would create only after the scan."""
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
    reads = calls.methods().count("VDI.get_all_records_where")
    assert reads == 2  # before the turn, and after the unplug; the turn itself reads the disks
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


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)


def is_busy_with(xapi: Simulator, operation: str) -> bool:
    return any(operation in xapi.db.get("SR", sr, "current_operations").values() for sr in xapi.db.refs("SR"))


@pytest.mark.xapi(hosts=2)
class TestAnExtend:
    """An extend and an attach of another LUN both take a turn, so neither waits inside xapi."""

    @pytest.mark.parametrize("driver", [d for d in DRIVERS if "lvm" not in str(d)], ids=str)
    def test_beside_the_attach_of_a_neighbour_on_another_host_waits_with_events(
        self, xapi: Simulator, sessions: Callable[[int], list[VolumeOps]], driver: Driver
    ) -> None:
        driver.arrange(xapi)
        other_host = xapi.db.refs("host")[1]
        xapi.add_vm("web", resident_on=other_host)
        extending, attaching = sessions(2)
        volume = extending.connect_volume(driver.volume, hosts=[xapi.db.refs("host")[0]])
        driver.scenario.grow(xapi)
        for call in ("PBD.plug", "PBD.unplug", "SR.scan"):
            xapi.faults.delay(call, 0.1, inside=True, every=True)
        attach = threading.Thread(target=attaching.attach_volume, args=(driver.neighbour, "web"))
        with waiting.grace(60):
            attach.start()
            wait_until(lambda: is_busy_with(xapi, "plug"))
            if "iscsi" in str(driver):  # a LUN's new size is seen while no disk of its target is plugged
                with pytest.raises(VolumeInUse, match="web"):
                    extending.extend_volume(driver.volume)
            else:
                assert extending.extend_volume(driver.volume) == 2 * GIB
            attach.join(60)
        (vbd,) = xapi.db.refs("VBD")
        assert xapi.db.get("VBD", vbd, "currently_attached")
        assert TURN not in xapi.db.get("SR", volume.sr_ref, "other_config")
        assert xapi.journal.waits() == []

    @pytest.mark.parametrize("driver", [d for d in DRIVERS if "lvm" not in str(d)], ids=str)
    def test_is_waited_for_by_the_attach_of_a_neighbour_on_another_host(
        self, xapi: Simulator, sessions: Callable[[int], list[VolumeOps]], driver: Driver
    ) -> None:
        driver.arrange(xapi)
        xapi.add_vm("web", resident_on=xapi.db.refs("host")[1])
        extending, attaching = sessions(2)
        extending.connect_volume(driver.volume, hosts=[xapi.db.refs("host")[0]])
        driver.scenario.grow(xapi)
        for call in ("PBD.plug", "PBD.unplug", "SR.scan"):
            xapi.faults.delay(call, 0.1, inside=True, every=True)
        extend = threading.Thread(target=extending.extend_volume, args=(driver.volume,))
        with waiting.grace(60):
            extend.start()
            wait_until(lambda: is_busy_with(xapi, "scan") or is_busy_with(xapi, "unplug"))
            attached = attaching.attach_volume(driver.neighbour, "web")
            extend.join(60)
        assert xapi.db.get("VBD", attached.vbd_ref, "currently_attached")
        assert xapi.journal.waits() == []

    @pytest.mark.parametrize("driver", [d for d in DRIVERS if "lvm" not in str(d)], ids=str)
    def test_that_fails_leaves_no_turn_and_all_plugged(
        self, xapi: Simulator, volume_ops: VolumeOps, driver: Driver
    ) -> None:
        driver.arrange(xapi)
        volume = volume_ops.connect_volume(driver.volume)
        before = xapi.snapshot()
        for call in ("SR.scan", "PBD.unplug"):
            xapi.faults.refuse(call, "SR_BACKEND_FAILURE_40", "", "ordered", "", nth=1)
        with pytest.raises(XapiError, match="ordered"):
            volume_ops.extend_volume(driver.volume)
        assert changes(before, xapi.snapshot()) == []
        assert TURN not in xapi.db.get("SR", volume.sr_ref, "other_config")
