"""Messages that follow from the data model alone: getters, setters, look-ups, and get_all where a class has it.

A setter is generic only for a field that clients may write (RW); a rule serves every other setter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenvol.simulator import query
from xenvol.simulator.datamodel import Class, Field, Message
from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import Call

Handler = Callable[..., Any]


def handler(cls: Class, message: Message) -> Handler | None:
    """Return the handler of a message that follows from its name; None for a message that needs a rule."""
    if (whole := _LOOKUPS.get(message.name)) is not None:
        return whole(cls.name)
    for prefix, (make, kinds, needs_rw) in _FIELD_MESSAGES.items():
        field = cls.fields.get(message.name.removeprefix(prefix)) if message.name.startswith(prefix) else None
        if field is None or (kinds and not field.type.endswith(kinds)):
            continue
        if not needs_rw or field.qualifier == "RW":
            return make(cls.name, field)
    return None


# ---- look-ups


def _get_record(cls: str) -> Handler:
    return lambda call, ref: call.db.record(cls, ref)


def _get_by_uuid(cls: str) -> Handler:
    def get_by_uuid(call: Call, object_uuid: str) -> str:
        ref = call.db.by_uuid(cls, object_uuid)
        if ref is None:
            raise Failure("UUID_INVALID", cls, object_uuid)
        return ref

    return get_by_uuid


def _get_by_name_label(cls: str) -> Handler:
    return lambda call, label: call.db.by_name(cls, label)


def _get_all(cls: str) -> Handler:
    return lambda call: call.db.refs(cls)[::-1]


def _get_all_records(cls: str) -> Handler:
    return lambda call: {ref: call.db.record(cls, ref) for ref in call.db.refs(cls)[::-1]}


def _get_all_records_where(cls: str) -> Handler:
    def get_all_records_where(call: Call, expr: str) -> dict[str, Any]:
        return {ref: call.db.record(cls, ref) for ref in query.select(call.db, cls, expr)}

    return get_all_records_where


def _get_all_where(cls: str) -> Handler:
    return lambda call, expr: query.select(call.db, cls, expr)


_LOOKUPS: dict[str, Callable[[str], Handler]] = {
    "get_record": _get_record,
    "get_by_uuid": _get_by_uuid,
    "get_by_name_label": _get_by_name_label,
    "get_all": _get_all,
    "get_all_records": _get_all_records,
    "get_all_records_where": _get_all_records_where,
    "get_all_where": _get_all_where,
}


# ---- fields


def _get(cls: str, field: Field) -> Handler:
    return lambda call, ref: call.db.get(cls, ref, field.name)


def _set(cls: str, field: Field) -> Handler:
    def set_field(call: Call, ref: str, value: Any) -> None:
        call.db.row(cls, ref)
        if isinstance(value, dict):
            _assert_no_empty_key(value)
        call.db.set(cls, ref, **{field.name: value})

    return set_field


def _add_to_map(cls: str, field: Field) -> Handler:
    def add_to(call: Call, ref: str, key: str, value: Any) -> None:
        before = call.db.get(cls, ref, field.name)
        _assert_no_empty_key((key,))
        if key in before:
            raise Failure("MAP_DUPLICATE_KEY", cls, field.db_name, ref, key)
        call.db.map_add(cls, ref, field.name, key, value)

    return add_to


def _assert_no_empty_key(keys: Any) -> None:
    if "" in keys:
        raise internal_error("Db_exn.Empty_key_in_map")


def _remove_from_map(cls: str, field: Field) -> Handler:
    return lambda call, ref, key: call.db.map_remove(cls, ref, field.name, key)


def _add_to_set(cls: str, field: Field) -> Handler:
    def add(call: Call, ref: str, item: Any) -> None:
        before = call.db.get(cls, ref, field.name)
        if item not in before:
            call.db.set(cls, ref, **{field.name: [item, *before]})

    return add


def _remove_from_set(cls: str, field: Field) -> Handler:
    def remove(call: Call, ref: str, item: Any) -> None:
        before = call.db.get(cls, ref, field.name)
        call.db.set(cls, ref, **{field.name: [other for other in before if other != item]})

    return remove


_FIELD_MESSAGES: dict[str, tuple[Callable[[str, Field], Handler], tuple[str, ...], bool]] = {
    "get_": (_get, (), False),
    "set_": (_set, (), True),
    "add_to_": (_add_to_map, (" map",), True),
    "remove_from_": (_remove_from_map, (" map",), True),
    "add_": (_add_to_set, (" set",), True),
    "remove_": (_remove_from_set, (" set",), True),
}
"""Prefix -> (maker, field types that it serves, True if only for fields that clients may write)."""
