"""A VM that migrates finds its volumes on the destination, and undoing that unplugs no disk in use."""

from __future__ import annotations

import contextlib

import pytest

import xenvol
from tests.meanwhile import interrupted
from tests.scenarios import (
    GIB,
    IQN,
    PORTAL,
    SCENARIOS,
    Scenario,
    arrange_target,
    changes,
    iscsi,
    scsi_id,
    touch_hosts,
)
from xenvol.errors import UnknownHost, VMBusy, XapiError
from xenvol.session.refs import NULL_REF
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

OTHER_IQN = "iqn.2010-10.org.openstack:volume-b"
THEIRS = {"target": "10.0.0.1", "targetIQN": IQN, "port": "3260"}

pytestmark = pytest.mark.xapi(hosts=2)


@pytest.fixture
def hosts(xapi: Simulator) -> list[str]:
    """The master and another host. A VM "web" runs on the master, and both hosts reach the target."""
    arrange_target(xapi)
    touch_hosts(xapi)
    first, second = xapi.db.refs("host")
    xapi.add_vm("web", resident_on=first)
    return [first, second]


def pbd_on(xapi: Simulator, sr: str, host: str) -> str:
    (pbd,) = [pbd for pbd in xapi.db.children(sr, "PBDs") if xapi.db.get("PBD", pbd, "host") == host]
    return pbd


@pytest.mark.parametrize("fails", [1, 2])
def test_a_preparation_that_fails_takes_back_every_sr(
    xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], fails: int
) -> None:
    """Although the VM has disks in that SR: it uses them on the host where it runs."""
    xapi.storage.san.add_target(OTHER_IQN, PORTAL)
    xapi.storage.san.add_lun(OTHER_IQN, 0, GIB, scsi_id=scsi_id(9))
    volume_ops.attach_volume(iscsi(0), "web")
    volume_ops.attach_volume(iscsi(0, volume_id="other", target_iqn=OTHER_IQN), "web")
    before = xapi.snapshot()
    xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_68", "", "login failed", "", nth=fails)
    with pytest.raises(XapiError, match="login failed"):
        volume_ops.prepare_migration("web", hosts[1])
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("order", ["late_error", "lose_answer", "lose_request"])
def test_a_turn_whose_end_gets_no_right_answer_has_ended_all_the_same(
    xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], order: str
) -> None:
    """xapi can answer INTERNAL_ERROR after the deed (docs/background/recordings.md, finding 3 (xapi))."""
    volume_ops.attach_volume(iscsi(0), "web")
    before = xapi.snapshot()
    strike = getattr(xapi.faults, order)
    strike("SR.remove_from_other_config", *(["INTERNAL_ERROR", "late"] if order == "late_error" else []))
    volume_ops.prepare_migration("web", hosts[1])
    volume_ops.undo_migration("web", hosts[1])
    assert changes(before, xapi.snapshot()) == []


@pytest.mark.parametrize("method", ["VBD.create", "VBD.plug"])
def test_an_attach_that_fails_on_a_second_host_takes_its_pbd_back(
    xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], method: str
) -> None:
    """A VM that runs on another host, with its disk plugged there, does not need the SR on this one."""
    xapi.add_vm("far", resident_on=hosts[1])
    volume_ops.attach_volume(iscsi(0), "web")
    before = xapi.snapshot()
    xapi.faults.refuse(method, "SR_BACKEND_FAILURE_202", "", "ordered", "")
    with pytest.raises(XapiError, match="ordered"):
        volume_ops.attach_volume(iscsi(1), "far")
    assert changes(before, xapi.snapshot()) == []


