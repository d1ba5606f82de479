"""A backend's SR in the pool: found, made, introduced, plugged on its hosts, removed.

`SR.create` takes no uuid, and drivers rewrite the sm_config that it is given (trace sm/24: lvm). So the description of
a new SR names its backend, and the SR is found by it after a crash or a lost answer. Once the SR is plugged, a mark in
other_config names the backend (`own_sr`), and the description becomes readable. An SR with neither was in the pool
before us, and is never forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.errors import HostNotReady, UnknownHost, UnsupportedSRType, XapiError, XapiUnreachable
from xenvol.pool.changes import add_key, make
from xenvol.pool.marks import BACKEND, FLAVOR, MARK
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View, gone_is_fine, is_gone
from xenvol.session.refs import HostRef, PBDRef, SRRef
from xenvol.sm.errors import BackendNotReady, NoSuchStorageDriver
from xenvol.sm.records import Backend
from xenvol.storage import find_sr, is_ours
from xenvol.storage.pbd import (
    create_pbd,
    destroy_pbd,
    find_pbds,
    known_pbds,
    master_first,
    plug_pbd,
)
from xenvol.storage.sr import turn_beside_users
from xenvol.storage.srtypes import NO_LONGER_SHIPPED
from xenvol.storage.turn import turn

log = logging.getLogger(__name__)

_ANY_SIZE = "0"  # SR.create's physical_size: drivers find out by themselves


@dataclass(frozen=True, kw_only=True)
class SRMaking:
    """The arguments of SR.create and SR.introduce."""

    sr_type: str
    is_shared: bool
    name_label: str
    name_description: str
    device_config: Mapping[str, str]
    """Passwords as uuids of xapi secrets."""
    sm_config: Mapping[str, str]
    token: str
    flavor: str = ""
    """The label of the backend's flavor."""


def require_driver(view: View, sr_type: str) -> Record:
    """Return the SM object of the type. Raises UnsupportedSRType; NoSuchStorageDriver if no release ships it any
    more."""
    if (record := view.driver_of(sr_type)) is not None:
        return record
    kind = NoSuchStorageDriver if sr_type in NO_LONGER_SHIPPED else UnsupportedSRType
    raise kind(sr_type, host=view.record("host", view.master)["name_label"], offered=view.sr_types)


def description_of(token: str) -> str:
    """Return the description of an SR in the making; no other SR has it."""
    return f"xenvol storage manager, backend {token}"


def find_made(view: View, token: str) -> SRRef | None:
    """Return the SR that a dead process made or introduced for a backend, before a row named it; else None."""
    return next(map(SRRef, view.find("SR", {"name_description": description_of(token)})), None)


def is_made_for(sr_rec: Record, token: str) -> bool:
    """Return True if we made or introduced the SR for this backend."""
    is_marked = sr_rec["other_config"].get(BACKEND) == token
    return is_marked or bool(sr_rec["name_description"] == description_of(token))


def create_sr(view: View, making: SRMaking, host_ref: HostRef) -> SRRef:
    """Make the SR on the storage, by that host: this formats. `share_sr` and `plug_sr` follow.

    With a password, it is made for that host alone. Otherwise xapi gives the PBD of each host a copy of the secret, and
    then writes the first copy's uuid into all PBDs: the other copies stay for ever, and the first goes with the first
    PBD that is destroyed (docs/background/xapi.md, SR.create). A driver that refuses leaves one such copy.
    """
    has_password = any(key.endswith("password_secret") for key in making.device_config)
    record = (
        host_ref,
        dict(making.device_config),
        _ANY_SIZE,
        making.name_label,
        description_of(making.token),
        making.sr_type,
        "user",
        making.is_shared and not has_password,
        dict(making.sm_config),
    )
    # the SR on the storage is not undone: the next attempt finds it by its description
    forward = Undo()
    try:
        return make(
            view,
            forward,
            "made an SR",
            ("SR.create", *record),
            look=lambda: find_made(view, making.token),
            inverse=lambda view, sr_ref: None,
        )
    except XapiError as error:
        # a call of a dead attempt was still running, and has made the SR
        there = find_made(view, making.token) if error.code == "SR_DEVICE_IN_USE" else None
        if there is None:
            raise
        return there


