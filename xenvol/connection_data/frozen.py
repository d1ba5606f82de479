"""Make foreign data read-only at every depth, and wrap its secrets. Other values stay as they are."""

import uuid
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar, final

from xenvol.secret import Secret, has_secret, is_secret_key

V = TypeVar("V", covariant=True)


@final
class FrozenMap(Mapping[str, V]):
    """A read-only, hashable mapping. Equal to any mapping with the same items. A copy is the object itself."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __copy__(self) -> "FrozenMap[V]":
        return self

    def __deepcopy__(self, memo: object) -> "FrozenMap[V]":
        return self

    def __repr__(self) -> str:
        return f"FrozenMap({self._items!r})"


DEPTH: Final = 50
"""So many maps and lists may stand within each other. No service sends more than five."""


def freeze(value: object, *, is_secret: bool = False, depth: int = DEPTH) -> object:
    """Return a copy that shares nothing mutable with `value`: maps frozen, lists as tuples, secrets as `Secret`.

    Raises ValueError if more than `depth` maps and lists stand within each other.

    A value is a secret if a key above it is a secret's key (`is_secret_key`), or if its text has one within
    (`has_secret`). A UUID object, which object-relational mappers use, becomes its text.
    """
    if isinstance(value, uuid.UUID):
        value = str(value)
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, Mapping):
        return FrozenMap(
            {
                key: freeze(item, is_secret=is_secret or is_secret_key(str(key)), depth=depth - 1)
                for key, item in value.items()
            }
        )
    if isinstance(value, list | tuple):
        return tuple(freeze(item, is_secret=is_secret, depth=depth - 1) for item in value)
    if isinstance(value, set | frozenset):
        return frozenset(freeze(item, is_secret=is_secret, depth=depth - 1) for item in value)
    if isinstance(value, bytes | bytearray):
        return freeze(value.decode(errors="replace"), is_secret=True) if is_secret else bytes(value)
    if isinstance(value, str):
        return Secret(value) if is_secret or has_secret(value) else value
    if is_secret and isinstance(value, int | float) and not isinstance(value, bool):
        return Secret(str(value))  # a password of digits that was not quoted
    return value


def freeze_map(items: Mapping[str, object]) -> FrozenMap[object]:
    """Freeze a mapping, as `freeze` does. Raises ValueError if it is nested too deeply."""
    frozen = freeze(items)
    assert isinstance(frozen, FrozenMap)
    return frozen