class TestUndo:
    def test_leaves_a_pbd_that_was_there_before_unplugged_as_it_was(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        sr = xapi.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        volume_ops._session.call("PBD.unplug", pbd_on(xapi, sr, hosts[1]))
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_takes_back_a_pbd_that_was_made_for_it(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        xapi.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="", hosts=[hosts[0]])
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_leaves_a_host_that_its_owner_has_plugged(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        xapi.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="")
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_spares_a_halted_vm_that_may_start_there(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        halted = xapi.add_vm("halted", power_state="Halted")
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.attach_volume(iscsi(1), "halted")
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []
        volume_ops._session.call("VM.start_on", halted, hosts[1], False, False)

    def test_spares_a_volume_that_is_connected_there_without_a_vm(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.connect_volume(iscsi(1), hosts=[hosts[1]])
        before = xapi.snapshot()
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_spares_a_vm_that_runs_there_with_a_disk_for_its_next_start(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        xapi.add_vm("far", resident_on=hosts[1])
        volume_ops.attach_volume(iscsi(0), "web")
        unplugged = volume_ops.attach_volume(iscsi(1), "far", hotplug=False)
        before = xapi.snapshot()
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []
        volume_ops._session.call("VBD.plug", unplugged.vbd_ref)

    @pytest.mark.parametrize("is_ours", [True, False])
    def test_leaves_a_destination_that_is_down_to_the_release_of_the_sr(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], is_ours: bool
    ) -> None:
        if not is_ours:
            xapi.add_sr("theirs", type="iscsi", device_config=THEIRS, content_type="", hosts=[hosts[0]])
        unused = xapi.snapshot()
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.prepare_migration("web", hosts[1])
        metrics = xapi.db.get("host", hosts[1], "metrics")
        with xapi.xapi.lock:
            xapi.db.set("host_metrics", metrics, live=False)
        before = xapi.snapshot()
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []
        with xapi.xapi.lock:
            xapi.db.set("host_metrics", metrics, live=True)
        volume_ops.detach_volume(iscsi(0), "web")
        assert changes(unused, xapi.snapshot()) == []

    def test_spares_a_halted_vm_that_got_a_disk_there_while_it_waited(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        xapi.add_vm("cold", power_state="Halted")
        sr = volume_ops.attach_volume(iscsi(0), "web").sr_ref
        volume_ops.prepare_migration("web", hosts[1])

        def attach_to_the_cold_one() -> None:
            volume_ops.attach_volume(iscsi(1), "cold")

        with interrupted(xapi, "SR.add_to_other_config", attach_to_the_cold_one) as ops:
            ops.undo_migration("web", hosts[1])
        assert xapi.db.get("PBD", pbd_on(xapi, sr, hosts[1]), "currently_attached")

    def test_is_not_kept_from_it_by_a_template_with_a_disk_there(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        template = xapi.add_vm("template", power_state="Halted")
        attachment = volume_ops.attach_volume(iscsi(0), "web")
        xapi.add_vbd(template, attachment.vdi_ref)
        with xapi.xapi.lock:
            xapi.db.set("VM", template, is_a_template=True)
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_spares_every_host_of_a_vm_that_ha_protects(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        """xapi would refuse to unplug the SR under it."""
        vm = xapi.db.by_name("VM", "web")[0]
        with xapi.xapi.lock:
            xapi.db.set("pool", xapi.db.refs("pool")[0], ha_enabled=True)
            xapi.db.set("VM", vm, ha_restart_priority="restart", ha_always_run=True)
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.undo_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize("vm", ["web", "neighbour"])
    def test_takes_no_sr_from_a_vm_that_is_moving(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], vm: str
    ) -> None:
        """The VM's record does not tell its destination."""
        xapi.add_vm("neighbour", resident_on=hosts[0])
        sr = volume_ops.attach_volume(iscsi(0), "web").sr_ref
        volume_ops.attach_volume(iscsi(1), "neighbour")
        volume_ops.prepare_migration("web", hosts[1])
        with xapi.xapi.lock:
            moving = xapi.db.by_name("VM", "web")[0]
            xapi.db.set("VM", moving, current_operations={"OpaqueRef:task": "pool_migrate"})
        with pytest.raises(VMBusy) if vm == "web" else contextlib.nullcontext():
            volume_ops.undo_migration(vm, hosts[1])
        assert xapi.db.get("PBD", pbd_on(xapi, sr, hosts[1]), "currently_attached")

    def test_never_touches_the_master(self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]) -> None:
        xapi.add_vm("far", resident_on=hosts[1])
        attachment = volume_ops.attach_volume(iscsi(0), "far")
        volume_ops.undo_migration("far", hosts[0])
        assert xapi.db.get("PBD", pbd_on(xapi, attachment.sr_ref, hosts[0]), "currently_attached")


class TestPrepare:
    def test_that_fails_is_taken_back(self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_141", "", "no answer", "")
        with pytest.raises(XapiError):
            volume_ops.prepare_migration("web", hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_of_a_vm_without_volumes_does_nothing(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        before = xapi.snapshot()
        assert volume_ops.prepare_migration("web", hosts[1]) == []
        assert changes(before, xapi.snapshot()) == []


class TestTheHost:
    def test_is_meant_by_reference_uuid_or_name(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        uuid = xapi.db.get("host", hosts[1], "uuid")
        name = xapi.db.get("host", hosts[1], "name_label")
        sr_uuid = volume_ops.attach_volume(iscsi(0), "web").sr_uuid
        for host in (hosts[1], uuid, uuid.upper(), name):
            assert volume_ops.prepare_migration("web", host) == [sr_uuid]

    def test_that_is_unknown_is_an_error(self, volume_ops: VolumeOps, hosts: list[str]) -> None:
        for host in ("nowhere", "OpaqueRef:nowhere", "11111111-2222-3333-4444-555555555555"):
            with pytest.raises(UnknownHost, match=host):
                volume_ops.prepare_migration("web", host)

    def test_whose_name_two_have_is_ambiguous_and_both_are_listed(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        with xapi.xapi.lock:
            for host in hosts:
                xapi.db.set("host", host, name_label="twin")
        with pytest.raises(UnknownHost) as caught:
            volume_ops.prepare_migration("web", "twin")
        assert set(caught.value.candidates) == {xapi.db.get("host", host, "uuid") for host in hosts}


class TestTheDestination:
    def test_is_reached_by_the_way_that_the_service_says_for_it(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        """Many arrays give each host a portal, or a target, of its own."""
        volume_ops.attach_volume(iscsi(0), "web")
        xapi.storage.san.add_portal("10.0.0.9:3260", IQN)
        for_destination = iscsi(0, target_portal="10.0.0.9:3260")
        (sr_uuid,) = volume_ops.prepare_migration("web", hosts[1], [for_destination])
        (sr,) = [ref for ref in xapi.db.refs("SR") if xapi.db.get("SR", ref, "uuid") == sr_uuid]
        pbd = pbd_on(xapi, sr, hosts[1])
        assert xapi.db.get("PBD", pbd, "device_config")["target"] == "10.0.0.9"
        assert xapi.db.get("PBD", pbd, "currently_attached")

    @pytest.mark.parametrize("lun", [0, 1])
    def test_is_reached_by_the_way_that_the_service_says_for_one_of_two_volumes_of_a_target(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], lun: int
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        sr = volume_ops.attach_volume(iscsi(1), "web").sr_ref
        xapi.storage.san.add_portal("10.0.0.9:3260", IQN)
        volume_ops.prepare_migration("web", hosts[1], [iscsi(lun, target_portal="10.0.0.9:3260")])
        assert xapi.db.get("PBD", pbd_on(xapi, sr, hosts[1]), "device_config")["target"] == "10.0.0.9"

    def test_is_reached_as_elsewhere_by_a_volume_that_the_service_does_not_name(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        (sr_uuid,) = volume_ops.prepare_migration("web", hosts[1], [iscsi(1, target_portal="10.0.0.9:3260")])
        (sr,) = [ref for ref in xapi.db.refs("SR") if xapi.db.get("SR", ref, "uuid") == sr_uuid]
        assert xapi.db.get("PBD", pbd_on(xapi, sr, hosts[1]), "device_config")["target"] == "10.0.0.1"


class TestADetachOnBehalfOfAHost:
    """nova lets the destination of a failed migration detach, and the source of one that succeeded."""

    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_undoes_a_migration_that_failed_and_spares_the_vm_on_its_source(self, scenario: Scenario) -> None:
        """Cinder gives the destination an attachment of its own, so the fence must not stop it."""
        with Simulator(hosts=3) as xapi, xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
            scenario.arrange(xapi)
            touch_hosts(xapi)
            _, source, destination = xapi.db.refs("host")
            xapi.add_vm("web", resident_on=source)
            ops = VolumeOps(session)
            ops.attach_volume({**scenario.connection_info, "attachment_id": "source"}, "web", "xvdb")
            before = xapi.snapshot()
            for_destination = {**scenario.connection_info, "attachment_id": "destination"}
            ops.prepare_migration("web", destination, [for_destination])
            assert changes(before, xapi.snapshot())
            for _ in range(2):
                ops.detach_volume(for_destination, "web", "xvdb", host=destination)
                assert changes(before, xapi.snapshot()) == []

    def test_releases_the_source_of_a_migration_that_succeeded(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        """From a slave to the master, which stays connected: xapi works there on every shared SR."""
        master, slave = hosts
        vm = xapi.add_vm("far", resident_on=slave)
        untouched = xapi.snapshot()
        sr = volume_ops.attach_volume(iscsi(0), "far").sr_ref
        volume_ops._session.call("VM.pool_migrate", vm, master, {"live": "true"})
        volume_ops.detach_volume(iscsi(0), "far", host=slave)
        assert [xapi.db.get("PBD", pbd, "host") for pbd in xapi.db.children(sr, "PBDs")] == [master]
        assert [each.is_plugged for each in volume_ops.list_volumes("far")] == [True]
        volume_ops.detach_volume(iscsi(0), "far", host=master)
        assert [
            line for line in changes(untouched, xapi.snapshot()) if not line.startswith(('VM "far"', "host "))
        ] == []

    def test_releases_only_the_volume_that_it_names(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        xapi.storage.san.add_target(OTHER_IQN, PORTAL)
        xapi.storage.san.add_lun(OTHER_IQN, 0, GIB, scsi_id=scsi_id(9))
        other = iscsi(0, volume_id="other", target_iqn=OTHER_IQN)
        srs = [volume_ops.attach_volume(info, "web").sr_ref for info in (iscsi(0), other)]
        before = xapi.snapshot()
        volume_ops.prepare_migration("web", hosts[1])
        volume_ops.detach_volume(other, "web", host=hosts[1])
        assert [len(xapi.db.children(sr, "PBDs")) for sr in srs] == [2, 1]
        volume_ops.detach_volume(iscsi(7, volume_id="of another VM"), "web", host=hosts[1])
        assert [len(xapi.db.children(sr, "PBDs")) for sr in srs] == [2, 1]
        assert volume_ops.detach_all("web", host=hosts[1]) == []
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize("named_by", ["reference", "uuid", "name_label"])
    def test_is_a_detach_where_the_vm_runs(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str], named_by: str
    ) -> None:
        before = xapi.snapshot()
        host = hosts[0] if named_by == "reference" else xapi.db.get("host", hosts[0], named_by)
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.detach_volume(iscsi(0), "web", host=host)
        assert changes(before, xapi.snapshot()) == []
        attached = volume_ops.attach_volume(iscsi(0), "web")
        assert [each.volume_id for each in volume_ops.detach_all("web", host=host)] == [attached.volume_id]
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize(
        ("affinity", "is_there"),
        [("none", True), ("this host", True), ("another host", False), ("a host that is gone", True)],
    )
    @pytest.mark.parametrize("call", ["detach_volume", "detach_all"])
    def test_takes_a_halted_vm_for_one_of_the_host_of_its_affinity(
        self,
        xapi: Simulator,
        volume_ops: VolumeOps,
        hosts: list[str],
        affinity: str,
        is_there: bool,
        call: str,
    ) -> None:
        cold = xapi.add_vm("cold", power_state="Halted")
        refs = {
            "none": NULL_REF,
            "this host": hosts[1],
            "another host": hosts[0],
            "a host that is gone": "OpaqueRef:gone",
        }
        volume_ops._session.call("VM.set_affinity", cold, refs[affinity])
        before = xapi.snapshot()
        volume_ops.attach_volume(iscsi(0), "cold")
        attached = xapi.snapshot()
        if call == "detach_all":
            assert len(volume_ops.detach_all("cold", host=hosts[1])) == is_there
        else:
            volume_ops.detach_volume(iscsi(0), "cold", host=hosts[1])
        assert changes(before if is_there else attached, xapi.snapshot()) == []

    def test_is_refused_while_the_vm_moves(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        """The VM arrives or stays: only then is it known which host it left."""
        volume_ops.attach_volume(iscsi(0), "web")
        volume_ops.prepare_migration("web", hosts[1])
        with xapi.xapi.lock:
            moving = xapi.db.by_name("VM", "web")[0]
            xapi.db.set("VM", moving, current_operations={"OpaqueRef:task": "pool_migrate"})
        before = xapi.snapshot()
        for host in hosts:
            with pytest.raises(VMBusy):
                volume_ops.detach_volume(iscsi(0), "web", host=host)
            with pytest.raises(VMBusy):
                volume_ops.detach_all("web", host=host)
        assert changes(before, xapi.snapshot()) == []

    def test_says_in_the_log_that_the_vm_keeps_the_volume(
        self,
        xapi: Simulator,
        volume_ops: VolumeOps,
        hosts: list[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        caplog.set_level("INFO", "xenvol")
        volume_ops.detach_volume(iscsi(0), "web", host=hosts[1])
        volume_ops.detach_all("web", host=hosts[1])
        told = [record.getMessage() for record in caplog.records if "is not on host" in record.getMessage()]
        assert [message.split("keeps ")[1] for message in told] == ["volume volume-0", "its volumes"]

    def test_of_a_vm_that_is_gone_disconnects_the_volume(
        self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]
    ) -> None:
        before = xapi.snapshot()
        gone = xapi.add_vm("gone", power_state="Halted")
        vm_uuid = volume_ops.attach_volume(iscsi(0), "gone").vm_uuid
        volume_ops._session.call("VM.destroy", gone)
        volume_ops.detach_volume(iscsi(0), vm_uuid, host=hosts[1])
        assert changes(before, xapi.snapshot()) == []

    def test_names_a_host_of_the_pool(self, xapi: Simulator, volume_ops: VolumeOps, hosts: list[str]) -> None:
        volume_ops.attach_volume(iscsi(0), "web")
        before = xapi.snapshot()
        with pytest.raises(UnknownHost, match="nowhere"):
            volume_ops.detach_volume(iscsi(0), "web", host="nowhere")
        with pytest.raises(UnknownHost, match="nowhere"):
            volume_ops.detach_all("web", host="nowhere")
        assert changes(before, xapi.snapshot()) == []
