"""`xenvol sm`: the Storage Manager's commands, by the names and in the order of arguments of ``nova-manage sm``.

Each is one call of `xenvol.sm.StorageManager`. Only they need the extra `sm`; this table and its help do not.
"""

from __future__ import annotations

from collections.abc import Mapping

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
        ("backends", "backend_remove", "Take a backend out of its flavor, and its SR out of the pool."),
        ("backends", "backend_password", "Tell this pool a password of a backend."),
        ("volumes", "volume_create", "Make a volume on the first backend of a flavor that takes it."),
        ("volumes", "volume_list", "List the volumes and snapshots."),
        ("volumes", "volume_show", "Show a volume or a snapshot."),
        ("volumes", "volume_extend", "Make a volume larger."),
        ("volumes", "volume_snapshot", "Keep what a volume holds now."),
        ("volumes", "volume_clone", "Make a volume with what a volume, or a snapshot, holds."),
        ("volumes", "volume_delete", "Erase a volume or a snapshot."),
        ("volumes", "volume_connection", "Print the connection_info with which a volume is attached."),
        ("images", "volume_create_from_image", "Make a volume that holds an image."),
        ("images", "volume_fill", "Write an image over a volume that is there."),
        ("images", "volume_to_image", "Write what a volume, or a snapshot, holds to an image."),
        ("volumes", "volume_manage", "Make a disk that is there a volume."),
        ("volumes", "volume_unmanage", "Let go of a volume, and keep its disk."),
        ("upkeep", "setup", "Have every backend's SR made and plugged, as a service does when it starts."),
        ("upkeep", "stats", "Show what the backends have, what is left, and what they can do."),
        ("upkeep", "audit", "Hold database and pool against each other, and mend what a crash has left."),
        ("upkeep", "db_upgrade", "Make the database's tables, or bring them to this release."),
    )
}


class StorageManagerCommands(Commands):
    entries = COMMANDS
    elsewhere = {  # nova's documents had the first, its db and cinder's have the last
        "backend-delete": "backend_remove",
        "backend-create": "backend_add",
        "db-sync": "db_upgrade",
    }


@click.group("sm", cls=StorageManagerCommands)
def sm() -> None:
    """Make volumes on SRs of any type: flavors, backends and volumes.

    An administrator registers backends under flavors: each backend is an SR, and how to connect to it. A volume
    of a flavor is made on the first of its backends that takes it. To attach it, hand what volume_connection
    prints to `xenvol attach`. Flavors, backends and volumes are kept in a database, which any number of
    machines may share (--database); without one, in a file of yours.

    \b
    Example:
      xenvol sm flavor_create gold "backups are possible"
      xenvol sm backend_add gold nfs server=10.0.0.2 serverpath=/vols
      xenvol sm volume_create gold 10 --id mail
      xenvol sm volume_connection mail | xenvol attach - web
      xenvol sm stats --json
    """
