"""A migration or retype of the service gives the new disk the id of the old volume. The VBD still has the temporary id.

nova then writes the old id into the connection_info, at each place where it stood.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import GIB, SCENARIOS, Scenario, arrange_target, changes, iscsi, scsi_id, touch_hosts
from xenvol.errors import AttachmentFenced, InvalidMountpoint, VolumeInUse
from xenvol.simulator import Simulator
from xenvol.simulator.snapshot import Snapshot
from xenvol.volumeops import VolumeOps

IDS = ("serial", "volume_id")


def called(info: dict[str, Any], name: str, **more: Any) -> dict[str, Any]:
    """Return the connection_info with this id, as nova writes it."""
    data = {**info["data"], "volume_id": name}
    return {**info, **dict.fromkeys(IDS, name), "data": data, **more}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    return xapi


@pytest.fixture
def before(xapi: Simulator, scenario: Scenario, power_state: str) -> Snapshot:
    """The pool with a volume's storage and a VM without it."""
    scenario.arrange(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web", power_state=power_state)
    return xapi.snapshot()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
@pytest.mark.parametrize("power_state", ["Running", "Halted"])
class TestAnyVolume:
    def test_is_detached(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, before: Snapshot
    ) -> None:
        volume_ops.attach_volume(called(scenario.connection_info, "temporary"), "web", "xvdb")
        volume_ops.detach_volume(called(scenario.connection_info, "renamed"), "web", "xvdb")
        assert changes(before, xapi.snapshot()) == []

    def test_is_detached_by_the_attachment_that_it_has_and_by_no_older_one(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, before: Snapshot
    ) -> None:
        volume_ops.attach_volume(
            called(scenario.connection_info, "temporary", attachment_id="now"), "web", "xvdb"
        )
        with pytest.raises(AttachmentFenced):
            volume_ops.detach_volume(
                called(scenario.connection_info, "renamed", attachment_id="before"), "web"
            )
        volume_ops.detach_volume(called(scenario.connection_info, "renamed", attachment_id="now"), "web")
        assert changes(before, xapi.snapshot()) == []

    def test_is_attached_as_it_is_and_has_its_new_id_from_then_on(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, before: Snapshot
    ) -> None:
        info = {**scenario.connection_info, "attachment_id": "one"}
        first = volume_ops.attach_volume(called(info, "temporary"), "web", "xvdb")
        again = volume_ops.attach_volume(called(info, "renamed"), "web", "xvdb")
        assert (again.vbd_ref, again.volume_id, again.attachment_id) == (first.vbd_ref, "renamed", "one")
        assert volume_ops.list_volumes("web") == [again]
        volume_ops.detach_volume(called(info, "renamed"), "web", "xvdb")
        assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_is_extended(xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario) -> None:
    """In a halted VM: xapi sees the new size of a LUN only while no disk of its target is plugged."""
    scenario.arrange(xapi)
    xapi.add_vm("web", power_state="Halted")
    volume_ops.attach_volume(called(scenario.connection_info, "temporary"), "web")
    scenario.grow(xapi)
    assert volume_ops.extend_volume(called(scenario.connection_info, "renamed")) == 2 * GIB
    assert volume_ops.list_volumes("web")[0].virtual_size == 2 * GIB


class TestAttaching:
    def test_takes_a_proved_disk_over_with_a_new_attachment(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """As the destination of a live migration does."""
        proved = iscsi(0, scsi_id=scsi_id(0))
        first = volume_ops.attach_volume(called(proved, "temporary", attachment_id="source"), "web")
        again = volume_ops.attach_volume(called(proved, "renamed", attachment_id="destination"), "web")
        assert (again.vbd_ref, again.volume_id, again.attachment_id) == (
            first.vbd_ref,
            "renamed",
            "destination",
        )
        volume_ops.detach_volume(called(proved, "renamed", attachment_id="destination"), "web")
        assert target.db.refs("VBD") == []

    def test_refuses_a_disk_that_neither_the_data_nor_the_attachment_proves(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """A mapping that is out of date says the same, and the new volume would be the old one's disk."""
        volume_ops.attach_volume(called(iscsi(0), "one", attachment_id="1"), "web")
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="as volume one"):
            volume_ops.attach_volume(called(iscsi(0), "another", attachment_id="2"), "web")
        assert changes(before, target.snapshot()) == []

    def test_finds_the_disk_at_another_position_and_says_where(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        info = iscsi(0, scsi_id=scsi_id(0))
        volume_ops.attach_volume(called(info, "temporary"), "web", "xvdc")
        before = target.snapshot()
        with pytest.raises(InvalidMountpoint, match="xvdc"):
            volume_ops.attach_volume(called(info, "renamed"), "web", "xvdb")
        assert changes(before, target.snapshot()) == []

    def test_that_fails_leaves_the_temporary_id(self, target: Simulator, volume_ops: VolumeOps) -> None:
        info = iscsi(0, scsi_id=scsi_id(0))
        volume_ops.attach_volume(called(info, "temporary"), "web")
        before = target.snapshot()
        target.faults.refuse("event.from", "SR_BACKEND_FAILURE_1200", "", "ordered", "", nth=3)
        with pytest.raises(Exception, match="ordered"):
            volume_ops.attach_volume(called(info, "renamed"), "web")
        assert changes(before, target.snapshot()) == []


@pytest.mark.parametrize("order", ["new first", "old first"])
def test_migrations_follow_each_other(target: Simulator, volume_ops: VolumeOps, order: str) -> None:
    """Each swaps the disk of the volume for that of a temporary one, which then gets the volume's id."""
    before = target.snapshot()
    old = called(iscsi(0), "volume")
    volume_ops.attach_volume(old, "web", "xvdb")
    for number in (1, 2):
        new = called(iscsi(number), f"temporary-{number}")
        position = None if order == "new first" else "xvdb"
        steps = [
            lambda new=new, position=position: volume_ops.attach_volume(new, "web", position),
            lambda old=old: volume_ops.detach_volume(old, "web"),
        ]
        for step in steps if order == "new first" else reversed(steps):
            step()
        (left,) = volume_ops.list_volumes("web")
        assert target.db.get("VDI", left.vdi_ref, "sm_config")["LUNid"] == str(number)
        old = called(new, "volume")
    volume_ops.detach_volume(old, "web")
    assert changes(before, target.snapshot()) == []
