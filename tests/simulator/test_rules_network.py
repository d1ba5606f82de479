"""Networks and VIFs, as far as VMs need them. Trace 11#46-69; xapi_network.ml, xapi_vif.ml."""

from __future__ import annotations

from typing import Any

import pytest
from vmkit import Client, client

from xenvol.simulator import Simulator

__all__ = ["client"]  # a fixture


def new_network(client: Client, bridge: str = "", **fields: Any) -> str:
    record = {"name_label": "n", "name_description": "", "MTU": "1400", "other_config": {}, "bridge": bridge}
    return str(client("network.create", {**record, "managed": True, "tags": [], **fields}))


def vif_record(vm: str, network: str, device: str = "0", **fields: Any) -> dict[str, Any]:
    record = {"device": device, "network": network, "VM": vm, "MAC": "", "MTU": "1500", "other_config": {}}
    return {**record, "qos_algorithm_type": "", "qos_algorithm_params": {}, **fields}


def new_vif(client: Client, vm: str, network: str, device: str = "0", **fields: Any) -> str:
    return str(client("VIF.create", vif_record(vm, network, device, **fields)))


@pytest.fixture
def network(client: Client) -> str:
    return new_network(client)


@pytest.fixture
def vm(xapi: Simulator) -> str:
    return xapi.add_vm(power_state="Halted")


class TestNetworks:
    def test_a_bridge_gets_the_lowest_free_name(self, client: Client) -> None:
        taken = {client("network.get_bridge", network) for network in client("network.get_all")}
        bridge = client("network.get_bridge", new_network(client))
        assert bridge.startswith("xapi")
        assert bridge not in taken

    @pytest.mark.parametrize("bridge", ["xenbr7", "xapi9", "vif1", "tap0", "eth0", "a" * 16])
    def test_reserved_and_long_bridge_names_are_refused(self, client: Client, bridge: str) -> None:
        record = {"name_label": "", "name_description": "", "MTU": "1500", "other_config": {}}
        refusal = client.refused("network.create", {**record, "bridge": bridge, "managed": True, "tags": []})
        assert refusal == ["INVALID_VALUE", "bridge", bridge]

    def test_two_networks_do_not_share_a_bridge(self, client: Client) -> None:
        network = new_network(client, "mine")
        assert client("network.get_bridge", network) == "mine"
        record = client("network.get_record", network)
        assert client.refused("network.create", record) == ["BRIDGE_NAME_EXISTS", "mine"]

    def test_the_hosts_own_networks_stay(self, xapi: Simulator, client: Client, network: str) -> None:
        key = "is_host_internal_management_network"
        client("network.add_to_other_config", network, key, "true")
        assert client.refused("network.destroy", network) == ["CANNOT_DESTROY_SYSTEM_NETWORK", network]
        client("network.remove_from_other_config", network, key)
        host = client("host.get_all")[0]
        with xapi.xapi.lock:
            pif = xapi.db.create("PIF", network=network, host=host)
        assert client.refused("network.destroy", network) == ["NETWORK_CONTAINS_PIF", pif]

    def test_nbd_is_served_securely_or_insecurely_but_not_both(self, client: Client, network: str) -> None:
        other = new_network(client)
        client("network.add_purpose", network, "nbd")
        client("network.add_purpose", network, "nbd")
        assert client("network.get_purpose", network) == ["nbd"]
        refusal = ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]
        assert client.refused("network.add_purpose", other, "insecure_nbd") == refusal
        client("network.remove_purpose", network, "nbd")
        client("network.add_purpose", other, "insecure_nbd")

    def test_locking_changes_while_nothing_is_plugged_in(self, client: Client, network: str, vm: str) -> None:
        vif = new_vif(client, vm, network)
        client("network.set_default_locking_mode", network, "disabled")
        assert client("network.get_default_locking_mode", network) == "disabled"
        client("VM.start", vm, False, False)
        refusal = ["VIF_IN_USE", network, vif]
        assert client.refused("network.set_default_locking_mode", network, "unlocked") == refusal


