"""Pools of several hosts: where a VM runs, how it moves, and a host's settings. docs/background/xapi.md 7; trace 11."""

from __future__ import annotations

import pytest
from vmkit import NULL, Client, client, disk, hosts, sr, vbd_record, wait_until

from xenvol.simulator import Simulator

__all__ = ["client", "disk", "hosts", "sr"]  # fixtures

pytestmark = pytest.mark.xapi(hosts=2)


def pbd_of(client: Client, sr: str, host: str) -> str:
    return next(pbd for pbd in client("SR.get_PBDs", sr) if client("PBD.get_host", pbd) == host)


class TestPlacement:
    def test_a_vm_starts_where_its_disks_are(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        client("PBD.unplug", pbd_of(client, sr, hosts[1]))
        assert client.refused("VM.start_on", vm, hosts[1], False, False) == ["VM_REQUIRES_SR", vm, sr]
        assert client.refused("VM.assert_can_boot_here", vm, hosts[1]) == ["VM_REQUIRES_SR", vm, sr]
        assert client("VM.get_possible_hosts", vm) == [hosts[0]]
        client("VM.start", vm, False, False)
        assert client("VM.get_resident_on", vm) == hosts[0]

    def test_a_vm_goes_where_it_wishes(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        for host in hosts:
            vm = xapi.add_vm(power_state="Halted")
            client("VM.set_affinity", vm, host)
            client("VM.start", vm, False, False)
            assert client("VM.get_resident_on", vm) == host

    def test_vms_spread_over_the_hosts(self, xapi: Simulator, client: Client) -> None:
        homes = {client("VM.get_resident_on", xapi.add_vm()) for _ in range(2)}
        assert len(homes) == 2

    def test_a_disabled_host_takes_no_vm(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        client("host.disable", hosts[0])
        vm = xapi.add_vm(power_state="Halted")
        assert client.refused("VM.start_on", vm, hosts[0], False, False) == ["HOST_DISABLED", hosts[0]]
        client("host.disable", hosts[1])
        assert client.refused("VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]
        client("host.enable", hosts[1])
        client("VM.start", vm, False, False)

    def test_a_vm_that_is_too_large_for_a_host_starts_where_it_is_not_told_to(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        """VM.start tries again without checking memory; VM.start_on does not."""
        vm = xapi.add_vm(power_state="Halted")
        client("VM.set_memory", vm, str(1 << 40))
        refusal = client.refused("VM.start_on", vm, hosts[0], False, False)
        assert refusal[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
        client("VM.start", vm, False, False)

    def test_what_is_wrong_with_a_vm_is_told_where_it_shall_start(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        vm = xapi.add_vm(power_state="Halted")
        with xapi.xapi.lock:
            xapi.xapi.db.set("VM", vm, VCPUs_max=99)
        assert client.refused("VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]
        assert client.refused("VM.start_on", vm, hosts[0], False, False) == [
            "HOST_NOT_ENOUGH_PCPUS",
            "99",
            "16",
        ]


class TestMigration:
    def test_a_vm_moves_with_its_disks_plugged(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk], resident_on=hosts[0])
        client("VM.pool_migrate", vm, hosts[1], {"live": "true"})
        assert client("VM.get_resident_on", vm) == hosts[1]
        assert client("VM.get_scheduled_to_be_resident_on", vm) == NULL
        client("PBD.unplug", pbd_of(client, sr, hosts[0]))
        assert client.refused("PBD.unplug", pbd_of(client, sr, hosts[1])) == ["VDI_IN_USE", disk]
        (vbd,) = client("VM.get_VBDs", vm)
        client("VBD.unplug", vbd)

    def test_the_destination_must_see_the_disks(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk], resident_on=hosts[0])
        client("PBD.unplug", pbd_of(client, sr, hosts[1]))
        assert client.refused("VM.pool_migrate", vm, hosts[1], {}) == ["VM_REQUIRES_SR", vm, sr]
        assert client("VM.get_resident_on", vm) == hosts[0]

    @pytest.mark.parametrize("state", ["Running", "Suspended"])
    def test_a_vm_stays_where_it_is_when_the_destination_cannot_attach_a_disk(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str, state: str
    ) -> None:
        flaky = xapi.add_sr("flaky", type="flaky", hosts=["host1"])
        config = {"fail_vdi_attach": "VDIInUse"}
        client("PBD.plug", client("PBD.create", {"host": hosts[1], "SR": flaky, "device_config": config}))
        vm = xapi.add_vm(disks=[disk, xapi.add_vdi(flaky)], resident_on=hosts[0], power_state=state)
        if state == "Running":
            assert client.refused("VM.pool_migrate", vm, hosts[1], {})[0] == "VDI_IN_USE"
            assert client("VM.get_resident_on", vm) == hosts[0]
        else:
            assert client.refused("VM.resume_on", vm, hosts[1], False, False)[0] == "VDI_IN_USE"
        assert client("VM.get_power_state", vm) == state
        client("PBD.unplug", pbd_of(client, sr, hosts[1]))

    def test_a_guest_without_drivers_moves_only_by_force(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        vm = xapi.add_vm(kind="hvm", pv_drivers=False, resident_on=hosts[0])
        assert client.refused("VM.pool_migrate", vm, hosts[1], {}) == ["VM_LACKS_FEATURE", vm]
        client("VM.pool_migrate", vm, hosts[1], {"force": "true"})
        assert client("VM.get_resident_on", vm) == hosts[1]

    def test_a_cancelled_migration_ends_where_it_began(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        vm = xapi.add_vm(resident_on=hosts[0])
        xapi.guest(vm).stays_in_flight = True
        task = client("Async.VM.pool_migrate", vm, hosts[1], {})
        wait_until(lambda: client("VM.get_current_operations", vm) != {})
        assert client("VM.get_scheduled_to_be_resident_on", vm) == hosts[1]
        client("task.cancel", task)
        wait_until(lambda: client("task.get_status", task) != "pending")
        assert client("task.get_error_info", task) == ["TASK_CANCELLED", task]
        assert client("VM.get_resident_on", vm) == hosts[0]
        assert client("VM.get_current_operations", vm) == {}

    def test_a_hard_shutdown_ends_a_migration(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        vm = xapi.add_vm(resident_on=hosts[0])
        xapi.guest(vm).stays_in_flight = True
        task = client("Async.VM.pool_migrate", vm, hosts[1], {})
        wait_until(lambda: client("VM.get_current_operations", vm) != {})
        client("VM.hard_shutdown", vm)
        assert client("VM.get_power_state", vm) == "Halted"
        assert client("task.get_status", task) == "cancelled"

    def test_moving_disks_must_all_be_told_where_to_go(
        self, xapi: Simulator, client: Client, hosts: list[str], disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk], resident_on=hosts[0])
        target = xapi.add_sr("target")
        files = xapi.add_sr("no mirror", type="udev", device_config={"location": "/dev/xapi/block"})
        network = client("network.get_all")[0]
        there = client("host.migrate_receive", hosts[1], network, {})
        for vdi_map, refusal in (
            ({}, ["VDI_NOT_IN_MAP", disk]),
            ({disk: files}, ["SR_DOES_NOT_SUPPORT_MIGRATION", files]),
        ):
            assert client.refused("VM.assert_can_migrate", vm, there, True, vdi_map, {}, {}) == refusal
        client("VM.assert_can_migrate", vm, there, True, {disk: target}, {}, {})

    def test_evacuating_a_host_moves_everything_or_says_what_stays(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        stays = xapi.add_vm(disks=[disk], resident_on=hosts[0])
        client("PBD.unplug", pbd_of(client, sr, hosts[1]))
        blocked = client("host.get_vms_which_prevent_evacuation", hosts[0])
        assert blocked == {stays: ["VM_REQUIRES_SR", stays, sr]}
        assert client.refused("host.assert_can_evacuate", hosts[0])[0] == "CANNOT_EVACUATE_HOST"
        client("PBD.plug", pbd_of(client, sr, hosts[1]))
        client("host.evacuate", hosts[0])
        assert client("VM.get_resident_on", stays) == hosts[1]


class TestHost:
    def test_the_initiator_name_stands_in_two_places(self, client: Client, hosts: list[str]) -> None:
        client("host.set_iscsi_iqn", hosts[0], "iqn.2026-11.org:a")
        assert client("host.get_other_config", hosts[0])["iscsi_iqn"] == "iqn.2026-11.org:a"
        assert client.refused("host.set_iscsi_iqn", hosts[0], "") == ["INVALID_VALUE", "value", ""]
        client("host.remove_from_other_config", hosts[0], "iscsi_iqn")
        client("host.add_to_other_config", hosts[0], "iscsi_iqn", "iqn.2026-11.org:b")
        assert client("host.get_iscsi_iqn", hosts[0]) == "iqn.2026-11.org:b"

    def test_multipathing_stands_in_two_places(self, client: Client, hosts: list[str]) -> None:
        client("host.set_multipathing", hosts[0], True)
        config = client("host.get_other_config", hosts[0])
        assert (config["multipathing"], config["multipathhandle"]) == ("true", "dmp")
        assert client("host.get_multipathing", hosts[0]) is True

    def test_a_live_host_is_not_destroyed(self, client: Client, hosts: list[str]) -> None:
        assert client.refused("host.destroy", hosts[1]) == ["HOST_IS_LIVE", hosts[1]]


class TestInterfaces:
    def record(self, vm: str, network: str, **fields: object) -> dict[str, object]:
        values: dict[str, object] = {
            "device": "0",
            "network": network,
            "VM": vm,
            "MAC": "",
            "MTU": "1500",
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
        return {**values, **fields}

    def test_a_mac_follows_from_the_vm_and_the_place(self, xapi: Simulator, client: Client) -> None:
        vm, network = xapi.add_vm(power_state="Halted"), client("network.get_all")[0]
        first = client("VIF.create", self.record(vm, network))
        mac = client("VIF.get_MAC", first)
        client("VIF.destroy", first)
        second = client("VIF.create", self.record(vm, network))
        assert client("VIF.get_MAC", second) == mac
        assert client("VIF.get_MAC_autogenerated", second) is True
        assert client.refused("VIF.create", self.record(vm, network)) == ["DEVICE_ALREADY_EXISTS", "0"]
        assert client.refused("VIF.create", self.record(vm, network, device="abc")) == [
            "INVALID_DEVICE",
            "abc",
        ]
        wrong = self.record(vm, network, device="1", MAC="zz")
        assert client.refused("VIF.create", wrong) == ["MAC_INVALID", "zz"]

    def test_a_network_in_use_stays(self, xapi: Simulator, client: Client) -> None:
        fields = {"name_label": "n", "name_description": "", "MTU": "0", "other_config": {}, "bridge": ""}
        network = client("network.create", {**fields, "managed": True, "tags": []})
        assert client("network.get_MTU", network) == "1500"
        vm = xapi.add_vm(power_state="Halted")
        vif = client("VIF.create", self.record(vm, network))
        client("VM.start", vm, False, False)
        assert client("VIF.get_currently_attached", vif) is True
        assert client.refused("network.destroy", network) == ["NETWORK_CONTAINS_VIF", vif]
        client("VIF.unplug", vif)
        assert client.refused("VIF.unplug", vif) == ["DEVICE_ALREADY_DETACHED", vif]
        client("network.destroy", network)
        assert client.refused("VIF.get_uuid", vif)[0] == "HANDLE_INVALID"


def test_a_message_tells_what_happened_to_a_vm(xapi: Simulator, client: Client) -> None:
    uuid = client("VM.get_uuid", xapi.add_vm())
    (message,) = client("message.get", "VM", uuid, "19700101T00:00:00Z").values()
    assert message["name"] == "VM_STARTED"
    assert client.refused("message.create", "N", "5", "SR", "nobody", "b") == ["UUID_INVALID", "SR", "nobody"]


def test_a_disk_is_read_by_a_vm_on_each_host(
    xapi: Simulator, client: Client, hosts: list[str], disk: str
) -> None:
    """Passes if nothing is raised."""
    for host in hosts:
        vm = xapi.add_vm(resident_on=host)
        client("VBD.plug", client("VBD.create", vbd_record(vm, disk, mode="RO")))
