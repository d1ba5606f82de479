"""Make a new volume on the first backend that takes it, or complete a volume that another attempt began.

    a row names a backend ─▶ a VDI there names the row ─▶ the row names the VDI ─▶ the VDI is plain ─▶ available

Several services can work on the same volume. Each may make a VDI, the row takes one, and the other services erase
theirs. So no lock is held, and the next call, or an audit, recognizes what a dead process has left. An attempt that
fails before the row names its VDI is undone. After that nothing is undone, and the same call again completes the
volume. A VDI for an image is filled before its row names it (`xenvol.sm.filling`).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.amounts import exact_size
from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import SRRef, VDIRef
from xenvol.sm import backend_rows, capacity, flavor_rows, placement, policies, srs, vdis, volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import (
    BackendNotReady,
    DatabaseError,
    NoBackendFits,
    Overtaken,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.filling import Filling
from xenvol.sm.placement import Request
from xenvol.sm.records import Backend, Flavor, Volume

log = logging.getLogger(__name__)

ATTEMPTS = 20  # at a volume that other services change too: each time one of them has got further
_PAGE = 50  # backends in one query


def create(
    context: Context,
    volume_id: str,
    flavor_label: str,
    size: int,
    *,
    name: str = "",
    needs: Iterable[str] = (),
    filling: Filling | None = None,
) -> Volume:
    """Make a volume of at least `size` bytes on a backend of the flavor, empty or filled. Idempotent by `volume_id`.

    Raises UnknownFlavor, InvalidSetting, VolumeExists (the id is another volume), VolumeNotReady (it is being deleted),
    NoBackendFits (with the reason of every backend), XapiUnreachable (the same call again completes). Also raises what
    the filling raises: then nothing is left, and no other backend is tried.
    """
    vdis.check_names(volume_id, name)
    vdis.check_size(size)
    request = Request(volume_id=volume_id, size=size, needs=frozenset(needs))
    flavor = context.database.read(flavor_rows.get, flavor_label)
    for _ in range(ATTEMPTS):
        view = context.view()
        volume = context.database.read(volume_rows.find, volume_id)
        if volume is not None:
            image = None if filling is None else filling.image
            _check_same(context, volume, flavor, size, image)
            if volume.state == "available":
                return volume
        if volume is not None and volume.vdi_uuid is not None:
            backend = context.database.read(backend_rows.get, volume.backend_id)
            made: Made | None = find_named(view, volume, backend)
        else:
            made = _place(context, view, flavor, request, name, volume, filling)
        finished = None if made is None else finish(context, view, made)
        if finished is not None:
            return finished
    raise Overtaken(volume_id)


class Made(NamedTuple):
    """A volume whose row names its VDI, and that is not available yet. The view has read the VDI and its SR."""

    volume: Volume
    backend: Backend
    vdi_ref: VDIRef


def find_named(view: View, volume: Volume, backend: Backend) -> Made:
    """Return the volume if an earlier attempt got so far. Raises VolumeNotFound if the VDI is gone, BackendNotReady."""
    sr_ref, _ = srs.get_sr(view, backend)
    vdi_ref, _ = vdis.get_vdi(view, sr_ref, volume)
    return Made(volume, backend, vdi_ref)


def finish(context: Context, view: View, made: Made) -> Volume | None:
    """Make the volume available once its row names the VDI. Return None if it was deleted meanwhile.

    Idempotent; several services may do it at once. Raises XapiError, XapiUnreachable; the same call again completes.
    """
    volume = made.volume
    vdi = view.record("VDI", made.vdi_ref)
    vdis.settle_vdi(view, made.vdi_ref, volume)

    def finish_it(connection: sa.Connection) -> Volume | None:
        volume_rows.finish_making(connection, volume, virtual_size=int(vdi["virtual_size"]))
        now = volume_rows.by_token(connection, volume.token, volume.id)
        return now if now is not None and now.state == "available" else None

    finished = context.database.write(finish_it)
    if finished is not None:
        note(context, made.backend, view.record("SR", vdi["SR"]))
    return finished


def note(context: Context, backend: Backend, sr_rec: Record) -> None:
    """Store the sizes of the SR after the work is done. A failure here is logged, and is no failure of the work."""
    try:
        capacity.note(context, backend, sr_rec)
    except XenVolError as error:
        log.warning("backend %d: what it has is not noted: %s", backend.id, error)


def record(
    context: Context,
    view: View,
    undo: Undo,
    volume: Volume,
    backend: Backend,
    sr_ref: SRRef,
    vdi_ref: VDIRef,
) -> Made | None:
    """Have the row name the VDI. If the row is gone, or names another VDI, unwind `undo` and return None."""
    view.read({"VDI": [vdi_ref], "SR": [sr_ref]})
    vdi = view.known("VDI", vdi_ref)
    if vdi is None:  # its service has undone it since it was found, or an audit has: the row is gone
        undo.unwind()
        return None

    def name_it(connection: sa.Connection) -> Volume | None:
        is_ours = volume_rows.name_vdi(
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
    except IntegrityError:  # another row names this VDI: a copy made at the same time, or a claim to erase it
        named = None
    if named is None:
        undo.unwind()
        return None
    undo.forget()
    return Made(named, backend, vdi_ref)


def _place(
    context: Context,
    view: View,
    flavor: Flavor,
    request: Request,
    name: str,
    begun: Volume | None,
    filling: Filling | None,
) -> Made | None:
    """Return the volume with a VDI that its row names; None if another service worked on it too, so that it must be
    read again."""
    reasons: dict[int, str] = {}
    volume = begun
    try:
        if begun is not None and (made := _go_on(context, view, begun)) is not None:
            return made
        for backend in _candidates(context, view, flavor, request, reasons, begun=begun):
            claimed = _claim(context, request, name, volume, backend, filling)
            if claimed is None:
                continue
            volume = claimed
            try:
                made = _make(context, view, volume, backend, filling)
                if made is not None and begun is not None and filling is not None:
                    _erase_incomplete(context, view, begun, made)
                return made
            except (XapiError, BackendNotReady, _CannotFillError) as refusal:
                if filling is not None and filling.has_begun:
                    raise
                reasons[backend.id] = str(refusal)
                log.info("backend %d does not take volume %s: %s", backend.id, volume.id, refusal)
        if volume is not None and not context.database.write(drop_unmade, volume):
            return None
    except _LostError:
        return None
    except BaseException as error:
        if volume is not None:
            give_up(context, volume, error, is_over=filling is not None and filling.has_begun)
        raise
    raise NoBackendFits(flavor.label, size=request.size, reasons=reasons)


def _go_on(context: Context, view: View, begun: Volume) -> Made | None:
    """Return the VDI of an attempt that died, or that got no answer; None if it made none. Raises _LostError."""
    backend = context.database.read(backend_rows.get, begun.backend_id)
    try:
        sr_ref, _ = srs.get_sr(view, backend)
    except BackendNotReady:
        return None
    vdi_ref = vdis.find_made(context, view, sr_ref, begun)
    if vdi_ref is None:
        return None
    made = record(context, view, Undo(), begun, backend, sr_ref, vdi_ref)
    if made is None:
        raise _LostError
    return made


def _make(
    context: Context, view: View, volume: Volume, backend: Backend, filling: Filling | None
) -> Made | None:
    """Make the volume's VDI on this backend, and have the row name it. Return None if another service changed the row.

    Raises XapiError if the storage refuses, BackendNotReady, XapiUnreachable, _CannotFillError, and what the filling
    raises; then nothing is left.
    """
    sr_ref, sr_rec = srs.get_sr(view, backend)
    obstacle = None if filling is None else filling.obstacle(sr_ref, sr_rec)
    if obstacle is not None:
        raise _CannotFillError(obstacle)
    undo, made = Undo(), None
    try:
        sm_config = {"type": "raw"} if backend.params.get("type") == "raw" else {}
        vdi_ref = vdis.create_vdi(context, view, undo, sr_ref, volume, sm_config)
        if filling is not None and not filling.run(context, volume, vdi_ref):
            undo.unwind()
        else:
            made = record(context, view, undo, volume, backend, sr_ref, vdi_ref)
    except BaseException as error:
        undo.unwind(error)
        raise
    finally:
        if filling is not None and made is None:
            filling.give_up(context, volume)
    return made


def _erase_incomplete(context: Context, view: View, begun: Volume, made: Made) -> None:
    """Erase what dead attempts left on the backend where the row was begun, and where it ended."""
    backends = {made.backend.id: made.backend}
    if begun.backend_id not in backends:
        backends[begun.backend_id] = context.database.read(backend_rows.get, begun.backend_id)
    for backend in backends.values():
        try:
            sr_ref, _ = srs.get_sr(view, backend)
            vdis.erase_incomplete(context, view, sr_ref, made.volume)
        except XenVolError as error:  # an audit finds them
            log.warning(
                "backend %d: incomplete VDIs of volume %s may be left: %s", backend.id, begun.id, error
            )


def _candidates(
    context: Context,
    view: View,
    flavor: Flavor,
    request: Request,
    reasons: dict[int, str],
    *,
    begun: Volume | None,
) -> Iterator[Backend]:
    """Yield the backends to try, in the policy's order. Backends that do not fit get their reason in `reasons`.

    The caller adds the reasons of backends that refuse. First come backends whose row has room, read by an index. If
    none of them takes the volume, all others of the flavor follow, by what the pool says of them now. Last comes the
    backend that gave no answer to an earlier attempt.
    """
    policy = policies.get_policy(flavor.policy)
    silent = None if begun is None else begun.backend_id
    for page in _pages(context, flavor, request, policy.order_by):
        fitting = [backend for backend in page if placement.obstacle(backend, request) is None]
        waiting = [each for each in fitting if each.id not in reasons and each.id != silent]
        yield from policy.order(waiting, request)
    known = context.database.read(backend_rows.all_of, flavor_id=flavor.id)
    fresh = {backend.id: backend for backend in capacity.refresh(context, view, known)}
    fitting = []
    left = [each for each in known if each.id not in reasons and each.id != silent]
    for backend in (fresh.get(each.id, each) for each in left):
        reason = placement.obstacle(backend, request)
        if reason is None:
            fitting.append(backend)
        else:
            reasons[backend.id] = reason
    for backend in policy.order(fitting, request):
        yield backend
        reasons.setdefault(backend.id, "another volume took its last room meanwhile")
    if silent is not None:
        yield context.database.read(backend_rows.get, silent)


def _pages(
    context: Context, flavor: Flavor, request: Request, order: backend_rows.Order
) -> Iterator[list[Backend]]:
    """Yield pages of the backends whose row has room; each page is one query by an index."""
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
    """Another service has changed the row."""


class _CannotFillError(Exception):
    """No disk of this backend can be filled. Nothing was made."""


def _claim(
    context: Context,
    request: Request,
    name: str,
    volume: Volume | None,
    backend: Backend,
    filling: Filling | None,
) -> Volume | None:
    """Write this backend into the volume's row, and take its room. Return None if it has no room any more.

    Raises _LostError if another service has the row.
    """
    if volume is not None and volume.backend_id == backend.id:
        return volume
    cost = placement.cost(backend, request.size)

    def claim(connection: sa.Connection) -> Volume | None:
        if not backend_rows.reserve(connection, backend.id, cost):
            return None
        if volume is None:
            return volume_rows.add(
                connection,
                request.volume_id,
                backend_id=backend.id,
                size=request.size,
                cost=cost,
                name=name,
                image=None if filling is None else filling.image,
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
    """Delete the row of a volume without a VDI, and return its room. Return False if the row has changed."""
    is_gone = volume_rows.drop(connection, volume)
    if is_gone:
        backend_rows.give_back(connection, volume.backend_id, volume.cost)
    return is_gone


def give_up(context: Context, volume: Volume, error: BaseException, *, is_over: bool = False) -> None:
    """Drop the row after a refusal, since nothing was made. Keep it after a missing answer, for the next attempt.

    An interrupt keeps the row too, unless `is_over` says that nothing is under way any more.
    """
    if isinstance(error, XapiUnreachable | DatabaseError):
        return
    if not (is_over or isinstance(error, XenVolError)):
        return
    try:
        context.database.write(drop_unmade, volume)
    except DatabaseError as failure:
        error.add_note(
            f"the row of volume {volume.id} stays ({failure}): `xenvol sm audit --repair` drops it"
        )


def _check_same(context: Context, volume: Volume, flavor: Flavor, size: int, image: str | None) -> None:
    """Check that the existing volume is the one asked for. Raises VolumeExists, VolumeNotReady."""
    backend = context.database.read(backend_rows.get, volume.backend_id)
    if volume.state == "deleting":
        raise VolumeNotReady(volume.id, state="being deleted")
    if volume.is_snapshot or volume.source_id is not None:
        raise VolumeExists(volume.id, difference=f"is a copy of {volume.source_id!r}")
    if volume.image != image:
        what = "was made of no image" if volume.image is None else f"was made of the image {volume.image!r}"
        raise VolumeExists(volume.id, difference=what)
    if backend.flavor_id != flavor.id:
        raise VolumeExists(volume.id, difference="has another flavor")
    if volume.size != size:
        raise VolumeExists(volume.id, difference=f"has {exact_size(volume.size)}")
