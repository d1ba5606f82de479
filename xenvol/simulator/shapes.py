"""Which parts of an answer a recording prescribes, by the method's name.

``data/replay-volatile.json`` lists the fields that it does not prescribe.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """How to compare one value; by default exactly, at every depth."""

    volatile: frozenset[str] = frozenset()
    """Keys that must be present, with any value."""
    members: Mapping[str, Shape] = field(default_factory=dict)
    """The shapes of single keys."""
    items: Shape | None = None
    """The shape of every item of a list, or value of a map."""
    is_record: bool = False
    """A newer server's record may have more fields, if the comparison allows it."""
    is_error: bool = False
    """An ErrorDescription."""
    is_event: bool = False
    """An event; its class decides the shape of its snapshot."""
    is_free: bool = False
    """Any value is accepted."""


EXACT = Shape()
_ERROR = Shape(is_error=True)
FREE = Shape(is_free=True)
_EVENT = Shape(is_event=True, volatile=frozenset({"id", "timestamp"}))
_EVENTS = Shape(items=_EVENT)
_EVENT_BATCH = Shape(volatile=frozenset({"valid_ref_counts"}), members={"events": _EVENTS})


def shape_of(method: str) -> Shape:
    """Return how to compare the result of a method."""
    cls, _, message = method.partition(".")
    if message == "get_record":
        return record_shape(cls)
    if message in ("get_all_records", "get_all_records_where"):
        return Shape(items=record_shape(cls))
    if method == "event.from":
        return _EVENT_BATCH
    if method == "event.next":
        return _EVENTS
    if message.startswith("get_"):
        name = message.removeprefix("get_")
        if name in _volatile(cls):
            return FREE
        if (cls, name) == ("task", "error_info"):
            return _ERROR
    return EXACT


@functools.cache
def record_shape(cls: str) -> Shape:
    members = {"error_info": _ERROR} if cls == "task" else {}
    return Shape(volatile=_volatile(cls), members=members, is_record=True)


@functools.cache
def _volatile(cls: str) -> frozenset[str]:
    return frozenset(_table().get(cls, ())) | frozenset(_table()["*"])


@functools.cache
def _table() -> dict[str, list[str]]:
    text = (importlib.resources.files("xenvol.simulator") / "data" / "replay-volatile.json").read_text()
    table: dict[str, list[str]] = json.loads(text)["fields"]
    return table


def class_name(lower: str) -> str:
    """Return the class for an event's class in lower case: ``VM`` for ``vm``."""
    for name in _table():
        if name.lower() == lower.lower():
            return name
    return lower
