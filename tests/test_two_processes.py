"""Whoever acts between two calls of another process loses nothing by it, and costs the other one nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import xenvol
from tests.meanwhile import another_process, interrupted
from tests.scenarios import (
    IQN,
    NFS_XENSM,
    SR_UUID,
    arrange_nfs,
    arrange_target,
    changes,
    iscsi,
    touch_hosts,
)
from xenvol.errors import ChangedMeanwhile, InvalidMountpoint, XapiError, XapiUnreachable
from xenvol.session import CallRecord
from xenvol.simulator import Simulator
from xenvol.volumeops import Attachment, VolumeOps

THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}
READS_VDIS = "VDI.get_all_records_where"


@pytest.fixture
def target(xapi: Simulator) -> Simulator:
    arrange_target(xapi)
    touch_hosts(xapi)
    return xapi


def plugged(xapi: Simulator, sr: str) -> list[bool]:
    return [xapi.db.get("PBD", pbd, "currently_attached") for pbd in xapi.db.children(sr, "PBDs")]


class TestARollback:
    def test_spares_what_another_process_has_attached_to_a_halted_vm_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """No disk of the SR is plugged then, and yet it is needed at the next start."""
        target.add_vm("web")
        halted = target.add_vm("db", power_state="Halted")
        got: list[Attachment] = []

        def attach_another() -> None:
            with another_process(target) as ops:
                got.append(ops.attach_volume(iscsi(1), "db"))

        target.faults.refuse("VBD.plug", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with interrupted(target, "VBD.create", attach_another) as ops, pytest.raises(XapiError):
            ops.attach_volume(iscsi(0), "web")
        assert plugged(target, got[0].sr_ref) == [True]
        volume_ops._session.call("VM.start", halted, False, False)

    def test_does_not_forget_an_sr_of_its_operators_whose_introduction_by_us_was_lost(
        self, xapi: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The SR of that uuid is there after the call that got no answer, and was there before it."""
        arrange_nfs(xapi)
        xapi.storage.shares.nfs_server("10.0.0.2").exports["/export/vols"].filesystem.root.directory(
            SR_UUID
        ).remove(f"{NFS_XENSM['data']['vdi_uuid']}.vhd")
        share = {"server": "10.0.0.2", "serverpath": "/export/vols"}
        sr = xapi.add_sr("theirs", type="nfs", sr_uuid=SR_UUID, device_config=share)
        vdi = xapi.add_vdi(sr, "payroll")
        xapi.add_vm("web")
        xapi.faults.lose_request("SR.introduce")
        with pytest.raises(XapiUnreachable):
            volume_ops.attach_volume(NFS_XENSM, "web")
        assert xapi.db.exists("SR", sr)
        assert xapi.db.get("VDI", vdi, "name_label") == "payroll"


