"""The latest change of each object, with a stamp that grows with every change.

Only the latest change of an object is kept, so the ledger is as large as the pool. Deletions are kept for a
while, as in xapi.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_DELETIONS_MOST = 512  # per class; beyond it the oldest are dropped (db_cache_types.ml, Table.remove)
_DELETIONS_KEPT = 257


class Change(NamedTuple):
    """One object's latest change."""

    stamp: int
    cls: str
    ref: str
    created: int
    deleted: bool


class Changes:
    def __init__(self, classes: Iterable[str]) -> None:
        self.stamp = 0
        """Grows with every change."""
        self._latest: dict[str, OrderedDict[str, Change]] = {name: OrderedDict() for name in classes}
        self._deleted: dict[str, deque[str]] = {name: deque() for name in self._latest}

    def __repr__(self) -> str:
        return f"<Changes up to {self.stamp}>"

    def note(self, cls: str, ref: str, *, is_new: bool = False, deleted: bool = False) -> None:
        self.stamp += 1
        latest = self._latest[cls]
        before = latest.get(ref)
        created = self.stamp if is_new or before is None else before.created
        latest[ref] = Change(self.stamp, cls, ref, created, deleted)
        latest.move_to_end(ref)
        if deleted:
            self._forget_old_deletions(cls, ref)

    def since(self, cls: str, stamp: int) -> Iterator[Change]:
        """Yield the latest change of every object of a class that changed after that stamp, newest first."""
        for change in reversed(self._latest[cls].values()):
            if change.stamp <= stamp:
                return
            yield change

    def last(self, cls: str, ref: str) -> Change | None:
        """Return the latest change of an object; None if the object never existed or its deletion is forgotten."""
        return self._latest[cls].get(ref)

    def _forget_old_deletions(self, cls: str, ref: str) -> None:
        deleted = self._deleted[cls]
        deleted.append(ref)
        if len(deleted) >= _DELETIONS_MOST:
            while len(deleted) > _DELETIONS_KEPT:
                self._latest[cls].pop(deleted.popleft(), None)
