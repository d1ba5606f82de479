"""Read a storage world from plain values; an error names the key and the accepted form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class WorldError(ValueError):
    """The description of a storage world is wrong."""


def section(values: Any, where: str, *keys: str) -> Mapping[str, Any]:
    """Return a map that has only these keys; any keys if none are given."""
    if not isinstance(values, Mapping):
        raise WorldError(f"{where}: expected a map, not {values!r}")
    unknown = [key for key in values if keys and key not in keys]
    if unknown:
        raise WorldError(f"{where}.{unknown[0]}: unknown key; known are {', '.join(keys)}")
    return values


def size_in_bytes(value: Any, where: str) -> int:
    """Read a size: ``1073741824``, ``"1073741824"`` or ``"1 GiB"``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]iB|B)?", str(value))
    if isinstance(value, bool) or found is None:
        raise WorldError(f'{where}: {value!r} is not a size; write bytes, or "10 GiB"')
    return int(float(found[1]) * _UNITS[found[2]]) if found[2] else int(found[1])


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise WorldError(f"{where}: expected a text, not {value!r}")
    return value


def words(value: Any, where: str) -> str:
    """Return a text that may be empty."""
    if not isinstance(value, str):
        raise WorldError(f"{where}: expected a text, not {value!r}")
    return value


def texts(value: Any, where: str) -> list[str]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise WorldError(f"{where}: expected a list of texts, not {value!r}")
    return [text(item, f"{where}[{index}]") for index, item in enumerate(value)]


def credentials(value: Any, where: str) -> tuple[str, str]:
    """Read ``["user", "password"]``."""
    pair = texts(value, where)
    if len(pair) != 2:
        raise WorldError(f'{where}: expected ["user", "password"]')
    return pair[0], pair[1]


def flag(given: Mapping[str, Any], key: str, where: str, *, default: bool = False) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise WorldError(f"{where}.{key}: expected true or false, not {value!r}")
    return value


def required(given: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in given:
        raise WorldError(f"{where}.{key}: missing")
    return given[key]


def maps(given: Mapping[str, Any], key: str, where: str) -> Iterator[tuple[Any, str]]:
    """Yield the entries of a list, each with its path in the file."""
    entries = given.get(key, [])
    if not isinstance(entries, list):
        raise WorldError(f"{where}.{key}: expected a list of maps, not {entries!r}")
    for index, entry in enumerate(entries):
        yield entry, f"{where}.{key}[{index}]"
