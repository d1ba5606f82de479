"""The storage drivers' fault numbers and their texts, from ``data/sm-error-codes.json``."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any


@functools.cache
def _rows() -> list[dict[str, Any]]:
    """Return the codes of all releases; if they disagree, the last release counts."""
    data = (importlib.resources.files("xenvol.simulator") / "data" / "sm-error-codes.json").read_text()
    return [row for codes in reversed(json.loads(data)["codes"].values()) for row in codes]


@functools.cache
def descriptions() -> dict[int, str]:
    return {row["value"]: row["description"] for row in _rows()}


def number(name: str) -> int | None:
    """Return the number of a fault by its name in the drivers: 47 for ``SRUnavailable``."""
    return next((int(row["value"]) for row in _rows() if row["name"] == name), None)


def reason(number: int, opterr: str | None) -> str:
    """Return the second parameter of SR_BACKEND_FAILURE_<number>."""
    text = descriptions().get(number, "")
    return text if opterr is None else f"{text} [opterr={opterr}]"
