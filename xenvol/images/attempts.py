"""Who is at a disk's bytes, since when: said on all that a transfer makes, until it is over.

A disk that is being filled, a snapshot that is being read and the VBD by which that is done say so from the call that
makes them. So whoever made them finds them again after an answer that was lost, and what an attempt that died has left
is known as such by anybody. A disk that is finished says so no more before it is handed out.
"""

from __future__ import annotations

import datetime
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xenvol.marks import IMAGE


@dataclass(frozen=True)
class Attempt:
    """One import or export."""

    token: str
    began: datetime.datetime
    """In UTC, by this machine's clock."""
    machine: str
    """Host name and process."""

    @classmethod
    def begin(cls) -> Attempt:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        return cls(secrets.token_hex(8), now, f"{socket.gethostname()}/{os.getpid()}")

    @property
    def mark(self) -> dict[str, str]:
        """For the other_config of what it makes."""
        return {IMAGE: f"{self.token} {self.began.isoformat()} {self.machine}"}

    def has_marked(self, record: Mapping[str, Any]) -> bool:
        return bool(self.mark.items() <= record["other_config"].items())


def attempt_of(record: Mapping[str, Any], key: str = IMAGE) -> Attempt | None:
    """Whose doing an object is; None where it is nobody's, or where what it says cannot be read."""
    match record["other_config"].get(key, "").split(" "):
        case [token, began, machine]:
            try:
                at = datetime.datetime.fromisoformat(began)
            except ValueError:
                return None
            return None if at.tzinfo is None else Attempt(token, at, machine)
    return None
