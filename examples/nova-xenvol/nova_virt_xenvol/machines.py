"""VMs and hosts of the pool, by XenAPI. What concerns storage is left to `xenvol.volumeops.VolumeOps`.

The server's id is the VM's name, and marks it in its other_config. A VM belongs to the host that it runs on; while it
runs on none, to the host of its affinity.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

from nova import exception

from xenvol.errors import XapiError, XenVolError
from xenvol.session import Session

NULL: Final = "OpaqueRef:NULL"
MIB: Final = 1 << 20
MARK: Final = "nova_uuid"
"""The key in other_config, as nova's former driver for XenAPI wrote it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the driver needs to know of a VM."""

    ref: str
    instance_uuid: str
    power_state: str
    """Halted, Paused, Running or Suspended."""
    host_ref: str
    """The host to which it belongs, or the NULL reference."""
    is_on_host: bool
    """Whether it runs there, or is paused there."""


class Machines:
    """The VMs of nova's servers, for one host of the pool. Keeps no state."""

    def __init__(self, session: Session, host_name: str) -> None:
        self._session = session
        self.host_name = host_name
        self.host_ref = self.find_host(host_name)

    def find_host(self, name: str) -> str:
        """Return the reference of the host that has this hostname."""
        found = list(self._session.find("host", {"hostname": name}))
        if len(found) != 1:
            raise exception.ComputeHostNotFound(host=name)
        return found[0]

    def read_host(self) -> dict[str, Any]:
        """Return the record of this host, and in it the bytes of its memory as `memory_total`."""
        record: dict[str, Any] = self._session.call("host.get_record", self.host_ref)
        metrics = self._session.call("host_metrics.get_record", record["metrics"])
        return record | {"memory_total": int(metrics["memory_total"])}

    def list_here(self) -> list[Machine]:
        """Return the servers that belong to this host."""
        here = {"resident_on": self.host_ref, "affinity": self.host_ref}
        found = self._session.find("VM", {"is_a_template": False}, either=here)
        machines = [_machine(ref, vm) for ref, vm in found.items() if MARK in vm["other_config"]]
        return [machine for machine in machines if machine.host_ref == self.host_ref]

    def find(self, instance_uuid: str) -> Machine | None:
        """Return the server's VM, whichever host of the pool it belongs to, or None."""
        found = self._session.find("VM", {"name_label": instance_uuid, "is_a_template": False})
        for ref, vm in found.items():
            if vm["other_config"].get(MARK) == instance_uuid:
                return _machine(ref, vm)
        return None

    def get(self, instance_uuid: str) -> Machine:
        machine = self.find(instance_uuid)
        if machine is None:
            raise exception.InstanceNotFound(instance_id=instance_uuid)
        return machine

    def create(
        self,
        instance_uuid: str,
        *,
        description: str,
        memory_mb: int,
        vcpus: int,
        platform: dict[str, str],
    ) -> Machine:
        """Create a halted VM, without a disk. It will start from its first disk."""
        empty = (
            "PV_bootloader",
            "PV_kernel",
            "PV_ramdisk",
            "PV_args",
            "PV_bootloader_args",
            "PV_legacy_args",
        )
        memory = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
        record = {
            "name_label": instance_uuid,
            "name_description": description,
            "other_config": {MARK: instance_uuid},
            "affinity": self.host_ref,
            **dict.fromkeys(memory, memory_mb * MIB),
            **dict.fromkeys(("VCPUs_max", "VCPUs_at_startup"), vcpus),
            "VCPUs_params": {},
            "HVM_boot_policy": "BIOS order",
            "HVM_boot_params": {"order": "c"},
            "platform": platform,
            "actions_after_shutdown": "destroy",
            "actions_after_reboot": "restart",
            "actions_after_crash": "destroy",
            "user_version": 1,
            "is_a_template": False,
            **dict.fromkeys((*empty, "PCI_bus", "recommendations"), ""),
        }
        ref = self._session.call("VM.create", record)
        return Machine(ref, instance_uuid, "Halted", self.host_ref, is_on_host=False)

    def take_over(self, machine: Machine) -> None:
        """Let the VM belong to this host. If it is on a host that died, it is halted, and its disks are free.

        Raises InstanceExists if the other host lives, since two hosts would write to the disks; xapi asks it.
        """
        if machine.is_on_host:
            try:
                self._session.call("VM.power_state_reset", machine.ref)
            except XapiError as error:
                if error.code in ("DOMAIN_EXISTS", "HOST_IS_LIVE"):
                    raise exception.InstanceExists(name=machine.instance_uuid) from error
                raise
        self.settle(machine)

    def settle(self, machine: Machine) -> None:
        """Let the VM belong to this host also while it is halted."""
        self._session.call("VM.set_affinity", machine.ref, self.host_ref)

    def destroy(self, machine: Machine) -> None:
        """Destroy a halted VM without volumes: xapi would leave connected what shows them."""
        self._session.call("VM.destroy", machine.ref)

    def start(self, machine: Machine) -> None:
        """Start the VM on this host, or resume it."""
        if machine.power_state == "Paused":
            self._run("VM.unpause", machine.ref)
        elif machine.power_state != "Running":
            call = "VM.resume_on" if machine.power_state == "Suspended" else "VM.start_on"
            self._run(call, machine.ref, self.host_ref, False, False)

    def stop(self, machine: Machine, *, patience: float = 0) -> None:
        """Halt the VM. The guest gets `patience` seconds to shut down. Idempotent."""
        if machine.power_state == "Running" and patience > 0:
            try:
                self._run("VM.clean_shutdown", machine.ref, patience=patience)
            except (TimeoutError, XapiError):
                pass  # the guest takes too long, or has no drivers to tell it; a hard shutdown cancels this one
            else:
                return
        if machine.power_state != "Halted":
            try:
                self._run("VM.hard_shutdown", machine.ref)
            except XapiError as error:
                if error.code != "VM_BAD_POWER_STATE" or error.params[-1] != "halted":  # halted meanwhile
                    raise

    def pause(self, machine: Machine) -> None:
        self._run("VM.pause", machine.ref)

    def suspend(self, machine: Machine) -> None:
        """Write the VM's memory to the SR that the pool or the host has for it, and end the VM."""
        self._run("VM.suspend", machine.ref)

    def migrate(self, machine: Machine, host_ref: str) -> None:
        """Move the running VM. Returns if it is on that host, whatever xapi answered."""
        call = "VM.pool_migrate"
        try:
            self._run(call, machine.ref, host_ref, {"live": "true"})
        except XenVolError:
            pending = {"name_label": f"Async.{call}", "status": "pending"}
            while self._session.find("task", pending):  # where no answer came, one of these may be ours
                time.sleep(0.5)
            if self._session.call("VM.get_resident_on", machine.ref) != host_ref:
                raise

    def copy_disk(self, source_ref: str, target_ref: str) -> None:
        """Copy a disk over another one that is not smaller: the one call about storage, as `VolumeOps` has no copy."""
        self._run("VDI.copy", source_ref, NULL, NULL, target_ref)

    def _run(self, call: str, *params: object, patience: float = math.inf) -> None:
        """Make a call that may take longer than a connection may be silent.

        Raises TimeoutError if the call takes more than `patience` seconds. It goes on then.
        """
        task = self._session.call(f"Async.{call}", *params)
        end = time.monotonic() + patience
        pause = 0.02  # seconds
        try:
            while (record := self._session.call("task.get_record", task))["status"] == "pending":
                if time.monotonic() > end:
                    raise TimeoutError(call)
                time.sleep(pause)
                pause = min(2 * pause, 1)
        finally:
            self._session.call("task.destroy", task)
        if record["status"] != "success":
            code, *details = record["error_info"]
            raise XapiError(code, details, call)


def _machine(ref: str, vm: dict[str, Any]) -> Machine:
    is_on_host = vm["resident_on"] != NULL
    host_ref = vm["resident_on"] if is_on_host else vm["affinity"]
    return Machine(ref, vm["other_config"][MARK], vm["power_state"], host_ref, is_on_host)
