"""How a rule is written down: one function for one message, found by its full name.

    @rule("SR.forget")
    def sr_forget(call: Call, sr: str) -> None: ...

A rule gets the call and the parameters, decoded and type-checked by the data model (int as int, map as dict, a
record as dict with the defaults filled in; references are *not* checked: xapi finds out when it looks). It runs
with the pool's lock held, so what it does between two waits is atomic. It returns the result, or raises `Failure`.
Generic messages (get_record, get_/set_ of fields, get_all...) have no rule; the dispatcher derives them from the
data model, and a rule under the same name takes precedence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL
from xenvol.simulator.waits import Listener, Wait, unheard

if TYPE_CHECKING:
    from xenvol.simulator.database import Database
    from xenvol.simulator.xapi import Xapi

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as what these messages do."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(
                    f"two rules for {name}: {RULES[name].__qualname__} and {function.__qualname__}"
                )
            RULES[name] = function
        return function

    return register


@dataclass(frozen=True, slots=True)
class Call:
    """One call on its way: who asks, under which task, on which pool."""

    xapi: Xapi
    method: str
    """Without ``Async.``."""
    session: str
    task: str
    """Key of current_operations. An Async call's task has a record; a synchronous call's has none."""
    host: str = NULL
    """The host that was asked; the pool's master but for the few calls that a member answers itself."""
    on_wait: Listener = unheard
    """Told when the call begins to wait for something."""
    storage_begins: Callable[[], None] = lambda: None
    """Called before each command of a storage driver; may sleep."""

    @property
    def db(self) -> Database:
        return self.xapi.db

    def sleep(self, seconds: float) -> None:
        """Let other calls run for so long; the pool's lock is released meanwhile."""
        self.xapi.sleep(seconds)

    @contextlib.contextmanager
    def waiting(self, kind: str, *what: str, lasts: Callable[[], bool]) -> Iterator[Wait]:
        """Let it be known that the call waits during the block."""
        wait = Wait(kind, what, lasts)
        self.on_wait(wait)
        try:
            yield wait
        finally:
            wait.end()
