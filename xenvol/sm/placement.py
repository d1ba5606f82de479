"""Decide whether a volume fits on a backend, and if not, why. Pure functions: no call, and no database."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Final

from xenvol.amounts import exact_size
from xenvol.sm.errors import InvalidSetting
from xenvol.sm.records import Backend, Flavor

FEATURES: Final = {
    "snapshot": "VDI_SNAPSHOT",
    "clone": "VDI_CLONE",
    "resize": "VDI_RESIZE",
    "resize_online": "VDI_RESIZE_ONLINE",
}
"""What a volume may need of its backend, and the feature that the storage driver must have for it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A volume that needs a backend."""

    volume_id: str
    size: int
    """Bytes that were asked for."""
    needs: frozenset[str] = frozenset()
    """Keys of `FEATURES`."""

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise InvalidSetting("size", self.size, accepted="a number of bytes above 0")
        for need in self.needs:
            if need not in FEATURES:
                raise InvalidSetting("feature", need, accepted=", ".join(FEATURES))


def cost(backend: Backend, size: int) -> int:
    """Return what a volume of that size takes of the backend's `free`: its virtual size if thin, its stored size if
    thick."""
    return backend.type.rounded(size) if backend.is_thin else backend.type.taken(size)


def obstacle(backend: Backend, request: Request) -> str | None:
    """Return why the backend cannot take the volume, or None if nothing known prevents it."""
    if backend.type.luns:
        return (
            f"serves LUNs that exist already, since VDI.create on type {backend.sr_type} hands out an existing LUN "
            "with its data; to use one, manage its VDI"
        )
    if backend.state != "ready":
        return "its SR is not made yet"
    if backend.problem is not None:
        return f"is out of order: {backend.problem}"
    if not backend.has("VDI_CREATE"):
        return f"its storage driver, {backend.sr_type}, makes no disks"
    if missing := sorted(need for need in request.needs if not backend.has(FEATURES[need])):
        who = "its raw disks" if backend.is_raw else f"its storage driver, {backend.sr_type},"
        return f"{who} cannot {' or '.join(missing)}"
    limit = backend.type.max_size
    if limit is not None and request.size > limit:
        return f"a disk of type {backend.sr_type} has at most {exact_size(limit)}"
    needed = cost(backend, request.size)
    if needed > backend.free:
        kept = "" if backend.free >= 0 else ", by its flavor's reserve and over-subscription"
        return f"has {exact_size(max(0, backend.free))} free{kept}, and the volume takes {exact_size(needed)}"
    return None


def placeable(
    flavor: Flavor,
    *,
    is_thin: bool,
    physical_size: int,
    physical_utilisation: int,
    virtual_allocation: int,
    promised: int = 0,
) -> int:
    """Return how many bytes of a backend may still be given; below 0 if more is given than the flavor allows.

    The reserve is taken off the size. A thick disk takes its whole size. For thin disks there are two limits: the
    flavor's factor times the usable size, for all disks together; and the factor times what is free. `promised` bytes
    go to volumes in the making, which the pool's numbers do not show yet.
    """
    usable = physical_size * (100 - flavor.reserved_percentage) // 100
    free = usable - physical_utilisation
    if is_thin:
        factor = Fraction(flavor.over_subscription)  # a float would round petabytes up
        free = min(floor(usable * factor) - virtual_allocation, floor(free * factor))
    return free - promised
