"""A host dies with a VM on it. The VM starts on another host, and its volumes follow: what an evacuation does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xenvol
from tests.scenarios import SCENARIOS, Scenario, changes, touch_hosts
from xenvol.errors import HostNotReady, VolumeInUse
from xenvol.simulator import Simulator
from xenvol.simulator.rules import gc
from xenvol.simulator.snapshot import Snapshot
from xenvol.volumeops import VolumeOps


@pytest.fixture
def pool() -> Iterator[tuple[Simulator, VolumeOps]]:
    with Simulator(hosts=3) as xapi, xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        yield xapi, VolumeOps(session)


def differences(before: Snapshot, xapi: Simulator) -> list[str]:
    """What is left in the pool; the VM has been started and moved."""
    lines = changes(before, xapi.snapshot())
    return [line for line in lines if not line.startswith(("VM ", "VM_", "host "))]


@pytest.mark.parametrize("is_noticed", [False, True], ids=["at-once", "after-ten-minutes"])
@pytest.mark.parametrize("way", ["declare_dead", "power_state_reset"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_vm_starts_elsewhere_with_its_volumes(
    pool: tuple[Simulator, VolumeOps], scenario: Scenario, way: str, is_noticed: bool
) -> None:
    """Until the VM is reset, its disk is in use; the host may still run."""
    xapi, ops = pool
    scenario.arrange(xapi)
    touch_hosts(xapi)
    _, lost, refuge = xapi.db.refs("host")
    vm = xapi.add_vm("web", resident_on=lost)
    before = xapi.snapshot()
    ops.attach_volume(scenario.connection_info, "web", "xvdb")
    xapi.faults.die(host=lost)
    if is_noticed:
        start, xapi.xapi.clock = xapi.xapi.clock(), lambda: start + 601
        gc.collect(xapi.xapi)
    xapi.add_vm("thief", resident_on=refuge)
    attached = xapi.snapshot()
    with pytest.raises(VolumeInUse, match="web"):
        ops.attach_volume(scenario.connection_info, "thief")
    with pytest.raises(HostNotReady, match="power_state_reset"):
        ops.detach_volume(scenario.connection_info, "web")
    ops.detach_volume(scenario.connection_info, "web", host=refuge)
    assert changes(attached, xapi.snapshot()) == []

    if way == "declare_dead":
        ops._session.call("host.declare_dead", lost)
    else:
        ops._session.call("VM.power_state_reset", vm)
    ops.attach_volume(scenario.connection_info, "web", "xvdb")
    ops._session.call("VM.start_on", vm, refuge, False, False)
    (volume,) = ops.list_volumes("web")
    assert (volume.is_plugged, volume.userdevice) == (True, "1")

    xapi.faults.come_back(lost)
    ops.detach_volume(scenario.connection_info, "web", host=lost)
    assert ops.list_volumes("web") == [volume]
    ops.detach_volume(scenario.connection_info, "web", host=refuge)
    assert differences(before, xapi) == []
