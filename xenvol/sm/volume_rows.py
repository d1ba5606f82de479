"""The statements on rows of volumes. Each change names the state that the row must still have, and returns whether it
had.

The rest stands on four rules:

1. A row in the making names no VDI, then one VDI, and never another.
2. A row becomes available only after that, and no caller sees the volume before.
3. At most one live row names a VDI: a unique index holds this.
4. A VDI is erased only while a row that is being deleted names it, so no other row can name it.

In a row with an `image` that names no VDI, `updated_at` is set only while a process fills a VDI for it.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from xenvol.sm.errors import UnknownVolume
from xenvol.sm.records import Volume, VolumeState, new_token, now, tombstone
from xenvol.sm.tables import backends, volumes

ERASING = "erasing:"
"""The prefix of the id of a claim: a row that names an orphan VDI while it is erased."""

_LIVE = volumes.c.deleted == 0
_BEING_MADE = sa.and_(_LIVE, volumes.c.state == "creating", volumes.c.vdi_uuid.is_(None))
_BEING_FILLED = sa.and_(_BEING_MADE, volumes.c.image.is_not(None), volumes.c.updated_at.is_not(None))
PROMISED = sa.and_(_BEING_MADE, sa.not_(_BEING_FILLED))
"""Rows of volumes whose VDI the pool does not show yet. It shows a VDI that is being filled."""


def find(connection: sa.Connection, volume_id: str) -> Volume | None:
    row = connection.execute(sa.select(volumes).where(volumes.c.id == volume_id, _LIVE)).one_or_none()
    return None if row is None else Volume.of(row)


def was_there(connection: sa.Connection, volume_id: str) -> bool:
    """Return True if there is or was a volume with this id: a deleted one keeps its row."""
    query = sa.select(sa.func.count()).where(volumes.c.id == volume_id)
    return bool(connection.execute(query).scalar_one())


def get(connection: sa.Connection, volume_id: str, *, lock: bool = False) -> Volume:
    """Return the volume. Raises UnknownVolume. `lock` keeps it from being changed until the transaction ends."""
    query = sa.select(volumes).where(volumes.c.id == volume_id, _LIVE)
    row = connection.execute(query.with_for_update(read=True) if lock else query).one_or_none()
    if row is None:
        raise UnknownVolume(volume_id)
    return Volume.of(row)


def by_vdi(connection: sa.Connection, vdi_uuid: str) -> Volume | None:
    row = connection.execute(sa.select(volumes).where(volumes.c.vdi_uuid == vdi_uuid, _LIVE)).one_or_none()
    return None if row is None else Volume.of(row)


def unnamed(connection: sa.Connection, vdi_uuids: Collection[str]) -> set[str]:
    """Return the uuids that no row names."""
    query = sa.select(volumes.c.vdi_uuid).where(volumes.c.vdi_uuid.in_(vdi_uuids), _LIVE)
    return set(vdi_uuids) - set(connection.execute(query).scalars())


def by_token(connection: sa.Connection, token: str, volume_id: str) -> Volume | None:
    """Return the live row for which an object of the pool was made, or None."""
    volume = find(connection, volume_id)
    return volume if volume is not None and volume.token == token else None


def list_of(
    connection: sa.Connection,
    *,
    flavor_id: int | None = None,
    backend_id: int | None = None,
    snapshot_of: str | None = None,
    after: str | None = None,
    limit: int | None = None,
) -> list[Volume]:
    """Return the volumes and snapshots by id, from the one after `after`."""
    query = sa.select(volumes).where(_LIVE).order_by(volumes.c.id)
    if flavor_id is not None:
        query = query.join(backends).where(backends.c.flavor_id == flavor_id)
    if backend_id is not None:
        query = query.where(volumes.c.backend_id == backend_id)
    if snapshot_of is not None:
        query = query.where(volumes.c.snapshot_of == snapshot_of)
    if after is not None:
        query = query.where(volumes.c.id > after)
    return [Volume.of(row) for row in connection.execute(query if limit is None else query.limit(limit))]


def copies_being_made(connection: sa.Connection, source_id: str, *, limit: int) -> list[str]:
    """Return the ids of at most `limit` copies of the source that are in the making."""
    query = sa.select(volumes.c.id).where(volumes.c.source_id == source_id, _LIVE)
    return list(connection.execute(query.where(volumes.c.state == "creating").limit(limit)).scalars())


def count(connection: sa.Connection, backend_id: int) -> int:
    query = sa.select(sa.func.count()).where(volumes.c.backend_id == backend_id, _LIVE)
    return int(connection.execute(query).scalar_one())


def promised(connection: sa.Connection, backend_id: int) -> int:
    """Return what volumes without a VDI will take of a backend, in bytes; the pool cannot show it."""
    query = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.cost), 0))
    return int(connection.execute(query.where(volumes.c.backend_id == backend_id, PROMISED)).scalar_one())


def made(connection: sa.Connection, backend_id: int) -> int:
    """Return the sum of the sizes of the disks that the backend's volumes and snapshots have, in bytes."""
    query = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.virtual_size), 0))
    mine = (volumes.c.backend_id == backend_id, _LIVE, volumes.c.vdi_uuid.is_not(None))
    return int(connection.execute(query.where(*mine)).scalar_one())


