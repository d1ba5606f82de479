"""The steps of an attach after the connect: put the disk into the VM, and read back whether it is there.

`VolumeOps._attach` calls them in order. Each reads what another process may have changed since the step before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from xenvol import storage
from xenvol.attaching import in_use, listing, slots
from xenvol.attaching.attachment import Attachment
from xenvol.attaching.vbd import VBDSpec, destroy_vbd
from xenvol.attaching.vm import VM, is_starting
from xenvol.connection_data.connection_info import ConnectionInfo
from xenvol.connection_data.frozen import FrozenMap
from xenvol.connection_data.identity import Identity
from xenvol.errors import (
    ChangedMeanwhile,
    HostNotReady,
    WrongVolume,
    XapiError,
)
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import HostRef, SRRef, VBDRef, VDIRef

_NOT_ON_EVERY_HOST = "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where to attach the disk, and which VBDs the VM has."""

    vm: VM
    vbds: Mapping[VBDRef, Record]
    marked_ref: VBDRef | None
    """The VBD that is marked as the volume's."""
    requested: str | int | None
    """The mountpoint that the caller named."""


def put_in(
    view: View, undo: Undo, place: Place, vdi_ref: VDIRef, spec: VBDSpec, info: ConnectionInfo
) -> VBDRef:
    """Return a VBD that shows the disk: adopt one of another tool, reuse that of an earlier attempt, or create one."""
    vm, vm_vbds, marked_ref = place.vm, place.vbds, place.marked_ref
    vbd_ref = slots.find_twin(vm, vm_vbds, marked_ref, vdi_ref)
    if vbd_ref is not None:
        slots.check_position(vm_vbds[vbd_ref], place.requested)
        slots.check_mode(vm, vm_vbds[vbd_ref], spec.mode)
        in_use.check_not_in_use(view, vdi_ref, info, vm=vm, mode=spec.mode, but=vbd_ref)
        slots.adopt(view, undo, vbd_ref, vm_vbds[vbd_ref], spec.other_config)
    else:
        in_use.check_not_in_use(view, vdi_ref, info, vm=vm, mode=spec.mode)
        if marked_ref is None or not _shows_disk(view, marked_ref, vdi_ref):
            return slots.put_in(view, undo, vm, vdi_ref, spec)
        vbd_ref = marked_ref
        slots.check_mode(vm, vm_vbds[vbd_ref], spec.mode)
        slots.take_over(view, undo, vbd_ref, vm_vbds[vbd_ref], info)
    if spec.bootable:
        slots.make_bootable(view, undo, vbd_ref, vm_vbds[vbd_ref])
    return vbd_ref


def _shows_disk(view: View, vbd_ref: VBDRef, vdi_ref: VDIRef) -> bool:
    """Return whether the VBD of an earlier attempt shows the disk. Destroy the VBD if the record of its disk is gone.

    Raises WrongVolume if it shows another disk: the volume has moved, and only the operator knows where the data is.
    """
    its_vdi = view.record("VBD", vbd_ref)["VDI"]
    if its_vdi == vdi_ref:
        return True
    view.read({"VDI": [its_vdi]})
    other = view.known("VDI", its_vdi)
    if other is not None:
        expected = storage.describe(view.record("VDI", vdi_ref))
        raise WrongVolume(expected, found=f"in its slot on the VM {storage.describe(other)}")
    destroy_vbd(view, vbd_ref)
    return False


def hosts_that_show(view: View, vdi_ref: str, hosts: Iterable[HostRef] | None) -> set[HostRef]:
    """Return the hosts that must have the disk: `hosts`, or, if that is None, those on which its SR is plugged."""
    if hosts is not None:
        return set(hosts)
    pbds = storage.known_pbds(view, SRRef(view.record("VDI", vdi_ref)["SR"]))
    return {host for host, (_, pbd) in pbds.items() if pbd["currently_attached"]}


def check_plugged(view: View, sr_ref: SRRef, hosts: set[HostRef], what: str) -> None:
    """Raise ChangedMeanwhile if another process has unplugged the SR of the disk on one of these hosts.

    The other process reads the VBDs and then unplugs. This one creates its VBD and then reads the PBDs. So at least
    one of them sees what the other did.
    """
    for find in (storage.known_pbds, storage.find_pbds):  # a PBD that another process made is not known yet
        pbds = find(view, sr_ref)
        if all(host in pbds and pbds[host][1]["currently_attached"] for host in hosts):
            return
    raise ChangedMeanwhile(f"the SR of {what}", what="another process unplugged it")


@contextmanager
def translating_ha_refusal(view: View, vm: VM, vdi_ref: str, hosts: set[HostRef]) -> Iterator[None]:
    """Translate xapi's refusal to give a VM that HA protects a disk that not every host has.

    `hosts` are those on which the SR was plugged. Raises ChangedMeanwhile if another process has unplugged it there:
    then the attach is retried. Else raises HostNotReady, which names the hosts without the SR.
    """
    try:
        yield
    except XapiError as refusal:
        if refusal.code != _NOT_ON_EVERY_HOST:
            raise
        sr_ref = SRRef(view.record("VDI", vdi_ref)["SR"])
        view.read({"SR": [sr_ref]}, whole=["host"])
        pbds = storage.find_pbds(view, sr_ref)
        without = {*view.hosts} - {host for host, (_, pbd) in pbds.items() if pbd["currently_attached"]}
        sr = view.record("SR", sr_ref)
        if sr["shared"] and (not without or without & hosts):
            what = f"another process unplugged SR {sr['name_label']}"
            raise ChangedMeanwhile(f"attach to VM {vm}", what=what) from refusal
        names = ", ".join(sorted(view.record("host", host)["name_label"] for host in without or hosts))
        reason = "is not plugged there" if sr["shared"] else "is not shared"
        problem = f"HA may start VM {vm} there, and SR {sr['name_label']} {reason}"
        raise HostNotReady(names, problem=problem) from refusal


def has_started(view: View, vm: VM) -> bool:
    """Return whether a VM that was halted runs now. Raises ChangedMeanwhile while it starts: xapi has read its VBDs."""
    now = view.record("VM", vm.ref)
    if is_starting(now):
        raise ChangedMeanwhile(f"attach to VM {vm}", what="the VM began to start")
    return bool(now["power_state"] == "Running")


def checked(view: View, volume: Identity, attachment: Attachment) -> Attachment:
    """Return the attachment. Raises WrongVolume if its disk is provably another one."""
    vdi = view.record("VDI", attachment.vdi_ref)
    volume.check(vdi_uuid=vdi["uuid"], scsi_id=vdi["sm_config"].get("SCSIid"))
    return attachment


def read_shown(view: View, vdi: Record, refs: Mapping[str, Iterable[str]] = FrozenMap({})) -> None:
    """Read the SR of the disk and its PBDs again, and the objects `refs` with them, in one call."""
    pbd_refs = [ref for ref, pbd in view.remembered("PBD").items() if pbd["SR"] == vdi["SR"]]
    view.read({"SR": [vdi["SR"]], "PBD": pbd_refs, **refs})
    view.record("SR", vdi["SR"])


def read_back(view: View, vm: VM, vbd_ref: VBDRef, vdi_ref: str) -> Attachment:
    """Return the attachment as xapi shows it now. One call. Raises HANDLE_INVALID if the disk is gone."""
    read_shown(view, view.record("VDI", vdi_ref), {"VBD": [vbd_ref], "VDI": [vdi_ref], "VM": [vm.ref]})
    return listing.attachment(view, vm, vbd_ref)
