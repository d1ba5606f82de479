"""Backends: their SRs are made once, even if several services try, and removed.

The row comes first, then the SR. If the process dies between the two, any service can make the SR later. The row is
locked while its SR is made, so it is made only once. An SR that was made and not recorded is found by its description.

Dead storage takes minutes to fail, and on SQLite a lock blocks every service. So the storage is probed before the row
is locked.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import HostNotReady, XapiError, XapiUnreachable, XenVolError
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import SRRef
from xenvol.sm import (
    backend_rows,
    capacity,
    config,
    flavor_rows,
    passwords,
    probing,
    same_storage,
    scans,
    srs,
    vdis,
    volume_rows,
)
from xenvol.sm.context import Context, say_nothing
from xenvol.sm.errors import (
    BackendExists,
    BackendInUse,
    BackendNotReady,
    DeviceNotBlank,
    IncompleteConfig,
    InvalidConfig,
    NotSupported,
    UnknownBackend,
)
from xenvol.sm.records import Backend, Origin
from xenvol.sm.srs import SRMaking
from xenvol.storage import find_sr, vdis_of
from xenvol.storage.srtypes import SRType

log = logging.getLogger(__name__)

_AT_ONCE = 8  # backends set up in parallel: each may wait for an array
_LISTED = 10  # volumes that an error names


@dataclass(frozen=True)
class SetupReport:
    """The result for one backend at start-up."""

    backend: Backend
    error: XenVolError | None
    """Why the backend cannot be used, or None."""


def set_up(context: Context, view: View, backend_id: int, *, replug: bool = False) -> Backend:
    """Make the backend's SR if it was never made, and plug it in this pool; see that its storage answers. Idempotent.

    If several services try at once, one makes it, and the others wait. If the SR's mount is lost, and no VM has a
    disk of it, the SR is plugged anew. With `replug`, it is plugged anew in any case, on each host on which no VM
    has a disk of it.
    """
    backend = context.database.read(backend_rows.get, backend_id)
    if backend.state == "new":
        return make(context, view, backend)
    return connect(context, view, backend_id, replug=replug)


def make(
    context: Context,
    view: View,
    backend: Backend,
    *,
    secrets: Mapping[str, str | Secret] | None = None,
    format_device: str | None = None,
) -> Backend:
    """Make the SR of a new backend, and plug it in this pool; `secrets` has its passwords if they are known.

    `backend` is the row as it was registered. Raises BackendExists if another registration has taken it over.

    `format_device` may be erased by this call, and only by this call: later, no process knows what is on the device. So
    a start-up or an audit never formats what an unfinished registration was allowed to format.
    """
    if secrets is None:
        passwords.check_known(view, backend.id, backend.params)
    else:
        passwords.keep(view, backend.token, secrets)
    _check_before_making(view, backend, format_device)
    try:
        with context.database.transaction() as connection:
            there = backend_rows.get(connection, backend.id, lock=True)
            if secrets is not None and there.created_at != backend.created_at:
                raise BackendExists(
                    same_storage.listed(same_storage.of_backend(backend)), backend_id=backend.id
                )
            if there.state == "new":
                _make_and_record(connection, view, there, format_device)
    except IntegrityError as error:  # the SR is another backend's
        sr_uuid = backend.params.get("sr_uuid", "")
        other = context.database.read(backend_rows.find, sr_uuid=sr_uuid)
        if other is None:
            raise
        raise BackendExists(f"SR {sr_uuid}", backend_id=other.id) from error
    return connect(context, view, backend.id)


def _make_and_record(
    connection: sa.Connection, view: View, backend: Backend, format_device: str | None
) -> None:
    """Make the SR, and record it in the row. If this fails, it is undone in the pool, and the data on the storage
    stays."""
    undo = Undo()
    making = _making(backend)
    try:
        sr_ref, origin = _have_sr(view, undo, backend, making, format_device)
        if origin != "found":
            srs.share_sr(view, sr_ref, making)
        srs.plug_sr(view, undo, sr_ref, making, srs.host_of(view, backend))
        backend_rows.update(
            connection,
            backend.id,
            sr_uuid=view.record("SR", sr_ref)["uuid"],
            state="ready",
            origin=origin,
        )
    except BaseException as error:
        undo.unwind(error)
        raise


def connect(context: Context, view: View, backend_id: int, *, replug: bool = False) -> Backend:
    """Introduce the backend's SR in this pool if it is unknown, plug it, and store its room. Idempotent.

    See `set_up` for `replug`. If a host refuses, an SR that this call introduced is forgotten again; an SR that the
    pool had stays as it is plugged.
    """
    backend = context.database.read(backend_rows.get, backend_id)
    if backend.sr_uuid is None:
        raise BackendNotReady(backend.id, problem="its SR is not made yet")
    making, host_ref, undo = _making(backend), srs.host_of(view, backend), Undo()
    sr_ref = find_sr(view, backend.sr_uuid)
    if sr_ref is None:
        passwords.check_known(view, backend.id, backend.params)
        try:
            sr_ref = srs.introduce_sr(view, undo, making, backend.sr_uuid)
            srs.plug_sr(view, undo, sr_ref, making, host_ref)
        except BaseException as error:
            undo.unwind(error)
            raise
    else:
        srs.plug_sr(view, undo, sr_ref, making, host_ref)
    flavor = context.database.read(flavor_rows.by_id, backend.flavor_id)
    srs.own_sr(view, sr_ref, dataclasses.replace(making, flavor=flavor.label))
    try:
        _ask_storage(view, backend, sr_ref, replug=replug)
    except (XapiError, IncompleteConfig) as error:
        raise BackendNotReady(backend.id, problem=f"its storage does not answer: {error}") from error
    (fresh,) = capacity.refresh(context, view, [backend])
    return fresh


def _ask_storage(view: View, backend: Backend, sr_ref: SRRef, *, replug: bool) -> None:
    """See that the storage answers, and that the SR's mount is there; plug the SR anew if that helps."""
    scans.reach(view, backend, sr_ref)  # before the SR is unplugged: it could not be plugged again
    if replug:
        scans.replug(view, sr_ref, beside_users=True)
    try:
        scans.check_mount(view, backend, sr_ref)
    except XapiError:
        if replug or not scans.replug(view, sr_ref):
            raise
        scans.check_mount(view, backend, sr_ref)


