"""The verbs on a PBD, one host's link to an SR: create, plug, unplug, destroy.

The pool's master is plugged first and unplugged last. xapi runs every operation on a shared SR there, and only a plug
on the master makes the driver list the disks (docs/background/xapi.md, PBD.plug).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from xenvol.errors import XapiError
from xenvol.pool.changes import add_key, call_and_confirm, change, is_no_more, make
from xenvol.pool.marks import MARK
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View, gone_is_fine
from xenvol.session.refs import HostRef, PBDRef, SRRef
from xenvol.storage.users import is_needed_on

log = logging.getLogger(__name__)


def find_pbds(view: View, sr_ref: SRRef) -> dict[HostRef, tuple[PBDRef, Record]]:
    """Return the PBDs of the SR, by host; one call."""
    found = view.find("PBD", {"SR": sr_ref})
    return {HostRef(pbd["host"]): (PBDRef(ref), pbd) for ref, pbd in found.items()}


def known_pbds(view: View, sr_ref: SRRef) -> dict[HostRef, tuple[PBDRef, Record]]:
    """Return the PBDs of the SR that this operation has read or made, by host; no call."""
    found = {PBDRef(ref): pbd for ref, pbd in view.remembered("PBD").items() if pbd["SR"] == sr_ref}
    return {HostRef(pbd["host"]): (ref, pbd) for ref, pbd in found.items()}


def master_first(view: View, hosts: Iterable[HostRef]) -> list[HostRef]:
    return sorted(hosts, key=lambda host: host != view.master)


def create_pbd(
    view: View, undo: Undo, sr_ref: SRRef, host_ref: HostRef, device_config: Mapping[str, str]
) -> PBDRef:
    """Create a PBD. If another attempt has just created it, return that one, and record no inverse."""

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
    # the config of another attempt's PBD is unknown, and xapi replaces the secrets by copies of its own
    if is_made and not any(key.endswith("_secret") for key in device_config):
        known["device_config"] = dict(device_config)
    view.remember("PBD", pbd_ref, known)
    return pbd_ref


def plug_pbd(view: View, undo: Undo | None, sr_ref: SRRef, pbd_ref: PBDRef) -> None:
    """Plug the PBD; without `undo`, record no inverse. Idempotent. Takes ten seconds and more for iSCSI."""
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
    """Unplug the PBD; the inverse plugs it. Raises XapiError VDI_IN_USE if a VM on its host uses a disk of the SR."""
    change(
        view,
        undo,
        f"unplugged PBD {pbd_ref}",
        ("PBD.unplug", pbd_ref),
        look=lambda: not view.call("PBD.get_currently_attached", pbd_ref),
        inverse=lambda: view.call("PBD.plug", pbd_ref),
    )


def mark_pbd(view: View, undo: Undo, pbd_ref: PBDRef, what: str) -> None:
    """Mark a PBD of another owner's SR as made or plugged by xenvol, so that the last detach finds it. Idempotent."""
    if add_key(view, "PBD.other_config", pbd_ref, MARK, what):
        undo.did(f"marked PBD {pbd_ref}", _unmark, view, pbd_ref)


def _take_back_plug(view: View, sr_ref: SRRef, pbd_ref: PBDRef) -> None:
    """Unplug the PBD as the inverse of plugging, unless a disk of the SR is needed on its host."""
    vdis = view.find("VDI", {"SR": sr_ref}).values()
    with gone_is_fine("PBD"):
        host_ref = HostRef(view.record("PBD", pbd_ref)["host"])
        if not is_needed_on(view, host_ref, vdis) and unplug_unless_used(view, pbd_ref):
            view.forget("PBD", pbd_ref)


def _take_back_pbd(view: View, pbd_ref: PBDRef) -> None:
    """Destroy the PBD as the inverse of creating. A plugged PBD is in use and stays; xapi would wait for other
    plugs."""
    pbd = view.known("PBD", pbd_ref)
    if pbd is None or not pbd["currently_attached"]:
        destroy_pbd(view, pbd_ref)


def unplug_unless_used(view: View, pbd_ref: PBDRef) -> bool:
    """Unplug the PBD unless a VM on its host uses a disk of the SR. Return whether it is unplugged. Idempotent."""
    try:
        with gone_is_fine("PBD"):
            call_and_confirm(
                view,
                ("PBD.unplug", pbd_ref),
                is_done=lambda: not view.call("PBD.get_currently_attached", pbd_ref),
            )
    except XapiError as error:
        if error.code != "VDI_IN_USE":
            raise
        log.info("PBD %s stays plugged: VDIs in use on its host: %s", pbd_ref, ", ".join(error.params))
        return False
    return True


def unplug_if_possible(view: View, pbd_ref: PBDRef) -> bool:
    """Do what `unplug_unless_used` does. If the host is down, leave the PBD, log a warning and return False."""
    try:
        return unplug_unless_used(view, pbd_ref)
    except XapiError as error:
        if error.code not in HOST_IS_DOWN:
            raise
        log.warning("PBD %s and its SR stay, since the host is down: %s", pbd_ref, error)
        return False


def destroy_pbd(view: View, pbd_ref: PBDRef) -> None:
    """Destroy the PBD. A plugged one is in use, and stays. Idempotent."""
    try:
        with gone_is_fine("PBD"):
            call_and_confirm(view, ("PBD.destroy", pbd_ref), is_done=lambda: is_no_more(view, "PBD", pbd_ref))
    except XapiError as error:
        if error.code != "OPERATION_NOT_ALLOWED":
            raise


def remove_pbd(view: View, undo: Undo, pbd_ref: PBDRef, *, inverse: Callable[[], object]) -> None:
    """Do what `destroy_pbd` does to the PBD of another attempt, and record `inverse`, which makes the PBD again."""
    try:
        with gone_is_fine("PBD"):
            change(
                view,
                undo,
                f"destroyed PBD {pbd_ref}",
                ("PBD.destroy", pbd_ref),
                look=lambda: is_no_more(view, "PBD", pbd_ref),
                inverse=inverse,
            )
    except XapiError as error:
        if error.code != "OPERATION_NOT_ALLOWED":
            raise


def _unmark(view: View, pbd_ref: PBDRef) -> None:
    with gone_is_fine("PBD"):
        call_and_confirm(
            view,
            ("PBD.remove_from_other_config", pbd_ref, MARK),
            is_done=lambda: MARK not in view.call("PBD.get_other_config", pbd_ref),
        )
