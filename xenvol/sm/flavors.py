"""Flavors: a label, a description, and the rules for placing volumes on the flavor's backends."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.sm import backend_rows, flavor_rows, policies
from xenvol.sm.context import Context
from xenvol.sm.errors import FlavorExists, FlavorInUse, InvalidSetting
from xenvol.sm.records import Flavor
from xenvol.sm.tables import ID

DEFAULT_POLICY = "first_fit"
DEFAULT_OVER_SUBSCRIPTION = 1.0  # promise no more than there is, unless the administrator asks for it


def create(
    context: Context,
    label: str,
    description: str,
    *,
    policy: str = DEFAULT_POLICY,
    over_subscription: float = DEFAULT_OVER_SUBSCRIPTION,
    reserved_percentage: int = 0,
) -> Flavor:
    """Make a flavor, and the SQLite file for the first one. Raises FlavorExists, InvalidSetting, and what
    `policies.get_policy` raises."""
    context.database.make_file()
    if not label or len(label) > ID or not label.isprintable() or label != label.strip():
        accepted = f"1 to {ID} printable characters, no space at either end"
        raise InvalidSetting("label", label, accepted=accepted)
    if len(description) > ID:
        raise InvalidSetting("description", description, accepted=f"at most {ID} characters")
    if not 0 < over_subscription <= 1000:
        raise InvalidSetting(
            "over_subscription", over_subscription, accepted="above 0, up to 1000; 1 is none"
        )
    if not 0 <= reserved_percentage < 100:
        raise InvalidSetting("reserved_percentage", reserved_percentage, accepted="0 to 99")
    policies.get_policy(policy)

    def insert(connection: sa.Connection) -> Flavor:
        flavor_rows.add(
            connection,
            label=label,
            description=description,
            policy=policy,
            over_subscription=over_subscription,
            reserved_percentage=reserved_percentage,
        )
        return flavor_rows.get(connection, label)

    try:
        return context.database.write(insert)
    except IntegrityError as error:
        raise FlavorExists(label) from error


def delete(context: Context, label: str) -> None:
    """Delete a flavor. Raises UnknownFlavor, FlavorInUse with the ids of its backends."""

    def remove(connection: sa.Connection) -> None:
        flavor = flavor_rows.get(connection, label, lock=True)
        if backends := backend_rows.all_of(connection, flavor_id=flavor.id):
            raise FlavorInUse(label, backends=[backend.id for backend in backends])
        flavor_rows.delete(connection, flavor)

    context.database.write(remove)


def list_all(context: Context, label: str | None = None) -> list[Flavor]:
    """Return all flavors, or the one with this label. Raises UnknownFlavor."""
    if label is not None:
        return [context.database.read(flavor_rows.get, label)]
    return context.database.read(flavor_rows.all_of)
