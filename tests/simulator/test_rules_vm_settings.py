"""A VM's settings: when they can be written, and what follows. xapi_vm.ml; traces 05, 06."""

from __future__ import annotations

from typing import Any

import pytest
from vmkit import NULL, Client, client

from xenvol.simulator import Simulator

__all__ = ["client"]  # a fixture

MIB = 1 << 20


@pytest.fixture
def vm(xapi: Simulator) -> str:
    return xapi.add_vm(power_state="Halted")


@pytest.fixture
def dom0(client: Client) -> str:
    return str(client("host.get_control_domain", client("host.get_all")[0]))


class TestTemplates:
    def test_a_template_has_no_metrics(self, client: Client, vm: str) -> None:
        metrics = client("VM.get_metrics", vm)
        client("VM.set_is_a_template", vm, True)
        assert client("VM.get_metrics", vm) == NULL
        assert client.refused("VM_metrics.get_uuid", metrics) == ["HANDLE_INVALID", "VM_metrics", metrics]

    def test_a_default_template_is_one_and_stays(self, client: Client, vm: str) -> None:
        client("VM.set_is_default_template", vm, True)
        assert client("VM.get_is_a_template", vm) is True
        assert client("VM.get_other_config", vm)["default_template"] == "true"
        assert client.refused("VM.destroy", vm) == ["VM_IS_TEMPLATE", vm, "destroy"]
        client("VM.set_is_default_template", vm, False)
        client("VM.destroy", vm)

    def test_a_clone_of_a_default_template_tells_where_it_came_from(self, client: Client, vm: str) -> None:
        client("VM.set_name_label", vm, "origin")
        client("VM.set_is_default_template", vm, True)
        other_config = client("VM.get_other_config", client("VM.clone", vm, "copy"))
        assert other_config["base_template_name"] == "origin"
        assert "default_template" not in other_config

    def test_provisioning_makes_a_vm_of_a_template(self, client: Client, vm: str) -> None:
        assert client.refused("VM.provision", vm) == ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]
        client("VM.set_is_a_template", vm, True)
        client("VM.provision", vm)
        assert client("VM.get_is_a_template", vm) is False


