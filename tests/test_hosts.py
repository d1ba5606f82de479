"""Which hosts see a volume, by which way each of them comes to it, and what is said of one that cannot."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios import CHAP, GIB, IQN, PORTAL, arrange_target, changes, iscsi, touch_hosts
from tests.test_recovery import mark_dead
from xenvol.errors import HostNotReady, XapiError, XenVolError
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

OTHER_PORTAL = "10.0.0.9:3260"


def through(portal: str, lun: int = 0) -> dict[str, Any]:
    return iscsi(lun, target_portal=portal)


def with_password(password: str, lun: int = 0) -> dict[str, Any]:
    return iscsi(lun, auth_method="CHAP", auth_username=CHAP[0], auth_password=password)


def host(xapi: Simulator, nth: int) -> str:
    ref: str = xapi.db.refs("host")[nth]
    return ref


def on_hosts(xapi: Simulator, nth: int = 0) -> dict[str, dict[str, Any]]:
    """The device_configs of the nth SR's plugged PBDs, by host."""
    pbds = [xapi.db.record("PBD", ref) for ref in xapi.db.children(xapi.db.refs("SR")[nth], "PBDs")]
    return {pbd["host"]: pbd["device_config"] for pbd in pbds if pbd["currently_attached"]}


@pytest.mark.xapi(hosts=3)
class TestAVMThatHAProtects:
    """xapi gives it only what it could start with on every host."""

    @pytest.mark.parametrize(("is_on", "priority", "seen_by"), [(True, "restart", 3), (False, "restart", 1)])
    def test_gets_its_sr_on_every_host_while_ha_is_on(
        self, xapi: Simulator, volume_ops: VolumeOps, is_on: bool, priority: str, seen_by: int
    ) -> None:
        arrange_target(xapi)
        vm = xapi.add_vm("web", resident_on=host(xapi, 0))
        with xapi.xapi.lock:
            xapi.db.set("pool", xapi.db.refs("pool")[0], ha_enabled=is_on)
            xapi.db.set("VM", vm, ha_restart_priority=priority, ha_always_run=True)
        assert volume_ops.attach_volume(iscsi(0), "web").is_plugged
        assert len(on_hosts(xapi)) == seen_by


