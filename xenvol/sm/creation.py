"""A new volume, on the first backend that takes it; whoever comes again goes on where it ended.

The row comes first and names a backend, then the VDI is made there, then the row names the VDI. Several services
may be at the same volume: each may make a VDI, the row takes one, and who made another erases that. So nothing is
locked, and whoever dies leaves what the next one, or an audit, can tell.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.refs import SRRef, VDIRef
from xenvol.sm import backend_rows, capacity, flavor_rows, placement, policies, srs, vdis, volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import (
    BackendNotReady,
    NoBackendFits,
    Overtaken,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.placement import Request
from xenvol.sm.records import Backend, Flavor, Volume
from xenvol.undo import Undo
from xenvol.view import View

log = logging.getLogger(__name__)

ATTEMPTS = 5  # at a volume that others change at the same time
_PAGE = 50  # backends looked at together


def create(
    context: Context,
    volume_id: str,
    flavor_label: str,
    size: int,
    *,
    name: str = "",
    needs: Iterable[str] = (),
) -> Volume:
    """A volume of so many bytes at least, on a backend of the flavor. Idempotent by its id.

    Raises UnknownFlavor, InvalidSetting, VolumeExists (the id is another volume), VolumeNotReady (it is being
    deleted), NoBackendFits (with the reason of every backend), XapiUnreachable (the same call again completes).
    """
    request = Request(volume_id=volume_id, size=size, needs=frozenset(needs))
    flavor = context.database.read(flavor_rows.get, flavor_label)
    for _ in range(ATTEMPTS):
        there = context.database.read(volume_rows.find, volume_id)
        if there is not None:
            _check_same(context, there, flavor, size)
            if there.state == "available":
                return there
        made = _create(context, flavor, request, name, there)
        if made is not None:
            return made
    raise Overtaken(volume_id)


def make_vdi(
    context: Context, view: View, volume: Volume, backend: Backend, *, is_begun: bool
) -> Volume | None:
    """The volume's VDI on this backend, and the row that names it; None where somebody else has changed the row.

    `is_begun`: an attempt that died may have made it here already, so it is looked for first.
    Raises XapiError where the storage refuses, BackendNotReady, XapiUnreachable.
    """
    sr_ref, _ = srs.get_sr(view, backend)
    undo = Undo()
    try:
        vdi_ref = vdis.find_made(view, sr_ref, volume) if is_begun else None
        if vdi_ref is None:
            sm_config = {key: backend.params[key] for key in ("type",) if backend.params.get(key) == "raw"}
            vdi_ref = vdis.create_vdi(view, undo, sr_ref, volume, sm_config)
        return record(context, view, undo, volume, backend, sr_ref, vdi_ref)
    except BaseException as error:
        undo.unwind(error)
        raise


def record(
    context: Context,
    view: View,
    undo: Undo,
    volume: Volume,
    backend: Backend,
    sr_ref: SRRef,
    vdi_ref: VDIRef,
) -> Volume | None:
    """Have the row name the VDI; where it names another already, or none any more, the VDI is taken back."""
    view.read({"VDI": [vdi_ref], "SR": [sr_ref]})
    vdi, sr_rec = view.record("VDI", vdi_ref), view.record("SR", sr_ref)

    def name_it(connection: sa.Connection) -> Volume | None:
        is_ours = volume_rows.record(
            connection,
            volume,
            backend_id=backend.id,
            vdi_uuid=vdi["uuid"],
            virtual_size=int(vdi["virtual_size"]),
        )
        now = volume_rows.by_token(connection, volume.token, volume.id)
        return now if is_ours or (now is not None and now.vdi_uuid == vdi["uuid"]) else None

    try:
        named = context.database.write(name_it)
    except (
        IntegrityError
    ):  # another volume has been told that this disk is its own: a copy made at the same time
        undo.forget()
        return None
    if named is None:
        undo.unwind()
        return None
    undo.forget()
    try:
        vdis.settle_vdi(view, vdi_ref, named)
        capacity.note(context, backend, sr_rec)
    except (XapiError, XapiUnreachable) as error:  # the volume is there; what is left to do, an audit does
        log.warning("volume %s is made, and not all that follows: %s", named.id, error)
    return named


def _create(
    context: Context, flavor: Flavor, request: Request, name: str, begun: Volume | None
) -> Volume | None:
    """One attempt; None where somebody else was at the volume too, and it must be looked at again."""
    view = context.view()
    reasons: dict[int, str] = {}
    volume = begun
    try:
        for backend in _candidates(context, view, flavor, request, reasons, begun=begun):
            claimed = _claim(context, request, name, volume, backend)
            if claimed is None:
                continue
            volume = claimed
            try:
                return make_vdi(context, view, volume, backend, is_begun=begun is not None)
            except (XapiError, BackendNotReady) as refusal:
                reasons[backend.id] = str(refusal)
                log.info("backend %d does not take volume %s: %s", backend.id, volume.id, refusal)
        if volume is not None and not context.database.write(drop_unmade, volume):
            return None
    except _LostError:
        return None
    raise NoBackendFits(flavor.label, size=request.size, reasons=reasons)


def _candidates(
    context: Context,
    view: View,
    flavor: Flavor,
    request: Request,
    reasons: dict[int, str],
    *,
    begun: Volume | None,
) -> Iterator[Backend]:
    """The backends to try, in the policy's order. The caller notes in `reasons` which refused, we which do not fit.

    First the one where the volume was begun; then those that are believed to have room, by an index; and when none
    of them has taken it, all the others of the flavor, as the pool says that they are now.
    """
    policy = policies.get_policy(flavor.policy)
    if begun is not None:
        yield context.database.read(backend_rows.get, begun.backend_id)
    for page in _pages(context, flavor, request, policy.order_by):
        fitting = [backend for backend in page if placement.obstacle(backend, request) is None]
        yield from policy.order([each for each in fitting if each.id not in reasons], request)
    known = context.database.read(backend_rows.all_of, flavor_id=flavor.id)
    fresh = {backend.id: backend for backend in capacity.refresh(context, view, known)}
    fitting = []
    for backend in (fresh.get(backend.id, backend) for backend in known if backend.id not in reasons):
        reason = placement.obstacle(backend, request)
        if reason is None:
            fitting.append(backend)
        else:
            reasons[backend.id] = reason
    for backend in policy.order(fitting, request):
        yield backend
        reasons.setdefault(backend.id, "its last room went to another volume meanwhile")


def _pages(
    context: Context, flavor: Flavor, request: Request, order: backend_rows.Order
) -> Iterator[list[Backend]]:
    """Backends that are believed to have room, some at a time: each page is one query by an index."""
    for number in itertools.count():
        page = context.database.read(
            backend_rows.with_room,
            flavor.id,
            request.size,
            order=order,
            limit=_PAGE,
            offset=number * _PAGE,
        )
        yield page
        if len(page) < _PAGE:
            return


class _LostError(Exception):
    """Somebody else has changed the row."""


def _claim(
    context: Context, request: Request, name: str, volume: Volume | None, backend: Backend
) -> Volume | None:
    """The volume's row, with this backend in it and room there taken; None where there is no room any more.

    Raises _LostError where another service has the row.
    """
    if volume is not None and volume.backend_id == backend.id:
        return volume
    cost = placement.cost(backend, request.size)

    def claim(connection: sa.Connection) -> Volume | None:
        if not backend_rows.reserve(connection, backend.id, cost):
            return None
        if volume is None:
            return volume_rows.add(
                connection, request.volume_id, backend_id=backend.id, size=request.size, cost=cost, name=name
            )
        if not volume_rows.move(connection, volume, backend_id=backend.id, cost=cost):
            raise _LostError
        backend_rows.give_back(connection, volume.backend_id, volume.cost)
        return volume_rows.get(connection, volume.id)

    try:
        return context.database.write(claim)
    except IntegrityError as error:
        raise _LostError from error


def drop_unmade(connection: sa.Connection, volume: Volume) -> bool:
    """The row of a volume that has no VDI, and the room that it took; False where the row has changed."""
    is_gone = volume_rows.drop(connection, volume)
    if is_gone:
        backend_rows.give_back(connection, volume.backend_id, volume.cost)
    return is_gone


def _check_same(context: Context, volume: Volume, flavor: Flavor, size: int) -> None:
    """The volume with this id is the one that is asked for. Raises VolumeExists, VolumeNotReady."""
    backend = context.database.read(backend_rows.get, volume.backend_id)
    if volume.state == "deleting":
        raise VolumeNotReady(volume.id, state="being deleted")
    if volume.is_snapshot or volume.source_id is not None:
        raise VolumeExists(volume.id, difference=f"is a copy of {volume.source_id!r}")
    if backend.flavor_id != flavor.id:
        raise VolumeExists(volume.id, difference="has another flavor")
    if volume.size != size:
        raise VolumeExists(volume.id, difference=f"has {volume.size} bytes")
