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

from xenvol.pool.changes import call_and_confirm
from xenvol.pool.marks import EXPORTED, IMAGE, IMAGE_OF
from xenvol.pool.view import View
from xenvol.session.refs import VDIRef


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
    def word(self) -> str:
        """What is said of it."""
        return f"{self.token} {self.began.isoformat()} {self.machine}"

    @property
    def mark(self) -> dict[str, str]:
        """For the other_config of what it makes."""
        return {IMAGE: self.word}

    def bind(self, view: View, vdi_ref: VDIRef) -> None:
        """Have a disk that is marked say which disk it is, so that no copy of it is taken for it. Idempotent."""
        uuid = view.record("VDI", vdi_ref)["uuid"]
        call_and_confirm(
            view,
            ("VDI.add_to_other_config", vdi_ref, IMAGE_OF, uuid),
            is_done=lambda: IMAGE_OF in view.call("VDI.get_other_config", vdi_ref),
        )

    def has_marked(self, record: Mapping[str, Any]) -> bool:
        return bool(self.mark.items() <= record["other_config"].items())


def is_own(vdi_rec: Mapping[str, Any]) -> bool:
    """Whether a disk's mark is its own, and not that of a disk that somebody has copied while it had one."""
    return bool(vdi_rec["other_config"].get(IMAGE_OF) == vdi_rec["uuid"])


def unmark(view: View, vdi_ref: VDIRef) -> None:
    """The disk is what it shall be, and nobody's doing any more. Idempotent."""
    for key in (IMAGE, IMAGE_OF):  # in this order: what has the second alone is a disk like any other
        call_and_confirm(
            view,
            ("VDI.remove_from_other_config", vdi_ref, key),
            is_done=lambda key=key: key not in view.call("VDI.get_other_config", vdi_ref),  # type: ignore[misc]
        )


def attempt_of(record: Mapping[str, Any], key: str = IMAGE) -> Attempt | None:
    """Whose doing an object is; None where it is nobody's, or where what it says cannot be read."""
    return _parsed(record["other_config"].get(key, ""))


def exports_of(record: Mapping[str, Any]) -> dict[str, Attempt]:
    """Who makes, or was about to make, a snapshot of a disk: by key of other_config."""
    found = {key: _parsed(word) for key, word in record["other_config"].items() if key.startswith(EXPORTED)}
    return {key: attempt for key, attempt in found.items() if attempt is not None}


def _parsed(word: str) -> Attempt | None:
    match word.split(" "):
        case [token, began, machine]:
            try:
                at = datetime.datetime.fromisoformat(began)
            except ValueError:
                return None
            return None if at.tzinfo is None else Attempt(token, at, machine)
    return None
