"""The classes of XenAPI as a table: fields, types, defaults, messages.

The table ships as ``data/datamodel.json``, without the messages that follow from the fields. A `DataModel` is
that table for one release of xapi.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Value = Any
"""A value of a field: str, int, float, bool, list, dict, or a reference (str)."""


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: str
    qualifier: str
    """``RW``, ``RO/constructor`` or ``RO/runtime``."""
    has_default: bool
    default: Value
    internal_only: bool
    db_name: str
    """The field's name in the database and in queries: ``name__label`` for ``name_label``."""
    state: str


@dataclass(frozen=True, slots=True)
class Param:
    name: str
    type: str
    required: bool
    default: Value


@dataclass(frozen=True, slots=True)
class Message:
    cls: str
    name: str
    params: tuple[Param, ...]
    """The parameters, without the session."""
    takes_session: bool
    result: str
    is_async: bool
    state: str
    intra_pool_only: bool

    @property
    def full_name(self) -> str:
        return f"{self.cls}.{self.name}"

    @property
    def required(self) -> int:
        return sum(param.required for param in self.params)


@dataclass(frozen=True, slots=True)
class Class:
    name: str
    fields: dict[str, Field]
    messages: dict[str, Message]
    has_events: bool
    constructor: dict[str, Field]
    """The keys that a ``create`` record may have; a key without a default is required."""


@dataclass(frozen=True, slots=True)
class DataModel:
    version: str
    """The release of xapi, ``24.16.0``."""
    classes: dict[str, Class]
    enums: dict[str, tuple[str, ...]]
    relations: tuple[tuple[str, str, str, str], ...]
    """(child class, its field, parent class, its set): ``("VDI", "SR", "SR", "VDIs")``."""

    wire_names: dict[str, Message]
    """Every spelling of every message: ``VM.start`` and ``VM_start``."""

    @property
    def release(self) -> tuple[int, ...]:
        """The release as numbers: ``(24, 16, 0)``."""
        return _release(self.version)

    def event_classes(self, name: str) -> tuple[str, ...]:
        """Return the classes with events that have this name in lower case; all of them for an empty name."""
        return _event_classes(self.version).get(name, ())


def _release(since: str) -> tuple[int, ...]:
    """Parse a release; a code name counts as 0, because all code names are older than the releases served here."""
    head = since.split("-")[0]
    return tuple(map(int, head.split("."))) if head[:1].isdigit() and head.count(".") == 2 else (0,)


@functools.cache
def load(version: str) -> DataModel:
    """Return the data model of that xapi release: classes, fields and messages that are newer are left out."""
    table = json.loads(
        (importlib.resources.files("xenvol.simulator") / "data" / "datamodel.json").read_text("utf-8")
    )
    release = _release(version)
    with_get_all = set(table["classes_with_get_all"])
    classes = {
        name: _class(name, entry, release, has_get_all=name in with_get_all)
        for name, entry in table["classes"].items()
        if _release(entry["since"]) <= release
    }
    relations = tuple(tuple(row) for row in table["relations"])
    enums = {name: tuple(values) for name, values in table["enums"].items()}
    wire_names = {
        spelling: message
        for cls in classes.values()
        for message in cls.messages.values()
        for spelling in (f"{cls.name}_{message.name}", message.full_name)
    }
    return DataModel(version, classes, enums, relations, wire_names)


@functools.cache
def _event_classes(version: str) -> dict[str, tuple[str, ...]]:
    names = [cls.name for cls in load(version).classes.values() if cls.has_events]
    return {"": tuple(names)} | {name.lower(): (name,) for name in names}