def set_up_all(
    context: Context, *, replug: bool = False, progress: Callable[[str], None] = say_nothing
) -> list[SetupReport]:
    """Set up every backend, in parallel. A backend that fails is reported, and does not stop the others.

    `progress` receives each backend that is up; the log receives each one that is not.
    """
    backends = context.database.read(backend_rows.all_of)

    def attempt(backend: Backend) -> SetupReport | None:
        view = context.view()
        try:
            return SetupReport(set_up(context, view, backend.id, replug=replug), None)
        except UnknownBackend:
            return None  # removed meanwhile
        except XenVolError as error:
            log.warning("backend %d cannot be used: %s", backend.id, error)
            return SetupReport(_refreshed(context, view, backend, error), error)
        except Exception as error:  # one bad row must not stop the other backends
            log.exception("backend %d cannot be used", backend.id)
            return SetupReport(
                backend, BackendNotReady(backend.id, problem=f"{type(error).__name__}: {error}")
            )

    # on SQLite, making an SR locks the whole file, and the other backends would time out on it
    alone = [backend for backend in backends if backend.state == "new" and context.database.is_sqlite]
    reports = []
    for some, at_once in ((alone, 1), ([backend for backend in backends if backend not in alone], _AT_ONCE)):
        with ThreadPoolExecutor(at_once, thread_name_prefix="xenvol-setup") as pool:
            for report in pool.map(attempt, some):
                if report is None:
                    continue
                if report.error is None:
                    progress(f"backend {report.backend.id} is up")
                reports.append(report)
    return sorted(reports, key=lambda report: report.backend.id)


def _refreshed(context: Context, view: View, backend: Backend, error: XenVolError) -> Backend:
    """Store what the pool says of a backend that could not be set up, and return the new row.

    A backend of another pool's host is returned unchanged: that pool's services know more of it.
    """
    if backend.sr_uuid is None or isinstance(error, XapiUnreachable | HostNotReady):
        return backend
    try:
        problems = {backend.id: error.problem} if isinstance(error, BackendNotReady) else {}
        (fresh,) = capacity.refresh(context, view, [backend], problems=problems)
    except XenVolError as failure:
        log.info("backend %d: %s", backend.id, failure)
        return backend
    return fresh


def remove(context: Context, backend_id: int, *, destroy: bool = False) -> None:
    """Take the backend out of its flavor, and its SR out of the pool, unless the pool had the SR before us.

    The data stays, and can be registered again by its ``sr_uuid``; `destroy` erases the SR, which must be empty.
    Idempotent until the row is deleted.

    Raises UnknownBackend, BackendInUse, VolumeInUse if a VM has a disk of the SR, NotSupported for a `destroy` of LUNs
    or of an SR that is not ours, XapiError.
    """
    view = context.view()
    with context.database.transaction() as connection:
        backend = backend_rows.get(connection, backend_id, lock=True)
        if count := volume_rows.count(connection, backend_id):
            listed = volume_rows.list_of(connection, backend_id=backend_id, limit=_LISTED)
            raise BackendInUse(backend_id, volumes=[volume.id for volume in listed], count=count)
        sr_ref = None if backend.sr_uuid is None else find_sr(view, backend.sr_uuid)
        if sr_ref is None:
            sr_ref = srs.find_made(view, backend.token)
        is_our_doing = sr_ref is not None and srs.is_made_for(view.record("SR", sr_ref), backend.token)
        if destroy:
            _check_before_erasing(view, backend, is_our_doing=is_our_doing, is_known=sr_ref is not None)
        if sr_ref is not None and is_our_doing:
            for vdi in vdis_of(view, sr_ref).values():
                vdis.check_unused(view, vdi)  # a VM that is shut down would lose its disk
            srs.remove_sr(view, sr_ref, destroy=destroy)
        if sr_ref is None and backend.sr_uuid is not None:
            log.warning(
                "SR %s is not known to this pool; if another pool has it, it stays there", backend.sr_uuid
            )
        passwords.forget(view, backend.token, backend.params)
        backend_rows.delete(connection, backend_id)


