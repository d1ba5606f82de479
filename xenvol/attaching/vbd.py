"""A disk in a VM's slot: created, plugged, unplugged, destroyed; each records its inverse as it succeeds.

A VBD that xenvol made says so in its other_config, set by the call that creates it: which volume it is, by which
driver it came, and which attachment it is. An answer that was lost is looked up by these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from xenvol.attaching.mountpoint import name_of, shown_name
from xenvol.attaching.vm import VM
from xenvol.errors import DiskNotReleased, HostNotReady, MountpointInUse, XapiError, XapiUnreachable
from xenvol.pool import waiting
from xenvol.pool.changes import call_and_confirm, is_no_more, make
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View, is_gone
from xenvol.session.refs import VBDRef, VDIRef
from xenvol.storage.users import is_marked, is_moving, is_plugged

_REFUSED_BY_GUEST = frozenset({"DEVICE_DETACH_REJECTED", "DEVICE_DETACH_TIMEOUT"})


def volumes_of(vbds: Mapping[VBDRef, Record]) -> dict[VBDRef, Record]:
    """Those that xenvol made for the disk that they show."""
    return {ref: vbd for ref, vbd in vbds.items() if is_marked(vbd)}


def taken_by(vbds: Iterable[Record]) -> set[str]:
    """The positions that are taken, in whatever spelling xapi has them."""
    return {vbd[field] for vbd in vbds for field in ("userdevice", "device")}


@dataclass(frozen=True, slots=True)
class VBDSpec:
    """The slot that a disk shall have."""

    userdevice: str
    mode: str
    """RW or RO."""
    other_config: Mapping[str, str]
    ionice: Mapping[str, str] = field(default_factory=dict)
    """``sched`` and ``class``; empty leaves the disk's priority to the host."""
    bootable: bool = False


def create_vbd(
    view: View,
    undo: Undo,
    vm: VM,
    vdi_ref: VDIRef,
    spec: VBDSpec,
    *,
    inverse: Callable[[View, VBDRef], object],
) -> VBDRef:
    """Put the disk into the slot, not yet plugged. Raises MountpointInUse where somebody was faster.

    The `inverse` empties the slot, and unplugs the disk first where it was plugged since: `discard_vbd`.
    """
    record = {
        "VM": vm.ref,
        "VDI": vdi_ref,
        "userdevice": spec.userdevice,
        "bootable": spec.bootable,
        "mode": spec.mode,
        "type": "Disk",
        "unpluggable": True,
        "empty": False,
        "other_config": dict(spec.other_config),
        "qos_algorithm_type": "ionice" if spec.ionice else "",
        "qos_algorithm_params": dict(spec.ionice),
    }

    def look() -> VBDRef | None:
        there = view.find("VBD", {"VM": vm.ref, "userdevice": spec.userdevice})
        ours = (ref for ref, vbd in there.items() if spec.other_config.items() <= vbd["other_config"].items())
        return next(map(VBDRef, ours), None)

    description = f"created a VBD at {name_of(spec.userdevice)} of VM {vm}"
    try:
        return make(view, undo, description, ("VBD.create", record), look=look, inverse=inverse)
    except XapiError as error:
        if error.code == "DEVICE_ALREADY_EXISTS":
            free = view.call("VM.get_allowed_VBD_devices", vm.ref)
            raise MountpointInUse(
                name_of(spec.userdevice), free=[shown_name(number) for number in free]
            ) from error
        raise


def plug_unless_plugged(view: View, vbd_ref: VBDRef) -> bool:
    """Plug a VBD that was there, and say whether this call did. Another attempt may have made it just now: then that
    one plugs it, and the disk is its own."""
    settle_vbd(view, vbd_ref, is_plugged)
    return not is_plugged(view.record("VBD", vbd_ref)) and plug_vbd(view, vbd_ref)


