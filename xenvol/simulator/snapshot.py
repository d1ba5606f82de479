"""The state of a pool and its hosts' storage at one moment, and the differences between two of them as text.

A snapshot holds every stored field of every object, and each host's log-ins and mounts. A comparison leaves
out what changes by itself (`VOLATILE`): a pool that is restored compares as equal.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.failure import NULL
from xenvol.simulator.storage_state import storage_state
from xenvol.simulator.xapi import Xapi

VOLATILE = {
    "session": "clients come and go",
    "task": "xapi keeps finished ones for an hour",
    "message": "a log for people, it only grows",
    "*.current_operations": "names the tasks under way",
    "host_metrics.last_updated": "a clock",
    "VM_metrics.last_updated": "a clock",
    "VM_metrics.VCPUs_utilisation": "a measurement; its keys are numbers, which JSON does not have",
    "VM_guest_metrics.last_updated": "a clock",
    "VBD_metrics.last_updated": "a clock",
    "host.software_version": "holds the date of start",
    "pool.telemetry_next_collection": "a clock",
    "VM.other_config.storage_driver_domain": "of a control domain: xapi notes which PBD it plugged last",
    "VDI.other_config.content_id": "xapi writes a new one each time a disk is released",
    "VDI.sm_config.read-caching-*": "the storage manager writes it at times of its own",
}
"""What a comparison leaves out, and why: patterns of ``class``, ``class.field`` and ``class.field.key``."""

Key = tuple[str, str]
"""Class and reference."""


@dataclass(frozen=True)
class Snapshot:
    """A state; two are equal if nothing relevant differs, and `difference` lists what does."""

    objects: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Class -> reference -> stored fields, without the set sides of relations."""
    storage: Mapping[str, Any]
    """The content of the hosts' and servers' storage: a tree of plain values."""

    def difference(self, later: Snapshot, ignore: Iterable[str] = ()) -> list[str]:
        """Return the changes from this snapshot to the later one, one per line.

        ``ignore`` has more patterns like those of `VOLATILE`: ``VDI``, ``VM.user_version``, ``storage.*``.
        """
        ignored = (*VOLATILE, *ignore)
        names = _Names(self, later)
        lines = []
        for cls in sorted({*self.objects, *later.objects}):
            if _matches(cls, ignored):
                continue
            before, after = self.objects.get(cls, {}), later.objects.get(cls, {})
            for ref in before:
                if ref not in after:
                    lines.append(f"{names.of(cls, ref)} is gone")
            for ref, row in after.items():
                if ref not in before:
                    lines.append(f"{names.of(cls, ref)} is new{_links(row, names)}")
                elif row != before[ref]:
                    lines += _field_changes(cls, ref, before[ref], row, names, ignored)
        for path, old, new in _tree_changes("storage", self.storage, later.storage):
            if not _matches(path, ignored):
                lines.append(f"{path}: {_change(old, new, names)}")
        return lines

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and not self.difference(other)

    __hash__ = None  # type: ignore[assignment]  # equality leaves out volatile fields

    def __repr__(self) -> str:
        return f"<Snapshot of {sum(map(len, self.objects.values()))} objects>"

    def as_json(self) -> dict[str, Any]:
        return {"objects": self.objects, "storage": self.storage}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Snapshot:
        """Read a snapshot; ValueError for other data."""
        if not isinstance(data, Mapping) or not all(
            isinstance(data.get(k), dict) for k in ("objects", "storage")
        ):
            raise ValueError(
                'a snapshot has the keys "objects" and "storage", as in the answer of GET /simulator/snapshot'
            )
        return cls(data["objects"], data["storage"])


def take(xapi: Xapi) -> Snapshot:
    """Copy the pool's state while no call changes it."""
    with xapi.lock:
        db = xapi.db
        objects = {
            cls: {ref: dict(db.row(cls, ref)) for ref in db.refs(cls)}
            for cls in db.model.classes
            if db.count(cls) and cls not in VOLATILE
        }
        return Snapshot(objects, storage_state(xapi.world))


class _Names:
    """The names of objects in a line: class and name, or class and uuid."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._rows: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for snapshot in snapshots:
            for cls, rows in snapshot.objects.items():
                self._rows.update((ref, (cls, row)) for ref, row in rows.items())

    def of(self, cls: str, ref: str) -> str:
        row = self._rows[ref][1] if ref in self._rows else {}
        name = f'"{row["name_label"]}"' if row.get("name_label") else ""
        return " ".join(filter(None, (cls, name, row.get("uuid") if not name else f"({row.get('uuid')})")))

    def value(self, value: Any) -> str:
        """Return a field's value, with references as names."""
        if isinstance(value, str):
            if value in self._rows:
                return self.of(self._rows[value][0], value)
            return value if value.startswith("OpaqueRef:") else f'"{value}"'
        if isinstance(value, list):
            return f"[{', '.join(map(self.value, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self.value(item)}' for key, item in value.items())}}}"
        return str(value).lower() if isinstance(value, bool) else str(value)


_LINKS = ("SR", "VDI", "VM", "host")
"""Fields that identify a new object without a name."""


def _links(row: Mapping[str, Any], names: _Names) -> str:
    links = [names.value(row[field]) for field in _LINKS if row.get(field) not in (None, NULL)]
    return f": {', '.join(links)}" if links else ""


def _field_changes(
    cls: str,
    ref: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    names: _Names,
    ignored: Iterable[str],
) -> Iterator[str]:
    for field in {**before, **after}:
        old, new = before.get(field), after.get(field)
        if isinstance(old, list) and isinstance(new, list):  # sets have no order in xapi
            if sorted(map(str, old)) == sorted(map(str, new)):
                continue
        elif old == new:
            continue
        if _matches(f"{cls}.{field}", ignored):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            old, new = (_without(f"{cls}.{field}", value, ignored) for value in (old, new))
            if old == new:
                continue
        if (cls, field) == ("secret", "value"):
            yield f"{names.of(cls, ref)}: value: changed"
        else:
            yield f"{names.of(cls, ref)}: {field}: {_change(old, new, names)}"


def _without(where: str, value: dict[str, Any], ignored: Iterable[str]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if not _matches(f"{where}.{key}", ignored)}


def _change(old: Any, new: Any, names: _Names) -> str:
    """Return ``old → new``; for two maps only the keys that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        absent = "absent"
        return ", ".join(
            f"[{key}] {names.value(old[key]) if key in old else absent} → "
            f"{names.value(new[key]) if key in new else absent}"
            for key in keys
        )
    if isinstance(old, _Absent) or isinstance(new, _Absent):
        return f"{old if isinstance(old, _Absent) else names.value(old)} → " + (
            str(new) if isinstance(new, _Absent) else names.value(new)
        )
    return f"{names.value(old)} → {names.value(new)}"


class _Absent:
    def __str__(self) -> str:
        return "absent"


def _tree_changes(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the leaves that differ, each with its path."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _tree_changes(f"{path}.{key}", old.get(key, _Absent()), new.get(key, _Absent()))
    elif isinstance(old, _Absent) or isinstance(new, _Absent) or old != new:
        yield path, old, new


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
