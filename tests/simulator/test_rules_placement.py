"""Why a VM does not start, and the state of a VM whose host is lost. xapi_vm_helpers.ml, xapi_vm.ml."""

from __future__ import annotations

from typing import Any

import pytest
from vmkit import NULL, Client, client, disk, hosts, sr, vbd_record

from xenvol.simulator import Simulator

__all__ = ["client", "disk", "hosts", "sr"]  # fixtures

LEAK = "option would leak a domain; VMs and not domains are managed by this API"
DUMP = "cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain"


def force(xapi: Simulator, cls: str, ref: str, **fields: Any) -> None:
    """Write values that no message would."""
    with xapi.xapi.lock:
        xapi.db.set(cls, ref, **fields)


@pytest.fixture
def host(hosts: list[str]) -> str:
    return hosts[0]


class TestParameters:
    @pytest.mark.parametrize(
        ("fields", "refusal"),
        [
            ({"VCPUs_max": 0}, ["INVALID_VALUE", "VCPUs_max", "0"]),
            ({"VCPUs_at_startup": 0}, ["INVALID_VALUE", "VCPUs-at-startup", "0"]),
            (
                {"VCPUs_at_startup": 2},
                ["VALUE_NOT_SUPPORTED", "VCPUs-at-startup", "2", "value greater than VCPUs-max"],
            ),
            ({"memory_static_max": 1}, ["MEMORY_CONSTRAINT_VIOLATION"]),
            ({"memory_dynamic_max": 1}, ["MEMORY_CONSTRAINT_VIOLATION"]),
            ({"HVM_shadow_multiplier": 0.5}, ["INVALID_VALUE", "HVM_shadow_multiplier", "0.5"]),
            (
                {"actions_after_crash": "rename_restart"},
                ["VALUE_NOT_SUPPORTED", "VM.actions_after_crash", "rename_restart", LEAK],
            ),
            (
                {"actions_after_crash": "coredump_and_restart"},
                ["VALUE_NOT_SUPPORTED", "VM.actions_after_crash", "coredump_and_restart", DUMP],
            ),
        ],
    )
    def test_a_vm_with_impossible_settings_does_not_start(
        self, xapi: Simulator, client: Client, host: str, fields: dict[str, Any], refusal: list[str]
    ) -> None:
        vm = xapi.add_vm(kind="hvm", power_state="Halted")
        force(xapi, "VM", vm, **fields)
        assert client.refused("VM.assert_can_boot_here", vm, host) == refusal
        assert client.refused("VM.start_on", vm, host, False, False) == refusal
        assert client("VM.get_power_state", vm) == "Halted"

    def test_only_a_pv_domain_dumps_its_core(self, xapi: Simulator, client: Client, host: str) -> None:
        """Passes if nothing is raised."""
        vm = xapi.add_vm(power_state="Halted")
        client("VM.set_actions_after_crash", vm, "coredump_and_restart")
        client("VM.assert_can_boot_here", vm, host)

    def test_a_vm_may_be_let_have_more_processors_than_there_are(
        self, xapi: Simulator, client: Client, host: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted")
        force(xapi, "VM", vm, VCPUs_max=99)
        assert client.refused("VM.assert_can_boot_here", vm, host)[:2] == ["HOST_NOT_ENOUGH_PCPUS", "99"]
        client("VM.add_to_platform", vm, "vcpu-unrestricted", "true")
        client("VM.assert_can_boot_here", vm, host)

    def test_an_unspecified_type_is_settled_at_the_start(self, xapi: Simulator, client: Client) -> None:
        vm = xapi.add_vm(power_state="Halted")
        force(xapi, "VM", vm, domain_type="unspecified")
        client("VM.start", vm, False, False)
        assert client("VM.get_domain_type", vm) == "pv"


@pytest.mark.xapi(hosts=2)
class TestHosts:
    def test_a_control_domain_belongs_to_its_host(self, client: Client, hosts: list[str]) -> None:
        """For a control domain, the preferred host is required."""
        here, there = hosts
        dom0 = client("host.get_control_domain", here)
        client("VM.set_affinity", dom0, here)
        text = "Cannot boot a control domain on a host different from its affinity"
        assert client.refused("VM.assert_can_boot_here", dom0, there) == ["OPERATION_NOT_ALLOWED", text]

    def test_a_dead_host_takes_no_vm(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        here, there = hosts
        force(xapi, "host_metrics", client("host.get_metrics", there), live=False)
        vm = xapi.add_vm(power_state="Halted")
        assert client.refused("VM.start_on", vm, there, False, False) == ["HOST_NOT_LIVE"]
        assert client.refused("VM.assert_can_boot_here", vm, there) == ["HOST_NOT_LIVE"]
        assert client("VM.get_possible_hosts", vm) == [here]

    def test_a_scheduled_vm_goes_where_it_is_scheduled(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        there = hosts[1]
        vm = xapi.add_vm(power_state="Halted")
        force(xapi, "VM", vm, scheduled_to_be_resident_on=there)
        assert client("VM.get_possible_hosts", vm) == [there]

    def test_an_agile_vm_has_its_disks_everywhere(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        client("VM.assert_agile", vm)
        client("PBD.unplug", client("SR.get_PBDs", sr)[0])
        assert client.refused("VM.assert_agile", vm) == ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr]

    def test_a_protected_vm_takes_no_disk_that_is_not_everywhere(
        self, xapi: Simulator, client: Client, hosts: list[str], sr: str, disk: str
    ) -> None:
        vm = xapi.add_vm(resident_on=hosts[0])
        client("VM.set_ha_restart_priority", vm, "restart")
        force(xapi, "pool", client("pool.get_all")[0], ha_enabled=True)
        local = xapi.add_sr("local", shared=False, hosts=["host1"])
        refusal = ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", local]
        assert client.refused("VBD.create", vbd_record(vm, xapi.add_vdi(local))) == refusal
        client("VBD.create", vbd_record(vm, disk))

    def test_a_suspended_vm_wakes_where_it_is_told_to(
        self, xapi: Simulator, client: Client, hosts: list[str], disk: str
    ) -> None:
        there = hosts[1]
        vm = xapi.add_vm(power_state="Suspended", disks=[disk])
        client("host.disable", there)
        assert client.refused("VM.resume_on", vm, there, False, False) == ["HOST_DISABLED", there]
        client("host.enable", there)
        client("VM.resume_on", vm, there, False, False)
        assert client("VM.get_resident_on", vm) == there

    def test_a_vm_without_its_memory_ends_halted(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(power_state="Suspended", disks=[disk])
        force(xapi, "VM", vm, suspend_VDI=NULL)
        assert client.refused("VM.resume", vm, False, False) == ["VM_HAS_NO_SUSPEND_VDI", "VM", vm]
        assert client("VM.get_power_state", vm) == "Halted"


@pytest.mark.xapi(hosts=2)
class TestReset:
    def test_a_vm_that_runs_is_not_reset(self, xapi: Simulator, client: Client, hosts: list[str]) -> None:
        for host, code in zip(hosts, ("DOMAIN_EXISTS", "HOST_IS_LIVE"), strict=True):
            vm = xapi.add_vm(resident_on=host)
            assert client.refused("VM.power_state_reset", vm)[0] == code

    def test_a_vm_whose_host_is_dead_is_reset(
        self, xapi: Simulator, client: Client, hosts: list[str], disk: str
    ) -> None:
        there = hosts[1]
        vm = xapi.add_vm(resident_on=there, disks=[disk])
        force(xapi, "host_metrics", client("host.get_metrics", there), live=False)
        client("VM.power_state_reset", vm)
        record = client("VM.get_record", vm)
        assert (record["power_state"], record["resident_on"]) == ("Halted", NULL)
        assert client("VBD.get_currently_attached", record["VBDs"][0]) is False

    def test_a_control_domain_is_not_reset(self, client: Client, host: str) -> None:
        dom0 = client("host.get_control_domain", host)
        assert client.refused("VM.power_state_reset", dom0) == ["CANNOT_RESET_CONTROL_DOMAIN", dom0]

    def test_a_lost_host_is_forgotten_when_no_vm_is_left_on_it(
        self, xapi: Simulator, client: Client, hosts: list[str]
    ) -> None:
        there = hosts[1]
        vm, dom0 = xapi.add_vm(resident_on=there), client("host.get_control_domain", there)
        force(xapi, "host_metrics", client("host.get_metrics", there), live=False)
        assert client.refused("host.destroy", there) == ["HOST_HAS_RESIDENT_VMS", there, vm]
        client("VM.power_state_reset", vm)
        client("host.destroy", there)
        assert client.refused("host.get_uuid", there) == ["HANDLE_INVALID", "host", there]
        assert client.refused("VM.get_uuid", dom0)[0] == "HANDLE_INVALID"


@pytest.mark.xapi(hosts=2)
class TestMovingDisks:
    @pytest.fixture
    def goes(self, xapi: Simulator, client: Client, hosts: list[str], disk: str) -> Any:
        """Return a check whether a VM with the disk may move, to a host and with the disk to an SR."""
        here, there = hosts
        vm = xapi.add_vm(resident_on=here, disks=[disk])
        network = client("network.get_all")[0]
        destination = client("host.migrate_receive", there, network, {})

        def ask(target: str, destination: dict[str, str] = destination) -> list[str]:
            arguments = (vm, destination, True, {disk: target}, {}, {}, {})
            return client.refused("VM.assert_can_migrate", *arguments)

        return ask

    def test_the_destination_has_the_sr(self, xapi: Simulator, client: Client, goes: Any) -> None:
        target = xapi.add_sr("target", hosts=["host1"])
        assert goes(target) == ["SR_HAS_NO_PBDS", target]

    def test_the_destination_is_a_host(self, sr: str, goes: Any) -> None:
        assert goes(sr, {"host": "OpaqueRef:x"}) == ["VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED"]

    @pytest.mark.parametrize(
        ("fields", "code"),
        [({"cbt_enabled": True}, "VDI_CBT_ENABLED"), ({"sm_config": {"key_hash": "x"}}, "VDI_IS_ENCRYPTED")],
    )
    def test_some_disks_stay(
        self, xapi: Simulator, disk: str, goes: Any, fields: dict[str, Any], code: str
    ) -> None:
        target = xapi.add_sr("target")
        force(xapi, "VDI", disk, **fields)
        assert goes(target) == [code, disk]


class TestCopies:
    def test_a_copy_has_its_disks_in_the_sr_that_was_named(self, xapi: Simulator, client: Client) -> None:
        """Without a named SR, each disk stays in its own SR."""
        shares = xapi.storage.shares.add_nfs("filer")
        for path in ("/a", "/b"):
            shares.export(path, size=100 << 30)
        source, target = (
            xapi.add_sr(path, type="nfs", device_config={"server": "filer", "serverpath": path}, create=True)
            for path in ("/a", "/b")
        )
        vm = xapi.add_vm(power_state="Halted", disks=[xapi.add_vdi(source, size=4 << 20)])
        for wanted, expected in ((target, target), (NULL, source)):
            (vbd,) = client("VM.get_VBDs", client("VM.copy", vm, "copy", wanted))
            assert client("VDI.get_SR", client("VBD.get_VDI", vbd)) == expected

    def test_disks_are_not_copied_among_images(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm, images = (
            xapi.add_vm(power_state="Halted", disks=[disk]),
            xapi.add_sr("images", content_type="iso"),
        )
        text = "Cannot copy a VM's disks to an ISO SR"
        assert client.refused("VM.copy", vm, "copy", images) == ["OPERATION_NOT_ALLOWED", text]

    def test_a_snapshot_that_remembers_nothing_brings_no_vm_back(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted", disks=[disk])
        snapshot = client("VM.snapshot", vm, "snap")
        client("VM.destroy", vm)
        force(xapi, "VM", snapshot, snapshot_metadata="")
        assert client.refused("VM.revert", snapshot) == ["VM_REVERT_FAILED", snapshot, vm]

    def test_a_revert_that_fails_leaves_the_vm_halted(self, xapi: Simulator, client: Client) -> None:
        flaky = xapi.add_sr("flaky", type="flaky", device_config={"fail_vdi_delete": "VDIInUse"})
        vm = xapi.add_vm(disks=[xapi.add_vdi(flaky)])
        snapshot = client("VM.snapshot", vm, "snap")
        assert client.refused("VM.revert", snapshot) == ["VM_REVERT_FAILED", snapshot, vm]
        assert client("VM.get_power_state", vm) == "Halted"