class TestFields:
    @pytest.mark.parametrize("field", ["start_delay", "shutdown_delay", "order"])
    def test_delays_are_not_negative(self, client: Client, vm: str, field: str) -> None:
        refusal = client.refused(f"VM.set_{field}", vm, "-1")
        assert refusal == ["INVALID_VALUE", f"{field} must be non-negative", "-1"]
        client(f"VM.set_{field}", vm, "3")
        assert client(f"VM.get_{field}", vm) == "3"

    def test_a_priority_is_one_of_three(self, client: Client, vm: str) -> None:
        refusal = client.refused("VM.set_ha_restart_priority", vm, "never")
        assert refusal == ["INVALID_VALUE", "ha_restart_priority", "never"]
        client("VM.set_ha_restart_priority", vm, "best-effort")
        assert client("VM.get_ha_restart_priority", vm) == "best-effort"

    def test_what_high_availability_restarts_is_always_to_run(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        client("VM.set_ha_always_run", vm, True)
        assert client("VM.get_ha_restart_priority", vm) == "restart"
        assert client("VM.get_ha_always_run", vm) is True
        client("VM.hard_shutdown", vm)
        assert client("VM.get_ha_always_run", vm) is False
        client("VM.start", vm, False, False)
        assert client("VM.get_ha_always_run", vm) is True

    def test_processors_at_the_start_are_one_or_more_and_not_more_than_there_are(
        self, client: Client, vm: str
    ) -> None:
        for wrong in ("0", "2"):
            refusal = client.refused("VM.set_VCPUs_at_startup", vm, wrong)
            assert refusal[::2] == ["INVALID_VALUE", wrong]

    def test_a_control_domain_keeps_its_processors(self, client: Client, dom0: str) -> None:
        assert client.refused("VM.set_VCPUs_at_startup", dom0, "1") == [
            "OPERATION_NOT_ALLOWED",
            "set_VCPUs_at_startup is not allowed on dom0",
        ]
        assert client.refused("VM.set_VCPUs_max", dom0, "1") == [
            "OPERATION_NOT_ALLOWED",
            "This operation is not allowed on dom0",
        ]

    @pytest.mark.parametrize(
        ("method", "value", "domain_type", "policy"),
        [
            ("VM.set_domain_type", "hvm", "hvm", "BIOS order"),
            ("VM.set_domain_type", "pvh", "pvh", ""),
            ("VM.set_HVM_boot_policy", "BIOS order", "hvm", "BIOS order"),
            ("VM.set_HVM_boot_policy", "", "pv", ""),
        ],
    )
    def test_domain_type_and_boot_policy_go_together(
        self, client: Client, vm: str, method: str, value: str, domain_type: str, policy: str
    ) -> None:
        client(method, vm, value)
        assert client("VM.get_domain_type", vm) == domain_type
        assert client("VM.get_HVM_boot_policy", vm) == policy

    def test_a_vm_is_of_some_type(self, client: Client, vm: str) -> None:
        refusal = client.refused("VM.set_domain_type", vm, "unspecified")
        assert refusal == ["INVALID_VALUE", "domain_type", "unspecified"]

    def test_the_vendors_device_needs_a_newer_platform(
        self, xapi: Simulator, client: Client, vm: str
    ) -> None:
        client("VM.set_has_vendor_device", vm, True)
        assert client("VM.get_hardware_platform_version", vm) == "2"
        running = xapi.add_vm()
        refusal = ["VM_BAD_POWER_STATE", running, "halted", "running"]
        assert client.refused("VM.set_has_vendor_device", running, True) == refusal

    @pytest.mark.parametrize("field", ["other_config", "platform", "blocked_operations", "NVRAM"])
    def test_maps_refuse_a_key_that_is_there_and_an_empty_one(
        self, client: Client, vm: str, field: str
    ) -> None:
        value = client(f"VM.get_{field}", vm)
        key = "start" if field == "blocked_operations" else "some-key"
        client(f"VM.add_to_{field}", vm, key, "1")
        refusal = client.refused(f"VM.add_to_{field}", vm, key, "2")
        assert (refusal[:2], refusal[3:]) == (["MAP_DUPLICATE_KEY", "VM"], [vm, key])
        client(f"VM.remove_from_{field}", vm, key)
        client(f"VM.remove_from_{field}", vm, key)
        assert client(f"VM.get_{field}", vm) == value
        client(f"VM.set_{field}", vm, {key: "3"})
        assert client(f"VM.get_{field}", vm) == {key: "3"}
        if field != "blocked_operations":
            for refusal in (
                client.refused_in_json(f"VM.add_to_{field}", vm, "", "1"),
                client.refused_in_json(f"VM.set_{field}", vm, {"": "1"}),
            ):
                assert refusal == ["INTERNAL_ERROR", "Db_exn.Empty_key_in_map"]

    def test_a_running_vm_keeps_its_firmwares_variables(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        refusal = ["VM_BAD_POWER_STATE", vm, "halted", "running"]
        assert client.refused("VM.set_NVRAM", vm, {"a": "b"}) == refusal

    def test_some_fields_are_just_written(self, client: Client, vm: str) -> None:
        client("VM.set_actions_after_crash", vm, "destroy")
        client("VM.set_xenstore_data", vm, {"vm-data/x": "y"})
        assert client("VM.get_actions_after_crash", vm) == "destroy"
        assert client("VM.get_xenstore_data", vm) == {"vm-data/x": "y"}

    def test_an_operation_may_be_asked_about_beforehand(self, client: Client, vm: str) -> None:
        client("VM.assert_operation_valid", vm, "start")
        refusal = ["VM_BAD_POWER_STATE", vm, "running", "halted"]
        assert client.refused("VM.assert_operation_valid", vm, "pause") == refusal
        assert client.refused("VM.assert_operation_valid", vm, "query_services") == ["NOT_SYSTEM_DOMAIN", vm]
        client("VM.update_allowed_operations", vm)
        assert client.refused("VM.get_boot_record", vm)[0] == "VM_BAD_POWER_STATE"
        client("VM.start", vm, False, False)
        assert client("VM.get_boot_record", vm)["uuid"] == client("VM.get_uuid", vm)


class TestMemory:
    @pytest.mark.parametrize(
        ("method", "field", "value"),
        [
            ("VM.set_memory_static_min", "memory_static_min", 16 * MIB),
            ("VM.set_memory_static_max", "memory_static_max", 512 * MIB),
            ("VM.set_memory_dynamic_min", "memory_dynamic_min", 100 * MIB),
            ("VM.set_memory_dynamic_max", "memory_dynamic_max", 256 * MIB),
        ],
    )
    def test_each_limit_is_set_alone(
        self, client: Client, vm: str, method: str, field: str, value: int
    ) -> None:
        client("VM.set_memory_limits", vm, str(64 * MIB), str(256 * MIB), str(128 * MIB), str(256 * MIB))
        client(method, vm, str(value))
        assert client(f"VM.get_{field}", vm) == str(value)

    def test_ranges_are_set_at_once_and_stay_in_order(self, client: Client, vm: str) -> None:
        client("VM.set_memory", vm, str(256 * MIB))
        client("VM.set_memory_static_range", vm, str(64 * MIB), str(512 * MIB))
        client("VM.set_memory_dynamic_range", vm, str(128 * MIB), str(512 * MIB))
        assert client("VM.get_memory_target", vm) == str(128 * MIB)
        wrong = client.refused("VM.set_memory_dynamic_range", vm, str(32 * MIB), str(512 * MIB))
        assert wrong == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]

    @pytest.mark.parametrize("switch", ["true", "1"])
    def test_nested_virtualisation_pins_memory(self, client: Client, vm: str, switch: str) -> None:
        client("VM.add_to_platform", vm, "nested-virt", switch)
        low, high = str(128 * MIB), str(256 * MIB)
        refusal = client.refused("VM.set_memory_limits", vm, low, high, low, high)
        assert refusal == ["MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "nested virt"]
        client("VM.set_memory_limits", vm, low, high, high, high)

    def test_an_hvm_vm_needs_more_than_its_memory(self, xapi: Simulator, client: Client, vm: str) -> None:
        hvm = xapi.add_vm(kind="hvm", power_state="Halted")
        overheads = [int(client("VM.compute_memory_overhead", one)) for one in (vm, hvm)]
        assert overheads == [int(client("VM.get_memory_overhead", one)) for one in (vm, hvm)]
        assert overheads[0] < overheads[1]
        client("VM.set_memory", hvm, str(4096 * MIB))
        assert int(client("VM.get_memory_overhead", hvm)) > overheads[1]

    @pytest.mark.parametrize("approximate", [True, False])
    def test_the_most_memory_that_fits_leaves_room_for_the_overhead(
        self, xapi: Simulator, client: Client, approximate: bool
    ) -> None:
        vm, total = xapi.add_vm(kind="hvm", power_state="Halted"), 1024 * MIB
        most = int(client("VM.maximise_memory", vm, str(total), approximate))
        assert 0 < most < total
        assert most % MIB == 0
        if not approximate:
            client("VM.set_memory", vm, str(most))
            overhead = int(client("VM.get_memory_overhead", vm))
            assert most + overhead <= total < most + overhead + 2 * MIB

    @pytest.mark.parametrize(
        ("method", "state"),
        [("VM.set_HVM_shadow_multiplier", "Halted"), ("VM.set_shadow_multiplier_live", "Running")],
    )
    def test_a_shadow_is_as_large_as_its_page_tables_at_least(
        self, xapi: Simulator, client: Client, method: str, state: str
    ) -> None:
        vm = xapi.add_vm(kind="hvm", power_state=state)
        assert client.refused(method, vm, 0.5) == ["INVALID_VALUE", "multiplier", "0.5"]
        before = int(client("VM.get_memory_overhead", vm))
        client(method, vm, 4.0)
        assert client("VM.get_HVM_shadow_multiplier", vm) == 4.0
        assert int(client("VM.get_memory_overhead", vm)) > before

    def test_what_vms_use_is_missing_on_their_host(self, xapi: Simulator, client: Client) -> None:
        host = client("host.get_all")[0]
        before = int(client("host.compute_free_memory", host))
        vm = client("VM.get_record", xapi.add_vm())
        used = int(vm["memory_dynamic_min"]) + int(vm["memory_overhead"])
        assert int(client("host.compute_free_memory", host)) == before - used
        assert client("host.compute_memory_overhead", host) == client("host.get_memory_overhead", host)


class TestCreation:
    def record(self, client: Client, vm: str, **fields: Any) -> dict[str, Any]:
        return {**client("VM.get_record", vm), **fields}

    def test_a_suspended_vm_is_created_with_its_memory_or_not_at_all(self, client: Client, vm: str) -> None:
        whole = {"last_boot_CPU_flags": {"a": "b"}, "last_booted_record": "r", "suspend_VDI": "OpaqueRef:x"}
        record = self.record(client, vm, power_state="Suspended", **whole)
        created = client("VM.create", record)
        assert client("VM.get_power_state", created) == "Suspended"
        for missing in whole:
            partial = {**record, missing: {"last_boot_CPU_flags": {}, "suspend_VDI": NULL}.get(missing, "")}
            refusal = client.refused("VM.create", partial)
            assert (refusal[0], refusal[2:]) == ("VM_BAD_POWER_STATE", ["halted", "suspended"])

    @pytest.mark.parametrize(("policy", "expected"), [("", "pv"), ("BIOS order", "hvm")])
    def test_an_unspecified_type_follows_from_the_boot_policy(
        self, client: Client, vm: str, policy: str, expected: str
    ) -> None:
        record = self.record(client, vm, domain_type="unspecified", HVM_boot_policy=policy)
        assert client("VM.get_domain_type", client("VM.create", record)) == expected

    def test_children_of_a_destroyed_vm_go_to_its_parent(self, client: Client, vm: str) -> None:
        first, second = client("VM.snapshot", vm, "1"), client("VM.snapshot", vm, "2")
        assert client("VM.get_parent", second) == first
        client("VM.destroy", second)
        assert client("VM.get_parent", vm) == first
