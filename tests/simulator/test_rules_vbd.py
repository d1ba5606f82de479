"""VBDs: what a VM can get, when, and what follows. docs/background/xapi.md 2.4; traces 04 and 05."""

from __future__ import annotations

from typing import Any

import pytest
from vmkit import NULL, Client, client, disk, in_background, sr, vbd_record, wait_until

from xenvol.simulator import Simulator

__all__ = ["client", "disk", "sr"]  # fixtures


def plugged(client: Client, vbd: str) -> bool:
    return bool(client("VBD.get_currently_attached", vbd))


class TestCreate:
    def test_a_new_vbd_is_not_plugged_and_has_no_device(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        record = vbd_record(xapi.add_vm(), disk, "4", device="xvdq", currently_attached=True)
        vbd = client("VBD.get_record", client("VBD.create", record))
        assert vbd["currently_attached"] is False
        assert vbd["device"] == ""
        assert sorted(vbd["allowed_operations"]) == ["attach", "pause", "plug", "unpause"]

    @pytest.mark.parametrize("name", ["1", "xvdb", "hdb", "01"])
    def test_a_slot_is_taken_by_whatever_name(
        self, xapi: Simulator, client: Client, disk: str, name: str
    ) -> None:
        vm = xapi.add_vm()
        client("VBD.create", vbd_record(vm, disk, "1"))
        assert client.refused("VBD.create", vbd_record(vm, disk, name)) == ["DEVICE_ALREADY_EXISTS", name]

    def test_autodetect_takes_the_lowest_free_slot(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm()
        for taken in ("0", "2"):
            client("VBD.create", vbd_record(vm, disk, taken))
        assert client("VBD.get_userdevice", client("VBD.create", vbd_record(vm, disk))) == "1"

    def test_a_full_vm_has_no_slot_left(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(power_state="Halted")
        for _ in range(255):
            client("VBD.create", vbd_record(vm, disk))
        assert client("VM.get_allowed_VBD_devices", vm) == []
        assert client.refused("VBD.create", vbd_record(vm, disk)) == ["INVALID_DEVICE", "autodetect"]

    def test_slot_and_disk_must_suit_each_other(self, xapi: Simulator, client: Client, sr: str) -> None:
        vm, disk = xapi.add_vm(), xapi.add_vdi(sr)
        fixed = xapi.add_vdi(sr, read_only=True)
        redo = xapi.add_vdi(sr, type="redo_log")
        for record, refusal in (
            (vbd_record(vm, disk, type="CD"), ["VBD_CDS_MUST_BE_READONLY"]),
            (vbd_record(vm, None), ["VBD_NOT_REMOVABLE_MEDIA", "in constructor"]),
            (vbd_record(vm, fixed), ["VDI_READONLY", fixed]),
            (vbd_record(vm, redo), ["VDI_INCOMPATIBLE_TYPE", redo, "Redo log"]),
            (vbd_record(vm, NULL), ["HANDLE_INVALID", "VDI", NULL]),
            (vbd_record(NULL, disk), ["HANDLE_INVALID", "VM", NULL]),
            (vbd_record(vm, None, type="Floppy", mode="RO"), ["VBD_NOT_REMOVABLE_MEDIA", "in constructor"]),
            (vbd_record(vm, disk, "fda", type="Floppy"), ["NOT_IMPLEMENTED"]),
        ):
            assert client.refused("VBD.create", record)[: len(refusal)] == refusal

    def test_the_backend_that_the_storage_wants_is_handed_on(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        with xapi.xapi.lock:
            xapi.xapi.db.map_add("VDI", disk, "sm_config", "backend-kind", "vbd")
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk, other_config={"k": "v"}))
        assert client("VBD.get_other_config", vbd) == {"k": "v", "backend-kind": "vbd"}


class TestPlug:
    def test_plugging_and_unplugging_a_running_pv_vm(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk, "1"))
        assert client("VBD.plug", vbd) == ""
        assert client("VBD.get_device", vbd) == "xvdb"
        assert client.refused("VBD.plug", vbd) == ["DEVICE_ALREADY_ATTACHED", vbd]
        assert client("VBD.unplug", vbd) == ""
        assert client("VBD.get_device", vbd) == "xvdb"
        assert not plugged(client, vbd)
        assert client.refused("VBD.unplug", vbd) == ["DEVICE_ALREADY_DETACHED", vbd]

    @pytest.mark.parametrize("state", ["Halted", "Paused", "Suspended"])
    def test_only_a_running_vm_takes_a_disk(
        self, xapi: Simulator, client: Client, sr: str, disk: str, state: str
    ) -> None:
        client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
        vm = xapi.add_vm(power_state=state)
        vbd = client("VBD.create", vbd_record(vm, disk))
        for method in ("VBD.plug", "VBD.unplug", "VBD.unplug_force"):
            refusal = client.refused(method, vbd)
            assert refusal == ["VM_BAD_POWER_STATE", vm, "running", state.lower()]

    def test_an_hvm_vm_without_drivers_takes_no_disk(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(kind="hvm", pv_drivers=False)
        vbd = client("VBD.create", vbd_record(vm, disk))
        assert client.refused("VBD.plug", vbd) == ["VM_MISSING_PV_DRIVERS", vm]
        assert "plug" not in client("VBD.get_allowed_operations", vbd)

    def test_an_hvm_vm_with_drivers_takes_disks_but_no_drives(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(kind="hvm")
        client("VBD.plug", client("VBD.create", vbd_record(vm, disk)))
        drive = client("VBD.create", vbd_record(vm, None, type="CD", mode="RO"))
        text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
        assert client.refused("VBD.plug", drive) == ["OPERATION_NOT_ALLOWED", text]

    def test_an_hvm_vm_takes_no_read_only_disk(self, xapi: Simulator, client: Client, disk: str) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(kind="hvm"), disk, mode="RO"))
        assert client.refused("VBD.plug", vbd) == ["DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd]
        assert not plugged(client, vbd)

    @pytest.mark.parametrize("kind", ["pv", "pvh"])
    def test_other_vms_take_a_read_only_disk(
        self, xapi: Simulator, client: Client, disk: str, kind: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(kind=kind), disk, mode="RO"))
        client("VBD.plug", vbd)
        assert plugged(client, vbd)

    @pytest.mark.parametrize(
        ("first", "second", "in_use"),
        [("RW", "RW", True), ("RW", "RO", True), ("RO", "RW", True), ("RO", "RO", False)],
    )
    def test_one_writer_is_alone(
        self, xapi: Simulator, client: Client, disk: str, first: str, second: str, in_use: bool
    ) -> None:
        client("VBD.plug", client("VBD.create", vbd_record(xapi.add_vm(), disk, mode=first)))
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk, mode=second))
        if in_use:
            assert client.refused("VBD.plug", vbd) == ["VDI_IN_USE", disk]
        else:
            client("VBD.plug", vbd)

    def test_a_sharable_disk_has_many_writers(self, xapi: Simulator, client: Client, sr: str) -> None:
        """Passes if nothing is raised."""
        disk = xapi.add_vdi(sr, sharable=True)
        for _ in range(2):
            client("VBD.plug", client("VBD.create", vbd_record(xapi.add_vm(), disk)))

    def test_the_disk_of_a_suspended_vm_is_not_in_use(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        """Passes if nothing is raised."""
        client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
        xapi.add_vm(disks=[disk], power_state="Suspended")
        client("VBD.plug", client("VBD.create", vbd_record(xapi.add_vm(), disk)))

    def test_a_slot_that_is_not_unpluggable_keeps_its_disk(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk, unpluggable=False))
        client("VBD.plug", vbd)
        for method in ("VBD.unplug", "VBD.unplug_force"):
            assert client.refused(method, vbd) == ["VBD_NOT_UNPLUGGABLE", vbd]
        client("VBD.set_unpluggable", vbd, True)
        client("VBD.unplug", vbd)

    def test_a_guest_may_keep_its_disk_unless_it_is_forced(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        xapi.guest(vm).refuses_unplug = True
        assert client.refused("VBD.unplug", vbd) == ["DEVICE_DETACH_REJECTED", "VBD", vbd, ""]
        assert plugged(client, vbd)
        client("VBD.unplug_force", vbd)
        assert not plugged(client, vbd)

    def test_a_slot_whose_name_was_changed_leads_to_another_disk(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        """The hypervisor finds no disk there, so xapi records it as unplugged, and the old slot stays in use."""
        vm = xapi.add_vm()
        vbd = client("VBD.create", vbd_record(vm, disk, "1"))
        client("VBD.plug", vbd)
        client("VBD.set_userdevice", vbd, "2")
        client("VBD.unplug", vbd)
        assert not plugged(client, vbd)
        client("VBD.set_userdevice", vbd, "1")
        assert client.refused("VBD.plug", vbd)[0] == "INTERNAL_ERROR"

    def test_plugging_waits_for_the_disk_to_be_free(self, xapi: Simulator, client: Client) -> None:
        """A slow snapshot conflicts with the plug, which waits without an error (trace 12#42)."""
        slow = xapi.add_sr(type="flaky", device_config={"sleep_vdi_snapshot": "0.4"})
        disk = xapi.add_vdi(slow)
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        other = client.another()
        snapshot = in_background(lambda: other("VDI.snapshot", disk, {}))
        wait_until(lambda: client("VDI.get_current_operations", disk) != {})
        client("VBD.plug", vbd)
        assert client("VDI.get_current_operations", disk) == {}
        snapshot.join()


class TestStorage:
    def test_a_plug_needs_the_sr_on_the_vms_host(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        (pbd,) = client("SR.get_PBDs", sr)
        client("PBD.unplug", pbd)
        assert client.refused("VBD.plug", vbd) == ["SR_HAS_NO_PBDS", sr]
        assert not plugged(client, vbd)

    def test_a_plugged_disk_keeps_its_pbd(self, xapi: Simulator, client: Client, sr: str, disk: str) -> None:
        vm = xapi.add_vm(disks=[disk])
        (pbd,) = client("SR.get_PBDs", sr)
        assert client.refused("PBD.unplug", pbd) == ["VDI_IN_USE", disk]
        client("VM.hard_shutdown", vm)
        client("PBD.unplug", pbd)

    def test_a_vdi_that_vanished_under_a_plugged_vbd_refuses_everything(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        """docs/background/recordings.md, finding 8 (storage)."""
        vm = xapi.add_vm(disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        with xapi.xapi.lock:
            xapi.xapi.db.delete("VDI", disk)
        gone = ["HANDLE_INVALID", "VDI", disk]
        for method in ("VBD.unplug", "VBD.unplug_force", "VBD.plug", "VBD.eject"):
            assert client.refused(method, vbd) == gone
        text = f"VBD '{client('VBD.get_uuid', vbd)}' still attached to '{client('VM.get_uuid', vm)}'"
        assert client.refused("VBD.destroy", vbd) == ["OPERATION_NOT_ALLOWED", text]
        assert client.refused("VM.hard_shutdown", vm) == gone
        assert client("VM.get_power_state", vm) == "Halted"

    def test_a_disk_in_a_control_domain_conflicts_with_no_vm(self, xapi: Simulator, client: Client) -> None:
        xapi.storage.host("host1").mounts.make_directory("/srv", size=1 << 40)
        files = xapi.add_sr(type="file", device_config={"location": "/srv/images"}, create=True)
        disk = xapi.add_vdi(files)
        dom0 = client("host.get_control_domain", client("host.get_all")[0])
        xapi.add_vm(disks=[disk])
        vbd = client("VBD.create", vbd_record(dom0, disk))
        client("VBD.plug", vbd)
        assert client("VBD.get_device", vbd).startswith("sm/")
        client("VBD.unplug", vbd)
        client("VBD.destroy", vbd)


class TestDrives:
    def drive(self, client: Client, vm: str, vdi: str | None = None) -> str:
        vbd: str = client("VBD.create", vbd_record(vm, vdi, "3", type="CD", mode="RO"))
        return vbd

    def test_a_medium_goes_in_and_out_of_a_halted_vm(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        drive = self.drive(client, xapi.add_vm(power_state="Halted"))
        assert client.refused("VBD.eject", drive) == ["VBD_IS_EMPTY", drive]
        client("VBD.insert", drive, disk)
        assert client("VBD.get_VDI", drive) == disk
        assert client.refused("VBD.insert", drive, disk) == ["VBD_NOT_EMPTY", drive]
        client("VBD.eject", drive)
        assert client("VBD.get_empty", drive) is True
        assert client("VBD.get_VDI", drive) == NULL

    def test_a_drive_that_an_hvm_vm_started_with_changes_its_medium(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(kind="hvm", power_state="Halted")
        drive = self.drive(client, vm)
        client("VM.start", vm, False, False)
        client("VBD.insert", drive, disk)
        assert plugged(client, drive)
        assert client("VBD.get_VDI", drive) == disk
        client("VBD.eject", drive)
        assert plugged(client, drive)
        assert client("VBD.get_empty", drive) is True

    def test_a_drive_that_came_later_is_unknown_to_an_hvm_domain(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        drive = self.drive(client, xapi.add_vm(kind="hvm"))
        assert client.refused("VBD.insert", drive, disk)[0] == "INTERNAL_ERROR"

    def test_a_pv_vm_gets_the_drive_with_the_medium(self, xapi: Simulator, client: Client, disk: str) -> None:
        drive = self.drive(client, xapi.add_vm())
        client("VBD.insert", drive, disk)
        assert plugged(client, drive)
        client("VBD.eject", drive)
        assert not plugged(client, drive)
        assert client("VBD.get_empty", drive) is True

    def test_a_suspended_vm_leaves_its_media_alone(
        self, xapi: Simulator, client: Client, sr: str, disk: str
    ) -> None:
        client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
        vm = xapi.add_vm(power_state="Suspended")
        drive = self.drive(client, vm)
        refusal = ["VM_BAD_POWER_STATE", vm, "halted, running", "suspended"]
        assert client.refused("VBD.insert", drive, disk) == refusal

    def test_a_disk_is_no_drive(self, xapi: Simulator, client: Client, disk: str) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        for method, *arguments in (("VBD.insert", disk), ("VBD.eject",)):
            assert client.refused(method, vbd, *arguments) == ["VBD_NOT_REMOVABLE_MEDIA", vbd]


class TestRecord:
    def test_a_plugged_vbd_is_not_destroyed(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(disks=[disk])
        (vbd,) = client("VM.get_VBDs", vm)
        assert client.refused("VBD.destroy", vbd)[0] == "OPERATION_NOT_ALLOWED"
        client("VBD.unplug", vbd)
        client("VBD.destroy", vbd)
        assert client.refused("VBD.get_record", vbd) == ["HANDLE_INVALID", "VBD", vbd]

    def test_the_mode_changes_while_the_vm_is_halted(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        vm = xapi.add_vm(power_state="Halted")
        vbd = client("VBD.create", vbd_record(vm, disk))
        client("VBD.set_mode", vbd, "RO")
        client("VM.start", vm, False, False)
        assert client.refused("VBD.set_mode", vbd, "RW") == ["VM_BAD_POWER_STATE", vm, "halted", "running"]

    def test_a_vbd_cannot_be_paused(self, xapi: Simulator, client: Client, sr: str, disk: str) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        assert client.refused("VBD.pause", vbd) == ["SR_OPERATION_NOT_SUPPORTED", sr]
        assert client.refused("VBD.unpause", vbd, "") == ["SR_OPERATION_NOT_SUPPORTED", sr]

    @pytest.mark.parametrize("release", ["24.16.0", "25.33.1"])
    def test_a_vm_on_its_way_gets_no_vbd(self, release: str) -> None:
        """Newer xapi names the conflicting task."""
        with Simulator(release, hosts=2) as xapi, Client(xapi) as client:
            vm, disk = xapi.add_vm(), xapi.add_vdi(xapi.add_sr())
            xapi.guest(vm).stays_in_flight = True
            there = next(host for host in client("host.get_all") if host != client("VM.get_resident_on", vm))
            task = client("Async.VM.pool_migrate", vm, there, {})
            wait_until(lambda: client("VM.get_current_operations", vm) == {task: "pool_migrate"})
            refusal: list[Any] = client.refused("VBD.create", vbd_record(vm, disk))
            expected = ["OTHER_OPERATION_IN_PROGRESS", "VM", vm, "pool_migrate"]
            assert refusal == (expected if release.startswith("24") else [*expected, task])
            xapi.guest(vm).stays_in_flight = False
            wait_until(lambda: client("task.get_status", task) == "success")
            client("VBD.create", vbd_record(vm, disk))


class TestOddities:
    def test_what_keeps_a_vbd_from_being_attached_can_be_asked(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        first, second = xapi.add_vm(power_state="Halted"), xapi.add_vm()
        vbds = [client("VBD.create", vbd_record(vm, disk)) for vm in (first, second)]
        client("VBD.assert_attachable", vbds[0])
        client("VBD.plug", vbds[1])
        assert client.refused("VBD.assert_attachable", vbds[0]) == ["VDI_IN_USE", disk]

    @pytest.mark.parametrize(
        ("fields", "code"), [({"managed": False}, "VDI_NOT_MANAGED"), ({"read_only": True}, "VDI_READONLY")]
    )
    def test_a_disk_that_changed_after_its_vbd_was_made_is_looked_at_again(
        self, xapi: Simulator, client: Client, disk: str, fields: dict[str, bool], code: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        with xapi.xapi.lock:
            xapi.db.set("VDI", disk, **fields)
        assert client.refused("VBD.plug", vbd)[0] == code

    def test_an_unmanaged_disk_is_no_medium(self, xapi: Simulator, client: Client, disk: str) -> None:
        drive = client("VBD.create", vbd_record(xapi.add_vm(), None, "3", type="CD", mode="RO"))
        with xapi.xapi.lock:
            xapi.db.set("VDI", disk, managed=False)
        assert client.refused("VBD.insert", drive, disk) == ["VDI_NOT_MANAGED", disk]

    def test_a_guest_may_say_that_it_takes_no_disk(self, xapi: Simulator, client: Client, disk: str) -> None:
        vm = xapi.add_vm(kind="hvm")
        vbd = client("VBD.create", vbd_record(vm, disk))
        with xapi.xapi.lock:
            metrics = xapi.db.get("VM", vm, "guest_metrics")
            xapi.db.set("VM_guest_metrics", metrics, can_use_hotplug_vbd="no")
        text = "VM states it does not support VBD hotplug."
        assert client.refused("VBD.plug", vbd) == ["OPERATION_NOT_ALLOWED", text]

    def test_a_control_domain_needs_storage_that_it_can_reach_by_nbd(
        self, xapi: Simulator, client: Client, disk: str
    ) -> None:
        """Trace sm/20c#51."""
        dom0 = client("host.get_control_domain", client("host.get_all")[0])
        vbd = client("VBD.create", vbd_record(dom0, disk))
        assert client.refused("VBD.plug", vbd)[0] == "INTERNAL_ERROR"
        assert client("VBD.get_currently_attached", vbd) is False

    @pytest.mark.parametrize(("name", "device"), [("d5", "xvdf"), ("d5p2", "xvdf2")])
    def test_the_older_release_knows_disks_by_number_and_partition(
        self, xapi: Simulator, client: Client, disk: str, name: str, device: str
    ) -> None:
        """The hypervisor's report is matched by name, so the VBD does not learn its device."""
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        with xapi.xapi.lock:
            xapi.db.set("VBD", vbd, userdevice=name)
        client("VBD.plug", vbd)
        assert client("VBD.get_currently_attached", vbd) is True
        assert client("VBD.get_device", vbd) == ""
        assert device in xapi.xapi.domains[client("VBD.get_VM", vbd)].disks

    @pytest.mark.parametrize("name", ["d", "d5q", "nonsense"])
    def test_a_slot_with_an_impossible_name_takes_no_disk(
        self, xapi: Simulator, client: Client, disk: str, name: str
    ) -> None:
        vbd = client("VBD.create", vbd_record(xapi.add_vm(), disk))
        client("VBD.set_userdevice", vbd, name)
        text = f'Failure("Failed to parse device name: {name}")'
        assert client.refused("VBD.plug", vbd) == ["INTERNAL_ERROR", text]
        assert client.refused("VBD.create", vbd_record(xapi.add_vm(), disk, name)) == ["INVALID_DEVICE", name]
