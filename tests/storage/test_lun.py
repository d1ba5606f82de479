"""A LUN is introduced by its number, and its record is restored if the attach fails."""

from __future__ import annotations

from typing import Any

import pytest

from tests.meanwhile import interrupted
from tests.scenarios import GIB, IQN, arrange_target, changes, iscsi, scsi_id, touch_hosts
from xenvol.errors import UnsupportedSRType, VolumeInUse, VolumeNotFound, WrongVolume, XapiError
from xenvol.simulator import Simulator
from xenvol.storage.users import is_held
from xenvol.volumeops import VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    """A target whose LUN 0 another VM has, so that its SR is plugged."""
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
        # the host has seen the LUN, and sees it as long as it is logged in
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
        """VDI.introduce takes a minute for an absent LUN."""
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


@pytest.mark.parametrize("order", ["late_error", "lose_answer"])
@pytest.mark.parametrize("is_foreign", [False, True], ids=["ours", "theirs"])
@pytest.mark.parametrize("lun", [1, 9], ids=["shared", "new"])
def test_a_lun_that_is_introduced_although_xapi_says_an_error_is_attached(
    target: Simulator, volume_ops: VolumeOps, lun: int, is_foreign: bool, order: str
) -> None:
    """xapi can send INTERNAL_ERROR after the change (docs/background/recordings.md, finding 3 (xapi))."""
    if is_foreign:
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
    volume_ops.attach_volume(iscsi(0), "db")
    target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
    before = target.snapshot()
    info = {**iscsi(lun), "multiattach": lun == 1}
    strike = getattr(target.faults, order)
    strike("VDI.introduce", *(["INTERNAL_ERROR", "late"] if order == "late_error" else []))
    attachment = volume_ops.attach_volume(info, "web")
    assert scsi_id_of(target, attachment.vdi_ref) == scsi_id(lun)
    assert target.db.get("VDI", attachment.vdi_ref, "sharable") == (lun == 1)
    volume_ops.detach_volume(info, "web")
    # in xenvol's SR the record is dropped with its volume, and the host has seen LUN 9
    fine = (f"VDI {attachment.vdi_uuid} ", "storage.hosts")
    assert [line for line in changes(before, target.snapshot()) if not line.startswith(fine)] == []


def test_the_record_of_a_lun_in_another_owners_sr_stays(target: Simulator, volume_ops: VolumeOps) -> None:
    """Otherwise the operator's name and notes on the record would be lost."""
    target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
    target.add_vbd(target.db.by_name("VM", "db")[0], vdi_of(target, 0))
    vdi = vdi_of(target, 1)
    volume_ops._session.call("VDI.set_name_label", vdi, "payroll")
    volume_ops.attach_volume(iscsi(1), "web")
    volume_ops.detach_volume(iscsi(1), "web")
    assert target.db.get("VDI", vdi, "name_label") == "payroll"


def scsi_id_of(xapi: Simulator, vdi: str) -> str:
    scsi_id: str = xapi.db.get("VDI", vdi, "sm_config")["SCSIid"]
    return scsi_id


def show(xapi: Simulator, host: int, **numbers: int) -> None:
    """Map LUNs to the nth host: ``as_1=2`` shows it the LUN with scsi_id(2) under number 1."""
    initiator = xapi.db.get("host", xapi.db.refs("host")[host], "iscsi_iqn")
    for number, volume in numbers.items():
        xapi.storage.san.map_lun(IQN, initiator, int(number.removeprefix("as_")), scsi_id(volume))


def xensm_lun(lun: int) -> dict[str, Any]:
    return {
        "driver_volume_type": "xensm",
        "data": {
            "volume_id": f"volume-{lun}",
            "sr_uuid": "5a000000-0000-4000-8000-000000000001",
            "sr_type": "iscsi",
            "target": "10.0.0.1",
            "targetIQN": IQN,
            "target_lun": lun,
            "introduce_sr_keys": ["sr_type", "target", "targetIQN"],
        },
    }


