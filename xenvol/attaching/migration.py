"""Migration within a pool: plug the SRs of a VM's volumes on the destination before the VM moves, and undo that.

Also: on which host a VM is, for a caller that speaks for one host of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from xenvol.attaching.attachment import Attachment
from xenvol.attaching.listing import list_volumes
from xenvol.attaching.vm import VM, check_stays
from xenvol.errors import UnknownHost, XapiError
from xenvol.pool.marks import MARK, PLUGGED
from xenvol.pool.undo import Undo
from xenvol.pool.view import View, is_gone
from xenvol.secret import Secret
from xenvol.session.refs import HostRef, Name, SRRef, is_ref, is_uuid, text_of
from xenvol.storage import SRSpec, connect_sr, is_ours, vdis_of
from xenvol.storage.pbd import destroy_pbd, find_pbds, unplug_if_possible
from xenvol.storage.turn import turn
from xenvol.storage.users import is_needed_on

Ways = Sequence[Mapping[str, str | Secret]]
"""The device_configs by which a host may reach a storage, in the order to try."""


def prepare(
    view: View, vm: VM, host: Name, ways_to: Callable[[Attachment], Ways] = lambda volume: ()
) -> list[str]:
    """Plug the SR of every volume of the VM on that host; return the uuids of the SRs.

    `ways_to` returns the device_configs by which the host reaches a volume. The host tries those of all volumes of an
    SR. If there are none, it gets the device_config of another host. Idempotent. A failure is undone.
    """
    host_ref = find_host(view, host)
    undo = Undo(hidden=view.hidden)
    ways: dict[SRRef, list[Mapping[str, str | Secret]]] = {}
    for volume in list_volumes(view, vm):  # several LUNs of a target are in one SR
        here = ways.setdefault(volume.sr_ref, [])
        here += [way for way in ways_to(volume) if way not in here]
    try:
        for sr_ref in ways:
            sr = view.record("SR", sr_ref)
            # without a way, connect_sr copies the device_config of a PBD: an SR that shows a disk has one
            spec = SRSpec(uuid=sr["uuid"], type=sr["type"], name_label=sr["name_label"], device_config={})
            connect_sr(view, undo, spec, [host_ref], found=sr_ref, ways=ways[sr_ref])
    except BaseException as error:
        undo.unwind(error)
        raise
    return [view.record("SR", sr_ref)["uuid"] for sr_ref in ways]


def is_elsewhere(view: View, vm: VM, host_ref: HostRef) -> bool:
    """Whether the VM is on another host: it runs there, or it runs nowhere and its affinity is another host.

    A VM that runs nowhere and has no affinity is on every host. The affinity to a host that has left the pool counts as
    none.
    """
    if vm.resident_on is not None or vm.affinity in (None, host_ref):
        return vm.resident_on not in (None, host_ref)
    view.read({"host": [vm.affinity]})
    return view.known("host", vm.affinity) is not None


def undo(view: View, vm: VM, host: Name) -> None:
    """Undo `prepare`: unplug the SRs of all volumes of the VM on that host. Idempotent. See `leave`."""
    host_ref = find_host(view, host)
    leave(view, vm, host_ref, [volume.sr_ref for volume in list_volumes(view, vm)])


def leave(view: View, vm: VM, host_ref: HostRef, sr_refs: Iterable[SRRef]) -> None:
    """Unplug these SRs with volumes of the VM on that host. Idempotent. Raises VMBusy while the VM moves.

    Spares the master, on which the SRs depend, the VM's own host, and an SR with a disk that is needed on that host
    (`is_needed_on`). If the host is down, its PBDs stay, and the release of the SR takes them back.
    """
    check_stays(vm)
    if host_ref in (view.master, vm.resident_on):
        return
    for sr_ref in dict.fromkeys(sr_refs):
        if not _is_needed(view, sr_ref, host_ref):
            with turn(view, sr_ref, for_unplug=True):
                if not _is_needed(view, sr_ref, host_ref):  # again: the wait for the turn may have been long
                    _leave(view, sr_ref, host_ref)


def _is_needed(view: View, sr_ref: SRRef, host_ref: HostRef) -> bool:
    return is_needed_on(view, host_ref, vdis_of(view, sr_ref).values())


def _leave(view: View, sr_ref: SRRef, host_ref: HostRef) -> None:
    found = find_pbds(view, sr_ref).get(host_ref)
    if found is None:
        return
    pbd_ref, pbd = found
    mark = pbd["other_config"].get(MARK)
    if mark is None and not is_ours(view.record("SR", sr_ref)):
        return
    if not unplug_if_possible(view, pbd_ref):
        return
    if mark == PLUGGED:  # the PBD existed before, and xenvol only plugged it
        view.call("PBD.remove_from_other_config", pbd_ref, MARK)
    else:
        destroy_pbd(view, pbd_ref)


def find_host(view: View, host: Name) -> HostRef:
    """Return the host of this reference, uuid or name. One call, or none if all hosts have been read.

    Raises UnknownHost; RequestError if `host` is no name at all.
    """
    host = text_of(host, "a host")
    if is_ref(host):
        try:
            view.record("host", host)
        except XapiError as error:
            if is_gone(error, "host"):
                raise UnknownHost(host) from error
            raise
        return HostRef(host)
    field, value = ("uuid", host.lower()) if is_uuid(host) else ("name_label", host)
    if view.has_all("host"):
        found = {ref: rec for ref, rec in view.remembered("host").items() if rec[field] == value}
    else:
        found = view.find("host", {field: value})
    if len(found) != 1:
        raise UnknownHost(host, candidates=[rec["uuid"] for rec in found.values()])
    return HostRef(next(iter(found)))
