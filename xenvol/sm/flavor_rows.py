"""The statements on rows of flavors."""

from __future__ import annotations

import sqlalchemy as sa

from xenvol.sm.errors import UnknownFlavor
from xenvol.sm.records import Flavor, now
from xenvol.sm.tables import flavors

_LIVE = flavors.c.deleted == 0


def add(
    connection: sa.Connection,
    *,
    label: str,
    description: str,
    policy: str,
    over_subscription: float,
    reserved_percentage: int,
) -> int:
    """Insert a row, and return its id. Raises sqlalchemy.exc.IntegrityError if the label is taken."""
    values = {
        "label": label,
        "description": description,
        "policy": policy,
        "over_subscription": over_subscription,
        "reserved_percentage": reserved_percentage,
        "created_at": now(),
        "deleted": 0,
    }
    (flavor_id,) = connection.execute(flavors.insert().values(**values)).inserted_primary_key or (0,)
    return int(flavor_id)


def get(connection: sa.Connection, label: str, *, lock: bool = False) -> Flavor:
    """Return the flavor. Raises UnknownFlavor, which lists the labels. `lock` keeps other transactions from it."""
    query = sa.select(flavors).where(flavors.c.label == label, _LIVE)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise UnknownFlavor(label, known=[flavor.label for flavor in all_of(connection)])
    return Flavor.of(row)


def by_id(connection: sa.Connection, flavor_id: int) -> Flavor:
    """Return the flavor, also a deleted one."""
    return Flavor.of(connection.execute(sa.select(flavors).where(flavors.c.id == flavor_id)).one())


def all_of(connection: sa.Connection) -> list[Flavor]:
    return [
        Flavor.of(row) for row in connection.execute(sa.select(flavors).where(_LIVE).order_by(flavors.c.id))
    ]


def delete(connection: sa.Connection, flavor: Flavor) -> None:
    connection.execute(
        flavors.update().where(flavors.c.id == flavor.id).values(deleted=flavor.id, deleted_at=now())
    )
