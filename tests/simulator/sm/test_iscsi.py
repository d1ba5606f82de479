"""The times of operations on an iSCSI target, and the cost of a thousand LUNs.

The tests add up the simulator's sleeps. A clock would also count what other processes do on a busy machine.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import ADDRESS, GIB, OTHER, OTHER_ADDRESS, TARGET, Lab, lab, refusal


@contextmanager
def sleeps(iscsi: Lab) -> Iterator[list[float]]:
    """The seconds of each sleep of the simulator in this block."""
    xapi, slept = iscsi.simulator.xapi, list[float]()
    sleep = xapi.sleep

    def note(seconds: float) -> None:
        slept.append(seconds)
        sleep(seconds)

    xapi.sleep = note  # type: ignore[method-assign]  # stands in for the sleep of the pool
    try:
        yield slept
    finally:
        xapi.sleep = sleep  # type: ignore[method-assign]  # stands in for the sleep of the pool


def test_nothing_takes_time_unless_the_simulator_is_told_to_take_it() -> None:
    with lab() as iscsi, sleeps(iscsi) as slept:
        _, pbd = iscsi.introduce({"target": "10.9.9.9", "targetIQN": TARGET})
        assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_141"
        sr, _ = iscsi.plug()
        iscsi.x.SR.scan(sr)
        assert slept == []


def test_a_thousand_luns_are_brought_in_at_once() -> None:
    with lab() as iscsi:
        for number in range(10, 1010):
            iscsi.san.add_lun(TARGET, number, GIB)
        start = time.process_time()
        sr, _ = iscsi.plug()
        iscsi.x.SR.scan(sr)
        assert len(iscsi.x.SR.get_VDIs(sr)) == 1003
        assert time.process_time() - start < 5


@pytest.mark.slow
def test_with_delays_a_login_and_a_scan_take_what_they_took_and_no_other_call_waits() -> None:
    with lab(storage_delays=True) as iscsi, sleeps(iscsi) as slept:
        start = time.monotonic()

        def plug() -> None:
            iscsi.simulator.add_sr(type="iscsi", device_config={"target": ADDRESS, "targetIQN": TARGET})

        other = threading.Thread(target=plug)
        other.start()
        while not slept:
            time.sleep(0.01)
        assert iscsi.x.SR.get_all()
        assert other.is_alive()
        other.join()
        assert time.monotonic() - start > 9
        assert 9 < sum(slept) < 12
        (sr,) = iscsi.x.SR.get_all()
        (pbd,) = iscsi.x.SR.get_PBDs(sr)
        slept.clear()
        iscsi.x.PBD.unplug(pbd)
        assert sum(slept) < 0.5


@pytest.mark.slow
def test_with_delays_a_silent_portal_is_given_up_after_five_seconds_and_a_refusing_one_at_once() -> None:
    with lab(storage_delays=True) as iscsi, sleeps(iscsi) as slept:
        iscsi.san.unreachable(f"{OTHER_ADDRESS}:3260")
        took = []
        for config in (
            {"target": OTHER_ADDRESS, "targetIQN": OTHER},
            {"target": ADDRESS, "port": "3999", "targetIQN": TARGET},
        ):
            _, pbd = iscsi.introduce(config)
            slept.clear()
            assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_141"
            took.append(sum(slept))
        assert 4.5 < took[0] < 6
        assert took[1] < 0.5
