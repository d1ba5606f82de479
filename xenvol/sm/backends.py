"""Backends: registered, set up once, however many services there are, and removed.

A row comes first, then the SR: whoever dies between the two leaves a row that anybody can set up. The row is locked
while its SR is made, so that it is made once; and an SR that was made and not recorded is found by its description.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import XapiUnreachable, XenVolError
from xenvol.marks import BACKEND
from xenvol.refs import HostRef, SRRef
from xenvol.secret import Secret
from xenvol.sm import backend_rows, capacity, config, flavor_rows, passwords, probing, srs, volume_rows
from xenvol.sm.config import BackendConfig
from xenvol.sm.context import Context
from xenvol.sm.errors import (
    BackendExists,
    BackendInUse,
    BackendNotReady,
    DeviceNotBlank,
    InvalidConfig,
)
from xenvol.sm.records import Backend, Origin, new_token
from xenvol.sm.srs import SRMaking
from xenvol.storage import find_sr
from xenvol.storage.pbd import find_pbds
from xenvol.undo import Undo
from xenvol.view import View

log = logging.getLogger(__name__)

_AT_ONCE = 8  # backends set up in parallel: each may wait for an array
_LISTED = 10  # volumes named where they keep a backend from being removed


@dataclass(frozen=True)
class SetupReport:
    """What became of one backend at start-up."""

    backend: Backend
    error: XenVolError | None
    """Why it cannot be used; None: it can."""


def add(
    context: Context,
    flavor_label: str,
    sr_type: str,
    given: Mapping[str, str | Secret],
    *,
    format_device: str | None = None,
    weight: float = 1.0,
) -> Backend:
    """Register a backend under a flavor, and make its SR, or with ``sr_uuid`` make one known that is there.

    `format_device` names the device (``device``, or the ``SCSIid``) that may be erased for it. The same call again
    goes on where it ended. Raises UnknownFlavor, InvalidConfig, UnsupportedSRType, BackendExists, IncompleteConfig,
    DeviceNotBlank, UnknownHost, XapiError, XapiUnreachable; nothing is left then, unless the SR is made already.
    """
    wanted = config.parse(sr_type, given)
    view = context.view()
    srs.require_driver(view, wanted.sr_type.name)
    wanted = _completed(view, wanted)
    wanted.check_complete(but=probing.LISTED if wanted.sr_type.can_probe else ())
    place = wanted.place + (f" sr_uuid={wanted.sr_uuid}" if wanted.sr_uuid else "")
    host_uuid = None
    if not wanted.sr_type.is_shared:
        host_uuid = srs.find_host(view, wanted.host)[1]["uuid"]
        place = f"{place} host={host_uuid}"
    token = new_token()
    params = _params(wanted, passwords.referred(token, wanted.device_config))

    def insert(connection: sa.Connection) -> int:
        flavor = flavor_rows.get(connection, flavor_label, lock=True)
        there = backend_rows.find(connection, place=place)
        if there is None and wanted.sr_uuid is not None:
            there = backend_rows.find(connection, sr_uuid=wanted.sr_uuid)
        if there is not None:
            if there.state != "new" or there.flavor_id != flavor.id:
                raise BackendExists(wanted.place, backend_id=there.id)
            backend_rows.update(connection, there.id, format_device=format_device)
            return there.id  # of somebody who died, or is at it
        return backend_rows.add(
            connection,
            flavor_id=flavor.id,
            sr_type=wanted.sr_type.name,
            config_params=config.to_text(params),
            token=token,
            place=backend_rows.digest(place),
            origin="created" if wanted.sr_uuid is None else "introduced",
            host_uuid=host_uuid,
            format_device=format_device,
            weight=weight,
            problem=None,
        )

    try:
        backend_id = context.database.write(insert)
    except IntegrityError as error:  # another service registered it in this very moment
        there = context.database.read(backend_rows.find, place=place)
        if there is None:
            raise
        raise BackendExists(wanted.place, backend_id=there.id) from error
    try:
        return set_up(context, view, backend_id, secrets=wanted.device_config)
    except BaseException as error:
        _give_up(context, view, backend_id, error)
        raise


def set_up(
    context: Context, view: View, backend_id: int, *, secrets: Mapping[str, str | Secret] | None = None
) -> Backend:
    """Make the backend's SR if nobody has, and plug it in this pool. Idempotent; `secrets` are its passwords.

    Of several services that try at once, one makes it, and the others wait.
    """
    with context.database.transaction() as connection:
        backend = backend_rows.get(connection, backend_id, lock=True)
        if backend.state == "new":
            undo = Undo()
            try:
                if secrets is not None:
                    passwords.keep(view, undo, backend.token, secrets)
                sr_ref, origin = _make(view, undo, backend)
                if origin == "created":
                    undo.forget()  # what is on the storage now stays, and so do the passwords for it
                srs.plug_sr(view, undo, sr_ref, _making(backend), srs.host_of(view, backend))
            except BaseException as error:
                undo.unwind(error)
                raise
            backend_rows.update(
                connection,
                backend.id,
                sr_uuid=view.record("SR", sr_ref)["uuid"],
                state="ready",
                origin=origin,
                format_device=None,
            )
    return connect(context, view, backend_id)


def connect(context: Context, view: View, backend_id: int) -> Backend:
    """Make the SR of a backend known to this pool, plugged, and its room known to placement. Idempotent."""
    backend = context.database.read(backend_rows.get, backend_id)
    making, undo = _making(backend), Undo()
    try:
        if backend.sr_uuid is None:
            raise BackendNotReady(backend.id, problem="its SR is not made yet")
        sr_ref = find_sr(view, backend.sr_uuid) or srs.introduce_sr(view, undo, making, backend.sr_uuid)
        srs.plug_sr(view, undo, sr_ref, making, srs.host_of(view, backend))
    except BaseException as error:
        undo.unwind(error)
        raise
    if backend.origin != "found":
        srs.mark_sr(view, sr_ref, making)
    (fresh,) = capacity.refresh(context, view, [backend])
    return fresh


def set_up_all(context: Context) -> list[SetupReport]:
    """Every backend, in parallel; one that is dead is reported and does not stop the others."""
    backends = context.database.read(backend_rows.all_of)

    def attempt(backend: Backend) -> SetupReport:
        view = context.view()
        try:
            return SetupReport(set_up(context, view, backend.id), None)
        except XenVolError as error:
            log.warning("backend %d cannot be used: %s", backend.id, error)
            if not isinstance(error, XapiUnreachable):
                capacity.refresh(context, view, [backend])
            return SetupReport(backend, error)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="xenvol-setup") as pool:
        return list(pool.map(attempt, backends))


def remove(context: Context, backend_id: int, *, destroy: bool = False) -> None:
    """Take the backend out of its flavor, and its SR out of the pool, unless it was there before us.

    The data stays, and may be registered again by its ``sr_uuid``; `destroy` erases the SR, which must be empty.
    Idempotent up to the row; raises UnknownBackend, BackendInUse, XapiError.
    """
    view = context.view()
    with context.database.transaction() as connection:
        backend = backend_rows.get(connection, backend_id, lock=True)
        if count := volume_rows.count(connection, backend_id):
            listed = volume_rows.list_of(connection, backend_id=backend_id, limit=_LISTED)
            raise BackendInUse(backend_id, volumes=[volume.id for volume in listed], count=count)
        found = None if backend.sr_uuid is None else find_sr(view, backend.sr_uuid)
        if found is None and (made := srs.find_made(view, backend.token)) is not None:
            found = made[0]
        if found is not None:
            if backend.origin == "found" and not destroy:
                srs.unmark_sr(view, found)
            else:
                srs.remove_sr(view, found, destroy=destroy)
        passwords.forget(view, backend.token, backend.params)
        backend_rows.delete(connection, backend_id)


def set_password(context: Context, backend_id: int, key: str, value: Secret) -> None:
    """Tell this pool a password of a backend: a new one, or one that only another pool knows. Idempotent.

    PBDs have copies of their own, which keep the old one until they are made anew. Raises UnknownBackend,
    InvalidConfig for a key that the backend has not.
    """
    backend = context.database.read(backend_rows.get, backend_id)
    if f"{key}_secret" not in backend.params:
        known = [name.removesuffix("_secret") for name in backend.params if name.endswith("password_secret")]
        remedy = f"its passwords: {', '.join(known) or 'none'}"
        raise InvalidConfig(backend.sr_type, key, problem="is no password of this backend", remedy=remedy)
    passwords.keep(context.view(), Undo(), backend.token, {key: value})


def _make(view: View, undo: Undo, backend: Backend) -> tuple[SRRef, Origin]:
    """The backend's SR: found, introduced, or, as the last, made. The one place that may format a device."""
    making, params = _making(backend), backend.params
    if (found := srs.find_made(view, backend.token)) is not None:
        return found[0], "created"  # by somebody who died before it was recorded
    if (sr_uuid := params.get("sr_uuid")) is not None:
        there = find_sr(view, sr_uuid)
        if there is not None:
            is_ours = view.record("SR", there)["other_config"].get(BACKEND) == backend.token
            return there, "introduced" if is_ours else "found"
        return srs.introduce_sr(view, undo, making, sr_uuid), "introduced"
    host_ref = srs.host_of(view, backend) or view.master
    _check_before_making(view, backend, making, host_ref)
    return srs.create_sr(view, making, host_ref), "created"


