"""The commands on volumes."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from xenvol.amounts import human_size
from xenvol.cli.sm.backends import labels_of
from xenvol.cli.sm.options import Service, database_options, read_size, service_options
from xenvol.errors import XapiUnreachable
from xenvol.secret import MASK, is_secret_key
from xenvol.sm import StorageManager
from xenvol.sm.errors import DatabaseError
from xenvol.sm.placement import FEATURES
from xenvol.sm.records import Volume

id_option = click.option(
    "--id",
    "new_id",
    metavar="ID",
    help="Its id. The same command with the same id is idempotent. Default: a new uuid.",
)
name_option = click.option("--name", default="", help="The name of its VDI. Default: a name with the id.")
needs_option = click.option(
    "--needs",
    multiple=True,
    type=click.Choice(list(FEATURES)),
    help="A feature that its backend must have. May be given several times.",
)
id_argument = click.argument("volume_id", metavar="ID")


@click.command("volume_create")
@click.argument("flavor_label", metavar="FLAVOR")
@click.argument("size", metavar="SIZE", callback=read_size)
@id_option
@name_option
@needs_option
@service_options
def volume_create(
    service: Service, flavor_label: str, size: int, new_id: str | None, name: str, needs: tuple[str, ...]
) -> None:
    """Make a volume on the first backend of a flavor that takes it.

    SIZE is in GiB, or with a unit: 10, 10GiB, 512MiB, 1.5TiB. If no backend takes it, the error says why, for
    each backend.

    \b
    Examples:
      xenvol sm volume_create gold 10
      xenvol sm volume_create gold 512MiB --id mail --name 'mail spool' --needs snapshot
    """
    with id_of_new(new_id) as volume_id, service.manager(f"making volume {volume_id}") as manager:
        volume = manager.create_volume(volume_id, flavor_label, size, name=name, needs=needs)
        value = facts(manager, volume)
    tell(service, volume, value)


@click.command("volume_list")
@click.option("--flavor", "flavor_label", metavar="LABEL", help="Only volumes of this flavor.")
@click.option("--backend", "backend_id", type=int, metavar="ID", help="Only volumes on this backend.")
@click.option("--after", metavar="ID", help="Only volumes after this id, in the order of ids.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@database_options
def volume_list(
    service: Service,
    flavor_label: str | None,
    backend_id: int | None,
    after: str | None,
    limit: int | None,
) -> None:
    """List the volumes and snapshots.

    \b
    Examples:
      xenvol sm volume_list
      xenvol sm volume_list --flavor gold --limit 100 --after mail --json
    """
    with service.manager("looking for volumes") as manager:
        found = manager.list_volumes(
            flavor_label=flavor_label, backend_id=backend_id, after=after, limit=limit
        )
        backends = manager.list_backends()
        labels = labels_of(manager, backends)
    flavors = {backend.id: labels[backend.flavor_id] for backend in backends}
    service.terminal.listing(
        [{**volume.as_dict(), "flavor": flavors.get(volume.backend_id)} for volume in found],
        ["VOLUME", "NAME", "SIZE", "STATE", "FLAVOR", "BACKEND", "SNAPSHOT OF"],
        [
            [
                volume.id,
                volume.name,
                human_size(_size(volume)),
                volume.state,
                flavors.get(volume.backend_id, ""),
                str(volume.backend_id),
                volume.snapshot_of or "",
            ]
            for volume in found
        ],
    )


@click.command("volume_show")
@id_argument
@database_options
def volume_show(service: Service, volume_id: str) -> None:
    """Show a volume or a snapshot.

    \b
    Examples:
      xenvol sm volume_show mail
      xenvol sm volume_show mail --json | jq -r .vdi_uuid
    """
    with service.manager(f"looking for volume {volume_id}") as manager:
        volume = manager.get_volume(volume_id)
        value = facts(manager, volume)
    size = _size(volume)
    told = {
        "id": volume.id,
        "name": volume.name or None,
        "flavor": value["flavor"],
        "backend": str(volume.backend_id),
        "size": f"{human_size(size)} ({size} bytes)",
        "state": volume.state,
        "VDI": volume.vdi_uuid,
        "snapshot of": volume.snapshot_of,
        "copied from": None if volume.is_snapshot else volume.source_id,
        "made of": volume.image,
        "created": f"{volume.created_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    rows = [[key, text] for key, text in told.items() if text is not None]
    service.terminal.listing(value, ["KEY", "VALUE"], rows)


@click.command("volume_extend")
@id_argument
@click.argument("size", metavar="SIZE", callback=read_size)
@service_options
def volume_extend(service: Service, volume_id: str, size: int) -> None:
    """Make a volume larger.

    SIZE is the new size, in GiB or with a unit. While a VM has the volume plugged, the storage driver must be
    able to grow it (feature VDI_RESIZE_ONLINE).

    \b
    Example:
      xenvol sm volume_extend mail 20
    """
    with service.manager(f"extending volume {volume_id}") as manager:
        volume = manager.extend_volume(volume_id, size)
        value = facts(manager, volume)
    tell(service, volume, value)


@click.command("volume_snapshot")
@click.argument("volume_id", metavar="VOLUME")
@id_option
@name_option
@service_options
def volume_snapshot(service: Service, volume_id: str, new_id: str | None, name: str) -> None:
    """Make a snapshot of a volume.

    A VM may write to the volume meanwhile. To read a snapshot, clone it, and attach the clone.

    \b
    Example:
      xenvol sm volume_snapshot mail --id mail-monday
    """
    with (
        id_of_new(new_id) as snapshot_id,
        service.manager(f"making a snapshot of volume {volume_id}") as manager,
    ):
        snapshot = manager.create_snapshot(snapshot_id, volume_id, name=name)
        value = facts(manager, snapshot)
    tell(service, snapshot, value)


@click.command("volume_clone")
@click.argument("source_id", metavar="SOURCE")
@id_option
@click.option("--size", callback=read_size, help="Make it larger than its source.")
@name_option
@service_options
def volume_clone(service: Service, source_id: str, new_id: str | None, size: int | None, name: str) -> None:
    """Make a volume with the data of a volume or a snapshot.

    \b
    Examples:
      xenvol sm volume_clone mail-monday --id mail-copy
      xenvol sm volume_clone mail --size 20
    """
    with id_of_new(new_id) as volume_id, service.manager(f"cloning {source_id}") as manager:
        volume = manager.clone_volume(volume_id, source_id, size=size, name=name)
        value = facts(manager, volume)
    tell(service, volume, value)


@click.command("volume_delete")
@id_argument
@service_options
def volume_delete(service: Service, volume_id: str) -> None:
    """Erase a volume or a snapshot.

    Idempotent: a volume that was deleted before is fine. An id that no volume ever had is an error. A volume that a
    VM has, or that has snapshots, is refused.

    \b
    Example:
      xenvol sm volume_delete mail
    """
    with service.manager(f"deleting volume {volume_id}") as manager:
        manager.delete_volume(volume_id)
    service.terminal.result({"deleted": True, "id": volume_id}, f"volume {volume_id} is gone")


@click.command("volume_connection")
@id_argument
@click.option(
    "--introduce", is_flag=True, help="Say how to introduce the SR, for a pool that does not have it."
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="KEY",
    help="For --introduce: a password of the backend to hand out, by its key. May be given several times.",
)
@service_options
def volume_connection(service: Service, volume_id: str, introduce: bool, secrets: tuple[str, ...]) -> None:
    """Print the connection_info with which a volume is attached.

    The output is JSON, with or without --json, for `xenvol attach` and `detach`. It has no secret: a pool that has
    the SR needs none. A pool that does not have the SR gets it by `xenvol sm setup`, or with --introduce at the
    attach. If the storage asks for a password, --secret hands it out. At a terminal it is shown as stars.

    \b
    Examples:
      xenvol sm volume_connection mail | xenvol attach - web
      xenvol sm volume_connection mail | xenvol detach - web
      xenvol sm volume_connection mail --introduce --secret chappassword > mail.json
    """
    with service.manager(f"looking for volume {volume_id}") as manager:
        info = manager.initialize_connection(volume_id, introduce=introduce, secrets=secrets)
    data = info["data"]
    hidden = [key for key, value in data.items() if is_secret_key(key) and isinstance(value, str)]
    if hidden and sys.stdout.isatty():
        service.terminal.warn(f"{', '.join(hidden)}: not shown at a terminal; written to a file or a pipe")
        info = {**info, "data": {**data, **dict.fromkeys(hidden, MASK)}}
    service.terminal.json(info)


@click.command("volume_manage")
@click.argument("vdi_uuid", metavar="VDI", type=click.UUID)
@id_option
@name_option
@click.option(
    "--marked-as", metavar="ID", help="The other volume that the VDI is marked as, if it is to be a new one."
)
@service_options
def volume_manage(
    service: Service, vdi_uuid: uuid.UUID, new_id: str | None, name: str, marked_as: str | None
) -> None:
    """Make an existing VDI a volume.

    VDI is its uuid; its SR must be a backend. Its data is not touched. Where VDIs are LUNs of an array (types iscsi
    and hba), this is the only way to a volume. A LUN on which an SR lies is refused. So is a VDI that is marked as
    another volume, unless --marked-as names that volume.

    \b
    Example:
      xenvol sm volume_manage 0d9c1f0e-5a0c-4b43-9c0b-3f6d7f2f8f11 --id mail
    """
    with id_of_new(new_id) as volume_id, service.manager(f"looking for VDI {vdi_uuid}") as manager:
        volume = manager.manage_volume(volume_id, str(vdi_uuid), name=name, marked_as=marked_as)
        value = facts(manager, volume)
    tell(service, volume, value)


@click.command("volume_unmanage")
@id_argument
@service_options
def volume_unmanage(service: Service, volume_id: str) -> None:
    """Remove a volume, and keep its VDI.

    \b
    Example:
      xenvol sm volume_unmanage mail
    """
    with service.manager(f"unmanaging volume {volume_id}") as manager:
        volume = manager.get_volume(volume_id)
        manager.unmanage_volume(volume_id)
    service.terminal.result(
        {"unmanaged": True, "id": volume_id, "vdi_uuid": volume.vdi_uuid},
        f"{volume_id} is no volume any more; VDI {volume.vdi_uuid} stays, with its data",
    )


@contextmanager
def id_of_new(given: str | None) -> Iterator[str]:
    """Yield the id of the volume to make. If it is a new uuid and the command ends without an answer, the error says
    it."""
    if given is not None:
        yield given
        return
    new_id = str(uuid.uuid4())
    try:
        yield new_id
    except (XapiUnreachable, DatabaseError, KeyboardInterrupt) as error:
        error.add_note(f"its id is {new_id}: repeat the command with --id {new_id} to complete it")
        raise


def facts(manager: StorageManager, volume: Volume) -> dict[str, Any]:
    """Return the JSON of a volume."""
    (backend,) = manager.list_backends(volume.backend_id)
    return {**volume.as_dict(), "flavor": manager.flavor_of(backend).label}


def tell(service: Service, volume: Volume, value: dict[str, Any]) -> None:
    what = f"snapshot {volume.id} of {volume.snapshot_of}" if volume.is_snapshot else f"volume {volume.id}"
    service.terminal.result(
        value,
        f"{what} has {human_size(_size(volume))} on backend {volume.backend_id} of flavor {value['flavor']}",
        f"VDI {volume.vdi_uuid}",
    )


def _size(volume: Volume) -> int:
    """Return its size as it was made, or, before it is made, as it was asked for."""
    return volume.size if volume.virtual_size is None else volume.virtual_size
