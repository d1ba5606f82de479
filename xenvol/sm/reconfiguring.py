"""Change how hosts reach a backend's SR, and its weight. The SR keeps its uuid, its disks and its volumes.

A PBD cannot be changed, so each is replaced. Before that, the storage must show the SR at the new place. The row comes
first: after a crash, the same call again, or ``xenvol sm setup``, completes the PBDs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import VolumeInUse
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.secret import Secret
from xenvol.session.refs import HostRef, PBDRef, SRRef
from xenvol.sm import (
    backend_rows,
    backends,
    capacity,
    config,
    passwords,
    probing,
    registration,
    same_storage,
    srs,
    vdis,
)
from xenvol.sm.config import BackendConfig
from xenvol.sm.context import Context
from xenvol.sm.errors import BackendExists, BackendNotReady, InvalidConfig, NotSupported
from xenvol.sm.records import Backend
from xenvol.storage import known_pbds, vdis_of
from xenvol.storage.pbd import create_pbd, find_pbds, master_first, plug_pbd, remove_pbd
from xenvol.storage.secrets import copies_of_passwords, with_passwords
from xenvol.storage.sr import turn_beside_users

_FIXED = ("sr_uuid", "host", "nosubdir")  # what makes the SR another one


def update(
    context: Context,
    backend_id: int,
    given: Mapping[str, str | Secret],
    *,
    weight: float | None = None,
) -> Backend:
    """Change keys of a backend's config, where an empty value removes a key; and its weight. Idempotent.

    The SR is unplugged and plugged again on each host, so no VM may have a disk of it.

    Raises UnknownBackend, BackendNotReady, InvalidConfig (also if the storage does not show the SR there),
    NotSupported (the storage cannot prove it), BackendExists, VolumeInUse, XapiError, XapiUnreachable. After a refusal
    everything is as before.
    """
    backend = context.database.read(backend_rows.get, backend_id)
    if backend.sr_uuid is None:
        raise BackendNotReady(backend.id, problem="its SR is not made yet")
    view = context.view()
    if weight is not None:
        context.database.write(backend_rows.update, backend.id, weight=weight)
    if given:
        _reconfigure(context, view, backend, given)
    (fresh,) = capacity.refresh(context, context.view(), [backend])
    return fresh


def _reconfigure(context: Context, view: View, backend: Backend, given: Mapping[str, str | Secret]) -> None:
    wanted = _merged(view, backend, given)
    sr_ref, sr_rec = srs.get_sr(view, backend)
    for vdi in vdis_of(view, sr_ref).values():
        if users := [
            f"{vm['name_label']} ({vbd['device'] or vbd['userdevice']})"
            for vm, vbd in vdis.slots_of(view, vdi)
            if vbd["currently_attached"]
        ]:
            raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)
    device_config = passwords.referred(backend.token, wanted.device_config)
    undo = Undo()
    try:
        passwords.keep(view, backend.token, given)
        new = passwords.referred(backend.token, {k: v for k, v in given.items() if isinstance(v, Secret)})
        undo.did("made its passwords", passwords.forget, view, backend.token, new)
        _check_place(view, backend, wanted, device_config)
        _write(context, backend, wanted)
        undo.did("changed its row", _restore, context, backend)
        _replace_pbds(view, undo, sr_ref, sr_rec, device_config)
        for key, setter in (
            ("name_label", "SR.set_name_label"),
            ("name_description", "SR.set_name_description"),
        ):
            value = getattr(wanted, key)
            if value is not None and sr_rec[key] != value:
                view.call(setter, sr_ref, value)
                undo.did(f"changed {key} of SR {sr_rec['uuid']}", view.call, setter, sr_ref, sr_rec[key])
    except BaseException as error:
        undo.unwind(error)
        raise


def _merged(view: View, backend: Backend, given: Mapping[str, str | Secret]) -> BackendConfig:
    """Return the config with the changes. Raises InvalidConfig."""
    kind = backend.type
    for key in _FIXED:
        if key in given:
            remedy = "remove the backend, and register it anew"
            raise InvalidConfig(kind.name, key, problem="cannot be changed", remedy=remedy)
    for key in passwords.keys_in(backend.params):
        if key in given:
            remedy = f"`xenvol sm backend_password {backend.id} {key}` changes it"
            raise InvalidConfig(kind.name, key, problem="is a password that the backend has", remedy=remedy)
    config.check_given(kind, given, srs.require_driver(view, kind.name)["configuration"])
    merged: dict[str, str | Secret] = {**backend.params, **given}
    wanted = config.parse(backend.sr_type, {key: value for key, value in merged.items() if value != ""})
    wanted.check_complete()
    return wanted


def _check_place(
    view: View, backend: Backend, wanted: BackendConfig, device_config: Mapping[str, str]
) -> None:
    """See that the SR is at the new place. Changes nothing."""
    is_elsewhere = same_storage.of(wanted, backend.host_uuid).isdisjoint(same_storage.of_backend(backend))
    if is_elsewhere and not (wanted.has_uuid and backends.can_probe(view, wanted.sr_type)):
        reason = f"a storage of type {backend.sr_type} does not tell which SR it holds: remove it, and register it anew"
        raise NotSupported(f"moving backend {backend.id} to another place", reason=reason)
    if not wanted.has_uuid or not backends.can_probe(view, wanted.sr_type):
        return
    host_ref = srs.host_of(view, backend) or view.master
    found = probing.probe(view, host_ref, wanted.sr_type, device_config, wanted.sm_config)
    if backend.sr_uuid not in found:
        there = ", ".join(found) or "none"
        raise InvalidConfig(
            backend.sr_type,
            next(iter(wanted.sr_type.required), "type"),
            problem=f"leads to a storage without SR {backend.sr_uuid}",
            remedy=f"on that storage there is {there}",
        )


def _write(context: Context, backend: Backend, wanted: BackendConfig) -> None:
    names = same_storage.of(wanted, backend.host_uuid)

    def write(connection: sa.Connection) -> None:
        backend_rows.get(connection, backend.id, lock=True)
        there = same_storage.registered(connection, dataclasses.replace(wanted, sr_uuid=None), names)
        if there is not None and there.id != backend.id:
            raise BackendExists(same_storage.listed(names), backend_id=there.id)
        backend_rows.update(
            connection,
            backend.id,
            config_params=registration.text_of(wanted, backend.token),
            place=backend_rows.digest(same_storage.unique(wanted, names)),
        )

    try:
        context.database.write(write)
    except IntegrityError as error:
        there = context.database.read(same_storage.registered, wanted, names)
        raise BackendExists(same_storage.listed(names), backend_id=there.id if there else 0) from error


def _restore(context: Context, backend: Backend) -> None:
    """Write the config as it was before the refusal."""
    before = config.parse(backend.sr_type, backend.params)
    place = same_storage.unique(before, same_storage.of_backend(backend))
    values: dict[str, Any] = {"config_params": backend.config_params, "place": backend_rows.digest(place)}
    context.database.write(backend_rows.update, backend.id, **values)


def _replace_pbds(
    view: View, undo: Undo, sr_ref: SRRef, sr_rec: Record, device_config: Mapping[str, str]
) -> None:
    """Give each host that has a PBD of another config one of this config, plugged as the old one was."""
    find_pbds(view, sr_ref)
    with turn_beside_users(view, sr_ref, for_unplug=True, undo=undo):
        pbds = known_pbds(view, sr_ref)
        for host_ref in master_first(view, pbds):
            pbd_ref, pbd = pbds[host_ref]
            if _plain(pbd["device_config"]) == _plain(device_config):
                continue  # an attempt that died got so far
            _replace(view, undo, sr_ref, sr_rec, host_ref, pbd_ref, pbd, device_config)


def _replace(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    sr_rec: Record,
    host_ref: HostRef,
    pbd_ref: PBDRef,
    pbd: Record,
    device_config: Mapping[str, str],
) -> None:
    old = with_passwords(view, pbd["device_config"])  # xapi destroys them with the PBD
    was_plugged = pbd["currently_attached"]

    def make_again() -> None:
        redo = Undo(hidden=view.hidden)
        with copies_of_passwords(view, redo, sr_rec["uuid"], old) as copied:
            again = create_pbd(view, redo, sr_ref, host_ref, copied)
        if was_plugged:
            view.call("PBD.plug", again)

    def plug_again() -> None:
        with gone_is_fine("PBD"):
            view.call("PBD.plug", pbd_ref)

    if was_plugged:
        view.call("PBD.unplug", pbd_ref)
        undo.did(f"unplugged PBD {pbd_ref}", plug_again)
    remove_pbd(view, undo, pbd_ref, inverse=make_again)
    new_ref = create_pbd(view, undo, sr_ref, host_ref, device_config)
    plug_pbd(view, undo, sr_ref, new_ref)


def _plain(device_config: Mapping[str, str]) -> dict[str, str]:
    """Return the config without what differs between PBDs of one config: copies of secrets, and the driver's notes."""
    return {
        key: "" if key.endswith("_secret") else value
        for key, value in device_config.items()
        if key not in registration.OF_ONE_POOL
    }
