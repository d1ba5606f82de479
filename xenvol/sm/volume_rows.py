"""The rows of volumes. Each change says what it takes the row to be, and tells whether it was still so."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from xenvol.sm.errors import UnknownVolume
from xenvol.sm.records import Volume, VolumeState, new_token, now, tombstone
from xenvol.sm.tables import backends, volumes

_LIVE = volumes.c.deleted == 0


def find(connection: sa.Connection, volume_id: str) -> Volume | None:
    row = connection.execute(sa.select(volumes).where(volumes.c.id == volume_id, _LIVE)).one_or_none()
    return None if row is None else Volume.of(row)


def get(connection: sa.Connection, volume_id: str) -> Volume:
    """Raises UnknownVolume."""
    volume = find(connection, volume_id)
    if volume is None:
        raise UnknownVolume(volume_id)
    return volume


def by_vdi(connection: sa.Connection, vdi_uuid: str) -> Volume | None:
    row = connection.execute(sa.select(volumes).where(volumes.c.vdi_uuid == vdi_uuid, _LIVE)).one_or_none()
    return None if row is None else Volume.of(row)


def by_token(connection: sa.Connection, token: str, volume_id: str) -> Volume | None:
    """The row for which an object of the pool was made, if it is alive."""
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
    """In the order of their ids, from the one after `after`."""
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


def count(connection: sa.Connection, backend_id: int) -> int:
    query = sa.select(sa.func.count()).where(volumes.c.backend_id == backend_id, _LIVE)
    return int(connection.execute(query).scalar_one())


def promised(connection: sa.Connection, backend_id: int) -> int:
    """What volumes that are being made will take of a backend; the pool cannot show it yet."""
    query = sa.select(sa.func.coalesce(sa.func.sum(volumes.c.cost), 0)).where(
        volumes.c.backend_id == backend_id, _LIVE, volumes.c.state == "creating"
    )
    return int(connection.execute(query).scalar_one())


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
    """A new row; the id of a deleted volume may be used again. Raises sqlalchemy.exc.IntegrityError for a live one."""
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
    """To another backend, while it has no VDI yet."""
    return _change(connection, _unmade(volume), backend_id=backend_id, cost=cost)


def record(
    connection: sa.Connection, volume: Volume, *, backend_id: int, vdi_uuid: str, virtual_size: int
) -> bool:
    """The VDI that the volume is from now on. Of several who have made one, the first to say so wins."""
    return _change(
        connection,
        _unmade(volume),
        backend_id=backend_id,
        vdi_uuid=vdi_uuid,
        virtual_size=virtual_size,
        state="available",
    )


def drop(connection: sa.Connection, volume: Volume) -> bool:
    """The row of a volume that was not made."""
    return bool(connection.execute(volumes.delete().where(*_unmade(volume))).rowcount)


def grow(connection: sa.Connection, volume: Volume, *, size: int, virtual_size: int, cost: int) -> bool:
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "available"],
        size=size,
        virtual_size=virtual_size,
        cost=cost,
    )


def begin_deleting(connection: sa.Connection, volume: Volume) -> bool:
    return _change(connection, [*_same(volume), volumes.c.state == volume.state], state="deleting")


def finish_deleting(connection: sa.Connection, volume: Volume) -> bool:
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "deleting"],
        deleted=tombstone(),
        deleted_at=now(),
    )


def release(connection: sa.Connection, volume: Volume) -> bool:
    """Of a volume whose VDI stays: unmanaged."""
    return _change(
        connection,
        [*_same(volume), volumes.c.state == "available"],
        deleted=tombstone(),
        deleted_at=now(),
    )


def _same(volume: Volume) -> list[sa.ColumnElement[bool]]:
    return [volumes.c.id == volume.id, volumes.c.token == volume.token, _LIVE]


def _unmade(volume: Volume) -> list[sa.ColumnElement[bool]]:
    return [*_same(volume), volumes.c.state == "creating", volumes.c.vdi_uuid.is_(None)]


def _change(connection: sa.Connection, where: list[sa.ColumnElement[bool]], **values: Any) -> bool:
    changed = volumes.update().where(*where).values(**{"updated_at": now(), **values})
    return bool(connection.execute(changed).rowcount)
