"""Hosts that die and come back, and what the pool says and refuses meanwhile. docs/background/xapi.md 7.1."""

from __future__ import annotations

import xmlrpc.client

import pytest
from vmkit import NULL, Client, client, disk, hosts, sr, vbd_record, wait_until

from xenvol.simulator import Simulator
from xenvol.simulator.rules import gc

__all__ = ["client", "disk", "hosts", "sr"]  # fixtures

pytestmark = pytest.mark.xapi(hosts=3)


def is_live(client: Client, host: str) -> bool:
    metrics: str = client("host.get_metrics", host)
    live: bool = client("host_metrics.get_live", metrics)
    return live


def let_pass(xapi: Simulator, seconds: float) -> None:
    """Move the pool's clock, and let the master look around, as it does every 30 seconds."""
    before = xapi.xapi.clock
    xapi.xapi.clock = lambda: before() + seconds
    gc.collect(xapi.xapi)


class TestAHostThatIsSilent:
    def test_is_taken_for_dead_after_ten_minutes(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        xapi.faults.die(host=hosts[1])
        let_pass(xapi, 590)
        assert [is_live(client, host) for host in hosts] == [True, True, True]
        let_pass(xapi, 11)
        assert [is_live(client, host) for host in hosts] == [True, False, True]

    @pytest.mark.xapi(hosts=2, host_assumed_dead_interval=0.05)
    def test_is_taken_for_dead_sooner_if_the_simulator_is_told_so(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        """In less than the 30 seconds between two looks of a real master."""
        xapi.faults.die(host=hosts[1])
        wait_until(lambda: not is_live(client, hosts[1]), seconds=20)
        xapi.reset()
        with Client(xapi) as again:
            xapi.faults.die(host="host2")
            wait_until(lambda: not is_live(again, xapi.db.by_name("host", "host2")[0]), seconds=20)

    def test_is_live_again_at_once_when_it_comes_back(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        before = xapi.snapshot()
        xapi.faults.die(host=hosts[1])
        let_pass(xapi, 601)
        assert before.difference(xapi.snapshot())
        xapi.faults.come_back(hosts[1])
        assert before.difference(xapi.snapshot()) == []
        let_pass(xapi, 601)
        assert is_live(client, hosts[1])

    def test_is_not_noticed_by_a_master_that_is_silent_itself(
        self, xapi: Simulator, hosts: list[str]
    ) -> None:
        xapi.faults.die()
        let_pass(xapi, 601)
        xapi.faults.come_back(hosts[0])
        with Client(xapi) as client:
            assert is_live(client, hosts[1])
            let_pass(xapi, 1)
            assert not is_live(client, hosts[1])

    def test_is_dead_in_a_checkpoint_too(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        vm = xapi.add_vm(resident_on=hosts[1])
        xapi.faults.die(host=hosts[1])
        kept = xapi.checkpoint()
        xapi.faults.come_back()
        xapi.restore(kept)
        assert client.refused("VM.pause", vm) == ["CANNOT_CONTACT_HOST", hosts[1]]

    def test_that_dies_at_a_call_is_as_dead(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        vm = xapi.add_vm(resident_on=hosts[1])
        xapi.faults.die(before="host.is_in_emergency_mode", host=hosts[1])
        with pytest.raises(OSError):  # which one depends on the moment at which the connection ends
            xmlrpc.client.ServerProxy(xapi.urls[1]).host.is_in_emergency_mode()
        assert client.refused("VM.pause", vm) == ["CANNOT_CONTACT_HOST", hosts[1]]

    @pytest.mark.parametrize("seconds", [0, 601])
    @pytest.mark.parametrize(
        ("method", "on"),
        [
            *((f"VM.{name}", "vm") for name in ("pause", "suspend", "shutdown", "clean_shutdown")),
            *((f"VM.{name}", "vm") for name in ("hard_shutdown", "clean_reboot", "hard_reboot")),
            *(("VBD.unplug", "vbd"), ("VBD.unplug_force", "vbd"), ("VBD.plug", "other vbd")),
            *(("PBD.plug", "pbd"), ("PBD.unplug", "pbd"), ("host.disable", "host"), ("host.enable", "host")),
            *(("VIF.unplug", "vif"), ("VBD.eject", "drive")),
        ],
    )
    def test_runs_no_call(
        self,
        xapi: Simulator,
        client: Client,
        hosts: list[str],
        sr: str,
        disk: str,
        method: str,
        on: str,
        seconds: int,
    ) -> None:
        """A call is refused in one way while the host counts as live, in another way afterwards; nothing changes."""
        there = hosts[1]
        vm = xapi.add_vm(resident_on=there, disks=[disk])
        client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
        pbds = client("host.get_PBDs", there)
        iso = xapi.add_vdi(sr)
        vif = {"VM": vm, "network": client("network.get_all")[0], "device": "0", "MAC": "", "MTU": "1500"}
        vif |= {"other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
        named = {
            "vm": vm,
            "host": there,
            "pbd": next(pbd for pbd in pbds if client("PBD.get_SR", pbd) == sr),
            "vbd": client("VM.get_VBDs", vm)[0],
            "other vbd": client("VBD.create", vbd_record(vm, xapi.add_vdi(sr))),
            "vif": client("VIF.create", vif),
            "drive": client("VBD.create", vbd_record(vm, iso, type="CD", mode="RO")),
        }
        client("VIF.plug", named["vif"])
        client("VBD.plug", named["drive"])
        xapi.faults.die(host=there)
        let_pass(xapi, seconds)
        before = xapi.snapshot()
        assert client.refused(method, named[on]) == [
            "HOST_OFFLINE" if seconds else "CANNOT_CONTACT_HOST",
            there,
        ]
        assert before.difference(xapi.snapshot()) == []

    def test_takes_no_vm(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        halted, running = xapi.add_vm(power_state="Halted"), xapi.add_vm(resident_on=hosts[2])
        client("VM.set_affinity", halted, hosts[1])
        xapi.faults.die(host=hosts[1])
        before = xapi.snapshot()
        assert client.refused("VM.start_on", halted, hosts[1], False, False) == [
            "CANNOT_CONTACT_HOST",
            hosts[1],
        ]
        assert client.refused("VM.start", halted, False, False) == ["CANNOT_CONTACT_HOST", hosts[1]]
        moved = client.refused("VM.pool_migrate", running, hosts[1], {"live": "true"})
        assert moved == ["VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED"]
        assert before.difference(xapi.snapshot()) == []
        let_pass(xapi, 601)
        assert client.refused("VM.start_on", halted, hosts[1], False, False) == ["HOST_NOT_LIVE"]
        assert client.refused("VM.pool_migrate", running, hosts[1], {"live": "true"}) == ["HOST_NOT_LIVE"]
        client("VM.start", halted, False, False)
        assert client("VM.get_resident_on", halted) != hosts[1]


class TestDeclaringDead:
    @pytest.mark.parametrize("seconds", [0, 601])
    def test_resets_the_vms_of_a_host_that_does_not_answer(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str, seconds: int
    ) -> None:
        """Also while it counts as live: xapi asks the host. Its PBDs stay, and nothing of other hosts changes."""
        lost = xapi.add_vm("lost", resident_on=hosts[1], disks=[disk])
        xapi.add_vm("other", resident_on=hosts[2], disks=[xapi.add_vdi(sr)])
        xapi.faults.die(host=hosts[1])
        let_pass(xapi, seconds)
        before = xapi.snapshot()
        client("host.declare_dead", hosts[1])
        told = sorted(
            line.partition(": ")[2].partition(":")[0] for line in before.difference(xapi.snapshot())
        )
        assert told == sorted(
            [
                *("allowed_operations", "domid", "power_state", "resident_on"),  # of the VM
                *("currently_attached", "enabled"),  # of its VBD, and of the host
            ]
        )
        record = client("VM.get_record", lost)
        assert (record["power_state"], record["resident_on"], record["domid"]) == ("Halted", NULL, "-1")
        assert is_live(client, hosts[1]) is (seconds == 0)
        assert client("host.get_enabled", hosts[1]) is False
        client("VM.start_on", lost, hosts[2], False, False)
        assert client("VBD.get_currently_attached", record["VBDs"][0]) is True

    def test_is_refused_for_a_host_that_answers(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        xapi.add_vm(resident_on=hosts[1])
        with xapi.xapi.lock:  # the master is live whatever the database says
            xapi.db.set("host_metrics", xapi.db.row("host", hosts[0])["metrics"], live=False)
        before = xapi.snapshot()
        for host in hosts:
            assert client.refused("host.declare_dead", host) == ["HOST_IS_LIVE", host]
        assert client.refused("host.declare_dead", "OpaqueRef:x") == ["HANDLE_INVALID", "host", "OpaqueRef:x"]
        assert before.difference(xapi.snapshot()) == []

    def test_lets_the_host_take_vms_again_when_it_comes_back(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        """Its disks are free there: it was off."""
        vm = xapi.add_vm(resident_on=hosts[1], disks=[disk])
        xapi.faults.die(host=hosts[1])
        client("host.declare_dead", hosts[1])
        xapi.faults.come_back()
        client("VM.start_on", vm, hosts[1], False, False)
        client("VM.hard_shutdown", vm)
        for pbd in client("host.get_PBDs", hosts[1]):
            client("PBD.unplug", pbd)
        assert xapi.xapi.datapaths == {}

    def test_lets_the_host_be_forgotten(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        xapi.add_vm(resident_on=hosts[1])
        xapi.faults.die(host=hosts[1])
        client("host.declare_dead", hosts[1])
        client("host.destroy", hosts[1])
        assert hosts[1] not in client("host.get_all")


class TestResettingAVM:
    def test_needs_no_timeout(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(resident_on=hosts[1], disks=[disk])
        assert client.refused("VM.power_state_reset", vm) == ["HOST_IS_LIVE", hosts[1]]
        xapi.faults.die(host=hosts[1])
        client("VM.power_state_reset", vm)
        client("VM.start_on", vm, hosts[2], False, False)

    def test_ends_what_was_under_way(
        self, xapi: Simulator, client: Client, hosts: list[str], disk: str
    ) -> None:
        vm = xapi.add_vm(resident_on=hosts[1], disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        with xapi.xapi.lock:
            xapi.db.map_add("VM", vm, "current_operations", "OpaqueRef:lost", "suspend")
            xapi.db.map_add("VBD", vbd, "current_operations", "OpaqueRef:lost", "unplug")
        xapi.faults.die(host=hosts[1])
        client("VM.power_state_reset", vm)
        assert client("VM.get_current_operations", vm) == client("VBD.get_current_operations", vbd) == {}
