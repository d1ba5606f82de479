"""The commands that show an image, and what killed transfers left."""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from xenvol.amounts import human_size
from xenvol.cli.image.options import source_options, staging_option
from xenvol.cli.options import Pool, output_options, pool_options
from xenvol.cli.terminal import Terminal
from xenvol.images import ImageSource, Leftover, find_leftovers, inspect_image, sweep

NOT_WELL = 5  # the exit status of storage errors: something could not be removed

_AGE = re.compile(r"(\d{1,6}) ?([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command("info")
@source_options
@click.option(
    "--check", is_flag=True, help="Read all of the image, as an import would, and check that it is complete."
)
@staging_option
@output_options
def info(terminal: Terminal, *, source: ImageSource, check: bool, staging_dir: str | None) -> None:
    """Show what an image is, and whether it is complete.

    No pool is asked. IMAGE is a path, - for standard input, or an http or https URL; with --parent, the leaf of a
    chain of VHDs. Without --check, only its beginning and its tables are read.

    \b
    Examples:
      xenvol image info debian.qcow2
      xenvol image info debian.qcow2 --check --checksum sha256:… --json | jq .virtual_size
    """
    with terminal.working("looking at the image"), terminal.transferring() as progress:
        found = inspect_image(source, check=check, staging_dir=staging_dir, progress=progress)
    rows = [
        ["image", found.image],
        ["format", found.format],
        ["size of the disk", f"{human_size(found.virtual_size)} ({found.virtual_size} bytes)"],
        ["data", "not known" if found.allocated is None else f"{human_size(found.allocated)} at most"],
        ["checked", "all of it is good" if found.is_checked else "no (--check)"],
    ]
    terminal.listing(asdict(found), ["KEY", "VALUE"], rows)


def read_age(ctx: click.Context, param: click.Parameter, value: str) -> datetime.timedelta:
    """Return the time that ``90s``, ``30m``, ``24h`` or ``7d`` means."""
    found = _AGE.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no time: write 30m, 24h or 7d", ctx, param)
    number, unit = found.groups()
    return datetime.timedelta(seconds=int(number) * _SECONDS[unit])


@click.command("sweep")
@click.option(
    "--older-than",
    metavar="TIME",
    default="24h",
    show_default=True,
    callback=read_age,
    help="Only what a transfer began longer ago: 30m, 24h, 7d. Give more than any running transfer may take.",
)
@click.option("--remove", is_flag=True, help="Remove what was found. Default: only show it.")
@pool_options
def sweep_(pool: Pool, *, older_than: datetime.timedelta, remove: bool) -> None:
    """Show what killed transfers left, and remove it.

    These are incomplete disks, snapshots of exports, and VBDs of a control domain. Each carries the mark of its
    transfer, and when it began. Nothing else is touched, and nothing that a VM has. With --remove, the exit status is 5
    if something stays.

    \b
    Examples:
      xenvol image sweep
      xenvol image sweep --older-than 7d --remove --json | jq '.[] | select(.kept)'
    """
    with pool.session("looking at the disks of the pool") as session:
        found = (sweep if remove else find_leftovers)(session, older_than=older_than)
    pool.terminal.listing(
        [_facts(leftover, remove) for leftover in found],
        ["WHAT", "VDI", "NAME", "BEGAN", "BY", "REMOVED"],
        [_row(leftover, remove) for leftover in found],
    )
    if remove and any(leftover.kept is not None for leftover in found):
        click.get_current_context().exit(NOT_WELL)


def _facts(leftover: Leftover, is_removed: bool) -> dict[str, Any]:
    return {
        **asdict(leftover),
        "began": leftover.began.isoformat(),
        "removed": is_removed and leftover.kept is None,
    }


def _row(leftover: Leftover, is_removed: bool) -> list[str | Text]:
    fate = Text("yes", style="green") if is_removed else Text("no (--remove)")
    if leftover.kept is not None:
        fate = Text(f"no: {leftover.kept}", style="red")
    return [
        leftover.kind,
        leftover.vdi_uuid,
        leftover.name,
        f"{leftover.began:%Y-%m-%d %H:%M:%S} UTC",
        leftover.machine,
        fate,
    ]
