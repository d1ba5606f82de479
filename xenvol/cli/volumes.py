"""The commands on volumes: each calls one method of `VolumeOps`."""

from __future__ import annotations

from collections.abc import Mapping

import click

from xenvol.amounts import human_size
from xenvol.attaching import mountpoint as mountpoints
from xenvol.attaching.attachment import Attachment
from xenvol.attaching.health import BadVolume
from xenvol.cli.options import (
    Pool,
    deadline_option,
    info_argument,
    mountpoint_argument,
    pool_options,
    vm_argument,
)

Info = Mapping[str, object]

BAD_VOLUMES = 5  # the status of storage errors: a volume that the VM needs is missing


@click.command()
@info_argument
@vm_argument
@mountpoint_argument
@click.option("--no-hotplug", is_flag=True, help="Give a running VM the disk at its next start, not now.")
@deadline_option
@pool_options
def attach(pool: Pool, info: Info, vm: str, mountpoint: str | None, no_hotplug: bool) -> None:
    """Attach a volume to a VM.

    INFO is a file with the connection_info of a block-storage service in JSON, or - for standard input. VM is a
    name, a uuid or a reference. MOUNTPOINT is xvdb, /dev/xvdb, sdb, 1…; default: the first free one.

    Idempotent: a volume that is attached there already is shown as it is. If the command fails, it undoes what
    it began.

    \b
    Examples:
      xenvol attach volume.json web
      xenvol attach volume.json web /dev/xvdc --json
      some-service initialize-connection | xenvol attach - web
    """
    with pool.volume_ops(f"attaching a volume to {vm}") as ops:
        attachment = ops.attach_volume(info, vm, mountpoint, hotplug=not no_hotplug)
    verb = "is" if attachment.is_plugged else "will be, once the VM starts,"
    pool.terminal.result(
        attachment.as_dict(),
        f"volume {attachment.volume_id} {verb} {_device(attachment)} of {vm} "
        f"({human_size(attachment.virtual_size)}, {attachment.mode})",
        f"attachment {attachment.attachment_id}",
    )


@click.command()
@info_argument
@vm_argument
@mountpoint_argument
@click.option(
    "--attachment-id",
    metavar="ID",
    help="Detach only this attachment, as `attach` named it, and no later one of the same volume.",
)
@deadline_option
@pool_options
def detach(pool: Pool, info: Info, vm: str, mountpoint: str | None, attachment_id: str | None) -> None:
    """Detach a volume from a VM.

    Also disconnects the volume from the pool, unless it is in use. INFO is the connection_info with which it was
    attached: a file, or - for standard input. With a MOUNTPOINT, the volume must be there. Idempotent: a volume
    or a VM that is gone already is fine.

    \b
    Examples:
      xenvol detach volume.json web
      xenvol detach volume.json web --attachment-id 0d9c1f0e-5a0c-4b43-9c0b-3f6d7f2f8f11
    """
    with pool.volume_ops(f"detaching a volume from {vm}") as ops:
        was_attached = ops.detach_volume(info, vm, mountpoint, attachment_id=attachment_id)
    pool.terminal.result(
        {"detached": True, "was_attached": was_attached, "vm": vm},
        f"the volume is detached from {vm}" if was_attached else f"{vm} did not have the volume",
    )


@click.command("detach-all")
@vm_argument
@deadline_option
@pool_options
def detach_all(pool: Pool, vm: str) -> None:
    """Detach every volume that xenvol attached to a VM.

    Needs no connection_info.

    \b
    Example:
      xenvol detach-all web
    """
    with pool.volume_ops(f"detaching the volumes of {vm}") as ops:
        detached = ops.detach_all(vm)
    pool.terminal.result(
        {"detached": [attachment.as_dict() for attachment in detached]},
        *(f"volume {attachment.volume_id} was {_device(attachment)} of {vm}" for attachment in detached),
        *([] if detached else [f"{vm} has no volumes of xenvol's"]),
    )


