"""A VM moves within its pool: its volumes must be visible on the host that it moves to, before it does."""

from __future__ import annotations

from xenvol.errors import UnknownHost, XapiError
from xenvol.inventory import list_volumes
from xenvol.marks import MARK, PLUGGED
from xenvol.refs import NULL_REF, HostRef, SRRef, is_ref, is_uuid
from xenvol.storage import SRSpec, connect_sr, is_ours, vdis_of
from xenvol.storage.pbd import destroy_pbd, find_pbds, unplug_unless_used
from xenvol.undo import Undo
from xenvol.view import View, is_gone
from xenvol.vm import VM, text_of


def prepare(view: View, vm: VM, host: str) -> list[str]:
    """Plug the SR of every volume of the VM on that host, as it is plugged elsewhere; the uuids of the SRs."""
    host_ref = find_host(view, host)
    undo = Undo()
    sr_refs = dict.fromkeys(volume.sr_ref for volume in list_volumes(view, vm))
    try:
        for sr_ref in sr_refs:
            sr = view.record("SR", sr_ref)
            # the device_config comes from the PBDs that are there: this SR shows a disk, so it has one
            spec = SRSpec(uuid=sr["uuid"], type=sr["type"], name_label=sr["name_label"], device_config={})
            connect_sr(view, undo, spec, [host_ref], found=sr_ref)
    except BaseException as error:
        undo.unwind(error)
        raise
    return [view.record("SR", sr_ref)["uuid"] for sr_ref in sr_refs]


def undo(view: View, vm: VM, host: str) -> None:
    """Unplug them there again: not the master's, on which the SR depends, nor where a VM uses them or may start."""
    host_ref = find_host(view, host)
    if host_ref in (view.master, vm.resident_on):
        return
    for sr_ref in dict.fromkeys(volume.sr_ref for volume in list_volumes(view, vm)):
        if not _has_disk_of_vm_at_rest(view, sr_ref):
            _leave(view, sr_ref, host_ref)


def _has_disk_of_vm_at_rest(view: View, sr_ref: SRRef) -> bool:
    """Whether a VM that runs nowhere now has a disk there: it needs the SR on every host that it may start on."""
    vbd_refs = [vbd for vdi in vdis_of(view, sr_ref).values() for vbd in vdi["VBDs"]]
    view.read({"VBD": vbd_refs})
    vm_refs = {vbd["VM"] for ref in vbd_refs if (vbd := view.known("VBD", ref)) is not None}
    view.read({"VM": vm_refs})
    vms = [rec for ref in vm_refs if (rec := view.known("VM", ref)) is not None]
    # a snapshot is a template, too, and neither of them starts
    return any(rec["resident_on"] == NULL_REF and not rec["is_a_template"] for rec in vms)


def _leave(view: View, sr_ref: SRRef, host_ref: HostRef) -> None:
    found = find_pbds(view, sr_ref).get(host_ref)
    if found is None:
        return
    pbd_ref, pbd = found
    mark = pbd["other_config"].get(MARK)
    if mark is None and not is_ours(view.record("SR", sr_ref)):
        return
    if not unplug_unless_used(view, pbd_ref):
        return
    if mark == PLUGGED:  # it was there before us, unplugged
        view.call("PBD.remove_from_other_config", pbd_ref, MARK)
    else:
        destroy_pbd(view, pbd_ref)


def find_host(view: View, host: str) -> HostRef:
    """The host that a reference, a uuid or a name means. Raises UnknownHost, RequestError for what names nothing."""
    host = text_of(host, "a host")
    if is_ref(host):
        try:
            view.record("host", host)
        except XapiError as error:
            if is_gone(error, "host"):
                raise UnknownHost(host) from error
            raise
        return HostRef(host)
    found = view.find("host", {"uuid": host.lower()} if is_uuid(host) else {"name_label": host})
    if len(found) != 1:
        raise UnknownHost(host, candidates=[rec["uuid"] for rec in found.values()])
    return HostRef(next(iter(found)))
