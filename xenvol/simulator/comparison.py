"""Compare an answer with the recorded one: the code, the structure, and the values that a recording can prescribe.

A `Shape` says which parts are free. Lists are compared as multisets. If a recorded name has no value yet, it
gets the value of the candidate that differs least.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.shapes import EXACT, FREE, Shape, class_name, record_shape
from xenvol.simulator.symbols import Symbols

ABSENT = "(absent)"
_DATE = re.compile(r"\d{8}T\d\d:\d\d:\d\dZ")
_CLOCK_SINCE = 2025
"""A date of this year or later came from a clock; an earlier one came from a caller."""
_EXCEPTION = re.compile(r"Failure\(|Stdlib\.|Db_exn\.|Invalid_argument\(|Not_found")
"""Matches the text of an OCaml exception."""
_SM_OWN_KEYS = re.compile(r"read-caching-(enabled-on|reason)-")
"""Keys that the storage manager adds to maps at times of its own."""
_FREE_TEXTS = {"SESSION_AUTHENTICATION_FAILED": {2}}
"""Positions in an error that hold text of another program, here PAM; position 0 is the code."""
_REFERENCE_SETS = {"VDI_IN_USE", "NETWORK_CONTAINS_VIF"}
"""Errors whose parameters have no defined order."""


@dataclass(frozen=True, slots=True)
class Difference:
    path: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        return f"{self.path}: expected {brief(self.expected)}, got {brief(self.got)}"


def brief(value: Any, limit: int = 300) -> str:
    """Return a value as JSON, shortened to ``limit`` characters."""
    if isinstance(value, str) and value is ABSENT:
        return ABSENT
    text: str = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]} …"


class Comparison:
    """Compare one recording with the actual answers, and learn the recording's names on the way."""

    def __init__(self, symbols: Symbols, *, extra_fields_ok: bool = False, ordered: bool = False) -> None:
        self.symbols = symbols
        self.extra_fields_ok = extra_fields_ok
        self.ordered = ordered
        """If True, lists are compared in order."""

    def value(self, expected: Any, actual: Any, path: str, shape: Shape = EXACT) -> list[Difference]:
        """Return all differences; symbols that match are learnt."""
        if shape.is_free:
            self._learn(expected, actual, path)
            return []
        if shape.is_error:
            return self.error(expected, actual, path)
        if isinstance(expected, dict) and "$dateTime" in expected:
            if not isinstance(actual, dict) or "$dateTime" not in actual:
                return [Difference(path, expected, actual)]
            return _date(expected["$dateTime"], actual["$dateTime"], path)
        if _kind(expected) is not _kind(actual):
            return [Difference(path, expected, actual)]
        if isinstance(expected, str):
            if _DATE.fullmatch(expected):
                return _date(expected, actual, path)
            return [] if self.symbols.match(expected, actual) else [Difference(path, expected, actual)]
        if isinstance(expected, dict):
            return self._map(expected, actual, path, shape)
        if isinstance(expected, list):
            if self.ordered:
                return self._sequence(expected, actual, path, shape.items or EXACT)
            return self._set(expected, actual, path, shape.items or EXACT)
        both_nan = expected != expected and actual != actual
        return [] if expected == actual or both_nan else [Difference(path, expected, actual)]

    def error(self, expected: Any, actual: Any, path: str) -> list[Difference]:
        """Compare two ErrorDescriptions: lists, or the error objects of JSON-RPC 2."""
        if isinstance(expected, dict) and isinstance(actual, dict):
            found = self.value(expected.get("code"), actual.get("code"), f"{path}.code")
            return found + self.error(_description(expected), _description(actual), path)
        if not (expected and actual and isinstance(expected, list) and isinstance(actual, list)):
            return self.value(expected, actual, path)
        code = expected[0]
        if code != actual[0]:
            return [Difference(f"{path}[0]", expected, actual)]
        if code == "INTERNAL_ERROR":  # its parameters are the texts of exceptions
            return []
        if len(expected) != len(actual):
            return [Difference(path, expected, actual)]
        if code in _REFERENCE_SETS:
            return self._set(expected, actual, path, EXACT)
        free = _FREE_TEXTS.get(code, set())
        return [
            difference
            for index, (old, new) in enumerate(zip(expected, actual, strict=True))
            if index not in free and not (isinstance(old, str) and _EXCEPTION.search(old))
            for difference in self.value(old, new, f"{path}[{index}]")
        ]

    # ---- inside

    def _learn(self, expected: Any, actual: Any, path: str) -> list[Difference]:
        """Compare, and keep the learnt symbols only if nothing differs."""
        mark = self.symbols.mark()
        found = self.value(expected, actual, path)
        if found:
            self.symbols.back_to(mark)
        return found

    def _sequence(self, expected: list[Any], actual: list[Any], path: str, items: Shape) -> list[Difference]:
        if len(expected) != len(actual):
            return [Difference(path, expected, actual)]
        return [
            difference
            for index, (old, new) in enumerate(zip(expected, actual, strict=True))
            for difference in self.value(old, new, f"{path}[{index}]", items)
        ]

    def _set(self, expected: list[Any], actual: list[Any], path: str, items: Shape) -> list[Difference]:
        """Match items without unknown names first, then each of the others with the candidate that fits best."""
        rest = dict(enumerate(actual))
        uncertain = []
        for item in expected:
            if self.symbols.unbound(item) or not self._take_equal(item, rest, path, items):
                uncertain.append(item)
        found = []
        for item in uncertain:
            chosen, differences = self._best(
                (index, functools.partial(self.value, item, candidate, f"{path}[]", items))
                for index, candidate in rest.items()
            )
            if chosen is None or (differences and not isinstance(item, (dict, list))):
                found.append(Difference(f"{path}[]", item, ABSENT))
            else:
                del rest[chosen]
                found += differences
        return found + [Difference(f"{path}[]", ABSENT, item) for item in rest.values()]

    def _take_equal(self, item: Any, rest: dict[int, Any], path: str, items: Shape) -> bool:
        for index, candidate in rest.items():
            mark = self.symbols.mark()
            if not self.value(item, candidate, path, items):
                del rest[index]
                return True
            self.symbols.back_to(mark)
        return False

    def _map(
        self, expected: dict[str, Any], actual: dict[str, Any], path: str, shape: Shape
    ) -> list[Difference]:
        rest = {key: value for key, value in actual.items() if not _SM_OWN_KEYS.match(key)}
        found: list[Difference] = []
        unknown = []
        for key, value in expected.items():
            if _SM_OWN_KEYS.match(key):
                continue
            if self.symbols.unbound(key):
                unknown.append(key)
            elif (real := self.symbols.resolve(key)) in rest:
                found += self.value(
                    value, rest.pop(real), f"{path}.{key}", self._member(shape, key, expected)
                )
            else:
                found.append(Difference(f"{path}.{key}", value, ABSENT))
        for key in unknown:
            found += self._unknown_key(key, expected[key], rest, path, shape.items or EXACT)
        if not (shape.is_record and self.extra_fields_ok):
            found += [Difference(f"{path}.{key}", ABSENT, value) for key, value in rest.items()]
        return found

    def _member(self, shape: Shape, key: str, expected: dict[str, Any]) -> Shape:
        if key in shape.volatile:
            return FREE
        if shape.is_event and key == "snapshot":
            return record_shape(class_name(str(expected.get("class"))))
        return shape.members.get(key) or shape.items or EXACT

    def _unknown_key(
        self, key: str, value: Any, rest: dict[str, Any], path: str, items: Shape
    ) -> list[Difference]:
        """Find the key that a name stands for, by the value under it, and take it out of ``rest``."""
        if self.symbols.unbound(key):
            candidates = [candidate for candidate in rest if not self.symbols.owns(candidate)]
        else:  # an earlier comparison has learnt it
            candidates = [self.symbols.resolve(key)]

        def attempt(candidate: str) -> list[Difference]:
            if not self.symbols.match(key, candidate):
                return [Difference(f"{path}.{key}", value, ABSENT)]
            return self.value(value, rest[candidate], f"{path}.{key}", items)

        chosen, differences = self._best(
            (candidate, functools.partial(attempt, candidate))
            for candidate in candidates
            if candidate in rest
        )
        if chosen is None:
            return [Difference(f"{path}.{key}", value, ABSENT)]
        del rest[chosen]
        return differences

    def _best(
        self, candidates: Iterable[tuple[Any, Callable[[], list[Difference]]]]
    ) -> tuple[Any, list[Difference]]:
        """Return the candidate with the fewest differences, the first among equals, and learn its names; or None."""
        mark = self.symbols.mark()
        best: tuple[Any, Callable[[], list[Difference]]] | None = None
        fewest = 0
        for candidate, compare in candidates:
            found = compare()
            if not found:
                return candidate, []
            self.symbols.back_to(mark)
            if best is None or len(found) < fewest:
                best, fewest = (candidate, compare), len(found)
        return (best[0], best[1]()) if best else (None, [])


def _description(error: Mapping[str, Any]) -> list[Any]:
    return [error.get("message"), *(error.get("data") or [])]


def _date(expected: str, actual: str, path: str) -> list[Difference]:
    by_clock = expected[:4].isdigit() and int(expected[:4]) >= _CLOCK_SINCE
    same = expected == actual or (by_clock and _DATE.fullmatch(actual) is not None)
    return [] if same else [Difference(path, expected, actual)]


def _kind(value: Any) -> type:
    """Return the type on the wire; all numbers count as one type."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float
    return type(value)
