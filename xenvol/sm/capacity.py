"""The room of backends: read from the pool, with a few calls for any number of backends, and stored in their rows.

After a scan, the ``virtual_allocation`` of an SR with snapshots also counts the hidden base copies under them, which
nothing will fill. So what a thin backend has promised is the sum over its managed disks. The rows of its volumes have
that sum too. Only if the SR says something else are the disks themselves read.

Placement reads the rows, so it costs the same with ten backends and with a thousand. The rows may be stale: the storage
has the last word when it takes a volume, or refuses it.

What is read from the pool is old when it is written, since other services make and delete volumes meanwhile. So the row
comes first, with the room that is promised to volumes in the making; then the pool is read; then `free` is written,
only if no service has changed it, or written a reading of its own, since the row was read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from xenvol.errors import XapiError
from xenvol.pool.view import Record, View
from xenvol.sm import backend_rows, flavor_rows, placement, volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import UnknownBackend
from xenvol.sm.records import Backend, Flavor, now
from xenvol.sm.tables import backends as backend_table
from xenvol.sm.tables import moment
from xenvol.sm.tables import volumes as volume_table

T = TypeVar("T")

_AT_ONCE = 1000  # ids in one statement, and uuids in one filter: some 60 KB of the 300 KB that xapi accepts
_LONGEST = 1000  # characters of a problem that fit into its column
_SLACK = 0.01  # of a backend's size: a smaller gain waits for the next reading, and costs no call now

Asking = Callable[[Collection[Backend]], Mapping[int, str]]
Seen = dict[str, Any]
"""What a reading of the pool gives for a backend's row: the names in `_SEEN`, or only the problem."""
_SEEN = ("problem", "features", "physical_size", "physical_utilisation", "virtual_allocation")
_IS_AS_BEFORE = sa.and_(
    backend_table.c.free == sa.bindparam("free_before", type_=sa.BigInteger),
    backend_table.c.stats_at.is_not_distinct_from(sa.bindparam("stats_at_before", type_=moment())),
)
_KEEP = (
    backend_table.update()
    .where(backend_table.c.id == sa.bindparam("its_id"))
    .values(
        free=sa.case(
            (_IS_AS_BEFORE, sa.bindparam("free_seen", type_=sa.BigInteger)), else_=backend_table.c.free
        ),
        **{name: sa.bindparam(f"{name}_seen") for name in (*_SEEN, "stats_at")},
    )
)


@dataclass(frozen=True, kw_only=True)
class BackendStats:
    """What a backend has and can do, as the pool says now. Sizes are bytes."""

    backend: Backend
    flavor: Flavor
    volumes: int

    def as_dict(self) -> dict[str, Any]:
        return {**self.backend.as_dict(), "flavor": self.flavor.label, "volumes": self.volumes}


@dataclass(frozen=True)
class _Before:
    """A backend before the reading. `promised` bytes go to volumes that the reading may not show yet; `made` bytes have
    the disks of its volumes."""

    backend: Backend
    flavor: Flavor
    promised: int
    made: int


def refresh(
    context: Context, view: View, backends: Iterable[Backend], *, problems: Mapping[int, str] | None = None
) -> list[Backend]:
    """Read the SRs of backends, store their sizes, and return the new rows.

    `problems` has what the caller has found out about the storage of some, by their ids. Backends without an SR, and
    backends that were removed meanwhile, are left out. Raises UnknownBackend if all of them were removed.
    """
    backends = list(backends)
    kept = _refresh(context, view, backends, problems or {})
    if not kept:
        for backend in backends:
            if backend.sr_uuid is not None:
                raise UnknownBackend(backend.id)
    return kept


def note(context: Context, backend: Backend, sr_rec: Record) -> None:
    """Store the sizes of one SR that was just read after a change.

    `backend` is the row as it was before that read. The SR is read again if another service has stored a reading since,
    or if there seems to be much more room than the row says: a volume that was made between the two would be missed.
    """
    if context.database.write(_note, backend, _sizes(sr_rec)):
        return
    before = context.database.read(_before, [backend.id])
    view = context.view()
    for ref, now_rec in view.find("SR", {"uuid": backend.sr_uuid or ""}).items():
        seen = {backend.id: {"features": backend.features, **_sizes(now_rec)}}
        _count_disks(view, before, seen, {backend.id: ref})
        context.database.write(_keep, before, seen)