def _class(name: str, entry: dict[str, Any], release: tuple[int, ...], *, has_get_all: bool) -> Class:
    namespaces = entry.get("namespaces", ())
    fields = {f["name"]: _field(f, namespaces) for f in entry["fields"] if _release(f["since"]) <= release}
    messages = [_message(name, m, release) for m in entry["messages"] if _release(m["since"]) <= release]
    if entry["derive"]:
        state = entry.get("state", "Published")
        messages += _field_messages(name, fields.values())
        messages += _lookups(name, state, has_name="name" in namespaces)
        if has_get_all:
            messages += _listings(name, state, has_where=release >= _GET_ALL_WHERE)
    constructor = {key: fields[key] for key in entry.get("constructor", ()) if key in fields}
    by_name = {message.name: message for message in messages}
    return Class(name, fields, by_name, entry["events"], constructor)


def _field(f: dict[str, Any], namespaces: Iterable[str]) -> Field:
    name = f["name"]
    space = next((space for space in namespaces if name.startswith(f"{space}_")), None)
    return Field(
        name,
        f["type"],
        f["qualifier"],
        "default" in f,
        f.get("default"),
        f.get("internal_only", False),
        name if space is None else f"{space}__{name[len(space) + 1 :]}",
        f.get("state", "Published"),
    )


def _message(cls: str, m: dict[str, Any], release: tuple[int, ...]) -> Message:
    params = tuple(
        Param(p[0], p[1], required=len(p) == 2, default=p[2] if len(p) > 2 else None) for p in m["params"]
    )
    state = m.get("state", "Published")
    for since, then in m.get("history", ()):
        if _release(since) <= release:
            state = then
    return Message(
        cls,
        m["name"],
        params,
        m.get("session", True),
        m["result"],
        m.get("async", False),
        state,
        m.get("intra_pool_only", False),
    )


# ---- messages that follow from the fields (datamodel_utils.ml, add_implicit_messages)

_GET_ALL_WHERE = (24, 20, 0)
"""The first release with get_all_where."""


def _derived(cls: str, state: str, name: str, result: str, *params: tuple[str, str]) -> Message:
    given = tuple(Param(param, kind, required=True, default=None) for param, kind in params)
    return Message(cls, name, given, True, result, False, state, False)


def _field_messages(cls: str, fields: Iterable[Field]) -> list[Message]:
    found = []
    this = ("self", f"{cls} ref")
    for field in fields:
        if field.internal_only:
            continue
        name, kind = field.name, field.type
        found.append(_derived(cls, field.state, f"get_{name}", kind, this))
        if field.qualifier != "RW":
            continue
        found.append(_derived(cls, field.state, f"set_{name}", "void", this, ("value", kind)))
        if kind.endswith(" map"):
            key, value = kind.removeprefix("(").removesuffix(") map").split(" -> ", 1)
            add = _derived(cls, field.state, f"add_to_{name}", "void", this, ("key", key), ("value", value))
            found += [add, _derived(cls, field.state, f"remove_from_{name}", "void", this, ("key", key))]
        elif kind.endswith(" set"):
            item = ("value", kind.removesuffix(" set"))
            found.append(_derived(cls, field.state, f"add_{name}", "void", this, item))
            found.append(_derived(cls, field.state, f"remove_{name}", "void", this, item))
    return found


def _lookups(cls: str, state: str, *, has_name: bool) -> list[Message]:
    found = [
        _derived(cls, state, "get_record", f"{cls} record", ("self", f"{cls} ref")),
        _derived(cls, state, "get_by_uuid", f"{cls} ref", ("uuid", "string")),
    ]
    if has_name:
        found.append(_derived(cls, state, "get_by_name_label", f"{cls} ref set", ("label", "string")))
    return found


def _listings(cls: str, state: str, *, has_where: bool) -> list[Message]:
    records = f"({cls} ref -> {cls} record) map"
    found = [
        _derived(cls, state, "get_all", f"{cls} ref set"),
        _derived(cls, state, "get_all_records_where", records, ("expr", "string")),
        _derived(cls, state, "get_all_records", records),
    ]
    if has_where:
        found.append(_derived(cls, state, "get_all_where", f"{cls} ref set", ("expr", "string")))
    return found
