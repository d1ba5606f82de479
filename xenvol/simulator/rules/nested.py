"""A call that xapi makes to itself while it serves another: under a task of its own, by the same rules."""

from __future__ import annotations

import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

from xenvol.simulator.rulebook import RULES

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


def invoke(call: Call, method: str, *arguments: Any) -> Any:
    """Run the rule of that message; raises what a client's call would raise."""
    inner = dataclasses.replace(call, method=method, task=f"OpaqueRef:{uuid.uuid4()}")
    return RULES[method](inner, *arguments)
