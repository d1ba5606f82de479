"""The registry of rules: one function per message, found by the message's full name.

    @rule("SR.forget")
    def sr_forget(call: Call, sr: str) -> None: ...

A rule gets the call and the decoded, type-checked parameters: an int as int, a map as dict, a record as dict
with defaults filled in. References are *not* checked: xapi checks them when it uses them. A rule runs with
the pool's lock held, so its work between two waits is atomic. It returns the result, or raises `Failure`.

Generic messages (get_record, get_/set_ of fields, get_all...) have no rule: the dispatcher derives them from
the data model. A rule with the same name takes precedence.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from xenvol.simulator.failure import NULL
from xenvol.simulator.waits import Listener, Wait, ignore_wait

if TYPE_CHECKING:
    from xenvol.simulator.database import Database
    from xenvol.simulator.xapi import Xapi

T = TypeVar("T")
Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of these messages."""

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
    """One call under way: its session, its task and its pool."""

    xapi: Xapi
    method: str
    """The method without ``Async.``."""
    session: str
    task: str
    """The key in current_operations. An Async call's task has a record, a synchronous call's has none."""
    host: str = NULL
    """The host that received the call: the pool's master, except for the few calls that a member answers itself."""
    on_wait: Listener = ignore_wait
    """Called when the call begins to wait."""
    storage_begins: Callable[[], None] = lambda: None
    """Called before each command of a storage driver; may sleep."""

    @property
    def db(self) -> Database:
        return self.xapi.db

    def sleep(self, seconds: float) -> None:
        """Sleep, and let other calls run; the pool's lock is released meanwhile."""
        self.xapi.sleep(seconds)

    def outside(self, work: Callable[[], T]) -> T:
        """Run `work`, which takes long and touches no row, and let other calls run meanwhile; return its result.

        It runs in a thread of its own, since the pool's lock is released by waiting only.
        """
        done = threading.Event()

        def run() -> T:
            try:
                return work()
            finally:
                with self.xapi.lock:
                    done.set()
                    self.xapi.lock.notify_all()

        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(run)
            while not done.is_set():
                self.xapi.lock.wait()
        return future.result()

    @contextlib.contextmanager
    def waiting(self, kind: str, *what: str, lasts: Callable[[], bool]) -> Iterator[Wait]:
        """Report that the call waits during the block."""
        wait = Wait(kind, what, lasts)
        self.on_wait(wait)
        try:
            yield wait
        finally:
            wait.end()