@pytest.mark.xapi(hosts=2)
class TestHostGroups:
    """An array gives each initiator other numbers; the service sends the number on the VM's host."""

    @pytest.fixture
    def groups(self, target: Simulator) -> Simulator:
        """The master sees volumes 1 and 2 under their own numbers, the slave under each other's."""
        show(target, 0, as_1=1, as_2=2)
        show(target, 1, as_1=2, as_2=1)
        master, slave = target.db.refs("host")
        target.add_vm("on-master", resident_on=master)
        target.add_vm("on-slave", resident_on=slave)
        target.add_vm("halted", power_state="Halted")
        return target

    @pytest.mark.parametrize("info", [iscsi(1), xensm_lun(1)], ids=["iscsi", "xensm"])
    @pytest.mark.parametrize(("vm", "volume"), [("on-master", 1), ("on-slave", 2)])
    @pytest.mark.parametrize("is_known", [False, True], ids=["first", "second"])
    def test_a_number_means_what_the_host_of_the_vm_sees_under_it(
        self,
        groups: Simulator,
        volume_ops: VolumeOps,
        info: dict[str, Any],
        vm: str,
        volume: int,
        is_known: bool,
    ) -> None:
        if is_known:
            volume_ops.connect_volume(info | {"data": info["data"] | {"target_lun": 2}}, hosts=[])
        attachment = volume_ops.attach_volume(info, vm)
        assert scsi_id_of(groups, attachment.vdi_ref) == scsi_id(volume)

    def test_a_volume_with_other_numbers_on_each_host_is_not_given_to_a_halted_vm(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = groups.snapshot()
        with pytest.raises(WrongVolume, match="host"):
            volume_ops.attach_volume(iscsi(1), "halted")
        assert changes(before, groups.snapshot()) == []

    def test_a_volume_with_one_number_on_all_hosts_is_given_to_a_halted_vm(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        show(target, 0, as_7=1)
        show(target, 1, as_7=1, as_1=2)
        target.add_vm("halted", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(7), "halted")
        assert scsi_id_of(target, attachment.vdi_ref) == scsi_id(1)

    def test_a_volume_that_the_host_of_the_vm_does_not_see_is_told_with_the_host(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = groups.snapshot()
        name = groups.db.get("host", groups.db.refs("host")[1], "name_label")
        with pytest.raises(VolumeNotFound, match=f"LUN 0 on host {name}"):
            volume_ops.attach_volume(iscsi(0), "on-slave")
        assert changes(before, groups.snapshot()) == []

    def test_a_volume_that_the_master_sees_under_another_number_later_is_brought_in_by_that(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        """To introduce the LUN that the master has under the host's number would overwrite another volume's record."""
        volume_ops.attach_volume(iscsi(1), "on-slave")
        held = volume_ops.connect_volume(iscsi(1, volume_id="held"), hosts=[groups.db.refs("host")[0]])
        groups.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        show(groups, 0, as_8=9, as_9=1)
        show(groups, 1, as_9=9)
        before = groups.snapshot()
        attachment = volume_ops.attach_volume(iscsi(9), "on-slave")
        assert scsi_id_of(groups, attachment.vdi_ref) == scsi_id(9)
        volume_ops.detach_volume(iscsi(9), "on-slave")
        found = [line for line in changes(before, groups.snapshot()) if "iscsi_sessions" not in line]
        assert found == []
        assert groups.db.get("VDI", held.vdi_ref, "other_config")

    def test_a_volume_that_the_master_does_not_see_is_told_so_and_changes_nothing(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(1), "on-slave")
        groups.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        show(groups, 0, as_9=1)
        show(groups, 1, as_9=9)
        before = groups.snapshot()
        with pytest.raises(WrongVolume, match="export the volume to the master"):
            volume_ops.attach_volume(iscsi(9), "on-slave")
        found = [line for line in changes(before, groups.snapshot()) if "iscsi_sessions" not in line]
        assert found == []

    def test_a_volume_with_other_numbers_on_each_host_is_given_to_a_halted_vm_where_the_data_proves_it(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = groups.snapshot()
        info = iscsi(1, scsi_id=scsi_id(2))  # its number on the slave
        attachment = volume_ops.attach_volume(info, "halted")
        assert scsi_id_of(groups, attachment.vdi_ref) == scsi_id(2)
        volume_ops.detach_volume(info, "halted")
        assert changes(before, groups.snapshot()) == []

    @pytest.mark.parametrize("info", [iscsi(1), xensm_lun(1)], ids=["iscsi", "xensm"])
    def test_a_detach_takes_out_no_disk_of_which_the_hosts_disagree(
        self, groups: Simulator, volume_ops: VolumeOps, info: dict[str, Any]
    ) -> None:
        """A halted VM has, without marks, the disks that the hosts see under the number. Either could be meant."""
        own = "5a000000-0000-4000-8000-000000000001"
        groups.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="", sr_uuid=own)
        (halted,) = groups.db.by_name("VM", "halted")
        for lun in (1, 2):
            groups.add_vbd(halted, vdi_of(groups, lun))
        before = groups.snapshot()
        with pytest.raises(WrongVolume, match="under number 1 on all hosts"):
            volume_ops.detach_volume(info, "halted")
        assert [line for line in changes(before, groups.snapshot()) if "iscsi_sessions" not in line] == []

    def test_a_volume_that_not_every_host_sees_is_extended(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The array exports a volume to its VM's host and to the master."""
        show(target, 0, as_1=1, as_2=2)
        show(target, 1, as_2=2)
        volume_ops.connect_volume(iscsi(1), hosts=[target.db.refs("host")[0]])
        volume_ops.connect_volume(iscsi(2), hosts=[target.db.refs("host")[1]])
        target.storage.san.resize_lun(IQN, 1, 2 * GIB)
        assert volume_ops.extend_volume(iscsi(1)) == 2 * GIB
        with pytest.raises(VolumeNotFound, match="LUN 7"):
            volume_ops.extend_volume(iscsi(7))

    @pytest.mark.parametrize("info", [iscsi(1), xensm_lun(1)], ids=["iscsi", "xensm"])
    def test_a_volume_of_which_the_hosts_disagree_is_not_extended(
        self, groups: Simulator, volume_ops: VolumeOps, info: dict[str, Any]
    ) -> None:
        """The size of the other volume would be returned as the size of this one."""
        volume_ops.connect_volume(info, hosts=[groups.db.refs("host")[1]])
        groups.storage.san.resize_lun(IQN, 2, 2 * GIB)
        with pytest.raises(WrongVolume, match="under number 1 on all hosts"):
            volume_ops.extend_volume(info)

    def test_a_volume_of_which_the_hosts_disagree_is_extended_if_the_data_proves_it(
        self, groups: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.connect_volume(iscsi(1), hosts=[groups.db.refs("host")[1]])
        groups.storage.san.resize_lun(IQN, 2, 2 * GIB)
        assert volume_ops.extend_volume(iscsi(1, scsi_id=scsi_id(2))) == 2 * GIB
        assert volume_ops.extend_volume(iscsi(1, scsi_id=scsi_id(1))) == GIB

    def test_a_detach_takes_out_the_disk_of_which_the_hosts_that_see_it_agree(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The other host sees no LUN under the number."""
        show(target, 0, as_1=1, as_2=2)
        show(target, 1, as_2=2)
        halted = target.add_vm("halted", power_state="Halted")
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        for lun in (1, 2):
            target.add_vbd(halted, vdi_of(target, lun))
        volume_ops.detach_volume(iscsi(1), "halted")
        assert [target.db.get("VBD", ref, "VDI") for ref in target.db.refs("VBD")] == [vdi_of(target, 2)]

    @pytest.mark.parametrize("info", [iscsi(1), xensm_lun(1)], ids=["iscsi", "xensm"])
    def test_a_detach_spares_the_volume_that_is_held_and_has_the_number_on_the_master(
        self, groups: Simulator, volume_ops: VolumeOps, info: dict[str, Any]
    ) -> None:
        """If neither volume has an id, only the detached disk tells which volume is meant."""
        info = {**info, "data": {key: value for key, value in info["data"].items() if key != "volume_id"}}
        held = volume_ops.connect_volume(info, hosts=[groups.db.refs("host")[0]])
        assert scsi_id_of(groups, held.vdi_ref) == scsi_id(1)
        attachment = volume_ops.attach_volume(info, "on-slave")
        assert scsi_id_of(groups, attachment.vdi_ref) == scsi_id(2)
        volume_ops.detach_volume(info, "on-slave")
        assert groups.db.exists("VDI", held.vdi_ref)
        assert is_held(groups.db.record("VDI", held.vdi_ref))


class TestTheProbe:
    def test_that_lists_the_luns_changes_nothing(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        before = target.snapshot()
        assert volume_ops.find_bad_volumes("db") == []
        assert changes(before, target.snapshot()) == []

    def test_is_no_proof_that_a_volume_is_missing_where_the_sr_was_released_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        with interrupted(
            target, "SR.get_all_records_where", lambda: volume_ops.detach_volume(iscsi(0), "db")
        ) as ops:
            assert ops.attach_volume(iscsi(1), "web").is_plugged


class TestSharing:
    def test_a_disk_that_was_made_sharable_is_as_it_was_after_the_detach(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        before = target.snapshot()
        volume_ops.attach_volume({**iscsi(1), "multiattach": True}, "web")
        assert target.db.get("VDI", vdi_of(target, 1), "sharable")
        volume_ops.detach_volume(iscsi(1), "web")
        assert changes(before, target.snapshot()) == []

    def test_the_only_lun_of_a_target_is_as_it_was_after_the_detach(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The data has no LUN number."""
        arrange_target(xapi, luns=1)
        touch_hosts(xapi)
        xapi.add_vm("web")
        xapi.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        info = {**iscsi(0), "multiattach": True}
        info["data"] = {key: value for key, value in info["data"].items() if key != "target_lun"}
        before = xapi.snapshot()
        attachment = volume_ops.attach_volume(info, "web")
        assert xapi.db.get("VDI", attachment.vdi_ref, "sharable")
        volume_ops.detach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []

    def test_a_disk_that_was_sharable_before_stays_so(self, target: Simulator, volume_ops: VolumeOps) -> None:
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        with target.xapi.lock:
            target.db.set("VDI", vdi_of(target, 1), sharable=True)
        volume_ops.attach_volume({**iscsi(1), "multiattach": True}, "web")
        volume_ops.detach_volume(iscsi(1), "web")
        assert target.db.get("VDI", vdi_of(target, 1), "sharable")


class TestLunsThatExchangedTheirNumbers:
    """The records of an SR keep the old numbers. To write by such a number overwrites the record of another LUN."""

    @pytest.fixture
    def target(self, target: Simulator) -> Simulator:
        target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        return target

    @pytest.fixture(params=[True, False], ids=["listed", "unlisted"])
    def is_listed(self, target: Simulator, request: pytest.FixtureRequest) -> bool:
        """Whether the pool has the driver that lists LUNs."""
        is_listed: bool = request.param
        if not is_listed:
            without_the_driver_that_lists_luns(target)
        return is_listed

    @staticmethod
    def exchange(xapi: Simulator) -> None:
        """LUN 0 becomes LUN 1, and LUN 1 becomes LUN 0."""
        san = xapi.storage.san
        for lun in (0, 1):
            san.remove_lun(IQN, lun)
        for lun in (0, 1):
            san.add_lun(IQN, lun, GIB, scsi_id=scsi_id(1 - lun))

    def test_are_shared_and_unshared_by_the_number_that_they_have_now(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        first, second = vdi_of(target, 0), vdi_of(target, 1)
        volume_ops._session.xenapi.VDI.set_name_label(second, "theirs")
        self.exchange(target)
        before = record_of(target, second)
        info = {**iscsi(1, wwn=scsi_id(0)[1:]), "multiattach": True}
        for vm in ("web", "db"):
            assert volume_ops.attach_volume(info, vm).vdi_ref == first
        assert target.db.get("VDI", first, "sharable")
        assert record_of(target, second) == before
        for vm in ("web", "db"):
            volume_ops.detach_volume(info, vm)
        assert not target.db.get("VDI", first, "sharable")
        assert record_of(target, second) == before

    def test_are_not_shared_in_a_pool_that_cannot_list_their_numbers(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        without_the_driver_that_lists_luns(target)
        self.exchange(target)
        before = target.snapshot()
        with pytest.raises(VolumeNotFound, match=scsi_id(0)):
            volume_ops.attach_volume({**iscsi(1, wwn=scsi_id(0)[1:]), "multiattach": True}, "web")
        # the driver has written their numbers
        left = [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line]
        assert [line for line in left if "LUNid" not in line] == []

    def test_are_not_unshared_by_the_number_that_they_had(
        self, target: Simulator, volume_ops: VolumeOps, is_listed: bool
    ) -> None:
        """The other one is held, and would lose its hold."""
        first, second = vdi_of(target, 0), vdi_of(target, 1)
        target.add_vm("guest", power_state="Halted")
        info = {**iscsi(0, wwn=scsi_id(0)[1:]), "multiattach": True}
        volume_ops.attach_volume(info, "guest")
        assert volume_ops.connect_volume(iscsi(1)).vdi_ref == second
        before = record_of(target, second)
        self.exchange(target)
        volume_ops.detach_volume(info, "guest")
        assert record_of(target, second) == before
        assert is_held(target.db.record("VDI", second))
        # without the driver that lists LUNs, xenvol cannot know the new number, so the disk stays sharable
        assert target.db.get("VDI", first, "sharable") != is_listed

    def test_just_before_the_record_is_written_leave_that_of_the_other_one(
        self, target: Simulator, volume_ops: VolumeOps, is_listed: bool
    ) -> None:
        """The first probe finds the LUN, the second one finds its number on the master."""
        second = vdi_of(target, 1)
        volume_ops.connect_volume(iscsi(1))
        before = record_of(target, second)
        last, nth = ("SR.probe", 2) if is_listed else ("VDI.introduce", 1)
        with (
            interrupted(target, last, lambda: self.exchange(target), nth=nth) as ops,
            pytest.raises(WrongVolume, match=scsi_id(0)),
        ):
            ops.attach_volume({**iscsi(0, wwn=scsi_id(0)[1:]), "multiattach": True}, "web")
        assert record_of(target, second) == before
        assert target.db.refs("VBD") == []


def record_of(xapi: Simulator, vdi: str) -> tuple[Any, ...]:
    """Return what a call of VDI.introduce overwrites."""
    row = xapi.db.record("VDI", vdi)
    return row["name_label"], row["name_description"], row["other_config"], row["sharable"]


class TestALunThatIsMappedLaterAndThatTwoProcessesIntroduce:
    """The second one finds the record of the first one when it has the turn."""

    @pytest.fixture
    def target(self, target: Simulator, volume_ops: VolumeOps) -> Simulator:
        volume_ops.attach_volume(iscsi(0), "db")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        return target

    @pytest.mark.parametrize("first", ["connect", "attach"])
    @pytest.mark.parametrize("second", ["connect", "attach"])
    def test_keeps_the_hold_of_each_connect(
        self, target: Simulator, volume_ops: VolumeOps, first: str, second: str
    ) -> None:
        info = iscsi(9, multiattach=True)

        def run(ops: VolumeOps, verb: str) -> None:
            ops.connect_volume(info) if verb == "connect" else ops.attach_volume(info, "web")

        with interrupted(target, "SR.probe", lambda: run(volume_ops, second)) as ops:
            run(ops, first)
        vdi = target.db.record("VDI", vdi_of(target, 9))
        assert is_held(vdi) == ("connect" in (first, second))
        assert len(vdi["VBDs"]) == ("attach" in (first, second))

    @pytest.mark.parametrize("after", ["SR.probe", "VDI.introduce"])
    def test_stays_for_the_other_one_where_one_of_them_fails(
        self, target: Simulator, volume_ops: VolumeOps, after: str
    ) -> None:
        def connect() -> None:
            volume_ops.connect_volume(iscsi(9))
            target.faults.refuse("VBD.create", "SR_BACKEND_FAILURE_1200", "", "ordered", "")

        with interrupted(target, after, connect) as ops, pytest.raises(XapiError, match="ordered"):
            ops.attach_volume(iscsi(9), "web")
        assert is_held(target.db.record("VDI", vdi_of(target, 9)))

    def test_is_shared_although_the_other_process_introduced_it_unshared(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        with interrupted(target, "SR.probe", lambda: volume_ops.connect_volume(iscsi(9))) as ops:
            attachment = ops.attach_volume({**iscsi(9), "multiattach": True}, "web")
        assert target.db.get("VDI", attachment.vdi_ref, "sharable")
        assert is_held(target.db.record("VDI", attachment.vdi_ref))


class TestALunUnderAnSROfLVM:
    @pytest.mark.parametrize("info", [iscsi(5), xensm_lun(5)], ids=["iscsi", "xensm"])
    @pytest.mark.parametrize("is_plugged", [True, False])
    @pytest.mark.parametrize("verb", ["attach", "connect"])
    def test_is_given_to_no_vm(
        self, target: Simulator, volume_ops: VolumeOps, info: dict[str, Any], is_plugged: bool, verb: str
    ) -> None:
        """A guest that writes to it destroys the SR."""
        target.storage.san.add_lun(IQN, 5, 100 * GIB, scsi_id=scsi_id(5))
        config = {"target": "10.0.0.1", "targetIQN": IQN, "SCSIid": scsi_id(5)}
        sr = target.add_sr("production", type="lvmoiscsi", device_config=config, create=True)
        if not is_plugged:
            for pbd in target.db.children(sr, "PBDs"):
                volume_ops._session.call("PBD.unplug", pbd)
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="production"):
            volume_ops.attach_volume(info, "web") if verb == "attach" else volume_ops.connect_volume(info)
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []


def without_the_driver_that_lists_luns(xapi: Simulator) -> None:
    with xapi.xapi.lock:
        for sm in xapi.db.refs("SM"):
            if xapi.db.get("SM", sm, "type") == "lvmoiscsi":
                xapi.db.delete("SM", sm)


class TestInAPoolWhoseHostsCannotBeAskedForTheirNumbers:
    """VDI.introduce finds what the master sees: enough if only the master plugs the disk, or if the data proves it."""

    @pytest.fixture
    def target(self, target: Simulator) -> Simulator:
        without_the_driver_that_lists_luns(target)
        return target

    @pytest.mark.parametrize("info", [iscsi(9), iscsi(9, scsi_id=scsi_id(9))], ids=["number", "proved"])
    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_a_lun_of_the_only_host_is_the_one_that_the_master_sees(
        self, target: Simulator, volume_ops: VolumeOps, info: dict[str, Any], power_state: str
    ) -> None:
        target.add_vm("guest", power_state=power_state)
        volume_ops.attach_volume(iscsi(0), "db")
        before = target.snapshot()
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        attachment = volume_ops.attach_volume(info, "guest")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(9)
        volume_ops.detach_volume(info, "guest")
        seen = ("storage.luns.", "storage.san.", ".iscsi_sessions.")
        left = changes(before, target.snapshot())
        assert [line for line in left if not any(word in line for word in seen)] == []

    def test_a_number_that_another_lun_has_now_is_that_lun(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The record of the LUN that had the number before is dropped, unless a VM has the LUN plugged."""
        volume_ops.attach_volume(iscsi(0), "db")
        target.storage.san.replace_lun(IQN, 1, GIB, scsi_id=scsi_id(77))
        attachment = volume_ops.attach_volume(iscsi(1), "web")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(77)
        target.storage.san.replace_lun(IQN, 0, GIB, scsi_id=scsi_id(78))
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="db"):
            volume_ops.attach_volume({**iscsi(0), "volume_id": "another"}, "web")
        left = changes(before, target.snapshot())
        assert [line for line in left if ".iscsi_sessions." not in line] == []

    def test_a_lun_that_has_still_its_number_keeps_what_its_record_says(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        api = volume_ops._session.xenapi
        api.VDI.set_name_label(vdi_of(target, 1), "theirs")
        api.VDI.add_to_other_config(vdi_of(target, 1), "owner", "they")
        attachment = volume_ops.attach_volume(iscsi(1), "web")
        row = target.db.record("VDI", attachment.vdi_ref)
        assert (row["name_label"], row["other_config"].get("owner")) == ("theirs", "they")

    def test_luns_that_changed_their_numbers_keep_what_their_records_say(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        api = volume_ops._session.xenapi
        volume_ops.attach_volume(iscsi(0), "db")
        names = {}
        for number in (1, 2):
            api.VDI.set_name_label(vdi_of(target, number), f"LUN {number}")
            names[api.VDI.get_uuid(vdi_of(target, number))] = f"LUN {number}"
        san = target.storage.san
        san.remove_lun(IQN, 2)
        san.replace_lun(IQN, 1, GIB, scsi_id=scsi_id(2))
        target.add_vm(
            "guest", power_state="Halted"
        )  # no host can list its LUNs here, and a plug needs a host that sees the change
        attachment = volume_ops.attach_volume(iscsi(1), "guest")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(2)
        assert target.db.get("VDI", attachment.vdi_ref, "name_label") == names[attachment.vdi_uuid] == "LUN 2"

    def test_a_lun_that_is_not_there_is_said_so(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        before = target.snapshot()
        with pytest.raises(VolumeNotFound, match="LUN 9 on host host1"):
            volume_ops.attach_volume(iscsi(9), "web")
        assert changes(before, target.snapshot()) == []

    @pytest.mark.parametrize("number", [1, 9])
    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_a_detach_of_what_is_not_attached_is_quiet_beside_another_lun_of_its_target(
        self, target: Simulator, volume_ops: VolumeOps, number: int, power_state: str
    ) -> None:
        """The target has no LUN 9."""
        target.add_vm("guest", power_state=power_state)
        volume_ops.attach_volume(iscsi(0), "guest")
        volume_ops.detach_volume(iscsi(number), "guest")
        assert [volume.volume_id for volume in volume_ops.list_volumes("guest")] == ["volume-0"]

    def test_a_detach_of_what_is_not_attached_leaves_no_record_of_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        before = target.snapshot()
        volume_ops.detach_volume(iscsi(9), "web")
        assert [line for line in changes(before, target.snapshot()) if "iscsi_sessions" not in line] == []

    def test_a_detach_takes_out_what_has_the_number_now_and_ignores_the_number_of_its_record(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The volume is in the VM under another number, and its VBD has no mark."""
        target.add_vm(
            "guest", power_state="Halted"
        )  # no host can list its LUNs here, and an unplug needs a host that sees the change
        attachment = volume_ops.attach_volume(iscsi(1), "guest")
        other = volume_ops.attach_volume(iscsi(0), "db")
        volume_ops._session.xenapi.VBD.set_other_config(attachment.vbd_ref, {})
        target.storage.san.replace_lun(IQN, 2, GIB, scsi_id=scsi_id(1))
        volume_ops.detach_volume(iscsi(2), "guest")
        assert target.db.refs("VBD") == [other.vbd_ref]

    @pytest.mark.xapi(hosts=2)
    def test_a_detach_from_a_vm_on_another_host_says_that_it_cannot_be_known(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """That host may see the VM's disk under this number."""
        target.add_vm("far", resident_on=target.db.refs("host")[1])
        volume_ops.attach_volume(iscsi(0, scsi_id=scsi_id(0)), "far")
        with pytest.raises(UnsupportedSRType, match="lvmoiscsi"):
            volume_ops.detach_volume(iscsi(1), "far")
        volume_ops.detach_volume(
            iscsi(1, scsi_id=scsi_id(1)), "far"
        )  # the data proves that this is another disk
        assert len(volume_ops.list_volumes("far")) == 1

    @pytest.mark.xapi(hosts=2)
    def test_another_host_gets_the_lun_that_the_data_proves_and_no_other(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """Each host sees other numbers."""
        san, (master, other) = target.storage.san, target.db.refs("host")
        target.add_vm("far", resident_on=other)
        names = [target.db.get("host", ref, "iscsi_iqn") for ref in (master, other)]
        for initiator, numbers in zip(names, ([1, 2], [2, 1]), strict=True):
            san.map_lun(IQN, initiator, 0, scsi_id(0))
            for number, lun in zip((1, 2), numbers, strict=True):
                san.map_lun(IQN, initiator, number, scsi_id(lun))
        volume_ops.attach_volume(iscsi(0, scsi_id=scsi_id(0)), "far")
        before = target.snapshot()
        with pytest.raises(UnsupportedSRType, match="lvmoiscsi"):
            volume_ops.attach_volume(iscsi(1), "far")
        assert changes(before, target.snapshot()) == []
        info = iscsi(1, scsi_id=scsi_id(2))  # what that host sees as number 1
        attachment = volume_ops.attach_volume(info, "far")
        assert target.db.get("VDI", attachment.vdi_ref, "sm_config")["SCSIid"] == scsi_id(2)
        volume_ops.detach_volume(info, "far")

    @pytest.mark.xapi(hosts=2)
    def test_another_disk_than_the_data_proves_is_not_brought_in(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        _, other = target.db.refs("host")
        target.add_vm("far", resident_on=other)
        volume_ops.attach_volume(iscsi(0, scsi_id=scsi_id(0)), "far")
        target.storage.san.add_lun(IQN, 9, GIB, scsi_id=scsi_id(9))
        before = target.snapshot()
        with pytest.raises(WrongVolume, match="on the pool's master"):
            volume_ops.attach_volume(iscsi(9, scsi_id=scsi_id(8)), "far")
        left = changes(before, target.snapshot())
        assert [line for line in left if ".iscsi_sessions." not in line] == []

    def test_a_look_at_bad_volumes_calls_none_bad(self, target: Simulator, volume_ops: VolumeOps) -> None:
        volume_ops.attach_volume(iscsi(0), "db")
        assert volume_ops.find_bad_volumes("db") == []
