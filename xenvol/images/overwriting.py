"""A disk that was there before is written over by one at a time, and never under a VM; what failed half-way says so.

The claim is a word on the disk, which xapi lets only one set. It is made right before the first byte, since an image
may have been fetched for hours, and looked at once more after the last.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from xenvol.errors import XapiError, XenVolError
from xenvol.images.destination import check_may_be_overwritten, holders_of
from xenvol.images.errors import DiskNotSuited, TransferFailed, UnknownDisk
from xenvol.images.transfer_mark import Attempt, attempt_of
from xenvol.pool.changes import call_and_confirm
from xenvol.pool.marks import FILLED
from xenvol.pool.view import Record, View
from xenvol.session.refs import VDIRef

OVER: Final = "-"
"""For the machine of a claim: the attempt is over, and has failed."""
_TO_PLUG: Final = datetime.timedelta(minutes=2)
"""Within which one who has claimed a disk has it plugged somewhere, if he lives: from then on that tells of him."""


@contextmanager
def claimed(view: View, vdi_ref: VDIRef, attempt: Attempt) -> Iterator[None]:
    """The disk is ours to write over, inside the block. Raises DiskNotSuited, VolumeInUse, TransferFailed.

    After a failure the disk says that it is half filled, and a note on the error does.
    """
    attempt = replace(Attempt.begin(), token=attempt.token)  # which may have begun hours ago, with staging
    uuid = _claim(view, vdi_ref, attempt)
    try:
        yield
        _confirm(view, vdi_ref, attempt)
        _say(view, vdi_ref, None)
    except BaseException as error:
        error.add_note(f"VDI {uuid} may hold a part of the image: fill it again before it is used")
        try:
            if _fresh(view, vdi_ref)["other_config"].get(FILLED) == attempt.word:
                _say(view, vdi_ref, replace(attempt, machine=OVER))
        except XenVolError as failure:
            error.add_note(f"it does not say so itself ({failure})")
        raise


def _claim(view: View, vdi_ref: VDIRef, attempt: Attempt) -> str:
    vdi_rec = _fresh(view, vdi_ref)
    check_may_be_overwritten(view, vdi_rec)
    other = attempt_of(vdi_rec, FILLED)
    if other is not None and other.machine != OVER and attempt.began - other.began < _TO_PLUG:
        raise _is_anothers(vdi_rec, other)
    if FILLED in vdi_rec["other_config"]:
        view.call("VDI.remove_from_other_config", vdi_ref, FILLED)
    try:
        _add(view, vdi_ref, attempt.word)
    except XapiError as error:
        if error.code == "MAP_DUPLICATE_KEY":
            raise _is_anothers(vdi_rec, None) from error
        raise
    return str(vdi_rec["uuid"])


def _is_anothers(vdi_rec: Record, other: Attempt | None) -> DiskNotSuited:
    by = "another import" if other is None else f"an import on {other.machine}"
    return DiskNotSuited(
        f"VDI {vdi_rec['uuid']}",
        problem=f"is being filled by {by}",
        remedy="wait for it; of one that is dead the disk is free after two minutes",
    )


def _confirm(view: View, vdi_ref: VDIRef, attempt: Attempt) -> None:
    vdi_rec = _fresh(view, vdi_ref)
    what = f"writing VDI {vdi_rec['uuid']}"
    if vdi_rec["other_config"].get(FILLED) != attempt.word:
        raise TransferFailed(what, problem="another import has taken the disk over meanwhile")
    if holders := holders_of(view, vdi_rec):
        raise TransferFailed(what, problem=f"{', '.join(holders)} got the disk while it was written")


def _fresh(view: View, vdi_ref: VDIRef) -> Record:
    view.read({"VDI": [vdi_ref]})
    vdi_rec = view.known("VDI", vdi_ref)
    if vdi_rec is None:
        raise UnknownDisk("VDI", vdi_ref)
    return vdi_rec


def _say(view: View, vdi_ref: VDIRef, attempt: Attempt | None) -> None:
    call_and_confirm(
        view,
        ("VDI.remove_from_other_config", vdi_ref, FILLED),
        is_done=lambda: FILLED not in view.call("VDI.get_other_config", vdi_ref),
    )
    if attempt is not None:
        _add(view, vdi_ref, attempt.word)


def _add(view: View, vdi_ref: VDIRef, word: str) -> None:
    call_and_confirm(
        view,
        ("VDI.add_to_other_config", vdi_ref, FILLED, word),
        is_done=lambda: bool(view.call("VDI.get_other_config", vdi_ref).get(FILLED) == word),
    )