@pytest.mark.xapi(hosts=2)
class TestAHostThatTheTargetDoesNotAdmit:
    @pytest.mark.parametrize("nth", [0, 1], ids=["master", "slave"])
    def test_is_named_with_its_initiator_in_the_error(
        self, xapi: Simulator, volume_ops: VolumeOps, nth: int
    ) -> None:
        admitted = xapi.db.get("host", host(xapi, 1 - nth), "iscsi_iqn")
        arrange_target(xapi, initiators=[admitted])
        touch_hosts(xapi)
        xapi.add_vm("web", resident_on=host(xapi, 1))
        before = xapi.snapshot()
        with pytest.raises(XapiError) as caught:
            volume_ops.attach_volume(iscsi(0), "web")
        refused = xapi.db.record("host", host(xapi, nth))
        text = "\n".join([str(caught.value), *caught.value.__notes__])
        assert refused["name_label"] in text
        assert refused["iscsi_iqn"] in text
        assert changes(before, xapi.snapshot()) == []

    def test_is_named_when_it_has_no_initiator_name(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        arrange_target(xapi)
        xapi.add_vm("web", resident_on=host(xapi, 1))
        with xapi.xapi.lock:
            xapi.db.set("host", host(xapi, 1), iscsi_iqn="", other_config={})
        with pytest.raises(HostNotReady, match=xapi.db.get("host", host(xapi, 1), "name_label")):
            volume_ops.attach_volume(iscsi(0), "web")


@pytest.mark.xapi(hosts=2)
class TestEachHostHasAWayOfItsOwn:
    @pytest.fixture
    def two(self, xapi: Simulator) -> Simulator:
        arrange_target(xapi, chap=CHAP)
        touch_hosts(xapi)
        xapi.add_vm("near", resident_on=host(xapi, 0))
        xapi.add_vm("far", resident_on=host(xapi, 1))
        return xapi

    def test_a_new_portal_in_the_data_is_used_where_the_old_one_no_longer_answers(
        self, two: Simulator, volume_ops: VolumeOps
    ) -> None:
        two.storage.san.targets[IQN].chap = None
        before = two.snapshot()
        volume_ops.attach_volume(through(PORTAL, 0), "near")
        two.storage.san.add_portal(OTHER_PORTAL, IQN)
        two.storage.san.unreachable(PORTAL)
        attachment = volume_ops.attach_volume(through(OTHER_PORTAL, 1), "far")
        assert attachment.is_plugged
        assert {config["target"] for config in on_hosts(two).values()} == {"10.0.0.1", "10.0.0.9"}
        two.storage.san.portals[PORTAL].state = "answers"
        volume_ops.detach_volume(through(OTHER_PORTAL, 1), "far")
        volume_ops.detach_volume(through(PORTAL, 0), "near")
        assert [line for line in changes(before, two.snapshot()) if not line.startswith("storage.san")] == []

    def test_a_new_password_is_used_on_the_host_that_logs_in_anew(
        self, two: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume_ops.attach_volume(with_password(CHAP[1], 0), "near")
        two.storage.san.targets[IQN].chap = (CHAP[0], "rotated-passw0rd")
        assert volume_ops.attach_volume(with_password("rotated-passw0rd", 1), "far").is_plugged

    def test_a_pbd_of_ours_that_is_idle_is_made_anew_where_its_password_is_no_longer_taken(
        self, two: Simulator, volume_ops: VolumeOps
    ) -> None:
        volume = volume_ops.connect_volume(with_password(CHAP[1], 0))
        for pbd in reversed(two.db.children(volume.sr_ref, "PBDs")):
            volume_ops._session.call("PBD.unplug", pbd)
        two.storage.san.targets[IQN].chap = (CHAP[0], "rotated-passw0rd")
        assert volume_ops.attach_volume(with_password("rotated-passw0rd", 0), "far").is_plugged

    def test_a_pbd_of_somebody_elses_is_never_made_anew(self, two: Simulator, volume_ops: VolumeOps) -> None:
        config = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}
        two.storage.san.targets[IQN].chap = None
        theirs = two.add_sr("theirs", type="iscsi", device_config=config, content_type="")
        for pbd in reversed(two.db.children(theirs, "PBDs")):
            volume_ops._session.call("PBD.unplug", pbd)
        two.storage.san.targets[IQN].chap = CHAP
        before = two.snapshot()
        with pytest.raises(XapiError) as caught:
            volume_ops.attach_volume(with_password(CHAP[1], 0), "near")
        assert caught.value.code == "SR_BACKEND_FAILURE_68"
        assert changes(before, two.snapshot()) == []


@pytest.mark.xapi(hosts=2)
class TestAHostThatIsDown:
    def test_keeps_the_disk_of_its_vm_and_is_named(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        arrange_target(xapi)
        xapi.add_vm("web", resident_on=host(xapi, 1))
        volume_ops.attach_volume(iscsi(0), "web")
        xapi.faults.refuse("VBD.unplug", "HOST_OFFLINE", host(xapi, 1))
        name = xapi.db.get("host", host(xapi, 1), "name_label")
        with pytest.raises(HostNotReady, match=rf"{name}.*power_state_reset"):
            volume_ops.detach_volume(iscsi(0), "web")

    def test_keeps_no_volume_from_growing(self, xapi: Simulator, volume_ops: VolumeOps) -> None:
        """It logs in anew when it starts."""
        arrange_target(xapi)
        xapi.add_vm("web", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        mark_dead(xapi, host(xapi, 1))
        xapi.die(host(xapi, 1))
        xapi.storage.san.resize_lun(IQN, 0, 2 * GIB)
        assert volume_ops.extend_volume(iscsi(0)) == 2 * GIB


@pytest.mark.xapi(hosts=2)
class TestALocalTypeOfSR:
    """Its data lies on one host: xapi would believe a shared one to be everywhere."""

    SR = "5a000000-0000-4000-8000-00000000000a"
    DISK = "d1500000-0000-4000-8000-00000000000a"

    @pytest.fixture
    def info(self, xapi: Simulator) -> dict[str, Any]:
        """A directory with a disk file on the second host alone."""
        touch_hosts(xapi)
        name = xapi.db.get("host", host(xapi, 1), "name_label")
        xapi.storage.host(name).mounts.make_directory("/volumes").add_vhd(self.DISK, GIB)
        keys = {"sr_type": "file", "location": "/volumes", "introduce_sr_keys": ["sr_type", "location"]}
        data = {"volume_id": "volume", "sr_uuid": self.SR, "vdi_uuid": self.DISK, **keys}
        return {"driver_volume_type": "xensm", "data": data}

    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_is_introduced_as_not_shared_on_the_host_that_has_it(
        self, xapi: Simulator, volume_ops: VolumeOps, info: dict[str, Any], power_state: str
    ) -> None:
        resident_on = host(xapi, 1) if power_state == "Running" else None
        xapi.add_vm("web", power_state=power_state, resident_on=resident_on)
        before = xapi.snapshot()
        attachment = volume_ops.attach_volume(info, "web")
        assert not xapi.db.get("SR", attachment.sr_ref, "shared")
        assert list(on_hosts(xapi)) == [host(xapi, 1)]
        volume_ops.detach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []

    def test_is_not_given_to_a_vm_on_another_host(
        self, xapi: Simulator, volume_ops: VolumeOps, info: dict[str, Any]
    ) -> None:
        xapi.add_vm("web", resident_on=host(xapi, 0))
        before = xapi.snapshot()
        with pytest.raises(XenVolError):
            volume_ops.attach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []


@pytest.mark.xapi(hosts=3)
class TestTheConnectorsOfAVM:
    """The hosts to which the service must export a volume for it."""

    @pytest.mark.parametrize(
        ("resident_on", "is_protected", "expected"),
        [(0, False, [0]), (2, False, [0, 2]), (2, True, [0, 1, 2]), (None, False, [0, 1, 2])],
        ids=["master", "slave", "protected", "halted"],
    )
    def test_are_those_of_its_host_and_the_master_or_of_all(
        self,
        xapi: Simulator,
        volume_ops: VolumeOps,
        resident_on: int | None,
        is_protected: bool,
        expected: list[int],
    ) -> None:
        if resident_on is None:
            xapi.add_vm("web", power_state="Halted")
        else:
            vm = xapi.add_vm("web", resident_on=host(xapi, resident_on))
            with xapi.xapi.lock:
                xapi.db.set("pool", xapi.db.refs("pool")[0], ha_enabled=is_protected)
                xapi.db.set("VM", vm, ha_restart_priority="restart" if is_protected else "")
        uuids = [connector["uuid"] for connector in volume_ops.get_connectors("web")]
        assert uuids[0] == xapi.db.get("host", host(xapi, 0), "uuid")
        assert sorted(uuids) == sorted(xapi.db.get("host", host(xapi, nth), "uuid") for nth in expected)
