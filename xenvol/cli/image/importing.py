"""The commands that write an image to a disk: a new one, an existing one, or a block device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from xenvol.amounts import human_size
from xenvol.cli.image.options import (
    blank_option,
    check_may_ask,
    confirm,
    road_option,
    source_options,
    staging_option,
    verify_option,
    wrong,
    yes_option,
)
from xenvol.cli.options import Pool, output_options, pool_options
from xenvol.cli.sizes import read_size
from xenvol.cli.terminal import Terminal
from xenvol.images import ImageSource, ImportedImage, fill_vdi, import_image, write_device
from xenvol.images.disk_checks import get_vdi
from xenvol.pool.view import View
from xenvol.session import Session


@click.command("import")
@source_options
@click.argument("sr", metavar="[SR]", required=False)
@click.option("--name", metavar="TEXT", help="The name of the new disk. Default: the image's.")
@click.option("--description", metavar="TEXT", help="The description of the new disk.")
@click.option(
    "--disk-size",
    metavar="SIZE",
    callback=read_size,
    help="Make the new disk larger than the image's: 10 (GiB), 512MiB.",
)
@click.option("--raw-disk", is_flag=True, help="Make the new disk raw, not a VHD.")
@click.option(
    "--into",
    metavar="VDI",
    help="Overwrite this disk, which no VM has, instead of making a new one on an SR.",
)
@blank_option
@yes_option
@road_option
@staging_option
@verify_option
@pool_options
def import_(
    pool: Pool,
    *,
    source: ImageSource,
    sr: str | None,
    name: str | None,
    description: str | None,
    disk_size: int | None,
    raw_disk: bool,
    into: str | None,
    blank: bool,
    yes: bool,
    **how: Any,
) -> None:
    """Make a disk from an image, or write an image over a disk.

    IMAGE is a path, - for standard input, or an http or https URL; with --parent, the leaf of a chain of VHDs. SR
    is a name, a uuid or a reference. The disk holds the image, or there is no disk: if the image, its
    checksum, the SR or the transfer fails, xenvol removes what it made.

    With --into, the image is written over an existing disk. What that held is lost, and the rest of it is zeroed.

    \b
    Examples:
      xenvol image import debian.qcow2 'local storage' --name debian
      xenvol image import leaf.vhd nfs --parent middle.vhd --parent base.vhd --verify
      xenvol image import https://images.example.com/v2/images/0d9c/file nfs --token-file ~/.token
      zstdcat disk.raw.zst | xenvol image import - nfs --size 20GiB
      xenvol image import debian.qcow2 --into 0d9c1f0e-5a0c-4b43-9c0b-3f6d7f2f8f11 --yes
    """
    if (sr is None) == (into is None):
        raise wrong("give either an SR, to make a new disk, or --into with an existing disk")
    if sr is not None:
        if blank or yes:
            raise wrong("give --blank and --yes only with --into: a new disk is blank, and nothing is lost")
        _import(pool, source, sr, name, description or "", raw_disk, how | {"size": disk_size})
    elif into is not None:
        if name is not None or description is not None or raw_disk or disk_size is not None:
            raise wrong(
                "leave out --name, --description, --disk-size and --raw-disk with --into, which makes no disk"
            )
        _fill(pool, source, into, blank, yes, how)


@click.command("write")
@source_options
@click.argument("device", metavar="DEVICE")
@blank_option
@yes_option
@staging_option
@verify_option
@output_options
def write(
    terminal: Terminal,
    *,
    source: ImageSource,
    device: str,
    blank: bool,
    yes: bool,
    **how: Any,
) -> None:
    """Write an image over a block device of this machine.

    DEVICE is a volume that is attached to this machine; no pool is asked. What it held is lost. A device that is
    mounted, or part of another device, is refused.

    \b
    Examples:
      xenvol image write debian.qcow2 /dev/xvdb
      xenvol image write debian.qcow2 /dev/xvdb --yes --verify --json
    """
    if not yes:
        check_may_ask(terminal, device)
        confirm(terminal, device, device)
    with terminal.working(f"writing an image over {device}"), terminal.transferring() as progress:
        written = write_device(source, device, is_blank=blank, progress=progress, **how)
    is_verified = how["verify"]
    terminal.result(
        {"device": device, "written": written, "is_verified": is_verified},
        f"{device} holds the image: {human_size(written)} written{_compared(is_verified)}",
    )


def _import(
    pool: Pool,
    source: ImageSource,
    sr: str,
    name: str | None,
    description: str,
    is_raw: bool,
    how: dict[str, Any],
) -> None:
    with pool.session(f"making a disk of an image on {sr}") as session:
        with pool.terminal.transferring() as progress:
            imported = import_image(
                session,
                source,
                sr,
                name_label=name,
                name_description=description,
                sm_config={"type": "raw"} if is_raw else None,
                progress=progress,
                **how,
            )
    _tell(pool.terminal, imported)


def _fill(
    pool: Pool, source: ImageSource, vdi: str, is_blank: bool, may_overwrite: bool, how: dict[str, Any]
) -> None:
    if not may_overwrite:
        check_may_ask(pool.terminal, f"VDI {vdi}")
    with pool.session(f"writing an image over VDI {vdi}") as session:
        if not may_overwrite:
            vdi = _confirmed(pool.terminal, session, vdi)
        with pool.terminal.transferring() as progress:
            imported = fill_vdi(session, source, vdi, is_blank=is_blank, progress=progress, **how)
    _tell(pool.terminal, imported)


def _confirmed(terminal: Terminal, session: Session, vdi: str) -> str:
    """Ask the user. Return the uuid of the disk that was shown, so that this very disk is overwritten."""
    _, record = get_vdi(View.of(session), vdi)
    size = human_size(int(record["virtual_size"]))
    confirm(terminal, f"VDI {record['name_label']} ({record['uuid']}, {size})", vdi)
    return str(record["uuid"])


def _tell(terminal: Terminal, imported: ImportedImage) -> None:
    terminal.result(
        asdict(imported),
        f"VDI {imported.vdi_uuid} ({human_size(imported.vdi_size)}) holds {imported.image} ({imported.format}), "
        f"in SR {imported.sr_uuid}",
        f"{human_size(imported.written)} written by {imported.road}{_compared(imported.is_verified)}",
    )


def _compared(is_verified: bool) -> str:
    return ", read back and compared" if is_verified else ""