def stats(
    context: Context, flavor_label: str | None = None, *, ask: Asking | None = None
) -> list[BackendStats]:
    """Return the numbers of every backend, or of one flavor's, fresh from the pool. Raises UnknownFlavor.

    `ask` asks the storage of backends first, and returns what is wrong with it, by their ids.
    """

    def of_flavor(connection: sa.Connection) -> tuple[list[Flavor], list[Backend]]:
        if flavor_label is None:
            return flavor_rows.all_of(connection), backend_rows.all_of(connection)
        flavor = flavor_rows.get(connection, flavor_label)
        return [flavor], backend_rows.all_of(connection, flavor_id=flavor.id)

    flavors, backends = context.database.read(of_flavor)
    by_id = {flavor.id: flavor for flavor in flavors}
    problems = ask(backends) if ask is not None else {}
    fresh = {backend.id: backend for backend in _refresh(context, context.view(), backends, problems)}
    shown = [fresh.get(backend.id, backend) for backend in backends]
    counts = context.database.read(_of_volumes, [backend.id for backend in shown], sa.func.count())
    return [
        BackendStats(backend=backend, flavor=by_id[backend.flavor_id], volumes=counts.get(backend.id, 0))
        for backend in shown
    ]


def _refresh(
    context: Context, view: View, backends: Collection[Backend], problems: Mapping[int, str]
) -> list[Backend]:
    made = [backend.id for backend in backends if backend.sr_uuid is not None]
    if not made:
        return []
    before = context.database.read(_before, made)
    seen = _read_pool(view, before)
    for backend_id, problem in problems.items():
        if backend_id in seen:
            seen[backend_id]["problem"] = seen[backend_id]["problem"] or problem[:_LONGEST]
    return context.database.write(_keep, before, seen)


def _before(connection: sa.Connection, backend_ids: list[int]) -> list[_Before]:
    """Return the backends that still exist, by id, each with its flavor and its promised room."""
    backends = _rows(connection, backend_ids)  # first, so that room taken in between counts in `promised`
    flavors = {
        flavor_id: flavor_rows.by_id(connection, flavor_id)
        for flavor_id in {backend.flavor_id for backend in backends}
    }
    cost = sa.func.sum(volume_table.c.cost)
    promised = _of_volumes(connection, backend_ids, cost, volume_rows.PROMISED)
    size = sa.func.coalesce(sa.func.sum(volume_table.c.virtual_size), 0)
    made = _of_volumes(connection, backend_ids, size, volume_table.c.vdi_uuid.is_not(None))
    return [
        _Before(backend, flavors[backend.flavor_id], promised.get(backend.id, 0), made.get(backend.id, 0))
        for backend in backends
    ]


def _keep(connection: sa.Connection, before: list[_Before], seen: Mapping[int, Seen]) -> list[Backend]:
    rows, seen_at = [], now()
    for each in before:
        backend = each.backend
        values = {name: seen[backend.id].get(name, getattr(backend, name)) for name in _SEEN}
        free = backend.free
        if "physical_size" in seen[backend.id]:
            free = _free(backend, each.flavor, values, each.promised)
        told = {"free": free, "stats_at": seen_at, **values}
        rows.append(
            {
                "its_id": backend.id,
                "free_before": backend.free,
                "stats_at_before": backend.stats_at,
                **{f"{name}_seen": value for name, value in told.items()},
            }
        )
    if rows:
        connection.execute(_KEEP, rows)
    return _rows(connection, [each.backend.id for each in before])


def _note(connection: sa.Connection, backend: Backend, sizes: Seen) -> bool:
    """Store the sizes. Return False if another reading was stored since the backend was read, or if `free` would
    grow."""
    try:
        there = backend_rows.get(connection, backend.id, lock=True)  # from here on no service takes room
    except UnknownBackend:  # removed meanwhile: nothing to store
        return True
    if there.stats_at != backend.stats_at:
        return False
    flavor = flavor_rows.by_id(connection, there.flavor_id)
    promised, made = volume_rows.promised(connection, there.id), volume_rows.made(connection, there.id)
    # the SR counts base copies too, or has disks of others: at least `made` is promised, and the next reading tells
    is_exact = sizes["virtual_allocation"] == made or not there.is_thin
    free = _free(there, flavor, {"features": there.features, **sizes, "virtual_allocation": made}, promised)
    if is_exact and free - there.free > sizes["physical_size"] * _SLACK:
        return False
    if not is_exact:
        sizes = {**sizes, "virtual_allocation": there.virtual_allocation}
    backend_rows.update(connection, there.id, **sizes, free=min(free, there.free), stats_at=now())
    return True


def _free(backend: Backend, flavor: Flavor, seen: Mapping[str, Any], promised: int) -> int:
    if backend.type.luns:
        return 0  # no volume is ever placed there: see `placement.obstacle`
    return placement.placeable(
        flavor,
        is_thin=backend.is_thin_with(seen["features"]),
        physical_size=seen["physical_size"],
        physical_utilisation=seen["physical_utilisation"],
        virtual_allocation=seen["virtual_allocation"],
        promised=promised,
    )