def _check_before_making(view: View, backend: Backend, making: SRMaking, host_ref: HostRef) -> None:
    """The connection is good, and nothing is erased that nobody has named. Raises DeviceNotBlank."""
    kind = backend.type
    found: list[str] = []
    if kind.can_probe:
        found = probing.probe(view, host_ref, kind, making.device_config, making.sm_config)
    config.parse(backend.sr_type, backend.params).check_complete()
    if kind.formats is None:
        return
    device = making.device_config[kind.formats]
    if backend.format_device != device:
        raise DeviceNotBlank(device, found=found)
    for sr_uuid in found:
        if (there := find_sr(view, sr_uuid)) is not None:
            name = view.record("SR", there)["name_label"]
            raise InvalidConfig(
                kind.name,
                kind.formats,
                problem=f"names the device of SR {name} ({sr_uuid}), which this pool uses",
                remedy=f"give sr_uuid={sr_uuid} to use it, or destroy that SR first",
            )


def _give_up(context: Context, view: View, backend_id: int, error: BaseException) -> None:
    """Take back a registration that came to nothing; one whose SR is made, or may be, stays, to be gone on with."""
    try:
        if isinstance(error, XapiUnreachable):
            return
        backend = context.database.read(backend_rows.get, backend_id)
        if backend.state == "new" and srs.find_made(view, backend.token) is None:
            passwords.forget(view, backend.token, backend.params)
            context.database.write(backend_rows.erase, backend_id)
            return
        error.add_note(f"backend {backend_id} is registered: `xenvol sm setup` goes on with it")
    except XenVolError as failure:
        error.add_note(f"backend {backend_id} is still registered ({failure})")


