"""What came of the demo: plain values, the same for the screen and for --json. The verdict is worked out from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """One call, as the journal has it."""

    n: int
    """From 1 in each step."""
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
    """A disk of the VM, as its records say over the wire."""

    device: str
    size: int
    driver: str | None
    """None: not a volume of xenvol's."""
    volume_id: str | None
    about: str
    sr: str
    sr_type: str


@dataclass(frozen=True)
class Step:
    """An attach or a detach, and what it took."""

    driver: str
    volume_id: str
    calls: list[Call]


@dataclass(frozen=True)
class Trial:
    """An attach into which a fault was ordered."""

    driver: str
    ordered: str
    calls: list[Call]
    error: dict[str, Any] | None
    """None: the attach found out, and completed."""
    retry_calls: list[Call]
    """Of the same call again, where there was an error."""
    device: str
    """Where the volume was in the end; then it was detached."""
    left: list[str]
    """What was not as before, right after the error or, where there was none, after the detach."""

    @property
    def struck(self) -> int | None:
        """The number of the call that met the fault; None: none did."""
        return next((call.n for call in self.calls if call.fault), None)

    @property
    def is_survived(self) -> bool:
        """Whether the fault struck, and the pool did not keep anything of it."""
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
    """How many objects were compared, every field of each; with them sessions, mounts and files."""
    left: list[str]
    """What differs from the pool at the start; empty is the point."""
    left_by_the_pool: list[str]
    """What differs as well where no xenvol was: see `xenvol.cli.demo.control`."""
    calls: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing of xenvol's is left, now and after each fault."""
        return not self.left and self.refused.is_survived and self.unanswered.is_survived

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"is_clean": self.is_clean}
