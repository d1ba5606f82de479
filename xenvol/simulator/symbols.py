"""The values of a recording's ``$names`` on this server: learnt from answers, used in calls.

A name gets its value from the first answer that contains it. From then on it keeps that value, and no other
name has it. Bindings can be undone back to a mark, because the replay tries several candidates for a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TOKEN = re.compile(r"\$\$|\$([A-Za-z_][A-Za-z0-9_]*(?:\.uuid)?)")
LITERAL_KEYS = frozenset({"$dateTime", "$rawxml", "$base64"})
"""Keys of a map that give the type of a value; they are not names."""


class Unbound(Exception):
    """A value contains names that have no value yet."""

    def __init__(self, names: set[str]) -> None:
        super().__init__(", ".join(sorted(names)))
        self.names = names


def names_in(value: Any) -> set[str]:
    """Return every name in a recorded value."""
    return set(_names(value))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (token[1] for token in _TOKEN.finditer(value) if token[1])
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in LITERAL_KEYS:
                yield from _names(key)
            yield from _names(item)


class Symbols:
    """The bindings of one recording."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._trail: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def owns(self, value: str) -> bool:
        """Return True if a name has this value."""
        return value in self._owners

    def mark(self) -> int:
        """Return a point for `back_to`."""
        return len(self._trail)

    def back_to(self, mark: int) -> None:
        """Drop the bindings made since the mark."""
        while len(self._trail) > mark:
            del self._owners[self._values.pop(self._trail.pop())]

    def unbound(self, value: Any) -> set[str]:
        return {name for name in _names(value) if name not in self._values}

    def resolve(self, value: Any) -> Any:
        """Return the recorded value with every name replaced; raises Unbound."""
        if missing := self.unbound(value):
            raise Unbound(missing)
        return self._resolve(value)

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, str):
            return _TOKEN.sub(lambda token: self._values[token[1]] if token[1] else "$", value)
        if isinstance(value, list):
            return [self._resolve(item) for item in value]
        if isinstance(value, dict):
            return {
                key if key in LITERAL_KEYS else self._resolve(key): self._resolve(item)
                for key, item in value.items()
            }
        return value

    def match(self, recorded: str, actual: str) -> bool:
        """Return True if the text matches the recorded one; new names then get their values.

        False leaves no new binding.
        """
        mark = self.mark()
        if self._match(recorded, actual):
            return True
        self.back_to(mark)
        return False

    def _match(self, recorded: str, actual: str) -> bool:
        tokens = list(_TOKEN.finditer(recorded))
        if not tokens:
            return recorded == actual
        if tokens[0].group() == recorded and tokens[0][1]:
            name = tokens[0][1]
            return self._values[name] == actual if name in self else self._bind(name, actual)
        groups: dict[str, str] = {}
        pattern, end = "", 0
        for token in tokens:
            pattern += re.escape(recorded[end : token.start()]) + self._pattern(token[1], groups)
            end = token.end()
        found = re.fullmatch(pattern + re.escape(recorded[end:]), actual, re.DOTALL)
        return found is not None and all(self._bind(name, found[group]) for name, group in groups.items())

    def _pattern(self, name: str | None, groups: dict[str, str]) -> str:
        """Return the pattern of a name within a longer text; a new name extends to the next blank or quote."""
        if name is None:
            return r"\$"
        if name in self._values:
            return re.escape(self._values[name])
        if name in groups:
            return f"(?P={groups[name]})"
        groups[name] = f"g{len(groups)}"
        return f"(?P<{groups[name]}>[^\\s<>\"']+)"

    def _bind(self, name: str, value: str) -> bool:
        if not value or value in self._owners:
            return False
        self._values[name] = value
        self._owners[value] = name
        self._trail.append(name)
        return True
