"""An attach whose disk is in the VM already: it becomes what was asked for, whoever put it there, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

import xenvol
from tests.meanwhile import interrupted
from tests.scenarios import SCENARIOS, Scenario, arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import ChangedMeanwhile, HostNotReady, MountpointInUse, VolumeInUse, XapiError
from xenvol.session import CallRecord, Session
from xenvol.simulator import Simulator
from xenvol.testing import sweep
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    xapi.add_vm("halted", power_state="Halted")
    return xapi


def wipe(xapi: Simulator, ops: VolumeOps, vbd: str) -> None:
    """As a tool does that writes the whole map."""
    ops._session.call("VBD.set_other_config", vbd, {"owner": "another tool"})


def fields(xapi: Simulator, vbd: str, *names: str) -> list[Any]:
    return [xapi.db.get("VBD", vbd, name) for name in names]


class TestBootable:
    @pytest.mark.parametrize("vm", ["halted", "web"])
    @pytest.mark.parametrize("is_wiped", [False, True])
    def test_is_what_the_disk_in_place_becomes(
        self, target: Simulator, volume_ops: VolumeOps, vm: str, is_wiped: bool
    ) -> None:
        """Also one that another tool put there; the VM starts from it the next time."""
        before = target.snapshot()
        first = volume_ops.attach_volume(iscsi(0), vm, 0)
        if is_wiped:
            wipe(target, volume_ops, first.vbd_ref)
        assert fields(target, first.vbd_ref, "bootable") == [False]
        again = volume_ops.attach_volume(iscsi(0), vm, bootable=True)
        assert again.vbd_ref == first.vbd_ref
        assert fields(target, first.vbd_ref, "bootable") == [True]
        volume_ops.detach_volume(iscsi(0), vm)
        assert changes(before, target.snapshot()) == []

    def test_stays_what_it_was_where_it_is_not_asked_for(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        first = volume_ops.attach_volume(iscsi(0), "halted", bootable=True)
        volume_ops.attach_volume(iscsi(0), "halted")
        assert fields(target, first.vbd_ref, "bootable") == [True]

    @pytest.mark.parametrize("strike", [sweep.refuse, sweep.late_error, sweep.lose_answer])
    @pytest.mark.parametrize("vm", ["halted", "web"])
    def test_is_as_it_was_where_the_attach_fails(
        self, target: Simulator, vm: str, strike: sweep.Strike
    ) -> None:
        """And so is the id of the attachment."""
        with xenvol.connect(target.url, target.user, target.password) as own:
            ops = VolumeOps(Session(own, sleep=lambda seconds: None))
            ops.attach_volume(iscsi(0, attachment_id="one"), vm, 0)
            before = target.snapshot()
            kept = target.checkpoint()
            info = iscsi(0, attachment_id="two")
            failed = 0
            for case in sweep.each_call(
                target, lambda: ops, lambda ops: ops.attach_volume(info, vm, bootable=True), strike
            ):
                failed += case.error is not None
                if case.error is not None and strike is sweep.refuse:
                    assert changes(before, target.snapshot()) == [], case
                if case.error is None:
                    (vbd,) = target.db.refs("VBD")
                    assert fields(target, vbd, "bootable") == [True], case
            assert failed or strike is sweep.lose_answer  # of what may be asked again, nothing is lost
            target.restore(kept)


class TestANamedPosition:
    @pytest.mark.parametrize("vm", ["halted", "web"])
    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_that_an_unmarked_vbd_of_the_disk_holds_is_the_volumes(
        self, xapi: Simulator, volume_ops: VolumeOps, scenario: Scenario, vm: str
    ) -> None:
        scenario.arrange(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web")
        xapi.add_vm("halted", power_state="Halted")
        before = xapi.snapshot()
        first = volume_ops.attach_volume(scenario.connection_info, vm, "/dev/xvdc")
        wipe(xapi, volume_ops, first.vbd_ref)
        again = volume_ops.attach_volume(scenario.connection_info, vm, "/dev/xvdc")
        assert (again.vbd_ref, again.volume_id) == (first.vbd_ref, first.volume_id)
        assert volume_ops.list_volumes(vm) == [again]
        volume_ops.detach_volume(scenario.connection_info, vm)
        assert changes(before, xapi.snapshot()) == []

    def test_that_another_disk_holds_is_in_use_and_nothing_is_connected_for_it(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        taken = volume_ops.attach_volume(iscsi(1), "web", 2)
        wipe(target, volume_ops, taken.vbd_ref)
        before = target.snapshot()
        for info in (iscsi(0), iscsi(0, scsi_id=f"36001405{0:025d}")):
            with target.journal.recording() as calls, pytest.raises(MountpointInUse):
                volume_ops.attach_volume(info, "web", 2)
            assert not {"PBD.plug", "VBD.create", "VDI.introduce"} & set(calls.methods())
        assert changes(before, target.snapshot()) == []

    def test_that_an_empty_drive_holds_is_in_use(self, target: Simulator, volume_ops: VolumeOps) -> None:
        api = volume_ops._session.xenapi
        (vm,) = api.VM.get_by_name_label("web")
        drive = {"VM": vm, "VDI": "OpaqueRef:NULL", "userdevice": "2", "bootable": False, "mode": "RO"}
        rest = {"type": "CD", "empty": True, "other_config": {}, "qos_algorithm_type": ""}
        api.VBD.create({**drive, **rest, "qos_algorithm_params": {}})
        before = target.snapshot()
        with pytest.raises(MountpointInUse):
            volume_ops.attach_volume(iscsi(0), "web", 2)
        assert changes(before, target.snapshot()) == []

    def test_in_another_mode_than_the_one_asked_for_is_refused(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        """Whichever way round: what somebody has set is not changed under a disk."""
        arrange_target(xapi)
        xapi.add_vm("web", power_state="Halted")
        for first, then in (("rw", "ro"), ("ro", "rw")):
            there = volume_ops.attach_volume(iscsi(0, access_mode=first), "web", 1)
            wipe(xapi, volume_ops, there.vbd_ref)
            before = xapi.snapshot()
            with pytest.raises(VolumeInUse, match="in mode"):
                volume_ops.attach_volume(iscsi(0, access_mode=then), "web", 1)
            assert changes(before, xapi.snapshot()) == []
            volume_ops.detach_volume(iscsi(0), "web")

    def test_whose_vbd_another_process_plugs_meanwhile_stays_plugged_where_the_attach_fails(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """It is that one's disk, and may be in use."""
        vbd = volume_ops.attach_volume(iscsi(0), "web", hotplug=False).vbd_ref

        def plug() -> None:
            volume_ops._session.call("VBD.plug", vbd)
            target.faults.refuse("event.from", "SR_BACKEND_FAILURE_1200", "", "by order", "", nth=2)

        with (
            interrupted(target, "VBD.get_all_records_where", plug) as ops,
            pytest.raises(XapiError, match="by order"),
        ):
            ops.attach_volume(iscsi(0), "web")
        assert fields(target, vbd, "currently_attached") == [True]

    def test_whose_vbd_is_unplugged_is_plugged_and_unplugged_again_where_the_attach_fails(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        there = volume_ops.attach_volume(iscsi(0), "web", 1)
        wipe(target, volume_ops, there.vbd_ref)
        volume_ops._session.call("VBD.unplug", there.vbd_ref)
        before = target.snapshot()

        def refuse() -> None:
            target.faults.refuse("event.from", *sweep.REFUSAL)

        with interrupted(target, "VBD.plug", refuse) as ops, pytest.raises(XapiError):
            ops.attach_volume(iscsi(0), "web", 1)
        assert changes(before, target.snapshot()) == []
        assert volume_ops.attach_volume(iscsi(0), "web", 1).is_plugged


@pytest.mark.xapi(hosts=2)
class TestTheHostsThatNeedTheDisk:
    """What shows it is looked at there when the attach returns, not just on any host."""

    @pytest.fixture
    def pool(self, xapi: Simulator) -> Simulator:
        """A VM that may start on either host."""
        arrange_target(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web", power_state="Halted")
        return xapi

    @pytest.mark.parametrize("after", ["PBD.plug", "VBD.create"])
    def test_have_it_although_another_process_unplugged_one_of_them_meanwhile(
        self, pool: Simulator, volume_ops: VolumeOps, after: str
    ) -> None:
        """A disk in a halted VM keeps nobody from it."""
        nth = 2 if after == "PBD.plug" else 1
        with interrupted(pool, after, lambda: self.unplug(pool, volume_ops), nth=nth) as ops:
            attachment = ops.attach_volume(iscsi(0), "web")
        pbds = pool.db.children(attachment.sr_ref, "PBDs")
        assert [pool.db.get("PBD", pbd, "currently_attached") for pbd in pbds] == [True, True]

    @pytest.mark.parametrize("after", ["PBD.plug", "VDI.add_to_other_config"])
    def test_have_what_is_connected_without_a_vm(
        self, pool: Simulator, volume_ops: VolumeOps, after: str
    ) -> None:
        _, other = pool.db.refs("host")
        nth = 2 if after == "PBD.plug" else 1
        with interrupted(pool, after, lambda: self.unplug(pool, volume_ops), nth=nth) as ops:
            volume = ops.connect_volume(iscsi(0), hosts=[other])
        pbds = pool.db.children(volume.sr_ref, "PBDs")
        assert [pool.db.get("PBD", pbd, "currently_attached") for pbd in pbds] == [True, True]

    def test_may_be_fewer_than_all_where_one_is_down(self, pool: Simulator, volume_ops: VolumeOps) -> None:
        """It plugs its PBD when it starts."""
        _, other = pool.db.refs("host")
        pool.faults.refuse("PBD.plug", "HOST_OFFLINE", other, nth=2)
        assert volume_ops.attach_volume(iscsi(0), "web").userdevice == "0"

    @pytest.fixture
    def safe(self, pool: Simulator) -> str:
        """A VM that HA protects."""
        vm = pool.add_vm("safe", resident_on=pool.db.refs("host")[0])
        with pool.xapi.lock:
            pool.db.set("pool", pool.db.refs("pool")[0], ha_enabled=True)
            pool.db.set("VM", vm, ha_restart_priority="restart", ha_always_run=True)
        return vm

    @pytest.mark.usefixtures("safe")
    def test_are_every_host_of_a_vm_that_ha_protects(self, pool: Simulator, volume_ops: VolumeOps) -> None:
        """xapi refuses the VBD where another process has unplugged one: then it is plugged again."""
        with interrupted(pool, "PBD.plug", lambda: self.unplug(pool, volume_ops), nth=2) as ops:
            assert ops.attach_volume(iscsi(0), "safe").is_plugged
        assert [pool.db.get("PBD", pbd, "currently_attached") for pbd in pool.db.refs("PBD")] == [True, True]

    @pytest.mark.usefixtures("safe")
    def test_of_a_vm_that_ha_protects_may_be_unplugged_again_and_again(
        self, pool: Simulator, volume_ops: VolumeOps
    ) -> None:
        before = pool.snapshot()

        def seen(record: CallRecord) -> None:
            if record.call == "PBD.plug":
                self.unplug(pool, volume_ops)

        with xenvol.connect(pool.url, pool.user, pool.password, on_call=seen) as session:
            with pytest.raises(ChangedMeanwhile, match="another process unplugged SR") as caught:
                VolumeOps(session).attach_volume(iscsi(0), "safe")
        assert caught.value.is_transient
        assert isinstance(caught.value.__cause__, XapiError)
        assert changes(before, pool.snapshot()) == []

    @pytest.mark.usefixtures("safe")
    def test_of_a_vm_that_ha_protects_are_named_where_one_is_down(
        self, pool: Simulator, volume_ops: VolumeOps
    ) -> None:
        _, other = pool.db.refs("host")
        pool.faults.refuse("PBD.plug", "HOST_OFFLINE", other, nth=2)
        before = pool.snapshot()
        with pytest.raises(HostNotReady, match="host2 is not ready: HA may start VM safe") as caught:
            volume_ops.attach_volume(iscsi(0), "safe")
        assert not caught.value.is_transient
        assert changes(before, pool.snapshot()) == []

    @staticmethod
    def unplug(pool: Simulator, ops: VolumeOps) -> None:
        """As another process does on the host that is not the master."""
        _, other = pool.db.refs("host")
        for pbd in pool.db.refs("PBD"):
            if pool.db.get("PBD", pbd, "host") == other:
                ops._session.call("PBD.unplug", pbd)


class TestADiskThatAnotherToolTouchesMeanwhile:
    def test_is_plugged_when_the_attach_returns(self, target: Simulator, volume_ops: VolumeOps) -> None:
        first = volume_ops.attach_volume(iscsi(0), "web")

        def unplug() -> None:
            volume_ops._session.call("VBD.unplug", first.vbd_ref)

        with interrupted(target, "event.from", unplug) as ops:
            again = ops.attach_volume(iscsi(0), "web")
        assert again.is_plugged
        assert again.vbd_ref == first.vbd_ref
        assert target.db.get("VBD", first.vbd_ref, "currently_attached")


class TestAnUnmarkedVBDOfADiskThatAnotherVMHas:
    def test_is_not_plugged_and_the_other_vm_named(self, target: Simulator, volume_ops: VolumeOps) -> None:
        """Another tool made it. xapi would refuse the plug, each time anew."""
        target.add_vm("db")
        theirs = volume_ops.attach_volume(iscsi(0), "db")
        record = {"VM": target.db.by_name("VM", "web")[0], "VDI": theirs.vdi_ref, "userdevice": "5"}
        record |= {"bootable": False, "mode": "RW", "type": "Disk", "unpluggable": True, "empty": False}
        maps: dict[str, Any] = {
            name: {} for name in ("other_config", "qos_algorithm_params", "xenstore_data")
        }
        volume_ops._session.call("VBD.create", {**record, **maps, "qos_algorithm_type": ""})
        before = target.snapshot()
        with pytest.raises(VolumeInUse, match="db"):
            volume_ops.attach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []
