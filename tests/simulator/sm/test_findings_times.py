"""docs/background/recordings.md: its seconds, measured on single drivers with a xapi that only adds up their sleeps.

The recording host had a stand-in for the kernel, so only the order of magnitude is tested. A simulator sleeps
these times only if it was started with ``storage_delays``.
"""

from __future__ import annotations

import pytest
from lab import ADDRESS, GIB, TARGET
from memory_port import Bench, fault

from xenvol.simulator.sm.base import Driver, VDISpec
from xenvol.simulator.sm.iscsi import ISCSI
from xenvol.simulator.sm.lvmoiscsi import LVMoISCSI
from xenvol.simulator.sm.world import World

CONFIG = {"target": ADDRESS, "targetIQN": TARGET}


@pytest.fixture
def world() -> World:
    made = World()
    made.san.add_portal(f"{ADDRESS}:3260", TARGET)
    made.san.add_lun(TARGET, 1, GIB, scsi_id="3600a1")
    return made


def plug(bench: Bench) -> float:
    """Return the seconds of PBD.plug: attaching, and the scan that follows."""
    before = bench.port.slept
    bench.driver().attach()
    bench.driver().scan()
    return bench.port.slept - before


def test_a_plug_waits_for_a_login_and_a_scan_and_with_a_session_for_the_scan_alone(world: World) -> None:
    """Traces 20a#44, 20b#7, 20b#73."""
    bench = Bench(world, ISCSI, CONFIG)
    assert 9 < plug(bench) < 12
    assert 4 < plug(bench) < 6


def test_a_scan_takes_as_long_whether_there_are_luns_or_not(world: World) -> None:
    """Traces 20b#11, 20b#81: 4.5 to 7.4 seconds."""
    bench = Bench(world, ISCSI, CONFIG)
    plug(bench)
    for number in (1, None):
        before = bench.port.slept
        bench.driver().scan()
        assert 4 < bench.port.slept - before < 7.5
        if number is not None:
            world.san.remove_lun(TARGET, number)


def test_a_lun_is_introduced_at_once_and_an_absent_one_waited_for_for_a_minute(world: World) -> None:
    """Traces 20b#31, 20b#43."""
    bench = Bench(world, ISCSI, CONFIG)
    plug(bench)
    before = bench.port.slept
    world.san.add_lun(TARGET, 7, GIB)
    bench.driver().vdi_introduce("", VDISpec(0, sm_config={"LUNid": "7"}), "")
    assert bench.port.slept == before
    assert fault(bench.driver().vdi_introduce, "", VDISpec(0, sm_config={"LUNid": "9"}), "") == 46
    assert bench.port.slept - before == 60


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        pytest.param({"target": "10.9.9.9"}, 5, 5, id="no answer"),
        pytest.param({"port": "3999"}, 0, 0, id="the port refuses"),
    ],
)
def test_a_silent_portal_costs_five_seconds_and_one_that_refuses_none(
    world: World, config: dict[str, str], least: float, most: float
) -> None:
    bench = Bench(world, ISCSI, CONFIG | config)
    assert fault(bench.driver().attach) == 141
    assert least <= bench.port.slept <= most


@pytest.mark.parametrize("cls", [ISCSI, LVMoISCSI])
def test_a_scsi_id_that_is_not_there_is_waited_for_for_15_to_26_seconds(
    world: World, cls: type[Driver]
) -> None:
    """Traces 20a#34, 20d#53."""
    bench = Bench(world, cls, CONFIG | {"SCSIid": "3600ff"})
    assert fault(bench.driver().attach) == 107
    assert 15 <= bench.port.slept <= 26


def test_luns_are_waited_for_for_half_a_minute_before_they_are_listed(world: World) -> None:
    """Traces 20a#32, 23#36: 34 to 40 seconds."""
    bench = Bench(world, LVMoISCSI, CONFIG)
    assert fault(bench.driver) == 107
    assert 34 <= bench.port.slept <= 40


def test_luns_of_a_host_that_is_logged_in_are_listed_at_once(world: World) -> None:
    """SM stops waiting when there are as many devices as LUNs. From the source; no trace shows it."""
    plugged = Bench(world, ISCSI, CONFIG)
    plugged.driver().attach()
    bench = Bench(world, LVMoISCSI, CONFIG)
    assert fault(bench.driver) == 107
    assert bench.port.slept == 0
