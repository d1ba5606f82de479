"""A disk that is a LUN: brought in by its number, and put back as it was when the attach fails."""

from __future__ import annotations

import pytest

from tests.scenarios import GIB, IQN, arrange_target, changes, iscsi, scsi_id, touch_hosts
from xenvol.errors import VolumeNotFound, XapiError
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """A target that the pool holds already, since another VM has its LUN 0."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    xapi.add_vm("db")
    return xapi


def vdi_of(xapi: Simulator, lun: int) -> str:
    (vdi,) = [ref for ref in xapi.db.refs("VDI") if xapi.db.get("VDI", ref, "sm_config")["LUNid"] == str(lun)]
    return vdi


class TestAnAttachThatFails:
    def test_leaves_no_record_of_a_lun_that_it_brought_in(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        before = target.snapshot()
        target.faults.refuse("VBD.create", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError, match="ordered"):
            volume_ops.attach_volume(iscsi(9), "web")
        # the host has seen it, and goes on seeing it as long as it is logged in
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []

    def test_leaves_no_disk_sharable_that_it_made_so(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        target.faults.refuse("VBD.create", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError, match="ordered"):
            volume_ops.attach_volume({**iscsi(1), "multiattach": True}, "web")
        assert not target.db.get("VDI", vdi_of(target, 1), "sharable")


class TestALunThatIsNotThere:
    def test_is_not_waited_for_where_the_target_has_just_been_listed(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """To ask for an absent LUN by its number takes a minute."""
        with target.journal.recording() as calls, pytest.raises(VolumeNotFound, match="LUN 8"):
            volume_ops.attach_volume(iscsi(8), "web")
        assert "VDI.introduce" not in calls.methods()

    def test_is_looked_for_where_the_target_was_listed_before(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        before = target.snapshot()
        with pytest.raises(VolumeNotFound, match="LUN 8"):
            volume_ops.attach_volume(iscsi(8), "web")
        assert changes(before, target.snapshot()) == []

    def test_is_another_thing_than_an_error_of_xapi(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        target.faults.refuse("VDI.introduce", "INTERNAL_ERROR", "Stack overflow")
        with pytest.raises(XapiError, match="Stack overflow"):
            volume_ops.attach_volume(iscsi(9), "web")


def test_the_record_of_a_lun_in_somebody_elses_sr_stays(target: Simulator, volume_ops: VolumeOps) -> None:
    """Its name and all else that somebody noted there would be lost."""
    target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
    target.add_vbd(target.db.by_name("VM", "db")[0], vdi_of(target, 0))
    vdi = vdi_of(target, 1)
    volume_ops._session.call("VDI.set_name_label", vdi, "payroll")
    volume_ops.attach_volume(iscsi(1), "web")
    volume_ops.detach_volume(iscsi(1), "web")
    assert target.db.get("VDI", vdi, "name_label") == "payroll"
