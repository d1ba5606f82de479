"""Find a world: a shipped one, a file, or the empty pool for a test.

The shipped ones are ``data/*-world.json``; docs/simulator.md has the keys of such a file.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xenvol.simulator.bootstrap import HostSpec, PoolSpec
from xenvol.simulator.sm.worldfile import WorldError
from xenvol.simulator.worldspec import WorldSpec, all_sm_types, parse

NAMES = ("recorded", "example", "demo")
"""The worlds that ship with the package."""


def load(world: str | Path | Mapping[str, Any]) -> WorldSpec:
    """Read a shipped world by its name, a file, or a file's content; raises WorldError."""
    if isinstance(world, Mapping):
        return parse(world)
    if world in NAMES:
        return _shipped(str(world))
    try:
        content = Path(world).read_text(encoding="utf-8")
    except OSError as error:
        raise WorldError(
            f"world: {str(world)!r} is neither one of {', '.join(NAMES)} nor a readable file: {error}"
        ) from error
    try:
        return parse(json.loads(content))
    except json.JSONDecodeError as error:
        raise WorldError(f"{world}: no JSON: {error}") from error


def default(hosts: int = 1) -> WorldSpec:
    """Return a pool of ``hosts`` hosts with every storage driver and without an SR, for tests."""
    specs = tuple(
        HostSpec(f"host{n}", f"127.0.0.{n}", f"iqn.2001-01.com.example:host{n}") for n in range(1, hosts + 1)
    )
    return WorldSpec(PoolSpec(specs, sm_types=all_sm_types()))


@functools.cache
def _shipped(name: str) -> WorldSpec:
    data = importlib.resources.files("xenvol.simulator") / "data" / f"{name}-world.json"
    return parse(json.loads(data.read_text(encoding="utf-8")))