def share_sr(view: View, sr_ref: SRRef, making: SRMaking) -> None:
    """Set the SR shared, if all hosts can reach its type. Idempotent."""
    sr_rec = view.record("SR", sr_ref)
    if making.is_shared and not sr_rec["shared"]:
        view.call("SR.set_shared", sr_ref, True)
        view.remember("SR", sr_ref, {**sr_rec, "shared": True})


def introduce_sr(view: View, undo: Undo, making: SRMaking, sr_uuid: str) -> SRRef:
    """Introduce an SR that is on the storage already. If another process introduces it meanwhile, return that one."""
    record = (
        sr_uuid,
        making.name_label,
        description_of(making.token),
        making.sr_type,
        "user",
        making.is_shared,
        dict(making.sm_config),
    )
    try:
        return make(
            view,
            undo,
            f"introduced SR {sr_uuid}",
            ("SR.introduce", *record),
            look=lambda: find_sr(view, sr_uuid),
            inverse=_forget,
        )
    except XapiError as error:
        there = find_sr(view, sr_uuid) if error.code == "SR_UUID_EXISTS" else None
        if there is None:
            raise
        return there


def plug_sr(view: View, undo: Undo, sr_ref: SRRef, making: SRMaking, host_ref: HostRef | None) -> None:
    """Plug the SR on all hosts, or a local one on its own. A host that is down gets it at its start. Idempotent.

    A missing PBD is made with the device_config of an existing one, so that all hosts see the same. An error of the
    master is raised at once. An error of another host does not stop the others; the first of these is raised at the
    end.
    """
    pbds = find_pbds(view, sr_ref)
    wanted = _wanted(view, sr_ref, pbds, host_ref)
    if not all(host in pbds and pbds[host][1]["currently_attached"] for host in wanted):
        with turn_beside_users(view, sr_ref, undo=undo):
            pbds = known_pbds(view, sr_ref)
            _plug_on(view, undo, sr_ref, making, _wanted(view, sr_ref, pbds, host_ref), pbds)


def _wanted(
    view: View, sr_ref: SRRef, pbds: Mapping[HostRef, object], host_ref: HostRef | None
) -> set[HostRef]:
    """Return the hosts that must have the SR: all for a shared one, else the host of a local one."""
    if view.record("SR", sr_ref)["shared"]:
        return {*view.hosts, view.master}
    return set(pbds) or ({host_ref} if host_ref is not None else {view.master})


def _plug_on(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    making: SRMaking,
    wanted: set[HostRef],
    pbds: Mapping[HostRef, tuple[PBDRef, Record]],
) -> None:
    theirs = next((pbd["device_config"] for _, pbd in pbds.values()), None)
    refusals: list[XapiError] = []
    for host in master_first(view, wanted):
        pbd_ref, pbd = pbds.get(host, (None, None))
        if pbd_ref is None:
            pbd_ref = create_pbd(view, undo, sr_ref, host, theirs or making.device_config)
        elif pbd is not None and pbd["currently_attached"]:
            continue
        try:
            plug_pbd(view, undo, sr_ref, pbd_ref)
        except XapiError as error:
            if host == view.master or len(wanted) == 1:
                raise
            if error.code in HOST_IS_DOWN:
                log.warning("host %s is down: SR %s will be plugged there when it starts", host, sr_ref)
            else:
                error.add_note(f"this was on host {view.all('host')[host]['name_label']}")
                refusals.append(error)
    if refusals:
        for another in refusals[1:]:
            refusals[0].add_note(f"{another} ({', '.join(another.__notes__)})")
        raise refusals[0]


