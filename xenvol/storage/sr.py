"""Find or introduce the SR that shows a volume, and plug it on the hosts that need it.

xenvol marks an SR that it introduces in sm_config, the one map that `SR.introduce` sets in the same call. So another
process, also after a crash, sees who introduced it. LVM's drivers replace that map when they are plugged (trace sm/24,
SR.sm_config); so such an SR gets the mark in other_config first. An SR that exists already is used as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from xenvol.errors import HostNotReady, UnsupportedSRType, XapiError, XenVolError
from xenvol.pool.changes import add_key, make
from xenvol.pool.marks import CREATED, MARK, PLUGGED
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View, gone_is_fine
from xenvol.pool.waiting import leave_behind, take_over
from xenvol.secret import Secret
from xenvol.session.refs import HostRef, PBDRef, SRRef
from xenvol.storage.pbd import (
    create_pbd,
    destroy_pbd,
    find_pbds,
    known_pbds,
    mark_pbd,
    master_first,
    plug_pbd,
    remove_pbd,
)
from xenvol.storage.release import forget_unless_used, is_ours
from xenvol.storage.secrets import copies_of_passwords, with_passwords
from xenvol.storage.srtypes import sr_type_of
from xenvol.storage.turn import (
    Turn,
    is_free,
    is_in_use,
    note_introducer_done,
    settle,
    turn,
    wait_for_introducer,
)

log = logging.getLogger(__name__)

LUN_LISTING_DRIVER = "lvmoiscsi"
"""The storage driver that lists the LUNs of a target: XenServer and XCP-ng ship it."""
ISCSI_LOGIN_FAILED = frozenset({"SR_BACKEND_FAILURE_68", "SR_BACKEND_FAILURE_140", "SR_BACKEND_FAILURE_141"})
"""The target refuses the password, or no target answers. Another portal or a newer password may work."""
_NO_INITIATOR_NAME = "SR_BACKEND_FAILURE_97"
_HOST_NOT_ADMITTED = ISCSI_LOGIN_FAILED | {"SR_BACKEND_FAILURE_83"}
"""Refusals of an iSCSI log-in. The target admits each host by its initiator name, and xapi does not say which host."""


@dataclass(frozen=True, kw_only=True)
class SRSpec:
    """The SR to introduce. A Secret in `device_config` is sent as a xapi secret under ``<key>_secret``."""

    uuid: str
    type: str
    name_label: str
    device_config: Mapping[str, str | Secret]
    name_description: str = "Introduced by xenvol, and forgotten with its last volume"
    content_type: str = ""
    sm_config: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_shared(self) -> bool:
        """Whether every host of a pool can plug it."""
        return sr_type_of(self.type).is_shared


def require_sr_type(view: View, sr_type: str) -> None:
    """Raise UnsupportedSRType unless the pool has a storage driver for this type."""
    if view.driver_of(sr_type, *([LUN_LISTING_DRIVER] if sr_type == "iscsi" else [])) is None:
        raise UnsupportedSRType(sr_type, host=view.pool["master"], offered=view.sr_types)


def find_sr(view: View, sr_uuid: str) -> SRRef | None:
    return next(map(SRRef, view.find("SR", {"uuid": sr_uuid})), None)


def require_sr(view: View, sr_ref: SRRef) -> None:
    """Raise XapiError HANDLE_INVALID if another process has forgotten the SR: then a missing disk proves nothing."""
    view.call("SR.get_uuid", sr_ref)


def connect_sr(
    view: View,
    undo: Undo,
    spec: SRSpec,
    hosts: Iterable[HostRef] | None,
    *,
    found: SRRef | None = None,
    ways: Sequence[Mapping[str, str | Secret]] = (),
) -> tuple[SRRef, bool]:
    """Return the SR, plugged on these hosts (None: on all), and whether the driver has just listed its disks.

    `found` is an existing SR. `ways` are the device_configs with which a host may reach the storage, in the order to
    try; the default is that of `spec`. Idempotent.

    An existing PBD is plugged as it is, also that of another process, which may be about to plug it. If it cannot reach
    the storage, and xenvol introduced the SR, the PBD is replaced by one of the `ways`. A shared SR is also plugged on
    the pool's master; a local SR stays on its host. If `hosts` is None, a host that is down is skipped.
    """
    sr_ref, is_new = (found, False) if found is not None else _introduce(view, undo, spec)
    pbds = {} if is_new else find_pbds(view, sr_ref)
    is_foreign = not is_new and not is_ours(view.record("SR", sr_ref))
    has_taken_over = not is_new and take_over(sr_ref)
    if has_taken_over:
        undo.did(f"took over SR {sr_ref}", leave_behind, sr_ref)
    elif not is_new and not is_foreign:
        view.joined.add(sr_ref)
    if not is_foreign and sr_type_of(spec.type).on_lvm:
        # needs no inverse, since the mark disappears with the SR
        its_uuid = spec.uuid if is_new else view.record("SR", sr_ref)["uuid"]
        add_key(view, "SR.other_config", sr_ref, MARK, its_uuid)
    told = list(ways) or ([spec.device_config] if spec.device_config else [])
    theirs = [pbd["device_config"] for _, pbd in pbds.values()][:1] if is_foreign or not told else []
    plugging = _Plugging(view, undo, sr_ref, spec.uuid, is_foreign=is_foreign, ways=[*theirs, *told])
    is_shared = spec.is_shared if is_new else view.record("SR", sr_ref)["shared"]
    if not is_shared and not pbds:
        plugging.plug_on_first(view.hosts if hosts is None else list(hosts))
        return sr_ref, True
    if is_shared:
        wanted = {*(view.hosts if hosts is None else hosts), view.master}
    else:
        wanted = _of_local(view, sr_ref, pbds, None if hosts is None else set(hosts))
    unplugged = _unplugged(wanted, pbds)
    if is_new:
        plugging.plug_on_all(wanted, {}, may_be_down=hosts is None)
    elif unplugged:
        plugging.plug_in_turn(wanted, needs_no_user=is_foreign or has_taken_over, may_be_down=hosts is None)
    if is_new or has_taken_over:
        note_introducer_done(sr_ref)
    return sr_ref, not is_shared or view.master in unplugged


@contextmanager
def turn_beside_users(
    view: View, sr_ref: SRRef, *, for_unplug: bool = False, undo: Undo | None = None
) -> Iterator[Turn]:
    """Take the turn on an existing SR. Wait first for the attempt that introduced it, since that one takes no turn."""
    if is_ours(view.record("SR", sr_ref)):
        wait_for_introducer(view, sr_ref)
    with turn(view, sr_ref, for_unplug=for_unplug, undo=undo) as mine:
        yield mine


def scan_sr(view: View, sr_ref: SRRef) -> None:
    """Let the storage driver list the disks of an existing SR again, in a turn."""
    with turn_beside_users(view, sr_ref):
        view.call("SR.scan", sr_ref)


def _unplugged(hosts: Iterable[HostRef], pbds: Mapping[HostRef, tuple[PBDRef, Record]]) -> list[HostRef]:
    return [host for host in hosts if host not in pbds or not pbds[host][1]["currently_attached"]]


def _take_turn(view: View, sr_ref: SRRef, hosts: set[HostRef], *, needs_no_user: bool) -> Turn | None:
    """Take the turn to plug an existing SR. Return None if other attempts have plugged it in the meantime.

    Until a disk of an SR that xenvol introduced is in use, the attempt that introduced it may still change it, and so
    may that attempt's detach. With `needs_no_user`, for another owner's SR or an SR that was left behind, do not wait
    for that.
    """

    def is_plugged(sr: Record) -> bool:
        return not _unplugged(hosts, known_pbds(view, sr_ref))

    def may_be_changed(sr: Record) -> bool:
        return needs_no_user or is_in_use(view, sr)

    mine = Turn(view, sr_ref)
    while True:
        is_alive = settle(
            view, sr_ref, lambda sr: is_plugged(sr) or (may_be_changed(sr) and is_free(view, sr))
        )
        if is_plugged(view.record("SR", sr_ref)):
            return None
        sr = mine.take()
        if may_be_changed(sr):
            return mine
        if not is_alive:
            view.joined.discard(sr_ref)
            return mine
        mine.leave()


@dataclass
class _Plugging:
    """Plugs one SR on several hosts, each with the first device_config that reaches the storage."""

    view: View
    undo: Undo
    sr_ref: SRRef
    sr_uuid: str
    is_foreign: bool = field(kw_only=True)
    """Another owner's SR: xenvol marks the PBDs that it makes or plugs, and never replaces an existing PBD."""
    ways: Sequence[Mapping[str, str | Secret]] = field(kw_only=True)

    def plug_in_turn(self, hosts: set[HostRef], *, needs_no_user: bool, may_be_down: bool) -> None:
        """Take the turn, and plug an existing SR on those hosts on which it is still unplugged."""
        mine = _take_turn(self.view, self.sr_ref, hosts, needs_no_user=needs_no_user)
        if mine is None:
            return
        self.undo.did(f"took the turn mark of SR {self.sr_ref}", mine.leave)
        pbds = known_pbds(self.view, self.sr_ref)
        there = {host: pbd_ref for host, (pbd_ref, _) in pbds.items()}
        self.plug_on_all(_unplugged(hosts, pbds), there, may_be_down=may_be_down)
        mine.leave()
        self.undo.did(f"gave back the turn mark of SR {self.sr_ref}", mine.try_to_take)

    def plug_on_all(
        self, hosts: Iterable[HostRef], there: Mapping[HostRef, PBDRef], *, may_be_down: bool
    ) -> None:
        """Plug the SR on each host, the master first. Raises XapiError of the first host for which every way failed."""
        pbds, left = dict(there), master_first(self.view, hosts)
        next_way = dict.fromkeys(left, 0)
        for host in left:
            if host in pbds and self.is_foreign:
                mark_pbd(self.view, self.undo, pbds[host], PLUGGED)
        while left:
            for way in sorted({next_way[host] for host in left if host not in pbds}):
                missing = [host for host in left if host not in pbds and next_way[host] == way]
                pbds |= self._create(missing, self._way(way, missing))
                next_way |= dict.fromkeys(missing, way + 1)
            for host in list(left):
                was_there = pbds[host] == there.get(host)
                is_last = next_way[host] >= len(self.ways) or (was_there and self.is_foreign)
                try:
                    self._plug(host, pbds[host])
                except XapiError as error:
                    if error.code in HOST_IS_DOWN and may_be_down and host != self.view.master:
                        log.warning("host %s is down: xapi plugs its PBD when the host starts", host)
                    elif error.code in ISCSI_LOGIN_FAILED and not is_last:
                        if was_there:
                            self._remove(host, pbds.pop(host))
                        else:
                            destroy_pbd(self.view, pbds.pop(host))
                        continue
                    else:
                        raise
                left.remove(host)

    def _way(self, number: int, hosts: Sequence[HostRef]) -> Mapping[str, str | Secret]:
        if not self.ways:
            problem = f"it has no PBD of SR {self.sr_uuid}, and nothing says how to reach its storage: create the PBD"
            raise HostNotReady(self.view.record("host", hosts[0])["name_label"], problem=problem)
        return self.ways[number]

    def plug_on_first(self, hosts: Iterable[HostRef]) -> None:
        """Plug a local SR on the first of these hosts that has the storage. Raises XapiError of the last host."""
        candidates = master_first(self.view, hosts)
        for last, host in zip(range(len(candidates) - 1, -1, -1), candidates, strict=True):
            pbd_ref = self._create([host], self._way(0, [host]))[host]
            try:
                return self._plug(host, pbd_ref)
            except XapiError as error:
                is_elsewhere = error.code.startswith("SR_BACKEND_FAILURE") or error.code in HOST_IS_DOWN
                if not last or not is_elsewhere:
                    raise
                destroy_pbd(self.view, pbd_ref)
        raise HostNotReady(
            "(none)", problem="a local SR needs a host that has its storage, and no host was named"
        )

    def _create(self, hosts: Iterable[HostRef], way: Mapping[str, str | Secret]) -> dict[HostRef, PBDRef]:
        made = {}
        with copies_of_passwords(self.view, self.undo, self.sr_uuid, way) as device_config:
            for host in hosts:
                made[host] = create_pbd(self.view, self.undo, self.sr_ref, host, device_config)
                if self.is_foreign:
                    mark_pbd(self.view, self.undo, made[host], CREATED)
        return made

    def _remove(self, host: HostRef, pbd_ref: PBDRef) -> None:
        """Destroy a PBD that was there before this attempt; the inverse makes it again, with the same device_config."""
        device_config = with_passwords(self.view, self.view.call("PBD.get_device_config", pbd_ref))

        def make_again() -> None:
            redo = Undo(hidden=self.view.hidden)
            try:
                with copies_of_passwords(self.view, redo, self.sr_uuid, device_config) as copied:
                    create_pbd(self.view, redo, self.sr_ref, host, copied)
            except BaseException as error:
                redo.unwind(error)
                raise

        def make_again_unless_gone() -> None:
            with gone_is_fine("SR"):
                make_again()

        remove_pbd(self.view, self.undo, pbd_ref, inverse=make_again_unless_gone)

    def _plug(self, host: HostRef, pbd_ref: PBDRef) -> None:
        try:
            plug_pbd(self.view, self.undo, self.sr_ref, pbd_ref)
        except XapiError as error:
            if error.code == _NO_INITIATOR_NAME:
                problem = "it has no iSCSI initiator name: set one with host.set_iscsi_iqn"
                raise HostNotReady(_host_in_words(self.view, host), problem=problem) from error
            if error.code in _HOST_NOT_ADMITTED:
                error.add_note(f"on host {_host_in_words(self.view, host)}")
            raise


