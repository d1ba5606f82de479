"""How long things take on an iSCSI target, and what a thousand LUNs cost."""

import threading
import time

import pytest
from lab import ADDRESS, GIB, OTHER, OTHER_ADDRESS, TARGET, lab, refusal


def test_nothing_takes_time_unless_the_simulator_is_told_to_take_it() -> None:
    with lab() as iscsi:
        start = time.monotonic()
        _, pbd = iscsi.introduce({"target": "10.9.9.9", "targetIQN": TARGET})
        assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_141"
        sr, _ = iscsi.plug()
        iscsi.x.SR.scan(sr)
        assert time.monotonic() - start < 2


def test_a_thousand_luns_are_brought_in_at_once() -> None:
    with lab() as iscsi:
        for number in range(10, 1010):
            iscsi.san.add_lun(TARGET, number, GIB)
        start = time.monotonic()
        sr, _ = iscsi.plug()
        iscsi.x.SR.scan(sr)
        assert len(iscsi.x.SR.get_VDIs(sr)) == 1003
        assert time.monotonic() - start < 5


@pytest.mark.slow
def test_with_delays_a_login_and_a_scan_take_what_they_took_and_nobody_else_waits() -> None:
    with lab(storage_delays=True) as iscsi:
        took = {}

        def plug() -> None:
            start = time.monotonic()
            iscsi.simulator.add_sr(type="iscsi", device_config={"target": ADDRESS, "targetIQN": TARGET})
            took["plug"] = time.monotonic() - start

        other = threading.Thread(target=plug)
        other.start()
        time.sleep(0.5)
        start = time.monotonic()
        assert iscsi.x.SR.get_all()
        assert time.monotonic() - start < 0.5
        other.join()
        assert 9 < took["plug"] < 12
        (sr,) = iscsi.x.SR.get_all()
        (pbd,) = iscsi.x.SR.get_PBDs(sr)
        start = time.monotonic()
        iscsi.x.PBD.unplug(pbd)
        assert time.monotonic() - start < 0.5


@pytest.mark.slow
def test_with_delays_a_silent_portal_is_given_up_after_five_seconds_and_a_refusing_one_at_once() -> None:
    with lab(storage_delays=True) as iscsi:
        iscsi.san.unreachable(f"{OTHER_ADDRESS}:3260")
        took = []
        for config in (
            {"target": OTHER_ADDRESS, "targetIQN": OTHER},
            {"target": ADDRESS, "port": "3999", "targetIQN": TARGET},
        ):
            _, pbd = iscsi.introduce(config)
            start = time.monotonic()
            assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_141"
            took.append(time.monotonic() - start)
        assert 4.5 < took[0] < 6
        assert took[1] < 0.5
