"""An SR that shows a volume: found or introduced, and made visible on the hosts that need it.

An SR that we introduce says so in its sm_config, the one map that `SR.introduce` sets in the same call; so whoever
comes later, in another process or after a crash, knows it for ours. LVM's drivers write that map anew when they are
plugged (trace sm/24, SR.sm_config), so before that it is said in other_config as well. What was there before is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xenvol.errors import HostNotReady, UnsupportedSRType, XapiError
from xenvol.marks import CREATED, MARK, PLUGGED
from xenvol.refs import HostRef, PBDRef, SRRef
from xenvol.secret import Secret
from xenvol.storage.pbd import (
    HOST_IS_DOWN,
    create_pbd,
    destroy_pbd,
    find_pbds,
    mark_pbd,
    master_first,
    plug_pbd,
)
from xenvol.storage.release import forget_unless_used, is_ours, is_used
from xenvol.storage.secrets import copies_of_passwords
from xenvol.undo import Undo
from xenvol.verbs import make
from xenvol.view import Record, View

log = logging.getLogger(__name__)

_REWRITING = ("lvm", "lvhd")
"""SR types whose drivers write the SR's sm_config anew begin so."""


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


def find_sr(view: View, sr_uuid: str) -> SRRef | None:
    return next(map(SRRef, view.find("SR", {"uuid": sr_uuid})), None)


def connect_sr(
    view: View, undo: Undo, spec: SRSpec, hosts: Iterable[HostRef] | None, *, found: SRRef | None = None
) -> tuple[SRRef, bool]:
    """The SR, plugged on these hosts (None: on all), and whether it is new; `found` is one known to be there.

    Idempotent. For a shared SR the pool's master is added to the hosts; a local one stays where it is. A PBD that is
    missing takes its device_config from one that is there, so that all hosts see the same; else from the spec. When
    all are asked for, one that does not answer is left out.
    """
    sr_ref, is_new = (found, False) if found is not None else _introduce(view, undo, spec)
    pbds: dict[HostRef, tuple[PBDRef, Record]] = {} if is_new else find_pbds(view, sr_ref)
    is_foreign = not is_new and not is_ours(view.record("SR", sr_ref))
    if not is_foreign and not is_new:
        pbds = _without_dead_attempts(view, sr_ref, pbds)
    wanted = set(view.hosts if hosts is None else hosts)
    if is_new or view.record("SR", sr_ref)["shared"]:
        wanted.add(view.master)
    else:
        wanted = _of_local(view, sr_ref, pbds, None if hosts is None else wanted)
    missing = [host for host in master_first(view, wanted) if host not in pbds]
    if missing:
        theirs = next((pbd["device_config"] for _, pbd in pbds.values()), None)
        with copies_of_passwords(view, undo, spec.uuid, theirs or spec.device_config) as device_config:
            for host in missing:
                pbd_ref = create_pbd(view, undo, sr_ref, host, device_config)
                pbds[host] = pbd_ref, {"currently_attached": False}
                if is_foreign:
                    mark_pbd(view, undo, pbd_ref, CREATED)
    if not is_foreign and spec.type.startswith(_REWRITING):
        _mark(view, sr_ref)
    for host in master_first(view, wanted):
        pbd_ref, pbd = pbds[host]
        if not pbd["currently_attached"]:
            if is_foreign and host not in missing:
                mark_pbd(view, undo, pbd_ref, PLUGGED)
            try:
                plug_pbd(view, undo, sr_ref, pbd_ref)
            except XapiError as error:
                if hosts is not None or host == view.master or error.code not in HOST_IS_DOWN:
                    raise
                log.warning("host %s is down: SR %s will be plugged there when it starts", host, spec.uuid)
    return sr_ref, is_new


def _mark(view: View, sr_ref: SRRef) -> None:
    """It goes with the SR, so it needs no inverse. Idempotent."""
    try:
        view.call("SR.add_to_other_config", sr_ref, MARK, "")
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise


def _without_dead_attempts(
    view: View, sr_ref: SRRef, pbds: dict[HostRef, tuple[PBDRef, Record]]
) -> dict[HostRef, tuple[PBDRef, Record]]:
    """Drop the PBDs of an attempt that died before it could plug any: its portal or password may have been wrong."""
    if not pbds or any(pbd["currently_attached"] for _, pbd in pbds.values()) or is_used(view, sr_ref):
        return pbds
    for pbd_ref, _ in pbds.values():
        destroy_pbd(view, pbd_ref)
    return {}


def _of_local(
    view: View, sr_ref: SRRef, pbds: Mapping[HostRef, object], wanted: set[HostRef] | None
) -> set[HostRef]:
    """A local SR is visible where it is, and nowhere else. Raises HostNotReady for another host."""
    here = set(pbds)
    if wanted is not None and (elsewhere := wanted - here):
        name = view.record("SR", sr_ref)["name_label"]
        raise HostNotReady(", ".join(elsewhere), problem=f"SR {name} is local to another host")
    return here if wanted is None else wanted


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

    def look() -> SRRef | None:
        there = find_sr(view, spec.uuid)  # an operator's SR of this uuid is not what we tried to make
        return there if there is not None and is_ours(view.record("SR", there)) else None

    description = f"introduced SR {spec.uuid}"
    try:
        sr_ref = make(
            view, undo, description, ("SR.introduce", *record), look=look, inverse=forget_unless_used
        )
    except XapiError as error:
        there = find_sr(view, spec.uuid) if error.code == "SR_UUID_EXISTS" else None
        if there is None:
            raise
        return there, False
    return sr_ref, True
