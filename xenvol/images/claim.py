"""The claim: one import at a time overwrites an existing disk, and never while a VM has it. A failed one leaves a mark.

The claim is a key in the disk's other_config, which xapi lets only one process add. The process adds it right before
the first byte, since staging the image may have taken hours, and reads it again after the last byte. The claim's age
is told by the pool's clock, so that machines whose clocks differ agree on it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from xenvol.errors import XapiError, XenVolError
from xenvol.images.disk_checks import check_may_be_overwritten, holders_of
from xenvol.images.errors import DiskNotSuited, TransferFailed, UnknownDisk
from xenvol.pool.changes import call_and_confirm
from xenvol.pool.clock import pool_time
from xenvol.pool.marks import FILLED
from xenvol.pool.transfer_mark import Attempt, attempt_of
from xenvol.pool.view import Record, View
from xenvol.session.refs import VDIRef

_TO_PLUG: Final = datetime.timedelta(minutes=2)
"""The time that a living process needs from its claim to its plugged VBD. Older claims without a VBD are stale."""


@contextmanager
def claimed(view: View, vdi_ref: VDIRef, attempt: Attempt) -> Iterator[None]:
    """Claim the disk for the block. Raises DiskNotSuited, VolumeInUse, TransferFailed.

    After a failure the claim stays, and says that the attempt has failed; a note on the error says that the disk is
    partly written.
    """
    attempt = replace(attempt, began=pool_time(view))  # it may have begun hours ago, with staging
    uuid = _claim(view, vdi_ref, attempt)
    try:
        yield
        _confirm(view, vdi_ref, attempt)
        _replace_claim(view, vdi_ref, None)
    except BaseException as error:
        error.add_note(f"VDI {uuid} may hold a part of the image: fill it again before it is used")
        try:
            if _fresh(view, vdi_ref)["other_config"].get(FILLED) == attempt.text:
                _replace_claim(view, vdi_ref, replace(attempt, has_failed=True))
        except XenVolError as failure:
            error.add_note(f"xenvol could not write this on the disk: {failure}")
        raise


def _claim(view: View, vdi_ref: VDIRef, attempt: Attempt) -> str:
    """Add the claim, and remove a stale one first. Return the disk's uuid."""
    vdi_rec = _fresh(view, vdi_ref)
    check_may_be_overwritten(view, vdi_rec)
    other = attempt_of(vdi_rec, FILLED)
    if other is not None and not other.has_failed and attempt.began - other.began < _TO_PLUG:
        raise _is_claimed(vdi_rec, other)
    if FILLED in vdi_rec["other_config"]:
        view.call("VDI.remove_from_other_config", vdi_ref, FILLED)
    try:
        _add(view, vdi_ref, attempt.text)
    except XapiError as error:
        if error.code == "MAP_DUPLICATE_KEY":
            raise _is_claimed(vdi_rec, None) from error
        raise
    return str(vdi_rec["uuid"])


def _is_claimed(vdi_rec: Record, other: Attempt | None) -> DiskNotSuited:
    by = "another import" if other is None else f"an import on {other.machine}"
    return DiskNotSuited(
        f"VDI {vdi_rec['uuid']}",
        problem=f"is being filled by {by}",
        remedy="wait until it has ended, and run this again; the claim of a killed import is stale after two minutes",
    )


def _confirm(view: View, vdi_ref: VDIRef, attempt: Attempt) -> None:
    """Raise TransferFailed if another import, or a VM, took the disk during the transfer."""
    vdi_rec = _fresh(view, vdi_ref)
    what = f"writing VDI {vdi_rec['uuid']}"
    if vdi_rec["other_config"].get(FILLED) != attempt.text:
        raise TransferFailed(what, problem="another import took the disk over during the transfer")
    if holders := holders_of(view, vdi_rec):
        raise TransferFailed(what, problem=f"{', '.join(holders)} got the disk during the transfer")


def _fresh(view: View, vdi_ref: VDIRef) -> Record:
    """Return the disk's record, read anew. Raises UnknownDisk."""
    view.read({"VDI": [vdi_ref]})
    vdi_rec = view.known("VDI", vdi_ref)
    if vdi_rec is None:
        raise UnknownDisk("VDI", vdi_ref)
    return vdi_rec


def _replace_claim(view: View, vdi_ref: VDIRef, attempt: Attempt | None) -> None:
    call_and_confirm(
        view,
        ("VDI.remove_from_other_config", vdi_ref, FILLED),
        is_done=lambda: FILLED not in view.call("VDI.get_other_config", vdi_ref),
    )
    if attempt is not None:
        _add(view, vdi_ref, attempt.text)


def _add(view: View, vdi_ref: VDIRef, text: str) -> None:
    call_and_confirm(
        view,
        ("VDI.add_to_other_config", vdi_ref, FILLED, text),
        is_done=lambda: bool(view.call("VDI.get_other_config", vdi_ref).get(FILLED) == text),
    )
