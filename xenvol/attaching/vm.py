"""Find the VM, and check whether it can take or give back a disk now. Runs before anything is changed.

The rules are xapi's own for VBD.plug (docs/background/xapi.md 2.4), applied to records that have been read anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xenvol.errors import (
    AmbiguousVM,
    NotHotpluggable,
    ReadOnlyNotSupported,
    TemplateGiven,
    UnknownVM,
    VMBusy,
    WrongPowerState,
    XapiError,
)
from xenvol.pool.view import MOVING_VM, Record, View, is_gone
from xenvol.session.refs import NULL_REF, HostRef, Name, VMRef, is_ref, is_uuid, text_of

_STARTING = frozenset({"start", "start_on", "resume", "resume_on", "unpause"})
_LEAVING = frozenset(
    {
        *("clean_shutdown", "hard_shutdown", "shutdown", "clean_reboot", "hard_reboot"),
        *("suspend", "pause", "checkpoint", "destroy"),
    }
)


@dataclass(frozen=True, slots=True)
class VM:
    """What an attach needs to know of a VM, from its record."""

    ref: VMRef
    uuid: str
    name: str
    power_state: str
    """Halted, Paused, Running or Suspended."""
    resident_on: HostRef | None
    is_hvm: bool
    vbd_refs: tuple[str, ...]
    guest_metrics_ref: str
    current_operations: frozenset[str]
    is_protected: bool = False
    """HA restarts it on any host that is left, as long as HA is on."""
    is_template: bool = False
    """A template or a snapshot. To xapi a snapshot is a template, too."""
    affinity: HostRef | None = None
    """The host that a VM is on while it runs on none. xapi does not check that there is such a host."""

    @property
    def is_running(self) -> bool:
        return self.power_state == "Running"

    def __str__(self) -> str:
        return f"{self.name} ({self.uuid})" if self.name else self.uuid


def find_vm(view: View, vm: Name) -> VM:
    """Return the VM of this reference, uuid or name. One call. Raises UnknownVM or AmbiguousVM."""
    vm = text_of(vm, "a VM")
    found = _candidates(view, vm)
    if len(found) > 1:
        raise AmbiguousVM(
            vm,
            candidates=[(rec["uuid"], rec["name_label"], rec["power_state"]) for rec in found.values()],
        )
    for ref, vm_rec in found.items():
        return _vm(ref, vm_rec)
    raise UnknownVM(vm)


def _candidates(view: View, vm: str) -> Mapping[str, Record]:
    if is_ref(vm):
        try:
            return {vm: view.record("VM", vm)}
        except XapiError as error:
            if is_gone(error, "VM"):
                return {}
            raise
    if is_uuid(vm):
        return view.find("VM", {"uuid": vm.lower()})
    if '"' in vm:  # xapi's queries have no escape for it
        return {ref: view.record("VM", ref) for ref in view.call("VM.get_by_name_label", vm)}
    return view.find("VM", {"name_label": vm, "is_a_template": False})  # snapshots are templates, too


def _vm(ref: str, vm_rec: Record) -> VM:
    resident_on, affinity = vm_rec["resident_on"], vm_rec["affinity"]
    domain_type = vm_rec.get("domain_type", "unspecified")
    return VM(
        ref=VMRef(ref),
        uuid=vm_rec["uuid"],
        name=vm_rec["name_label"],
        power_state=vm_rec["power_state"],
        resident_on=None if resident_on == NULL_REF else HostRef(resident_on),
        is_hvm=domain_type == "hvm" if domain_type != "unspecified" else vm_rec["HVM_boot_policy"] != "",
        vbd_refs=tuple(vm_rec["VBDs"]),
        guest_metrics_ref=vm_rec["guest_metrics"],
        current_operations=frozenset(vm_rec["current_operations"].values()),
        is_protected=vm_rec.get("ha_restart_priority") == "restart",
        is_template=vm_rec["is_a_template"],
        affinity=None if affinity == NULL_REF else HostRef(affinity),
    )


def is_starting(vm_rec: Record) -> bool:
    """Return whether a call that starts, resumes or unpauses the VM is in progress."""
    return not _STARTING.isdisjoint(vm_rec["current_operations"].values())


def check_stays(vm: VM) -> None:
    """Raise VMBusy while the VM moves to another host."""
    if busy := vm.current_operations & MOVING_VM:
        raise VMBusy(str(vm), operation=", ".join(sorted(busy)))


def check_takes_disk(vm: VM, guest_metrics: Record | None, *, mode: str, will_plug: bool) -> None:
    """Raise a VMError if the VM cannot get a disk in this mode: now if `will_plug`, else at its next start."""
    if vm.is_template:
        raise TemplateGiven(str(vm))
    # xapi reads the VBDs when a VM begins to start: a disk that is added later would stay unplugged
    if busy := vm.current_operations & (MOVING_VM | _STARTING | (_LEAVING if will_plug else frozenset())):
        raise VMBusy(str(vm), operation=", ".join(sorted(busy)))
    if vm.power_state == "Suspended":
        raise WrongPowerState(str(vm), vm.power_state, needed="Running or Halted", remedy="resume it first")
    if vm.power_state == "Paused" and will_plug:
        raise WrongPowerState(
            str(vm),
            vm.power_state,
            needed="Running or Halted",
            remedy="unpause it first, or attach with hotplug=False",
        )
    if vm.is_hvm and mode == "RO":
        raise ReadOnlyNotSupported(str(vm))
    if vm.is_hvm and will_plug and (reason := _why_no_hotplug(guest_metrics)) is not None:
        raise NotHotpluggable(str(vm), reason=reason)


def check_gives_disk_back(vm: VM, device: str) -> None:
    """Raise a VMError if the VM cannot release a plugged disk now."""
    if busy := vm.current_operations & (MOVING_VM | _LEAVING):
        raise VMBusy(str(vm), operation=", ".join(sorted(busy)))
    if not vm.is_running:
        raise WrongPowerState(
            str(vm),
            vm.power_state,
            needed="Running or Halted",
            remedy=f"resume or unpause it to detach {device}",
        )


def _why_no_hotplug(guest_metrics: Record | None) -> str | None:
    if guest_metrics is None:
        return "no Xen guest drivers have reported from it"
    can_plug = guest_metrics.get("can_use_hotplug_vbd", "unspecified")
    if can_plug == "no":
        return "its guest drivers report that they do not hot-plug disks"
    has_drivers = guest_metrics.get("PV_drivers_detected") or guest_metrics.get("PV_drivers_version")
    if can_plug == "unspecified" and not has_drivers:
        return "it has no Xen guest drivers"
    return None
