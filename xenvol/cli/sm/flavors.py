"""The commands on flavors. They use the database only."""

from __future__ import annotations

import click

from xenvol.cli.sm.options import Service, database_options
from xenvol.sm.flavors import DEFAULT_OVER_SUBSCRIPTION, DEFAULT_POLICY
from xenvol.sm.records import Flavor


@click.command("flavor_list")
@click.argument("label", metavar="[LABEL]", required=False)
@database_options
def flavor_list(service: Service, label: str | None) -> None:
    """List the flavors, or show one.

    \b
    Examples:
      xenvol sm flavor_list
      xenvol sm flavor_list gold --json
    """
    with service.manager("looking for flavors") as manager:
        found = manager.list_flavors(label)
    service.terminal.listing(
        [flavor.as_dict() for flavor in found],
        ["ID", "LABEL", "DESCRIPTION", "POLICY", "OVER-SUBSCRIPTION", "RESERVE"],
        [_row(flavor) for flavor in found],
    )


@click.command("flavor_create")
@click.argument("label", metavar="LABEL")
@click.argument("description", metavar="DESCRIPTION")
@click.option(
    "--policy",
    default=DEFAULT_POLICY,
    show_default=True,
    metavar="NAME",
    help="How to choose among its backends: first_fit, most_free, round_robin, weighted, or a policy of an "
    "installed package.",
)
@click.option(
    "--over-subscription",
    type=float,
    default=DEFAULT_OVER_SUBSCRIPTION,
    show_default=True,
    metavar="FACTOR",
    help="How much of a thin backend may be promised, as a multiple of its size.",
)
@click.option(
    "--reserve",
    type=int,
    default=0,
    show_default=True,
    metavar="PERCENT",
    help="Keep so much of every backend free.",
)
@database_options
def flavor_create(
    service: Service, label: str, description: str, policy: str, over_subscription: float, reserve: int
) -> None:
    """Make a flavor: a name for a quality of service.

    \b
    Examples:
      xenvol sm flavor_create gold "backups are possible"
      xenvol sm flavor_create scratch "no backups" --policy most_free --over-subscription 2 --reserve 5
    """
    with service.manager("making a flavor") as manager:
        flavor = manager.create_flavor(
            label,
            description,
            policy=policy,
            over_subscription=over_subscription,
            reserved_percentage=reserve,
        )
    service.terminal.result(flavor.as_dict(), f"flavor {flavor.label} is made: {flavor.description}")


@click.command("flavor_delete")
@click.argument("label", metavar="LABEL")
@database_options
def flavor_delete(service: Service, label: str) -> None:
    """Delete a flavor that has no backends.

    \b
    Example:
      xenvol sm flavor_delete scratch
    """
    with service.manager("deleting a flavor") as manager:
        manager.delete_flavor(label)
    service.terminal.result({"deleted": True, "label": label}, f"flavor {label} is deleted")


def _row(flavor: Flavor) -> list[str]:
    return [
        str(flavor.id),
        flavor.label,
        flavor.description,
        flavor.policy,
        f"{flavor.over_subscription:g}",
        f"{flavor.reserved_percentage} %",
    ]
