"""The statements on rows of backends. Each change names the state that the row must still have."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Literal

import sqlalchemy as sa

from xenvol.sm.errors import UnknownBackend
from xenvol.sm.records import Backend, now
from xenvol.sm.tables import backends

Order = Literal["id", "free", "placed_at"]
"""The order in which candidates are read: by age, most room first, longest without a new volume first."""

_LIVE = backends.c.deleted == 0
_ORDERS: dict[Order, list[Any]] = {
    "id": [backends.c.id],
    "free": [backends.c.free.desc(), backends.c.id],
    "placed_at": [backends.c.placed_at, backends.c.id],
}


def digest(place: str) -> str:
    """Return the hash of a place as the table stores it: short enough for a unique index."""
    return hashlib.sha256(place.encode()).hexdigest()


def add(connection: sa.Connection, **values: Any) -> int:
    """Insert a row, and return its id. Raises sqlalchemy.exc.IntegrityError if the place or the SR is taken."""
    fresh = {
        "state": "new",
        "features": "",
        "physical_size": 0,
        "physical_utilisation": 0,
        "virtual_allocation": 0,
        "free": 0,
        "placed_at": 0,
        "created_at": now(),
        "deleted": 0,
    }
    (backend_id,) = connection.execute(backends.insert().values(**fresh, **values)).inserted_primary_key or (
        0,
    )
    return int(backend_id)


def get(connection: sa.Connection, backend_id: int, *, lock: bool = False) -> Backend:
    """Return the backend. Raises UnknownBackend. `lock` keeps other transactions from it until this one ends."""
    query = sa.select(backends).where(backends.c.id == backend_id, _LIVE)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownBackend(backend_id)
    return Backend.of(row)


def find(
    connection: sa.Connection,
    *,
    place: str | None = None,
    sr_uuid: str | None = None,
    lock: bool = False,
) -> Backend | None:
    """Return the backend at a place, or of an SR, or None. `lock` as in `get`."""
    is_it = backends.c.sr_uuid == sr_uuid if place is None else backends.c.place == digest(place)
    query = sa.select(backends).where(is_it, _LIVE)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else Backend.of(row)


def all_of(connection: sa.Connection, *, flavor_id: int | None = None) -> list[Backend]:
    query = sa.select(backends).where(_LIVE).order_by(backends.c.id)
    if flavor_id is not None:
        query = query.where(backends.c.flavor_id == flavor_id)
    return [Backend.of(row) for row in connection.execute(query)]


def removed(connection: sa.Connection, sr_type: str) -> list[Backend]:
    """Return the backends of a type that were removed, and whose SRs may still be on the storage."""
    query = sa.select(backends).where(backends.c.deleted != 0, backends.c.sr_type == sr_type)
    return [Backend.of(row) for row in connection.execute(query.order_by(backends.c.id))]


def with_room(
    connection: sa.Connection, flavor_id: int, size: int, *, order: Order, limit: int, offset: int = 0
) -> list[Backend]:
    """Return one page of the flavor's backends whose row has `size` bytes free."""
    query = (
        sa.select(backends)
        .where(
            backends.c.flavor_id == flavor_id,
            _LIVE,
            backends.c.free >= size,
            backends.c.state == "ready",
            backends.c.problem.is_(None),
        )
        .order_by(*_ORDERS[order])
        .limit(limit)
        .offset(offset)
    )
    return [Backend.of(row) for row in connection.execute(query)]


def reserve(connection: sa.Connection, backend_id: int, cost: int) -> bool:
    """Take room for a volume that will be made. Return False if the backend no longer has enough."""
    taken = (
        backends.update()
        .where(
            backends.c.id == backend_id,
            _LIVE,
            backends.c.state == "ready",
            backends.c.problem.is_(None),
            backends.c.free >= cost,
        )
        .values(free=backends.c.free - cost, placed_at=time.time_ns())
    )
    return bool(connection.execute(taken).rowcount)


def give_back(connection: sa.Connection, backend_id: int, cost: int) -> None:
    """Return the room of a volume that was not made, or is deleted."""
    connection.execute(
        backends.update().where(backends.c.id == backend_id, _LIVE).values(free=backends.c.free + cost)
    )


def update(connection: sa.Connection, backend_id: int, /, **values: Any) -> None:
    connection.execute(
        backends.update().where(backends.c.id == backend_id).values(updated_at=now(), **values)
    )


def delete(connection: sa.Connection, backend_id: int) -> None:
    update(connection, backend_id, deleted=backend_id, deleted_at=now())


def erase(connection: sa.Connection, backend_id: int) -> None:
    """Delete the row of a backend whose SR was never made."""
    connection.execute(backends.delete().where(backends.c.id == backend_id, _LIVE, backends.c.state == "new"))
