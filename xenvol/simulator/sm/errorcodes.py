"""The storage drivers' fault numbers and their texts, from ``data/sm-error-codes.json``."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any


@functools.cache
def _rows() -> list[dict[str, Any]]:
    """The codes of all releases; where they disagree, the last one counts."""
    data = (importlib.resources.files("xenvol.simulator") / "data" / "sm-error-codes.json").read_text()
    return [row for codes in reversed(json.loads(data)["codes"].values()) for row in codes]


@functools.cache
def descriptions() -> dict[int, str]:
    return {row["value"]: row["description"] for row in _rows()}


def number(name: str) -> int | None:
    """The number of a fault that a driver names: ``SRUnavailable`` is 47."""
    return next((int(row["value"]) for row in _rows() if row["name"] == name), None)


def reason(number: int, opterr: str | None) -> str:
    """What xapi passes on as the second parameter of SR_BACKEND_FAILURE_<number>."""
    text = descriptions().get(number, "")
    return text if opterr is None else f"{text} [opterr={opterr}]"
