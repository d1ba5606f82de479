"""The turn mark: one attempt at a time changes an SR, so that xapi never lets one call wait for another.

xapi does not refuse a call that conflicts with a running call on the same SR. It waits: v24.16.0 sleeps a
random 1 to 20 seconds a try (docs/background/recordings.md, finding 1 (xapi)). So one attempt at a time makes the calls
that conflict (PBD.create, plug, unplug, destroy, SR.forget, SR.scan, VDI.introduce):

* Without a mark: the attempt that introduced the SR, until a disk is in use; and the detach of this disk, if no other
  attempt uses the SR. This is the common case, and costs no call.
* Under the mark `TURN`: every other attempt. SR.add_to_other_config gives the mark to one attempt only.

A later attempt marks its VBDs as `JOINED`. If the first disk is detached before the others, its detach marks the SR as
`LEFT`. Until the SR has this mark, the last of the later attempts waits for that detach.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xenvol.errors import DeadlineExceeded, XapiError, XapiUnreachable, XenVolError
from xenvol.pool import waiting
from xenvol.pool.changes import add_key, call_and_confirm
from xenvol.pool.marks import LEFT, TURN
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import SRRef
from xenvol.storage.users import is_held

log = logging.getLogger(__name__)

_PROCESS = uuid.uuid4().hex

_live_turns: set[str] = set()
"""The turn marks that attempts of this process hold."""
_done_introducing: deque[str] = deque(maxlen=1000)
"""The latest SRs that attempts of this process have introduced, and will not change again."""


def look(view: View, sr_ref: SRRef) -> Record:
    """Read the SR with its PBDs and VDIs again, and return it; mostly one call. Raises XapiError HANDLE_INVALID."""
    sr = view.record("SR", sr_ref)
    while True:
        view.read({"SR": [sr_ref], "PBD": sr["PBDs"], "VDI": sr["VDIs"]})
        known, sr = {*sr["PBDs"], *sr["VDIs"]}, view.record("SR", sr_ref)
        if known.issuperset([*sr["PBDs"], *sr["VDIs"]]):
            break
    for cls in ("PBD", "VDI"):
        for ref, record in view.remembered(cls).items():
            if record["SR"] == sr_ref and ref not in sr[f"{cls}s"]:
                view.forget(cls, ref)
    return sr


def is_in_use(view: View, sr: Record) -> bool:
    """Whether a disk of the SR has a VBD, or is held; no call."""
    return any(vdi["VBDs"] or is_held(vdi) for vdi in _vdis(view, sr))


def is_busy(view: View, sr: Record) -> bool:
    """Whether an operation is running on the SR or on one of its disks; no call."""
    return any(record.get("current_operations") for record in (sr, *_vdis(view, sr)))


def is_free(view: View, sr: Record, *, for_unplug: bool = False) -> bool:
    """Whether no other attempt has the turn, and no running operation would make this attempt wait; no call.

    Operations on disks, which may take hours, conflict only with PBD.unplug.
    """
    busy = is_busy(view, sr) if for_unplug else bool(sr.get("current_operations"))
    return not busy and sr["other_config"].get(TURN) in (None, view.turn)


def _vdis(view: View, sr: Record) -> list[Record]:
    return list(view.known_of("VDI", sr["VDIs"]).values())


def settle(view: View, sr_ref: SRRef, is_settled: Callable[[Record], bool]) -> bool:
    """Read the SR until it is settled. Return False if no live attempt is working on it.

    Raises XapiError HANDLE_INVALID if the SR is gone.
    """
    return waiting.settle(
        view,
        lambda: look(view, sr_ref),
        lambda sr: {"SR": [sr_ref], "PBD": sr["PBDs"], "VDI": sr["VDIs"]},
        is_settled=is_settled,
        is_busy=lambda sr: is_busy(view, sr),
        is_dead=lambda sr: _is_dead(sr["other_config"].get(TURN), sr_ref),
    )


class Turn:
    """The right to change one SR. An attempt may take it and leave it several times."""

    def __init__(self, view: View, sr_ref: SRRef, *, for_unplug: bool = False) -> None:
        self._view = view
        self._sr_ref = sr_ref
        self._for_unplug = for_unplug
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._token = f"{_this_process()} {uuid.uuid4().hex} {platform.node()} {began}"
        self.is_ours = False

    def take(self) -> Record:
        """Wait for the turn. Return the SR, its PBDs and VDIs, read again. Raises XapiError if the SR is gone."""
        is_known = TURN not in self._view.record("SR", self._sr_ref)["other_config"]
        while True:
            if not is_known and not settle(self._view, self._sr_ref, self._is_free):
                self._remove_stale_mark()
            is_known = False
            if not self._try():
                continue
            try:
                # an operator takes no turn, and may be changing the SR
                settle(self._view, self._sr_ref, self._is_free)
                sr = self._view.record("SR", self._sr_ref)
            except BaseException as error:
                self.leave_after(error)
                raise
            if sr["other_config"].get(TURN) == self._token:
                return sr
            self.lose()  # another attempt has removed the mark as stale

    def _try(self) -> bool:
        """Write the mark. Return False if the SR has the mark of another attempt."""
        _live_turns.add(self._token)
        try:
            self._mark()
        except BaseException as error:
            _live_turns.discard(self._token)
            if isinstance(error, XapiError):
                if error.code == "MAP_DUPLICATE_KEY":
                    return False
            else:  # the mark may be on the SR
                self.is_ours = True
                self.leave_after(error)
            raise
        self._view.turn = self._token
        return True

    def leave(self) -> None:
        """Remove the mark. Idempotent, also if the SR is gone.

        Another attempt may have removed the mark as stale, and written its own. So the mark is read first, and that of
        another attempt stays.
        """
        if not self.is_ours:
            return
        call = ("SR.remove_from_other_config", self._sr_ref, TURN)
        try:
            with gone_is_fine("SR"):
                if self._mark_on_sr() == self._token:
                    try:
                        call_and_confirm(self._view, call, is_done=lambda: self._mark_on_sr() != self._token)
                    except XapiUnreachable as silence:
                        # once more: else every other attempt waits until the mark is stale
                        self._view.call(*call)
                        if isinstance(silence, DeadlineExceeded):
                            raise  # the operation ends here
        except BaseException:
            # the mark may still be on the SR, and is stale: the next attempt removes it, or the next `leave`
            self._end()
            raise
        self.lose()

    def leave_after(self, error: BaseException) -> None:
        """Remove the mark after `error`. If that fails, add a note to `error`."""
        try:
            self.leave()
        except XenVolError as failure:
            error.add_note(
                f"not undone: SR {self._sr_ref} keeps its {TURN} mark, which the next attempt removes ({failure})"
            )

    def lose(self) -> None:
        """Forget the turn without a call: the SR, or the mark on it, is gone."""
        self._end()
        self.is_ours = False

    def _end(self) -> None:
        _live_turns.discard(self._token)
        self._view.turn = None

    def try_to_take(self) -> None:
        """Take the turn for an undo, which continues without it if that fails."""
        try:
            self.take()
        except XenVolError as error:
            log.info("changing SR %s without a turn: %s", self._sr_ref, error)

    def _mark(self) -> None:
        call = ("SR.add_to_other_config", self._sr_ref, TURN, self._token)
        call_and_confirm(self._view, call, is_done=lambda: self._mark_on_sr() == self._token)
        self.is_ours = True

    def _is_free(self, sr: Record) -> bool:
        return is_free(self._view, sr, for_unplug=self._for_unplug)

    def _mark_on_sr(self) -> str | None:
        mark: str | None = self._view.call("SR.get_other_config", self._sr_ref).get(TURN)
        return mark

    def _remove_stale_mark(self) -> None:
        seen = self._view.record("SR", self._sr_ref)["other_config"].get(TURN)
        if seen is not None and self._mark_on_sr() == seen:
            self._view.call("SR.remove_from_other_config", self._sr_ref, TURN)

    def __repr__(self) -> str:
        return f"<Turn on {self._sr_ref}, {'ours' if self.is_ours else 'not ours'}>"


@contextmanager
def turn(view: View, sr_ref: SRRef, *, for_unplug: bool = False, undo: Undo | None = None) -> Iterator[Turn]:
    """Take the turn for the body. The steps that the body records in `undo` are taken back in a turn too."""
    mine = Turn(view, sr_ref, for_unplug=for_unplug)
    mine.take()
    if undo is not None:
        undo.did(f"took the turn mark of SR {sr_ref}", mine.leave)
    try:
        yield mine
    except BaseException as error:
        mine.leave_after(error)
        raise
    else:
        mine.leave()
    finally:
        if undo is not None:
            undo.did(f"gave back the turn mark of SR {sr_ref}", mine.try_to_take)


def wait_for_introducer(view: View, sr_ref: SRRef) -> None:
    """Wait until a disk of the SR is in use: before that, the attempt that introduced the SR still changes it.

    Returns at once if that attempt is known to have ended, and after `waiting.GRACE` if it makes no call.
    """
    if not is_introducer_done(sr_ref):
        settle(view, sr_ref, lambda sr: is_in_use(view, sr))


def note_introducer_done(sr_ref: SRRef) -> None:
    """Note that the attempt that introduced the SR, in this process, will not change it again."""
    _done_introducing.append(sr_ref)


def is_introducer_done(sr_ref: SRRef) -> bool:
    """Whether this process knows that the attempt that introduced the SR will not change it again."""
    return sr_ref in _done_introducing or waiting.is_left_behind(sr_ref)


def mark_left(view: View, sr_ref: SRRef) -> None:
    """Mark on the SR that the attachment for which it was introduced has ended. Idempotent."""
    add_key(view, "SR.other_config", sr_ref, LEFT, "")


def _this_process() -> str:
    return f"{_PROCESS}.{os.getpid()}"


def _is_dead(mark: str | None, sr_ref: SRRef) -> bool:
    """Whether the SR's last attempt ran in this process and has ended; `mark` is its turn mark, or None."""
    if mark is None:
        return waiting.is_left_behind(sr_ref)
    return mark.startswith(f"{_this_process()} ") and mark not in _live_turns
