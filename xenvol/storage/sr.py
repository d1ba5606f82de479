"""An SR that shows a volume: found or introduced, visible on the hosts that need it, and forgotten by the last one out.

An SR that we introduce says so in its sm_config, the one map that `SR.introduce` sets in the same call; so whoever
comes later, in another process or after a crash, knows it for ours. What was there before is used and never
forgotten; of such an SR only the PBDs that we made or plugged are taken back, and they carry a mark as well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xenvol.errors import UnsupportedSRType, XapiError
from xenvol.refs import HostRef, PBDRef, SRRef
from xenvol.secret import Secret
from xenvol.storage.pbd import (
    CREATED,
    MARK,
    PLUGGED,
    create_pbd,
    destroy_pbd,
    find_pbds,
    mark_pbd,
    master_first,
    plug_pbd,
    unplug_unless_used,
)
from xenvol.storage.secrets import copies_of_passwords
from xenvol.undo import Undo
from xenvol.verbs import make
from xenvol.view import Record, View, is_gone

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SRSpec:
    """What to introduce. A Secret in `device_config` travels as a xapi secret under ``<key>_secret``."""

    uuid: str
    type: str
    name_label: str
    device_config: Mapping[str, str | Secret]
    name_description: str = "Introduced by xenvol, and forgotten with its last volume"
    content_type: str = ""
    sm_config: Mapping[str, str] = field(default_factory=dict)


def require_sr_type(view: View, sr_type: str) -> None:
    """Raise UnsupportedSRType unless the pool's hosts have a driver for it."""
    if sr_type not in view.sr_types:
        raise UnsupportedSRType(sr_type, host=view.pool["master"], offered=view.sr_types)


def is_ours(sr_rec: Record) -> bool:
    """Whether xenvol introduced the SR."""
    return MARK in sr_rec["sm_config"]


def find_sr(view: View, sr_uuid: str) -> SRRef | None:
    return next(map(SRRef, view.find("SR", {"uuid": sr_uuid})), None)


def connect_sr(
    view: View, undo: Undo, spec: SRSpec, hosts: Iterable[HostRef] | None, *, found: SRRef | None = None
) -> tuple[SRRef, bool]:
    """The SR, plugged on these hosts (None: on all), and whether it is new; `found` is one known to be there.

    Idempotent. For a shared SR the pool's master is added to the hosts. A PBD that is missing takes its
    device_config from one that is there, so that all hosts see the same; else from the spec.
    """
    sr_ref, is_new = (found, False) if found is not None else _introduce(view, undo, spec)
    pbds = {} if is_new else find_pbds(view, sr_ref)
    is_foreign = not is_new and not is_ours(view.record("SR", sr_ref))
    wanted = set(view.hosts if hosts is None else hosts)
    if is_new or view.record("SR", sr_ref)["shared"]:
        wanted.add(view.master)
    missing = [host for host in master_first(view, wanted) if host not in pbds]
    if missing:
        theirs = next((pbd["device_config"] for _, pbd in pbds.values()), None)
        with copies_of_passwords(view, undo, spec.uuid, theirs or spec.device_config) as device_config:
            for host in missing:
                pbd_ref = create_pbd(view, undo, sr_ref, host, device_config)
                pbds[host] = pbd_ref, {"currently_attached": False}
    for host in master_first(view, wanted):
        pbd_ref, pbd = pbds[host]
        if not pbd["currently_attached"]:
            if is_foreign:
                mark_pbd(view, undo, pbd_ref, CREATED if host in missing else PLUGGED)
            plug_pbd(view, undo, pbd_ref)
    return sr_ref, is_new


def _introduce(view: View, undo: Undo, spec: SRSpec) -> tuple[SRRef, bool]:
    """Introduce it as shared, and say that it is new; one that another attempt introduced meanwhile is not ours
    to take back."""
    sm_config = {**spec.sm_config, MARK: ""}
    record = (
        spec.uuid,
        spec.name_label,
        spec.name_description,
        spec.type,
        spec.content_type,
        True,
        sm_config,
    )
    try:
        return make(
            view,
            undo,
            f"introduced SR {spec.uuid}",
            ("SR.introduce", *record),
            look=lambda: find_sr(view, spec.uuid),
            inverse=_forget_unless_used,
        ), True
    except XapiError as error:
        there = find_sr(view, spec.uuid) if error.code == "SR_UUID_EXISTS" else None
        if there is None:
            raise
        return there, False


def release_sr(view: View, sr_ref: SRRef) -> bool:
    """Take back what xenvol did to make this SR visible, unless somebody uses a disk of it; say whether it did.

    A disk counts as used while it has a VBD, plugged or not, of whatever VM. Idempotent: an SR that is gone is
    released. When a host cannot let go, the others are plugged again and the error leaves.
    """
    try:
        sr_rec = view.record("SR", sr_ref)
        if _is_used(view, sr_ref):
            return False
        if not is_ours(sr_rec):
            _take_back_pbds(view, sr_ref)
            return True
        undo = Undo()
        try:
            is_free = all(
                _unplug(view, undo, pbd_ref) for pbd_ref in _slaves_first(view, sr_ref, sr_rec["PBDs"])
            )
            if is_free and not _is_used(view, sr_ref):  # a VM may have got a VBD while we were unplugging
                return _forget(view, sr_ref)
        except BaseException as error:
            undo.unwind(error)
            raise
        undo.unwind()
    except XapiError as error:
        if not is_gone(error, "SR"):
            raise
        return True
    return False


def _is_used(view: View, sr_ref: SRRef) -> bool:
    return any(vdi["VBDs"] for vdi in view.find("VDI", {"SR": sr_ref}).values())


def _slaves_first(view: View, sr_ref: SRRef, pbd_refs: list[str]) -> list[PBDRef]:
    if len(pbd_refs) < 2:
        return [PBDRef(ref) for ref in pbd_refs]
    pbds = find_pbds(view, sr_ref)
    return [pbds[host][0] for host in reversed(master_first(view, pbds))]


def _unplug(view: View, undo: Undo, pbd_ref: PBDRef) -> bool:
    is_unplugged = unplug_unless_used(view, pbd_ref)
    if is_unplugged:
        undo.did(f"unplugged PBD {pbd_ref}", view.call, "PBD.plug", pbd_ref)
    return is_unplugged


def _forget(view: View, sr_ref: SRRef) -> bool:
    """Forget it, and its PBDs and VDI records with it; not when somebody has plugged a PBD meanwhile."""
    try:
        view.call("SR.forget", sr_ref)
    except XapiError as error:
        if error.code == "SR_HAS_PBD":
            log.info("SR %s stays: somebody has plugged it again", sr_ref)
            return False
        if not is_gone(error, "SR"):
            raise
    return True


def _forget_unless_used(view: View, sr_ref: SRRef) -> None:
    """The inverse of introducing. Its PBDs have been unplugged before, by their own inverses."""
    try:
        if not _is_used(view, sr_ref):
            _forget(view, sr_ref)
    except XapiError as error:
        if not is_gone(error, "SR"):
            raise


def _take_back_pbds(view: View, sr_ref: SRRef) -> None:
    """Of somebody else's SR, the PBDs that carry our mark."""
    for pbd_ref, pbd in find_pbds(view, sr_ref).values():
        what = pbd["other_config"].get(MARK)
        if what is None or not unplug_unless_used(view, pbd_ref):
            continue
        if what == CREATED:
            destroy_pbd(view, pbd_ref)
        else:
            view.call("PBD.remove_from_other_config", pbd_ref, MARK)
