"""`xenvol sm`: the Storage Manager's commands, with the names and the argument order of ``nova-manage sm``.

Each calls one method of `xenvol.sm.StorageManager`. Only the commands need the extra `sm`; this table and the help do
not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import click

from xenvol.cli.group import Commands, Entry

COMMANDS: Mapping[str, Entry] = {
    name: Entry(f"xenvol.cli.sm.{module}:{name}", about, "sm")
    for module, name, about in (
        ("flavors", "flavor_list", "List the flavors, or show one."),
        ("flavors", "flavor_create", "Make a flavor: a name for a quality of service."),
        ("flavors", "flavor_delete", "Delete a flavor that has no backends."),
        ("backends", "backend_list", "List the backends, or show one."),
        ("backends", "backend_add", "Register a backend under a flavor, and make its SR."),
        ("backends", "backend_update", "Change how hosts reach a backend's SR, or its weight."),
        ("backends", "backend_remove", "Take a backend out of its flavor, and its SR out of the pool."),
        ("backends", "backend_password", "Set a password of a backend in this pool."),
        ("volumes", "volume_create", "Make a volume on the first backend of a flavor that takes it."),
        ("volumes", "volume_list", "List the volumes and snapshots."),
        ("volumes", "volume_show", "Show a volume or a snapshot."),
        ("volumes", "volume_extend", "Make a volume larger."),
        ("volumes", "volume_snapshot", "Make a snapshot of a volume."),
        ("volumes", "volume_clone", "Make a volume with the data of a volume or a snapshot."),
        ("volumes", "volume_delete", "Erase a volume or a snapshot."),
        ("volumes", "volume_connection", "Print the connection_info with which a volume is attached."),
        ("images", "volume_create_from_image", "Make a volume that holds an image."),
        ("images", "volume_fill", "Write an image over an existing volume."),
        ("images", "volume_to_image", "Write a volume or a snapshot to an image."),
        ("volumes", "volume_manage", "Make an existing VDI a volume."),
        ("volumes", "volume_unmanage", "Remove a volume, and keep its VDI."),
        ("upkeep", "setup", "Make and plug every backend's SR, as a service does when it starts."),
        ("upkeep", "stats", "Show the sizes, the free room and the features of the backends."),
        ("upkeep", "audit", "Compare the database with the pool, and repair what a crash has left."),
        ("upkeep", "rebuild", "Write a lost database anew, from the marks that the pool has."),
        ("upkeep", "db_upgrade", "Make the database's tables, or upgrade them to this release."),
    )
}


class StorageManagerCommands(Commands):
    entries = COMMANDS
    aliases: ClassVar[Mapping[str, str]] = {"backend-delete": "backend_remove"}  # as nova's documents call it
    elsewhere: ClassVar[Mapping[str, str]] = {  # the last is from nova's and cinder's `db sync`
        "backend-create": "backend_add",
        "db-sync": "db_upgrade",
    }


@click.group("sm", cls=StorageManagerCommands)
def sm() -> None:
    """Make volumes on SRs of any type: flavors, backends and volumes.

    An administrator registers backends under flavors: a backend is an SR, and how to connect to it. A volume of a
    flavor is made on the first of its backends that takes it. To attach it, give the output of volume_connection
    to `xenvol attach`. Flavors, backends and volumes are stored in a database, which several machines can share
    (--database). Default: a SQLite file of the user.

    \b
    Example:
      xenvol sm flavor_create gold "backups are possible"
      xenvol sm backend_add gold nfs server=10.0.0.2 serverpath=/vols
      xenvol sm volume_create gold 10 --id mail
      xenvol sm volume_connection mail | xenvol attach - web
      xenvol sm stats --json
    """