@click.command("list")
@vm_argument
@click.option(
    "--check",
    is_flag=True,
    help=f"Also find volumes that would keep the VM from starting now; exit {BAD_VOLUMES} if there are any.",
)
@deadline_option
@pool_options
def list_(pool: Pool, vm: str, check: bool) -> None:
    """List the volumes that xenvol attached to a VM.

    \b
    Examples:
      xenvol list web
      xenvol list web --check
      xenvol list web --json | jq -r '.volumes[].device'
    """
    with pool.volume_ops(f"looking at {vm}") as ops:
        attachments = ops.list_volumes(vm)
        bad = ops.find_bad_volumes(vm) if check else []
    value = {"volumes": [attachment.as_dict() for attachment in attachments]}
    columns = ["DEVICE", "SIZE", "MODE", "DRIVER", "VOLUME", "SR"]
    if not check:
        pool.terminal.listing(value, columns, [_row(attachment) for attachment in attachments])
        return
    reasons = {each.volume_id: each.reason for each in bad}
    rows = [[*_row(attachment), reasons.get(attachment.volume_id, "")] for attachment in attachments]
    known = {attachment.volume_id for attachment in attachments}
    rows += [_row_of_bad(each) for each in bad if each.volume_id not in known]
    problems = [
        {"volume_id": each.volume_id, "mountpoint": each.mountpoint, "reason": each.reason} for each in bad
    ]
    pool.terminal.listing({**value, "bad": problems}, [*columns, "PROBLEM"], rows)
    if bad:
        click.get_current_context().exit(BAD_VOLUMES)


@click.command()
@info_argument
@deadline_option
@pool_options
def connect(pool: Pool, info: Info) -> None:
    """Make a volume a VDI of the pool that a VM can boot from.

    The VDI is visible on every host.

    \b
    Example:
      xenvol connect volume.json --json | jq -r .vdi_uuid
    """
    with pool.volume_ops("connecting a volume") as ops:
        volume = ops.connect_volume(info)
    pool.terminal.result(
        volume.as_dict(),
        f"the volume is VDI {volume.vdi_uuid} ({human_size(volume.virtual_size)}) in SR {volume.sr_uuid}",
    )


@click.command()
@info_argument
@deadline_option
@pool_options
def disconnect(pool: Pool, info: Info) -> None:
    """Remove a volume from the pool, unless it is in use.

    A volume that a VM has stays. An SR that shows other volumes in use stays.

    \b
    Example:
      xenvol disconnect volume.json
    """
    with pool.volume_ops("disconnecting a volume") as ops:
        ops.disconnect_volume(info)
    pool.terminal.result({"disconnected": True}, "the volume is disconnected, unless a VM uses it")


@click.command()
@info_argument
@deadline_option
@pool_options
def extend(pool: Pool, info: Info) -> None:
    """Make the pool see that a volume has grown, and show its size.

    xapi sees the new size of a LUN only while no disk of its target is plugged.

    \b
    Example:
      xenvol extend volume.json
    """
    with pool.volume_ops("looking at the size") as ops:
        size = ops.extend_volume(info)
    pool.terminal.result({"virtual_size": size}, f"the volume has {human_size(size)} ({size} bytes)")


def _device(attachment: Attachment) -> str:
    return f"/dev/{attachment.device or mountpoints.shown_name(attachment.userdevice)}"


def _row(attachment: Attachment) -> list[str]:
    return [
        _device(attachment) + ("" if attachment.is_plugged else " (not plugged)"),
        human_size(attachment.virtual_size),
        attachment.mode,
        attachment.driver,
        attachment.volume_id,
        attachment.sr_uuid,
    ]


def _row_of_bad(bad: BadVolume) -> list[str]:
    return [bad.mountpoint, "", "", "", bad.volume_id, "", bad.reason]