class TestInterfaces:
    def test_a_plugged_vif_stays_until_it_is_unplugged(self, client: Client, network: str, vm: str) -> None:
        vif = new_vif(client, vm, network)
        assert client.refused("VIF.plug", vif) == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
        client("VM.start", vm, False, False)
        assert client.refused("VIF.plug", vif) == ["DEVICE_ALREADY_ATTACHED", vif]
        text = "VIF currently attached to a running VM"
        assert client.refused("VIF.destroy", vif) == ["OPERATION_NOT_ALLOWED", text]
        client("VIF.unplug", vif)
        assert client.refused("VIF.unplug", vif) == ["DEVICE_ALREADY_DETACHED", vif]
        client("VIF.plug", vif)
        assert client("VIF.get_currently_attached", vif) is True
        client("VIF.unplug_force", vif)
        client("VIF.destroy", vif)
        assert client("VM.get_VIFs", vm) == []

    def test_a_guest_without_drivers_takes_no_interface(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(kind="hvm", pv_drivers=False)
        vif = new_vif(client, vm, client("network.get_all")[0])
        assert client.refused("VIF.plug", vif) == ["VM_MISSING_PV_DRIVERS", vm]

    def test_a_guest_may_say_that_it_takes_none(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(kind="hvm")
        vif = new_vif(client, vm, client("network.get_all")[0])
        with xapi.xapi.lock:
            xapi.db.set("VM_guest_metrics", xapi.db.get("VM", vm, "guest_metrics"), can_use_hotplug_vif="no")
        text = "VM states it does not support VIF hotplug."
        assert client.refused("VIF.plug", vif) == ["OPERATION_NOT_ALLOWED", text]

    def test_a_control_domain_takes_no_interface(self, client: Client, network: str) -> None:
        dom0 = client("host.get_control_domain", client("host.get_all")[0])
        assert client.refused("VIF.create", vif_record(dom0, network)) == ["MAC_INVALID", ""]
        vif = new_vif(client, dom0, network, MAC="00:16:3e:00:00:01")
        text = "Control domain does not support hotplug"
        assert client.refused("VIF.plug", vif) == ["OPERATION_NOT_ALLOWED", text]

    def test_a_vif_moves_to_another_network(self, client: Client, network: str, vm: str) -> None:
        vif, other = new_vif(client, vm, network), new_network(client)
        client("VIF.move", vif, other)
        assert client("network.get_VIFs", other) == [vif]
        assert client("network.get_VIFs", network) == []
        assert client.refused("VIF.move", vif, "OpaqueRef:x")[:2] == ["HANDLE_INVALID", "network"]

    @pytest.mark.parametrize("family", ["ipv4", "ipv6"])
    def test_allowed_addresses_are_a_set(self, client: Client, network: str, vm: str, family: str) -> None:
        vif = new_vif(client, vm, network)
        client(f"VIF.set_{family}_allowed", vif, ["a", "b", "a"])
        assert client(f"VIF.get_{family}_allowed", vif) == ["a", "b"]
        client(f"VIF.add_{family}_allowed", vif, "c")
        client(f"VIF.add_{family}_allowed", vif, "c")
        client(f"VIF.remove_{family}_allowed", vif, "a")
        assert sorted(client(f"VIF.get_{family}_allowed", vif)) == ["b", "c"]

    def test_a_vif_is_locked_in_a_mode(self, client: Client, network: str, vm: str) -> None:
        vif = new_vif(client, vm, network)
        client("VIF.set_locking_mode", vif, "locked")
        assert client("VIF.get_locking_mode", vif) == "locked"

    def test_a_clone_has_interfaces_of_its_own(self, client: Client, network: str, vm: str) -> None:
        """A snapshot, which never runs beside its VM, has the same address; a clone has another."""
        mac = client("VIF.get_MAC", new_vif(client, vm, network))
        for method, same in (("VM.clone", False), ("VM.snapshot", True)):
            (vif,) = client("VM.get_VIFs", client(method, vm, "copy"))
            assert (client("VIF.get_MAC", vif) == mac) is same
            assert client("VIF.get_network", vif) == network

    def test_reverting_brings_back_the_interfaces(self, client: Client, network: str, vm: str) -> None:
        old = new_vif(client, vm, network)
        mac = client("VIF.get_MAC", old)
        snapshot = client("VM.snapshot", vm, "snap")
        client("VIF.destroy", old)
        new_vif(client, vm, network, "1")
        client("VM.revert", snapshot)
        (vif,) = client("VM.get_VIFs", vm)
        assert (client("VIF.get_MAC", vif), client("VIF.get_device", vif)) == (mac, "0")


@pytest.mark.xapi(hosts=2)
class TestReach:
    def test_a_network_without_interfaces_is_where_its_first_vm_runs(
        self, xapi: Simulator, client: Client, network: str
    ) -> None:
        first, second = xapi.add_vm(power_state="Halted"), xapi.add_vm(power_state="Halted")
        for vm in (first, second):
            new_vif(client, vm, network)
        here, there = client("host.get_all")
        client("VM.start_on", first, here, False, False)
        refusal = ["VM_REQUIRES_NET", second, network]
        assert client.refused("VM.start_on", second, there, False, False) == refusal
        client("VM.start", second, False, False)
        assert client("VM.get_resident_on", second) == here

    @pytest.mark.parametrize(
        "fields", [{"other_config": {"assume_network_is_shared": "true"}}, {"managed": False}]
    )
    def test_a_network_that_others_care_for_is_everywhere(
        self, xapi: Simulator, client: Client, fields: dict[str, Any]
    ) -> None:
        """Passes if nothing is raised."""
        network = new_network(client, "br7", **fields)
        for host in client("host.get_all"):
            vm = xapi.add_vm(power_state="Halted")
            new_vif(client, vm, network)
            client("VM.start_on", vm, host, False, False)

    def test_a_network_with_interfaces_is_where_they_are(
        self, xapi: Simulator, client: Client, network: str
    ) -> None:
        here, there = client("host.get_all")
        with xapi.xapi.lock:
            xapi.db.create("PIF", network=network, host=here)
        vm = xapi.add_vm(power_state="Halted")
        new_vif(client, vm, network)
        assert client.refused("VM.start_on", vm, there, False, False) == ["VM_REQUIRES_NET", vm, network]
        client("VM.start_on", vm, here, False, False)
