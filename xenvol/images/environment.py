"""Where we run, and how long we wait: what a road needs to know that no pool tells; tests give other ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xenvol.images.transfer_mark import Attempt
from xenvol.images.transports import Patience, Road, RoadName, choose
from xenvol.images.transports.base import PATIENCE
from xenvol.pool.view import View
from xenvol.session import Endpoint
from xenvol.session.refs import SRRef


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """This machine, as a rule."""

    root: Path = Path("/")
    """Below it lie the files that say which VM this is."""
    dev: Path = Path("/dev")
    """Where the kernel shows the devices of disks that are plugged."""
    endpoint: Endpoint | None = None
    """A host of the pool, for a session that somebody else has logged in."""
    patience: Patience = PATIENCE

    def choose(self, view: View, sr_ref: SRRef, attempt: Attempt, road: RoadName) -> Road:
        """The road to the disks of an SR. Raises NoRoad, before anything is made."""
        return choose(
            view,
            sr_ref,
            attempt,
            road=road,
            endpoint=self.endpoint,
            root=self.root,
            dev=self.dev,
            patience=self.patience,
        )


HERE: Final = Surroundings()
