"""Register a backend: complete and check its parameters, write its row, make its SR.

A registration that continues an unfinished row takes it over by a new `created_at`. If the earlier process is still
running, it finds the new value, and gives up.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.pool.marks import BACKEND
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.sm import (
    backend_rows,
    backends,
    config,
    flavor_rows,
    passwords,
    probing,
    same_storage,
    srs,
)
from xenvol.sm.config import BackendConfig
from xenvol.sm.context import Context
from xenvol.sm.errors import (
    BackendExists,
    BackendNotReady,
    IncompleteConfig,
    InvalidConfig,
    UnknownBackend,
)
from xenvol.sm.records import Backend, new_token, now
from xenvol.storage import copies_of_passwords, find_sr
from xenvol.storage.pbd import find_pbds
from xenvol.storage.srtypes import sr_type_of

log = logging.getLogger(__name__)

OF_ONE_POOL = frozenset({"multihomelist", "multiSession"})  # keys that SM itself writes into a PBD


def add(
    context: Context,
    flavor_label: str,
    sr_type: str,
    given: Mapping[str, str | Secret],
    *,
    format_device: str | None = None,
    weight: float = 1.0,
    token: str | None = None,
) -> Backend:
    """Register a backend under a flavor, and make its SR; with ``sr_uuid``, use or introduce that SR instead.

    If the storage holds an SR of ours that no backend has, because the database was lost or the backend was removed, it
    is used as if ``sr_uuid`` had named it: two SRs on one storage could spoil each other's disks.

    `token` is that of a lost row, whose SR bears it: then the SR is that backend's own. `format_device` names the
    device (``device``, or the ``SCSIid``) that may be erased for it. The same call again continues an unfinished
    registration.

    Raises UnknownFlavor, InvalidConfig, UnsupportedSRType, BackendExists, IncompleteConfig, DeviceNotBlank,
    UnknownHost, XapiError, XapiUnreachable; then nothing is left, unless the SR is made already.
    """
    wanted = config.parse(sr_type, given)
    view = context.view()
    driver = srs.require_driver(view, wanted.sr_type.name)
    config.check_given(wanted.sr_type, given, driver["configuration"])
    wanted = _completed(view, wanted)
    wanted.check_complete(but=wanted.sr_type.listed)
    host_uuid = _host_uuid(view, wanted)
    if wanted.sr_uuid is None and (sr_uuid := _ours_on(context, view, wanted, host_uuid)) is not None:
        log.info("the storage holds SR %s, which is used", sr_uuid)
        wanted = _completed(view, dataclasses.replace(wanted, sr_uuid=sr_uuid))
        host_uuid = _host_uuid(view, wanted)
    names = same_storage.of(wanted, host_uuid)
    token = token or new_token()

    def insert(connection: sa.Connection) -> Backend:
        flavor = flavor_rows.get(connection, flavor_label, lock=True)
        same_storage.check_no_volume(connection, wanted)
        there = same_storage.registered(connection, wanted, names)
        if there is not None:
            there = backend_rows.get(connection, there.id, lock=True)
            is_same = same_storage.is_same(there, wanted, host_uuid)
            if there.state != "new" or there.flavor_id != flavor.id or not is_same:
                raise BackendExists(same_storage.listed(names), backend_id=there.id)
            # its process died; or it runs, and gives up when it finds the new created_at
            params = text_of(wanted, there.token)
            values = {"config_params": params, "weight": weight}
            backend_rows.update(connection, there.id, created_at=now(), **values)
            return backend_rows.get(connection, there.id)
        backend_id = backend_rows.add(
            connection,
            flavor_id=flavor.id,
            sr_type=wanted.sr_type.name,
            config_params=text_of(wanted, token),
            token=token,
            place=backend_rows.digest(same_storage.unique(wanted, names)),
            origin="created",
            host_uuid=host_uuid,
            weight=weight,
            problem=None,
        )
        return backend_rows.get(connection, backend_id)

    try:
        backend = context.database.write(insert)
    except (IntegrityError, UnknownBackend) as error:  # another service registered it at this moment
        there = context.database.read(same_storage.registered, wanted, names)
        if there is None:
            raise
        raise BackendExists(same_storage.listed(names), backend_id=there.id) from error
    try:
        return backends.make(
            context, view, backend, secrets=wanted.device_config, format_device=format_device
        )
    except BaseException as error:
        _give_up(context, view, backend, error)
        raise


def _give_up(context: Context, view: View, backend: Backend, error: BaseException) -> None:
    """Take back a registration that failed. It stays if its SR is made, or may be, so that it can be continued."""

    def take_back(connection: sa.Connection) -> bool:
        there = backend_rows.get(connection, backend.id, lock=True)
        if there.created_at != backend.created_at:
            return True  # another attempt continues it
        if there.state != "new" or srs.find_made(view, there.token) is not None:
            return False
        passwords.forget(view, there.token, there.params)
        backend_rows.erase(connection, there.id)
        return True

    try:
        try:
            if isinstance(error, XapiUnreachable) or not context.database.write(take_back):
                error.add_note(f"backend {backend.id} is registered: `xenvol sm setup` completes it")
        except UnknownBackend:  # removed meanwhile
            passwords.forget(view, backend.token, backend.params)
    except XenVolError as failure:
        error.add_note(f"backend {backend.id} is still registered ({failure})")


def _host_uuid(view: View, wanted: BackendConfig) -> str | None:
    """Return the host of a local SR; None for a shared one. Raises UnknownHost."""
    return None if wanted.sr_type.is_shared else srs.find_host(view, wanted.host)[1]["uuid"]


def _ours_on(context: Context, view: View, wanted: BackendConfig, host_uuid: str | None) -> str | None:
    """Return the uuid of the SR of ours that the storage holds, and that no backend has; else None.

    Raises InvalidConfig if there are several.
    """
    names = same_storage.of(wanted, host_uuid)
    if context.database.read(same_storage.registered, wanted, names) is not None:
        return None
    found = _ours_in_pool(view, wanted, host_uuid) or _removed_from(context, view, wanted, names)
    if len(found) > 1:
        remedy = f"give sr_uuid=… to use one: {', '.join(sorted(found))}"
        raise InvalidConfig(
            wanted.sr_type.name, "sr_uuid", problem="is missing, and there are several", remedy=remedy
        )
    return next(iter(found), None)


def _ours_in_pool(view: View, wanted: BackendConfig, host_uuid: str | None) -> set[str]:
    """Return the SRs of this pool that were made for a backend, and that lie on the storage."""
    found = set()
    for pbd in view.all("PBD").values():
        if wanted.sr_type.locations(pbd["device_config"]).isdisjoint(wanted.locations):
            continue
        sr_rec = view.record("SR", pbd["SR"])
        if sr_type_of(sr_rec["type"]).name != wanted.sr_type.name or BACKEND not in sr_rec["other_config"]:
            continue
        if host_uuid is None or view.record("host", pbd["host"])["uuid"] == host_uuid:
            found.add(sr_rec["uuid"])
    return found


def _removed_from(context: Context, view: View, wanted: BackendConfig, names: Collection[str]) -> set[str]:
    """Return the SRs of removed backends that the storage still holds. Not on a device: there the error lists them,
    and `format_device` says whether they are to be erased."""
    if wanted.sr_type.formats is not None or wanted.sr_type.luns:
        return set()
    removed = context.database.read(backend_rows.removed, wanted.sr_type.name)
    known = {each.sr_uuid for each in removed if not same_storage.of_backend(each).isdisjoint(names)} - {None}
    if not known or not backends.can_probe(view, wanted.sr_type):
        return set()
    host_ref = view.master if wanted.sr_type.is_shared else srs.find_host(view, wanted.host)[0]
    with copies_of_passwords(view, Undo(), new_token(), wanted.device_config) as device_config:
        try:
            there = probing.probe(view, host_ref, wanted.sr_type, device_config, wanted.sm_config)
        except (XapiError, IncompleteConfig):  # the check before the SR is made raises it again
            return set()
    return {sr_uuid for sr_uuid in there if sr_uuid in known}


def _completed(view: View, wanted: BackendConfig) -> BackendConfig:
    """Add what the PBDs of an SR of this pool say, where the administrator says nothing."""
    sr_ref = None if wanted.sr_uuid is None else find_sr(view, wanted.sr_uuid)
    if sr_ref is None:
        return wanted
    sr_rec = view.record("SR", sr_ref)
    if sr_type_of(sr_rec["type"]).name != wanted.sr_type.name:
        raise InvalidConfig(
            wanted.sr_type.name,
            "sr_uuid",
            problem=f"is an SR of type {sr_rec['type']}",
            remedy="register it under that type",
        )
    known: dict[str, str | Secret] = {}
    for host_ref, (_, pbd) in find_pbds(view, sr_ref).items():
        replaced = {
            f"{key}_secret" for key, value in wanted.device_config.items() if isinstance(value, Secret)
        }
        theirs = {k: v for k, v in pbd["device_config"].items() if k not in replaced | OF_ONE_POOL}
        try:
            known = dict(passwords.revealed(view, 0, theirs))
        except BackendNotReady as error:
            key = ", ".join(passwords.keys_in(theirs))
            problem, remedy = "of that SR is a secret which this pool has lost", f"give it: {key}"
            raise InvalidConfig(wanted.sr_type.name, key, problem=problem, remedy=remedy) from error
        known["host"] = view.record("host", host_ref)["uuid"]
        break
    said = {
        "sr_uuid": wanted.sr_uuid,
        "name_label": wanted.name_label or sr_rec["name_label"],
        "name_description": wanted.name_description or sr_rec["name_description"],
        "host": wanted.host,
        "nosubdir": sr_rec["sm_config"].get("nosubdir"),
    }
    told = {key: value for key, value in said.items() if value}
    return config.parse(wanted.sr_type.name, {**known, **wanted.device_config, **told, **wanted.sm_config})


def text_of(wanted: BackendConfig, token: str) -> str:
    """Return everything but secrets, as it is stored. Raises InvalidConfig if that is too long."""
    own = {
        "sr_uuid": wanted.sr_uuid,
        "name_label": wanted.name_label,
        "name_description": wanted.name_description,
    }
    text = config.to_text(
        {
            **{key: value for key, value in own.items() if value is not None},
            **passwords.referred(token, wanted.device_config),
            **wanted.sm_config,
        }
    )
    if len(text) > config.LONGEST:
        problem, remedy = (
            f"and the others have {len(text)} characters",
            f"shorten it: at most {config.LONGEST} fit",
        )
        longest = max(wanted.device_config, key=lambda key: len(str(wanted.device_config[key])), default="")
        raise InvalidConfig(wanted.sr_type.name, longest, problem=problem, remedy=remedy)
    return text