def settle_vbd(view: View, vbd_ref: VBDRef, is_settled: Callable[[Record], bool]) -> None:
    """Look at a VBD until it is as it shall be, or nobody is at work on it. Raises XapiError HANDLE_INVALID."""

    def look() -> Record:
        view.read({"VBD": [vbd_ref]})
        return view.record("VBD", vbd_ref)

    waiting.settle(
        view,
        look,
        lambda vbd: {"VBD": [vbd_ref]},
        is_settled=is_settled,
        is_busy=is_moving,
        is_dead=lambda vbd: waiting.is_left_behind(vbd_ref),
    )


def plug_vbd(view: View, vbd_ref: VBDRef) -> bool:
    """Make it live in the running VM; what undoes `create_vbd` unplugs as well. Idempotent.

    False where another call has, or may have: xapi gave no answer, and the disk is live.
    """
    try:
        view.call("VBD.plug", vbd_ref)
    except XapiError as error:
        if error.code != "DEVICE_ALREADY_ATTACHED":
            raise
        return False
    except XapiUnreachable:
        if not view.call("VBD.get_currently_attached", vbd_ref):
            raise
        return False
    return True


def unplug_vbd(view: View, undo: Undo, vbd_ref: VBDRef, *, device: str, vm: VM) -> None:
    """Ask the guest to let go. Idempotent. Raises DiskNotReleased when it does not."""
    try:
        _unplug(view, vbd_ref)
    except XapiError as error:
        if error.code in _REFUSED_BY_GUEST:
            raise DiskNotReleased(str(vm), device=device) from error
        if error.code in HOST_IS_DOWN:
            problem = f"it is down with VM {vm} on it: start it, or tell xapi that the VM is off (VM.power_state_reset)"
            host = "" if vm.resident_on is None else view.record("host", vm.resident_on)["name_label"]
            raise HostNotReady(host, problem=problem) from error
        if is_gone(error, "VDI"):
            error.add_note(
                f"the record of the disk behind {device} is gone (its LUN vanished from the storage and the SR was "
                "scanned); xapi drops this VBD by itself within half a minute: then detach again"
            )
        if error.code != "DEVICE_ALREADY_DETACHED" and not is_gone(error, "VBD"):
            raise
    undo.did(f"unplugged VBD {vbd_ref}", plug_vbd, view, vbd_ref)


def destroy_vbd(view: View, vbd_ref: VBDRef) -> None:
    """Empty the slot. Idempotent; the disk stays."""
    try:
        call_and_confirm(view, ("VBD.destroy", vbd_ref), is_done=lambda: is_no_more(view, "VBD", vbd_ref))
    except XapiError as error:
        if not is_gone(error, "VBD"):
            raise


def discard_vbd(
    view: View, vbd_ref: VBDRef, *, through: Callable[[Callable[[], None]], object] = lambda unplug: unplug()
) -> None:
    """The inverse of creating: a plug that failed may have left it half plugged (xen-api issue 5529).

    `through` makes the unplug, and may cure what keeps it from succeeding.
    """
    try:
        if view.call("VBD.get_currently_attached", vbd_ref):
            through(lambda: _unplug_unless_out(view, vbd_ref))
        destroy_vbd(view, vbd_ref)
    except XapiError as error:
        if not is_gone(error, "VBD"):
            raise
    finally:
        waiting.leave_behind(vbd_ref)


def _unplug_unless_out(view: View, vbd_ref: VBDRef) -> None:
    """Unplug it; also where the guest has released the disk by now, or has been shut down."""
    try:
        _unplug(view, vbd_ref)
    except XapiError as error:
        if error.code != "DEVICE_ALREADY_DETACHED":
            raise


def _unplug(view: View, vbd_ref: VBDRef) -> None:
    call_and_confirm(
        view,
        ("VBD.unplug", vbd_ref),
        is_done=lambda: not view.call("VBD.get_currently_attached", vbd_ref),
    )
