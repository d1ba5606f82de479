"""Which of the backends that fit comes first. A policy is a class behind an entry point of ``xenvol.sm.policies``.

A policy decides by values alone and remembers nothing: any service may place the next volume, and must come to the
same end. It sees a page of the backends that fit at a time, read in the order that it says it wants.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, cast

from xenvol.entry_points import all_entry_points, load, package_of
from xenvol.errors import DriverError, DriverLoadFailed
from xenvol.sm.backend_rows import Order
from xenvol.sm.placement import Request
from xenvol.sm.records import Backend

GROUP = "xenvol.sm.policies"


class Policy(Protocol):
    order_by: ClassVar[Order]
    """How the candidates are read: by ``id``, by ``free`` (most first), by ``placed_at`` (longest ago first)."""

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        """The same candidates, the one to be tried first first. Pure; leaves none out."""


class FirstFit:
    """The backends as they were registered: the second is used when the first is full."""

    order_by: ClassVar[Order] = "id"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: backend.id)


class MostFree:
    """The backend with most room: all fill evenly."""

    order_by: ClassVar[Order] = "free"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: (-backend.free, backend.id))


class RoundRobin:
    """The backend that was given a volume longest ago, whichever service gave it: load is spread."""

    order_by: ClassVar[Order] = "placed_at"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return list(candidates)


class Weighted:
    """By chance, with odds of weight times free room; the dice are cast by the volume's id, so twice alike.

    Each backend draws -ln(u)/w, the smallest first: then the first is backend i with probability w_i / sum of w
    (Efraimidis and Spirakis, Information Processing Letters 97, 2006).
    """

    order_by: ClassVar[Order] = "free"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: (_draw(backend, request), backend.id))


def _draw(backend: Backend, request: Request) -> float:
    dice = hashlib.sha256(f"{request.volume_id}/{backend.id}".encode()).digest()
    chance = (int.from_bytes(dice[:8]) + 0.5) / 2**64
    weight = backend.weight * max(backend.free, 1)
    return -math.log(chance) / weight if weight > 0 else math.inf


class InvalidPolicy(DriverError):
    """A class is no policy; `problem` says what to change."""

    def __init__(self, name: str, *, package: str, problem: str) -> None:
        super().__init__(f"policy {name!r} of package {package}: {problem}")
        self.name = name
        self.package = package
        self.problem = problem


class UnknownPolicy(DriverError):
    def __init__(self, name: str, *, installed: Sequence[str]) -> None:
        super().__init__(
            f"no policy {name!r} is installed; installed: {', '.join(installed) or 'none'}; "
            f"install a package that has an entry point {name!r} in the group {GROUP}"
        )
        self.name = name
        self.installed = list(installed)


def installed_policies() -> list[str]:
    return list(dict.fromkeys(entry_point.name for entry_point in all_entry_points(GROUP)))


def get_policy(name: str) -> Policy:
    """Load and check it. Raises UnknownPolicy, InvalidPolicy, DriverLoadFailed."""
    claims = [entry_point for entry_point in all_entry_points(GROUP) if entry_point.name == name]
    if not claims:
        raise UnknownPolicy(name, installed=installed_policies())
    package = package_of(claims[0])
    if len(claims) > 1:
        packages = ", ".join(sorted(map(package_of, claims)))
        raise InvalidPolicy(
            name, package=packages, problem="several packages claim it: uninstall all but one"
        )
    try:
        loaded: Any = load(claims[0])
        policy = loaded()
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything, or exit
        raise DriverLoadFailed(name, package=package, cause=error) from error
    if getattr(policy, "order_by", None) not in ("id", "free", "placed_at"):
        raise InvalidPolicy(name, package=package, problem="order_by must be 'id', 'free' or 'placed_at'")
    if not callable(getattr(policy, "order", None)):
        raise InvalidPolicy(name, package=package, problem="has no method order(candidates, request)")
    return cast(Policy, policy)
