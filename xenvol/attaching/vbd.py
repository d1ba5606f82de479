"""Create, plug, unplug and destroy a VBD. Each verb records its inverse when it has succeeded.

The call that creates a VBD marks it in its other_config: its volume, its driver and its attachment. If the answer is
lost, the VBD is found by these marks.
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
    """Return the VBDs that have xenvol's marks for the disk that they show."""
    return {ref: vbd for ref, vbd in vbds.items() if is_marked(vbd)}


def taken_by(vbds: Iterable[Record]) -> set[str]:
    """Return the positions that these VBDs take, in any of xapi's spellings."""
    return {vbd[field] for vbd in vbds for field in ("userdevice", "device")}


@dataclass(frozen=True, slots=True)
class VBDSpec:
    """The slot to create for a disk."""

    userdevice: str
    mode: str
    """RW or RO."""
    other_config: Mapping[str, str]
    ionice: Mapping[str, str] = field(default_factory=dict)
    """``sched`` and ``class``; if empty, the host sets the disk's priority."""
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
    """Create the VBD, not yet plugged. Raises MountpointInUse if another process has taken the position.

    `inverse` destroys the VBD, and unplugs it first if it was plugged since (`discard_vbd`).
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

    def find_created() -> VBDRef | None:
        found = view.find("VBD", {"VM": vm.ref, "userdevice": spec.userdevice})
        ours = (ref for ref, vbd in found.items() if spec.other_config.items() <= vbd["other_config"].items())
        return next(map(VBDRef, ours), None)

    description = f"created a VBD at {name_of(spec.userdevice)} of VM {vm}"
    try:
        return make(view, undo, description, ("VBD.create", record), look=find_created, inverse=inverse)
    except XapiError as error:
        if error.code == "DEVICE_ALREADY_EXISTS":
            free = view.call("VM.get_allowed_VBD_devices", vm.ref)
            raise MountpointInUse(
                name_of(spec.userdevice), free=[shown_name(number) for number in free]
            ) from error
        raise


def plug_unless_plugged(view: View, vbd_ref: VBDRef) -> bool:
    """Plug a VBD that existed before; return whether this call did.

    Another attempt may be plugging it: then wait for that.
    """
    settle_vbd(view, vbd_ref, is_plugged)
    return not is_plugged(view.record("VBD", vbd_ref)) and plug_vbd(view, vbd_ref)


def settle_vbd(view: View, vbd_ref: VBDRef, is_settled: Callable[[Record], bool]) -> None:
    """Wait until `is_settled`, or until no call works on the VBD. Raises XapiError HANDLE_INVALID if it is gone."""

    def read_vbd() -> Record:
        view.read({"VBD": [vbd_ref]})
        return view.record("VBD", vbd_ref)

    waiting.settle(
        view,
        read_vbd,
        lambda vbd: {"VBD": [vbd_ref]},
        is_settled=is_settled,
        is_busy=is_moving,
        is_dead=lambda vbd: waiting.is_left_behind(vbd_ref),
    )


def plug_vbd(view: View, vbd_ref: VBDRef) -> bool:
    """Plug the VBD into the running VM; return whether this call did. Idempotent. Undoing `create_vbd` unplugs it, too.

    Returns False also if xapi gave no answer and the VBD is plugged: another call may have done it.
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
    """Unplug the VBD, which asks the guest to release it. Idempotent. Raises DiskNotReleased if the guest refuses."""
    try:
        _unplug(view, vbd_ref)
    except XapiError as error:
        if error.code in _REFUSED_BY_GUEST:
            raise DiskNotReleased(str(vm), device=device) from error
        if error.code in HOST_IS_DOWN:
            problem = (
                f"it is down with VM {vm} on it: start it, or call VM.power_state_reset if the VM is off"
            )
            host = "" if vm.resident_on is None else view.record("host", vm.resident_on)["name_label"]
            raise HostNotReady(host, problem=problem) from error
        if is_gone(error, "VDI"):
            error.add_note(
                f"xapi has no record of the disk at {device} any more (its LUN vanished from the storage, and the SR "
                "was scanned); xapi drops this VBD within half a minute: detach again then"
            )
        if error.code != "DEVICE_ALREADY_DETACHED" and not is_gone(error, "VBD"):
            raise
    undo.did(f"unplugged VBD {vbd_ref}", plug_vbd, view, vbd_ref)


def destroy_vbd(view: View, vbd_ref: VBDRef) -> None:
    """Destroy the VBD. Idempotent. The VDI stays."""
    try:
        call_and_confirm(view, ("VBD.destroy", vbd_ref), is_done=lambda: is_no_more(view, "VBD", vbd_ref))
    except XapiError as error:
        if not is_gone(error, "VBD"):
            raise


def discard_vbd(
    view: View, vbd_ref: VBDRef, *, run: Callable[[Callable[[], None]], object] = lambda unplug: unplug()
) -> None:
    """Undo `create_vbd`. A plug that failed may have left the VBD half plugged (xen-api issue 5529).

    `run` calls the unplug, and may retry it after removing what blocks it.
    """
    try:
        if view.call("VBD.get_currently_attached", vbd_ref):
            run(lambda: _unplug_unless_out(view, vbd_ref))
        destroy_vbd(view, vbd_ref)
    except XapiError as error:
        if not is_gone(error, "VBD"):
            raise
    finally:
        waiting.leave_behind(vbd_ref)


def _unplug_unless_out(view: View, vbd_ref: VBDRef) -> None:
    """Unplug the VBD. Accepts that the guest has released it by now, or has been shut down."""
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
