"""Where a volume could go, and if not, why not: values in, values out, no call and no database."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Final

from xenvol.sm.errors import InvalidSetting
from xenvol.sm.records import Backend, Flavor

FEATURES: Final = {
    "snapshot": "VDI_SNAPSHOT",
    "clone": "VDI_CLONE",
    "resize": "VDI_RESIZE",
    "resize_online": "VDI_RESIZE_ONLINE",
}
"""What may be wanted of a volume's backend, and the feature by which a storage driver says that it can."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A volume that is looking for a place."""

    volume_id: str
    size: int
    """Bytes, as they were asked for."""
    needs: frozenset[str] = frozenset()
    """Keys of `FEATURES`."""

    def __post_init__(self) -> None:
        if self.size <= 0:
            raise InvalidSetting("size", self.size, accepted="a number of bytes above 0")
        for need in self.needs:
            if need not in FEATURES:
                raise InvalidSetting("feature", need, accepted=", ".join(FEATURES))


def cost(backend: Backend, size: int) -> int:
    """What a volume of that size takes of the backend's `free`: its size as promised, or, thick, as stored."""
    return backend.type.rounded(size) if backend.is_thin else backend.type.taken(size)


def obstacle(backend: Backend, request: Request) -> str | None:
    """Why the backend cannot take the volume, in words for whoever asked; None: it can, as far as is known."""
    if backend.type.luns:
        return (
            f"serves LUNs that exist already, since VDI.create on type {backend.sr_type} hands out a LUN with "
            "whatever is on it; to use one, manage its VDI"
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
        return f"a disk of type {backend.sr_type} has at most {limit} bytes"
    needed = cost(backend, request.size)
    if needed > backend.free:
        kept = "" if backend.free >= 0 else ", by its flavor's reserve and over-subscription"
        return f"has {max(0, backend.free)} bytes to give{kept}, and the volume takes {needed}"
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
    """What may still be given of a backend; below 0 where more is given than should be.

    Of its size the reserve is taken off. A thick disk takes what it is; thin ones may be promised more than
    there is, by the flavor's factor, but neither more than that in all nor more than that of what is free.
    `promised`: to volumes that are being made, which no number of the pool's shows yet.
    """
    usable = physical_size * (100 - flavor.reserved_percentage) // 100
    free = usable - physical_utilisation
    if is_thin:
        factor = Fraction(flavor.over_subscription)  # a float would round petabytes up
        free = min(floor(usable * factor) - virtual_allocation, floor(free * factor))
    return free - promised
