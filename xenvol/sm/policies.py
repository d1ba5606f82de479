"""Choose which of the fitting backends comes first. A policy is a class behind an entry point of
``xenvol.sm.policies``.

A policy decides by values alone and keeps no state: any service may place the next volume, and must choose alike. A
policy gets the fitting backends page by page, in the order that it names. The answer of a policy of another package is
checked each time: a backend that it left out would never be used again, without an error.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, get_args

from xenvol.drivers.entry_points import all_entry_points, load, package_of
from xenvol.errors import DriverError
from xenvol.sm.backend_rows import Order
from xenvol.sm.placement import Request
from xenvol.sm.records import Backend

GROUP = "xenvol.sm.policies"
_SHOWN = 10  # backends named in a message


class Policy(Protocol):
    @property
    def order_by(self) -> Order:
        """The order in which candidates are read, a constant: ``id``, ``free`` (most first), ``placed_at`` (longest ago
        first)."""

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        """Return the same candidates, each once, the first one to try first. Must be pure, and leave none out."""


class FirstFit:
    """The backend that was registered first: the second is used when the first is full."""

    order_by: ClassVar[Order] = "id"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: backend.id)


class MostFree:
    """The backend with most room: all backends fill evenly."""

    order_by: ClassVar[Order] = "free"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: (-backend.free, backend.id))


class RoundRobin:
    """The backend that got its last volume longest ago, from any service: the load is spread."""

    order_by: ClassVar[Order] = "placed_at"

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        return sorted(candidates, key=lambda backend: (backend.placed_at, backend.id))


class Weighted:
    """By chance, with odds of weight times free room. The volume's id seeds the draw, so a retry draws the same order.

    Each backend draws -ln(u)/w, and the smallest comes first: then backend i is first with probability w_i / sum of w
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
    """A class is no policy, or its answer breaks the rules; `problem` says what to change."""

    def __init__(self, name: str, *, package: str, problem: str) -> None:
        super().__init__(f"policy {name!r} of package {package}: {problem}")
        self.name = name
        self.package = package
        self.problem = problem


class PolicyLoadFailed(DriverError):
    """The package's own code failed when it was imported; the cause is chained."""

    def __init__(self, name: str, *, package: str, cause: BaseException) -> None:
        self.name = name
        self.package = package
        self.reason = _error_text(cause)
        super().__init__(
            f"policy {name!r} of package {package} cannot be imported ({self.reason}): repair or uninstall it"
        )


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
    """Load the policy and check it; its answers are checked later. Raises UnknownPolicy, InvalidPolicy,
    PolicyLoadFailed."""
    claims = [entry_point for entry_point in all_entry_points(GROUP) if entry_point.name == name]
    if not claims:
        raise UnknownPolicy(name, installed=installed_policies())
    package = package_of(claims[0])
    if len(claims) > 1:
        packages = ", ".join(sorted(map(package_of, claims)))
        raise InvalidPolicy(
            name, package=packages, problem="several packages have this name: uninstall all but one"
        )
    try:
        loaded: Any = load(claims[0])
    except (Exception, SystemExit) as error:  # another package's module may raise anything, or exit
        raise PolicyLoadFailed(name, package=package, cause=error) from error
    if not inspect.isclass(loaded):
        kind = type(loaded).__name__
        wrong = f"the entry point is a {kind}, not a class: make it name the policy's class"
        raise InvalidPolicy(name, package=package, problem=wrong)
    try:
        policy: Any = loaded()
    except (Exception, SystemExit) as error:
        wrong = f"{loaded.__qualname__}() raised {_error_text(error)}: make it work without arguments"
        raise InvalidPolicy(name, package=package, problem=wrong) from error
    if problem := _problem_of(policy):
        raise InvalidPolicy(name, package=package, problem=problem)
    return _Checked(policy, name, package)


class _Checked:
    """A policy whose answers are checked."""

    def __init__(self, policy: Policy, name: str, package: str) -> None:
        self.order_by = policy.order_by
        self._policy = policy
        self._name = name
        self._package = package

    def order(self, candidates: Sequence[Backend], request: Request) -> Sequence[Backend]:
        """Raises InvalidPolicy."""
        given = tuple(candidates)
        if not given:
            return given
        try:
            ordered = list(self._policy.order(given, request))
        except (Exception, SystemExit) as error:
            raise self._invalid(f"order() raised {_error_text(error)}") from error
        if problem := _problem_of_order(given, ordered):
            raise self._invalid(f"order() {problem}: make it return every candidate, each once")
        return ordered

    def _invalid(self, problem: str) -> InvalidPolicy:
        return InvalidPolicy(self._name, package=self._package, problem=problem)

    def __repr__(self) -> str:
        return f"<policy {self._name!r} of package {self._package}>"


def _problem_of(policy: Any) -> str | None:
    """Return what keeps an object from being a policy, and what to change; None if it is one."""
    if getattr(policy, "order_by", None) not in get_args(Order):
        return f"order_by must be one of {', '.join(map(repr, get_args(Order)))}"
    order = getattr(policy, "order", None)
    if not callable(order):
        return "has no method order(self, candidates, request): add it"
    try:
        inspect.signature(order).bind((), None)
    except TypeError:
        return f"has order{inspect.signature(order)}: make it order(self, candidates, request)"
    except ValueError:  # inspect raises it for a callable in C without a text signature
        return None
    return None


def _problem_of_order(given: Sequence[Backend], ordered: Sequence[object]) -> str | None:
    known = {backend.id: backend for backend in given}
    seen: Counter[int] = Counter()
    for each in ordered:
        if not isinstance(each, Backend) or known.get(each.id) != each:
            return f"returned {each!r:.100}, which is no candidate"
        seen[each.id] += 1
    if missing := sorted(known.keys() - seen.keys()):
        return f"left out {_numbered(missing)}"
    if twice := sorted(backend_id for backend_id, times in seen.items() if times > 1):
        return f"returned {_numbered(twice)} more than once"
    return None


def _numbered(backend_ids: Sequence[int]) -> str:
    return ", ".join(f"backend {backend_id}" for backend_id in backend_ids[:_SHOWN])


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
