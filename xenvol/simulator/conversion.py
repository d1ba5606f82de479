"""Convert parameters and results between XenAPI's types and the wire.

`decode` turns a wire value into a value of a type, `encode` the reverse. Sets are lists, maps and records are
dicts, references, enums and dates are strings; an int is at most 64 bits wide. Errors have xapi's own words
(trace 06#14..165).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.simulator import datamodel
from xenvol.simulator.datamodel import DataModel
from xenvol.simulator.failure import internal_error
from xenvol.simulator.ocaml import failure, ocaml_float, ocaml_int64
from xenvol.simulator.values import Date, Marshalled, Wire, show


@dataclass(frozen=True, slots=True)
class Type:
    kind: str
    """string, int, float, bool, datetime, void, ref, enum, record, set, map or option."""
    name: str = ""
    """The class of a ref or record, or the name of an enum."""
    key: Type | None = None
    """The type of a map's keys."""
    item: Type | None = None
    """The type of the items of a set, of an option's value, or of a map's values."""


@functools.cache
def parse_type(text: str) -> Type:
    """Parse a type as the data model spells it: ``(string -> enum vdi_operations) map``."""
    head, _, last = text.rpartition(" ")
    if last in ("set", "option"):
        return Type(last, item=parse_type(head))
    if last == "map":
        key, _, value = head[1:-1].partition(" -> ")
        return Type("map", key=parse_type(key), item=parse_type(value))
    if last in ("ref", "record"):
        return Type(last, head)
    if head == "enum":
        return Type("enum", last)
    return Type("string" if text == "secretstring" else text)


# ---- from the wire


def decode(model: DataModel, wanted: Type, wire: Wire) -> Any:
    """Check and convert one parameter; INTERNAL_ERROR where xapi's unmarshaller fails."""
    match wanted.kind:
        case "string" | "ref":
            if isinstance(wire, str):
                return wire
            raise failure(f"Expected string, got '{show(wire)}'")
        case "int":
            return _int(wire)
        case "float":
            return _float(wire)
        case "bool":
            if isinstance(wire, bool):
                return wire
            raise failure(f"Expected bool, got '{show(wire)}'")
        case "datetime":
            return _date(wire)
        case "enum":
            return _enum(model.enums[wanted.name], wire)
        case "set":
            if isinstance(wire, list):
                return [decode(model, _some(wanted.item), item) for item in wire]
            raise failure(f"Expecting Rpc.Enum, but found '{show(wire)}'")
        case "map":
            if isinstance(wire, dict):
                key, item = _some(wanted.key), _some(wanted.item)
                return {decode(model, key, k): decode(model, item, v) for k, v in wire.items()}
            raise failure(f"Expecting Rpc.Dict, but found '{show(wire)}'")
        case "option":
            return None if wire is None else decode(model, _some(wanted.item), wire)
    raise failure(f"no value of type {wanted.kind} can be sent")


def _some(inner: Type | None) -> Type:
    assert inner is not None  # parse_type gives one to every set, map and option
    return inner


def _int(wire: Wire) -> int:
    if isinstance(wire, str):
        return ocaml_int64(wire)
    if isinstance(wire, int) and not isinstance(wire, bool):
        return wire
    raise failure(f"Expected int64, got '{show(wire)}'")


def _float(wire: Wire) -> float:
    if isinstance(wire, str):
        return ocaml_float(wire)
    if isinstance(wire, (int, float)) and not isinstance(wire, bool):
        return float(wire)
    raise failure(f"Expected float, got '{show(wire)}'")


_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)?")


def _date(wire: Wire) -> str:
    """Read ``20200101T00:00:00Z``, with or without hyphens and zone, given as a string or as a dateTime."""
    text = wire.text if isinstance(wire, Date) else wire
    if not isinstance(text, str):
        raise failure(f"Expected datetime, got '{show(wire)}'")
    found = _DATE.fullmatch(text)
    if found is None:
        raise internal_error(f'Invalid_argument("Clock__Date.of_iso8601: \\"{text}\\"")')
    return "{}{}{}T{}:{}:{}".format(*found.groups()[:6]) + (found[7] or "")


def _enum(values: tuple[str, ...], wire: Wire) -> str:
    """Return the value that matches without regard to case (trace 06#154)."""
    if isinstance(wire, str):
        for value in values:
            if value.lower() == wire.lower():
                return value
    raise failure("Unknown tag/contents")


# ---- to the wire


def encode(model: DataModel, declared: Type, value: Any) -> Wire:
    """Return a result as a wire value; TypeError if a rule returned another type than it declares."""
    python_type = _PYTHON.get(declared.kind)
    if python_type is not None and type(value) is python_type:  # first, as most values are of it
        return value
    if isinstance(value, Marshalled):
        return value.wire
    match declared.kind:
        case "void":
            return ""
        case "datetime":
            return Date(value)
        case "float":
            return float(value)
        case "set":
            inner = _some(declared.item)
            return [encode(model, inner, item) for item in value]
        case "map":
            inner = _some(declared.item)
            return {str(key): encode(model, inner, item) for key, item in value.items()}
        case "option":
            return None if value is None else encode(model, _some(declared.item), value)
        case "record":
            return encode_record(model, declared.name, value)
    raise TypeError(f"{value!r} is no {declared.kind}")


_PYTHON = {"string": str, "ref": str, "enum": str, "int": int, "bool": bool}


def encode_record(model: DataModel, cls: str, record: Mapping[str, Any]) -> Wire:
    """Return every field that the record has, in the data model's order."""
    return {
        name: encode(model, declared, record[name])
        for name, declared in _field_types(model.version, cls)
        if name in record and not (declared.kind == "option" and record[name] is None)
    }


@functools.cache
def _field_types(version: str, cls: str) -> tuple[tuple[str, Type], ...]:
    fields = datamodel.load(version).classes[cls].fields
    return tuple((name, parse_type(field.type)) for name, field in fields.items())
