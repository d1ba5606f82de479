"""A forked child starts with new connections and locks.

A child inherits the sockets of its parent. If it used one, parent and child could read each other's answers. A lock
that a thread of the parent held during the fork is never released in the child, which has no such thread.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object with connections or locks."""

    def begin_in_child(self) -> None:
        """Replace connections and locks in a child that was just forked. Must make no call, and take no old lock."""


_living: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renew_after_fork(thing: Forkable) -> None:
    """Call `begin_in_child` of this object in every child that is forked while the object exists."""
    _living.add(thing)


def _begin_in_child() -> None:
    for thing in list(_living):
        thing.begin_in_child()


if hasattr(os, "register_at_fork"):  # some systems have no fork
    os.register_at_fork(after_in_child=_begin_in_child)
