"""The storage drivers' fault numbers and their texts, from ``data/sm-error-codes.json``."""

from __future__ import annotations

import functools
import importlib.resources
import json


@functools.cache
def descriptions() -> dict[int, str]:
    data = (importlib.resources.files("xenvol.simulator") / "data" / "sm-error-codes.json").read_text()
    return {
        row["value"]: row["description"]
        for codes in reversed(json.loads(data)["codes"].values())
        for row in codes
    }


def reason(number: int, opterr: str | None) -> str:
    """What xapi passes on as the second parameter of SR_BACKEND_FAILURE_<number>."""
    text = descriptions().get(number, "")
    return text if opterr is None else f"{text} [opterr={opterr}]"
