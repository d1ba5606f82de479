"""The transfer mark: which attempt writes or reads a disk, and since when.

Three objects have it from the call that makes them: a disk that an import fills, a snapshot that an export reads, and
the VBD through which the bytes go. So the process finds its object again after a missing answer, and any other process
recognises what a dead attempt left. The mark of a disk is removed before the caller gets the disk.

A disk that an import overwrites has a mark of its own, from the first byte on; it is removed after the last byte. Until
then the disk holds neither its old data nor the image, and `check_is_whole` keeps callers from using it.

The times are those of the pool's clock, as the master tells it: two machines may have clocks that differ.
"""

from __future__ import annotations

import datetime
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from xenvol.errors import HalfWrittenDisk
from xenvol.pool.changes import call_and_confirm
from xenvol.pool.clock import pool_time
from xenvol.pool.marks import EXPORTED, FILLED, IMAGE, IMAGE_OF
from xenvol.pool.view import View
from xenvol.session.refs import VDIRef

_FAILED: Final = "-"
"""Stands before the machine in the mark of an attempt that has failed. No host name begins so."""


@dataclass(frozen=True)
class Attempt:
    """One import or export."""

    token: str
    began: datetime.datetime
    """In UTC, by the pool's clock."""
    machine: str
    """Host name and process number; empty in a failed mark of an earlier release."""
    has_failed: bool = False
    """Whether the attempt has ended with an error. A killed attempt could not write this."""

    @classmethod
    def begin(cls, view: View) -> Attempt:
        """Return a new attempt that begins now. One call, and one more if the pool has not been read."""
        return cls(secrets.token_hex(8), pool_time(view), f"{socket.gethostname()}/{os.getpid()}")

    @property
    def text(self) -> str:
        """The value of the mark."""
        return f"{self.token} {self.began.isoformat()} {_FAILED if self.has_failed else ''}{self.machine}"

    @property
    def mark(self) -> dict[str, str]:
        """The mark, for the other_config of what this attempt makes."""
        return {IMAGE: self.text}

    def bind(self, view: View, vdi_ref: VDIRef) -> None:
        """Write the uuid of a marked disk on it, so that a copy, which inherits the mark, can be told. Idempotent."""
        uuid = view.record("VDI", vdi_ref)["uuid"]
        call_and_confirm(
            view,
            ("VDI.add_to_other_config", vdi_ref, IMAGE_OF, uuid),
            is_done=lambda: IMAGE_OF in view.call("VDI.get_other_config", vdi_ref),
        )

    def has_marked(self, record: Mapping[str, Any]) -> bool:
        """Return whether the object of this record has the mark of this attempt."""
        return bool(self.mark.items() <= record["other_config"].items())


def is_own(vdi_rec: Mapping[str, Any]) -> bool:
    """Return whether the mark was written for this very disk; a copy inherits the mark of its source."""
    return bool(vdi_rec["other_config"].get(IMAGE_OF) == vdi_rec["uuid"])


def check_is_whole(vdi_rec: Mapping[str, Any]) -> None:
    """Raise HalfWrittenDisk if a transfer mark says that the disk is half written. Makes no call."""
    if (error := why_not_whole(vdi_rec)) is not None:
        raise error


def why_not_whole(vdi_rec: Mapping[str, Any]) -> HalfWrittenDisk | None:
    """Return the error for a disk that an import overwrites, or failed or was killed while it did. None if it is whole.

    A copy of such a disk inherits the mark, and is as little whole. The unfinished new disk of an import is not whole
    either. A copy of that one is: its maker knows what it is.
    """
    if is_unfinished(vdi_rec):
        return _half_written(vdi_rec, IMAGE)
    return _half_written(vdi_rec, FILLED) if FILLED in vdi_rec["other_config"] else None


def check_is_finished(vdi_rec: Mapping[str, Any]) -> None:
    """Raise HalfWrittenDisk if the disk is the unfinished new disk of an import. Makes no call."""
    if is_unfinished(vdi_rec):
        raise _half_written(vdi_rec, IMAGE)


def is_unfinished(vdi_rec: Mapping[str, Any]) -> bool:
    """Return whether the disk is the unfinished new disk of an import.

    The snapshot that an export reads has the same mark, and is whole.
    """
    marks = vdi_rec["other_config"]
    is_of_this_disk = marks.get(IMAGE_OF, vdi_rec["uuid"]) == vdi_rec["uuid"]
    return IMAGE in marks and is_of_this_disk and not vdi_rec["is_a_snapshot"]


def _half_written(vdi_rec: Mapping[str, Any], key: str) -> HalfWrittenDisk:
    attempt = attempt_of(vdi_rec, key)
    return HalfWrittenDisk(
        vdi_rec["uuid"],
        is_new=key == IMAGE,
        machine=None if attempt is None else attempt.machine or None,
        began=None if attempt is None else attempt.began,
        has_failed=attempt is not None and attempt.has_failed,
    )


def unmark(view: View, vdi_ref: VDIRef) -> None:
    """Remove the mark from a disk that is complete. Idempotent."""
    for key in (IMAGE, IMAGE_OF):  # in this order: a disk with the second key alone counts as unmarked
        call_and_confirm(
            view,
            ("VDI.remove_from_other_config", vdi_ref, key),
            is_done=lambda key=key: key not in view.call("VDI.get_other_config", vdi_ref),  # type: ignore[misc]  # bound early
        )


def attempt_of(record: Mapping[str, Any], key: str = IMAGE) -> Attempt | None:
    """Return the attempt that an object's mark names; None without a mark, or if the mark cannot be read."""
    return _parsed(record["other_config"].get(key, ""))


def exports_of(record: Mapping[str, Any]) -> dict[str, Attempt]:
    """Return the exports that were about to snapshot this disk, by key of other_config."""
    found = {key: _parsed(text) for key, text in record["other_config"].items() if key.startswith(EXPORTED)}
    return {key: attempt for key, attempt in found.items() if attempt is not None}


def _parsed(text: str) -> Attempt | None:
    match text.split(" "):
        case [token, began, machine]:
            try:
                at = datetime.datetime.fromisoformat(began)
            except ValueError:
                return None
            if at.tzinfo is None:
                return None
            has_failed = machine.startswith(_FAILED)
            return Attempt(token, at, machine.removeprefix(_FAILED), has_failed)
    return None
