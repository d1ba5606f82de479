"""How much room backends have: asked of the pool, three calls for any number of them, and kept in their rows.

The rows are what placement reads, so that it costs the same with ten backends and with a thousand. They may lag
behind: whoever places a volume finds out what is true when the storage takes it or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from xenvol.errors import XapiError
from xenvol.sm import backend_rows, flavor_rows, placement, volume_rows
from xenvol.sm.context import Context
from xenvol.sm.records import Backend, Flavor, now
from xenvol.view import Record, View

_AT_ONCE = 1000  # uuids in one filter: some 60 KB, of the 300 KB that xapi takes
_LONGEST = 1000  # letters of a problem, in its column


@dataclass(frozen=True, kw_only=True)
class BackendStats:
    """What a backend has and can do, as the pool says it now. Bytes."""

    backend: Backend
    flavor: Flavor
    volumes: int

    def as_dict(self) -> dict[str, Any]:
        return {**self.backend.as_dict(), "flavor": self.flavor.label, "volumes": self.volumes}


def refresh(context: Context, view: View, backends: Iterable[Backend]) -> list[Backend]:
    """Look at their SRs, and keep what was seen; the rows as they are then. Those without an SR are left out."""
    made = [backend for backend in backends if backend.sr_uuid is not None]
    seen = _look(view, made)
    return context.database.write(_keep, [(backend, seen[backend.id]) for backend in made])


def note(context: Context, backend: Backend, sr_rec: Record) -> None:
    """Keep the sizes of one SR that has just been read, because something was done there."""
    context.database.write(_keep, [(backend, {"features": backend.features, **_sizes(sr_rec)})])


def _keep(connection: sa.Connection, seen: list[tuple[Backend, dict[str, Any]]]) -> list[Backend]:
    flavors: dict[int, Flavor] = {}
    kept = []
    for backend, found in seen:
        values = dict(found)
        if "physical_size" in values:
            if backend.flavor_id not in flavors:
                flavors[backend.flavor_id] = flavor_rows.by_id(connection, backend.flavor_id)
            values["free"] = _free(connection, backend, flavors[backend.flavor_id], values)
        backend_rows.update(connection, backend.id, **values, stats_at=now())
        kept.append(backend_rows.get(connection, backend.id))
    return kept


def _free(connection: sa.Connection, backend: Backend, flavor: Flavor, seen: Mapping[str, Any]) -> int:
    if backend.type.luns:
        return 0  # nothing is ever placed there: `placement.obstacle` says why
    return placement.placeable(
        flavor,
        is_thin=backend.is_thin_with(seen["features"]),
        physical_size=seen["physical_size"],
        physical_utilisation=seen["physical_utilisation"],
        virtual_allocation=seen["virtual_allocation"],
        promised=volume_rows.promised(connection, backend.id),
    )


def stats(context: Context, flavor_label: str | None = None) -> list[BackendStats]:
    """Of every backend, or of a flavor's, fresh from the pool. Raises UnknownFlavor."""

    def of_flavor(connection: sa.Connection) -> tuple[list[Flavor], list[Backend]]:
        if flavor_label is None:
            return flavor_rows.all_of(connection), backend_rows.all_of(connection)
        flavor = flavor_rows.get(connection, flavor_label)
        return [flavor], backend_rows.all_of(connection, flavor_id=flavor.id)

    flavors, backends = context.database.read(of_flavor)
    by_id = {flavor.id: flavor for flavor in flavors}
    fresh = {backend.id: backend for backend in refresh(context, context.view(), backends)}

    def counted(connection: sa.Connection) -> dict[int, int]:
        return {backend.id: volume_rows.count(connection, backend.id) for backend in backends}

    counts = context.database.read(counted)
    return [
        BackendStats(
            backend=fresh.get(backend.id, backend),
            flavor=by_id[backend.flavor_id],
            volumes=counts[backend.id],
        )
        for backend in backends
    ]


def _look(view: View, backends: list[Backend]) -> dict[int, dict[str, Any]]:
    """What to write into each row: sizes and features, or the problem that keeps us from seeing them."""
    srs: dict[str, tuple[str, Record]] = {}
    plugged: dict[str, set[str]] = {}
    uuids = [backend.sr_uuid or "" for backend in backends]
    try:
        for some in (uuids[start : start + _AT_ONCE] for start in range(0, len(uuids), _AT_ONCE)):
            found = view.find("SR", {"uuid": some})
            srs |= {sr_rec["uuid"]: (ref, sr_rec) for ref, sr_rec in found.items()}
            if found:
                for pbd in view.find("PBD", {"SR": list(found), "currently_attached": True}).values():
                    plugged.setdefault(pbd["SR"], set()).add(pbd["host"])
        view.read({}, whole=["SM", "pool"])
        features = {sm["type"]: " ".join(sorted(sm["features"])) for sm in view.all("SM").values()}
        master = view.master
    except XapiError as error:
        return {backend.id: {"problem": str(error)[:_LONGEST]} for backend in backends}
    return {
        backend.id: _values(srs.get(backend.sr_uuid or ""), plugged, features, master) for backend in backends
    }


def _values(
    found: tuple[str, Record] | None,
    plugged: Mapping[str, set[str]],
    features: Mapping[str, str],
    master: str,
) -> dict[str, Any]:
    if found is None:
        return {"problem": "its SR is not known to the pool"}
    ref, sr_rec = found
    hosts = plugged.get(ref, set())
    problem = None
    if not hosts:
        problem = "its SR is plugged on no host"
    elif len(sr_rec["PBDs"]) > 1 and master not in hosts:
        problem = "its SR is not plugged on the pool's master, where everything on a shared SR is done"
    return {"problem": problem, "features": features.get(sr_rec["type"], ""), **_sizes(sr_rec)}


def _sizes(sr_rec: Record) -> dict[str, int]:
    """Of an SR that was never plugged xapi says -1 (facts/xapi.md, SR.introduce)."""
    names = ("physical_size", "physical_utilisation", "virtual_allocation")
    return {name: max(0, int(sr_rec[name])) for name in names}