def _check_before_erasing(view: View, backend: Backend, *, is_our_doing: bool, is_known: bool) -> None:
    """Raise NotSupported if there is nothing to erase, or the SR is not ours.

    The storage is probed for an SR that the pool does not know: an earlier call may have erased it.
    """
    if backend.type.luns:
        reason = "its disks are LUNs of an array, which xenvol does not erase: remove it without `destroy`"
    elif is_known and not is_our_doing:
        reason = "its SR was in the pool before it was registered: remove it without `destroy`"
    elif not is_known and backend.sr_uuid is not None and _may_be_on_storage(view, backend):
        reason = "its SR is not known to this pool: `xenvol sm setup` makes it known"
    else:
        return
    raise NotSupported(f"erasing backend {backend.id}", reason=reason)


def _may_be_on_storage(view: View, backend: Backend) -> bool:
    """Return True if the storage has the SR, or if that cannot be found out."""
    if not can_probe(view, backend.type):
        return True
    making, host_ref = _making(backend), srs.host_of(view, backend) or view.master
    found = probing.probe(view, host_ref, backend.type, making.device_config, making.sm_config)
    return backend.sr_uuid in found


def set_password(context: Context, backend_id: int, key: str, value: Secret) -> None:
    """Give this pool a password of a backend: a new one, or one that only another pool knows. Idempotent.

    The PBDs of an SR that is ours log in with it at their next plug. Raises UnknownBackend; InvalidConfig if the
    backend has no password of that key.
    """
    backend = context.database.read(backend_rows.get, backend_id)
    known = passwords.keys_in(backend.params)
    if key not in known:
        remedy = f"its passwords: {', '.join(known) or 'none'}"
        raise InvalidConfig(backend.sr_type, key, problem="is not a password of this backend", remedy=remedy)
    view = context.view()
    passwords.keep(view, backend.token, {key: value})
    sr_ref = None if backend.sr_uuid is None else find_sr(view, backend.sr_uuid)
    if sr_ref is not None and srs.is_made_for(view.record("SR", sr_ref), backend.token):
        passwords.tell_pbds(view, sr_ref, {key: value})


def _check_before_making(view: View, backend: Backend, format_device: str | None) -> None:
    """Check with `probing.check`, unless the SR exists.

    A call of a dead attempt may still be running, and make the SR during the probe. Then the device is not blank
    because the SR on it is this backend's: no error.
    """
    wanted, making = config.parse(backend.sr_type, backend.params), _making(backend)
    host_ref = srs.host_of(view, backend) or view.master
    if srs.find_made(view, backend.token) is not None:
        return
    if wanted.sr_uuid is not None and find_sr(view, wanted.sr_uuid) is not None:
        return
    try:
        probing.check(
            view,
            host_ref,
            wanted,
            making.device_config,
            can_probe=can_probe(view, backend.type),
            format_device=format_device,
        )
    except (InvalidConfig, DeviceNotBlank, XapiError):
        if srs.find_made(view, backend.token) is None:
            raise


def can_probe(view: View, sr_type: SRType) -> bool:
    """Return True if the storage driver can list the SRs on a storage. Raises UnsupportedSRType."""
    return sr_type.can_probe and "SR_PROBE" in srs.require_driver(view, sr_type.name)["features"]


def _have_sr(
    view: View, undo: Undo, backend: Backend, making: SRMaking, format_device: str | None
) -> tuple[SRRef, Origin]:
    """Return the backend's SR: find it, introduce it, or else make it. The only function that may format a device."""
    sr_uuid = backend.params.get("sr_uuid")
    made: Origin = "created" if sr_uuid is None and not backend.type.luns else "introduced"
    if (there := srs.find_made(view, backend.token)) is not None:
        return there, made  # by a process that died before it recorded the SR
    if sr_uuid is None and backend.type.luns:
        return srs.introduce_sr(view, undo, making, backend.token), "introduced"  # a uuid like any other
    if sr_uuid is None:
        if backend.type.formats is not None and format_device is None:  # its SR vanished since the check
            raise DeviceNotBlank(making.device_config[backend.type.formats], found=[])
        return srs.create_sr(view, making, srs.host_of(view, backend) or view.master), made
    there = find_sr(view, sr_uuid) or srs.introduce_sr(view, undo, making, sr_uuid)
    return there, made if srs.is_made_for(view.record("SR", there), backend.token) else "found"


def _making(backend: Backend) -> SRMaking:
    wanted = config.parse(backend.sr_type, backend.params)
    return SRMaking(
        sr_type=backend.sr_type,
        is_shared=wanted.sr_type.is_shared,
        name_label=wanted.name_label or f"SR-{backend.id}",
        name_description=wanted.name_description or f"Backend {backend.id} of xenvol's storage manager",
        device_config={key: str(value) for key, value in wanted.device_config.items()},
        sm_config=wanted.sm_config,
        token=backend.token,
    )