def filled_at(connection: sa.Connection, volume: Volume) -> datetime.datetime | None:
    """Return when a process last renewed its mark of filling a VDI for the volume, or None."""
    query = sa.select(volumes.c.updated_at).where(*_same(volume), _BEING_FILLED)
    return connection.execute(query).scalar_one_or_none()


def add(
    connection: sa.Connection,
    volume_id: str,
    *,
    backend_id: int,
    size: int,
    cost: int,
    name: str = "",
    state: VolumeState = "creating",
    **values: Any,
) -> Volume:
    """Insert a row, and return it. The id of a deleted volume is reused. Raises sqlalchemy.exc.IntegrityError for a
    live one."""
    fresh = {
        "backend_id": backend_id,
        "vdi_uuid": None,
        "token": new_token(),
        "state": state,
        "name": name,
        "size": size,
        "virtual_size": None,
        "cost": cost,
        "source_id": None,
        "snapshot_of": None,
        "image": None,
        "created_at": now(),
        "updated_at": None,
        "deleted_at": None,
        "deleted": 0,
        **values,
    }
    again = volumes.update().where(volumes.c.id == volume_id, volumes.c.deleted != 0).values(**fresh)
    if not connection.execute(again).rowcount:
        connection.execute(volumes.insert().values(id=volume_id, **fresh))
    return get(connection, volume_id)


def move(connection: sa.Connection, volume: Volume, *, backend_id: int, cost: int) -> bool:
    """Move a row without a VDI to another backend."""
    at = now() if volume.image is None else None
    return _change(connection, _unmade(volume), backend_id=backend_id, cost=cost, updated_at=at)


def say_filling(connection: sa.Connection, volume: Volume) -> bool:
    """Set or renew the mark that a VDI is being filled. Return False if the row has changed."""
    return _change(connection, _unmade(volume))


def say_not_filling(connection: sa.Connection, volume: Volume) -> None:
    """Remove the mark that a VDI is being filled."""
    _change(connection, [*_unmade(volume), volumes.c.image.is_not(None)], updated_at=None)


def name_vdi(
    connection: sa.Connection, volume: Volume, *, backend_id: int, vdi_uuid: str, virtual_size: int
) -> bool:
    """Set the VDI of the volume. If several services made one, the first to set it wins.

    Raises sqlalchemy.exc.IntegrityError if another row names the VDI.
    """
    return _change(
        connection,
        _unmade(volume),
        backend_id=backend_id,
        vdi_uuid=vdi_uuid,
        virtual_size=virtual_size,
    )


