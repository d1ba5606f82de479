"""The results of the demo: plain values, the same for the screen and for --json. The verdict is computed from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call, as the journal has it."""

    n: int
    """Counted from 1 in each step."""
    call: str
    about: str
    is_change: bool
    milliseconds: float
    outcome: str
    fault: str


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    is_master: bool


@dataclass(frozen=True)
class Disk:
    """A disk of the VM, from the records that a client reads."""

    device: str
    size: int
    driver: str | None
    """None if it is not a volume of xenvol's."""
    volume_id: str | None
    about: str
    sr: str
    sr_type: str


@dataclass(frozen=True)
class Step:
    """An attach or a detach, and its calls."""

    driver: str
    volume_id: str
    calls: list[Call]


@dataclass(frozen=True)
class Trial:
    """An attach with a fault ordered from the simulator."""

    driver: str
    ordered: str
    calls: list[Call]
    error: dict[str, Any] | None
    """None if the attach noticed the fault, and completed."""
    retry_calls: list[Call]
    """The calls of the same attach after an error."""
    device: str
    """The device of the volume at the end, before it was detached."""
    left: list[str]
    """What differs from before: right after the error, or, without an error, after the detach."""

    @property
    def struck(self) -> int | None:
        """Return the number of the call that met the fault, or None."""
        return next((call.n for call in self.calls if call.fault), None)

    @property
    def is_survived(self) -> bool:
        """Return True if a call met the fault, and the pool kept nothing of it."""
        return self.struck is not None and not self.left


@dataclass(frozen=True)
class Story:
    url: str
    version: str
    pool: str
    hosts: list[Host]
    vm: str
    vm_host: str
    attached: list[Step]
    disks: list[Disk]
    detached: list[Step]
    refused: Trial
    unanswered: Trial
    objects: int
    """How many objects were compared, each with all fields. Sessions, mounts and files are compared too."""
    left: list[str]
    """What differs from the pool at the start; it should be empty."""
    left_by_the_pool: list[str]
    """What differs without xenvol too: see `xenvol.cli.demo.control`."""
    calls: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Return True if xenvol left nothing, now and after each fault."""
        return not self.left and self.refused.is_survived and self.unanswered.is_survived

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"is_clean": self.is_clean}
