"""Wire values: str, int, float, bool, list, dict, None, and the classes below, which both codecs know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Wire = Any


@dataclass(frozen=True, slots=True)
class Date:
    """A date, ``20261121T01:38:42Z``."""

    text: str


@dataclass(frozen=True, slots=True)
class Base64:
    data: bytes


@dataclass(frozen=True, slots=True)
class Int32:
    """An integer with a type tag; in XML-RPC answers only those of valid_ref_counts have one."""

    value: int


@dataclass(frozen=True, slots=True)
class Marshalled:
    """A rule's result that is already a wire value (xapi's custom marshallers)."""

    wire: Wire


def show(value: Wire) -> str:
    """Return a wire value as xapi quotes it in its errors."""
    match value:
        case None:
            return "N"
        case bool():
            return f"B({str(value).lower()})"
        case int():
            return f"I({value})"
        case float():
            return f"F({value:g})"
        case str():
            return f"S({value})"
        case Date():
            return f"D({value.text})"
        case Base64():
            return f"B64({value.data.decode('utf-8', 'replace')})"
        case Int32():
            return f"I32({value.value})"
        case list():
            return f"[{';'.join(map(show, value))}]"
    return "{" + ";".join(f"{name}:{show(item)}" for name, item in value.items()) + "}"


def plain(wire: Wire) -> Any:
    """Return a wire value as JSON can hold it: dates and base64 as strings."""
    match wire:
        case Date():
            return wire.text
        case Int32():
            return wire.value
        case Base64():
            return wire.data.decode("utf-8", "replace")
        case list():
            return [plain(item) for item in wire]
        case dict():
            return {name: plain(item) for name, item in wire.items()}
    return wire
