"""The Storage Manager: one volume driver for every array that XenAPI can reach.

    flavor ──has──▶ backends ──each is──▶ an SR        volume ──is──▶ a VDI of one of them ──▶ connection_info

An administrator registers backends under flavors; a volume of a flavor is made on the first backend that takes it. All
state is in the database and in the pool. So any number of managers, in several processes and on several machines, are
equal, and each can serve each request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.sm import (
    adoption,
    audit,
    backend_rows,
    backends,
    capacity,
    connections,
    copies,
    creation,
    filling,
    flavor_rows,
    flavors,
    rebuilding,
    reconfiguring,
    registration,
    scans,
    volume_rows,
    volumes,
)
from xenvol.sm.audit import AuditReport
from xenvol.sm.backends import SetupReport
from xenvol.sm.capacity import BackendStats
from xenvol.sm.context import Context, say_nothing
from xenvol.sm.database import Database
from xenvol.sm.filling import Filling
from xenvol.sm.rebuilding import RebuildReport
from xenvol.sm.records import Backend, Flavor, Volume


class StorageManager:
    """Every operation of the Storage Manager. Safe for several threads. The constructor makes no call and opens no
    connection.

    `session` comes from `xenvol.connect`, or is any object with ``.xenapi``; `database` is an SQLAlchemy URL or a
    `Database`. `create_flavor` makes a missing SQLite file; other databases get their tables by
    ``xenvol sm db_upgrade``.
    """

    def __init__(self, session: Any, database: str | Database) -> None:
        self._context = Context(
            session if isinstance(session, Session) else Session(session),
            database if isinstance(database, Database) else Database(database),
        )

    @property
    def session(self) -> Session:
        return self._context.session

    def do_setup(
        self, *, replug: bool = False, progress: Callable[[str], None] = say_nothing
    ) -> list[SetupReport]:
        """Make each backend's SR if it was never made, plug it in this pool, and see that its storage answers.

        Backends that fail are in the reports. `replug` plugs each SR anew: see `xenvol.sm.backends.set_up`.
        """
        return backends.set_up_all(self._context, replug=replug, progress=progress)

    # ---- flavors

    def create_flavor(
        self,
        label: str,
        description: str,
        *,
        policy: str = flavors.DEFAULT_POLICY,
        over_subscription: float = flavors.DEFAULT_OVER_SUBSCRIPTION,
        reserved_percentage: int = 0,
    ) -> Flavor:
        """Make a flavor, which names a quality of service.

        `policy` chooses among its backends. Thin backends may promise `over_subscription` times what they have.
        `reserved_percentage` of each backend stays free.
        """
        return flavors.create(
            self._context,
            label,
            description,
            policy=policy,
            over_subscription=over_subscription,
            reserved_percentage=reserved_percentage,
        )

    def list_flavors(self, label: str | None = None) -> list[Flavor]:
        return flavors.list_all(self._context, label)

    def delete_flavor(self, label: str) -> None:
        flavors.delete(self._context, label)

    # ---- backends

    def add_backend(
        self,
        flavor_label: str,
        sr_type: str,
        config: Mapping[str, str | Secret],
        *,
        format_device: str | None = None,
        weight: float = 1.0,
    ) -> Backend:
        """Register a backend and make its SR: see `xenvol.sm.registration.add`. Passwords must be `Secret` values."""
        return registration.add(
            self._context, flavor_label, sr_type, config, format_device=format_device, weight=weight
        )

    def list_backends(self, backend_id: int | None = None) -> list[Backend]:
        """Return all backends, or the one with this id, as the database has them. Raises UnknownBackend."""
        if backend_id is None:
            return self._context.database.read(backend_rows.all_of)
        return [self._context.database.read(backend_rows.get, backend_id)]

    def flavor_of(self, backend: Backend) -> Flavor:
        return self._context.database.read(flavor_rows.by_id, backend.flavor_id)

    def remove_backend(self, backend_id: int, *, destroy: bool = False) -> None:
        backends.remove(self._context, backend_id, destroy=destroy)

    def update_backend(
        self, backend_id: int, config: Mapping[str, str | Secret], *, weight: float | None = None
    ) -> Backend:
        """Change keys of a backend's config, such as the address of its server, and its weight: see
        `xenvol.sm.reconfiguring.update`."""
        return reconfiguring.update(self._context, backend_id, config, weight=weight)

    def set_backend_password(self, backend_id: int, key: str, value: Secret) -> None:
        """Set a new password, or one that this pool does not know yet: see `xenvol.sm.backends.set_password`."""
        backends.set_password(self._context, backend_id, key, value)

    def stats(self, flavor_label: str | None = None, *, scan: bool = False) -> list[BackendStats]:
        """Return size and features of every backend, or of one flavor's, as the pool says now.

        With `scan`, the storage is asked first (`xenvol.sm.scans`), and one that does not answer is a problem of its
        backend.
        """
        ask = partial(scans.scan_all, self._context) if scan else None
        return capacity.stats(self._context, flavor_label, ask=ask)

    # ---- volumes

    def create_volume(
        self,
        volume_id: str,
        flavor_label: str,
        size: int,
        *,
        name: str = "",
        needs: Iterable[str] = (),
        filling: Filling | None = None,
    ) -> Volume:
        """Make a volume of at least `size` bytes; `needs` are of snapshot, clone, resize, resize_online.

        With a `filling`, it holds an image before it becomes available: see `xenvol.volume_images`.
        """
        return creation.create(
            self._context, volume_id, flavor_label, size, name=name, needs=needs, filling=filling
        )

    def get_volume(self, volume_id: str) -> Volume:
        """Raises UnknownVolume."""
        return self._context.database.read(volume_rows.get, volume_id)

    def list_volumes(
        self,
        *,
        flavor_label: str | None = None,
        backend_id: int | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Volume]:
        """Return the volumes and snapshots by id, from the one after `after`. Raises UnknownFlavor, UnknownBackend."""

        def find(connection: Any) -> list[Volume]:
            flavor_id = None if flavor_label is None else flavor_rows.get(connection, flavor_label).id
            if backend_id is not None:
                backend_rows.get(connection, backend_id)
            return volume_rows.list_of(
                connection, flavor_id=flavor_id, backend_id=backend_id, after=after, limit=limit
            )

        return self._context.database.read(find)

    def delete_volume(self, volume_id: str) -> None:
        volumes.delete(self._context, volume_id)

    def extend_volume(self, volume_id: str, size: int) -> Volume:
        return volumes.extend(self._context, volume_id, size)

    def create_snapshot(self, snapshot_id: str, volume_id: str, *, name: str = "") -> Volume:
        return copies.snapshot(self._context, snapshot_id, volume_id, name=name)

    def clone_volume(
        self, volume_id: str, source_id: str, *, size: int | None = None, name: str = ""
    ) -> Volume:
        """Make a volume with the data of a volume or a snapshot."""
        return copies.clone(self._context, volume_id, source_id, size=size, name=name)

    def manage_volume(
        self, volume_id: str, vdi_uuid: str, *, name: str = "", marked_as: str | None = None
    ) -> Volume:
        """Make an existing VDI a volume. `marked_as` names the other volume that its mark says it is, if any."""
        return adoption.manage(self._context, volume_id, vdi_uuid, name=name, marked_as=marked_as)

    def unmanage_volume(self, volume_id: str) -> None:
        adoption.unmanage(self._context, volume_id)

    # ---- attaching

    def initialize_connection(
        self,
        volume_id: str,
        connector: Mapping[str, object] | None = None,
        *,
        introduce: bool = False,
        secrets: Collection[str] = (),
    ) -> dict[str, Any]:
        """Return the connection_info that `VolumeOps.attach_volume` takes, without a secret.

        For a pool that does not have the SR, `introduce` adds how to introduce it, and `secrets` names the passwords
        that may be handed out for that: see `xenvol.sm.connections.initialize`.
        """
        return connections.initialize(
            self._context, volume_id, connector, introduce=introduce, secrets=secrets
        )

    def terminate_connection(self, volume_id: str, connector: Mapping[str, object] | None = None) -> None:
        connections.terminate(self._context, volume_id, connector)

    # ---- maintenance

    def audit(
        self,
        *,
        repair: bool = False,
        scan: bool = True,
        silence: float = filling.SILENCE,
        progress: Callable[[str], None] = say_nothing,
    ) -> AuditReport:
        """Compare the database with the pool, and, with `scan`, the pool with the storage; with `repair`, complete or
        undo what a crash has left.

        A process that fills a volume with an image renews its mark every minute; after `silence` seconds without that
        it counts as dead.
        """
        return audit.audit(self._context, repair=repair, scan=scan, silence=silence, progress=progress)

    def rebuild(
        self,
        *,
        flavors_of: Mapping[str, str] | None = None,
        progress: Callable[[str], None] = say_nothing,
    ) -> RebuildReport:
        """Write the rows that the database has lost, from the pool's marks: see `xenvol.sm.rebuilding.rebuild`."""
        return rebuilding.rebuild(self._context, flavors_of=flavors_of, progress=progress)

    def __repr__(self) -> str:
        return f"<StorageManager of {self._context.session!r}, {self._context.database!r}>"
