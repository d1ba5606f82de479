"""A table of the operations that an object forbids, and why, filled in xapi's order.

The first reason for an operation counts; later ones are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from xenvol.simulator.failure import Failure


class Refusals:
    """One object's operations at one moment."""

    def __init__(self, operations: Iterable[str]) -> None:
        self._reasons: dict[str, Failure | None] = dict.fromkeys(operations)

    def forbid(self, operations: Iterable[str], code: str, *params: str) -> None:
        self.forbid_with(operations, Failure(code, *params))

    def forbid_with(self, operations: Iterable[str], reason: Failure) -> None:
        for operation in operations:
            if self._reasons[operation] is None:
                self._reasons[operation] = reason

    def check(self, operation: str) -> None:
        """Raise what forbids the operation."""
        if (reason := self._reasons[operation]) is not None:
            raise reason

    @property
    def allowed(self) -> list[str]:
        """The allowed operations, in the order in which they were given."""
        return [operation for operation, reason in self._reasons.items() if reason is None]
