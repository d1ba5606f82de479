"""A flavor, a backend and a volume, each as a frozen value of its row. Sizes are bytes, times are UTC."""

from __future__ import annotations

import dataclasses
import datetime
import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal, Self

import sqlalchemy as sa

from xenvol.sm import config
from xenvol.storage.srtypes import SRType, sr_type_of

Origin = Literal["created", "introduced", "found"]
"""How the pool got the backend's SR: we made it, we introduced it, or the pool had it; the last is never forgotten."""
BackendState = Literal["new", "ready"]
VolumeState = Literal["creating", "available", "deleting"]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def new_token() -> str:
    """Return the token by which an object of the pool names its row, so that it is found after a crash."""
    return str(uuid.uuid4())


def tombstone() -> int:
    """Return a value for `deleted` that no other row has."""
    return time.time_ns()


class _Record:
    @classmethod
    def of(cls, row: sa.Row[Any]) -> Self:
        values = row._mapping
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]  # only dataclasses inherit

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        found = dataclasses.asdict(self)  # type: ignore[call-overload]  # only dataclasses inherit
        return {
            key: value.isoformat() if isinstance(value, datetime.datetime) else value
            for key, value in found.items()
        }


@dataclass(frozen=True, kw_only=True)
class Flavor(_Record):
    """A name for a quality of service; any number of backends provide it."""

    id: int
    label: str
    description: str
    policy: str
    """The entry point of ``xenvol.sm.policies`` that chooses among its backends."""
    over_subscription: float
    """How much of thin backends may be promised, as a multiple of their size."""
    reserved_percentage: int
    """Percent of each backend that stays free."""


@dataclass(frozen=True, kw_only=True)
class Backend(_Record):
    """A storage back end: an SR, and how to connect to it."""

    id: int
    flavor_id: int
    sr_uuid: str | None
    """None until the SR is made."""
    sr_type: str
    config_params: str
    """``key=value …`` without secrets; `params` is the same as a mapping."""
    token: str
    origin: Origin
    host_uuid: str | None
    """The host of a local SR; None for a shared one."""
    state: BackendState
    features: str
    physical_size: int
    physical_utilisation: int
    virtual_allocation: int
    free: int
    """Bytes that placement may still give, by the flavor's rules."""
    weight: float
    placed_at: int
    """When a volume was last placed there, in ns; 0: never. For the policy ``round_robin``."""
    stats_at: datetime.datetime | None
    problem: str | None
    """Why no volume can be placed there, or None."""
    created_at: datetime.datetime

    @property
    def params(self) -> dict[str, str]:
        return config.from_text(self.config_params)

    @property
    def type(self) -> SRType:
        return sr_type_of(self.sr_type)

    @property
    def is_thin(self) -> bool:
        """Return True if its disks take only the space that is written to."""
        return self.is_thin_with(self.features)

    def is_thin_with(self, features: str) -> bool:
        """Return `is_thin` for a storage driver with these features."""
        if "THIN_PROVISIONING" in features.split() or self.type.is_thin:
            return True
        return "thin" in self.config_params and self.params.get("allocation") == "thin"  # parsing is slow

    @property
    def is_raw(self) -> bool:
        """Return True if its disks are raw (``type=raw``), and not in the format of its SR type."""
        return "raw" in self.config_params and self.params.get("type") == "raw"

    def has(self, feature: str) -> bool:
        """Return True if its disks have a feature of the storage driver: VDI_SNAPSHOT, VDI_CLONE… Raw disks lack
        some."""
        if feature not in self.features.split():
            return False
        return not self.is_raw or feature not in self.type.raw_lacks()

    def as_dict(self) -> dict[str, Any]:
        plain = super().as_dict()
        del plain["token"], plain["placed_at"]
        return {
            **plain,
            "config_params": self.params,
            "features": self.features.split(),
            "thin": self.is_thin,
        }


@dataclass(frozen=True, kw_only=True)
class Volume(_Record):
    """A volume, or a snapshot of one."""

    id: str
    backend_id: int
    vdi_uuid: str | None
    """None until the VDI is made."""
    token: str
    state: VolumeState
    name: str
    size: int
    """Bytes that were asked for."""
    virtual_size: int | None
    """Bytes of the VDI: never less than `size`."""
    cost: int
    """Bytes that it takes of its backend's `free`."""
    source_id: str | None
    """The volume or snapshot that it was copied from."""
    snapshot_of: str | None
    """The volume of a snapshot."""
    image: str | None
    """The image that the volume was made from."""
    created_at: datetime.datetime

    @property
    def is_snapshot(self) -> bool:
        return self.snapshot_of is not None

    def as_dict(self) -> dict[str, Any]:
        plain = super().as_dict()
        del plain["token"], plain["cost"]
        return plain
