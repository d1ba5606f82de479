"""Side effects of calls: what they compute anew, and which of it a vanished disk prevents."""

from __future__ import annotations

import pytest
from vmkit import NULL, Client, client, disk, sr, vbd_record

from xenvol.simulator import Simulator

__all__ = ["client", "disk", "sr"]  # fixtures


class TestARefusedOperation:
    def test_refreshes_what_it_had_marked_before_it_was_refused(
        self, xapi: Simulator, client: Client, sr: str
    ) -> None:
        managed, unmanaged = xapi.add_vdis(sr, 2)
        with xapi.xapi.lock:
            xapi.db.set("VDI", unmanaged, managed=False)
        client("PBD.unplug", client("SR.get_PBDs", sr)[0])
        client("VDI.forget", managed)
        assert "destroy" not in client("SR.get_allowed_operations", sr)
        assert client.refused("VDI.resize", unmanaged, "4096") == ["SR_HAS_NO_PBDS", sr]
        assert "destroy" in client("SR.get_allowed_operations", sr)

    def test_names_the_vm_with_the_newest_slot(self, xapi: Simulator, client: Client, disk: str) -> None:
        vms = [xapi.add_vm(), xapi.add_vm()]
        for vm in vms:
            client("VBD.plug", client("VBD.create", vbd_record(vm, disk, mode="RO")))
        refused = client.refused("VDI.set_on_boot", disk, "persist")
        assert refused == ["VM_BAD_POWER_STATE", vms[1], "halted", "running"]


class TestAVanishedDisk:
    """allowed_operations of a VM's VBDs are computed from the newest to the oldest, until one fails."""

    @pytest.fixture
    def vm(self, xapi: Simulator) -> str:
        return xapi.add_vm()

    @pytest.fixture
    def older(self, client: Client, vm: str, disk: str) -> str:
        vbd: str = client("VBD.create", vbd_record(vm, disk))
        client("VBD.plug", vbd)
        return vbd

    @pytest.fixture
    def vanished(self, xapi: Simulator, client: Client, vm: str, sr: str, older: str) -> str:
        """Return the disk of a newer VBD, whose row vanishes."""
        vdi = xapi.add_vdi(sr)
        client("VBD.create", vbd_record(vm, vdi))
        client("VDI.forget", vdi)
        return vdi

    def test_lets_a_vm_be_paused_and_is_complained_about_afterwards(
        self, client: Client, vm: str, older: str, vanished: str
    ) -> None:
        running = ["attach", "pause", "unpause", "unplug", "unplug_force"]
        assert client.refused("VM.pause", vm) == ["HANDLE_INVALID", "VDI", vanished]
        assert client("VM.get_power_state", vm) == "Paused"
        assert sorted(client("VBD.get_allowed_operations", older)) == running

    def test_leaves_older_slots_as_they_were_when_their_disks_went(
        self, client: Client, vm: str, older: str, vanished: str
    ) -> None:
        assert client.refused("VM.hard_shutdown", vm) == ["HANDLE_INVALID", "VDI", vanished]
        assert client("VM.get_power_state", vm) == "Halted"
        assert not client("VBD.get_currently_attached", older)
        assert sorted(client("VBD.get_allowed_operations", older)) == ["attach", "pause", "unpause"]

    def test_does_not_matter_to_newer_slots(
        self, xapi: Simulator, client: Client, vm: str, sr: str, vanished: str
    ) -> None:
        newer = client("VBD.create", vbd_record(vm, xapi.add_vdi(sr)))
        assert client.refused("VM.hard_shutdown", vm) == ["HANDLE_INVALID", "VDI", vanished]
        assert client("VBD.get_allowed_operations", newer) == ["attach"]


def test_a_task_is_marked_for_destruction_once(client: Client) -> None:
    task = client("task.create", "label", "description")
    client("task.destroy", task)
    refused = client.refused("task.destroy", task)
    assert refused == ["MAP_DUPLICATE_KEY", "task", "current_operations", task, "task"]
    client("task.cancel", task)
    client("task.destroy", task)


def test_a_paused_guest_without_drivers_lacks_nothing(xapi: Simulator, client: Client) -> None:
    vm = xapi.add_vm(kind="hvm", pv_drivers=False)
    assert "checkpoint" not in client("VM.get_allowed_operations", vm)
    client("VM.pause", vm)
    assert "checkpoint" in client("VM.get_allowed_operations", vm)


def test_a_clone_of_a_snapshot_with_memory_is_halted(
    xapi: Simulator, client: Client, sr: str, disk: str
) -> None:
    client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
    vm = xapi.add_vm()
    client("VBD.plug", client("VBD.create", vbd_record(vm, disk)))
    snapshot = client("VM.checkpoint", vm, "with memory")
    assert client("VM.get_power_state", snapshot) == "Suspended"
    before = set(client("VDI.get_all"))
    cloned = client("VM.clone", snapshot, "without")
    assert client("VM.get_power_state", cloned) == "Halted"
    assert client("VM.get_suspend_VDI", cloned) == NULL
    assert len(set(client("VDI.get_all")) - before) == 1


class TestAnEmptyDriveThatIsPlugged:
    """A running domain has the drive, empty or not, and refuses to get another like it."""

    @pytest.fixture
    def drive(self, client: Client, xapi: Simulator) -> str:
        record = vbd_record(xapi.add_vm(), None, mode="RO", type="CD")
        vbd: str = client("VBD.create", record)
        client("VBD.plug", vbd)
        return vbd

    def test_gets_its_medium_but_no_praise(self, client: Client, drive: str, disk: str) -> None:
        (error, _) = client.refused("VBD.insert", drive, disk)
        assert error == "INTERNAL_ERROR"
        row = client("VBD.get_record", drive)
        assert (row["VDI"], row["empty"], row["currently_attached"]) == (disk, False, True)

    def test_gives_the_medium_back(self, client: Client, drive: str, disk: str) -> None:
        client.refused("VBD.insert", drive, disk)
        client("VBD.eject", drive)
        row = client("VBD.get_record", drive)
        assert (row["VDI"], row["empty"], row["currently_attached"]) == (NULL, True, False)


@pytest.mark.parametrize(("uses_storage", "back"), [(True, True), (False, False)])
def test_disks_come_back_with_a_vm_that_slept_except_on_the_recorded_host(
    uses_storage: bool, back: bool
) -> None:
    world = {"pool": {"domains_use_storage": uses_storage}, "hosts": [{"name": "host"}]}
    with Simulator(world=world) as xapi, Client(xapi) as client:
        sr = xapi.add_sr(type="dummy")
        client("pool.set_suspend_image_SR", client("pool.get_all")[0], sr)
        vm = xapi.add_vm()
        vbd = client("VBD.create", vbd_record(vm, xapi.add_vdi(sr)))
        client("VBD.plug", vbd)
        client("VM.suspend", vm)
        assert client("VBD.get_currently_attached", vbd) is back
        client("VM.resume", vm, False, False)
        assert client("VBD.get_currently_attached", vbd) is back
