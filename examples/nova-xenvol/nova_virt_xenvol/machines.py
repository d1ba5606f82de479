"""VMs and hosts of the pool, by XenAPI. What concerns storage is left to `xenvol.volumeops.VolumeOps`.

A VM has the server's id as its name, and in its other_config. While it runs it belongs to the host that it runs on,
else to the host of its affinity.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Final

from nova import exception

from xenvol.errors import XapiError
from xenvol.session import Session

NULL: Final = "OpaqueRef:NULL"
MIB: Final = 1 << 20
MARK: Final = "nova_uuid"
"""The key of other_config, the same that nova's former XenAPI driver wrote."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the driver needs to know of a VM."""

    ref: str
    uuid: str
    """The server's, not xapi's."""
    power_state: str
    """Halted, Paused, Running or Suspended."""
    host_ref: str | None
    """The host to which the VM belongs; None if that is any."""
    is_on_host: bool
    """Whether its memory is on that host now."""


class Machines:
    """The VMs of nova's servers on one host of the pool. Keeps no state."""

    def __init__(self, session: Session, host_name: str) -> None:
        self._session = session
        self.host_name = host_name
        self.host_ref = self.find_host(host_name)

    def find_host(self, name: str) -> str:
        """Return the reference of the host with this hostname."""
        found = list(self._session.find("host", {"hostname": name}))
        if len(found) != 1:
            raise exception.ComputeHostNotFound(host=name)
        return found[0]

    def host(self) -> dict[str, Any]:
        """Return the host's record, with its memory in bytes as `memory_total`."""
        record: dict[str, Any] = self._session.call("host.get_record", self.host_ref)
        metrics = self._session.call("host_metrics.get_record", record["metrics"])
        return record | {"memory_total": int(metrics["memory_total"])}

    def is_live(self, host_ref: str) -> bool:
        """Return whether xapi gets heartbeats of that host."""
        metrics = self._session.call("host.get_metrics", host_ref)
        return bool(self._session.call("host_metrics.get_live", metrics))

    # ---- finding

    def list(self) -> list[Machine]:
        """Return the servers that belong to this host."""
        found = self._session.find(
            "VM", {"is_a_template": False}, either={"resident_on": self.host_ref, "affinity": self.host_ref}
        )
        machines = [_machine(ref, vm) for ref, vm in found.items() if MARK in vm["other_config"]]
        return [machine for machine in machines if machine.host_ref == self.host_ref]

    def find(self, uuid: str) -> Machine | None:
        """Return the server's VM, on any host of the pool, or None."""
        found = self._session.find("VM", {"name_label": uuid, "is_a_template": False})
        machines = [_machine(ref, vm) for ref, vm in found.items() if vm["other_config"].get(MARK) == uuid]
        return machines[0] if machines else None

    def get(self, uuid: str) -> Machine:
        machine = self.find(uuid)
        if machine is None:
            raise exception.InstanceNotFound(instance_id=uuid)
        return machine

    # ---- making and destroying

    def create(
        self, uuid: str, *, description: str, memory_mb: int, vcpus: int, platform: dict[str, str]
    ) -> Machine:
        """Create a halted VM without disks, which starts from its first disk."""
        memory = str(memory_mb * MIB)
        ref = self._session.call(
            "VM.create",
            {
                "name_label": uuid,
                "name_description": description,
                "other_config": {MARK: uuid},
                "affinity": self.host_ref,
                "platform": platform,
                "HVM_boot_policy": "BIOS order",
                "HVM_boot_params": {"order": "c"},
                **dict.fromkeys(("memory_static_min", "memory_static_max"), memory),
                **dict.fromkeys(("memory_dynamic_min", "memory_dynamic_max"), memory),
                **dict.fromkeys(("VCPUs_max", "VCPUs_at_startup"), str(vcpus)),
                "VCPUs_params": {},
                "actions_after_shutdown": "destroy",
                "actions_after_reboot": "restart",
                "actions_after_crash": "destroy",
                "user_version": "1",
                "is_a_template": False,
                **dict.fromkeys(
                    ("PV_bootloader", "PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader_args"), ""
                ),
                **dict.fromkeys(("PV_legacy_args", "PCI_bus", "recommendations"), ""),
            },
        )
        return Machine(ref, uuid, "Halted", self.host_ref, is_on_host=False)

    def take_over(self, machine: Machine) -> Machine:
        """Make this host the one to which the VM belongs. If the VM was on a host that is dead, it is halted now.

        xapi must know that the host is dead, or the storage would refuse the disks, as the host still has them.
        """
        if machine.is_on_host:
            assert machine.host_ref is not None
            if self.is_live(machine.host_ref):
                raise exception.InstanceExists(name=machine.uuid)
            self._session.call("host.declare_dead", machine.host_ref)
        self._session.call("VM.set_affinity", machine.ref, self.host_ref)
        return Machine(machine.ref, machine.uuid, "Halted", self.host_ref, is_on_host=False)

    def destroy(self, machine: Machine) -> None:
        """Destroy a halted VM. It must have no disks: xapi would leave what shows them connected."""
        self._session.call("VM.destroy", machine.ref)

    # ---- power

    def start(self, machine: Machine) -> None:
        if machine.host_ref != self.host_ref:
            self._session.call("VM.set_affinity", machine.ref, self.host_ref)
        self._run("VM.start_on", machine.ref, self.host_ref, False, False)

    def stop(self, machine: Machine, *, patience: float = 0) -> None:
        """Halt the VM. The guest has `patience` seconds to shut itself down. Idempotent."""
        if machine.power_state == "Running" and patience > 0:
            try:
                return self._run("VM.clean_shutdown", machine.ref, patience=patience)
            except (TimeoutError, XapiError):  # the guest is too slow, or has no drivers that would tell it
                pass
        if machine.power_state != "Halted":
            self._run("VM.hard_shutdown", machine.ref)
        return None

    def reboot(self, machine: Machine) -> None:
        self._run("VM.clean_reboot", machine.ref)

    def pause(self, machine: Machine) -> None:
        self._run("VM.pause", machine.ref)

    def unpause(self, machine: Machine) -> None:
        self._run("VM.unpause", machine.ref)

    def suspend(self, machine: Machine) -> None:
        """Write the VM's memory to an SR: the pool's suspend_image_SR, or that of the host."""
        self._run("VM.suspend", machine.ref)

    def resume(self, machine: Machine) -> None:
        self._run("VM.resume_on", machine.ref, self.host_ref, False, False)

    def migrate(self, machine: Machine, host_ref: str) -> None:
        """Move the running VM, to which that host belongs from now on."""
        self._run("VM.pool_migrate", machine.ref, host_ref, {"live": "true"})
        self._session.call("VM.set_affinity", machine.ref, host_ref)

    def _run(self, call: str, *params: object, patience: float = math.inf) -> None:
        """Make a call that may take longer than a connection should be silent.

        Raises TimeoutError if it still goes on after `patience` seconds.
        """
        task = self._session.call(f"Async.{call}", *params)
        end = time.monotonic() + patience
        pause = 0.02
        try:
            while (record := self._session.call("task.get_record", task))["status"] == "pending":
                if time.monotonic() > end:
                    raise TimeoutError(call)
                time.sleep(pause)
                pause = min(pause * 2, 1.0)
        finally:
            self._session.call("task.destroy", task)
        if record["status"] != "success":
            code, *details = record["error_info"]
            raise XapiError(code, details, call)


def _machine(ref: str, vm: dict[str, Any]) -> Machine:
    is_on_host = vm["resident_on"] != NULL
    host_ref = vm["resident_on"] if is_on_host else vm["affinity"]
    return Machine(
        ref=ref,
        uuid=vm["other_config"][MARK],
        power_state=vm["power_state"],
        host_ref=None if host_ref == NULL else host_ref,
        is_on_host=is_on_host,
    )
