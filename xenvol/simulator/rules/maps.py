"""Setters of map fields that are messages of their own although they only set (xapi checks roles in them)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_EMPTY_KEY = "Db_exn.Empty_key_in_map"

HowToChange = Callable[["Call", str, Callable[[], None]], None]
"""(call, reference, the change): makes the change, and its side effects."""


def plainly(_call: Call, _ref: str, change: Callable[[], None]) -> None:
    change()


def map_messages(cls: str, field: str, how: HowToChange = plainly) -> None:
    """Register ``set_``, ``add_to_`` and ``remove_from_`` for a field of a class."""

    @rule(f"{cls}.set_{field}")
    def set_map(call: Call, ref: str, value: dict[str, str]) -> None:
        call.db.row(cls, ref)
        if "" in value:
            raise internal_error(_EMPTY_KEY)
        how(call, ref, lambda: call.db.set(cls, ref, **{field: value}))

    @rule(f"{cls}.add_to_{field}")
    def add_to_map(call: Call, ref: str, key: str, value: str) -> None:
        call.db.row(cls, ref)
        if key == "":
            raise internal_error(_EMPTY_KEY)

        def add() -> None:
            if key in call.db.row(cls, ref)[field]:
                spelling = call.xapi.model.classes[cls].fields[field].db_name
                raise Failure("MAP_DUPLICATE_KEY", cls, spelling, ref, key)
            call.db.map_add(cls, ref, field, key, value)

        how(call, ref, add)

    @rule(f"{cls}.remove_from_{field}")
    def remove_from_map(call: Call, ref: str, key: str) -> None:
        call.db.row(cls, ref)
        how(call, ref, lambda: call.db.map_remove(cls, ref, field, key))
