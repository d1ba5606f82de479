"""One host's link to an SR: made, plugged, and taken back.

The pool's master comes first and goes last: xapi runs every operation on a shared SR there, and only a plug on the
master makes the driver list its disks (docs/background/xapi.md, PBD.plug).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from xenvol.errors import XapiError
from xenvol.pool.changes import change, is_no_more, make, unmake
from xenvol.pool.marks import MARK
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.session.refs import HostRef, PBDRef, SRRef
from xenvol.storage.users import is_held, needs_every_host, vbds_of, vms_of

log = logging.getLogger(__name__)


def find_pbds(view: View, sr_ref: SRRef) -> dict[HostRef, tuple[PBDRef, Record]]:
    """The SR's PBDs, by host."""
    found = view.find("PBD", {"SR": sr_ref})
    return {HostRef(pbd["host"]): (PBDRef(ref), pbd) for ref, pbd in found.items()}


def known_pbds(view: View, sr_ref: SRRef) -> dict[HostRef, tuple[PBDRef, Record]]:
    """The SR's PBDs that this operation has read or made, by host; no call."""
    found = {PBDRef(ref): pbd for ref, pbd in view.remembered("PBD").items() if pbd["SR"] == sr_ref}
    return {HostRef(pbd["host"]): (ref, pbd) for ref, pbd in found.items()}


def master_first(view: View, hosts: Iterable[HostRef]) -> list[HostRef]:
    return sorted(hosts, key=lambda host: host != view.master)


def create_pbd(
    view: View, undo: Undo, sr_ref: SRRef, host_ref: HostRef, device_config: Mapping[str, str]
) -> PBDRef:
    """Create it; one that another attempt made meanwhile is used, and is not ours to take back."""

    def look() -> PBDRef | None:
        found = find_pbds(view, sr_ref).get(host_ref)
        return None if found is None else found[0]

    spec = {"SR": sr_ref, "host": host_ref, "device_config": device_config, "other_config": {}}
    description = f"created a PBD of SR {sr_ref} for host {host_ref}"
    try:
        pbd_ref = make(view, undo, description, ("PBD.create", spec), look=look, inverse=_take_back_pbd)
    except XapiError as error:
        if error.code != "PBD_EXISTS":
            raise
        pbd_ref, is_made = PBDRef(error.params[2]), False
    else:
        is_made = True
    known: Record = {"SR": sr_ref, "host": host_ref, "currently_attached": False}
    # another's is not known, and xapi puts copies of its own secrets in the place of ours
    if is_made and not any(key.endswith("_secret") for key in device_config):
        known["device_config"] = dict(device_config)
    view.remember("PBD", pbd_ref, known)
    return pbd_ref


def plug_pbd(view: View, undo: Undo | None, sr_ref: SRRef, pbd_ref: PBDRef) -> None:
    """Plug it; idempotent in xapi. Takes ten seconds and more for iSCSI."""
    change(
        view,
        undo,
        f"plugged PBD {pbd_ref}",
        ("PBD.plug", pbd_ref),
        look=lambda: bool(view.call("PBD.get_currently_attached", pbd_ref)),
        inverse=lambda: _take_back_plug(view, sr_ref, pbd_ref),
    )
    if (pbd := view.known("PBD", pbd_ref)) is not None:
        view.remember("PBD", pbd_ref, pbd | {"currently_attached": True})


def unplug_pbd(view: View, undo: Undo, pbd_ref: PBDRef) -> None:
    """Unplug it, to plug it again. Raises XapiError VDI_IN_USE where a VM of its host uses a disk of the SR."""
    change(
        view,
        undo,
        f"unplugged PBD {pbd_ref}",
        ("PBD.unplug", pbd_ref),
        look=lambda: not view.call("PBD.get_currently_attached", pbd_ref),
        inverse=lambda: view.call("PBD.plug", pbd_ref),
    )


def mark_pbd(view: View, undo: Undo, pbd_ref: PBDRef, what: str) -> None:
    """Say in somebody else's SR that this PBD is our doing, so that the last one out finds it."""
    try:
        view.call("PBD.add_to_other_config", pbd_ref, MARK, what)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise
        return
    undo.did(f"marked PBD {pbd_ref}", _unmark, view, pbd_ref)


def _take_back_plug(view: View, sr_ref: SRRef, pbd_ref: PBDRef) -> None:
    """The inverse of plugging. It stays where anybody needs a disk of the SR on that host."""
    vdis = view.find("VDI", {"SR": sr_ref}).values()
    with gone_is_fine("PBD"):
        host_ref = HostRef(view.record("PBD", pbd_ref)["host"])
        if not _is_needed_on(view, host_ref, vdis) and unplug_unless_used(view, pbd_ref):
            view.forget("PBD", pbd_ref)


def _is_needed_on(view: View, host_ref: HostRef, vdis: Collection[Record]) -> bool:
    """Whether one of these disks is needed on the host: it is held, or a VM has it there or may start there with it.

    On the master every disk is that a VM has anywhere. A VM that runs elsewhere, with the disk plugged, needs no other
    host.
    """
    if any(is_held(vdi) for vdi in vdis):
        return True
    vbds = list(vbds_of(view, vdis).values())
    if not vbds or host_ref == view.master:
        return bool(vbds)
    vms_of(view, vbds)
    for vbd in vbds:
        vm = view.known("VM", vbd["VM"])
        if vm is None:
            continue
        may_start = not vbd["currently_attached"] and not vm["is_a_template"]
        if may_start or vm["resident_on"] == host_ref or needs_every_host(view, vm):
            return True
    return False


def _take_back_pbd(view: View, pbd_ref: PBDRef) -> None:
    """The inverse of creating. One that has stayed plugged is in use, and xapi would make us wait for other plugs."""
    pbd = view.known("PBD", pbd_ref)
    if pbd is None or not pbd["currently_attached"]:
        destroy_pbd(view, pbd_ref)


def unplug_unless_used(view: View, pbd_ref: PBDRef) -> bool:
    """Unplug it, and say whether it is unplugged: not where a VM of that host uses a disk of the SR."""
    try:
        unmake(
            view,
            ("PBD.unplug", pbd_ref),
            is_undone=lambda: not view.call("PBD.get_currently_attached", pbd_ref),
        )
    except XapiError as error:
        if error.code == "VDI_IN_USE":
            log.info("PBD %s stays plugged: VDIs in use on its host: %s", pbd_ref, ", ".join(error.params))
            return False
        if not is_gone(error, "PBD"):
            raise
    return True


def destroy_pbd(view: View, pbd_ref: PBDRef) -> None:
    """Drop the record; one that is still plugged, since others use it, stays."""
    try:
        unmake(view, ("PBD.destroy", pbd_ref), is_undone=lambda: is_no_more(view, "PBD", pbd_ref))
    except XapiError as error:
        if error.code != "OPERATION_NOT_ALLOWED" and not is_gone(error, "PBD"):
            raise


def _unmark(view: View, pbd_ref: PBDRef) -> None:
    try:
        unmake(
            view,
            ("PBD.remove_from_other_config", pbd_ref, MARK),
            is_undone=lambda: MARK not in view.call("PBD.get_other_config", pbd_ref),
        )
    except XapiError as error:
        if not is_gone(error, "PBD"):
            raise