class TestTheSamePositionOrVolume:
    def test_that_is_the_next_free_position_goes_to_the_first_and_the_second_takes_the_one_after(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        first: list[Attachment] = []

        def attach_another() -> None:
            first.append(volume_ops.attach_volume(iscsi(1), "web"))

        with interrupted(target, "event.from", attach_another) as ops:
            second = ops.attach_volume(iscsi(0), "web")
        assert second.is_plugged
        assert second.userdevice != first[0].userdevice

    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_attached_twice_at_once_is_in_the_vm_once(
        self, target: Simulator, volume_ops: VolumeOps, power_state: str
    ) -> None:
        target.add_vm("web", power_state=power_state)
        first: list[Attachment] = []

        def attach_too() -> None:
            first.append(volume_ops.attach_volume(iscsi(0), "web"))

        with interrupted(target, "event.from", attach_too) as ops:
            second = ops.attach_volume(iscsi(0), "web")
        assert target.db.refs("VBD") == [second.vbd_ref]
        assert (second.vbd_ref, second.userdevice) == (first[0].vbd_ref, first[0].userdevice)

    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_attached_at_two_positions_at_once_is_at_the_one_of_the_first(
        self, target: Simulator, volume_ops: VolumeOps, power_state: str
    ) -> None:
        target.add_vm("web", power_state=power_state)

        def attach_elsewhere() -> None:
            volume_ops.attach_volume(iscsi(0), "web", "xvdb")

        with interrupted(target, "event.from", attach_elsewhere) as ops:
            with pytest.raises(InvalidMountpoint, match="xvdb"):
                ops.attach_volume(iscsi(0), "web", "xvdc")
        (vbd,) = target.db.refs("VBD")
        assert target.db.get("VBD", vbd, "userdevice") == "1"


class TestTheLastDetachOfATarget:
    def test_leaves_a_lun_that_was_given_to_a_halted_vm_before_it_let_go(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        target.add_vm("db", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        got: list[Attachment] = []

        def attach_another() -> None:
            with another_process(target) as ops:
                got.append(ops.attach_volume(iscsi(1), "db"))

        with interrupted(target, READS_VDIS, attach_another, nth=2) as ops:
            ops.detach_volume(iscsi(0), "web")
        assert target.db.exists("VDI", got[0].vdi_ref)
        assert plugged(target, got[0].sr_ref) == [True]

    def test_leaves_a_lun_that_was_found_before_and_given_to_a_halted_vm_after_it_had_looked(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        """The detach waits after its last look for users; the attach, which has seen all plugged, ends meanwhile."""
        target.add_vm("web")
        target.add_vm("db", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        has_looked, may_go_on = threading.Event(), threading.Event()

        def wait() -> None:
            has_looked.set()
            may_go_on.wait(60)

        with interrupted(target, READS_VDIS, wait, nth=2) as detaching:
            detach = threading.Thread(target=detaching.detach_volume, args=(iscsi(0), "web"))

            def start_the_detach() -> None:
                detach.start()
                has_looked.wait(60)

            try:
                with interrupted(target, READS_VDIS, start_the_detach) as attaching:
                    got = attaching.attach_volume(iscsi(1), "db")
            finally:
                may_go_on.set()
                detach.join(60)
        assert not detach.is_alive()
        assert target.db.exists("VDI", got.vdi_ref)
        assert plugged(target, got.sr_ref) == [True]

    @pytest.mark.xapi(hosts=2)
    def test_leaves_all_hosts_plugged_where_somebody_plugs_one_again_meanwhile(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web", power_state="Halted")
        sr = volume_ops.attach_volume(iscsi(0), "web").sr_ref
        first = target.db.children(sr, "PBDs")[0]

        def plug_one() -> None:
            volume_ops._session.call("PBD.plug", first)

        with interrupted(target, READS_VDIS, plug_one, nth=2) as ops:
            ops.detach_volume(iscsi(0), "web")
        assert plugged(target, sr) == [True, True]

    def test_whose_answer_is_lost_is_complete_and_silent(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("web")
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "web")
        target.faults.lose_answer("SR.forget")
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []


class TestSomebodyElsesSR:
    @pytest.mark.xapi(hosts=2)
    def test_that_is_in_use_loses_the_pbd_that_was_made_for_our_vm_and_nothing_else(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        here, there = target.db.refs("host")
        sr = target.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="", hosts=[here])
        (vdi,) = [
            ref
            for ref in target.db.children(sr, "VDIs")
            if target.db.get("VDI", ref, "sm_config")["LUNid"] == "1"
        ]
        target.add_vbd(target.add_vm("theirs", resident_on=here), vdi)
        target.add_vm("web", resident_on=there)
        before = target.snapshot()
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(before, target.snapshot()) == []


class TestAnSRThatIsOurs:
    def test_with_the_image_of_a_suspended_vm_is_kept(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        """No VBD leads to such an image."""
        arrange_nfs(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web")
        sleeper = xapi.add_vm("sleeper")
        sr = volume_ops.attach_volume(NFS_XENSM, "web").sr_ref
        with xapi.xapi.lock:
            xapi.db.set("VM", sleeper, suspend_SR=sr)
        volume_ops._session.call("VM.suspend", sleeper)
        image = xapi.db.get("VM", sleeper, "suspend_VDI")
        assert xapi.db.get("VDI", image, "SR") == sr
        volume_ops.detach_volume(NFS_XENSM, "web")
        assert xapi.db.exists("VDI", image)
        volume_ops._session.call("VM.resume", sleeper, False, False)


class TestWhatAnotherProcessDoesAtAnyMoment:
    """The outcome is that of one after the other, or an error that says it and that is worth repeating."""

    MOMENTS = range(1, 11)

    @staticmethod
    @contextmanager
    def after_call(xapi: Simulator, nth: int, action: Callable[[], object]) -> Iterator[VolumeOps]:
        """A VolumeOps of its own after whose nth call the action takes place, once."""
        made: list[str] = []
        is_logged_in = False

        def seen(record: CallRecord) -> None:
            if is_logged_in:
                made.append(record.call)
                if len(made) == nth:
                    action()

        with xenvol.connect(xapi.url, xapi.user, xapi.password, on_call=seen) as session:
            is_logged_in = True
            yield VolumeOps(session)

    @pytest.mark.parametrize("nth", MOMENTS)
    def test_an_attach_to_a_vm_that_starts_ends_with_the_disk_plugged(
        self, target: Simulator, volume_ops: VolumeOps, nth: int
    ) -> None:
        vm = target.add_vm("starting", power_state="Halted")

        def start() -> object:
            return volume_ops._session.call("VM.start", vm, False, False)

        with self.after_call(target, nth, start) as ops:
            attachment = ops.attach_volume(iscsi(0), "starting")
        is_running = target.db.get("VM", vm, "power_state") == "Running"
        assert target.db.get("VBD", attachment.vbd_ref, "currently_attached") == is_running

    @pytest.mark.parametrize("nth", MOMENTS)
    def test_a_connect_while_a_neighbour_is_detached_succeeds(
        self, target: Simulator, volume_ops: VolumeOps, nth: int
    ) -> None:
        target.add_vm("other")
        volume_ops.attach_volume(iscsi(1), "other")

        def detach() -> object:
            return volume_ops.detach_volume(iscsi(1), "other")

        with self.after_call(target, nth, detach) as ops:
            volume = ops.connect_volume(iscsi(0))
        pbds = target.db.children(volume.sr_ref, "PBDs")
        assert [target.db.get("PBD", pbd, "currently_attached") for pbd in pbds] == [True]

    @pytest.mark.parametrize("nth", MOMENTS)
    def test_a_detach_while_the_vm_is_shut_down_succeeds_or_is_worth_repeating(
        self, target: Simulator, volume_ops: VolumeOps, nth: int
    ) -> None:
        vm = target.add_vm("stopping")
        volume_ops.attach_volume(iscsi(0), "stopping")

        def stop() -> object:
            return volume_ops._session.call("VM.hard_shutdown", vm)

        with self.after_call(target, nth, stop) as ops:
            ops.detach_volume(iscsi(0), "stopping")
        assert (target.db.refs("VBD"), target.db.refs("SR")) == ([], [])

    def test_what_is_overtaken_again_and_again_is_said_and_worth_repeating(
        self, target: Simulator, volume_ops: VolumeOps
    ) -> None:
        target.add_vm("other")
        before = target.snapshot()
        target.faults.refuse("SR.introduce", "SR_UUID_EXISTS", "uuid", every=True)
        with pytest.raises(ChangedMeanwhile) as caught:
            volume_ops.attach_volume(iscsi(0), "other")
        assert caught.value.is_transient
        assert isinstance(caught.value.__cause__, XapiError)
        assert changes(before, target.snapshot()) == []
