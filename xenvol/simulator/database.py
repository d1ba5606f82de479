"""The pool's objects: rows by reference, both sides of every relation, and a stamp on every change.

A call that names its object costs the same in a pool of 100 objects and of 100,000: indexes find rows by
reference, uuid or name. The set side of a relation ("SR.VDIs") is an index of its own, never a search. The
database raises `HANDLE_INVALID` for a dead reference, and checks nothing else; the rules do.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from xenvol.simulator.changes import Change, Changes
from xenvol.simulator.datamodel import DataModel
from xenvol.simulator.failure import NULL, Failure, internal_error

Row = dict[str, Any]

_INDEXED = frozenset({"name_label", "location"})
"""Fields, besides the uuid, that have an index."""

# : The initial value of a field without a default, by the last word of its type.
_EMPTY: dict[str, Callable[[], Any]] = {
    "string": str,
    "int": int,
    "float": float,
    "bool": bool,
    "datetime": lambda: "19700101T00:00:00Z",
    "ref": lambda: NULL,
    "set": list,
    "map": dict,
    "option": lambda: None,
    "secretstring": str,
}


class Database:
    """The tables of a pool. Not thread-safe: hold the pool's lock to use it."""

    def __init__(self, model: DataModel) -> None:
        self.model = model
        self.changes = Changes(model.classes)
        self._rows: dict[str, dict[str, Row]] = {name: {} for name in model.classes}
        self._class_of: dict[str, str] = {}
        self._by_uuid: dict[tuple[str, str], str] = {}
        self._by_value: dict[tuple[str, str, str], dict[str, None]] = {}
        self._children: dict[tuple[str, str], dict[str, None]] = {}
        self._parent_sets = {(c, f): (pc, pf) for c, f, pc, pf in model.relations}
        self._child_sets = {(pc, pf): (c, f) for c, f, pc, pf in model.relations}
        self.on_change: Callable[[str, str], None] = _ignore_change

    def __getstate__(self) -> dict[str, Any]:
        """Pickle everything but the listener, which belongs to the `Xapi` around this database."""
        return {**self.__dict__, "on_change": _ignore_change}

    # ---- reading

    def __contains__(self, ref: str) -> bool:
        return ref in self._class_of

    def class_of(self, ref: str) -> str | None:
        return self._class_of.get(ref)

    def row(self, cls: str, ref: str) -> Row:
        """Return the stored fields, not a copy and without the set sides of relations, or raise HANDLE_INVALID."""
        try:
            return self._rows[cls][ref]
        except KeyError:
            raise Failure("HANDLE_INVALID", cls, ref) from None

    def exists(self, cls: str, ref: str) -> bool:
        return ref in self._rows[cls]

    def get(self, cls: str, ref: str, field: str) -> Any:
        """Return one field's value, a copy if it is a list or a map.

        The set side of a relation is newest first.
        """
        if (cls, field) in self._child_sets:
            self.row(cls, ref)
            return self.children(ref, field)[::-1]
        value = self.row(cls, ref)[field]
        return copy.copy(value) if isinstance(value, (list, dict)) else value

    def record(self, cls: str, ref: str) -> Row:
        """Return the fields that get_record returns: all that are not internal."""
        self.row(cls, ref)
        fields = self.model.classes[cls].fields.values()
        return {field.name: self.get(cls, ref, field.name) for field in fields if not field.internal_only}

    def children(self, ref: str, field: str) -> list[str]:
        """Return the set side of a relation, oldest member first: ``children(sr, "VDIs")``."""
        return list(self._children.get((ref, field), ()))

    def each_child(self, ref: str, field: str) -> Iterator[str]:
        """Iterate over `children` without a copy, for a caller that reads a few and changes none."""
        return iter(self._children.get((ref, field), ()))

    def pointing_at(self, cls: str, field: str, target: str) -> list[str] | None:
        """Return the objects of a class whose field holds that reference; None if no index covers the field."""
        parent = self._parent_sets.get((cls, field))
        return None if parent is None else self.children(target, parent[1])

    def refs(self, cls: str) -> list[str]:
        return list(self._rows[cls])

    def first(self, cls: str) -> str | None:
        """Return the oldest object of a class; for ``pool`` that is the pool."""
        return next(iter(self._rows[cls]), None)

    def count(self, cls: str) -> int:
        return len(self._rows[cls])

    def by_uuid(self, cls: str, object_uuid: str) -> str | None:
        return self._by_uuid.get((cls, object_uuid.lower()))

    def by_name(self, cls: str, name_label: str) -> list[str]:
        return list(self._by_value.get((cls, "name_label", name_label), ()))

    def by_location(self, location: str) -> list[str]:
        """Return the VDIs at that location, of any SR."""
        return list(self._by_value.get(("VDI", "location", location), ()))

    # ---- writing

    def create(self, cls: str, /, *, ref: str | None = None, **values: Any) -> str:
        """Create an object; a missing value is the field's default, uuid and reference are random."""
        ref = ref or f"OpaqueRef:{uuid.uuid4()}"
        row: Row = {}
        for field in self.model.classes[cls].fields.values():
            if (cls, field.name) in self._child_sets:
                continue
            if field.name in values:
                row[field.name] = _stored(values[field.name])
            elif field.has_default:
                row[field.name] = copy.deepcopy(field.default)
            else:
                row[field.name] = self._empty(field.type)
        if "uuid" in row and not row["uuid"]:
            row["uuid"] = str(uuid.uuid4())
        if "uuid" in row and (cls, row["uuid"].lower()) in self._by_uuid:
            raise internal_error(f'Db_exn.Uniqueness_constraint_violation("{cls}", "uuid", "{row["uuid"]}")')
        self._rows[cls][ref] = row
        self._class_of[ref] = cls
        if "uuid" in row:
            self._by_uuid[cls, row["uuid"].lower()] = ref
        for field_name in _INDEXED & row.keys():
            self._index(cls, field_name, ref, None, row[field_name])
        self._touch(cls, ref, is_new=True)
        for field_name in row:
            self._link(cls, ref, field_name, None, row[field_name])
        return ref

    def set(self, cls: str, ref: str, **changes: Any) -> None:
        """Change fields of one object; setting the same value again makes no event."""
        row = self.row(cls, ref)
        for name, value in changes.items():
            before = row[name]
            value = _stored(value)
            if before == value and type(before) is type(value):
                continue
            if name in _INDEXED:
                self._index(cls, name, ref, before, value)
            elif name == "uuid":
                del self._by_uuid[cls, before.lower()]
                self._by_uuid[cls, value.lower()] = ref
            row[name] = value
            self._touch(cls, ref)
            self._link(cls, ref, name, before, value)
            if (cls, name) in self._parent_sets:
                self._move_up(cls, ref)

    def delete(self, cls: str, ref: str) -> None:
        """Delete an object; rows that refer to it keep a dangling reference, as in xapi."""
        row = self.row(cls, ref)
        for name, value in row.items():
            self._link(cls, ref, name, value, None)
        del self._rows[cls][ref], self._class_of[ref]
        if "uuid" in row:
            del self._by_uuid[cls, row["uuid"].lower()]
        for field_name in _INDEXED & row.keys():
            self._index(cls, field_name, ref, row[field_name], None)
        self._touch(cls, ref, deleted=True)

    def map_add(self, cls: str, ref: str, field: str, key: str, value: Any) -> None:
        """Set a key of a map field, replacing an old value. (The rule for add_to_ checks for one first.)"""
        self.set(cls, ref, **{field: {**self.get(cls, ref, field), key: value}})

    def map_remove(self, cls: str, ref: str, field: str, key: str) -> None:
        self.set(cls, ref, **{field: {k: v for k, v in self.get(cls, ref, field).items() if k != key}})

    @property
    def stamp(self) -> int:
        """The stamp of the latest change; it grows with every change."""
        return self.changes.stamp

    def last_change(self, cls: str, ref: str) -> Change | None:
        """Return the latest change of an object; None if the object never existed or its deletion is forgotten."""
        return self.changes.last(cls, ref)

    def touch(self, cls: str, ref: str) -> None:
        """Mark an object as changed although no stored field is (event.inject)."""
        self._touch(cls, ref)

    # ---- inside

    def _empty(self, type_name: str) -> Any:
        if type_name.startswith("enum ") and not type_name.endswith((" set", " map")):
            return self.model.enums[type_name.removeprefix("enum ")][0]
        return _EMPTY[type_name.rsplit(" ", 1)[-1]]()

    def _touch(self, cls: str, ref: str, *, is_new: bool = False, deleted: bool = False) -> None:
        self.changes.note(cls, ref, is_new=is_new, deleted=deleted)
        self.on_change(cls, ref)

    def _index(self, cls: str, field: str, ref: str, before: str | None, after: str | None) -> None:
        """Move an object from one value of an indexed field to another; None means no value."""
        if before is not None:
            same = self._by_value[cls, field, before]
            del same[ref]
            if not same:
                del self._by_value[cls, field, before]
        if after is not None:
            self._by_value.setdefault((cls, field, after), {})[ref] = None

    def _link(self, cls: str, ref: str, field: str, before: Any, after: Any) -> None:
        """Update the other side of a relation, and mark the parents as changed."""
        if (parent := self._parent_sets.get((cls, field))) is None:
            return
        parent_cls, parent_field = parent
        for target in _targets(before):
            members = self._children.get((target, parent_field), {})
            members.pop(ref, None)
            if not members:
                self._children.pop((target, parent_field), None)
            if self.exists(parent_cls, target):
                self._touch(parent_cls, target)
        for target in _targets(after):
            self._children.setdefault((target, parent_field), {})[ref] = None
            if self.exists(parent_cls, target):
                self._touch(parent_cls, target)

    def _move_up(self, cls: str, ref: str) -> None:
        """Make the object the newest in its other relations too, as a change of one relation does (trace 04#271)."""
        for (child, field), (_, parent_field) in self._parent_sets.items():
            if child == cls:
                for target in _targets(self._rows[cls][ref].get(field)):  # an old release lacks some fields
                    members = self._children[target, parent_field]
                    del members[ref]
                    members[ref] = None


def _ignore_change(cls: str, ref: str) -> None:
    """Ignore the change: the listener of a database that has none."""


_NO_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def _stored(value: Any) -> Any:
    """Return a copy for the database; strings end before the first character that XML cannot hold, as in xapi."""
    if isinstance(value, str):
        found = _NO_XML.search(value)
        return value if found is None else value[: found.start()]
    if isinstance(value, list):
        return [_stored(item) for item in value]
    if isinstance(value, dict):
        return {_stored(key): _stored(item) for key, item in value.items()}
    return copy.deepcopy(value)


def _targets(value: Any) -> list[str]:
    """Return the references in one side of a relation: one, several or none."""
    if value is None or value == NULL:
        return []
    return [value] if isinstance(value, str) else list(value)
