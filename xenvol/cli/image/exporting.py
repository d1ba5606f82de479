"""The command that exports a disk. If the image goes to standard output, all other text goes to standard error."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from xenvol.amounts import human_size
from xenvol.cli.image.options import export_options, road_option, staging_option
from xenvol.cli.image.standard import standard_output
from xenvol.cli.options import Pool, pool_options
from xenvol.images import export_image


@click.command("export")
@click.argument("vdi", metavar="VDI")
@click.argument("target", metavar="TARGET")
@export_options
@road_option
@staging_option
@pool_options
def export(
    pool: Pool, *, vdi: str, target: str, target_format: Any, compress: Any, overwrite: bool, **how: Any
) -> None:
    """Write a disk to an image.

    VDI is a name, a uuid or a reference, also of a snapshot. TARGET is a file, which appears when it is complete, or -
    for standard output. If a VM writes to the disk, xenvol reads a snapshot of it, and removes that afterwards.

    \b
    Examples:
      xenvol image export debian debian.raw
      xenvol image export debian debian.vhd --format vhd --overwrite --json
      xenvol image export debian - --format tarball --compress gzip | ssh backup 'cat > debian.tgz'
    """
    is_stream = target == "-"
    place = standard_output() if is_stream else target
    with pool.session(f"writing an image of {vdi}") as session:
        with pool.terminal.transferring() as progress:
            exported = export_image(
                session,
                vdi,
                place,
                format=target_format,
                compression=compress,
                overwrite=overwrite,
                progress=progress,
                **how,
            )
    for step in exported.residue:
        pool.terminal.warn(step)
    packed = "" if compress == "none" else f", packed with {compress}"
    tell = pool.terminal.aside if is_stream else pool.terminal.result
    tell(
        asdict(exported),
        f"{exported.target} holds VDI {exported.vdi_uuid} ({target_format}{packed}, "
        f"{human_size(exported.virtual_size)})"
        + (", as it was when the export began" if exported.was_in_use else ""),
    )
