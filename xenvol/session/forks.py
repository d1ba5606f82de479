"""A connection and a lock belong to one process: a forked child begins with new ones.

A child inherits the sockets of its parent. If it used one, each of the two could read the other's answers; and a lock
that a thread of the parent held while the process forked is never released in the child, which has no such thread.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has connections or locks."""

    def begin_in_child(self) -> None:
        """Start anew in a child that has just been forked. Makes no call, and takes no lock of the parent's."""


_living: weakref.WeakSet[Forkable] = weakref.WeakSet()


def renew_after_fork(thing: Forkable) -> None:
    """Have `begin_in_child` called in every child that is forked while the object lives."""
    _living.add(thing)


def _begin_in_child() -> None:
    for thing in list(_living):
        thing.begin_in_child()


if hasattr(os, "register_at_fork"):  # not where processes cannot fork
    os.register_at_fork(after_in_child=_begin_in_child)
