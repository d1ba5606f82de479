"""The classes of XenAPI as a table: fields, types, defaults, messages; nothing here is decided in code.

The table ships as ``data/datamodel.json``. A `DataModel` is that table as one release of xapi has it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
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

    @property
    def db_name(self) -> str:
        """The spelling in the database and in queries: ``name_label`` is ``name__label`` there."""
        return db_spelling(self.name)


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
    """Without the session."""
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
    """The keys that a ``create`` record may have; those without a default must be there."""
    is_bare: bool
    """Known by name only: it has objects in no pool that the simulator builds."""


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

    def event_classes(self, name: str) -> tuple[str, ...]:
        """The classes with events that go by a name in lower case; all of them for an empty name."""
        return _event_classes(self.version).get(name, ())

    def message(self, full_name: str) -> Message | None:
        cls, _, name = full_name.partition(".")
        known = self.classes.get(cls)
        return known.messages.get(name) if known else None


def db_spelling(field: str) -> str:
    for prefix in _DB_NAMESPACES:
        if field.startswith(prefix + "_"):
            return f"{prefix}__{field[len(prefix) + 1 :]}"
    return field


_DB_NAMESPACES = ("name", "HVM", "PV", "VCPUs", "memory", "actions", "qos", "API_version")
"""Fields that xapi keeps in a namespace (facts/truth.md: `HVM__boot_params`)."""


def _release(since: str) -> tuple[int, ...]:
    """Code names are all older than the numbered releases that we serve."""
    head = since.split("-")[0]
    return tuple(map(int, head.split("."))) if head[:1].isdigit() and head.count(".") == 2 else (0,)


@functools.cache
def load(version: str) -> DataModel:
    """The model as that release of xapi has it: fields and messages that are newer are left out."""
    table = json.loads(
        (importlib.resources.files("xenvol.simulator") / "data" / "datamodel.json").read_text()
    )
    release = _release(version)
    classes = {name: _class(name, entry, release) for name, entry in table["classes"].items()}
    for name in table["all_class_names"]:
        classes.setdefault(name, Class(name, {}, {}, False, {}, is_bare=True))
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


def _class(name: str, entry: dict[str, Any], release: tuple[int, ...]) -> Class:
    fields = {f["name"]: _field(f) for f in entry["fields"] if _release(f["since"]) <= release}
    messages = {m["name"]: _message(name, m) for m in entry["messages"] if _release(m["since"]) <= release}
    keys = [*entry.get("constructor_required_fields", ()), *entry.get("constructor_optional_fields", ())]
    constructor = {key: fields[key] for key in keys if key in fields}
    return Class(name, fields, messages, entry["gen_events"], constructor, is_bare=False)


def _field(f: dict[str, Any]) -> Field:
    return Field(
        f["name"], f["type"], f["qualifier"], "default" in f, f.get("default"), f.get("internal_only", False)
    )


def _message(cls: str, m: dict[str, Any]) -> Message:
    params = [Param(p["name"], p["type"], p.get("required", True), p.get("default")) for p in m["params"]]
    takes_session = bool(params) and params[0].name == "session_id" and not m.get("no_session", False)
    return Message(
        cls,
        m["name"],
        tuple(params[1:] if takes_session else params),
        takes_session,
        m["result"],
        m["async"],
        m.get("state", "Published"),
        m.get("intra_pool_only", False),
    )
