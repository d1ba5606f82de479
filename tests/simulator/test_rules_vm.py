"""VMs: made, started, stopped, copied. docs/background/xapi.md 2.4; traces 04, 05, 06."""

from __future__ import annotations

import time
from typing import Any

import pytest
from vmkit import NULL, Client, client, disk, in_background, sr, vbd_record, wait_until

from xenvol.simulator import Simulator

__all__ = ["client", "disk", "sr"]  # fixtures

RUNNING_PV = [
    *("changing_VCPUs_live", "changing_dynamic_range", "checkpoint", "clean_reboot", "clean_shutdown"),
    *("hard_reboot", "hard_shutdown", "metadata_export", "migrate_send", "pause", "pool_migrate", "snapshot"),
    "suspend",
]
HALTED = [
    *("changing_NVRAM", "changing_dynamic_range", "changing_shadow_memory", "changing_static_range", "clone"),
    *("copy", "create_vtpm", "destroy", "export", "make_into_template", "metadata_export", "migrate_send"),
    *("snapshot", "start", "start_on"),
]


def state(client: Client, vm: str) -> str:
    return str(client("VM.get_power_state", vm))


@pytest.fixture
def suspend_sr(client: Client, sr: str) -> str:
    client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
    return sr


class TestPower:
    def test_a_vm_goes_through_all_its_states(self, xapi: Simulator, client: Client, suspend_sr: str) -> None:
        vm = xapi.add_vm(power_state="Halted")
        for method, arguments, then in (
            ("start", (True, False), "Paused"),
            ("unpause", (), "Running"),
            ("pause", (), "Paused"),
            ("unpause", (), "Running"),
            ("clean_reboot", (), "Running"),
            ("suspend", (), "Suspended"),
            ("resume", (False, False), "Running"),
            ("hard_reboot", (), "Running"),
            ("clean_shutdown", (), "Halted"),
            ("start", (False, False), "Running"),
            ("shutdown", (), "Halted"),
        ):
            client(f"VM.{method}", vm, *arguments)
            assert state(client, vm) == then, method

    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("VM.pause", "running"),
            ("VM.unpause", "paused"),
            ("VM.clean_shutdown", "running"),
            ("VM.hard_shutdown", "paused, suspended, running"),
            ("VM.hard_reboot", "paused, running"),
            ("VM.suspend", "running"),
        ],
    )
    def test_what_a_halted_vm_cannot_do_names_the_states_in_which_it_could(
        self, xapi: Simulator, client: Client, method: str, expected: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted")
        assert client.refused(method, vm) == ["VM_BAD_POWER_STATE", vm, expected, "halted"]

    def test_what_may_be_done_follows_from_the_state(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        assert sorted(client("VM.get_allowed_operations", vm)) == RUNNING_PV
        client("VM.hard_shutdown", vm)
        assert sorted(client("VM.get_allowed_operations", vm)) == HALTED

    def test_a_guest_without_drivers_cannot_be_asked_to_do_anything(
        self, xapi: Simulator, client: Client
    ) -> None:
        vm = xapi.add_vm(kind="hvm", pv_drivers=False)
        for method in ("VM.clean_shutdown", "VM.clean_reboot", "VM.suspend"):
            assert client.refused(method, vm) == ["VM_LACKS_FEATURE", vm]
        client("VM.shutdown", vm)
        assert state(client, vm) == "Halted"

    def test_starting_plugs_the_vms_disks_and_halting_unplugs_them(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        client("VM.start", vm, False, False)
        record = client("VBD.get_record", vbd)
        assert (record["currently_attached"], record["device"]) == (True, "xvda")
        assert "destroy" not in client("VDI.get_allowed_operations", disk)
        client("VM.hard_shutdown", vm)
        record = client("VBD.get_record", vbd)
        assert (record["currently_attached"], record["device"]) == (False, "xvda")
        assert "destroy" in client("VDI.get_allowed_operations", disk)

    def test_a_reboot_leaves_unplugged_disks_out(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm()
        vbd = client("VBD.create", vbd_record(vm, disk))
        client("VM.hard_reboot", vm)
        assert client("VBD.get_currently_attached", vbd) is False

    def test_only_an_hvm_vm_starts_with_empty_drives(self, xapi: Simulator, client: Client) -> None:
        for kind in ("pv", "hvm"):
            vm = xapi.add_vm(kind=kind, power_state="Halted")
            drive = client("VBD.create", vbd_record(vm, None, "3", type="CD", mode="RO"))
            client("VM.start", vm, False, False)
            assert client("VBD.get_currently_attached", drive) is (kind == "hvm")

    def test_two_vms_do_not_start_with_one_disk(self, xapi: Simulator, client: Client, disk: str) -> None:
        xapi.add_vm(disks=[disk])
        second = xapi.add_vm(power_state="Halted", disks=[disk])
        assert client.refused("VM.start", second, False, False) == ["VDI_IN_USE", disk]
        assert state(client, second) == "Halted"
        (vbd,) = client("VM.get_VBDs", second)
        assert client("VBD.get_current_operations", vbd) == {}

    def test_a_vm_with_one_disk_in_two_slots_is_in_its_own_way(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk, disk])
        assert client.refused("VM.start", vm, False, False) == ["VDI_IN_USE", disk]

    def test_a_reboot_is_refused_where_a_slot_could_not_be_attached(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        xapi.add_vm(disks=[disk])
        vm = xapi.add_vm()
        client("VBD.create", vbd_record(vm, disk))
        assert client.refused("VM.hard_reboot", vm) == ["VDI_IN_USE", disk]

    def test_a_start_that_the_storage_refuses_leaves_a_halted_vm(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        broken = xapi.add_sr(type="flaky", device_config={"fail_vdi_attach": "VDIInUse"})
        other = xapi.add_vdi(broken)
        vm = xapi.add_vm(power_state="Halted", disks=[disk, other])
        assert client.refused("VM.start", vm, False, False) == ["VDI_IN_USE"]
        record = client("VM.get_record", vm)
        assert (record["power_state"], record["resident_on"]) == ("Halted", NULL)
        assert not any(client("VBD.get_currently_attached", vbd) for vbd in record["VBDs"])
        (pbd,) = client("SR.get_PBDs", sr)
        client("PBD.unplug", pbd)

    def test_a_blocked_operation_says_why_before_anything_else(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        client("VM.add_to_blocked_operations", vm, "start", "because")
        assert client.refused("VM.start", vm, False, False) == ["OPERATION_BLOCKED", vm, "because"]

    def test_a_start_waits_until_a_copy_is_made(self, xapi: Simulator, client: Client) -> None:
        slow = xapi.add_sr(type="flaky", device_config={"sleep_vdi_snapshot": "0.4"})
        vm = xapi.add_vm(power_state="Halted", disks=[xapi.add_vdi(slow)])
        other = client.another()
        snapshot = in_background(lambda: other("VM.snapshot", vm, "snap"))
        wait_until(lambda: client("VM.get_current_operations", vm) != {})
        client("VM.start", vm, False, False)
        snapshot.join()
        assert state(client, vm) == "Running"


class TestSuspend:
    def test_the_memory_lies_in_a_vdi_until_the_vm_is_resumed(
        self, xapi: Simulator, client: Client, suspend_sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        client("VM.suspend", vm)
        image = client("VM.get_suspend_VDI", vm)
        assert client("VDI.get_SR", image) == suspend_sr
        assert client("VDI.get_type", image) == "suspend"
        assert client("VM.get_resident_on", vm) == NULL
        assert client("VBD.get_currently_attached", vbd) is True
        client("VM.resume", vm, False, False)
        assert client("VM.get_suspend_VDI", vm) == NULL
        assert client.refused("VDI.get_uuid", image) == ["HANDLE_INVALID", "VDI", image]
        client("VBD.unplug", vbd)

    def test_without_a_suspend_sr_there_is_no_sleep(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        assert client.refused("VM.suspend", vm) == ["VM_NO_SUSPEND_SR", vm]
        assert state(client, vm) == "Running"

    def test_an_unplugged_suspend_sr_is_found_and_fails(
        self, xapi: Simulator, client: Client, suspend_sr: str
    ) -> None:
        vm = xapi.add_vm()
        client("PBD.unplug", client("SR.get_PBDs", suspend_sr)[0])
        assert client.refused("VM.suspend", vm) == ["SR_HAS_NO_PBDS", suspend_sr]

    def test_a_hard_shutdown_forgets_the_memory(
        self, xapi: Simulator, client: Client, suspend_sr: str
    ) -> None:
        vm = xapi.add_vm(power_state="Suspended")
        image = client("VM.get_suspend_VDI", vm)
        client("VM.hard_shutdown", vm)
        assert client.refused("VDI.get_uuid", image)[0] == "HANDLE_INVALID"


class TestRecord:
    def test_destroying_a_vm_takes_its_slots_and_leaves_its_disks(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        record = client("VM.get_record", vm)
        client("VM.destroy", vm)
        for cls, ref in (("VM", vm), ("VBD", record["VBDs"][0]), ("VM_metrics", record["metrics"])):
            assert client.refused(f"{cls}.get_record", ref) == ["HANDLE_INVALID", cls, ref]
        assert client("VDI.get_VBDs", disk) == []

    def test_a_running_vm_is_not_destroyed(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm()
        refusal = ["VM_BAD_POWER_STATE", vm, "halted, suspended", "running"]
        assert client.refused("VM.destroy", vm) == refusal

    def test_a_template_does_not_start(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        client("VM.set_is_a_template", vm, True)
        assert client.refused("VM.start", vm, False, False) == ["VM_IS_TEMPLATE", vm, "start"]
        client("VM.set_is_a_template", vm, False)
        client("VM.start", vm, False, False)

    def test_a_control_domain_stays_as_it_is(self, xapi: Simulator, client: Client) -> None:
        dom0 = client("host.get_control_domain", client("host.get_all")[0])
        text = "This operation is not allowed on a control domain"
        assert client.refused("VM.hard_shutdown", dom0) == ["OPERATION_NOT_ALLOWED", text]

    def test_limits_of_memory_and_processors_are_in_order(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        low, high = "1048576", "4294967296"
        assert client.refused("VM.set_memory_limits", vm, high, low, low, high) == [
            "MEMORY_CONSTRAINT_VIOLATION_ORDER"
        ]
        client("VM.set_memory_limits", vm, low, high, low, high)
        assert client.refused("VM.set_VCPUs_max", vm, "0")[0] == "INVALID_VALUE"
        client("VM.set_VCPUs_max", vm, "4")
        client("VM.set_VCPUs_at_startup", vm, "2")
        assert client.refused("VM.set_VCPUs_max", vm, "1")[0] == "INVALID_VALUE"

    def test_a_vm_has_room_for_as_many_interfaces_as_its_release_says(self) -> None:
        for release, count in (("24.16.0", 7), ("25.33.1", 16)):
            with Simulator(release) as xapi, Client(xapi) as client:
                vm = xapi.add_vm(power_state="Halted")
                assert client("VM.get_allowed_VIF_devices", vm) == [str(n) for n in range(count)]


class TestCopies:
    def test_a_clone_has_disks_of_its_own_and_owns_them(
        self, xapi: Simulator, client: Client, sr: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[xapi.add_vdi(sr), xapi.add_vdi(sr)])
        clone = client("VM.clone", vm, "copy")
        assert client("VM.get_name_label", clone) == "copy"
        copies = [client("VBD.get_record", vbd) for vbd in client("VM.get_VBDs", clone)]
        originals = {client("VBD.get_VDI", vbd) for vbd in client("VM.get_VBDs", vm)}
        assert originals.isdisjoint(copy["VDI"] for copy in copies)
        assert [copy["other_config"] for copy in copies] == [{"owner": ""}] * 2
        assert client("VM.get_other_config", vm) != client("VM.get_other_config", clone)
        client("VM.start", clone, False, False)

    def test_a_medium_is_not_copied(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(power_state="Halted")
        client("VBD.create", vbd_record(vm, disk, type="CD", mode="RO"))
        (drive,) = client("VM.get_VBDs", client("VM.clone", vm, "copy"))
        assert client("VBD.get_VDI", drive) == disk

    def test_a_snapshot_is_a_template_that_remembers_its_vm(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        snapshot = client("VM.snapshot", vm, "snap")
        record: dict[str, Any] = client("VM.get_record", snapshot)
        assert (record["power_state"], record["is_a_template"]) == ("Halted", True)
        assert (record["is_a_snapshot"], record["snapshot_of"]) == (True, vm)
        assert client("VM.get_snapshots", vm) == [snapshot]
        assert client("VM.get_parent", vm) == snapshot
        assert client.refused("VM.start", snapshot, False, False) == ["VM_IS_SNAPSHOT", snapshot, "start"]

    def test_a_copy_that_fails_leaves_nothing(self, xapi: Simulator, client: Client, sr: str) -> None:
        """The sharable disk, which has no snapshot, is the older one, so the other one's snapshot comes first."""
        vm = xapi.add_vm(power_state="Halted", disks=[xapi.add_vdi(sr, sharable=True), xapi.add_vdi(sr)])
        before = [set(client(f"{cls}.get_all")) for cls in ("VM", "VDI", "VBD")]
        assert client.refused("VM.snapshot", vm, "snap")[0] == "VDI_IS_SHARABLE"
        assert [set(client(f"{cls}.get_all")) for cls in ("VM", "VDI", "VBD")] == before
        assert client("VM.get_current_operations", vm) == {}

    def test_a_copy_needs_a_host_that_sees_the_disks(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        client("PBD.unplug", client("SR.get_PBDs", sr)[0])
        assert client.refused("VM.clone", vm, "copy") == ["NO_HOSTS_AVAILABLE"]

    def test_reverting_brings_back_disks_and_settings(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        snapshot = client("VM.snapshot", vm, "snap")
        client("VM.set_name_description", vm, "changed")
        client("VM.revert", snapshot)
        assert state(client, vm) == "Halted"
        assert client("VM.get_name_description", vm) == ""
        (vbd,) = client("VM.get_VBDs", vm)
        assert client("VBD.get_VDI", vbd) != disk
        assert client.refused("VDI.get_uuid", disk)[0] == "HANDLE_INVALID"
        client("VM.start", vm, False, False)

    def test_reverting_makes_a_lost_vm_anew(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        uuid = client("VM.get_uuid", vm)
        snapshot = client("VM.snapshot", vm, "snap")
        client("VM.destroy", vm)
        client("VM.revert", snapshot)
        again = client("VM.get_by_uuid", uuid)
        assert client("VM.get_snapshot_of", snapshot) == again
        client("VM.start", again, False, False)

    def test_a_checkpoint_holds_the_memory_and_the_vm_runs_on(
        self, xapi: Simulator, client: Client, suspend_sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        checkpoint = client("VM.checkpoint", vm, "check")
        assert state(client, vm) == "Running"
        assert state(client, checkpoint) == "Suspended"
        assert client("VDI.get_type", client("VM.get_suspend_VDI", checkpoint)) == "suspend"

    def test_slots_are_gone_through_newest_first(self, xapi: Simulator, client: Client, sr: str) -> None:
        """Of two reasons against a start, the newer VBD's is reported."""
        first, second = xapi.add_vdi(sr), xapi.add_vdi(sr)
        xapi.add_vm(disks=[first, second])
        vm = xapi.add_vm(power_state="Halted", disks=[first, second])
        assert client.refused("VM.start", vm, False, False) == ["VDI_IN_USE", second]


class TestTasks:
    @pytest.mark.parametrize(
        ("release", "steps"),
        [
            ("24.16.0", {"start": "11", "clean_reboot": "22", "clean_shutdown": "11", "pause": "1"}),
            ("25.33.1", {"start": "6", "clean_reboot": "17", "clean_shutdown": "9", "pause": "1"}),
        ],
    )
    def test_a_task_tells_how_many_steps_the_hypervisor_took(
        self, release: str, steps: dict[str, str]
    ) -> None:
        """A VM with two disks; the numbers of 24.16 are those of walk v24-1, with two disks counted in."""
        with Simulator(release) as xapi, Client(xapi) as client:
            storage = xapi.add_sr()
            vm = xapi.add_vm(power_state="Halted", disks=[xapi.add_vdi(storage), xapi.add_vdi(storage)])
            for method, count in steps.items():
                arguments = (False, False) if method == "start" else ()
                if method == "pause":
                    client("VM.start", vm, False, False)
                task = client(f"Async.VM.{method}", vm, *arguments)
                wait_until(lambda task=task: client("task.get_status", task) != "pending")
                assert client("task.get_other_config", task) == {"debug_info:cancel_points_seen": count}, (
                    method
                )


class TestFeatures:
    """A VM's properties forbid operations that its state would allow."""

    @pytest.mark.parametrize("switch", ["nomigrate", "nested-virt"])
    def test_some_vms_do_not_sleep_or_move(
        self, xapi: Simulator, client: Client, suspend_sr: str, switch: str
    ) -> None:
        """The property is fixed when the VM starts."""
        vm = xapi.add_vm(power_state="Halted")
        client("VM.add_to_platform", vm, switch, "true")
        client("VM.start", vm, False, False)
        client("VM.remove_from_platform", vm, switch)
        assert client.refused("VM.suspend", vm) == ["VM_IS_IMMOBILE", vm]
        allowed = client("VM.get_allowed_operations", vm)
        assert {"suspend", "pool_migrate", "migrate_send"}.isdisjoint(allowed)
        assert ("changing_dynamic_range" in allowed) is (switch == "nomigrate")

    def test_a_disk_that_is_reset_at_every_start_has_no_snapshot(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        with xapi.xapi.lock:
            xapi.db.set("VDI", disk, sm_config={"on_boot": "reset"})
        refusal = ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]
        assert client.refused("VM.snapshot", vm, "snap") == refusal

    def test_delays_around_a_vms_life_are_waited_for(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        client("VM.set_start_delay", vm, "1")
        client("VM.set_shutdown_delay", vm, "1")
        for method, arguments in (("VM.start", (False, False)), ("VM.hard_shutdown", ())):
            began = time.monotonic()
            client(method, vm, *arguments)
            assert time.monotonic() - began >= 1

    def test_a_suspended_vm_is_shut_down_without_being_woken(
        self, xapi: Simulator, client: Client, suspend_sr: str
    ) -> None:
        vm = xapi.add_vm(power_state="Suspended")
        client("VM.shutdown", vm)
        assert state(client, vm) == "Halted"
        assert client("VM.get_suspend_VDI", vm) == NULL

    def test_a_vm_takes_its_consoles_and_interfaces_along(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        with xapi.xapi.lock:
            console = xapi.db.create("console", VM=vm)
        client("VM.destroy", vm)
        assert client.refused("console.get_uuid", console)[0] == "HANDLE_INVALID"
        assert client("VM.get_cooperative", xapi.add_vm()) is True