def own_sr(view: View, sr_ref: SRRef, making: SRMaking) -> None:
    """Mark an SR that is ours with its backend and its flavor, and give it its readable description. Idempotent.

    An SR that the attach of a volume introduced is ours too. From now on it belongs to the backend, and is no longer
    forgotten with its last volume.
    """
    sr_rec = view.record("SR", sr_ref)
    if not (is_made_for(sr_rec, making.token) or is_ours(sr_rec)):
        return
    for key, value in ((BACKEND, making.token), (FLAVOR, making.flavor)):
        if sr_rec["other_config"].get(key, "") != value:
            if key in sr_rec["other_config"]:  # the mark of a removed backend
                view.call("SR.remove_from_other_config", sr_ref, key)
            add_key(view, "SR.other_config", sr_ref, key, value)  # or another service is doing the same
    for name in ("sm_config", "other_config"):
        if MARK in sr_rec[name]:
            view.call(f"SR.remove_from_{name}", sr_ref, MARK)
    if sr_rec["name_description"] == description_of(making.token):
        view.call("SR.set_name_description", sr_ref, making.name_description)


def get_sr(view: View, backend: Backend) -> tuple[SRRef, Record]:
    """Return the backend's SR in this pool. Raises BackendNotReady if it is not made, or not known here."""
    if backend.sr_uuid is None:
        raise BackendNotReady(backend.id, problem="its SR is not made yet")
    found = view.find("SR", {"uuid": backend.sr_uuid})
    if not found:
        raise BackendNotReady(backend.id, problem=f"SR {backend.sr_uuid} is not known to this pool")
    ((ref, sr_rec),) = found.items()
    return SRRef(ref), sr_rec


def remove_sr(view: View, sr_ref: SRRef, *, destroy: bool) -> None:
    """Unplug the SR on all hosts, and forget it; or destroy it, which xapi refuses while it has disks.

    After a forget the data stays. Idempotent. If one host cannot unplug, the others are plugged again.
    """
    with gone_is_fine("SR"), turn_beside_users(view, sr_ref, for_unplug=True) as mine:
        undo = Undo()
        try:
            pbds = known_pbds(view, sr_ref)
            for host in reversed(master_first(view, pbds)):
                view.call("PBD.unplug", pbds[host][0])
                undo.did(f"unplugged PBD {pbds[host][0]}", view.call, "PBD.plug", pbds[host][0])
            _drop(view, "SR.destroy" if destroy else "SR.forget", sr_ref)
        except BaseException as error:
            undo.unwind(error)
            raise
        mine.lose()


def _drop(view: View, call: str, sr_ref: SRRef) -> None:
    """Call it, and ask xapi whether the SR is gone if there is no answer."""
    try:
        view.call(call, sr_ref)
    except XapiUnreachable as silence:
        try:
            view.call("SR.get_uuid", sr_ref)
        except XapiError as error:
            if is_gone(error, "SR"):
                return
        raise silence


def find_host(view: View, name: str | None) -> tuple[HostRef, Record]:
    """Return a host by uuid or name; None means the pool's master. Raises UnknownHost."""
    hosts: dict[str, Any] = view.all("host")
    if name is None:
        return view.master, hosts[view.master]
    found = {
        ref: record
        for ref, record in hosts.items()
        if name in (ref, record["uuid"], record["name_label"], record["hostname"])
    }
    if len(found) != 1:
        raise UnknownHost(name, candidates=[record["uuid"] for record in found.values()])
    ((ref, record),) = found.items()
    return HostRef(ref), record


def host_of(view: View, backend: Backend) -> HostRef | None:
    """Return the host of a local SR, or None. Raises HostNotReady if its host is not in this pool."""
    if backend.host_uuid is None:
        return None
    for ref, record in view.all("host").items():
        if record["uuid"] == backend.host_uuid:
            return HostRef(ref)
    problem = f"it has the local SR of backend {backend.id}, and is not in this pool"
    raise HostNotReady(backend.host_uuid, problem=problem)


def _forget(view: View, sr_ref: SRRef) -> None:
    """Forget an SR: the inverse of introducing it. Its PBDs are unplugged by their own inverses, and go with it."""
    with gone_is_fine("SR"), turn(view, sr_ref) as mine:
        for pbd_ref, _ in known_pbds(view, sr_ref).values():
            destroy_pbd(view, pbd_ref)
        view.call("SR.forget", sr_ref)
        mine.lose()
