"""The commands between volumes and images. Their options for images are those of `xenvol image`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from xenvol import volume_images
from xenvol.amounts import human_size
from xenvol.cli.image.options import (
    check_may_ask,
    confirm,
    export_options,
    road_option,
    source_options,
    staging_option,
    verify_option,
    yes_option,
)
from xenvol.cli.image.standard import standard_output
from xenvol.cli.sizes import read_size
from xenvol.cli.sm.options import Service, service_options
from xenvol.cli.sm.volumes import facts, id_argument, id_of_new, id_option, name_option, needs_option, tell
from xenvol.images import ImageSource


@click.command("volume_create_from_image")
@click.argument("flavor_label", metavar="FLAVOR")
@source_options
@click.option(
    "--volume-size", callback=read_size, metavar="SIZE", help="Make the volume larger than the image's disk."
)
@id_option
@name_option
@needs_option
@road_option
@staging_option
@verify_option
@service_options
def volume_create_from_image(
    service: Service,
    *,
    flavor_label: str,
    source: ImageSource,
    volume_size: int | None,
    new_id: str | None,
    name: str,
    needs: tuple[str, ...],
    **how: Any,
) -> None:
    """Make a volume that holds an image.

    IMAGE is a path, - for standard input, or an http or https URL; with --parent, the leaf of a chain of VHDs. The
    volume becomes available when it holds the whole image. If the command fails before, it undoes what it made.

    \b
    Examples:
      xenvol sm volume_create_from_image gold debian.qcow2 --id web-root
      xenvol sm volume_create_from_image gold debian.vhd --volume-size 20 --verify
      xenvol sm volume_create_from_image gold https://images.example.com/v2/images/0d9c/file --token-file ~/.token
    """
    with id_of_new(new_id) as volume_id, service.manager(f"making volume {volume_id}") as manager:
        with service.terminal.transferring() as progress:
            volume = volume_images.create_volume_from_image(
                manager,
                volume_id,
                flavor_label,
                source,
                size=volume_size,
                name=name,
                needs=needs,
                progress=progress,
                **how,
            )
        value = facts(manager, volume)
    tell(service, volume, value)


@click.command("volume_fill")
@id_argument
@source_options
@yes_option
@road_option
@staging_option
@verify_option
@service_options
def volume_fill(service: Service, *, volume_id: str, source: ImageSource, yes: bool, **how: Any) -> None:
    """Write an image over an existing volume.

    The volume's data is lost, and the space behind the image is zeroed. No VM may have the volume. A volume that
    is a LUN can be filled too, if xenvol runs in a VM of the pool to which the LUN can be attached.

    \b
    Example:
      xenvol sm volume_fill web-root debian.qcow2 --yes
    """
    if not yes:
        check_may_ask(service.terminal, f"volume {volume_id}")
        confirm(service.terminal, f"volume {volume_id}", volume_id)
    with service.manager(f"writing an image over volume {volume_id}") as manager:
        with service.terminal.transferring() as progress:
            filled = volume_images.fill_volume(manager, volume_id, source, progress=progress, **how)
    service.terminal.result(
        {"id": volume_id, **asdict(filled)},
        f"volume {volume_id} holds {filled.image} ({filled.format})",
        f"{human_size(filled.written)} written by {filled.road}",
    )


@click.command("volume_to_image")
@id_argument
@click.argument("target", metavar="TARGET")
@export_options
@road_option
@staging_option
@service_options
def volume_to_image(
    service: Service,
    *,
    volume_id: str,
    target: str,
    target_format: Any,
    compress: Any,
    overwrite: bool,
    **how: Any,
) -> None:
    """Write a volume or a snapshot to an image.

    TARGET is a file, which appears when it is complete, or - for standard output. Of a volume that a VM writes to,
    the image shows one moment.

    \b
    Examples:
      xenvol sm volume_to_image web-root web-root.raw
      xenvol sm volume_to_image web-root-monday - --format vhd | ssh backup 'cat > monday.vhd'
    """
    is_stream = target == "-"
    place = standard_output() if is_stream else target
    with service.manager(f"writing an image of volume {volume_id}") as manager:
        with service.terminal.transferring() as progress:
            exported = volume_images.volume_to_image(
                manager,
                volume_id,
                place,
                format=target_format,
                compression=compress,
                overwrite=overwrite,
                progress=progress,
                **how,
            )
    for step in exported.residue:
        service.terminal.warn(step)
    report = service.terminal.aside if is_stream else service.terminal.result
    report(
        {"id": volume_id, **asdict(exported)},
        f"{exported.target} holds volume {volume_id} ({target_format}, {human_size(exported.virtual_size)})"
        + (", as it was when this began" if exported.was_in_use else ""),
    )