def _host_in_words(view: View, host_ref: HostRef) -> str:
    """Return the name, uuid and initiator name of a host, for messages; the storage must admit that initiator."""
    try:
        host = view.record("host", host_ref)
    except XenVolError:  # the error that this text is for comes first
        return host_ref
    initiator = host.get("iscsi_iqn") or host.get("other_config", {}).get("iscsi_iqn")
    return f"{host['name_label']} ({host['uuid']}{f', initiator {initiator}' if initiator else ''})"


def _of_local(
    view: View, sr_ref: SRRef, pbds: Mapping[HostRef, object], wanted: set[HostRef] | None
) -> set[HostRef]:
    """Return the hosts on which to plug a local SR. Raises HostNotReady for a host that does not have it."""
    here = set(pbds)
    if wanted is not None and (elsewhere := wanted - here):
        name = view.record("SR", sr_ref)["name_label"]
        raise HostNotReady(", ".join(elsewhere), problem=f"SR {name} is local to another host")
    return here if wanted is None else wanted


def _take_back(view: View, sr_ref: SRRef) -> None:
    try:
        forget_unless_used(view, sr_ref)
    finally:
        leave_behind(sr_ref)


def _introduce(view: View, undo: Undo, spec: SRSpec) -> tuple[SRRef, bool]:
    """Introduce the SR; return it and True. If another attempt has just introduced it, return that one and False."""
    sm_config = {**spec.sm_config, MARK: spec.uuid}
    record = (
        spec.uuid,
        spec.name_label,
        spec.name_description,
        spec.type,
        spec.content_type,
        spec.is_shared,
        sm_config,
    )

    def look() -> SRRef | None:
        there = find_sr(view, spec.uuid)  # an SR with this uuid that an operator introduced does not count
        return there if there is not None and is_ours(view.record("SR", there)) else None

    description = f"introduced SR {spec.uuid}"
    try:
        sr_ref = make(view, undo, description, ("SR.introduce", *record), look=look, inverse=_take_back)
    except XapiError as error:
        there = find_sr(view, spec.uuid) if error.code == "SR_UUID_EXISTS" else None
        if there is None:
            raise
        return there, False
    return sr_ref, True
