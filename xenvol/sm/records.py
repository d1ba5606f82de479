"""What a row says, as a frozen value: a flavor, a backend, a volume. Sizes are bytes, times are UTC."""

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
"""Of a backend's SR: made by us, made known by us, or known to the pool before; the last is never forgotten."""
BackendState = Literal["new", "ready"]
VolumeState = Literal["creating", "available", "deleting"]


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def new_token() -> str:
    """What an object of the pool says of itself, so that it is found again by whoever comes after a crash."""
    return str(uuid.uuid4())


def tombstone() -> int:
    """A value of `deleted` that no other row has."""
    return time.time_ns()


class _Record:
    @classmethod
    def of(cls, row: sa.Row[Any]) -> Self:
        values = row._mapping
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]  # only dataclasses inherit

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = dataclasses.asdict(self)  # type: ignore[call-overload]  # only dataclasses inherit
        return {
            key: value.isoformat() if isinstance(value, datetime.datetime) else value
            for key, value in found.items()
        }


@dataclass(frozen=True, kw_only=True)
class Flavor(_Record):
    """A user-friendly name for a quality of service; any number of backends provide it."""

    id: int
    label: str
    description: str
    policy: str
    """The entry point in the group ``xenvol.sm.policies`` that chooses among its backends."""
    over_subscription: float
    """How much of thin backends may be promised, as a multiple of what they have."""
    reserved_percentage: int
    """Of every backend, what stays free."""


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
    """Of a local SR, its host."""
    state: BackendState
    features: str
    physical_size: int
    physical_utilisation: int
    virtual_allocation: int
    free: int
    """What placement may still give, by the flavor's rules."""
    weight: float
    placed_at: int
    """When it was last given a volume, in ns; 0: never. For the policy ``round_robin``."""
    stats_at: datetime.datetime | None
    problem: str | None
    """Why nothing can be placed there; None: nothing is known to be wrong."""
    created_at: datetime.datetime

    @property
    def params(self) -> dict[str, str]:
        return config.from_text(self.config_params)

    @property
    def type(self) -> SRType:
        return sr_type_of(self.sr_type)

    @property
    def is_thin(self) -> bool:
        """Whether its disks take only what is written to them."""
        return self.is_thin_with(self.features)

    def is_thin_with(self, features: str) -> bool:
        """The same, where the storage driver says that it has these features."""
        if "THIN_PROVISIONING" in features.split() or self.type.is_thin:
            return True
        return "thin" in self.config_params and self.params.get("allocation") == "thin"  # to parse takes long

    @property
    def is_raw(self) -> bool:
        """Whether its disks are made as raw ones (``type=raw``), and not in the format of its type."""
        return "raw" in self.config_params and self.params.get("type") == "raw"

    def has(self, feature: str) -> bool:
        """Whether its disks can, as its storage driver says: VDI_SNAPSHOT, VDI_CLONE, VDI_RESIZE…; raw ones less."""
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
    """As it was asked for."""
    virtual_size: int | None
    """As it was made: never less."""
    cost: int
    """What it takes of its backend's `free`."""
    source_id: str | None
    """What it was copied from."""
    snapshot_of: str | None
    """Of a snapshot, its volume."""
    image: str | None
    """Of a volume that was made of an image, which."""
    created_at: datetime.datetime

    @property
    def is_snapshot(self) -> bool:
        return self.snapshot_of is not None

    def as_dict(self) -> dict[str, Any]:
        plain = super().as_dict()
        del plain["token"], plain["cost"]
        return plain