def _completed(view: View, wanted: BackendConfig) -> BackendConfig:
    """Of an SR that the pool knows, what its PBDs say, where the administrator does not."""
    sr_ref = None if wanted.sr_uuid is None else find_sr(view, wanted.sr_uuid)
    if sr_ref is None:
        return wanted
    sr_rec = view.record("SR", sr_ref)
    if sr_rec["type"] != wanted.sr_type.name:
        raise InvalidConfig(
            wanted.sr_type.name,
            "sr_uuid",
            problem=f"is an SR of type {sr_rec['type']}",
            remedy="register it as what it is",
        )
    known: dict[str, str | Secret] = {}
    host = wanted.host
    for host_ref, (_, pbd) in find_pbds(view, sr_ref).items():
        known = dict(passwords.revealed(view, 0, pbd["device_config"]))
        host = host or view.record("host", host_ref)["uuid"]
        break
    return BackendConfig(
        sr_type=wanted.sr_type,
        device_config={**known, **wanted.device_config},
        sm_config={key: sr_rec["sm_config"][key] for key in ("nosubdir",) if key in sr_rec["sm_config"]}
        | dict(wanted.sm_config),
        sr_uuid=wanted.sr_uuid,
        name_label=wanted.name_label or sr_rec["name_label"],
        name_description=wanted.name_description or sr_rec["name_description"],
        host=host,
    )


def _params(wanted: BackendConfig, device_config: Mapping[str, str]) -> dict[str, str]:
    """Everything but secrets, as it is stored."""
    own: dict[str, str | None] = {
        "sr_uuid": wanted.sr_uuid,
        "name_label": wanted.name_label,
        "name_description": wanted.name_description,
    }
    return {
        **{key: value for key, value in own.items() if value is not None},
        **device_config,
        **wanted.sm_config,
    }


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