def finish_making(connection: sa.Connection, volume: Volume, *, virtual_size: int) -> bool:
    """Make the volume available; its VDI has no mark of its making any more."""
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "creating", volumes.c.vdi_uuid.is_not(None)],
        state="available",
        virtual_size=virtual_size,
    )


def drop(connection: sa.Connection, volume: Volume) -> bool:
    """Delete the row of a volume without a VDI."""
    return bool(connection.execute(volumes.delete().where(*_unmade(volume))).rowcount)


def grow(connection: sa.Connection, volume: Volume, *, size: int, virtual_size: int, cost: int) -> bool:
    """Set the new size. Of two services that grow the volume, the second does not make it smaller."""
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "available"],
        size=_larger(volumes.c.size, size),
        virtual_size=_larger(volumes.c.virtual_size, virtual_size),
        cost=_larger(volumes.c.cost, cost),
    )


def set_virtual_size(connection: sa.Connection, volume: Volume, size: int) -> bool:
    """Set the size that the VDI has, larger or smaller."""
    return _change(connection, [*_same(volume), volumes.c.state == "available"], virtual_size=size)


def keep_after_all(connection: sa.Connection, volume: Volume) -> bool:
    """Make a volume available again whose deletion found its VDI in use."""
    is_whole = [volumes.c.state == "deleting", volumes.c.vdi_uuid == volume.vdi_uuid]
    return volume.state == "available" and _change(connection, [*_same(volume), *is_whole], state="available")


def begin_deleting(connection: sa.Connection, volume: Volume) -> bool:
    as_it_was = [volumes.c.state == volume.state, volumes.c.vdi_uuid == volume.vdi_uuid]  # or both NULL
    return _change(connection, [*_same(volume), *as_it_was], state="deleting")


def finish_deleting(connection: sa.Connection, volume: Volume) -> bool:
    """Set the row deleted, since its VDI is gone. Also if another service has set it available again meanwhile."""
    is_going = volumes.c.state == "deleting"
    if volume.vdi_uuid is not None:
        is_going = sa.or_(is_going, volumes.c.vdi_uuid == volume.vdi_uuid)
    return _change(
        connection,
        [*_same(volume), is_going],
        deleted=tombstone(),
        deleted_at=now(),
    )


def claim_for_erasing(connection: sa.Connection, *, backend_id: int, vdi_uuid: str) -> Volume:
    """Insert a claim, which keeps other rows from naming the VDI. Raises sqlalchemy.exc.IntegrityError if a row names
    it."""
    return add(
        connection,
        ERASING + vdi_uuid,
        backend_id=backend_id,
        size=0,
        cost=0,
        state="deleting",
        vdi_uuid=vdi_uuid,
    )


def is_claim(volume: Volume) -> bool:
    """Return True if the row is a claim on an orphan VDI."""
    return volume.id.startswith(ERASING)


def drop_claim(connection: sa.Connection, claim: Volume) -> None:
    """Delete a claim: its VDI is erased, or stays."""
    connection.execute(volumes.delete().where(*_same(claim)))


def release(connection: sa.Connection, volume: Volume) -> bool:
    """Set the row of an unmanaged volume deleted; its VDI stays."""
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "available"],
        deleted=tombstone(),
        deleted_at=now(),
    )


def _same(volume: Volume) -> list[sa.ColumnElement[bool]]:
    return [volumes.c.id == volume.id, volumes.c.token == volume.token, _LIVE]


def _unmade(volume: Volume) -> list[sa.ColumnElement[bool]]:
    return [*_same(volume), _BEING_MADE]


def _larger(column: sa.Column[Any], value: int) -> sa.ColumnElement[Any]:
    return sa.case((column > value, column), else_=value)


def _change(connection: sa.Connection, where: list[sa.ColumnElement[bool]], **values: Any) -> bool:
    changed = volumes.update().where(*where).values(**{"updated_at": now(), **values})
    return bool(connection.execute(changed).rowcount)