def _rows(connection: sa.Connection, backend_ids: list[int]) -> list[Backend]:
    query = sa.select(backend_table).where(backend_table.c.deleted == 0).order_by(backend_table.c.id)
    return [
        Backend.of(row)
        for batch in _batches(backend_ids)
        for row in connection.execute(query.where(backend_table.c.id.in_(batch)))
    ]


def _of_volumes(
    connection: sa.Connection,
    backend_ids: list[int],
    what: sa.ColumnElement[Any],
    *which: sa.ColumnElement[bool],
) -> dict[int, int]:
    """Return a sum or a count over the volumes of each backend that has any. An index serves it."""
    owner = volume_table.c.backend_id
    query = sa.select(owner, what).where(volume_table.c.deleted == 0, *which).group_by(owner)
    return {
        backend_id: int(number)
        for batch in _batches(backend_ids)
        for backend_id, number in connection.execute(query.where(owner.in_(batch)))
    }


def _read_pool(view: View, before: list[_Before]) -> dict[int, Seen]:
    """Return what to write into each row."""
    backends = [each.backend for each in before]
    srs: dict[str, tuple[str, Record]] = {}
    plugged: dict[str, set[str]] = {}
    uuids = [backend.sr_uuid or "" for backend in backends]
    try:
        for batch in _batches(uuids):
            found = view.find("SR", {"uuid": batch})
            srs |= {sr_rec["uuid"]: (ref, sr_rec) for ref, sr_rec in found.items()}
            if found:
                for pbd in view.find("PBD", {"SR": list(found), "currently_attached": True}).values():
                    plugged.setdefault(pbd["SR"], set()).add(pbd["host"])
        view.read_with_drivers({}, whole=["pool"])
        drivers = {kind: view.driver_of(kind) for kind in {sr_rec["type"] for _, sr_rec in srs.values()}}
        features = {kind: " ".join(sorted(sm["features"])) for kind, sm in drivers.items() if sm is not None}
        master = view.master
        seen = {
            backend.id: _values(srs.get(backend.sr_uuid or ""), plugged, features, master)
            for backend in backends
        }
        refs = {each.id: srs[each.sr_uuid][0] for each in backends if each.sr_uuid in srs}
        _count_disks(view, before, seen, refs)
    except XapiError as error:
        return {backend.id: {"problem": str(error)[:_LONGEST]} for backend in backends}
    return seen


def _count_disks(
    view: View, before: list[_Before], seen: Mapping[int, Seen], sr_refs: Mapping[int, str]
) -> None:
    """Set what each thin backend promises: the sum over the managed disks, and not the hidden base copies.

    If the SR promises just what the backend's volumes have, it has no other disks.
    """
    unclear = {
        sr_refs[each.backend.id]: each.backend.id
        for each in before
        if each.backend.id in sr_refs
        and each.backend.is_thin_with(seen[each.backend.id]["features"])
        and seen[each.backend.id]["virtual_allocation"] != each.made
    }
    for batch in _batches(list(unclear)):
        sums = dict.fromkeys(batch, 0)
        for vdi in view.find("VDI", {"SR": batch, "managed": True}).values():
            sums[vdi["SR"]] += int(vdi["virtual_size"])
        for ref, total in sums.items():
            seen[unclear[ref]]["virtual_allocation"] = total


def _values(
    found: tuple[str, Record] | None,
    plugged: Mapping[str, set[str]],
    features: Mapping[str, str],
    master: str,
) -> Seen:
    if found is None:
        return {"problem": "its SR is not known to the pool"}
    ref, sr_rec = found
    hosts = plugged.get(ref, set())
    problem = None
    if not hosts:
        problem = "its SR is plugged on no host"
    elif len(sr_rec["PBDs"]) > 1 and master not in hosts:
        problem = "its SR is not plugged on the pool's master, which does the work on a shared SR"
    told = features.get(sr_rec["type"], "")
    if sr_rec["sm_config"].get("allocation") == "thin":  # an SR on LVM: its driver can do both
        told += " THIN_PROVISIONING"
    return {"problem": problem, "features": told, **_sizes(sr_rec)}


def _sizes(sr_rec: Record) -> dict[str, int]:
    """Return the sizes of an SR. An SR that was never plugged has -1 (docs/background/xapi.md, SR.introduce): 0
    here."""
    names = ("physical_size", "physical_utilisation", "virtual_allocation")
    return {name: max(0, int(sr_rec[name])) for name in names}


def _batches(items: list[T]) -> Iterator[list[T]]:
    return (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
