"""Plugging and destroying a VBD while another process does the same, or the opposite."""

from __future__ import annotations

import pytest

from tests.meanwhile import another_process, interrupted
from tests.scenarios import arrange_target, iscsi, touch_hosts
from xenvol.errors import XenVolError
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    return xapi


def test_a_disk_that_another_process_plugs_meanwhile_is_plugged(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    attachment = volume_ops.attach_volume(iscsi(0), "web", hotplug=False)

    def plug() -> None:
        volume_ops._session.call("VBD.plug", attachment.vbd_ref)

    with interrupted(target, "VBD.get_all_records_where", plug) as ops:
        assert ops.attach_volume(iscsi(0), "web") == volume_ops.attach_volume(iscsi(0), "web")
    assert target.db.refs("VBD") == [attachment.vbd_ref]


def test_a_disk_that_another_process_unplugs_meanwhile_is_detached(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    attachment = volume_ops.attach_volume(iscsi(0), "web")

    def unplug() -> None:
        volume_ops._session.call("VBD.unplug", attachment.vbd_ref)

    with interrupted(target, "VBD.get_all_records_where", unplug) as ops:
        ops.detach_volume(iscsi(0), "web")
    assert not target.db.refs("VBD")
    assert not target.db.refs("SR")


def test_a_vbd_of_another_process_at_the_position_is_not_adopted_when_a_request_is_lost(
    target: Simulator, volume_ops: VolumeOps
) -> None:
    others = []

    def attach_another() -> None:
        with another_process(target) as ops:
            others.append(ops.attach_volume(iscsi(1), "web", "xvdb"))
        target.faults.lose_request("VBD.create")

    with (
        interrupted(target, "VDI.get_all_records_where", attach_another) as ops,
        pytest.raises(XenVolError),
    ):
        ops.attach_volume(iscsi(0), "web", "xvdb")
    assert target.db.refs("VBD") == [others[0].vbd_ref]
    assert target.db.get("VBD", others[0].vbd_ref, "currently_attached")
