"""The turn mark: one attempt at a time changes an SR, so that no call of ours makes xapi wait for another one.

xapi does not refuse a call that conflicts with one that is under way on the same SR. It waits: v24.16.0 sleeps a
random 1 to 20 seconds a try (docs/background/recordings.md, finding 1 (xapi)). So one attempt at a time makes the calls
that conflict (PBD.create, plug, unplug, destroy, SR.forget, SR.scan, VDI.introduce):

* the attempt that introduced the SR, until it has put a disk into use, and the detach that takes this disk out again,
  as long as nobody else has come: this is the ordinary road, and costs no call;
* everybody else under a mark, `TURN`, which SR.add_to_other_config gives to one only.

Attempts that come later say so on their VBDs (`JOINED`). When the disk that came first leaves before them, its detach
says so on the SR (`LEFT`). As long as that is not said, the last of those that came later waits for it.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.pool import waiting
from xenvol.pool.changes import change
from xenvol.pool.marks import LEFT, TURN
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import SRRef
from xenvol.storage.users import is_held

log = logging.getLogger(__name__)

_PROCESS = uuid.uuid4().hex

_alive: set[str] = set()
"""The turns that attempts of this process have."""
_plugged: deque[str] = deque(maxlen=1000)
"""The SRs that attempts of this process have introduced, and changed for the last time; the latest of them."""


def look(view: View, sr_ref: SRRef) -> Record:
    """Read the SR with its PBDs and VDIs anew, in one call. Raises XapiError HANDLE_INVALID."""
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
    """Whether a disk of the SR has a VBD, or is connected without a VM; no call."""
    return any(vdi["VBDs"] or is_held(vdi) for vdi in _vdis(view, sr))


def is_busy(view: View, sr: Record) -> bool:
    """Whether an operation on the SR or on a disk of it is under way; no call."""
    return any(record.get("current_operations") for record in (sr, *_vdis(view, sr)))


def is_free(view: View, sr: Record, *, for_unplug: bool = False) -> bool:
    """Whether nobody else has the turn, and no operation is under way that would make ours wait; no call.

    Operations on disks, which may take hours, are only in the way of PBD.unplug.
    """
    busy = is_busy(view, sr) if for_unplug else bool(sr.get("current_operations"))
    return not busy and sr["other_config"].get(TURN) in (None, view.turn)


def _vdis(view: View, sr: Record) -> list[Record]:
    return [vdi for ref in sr["VDIs"] if (vdi := view.known("VDI", ref)) is not None]


def settle(view: View, sr_ref: SRRef, is_settled: Callable[[Record], bool]) -> bool:
    """Look at the SR until it is as it shall be; False when nobody is at work that could bring it there.

    Raises XapiError HANDLE_INVALID when the SR has gone.
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
    """The right to change one SR; taken, and left, as often as need be."""

    def __init__(self, view: View, sr_ref: SRRef, *, for_unplug: bool = False) -> None:
        self._view = view
        self._sr_ref = sr_ref
        self._for_unplug = for_unplug
        began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._token = f"{_this_process()} {uuid.uuid4().hex} {platform.node()} {began}"
        self.is_ours = False
        self._since = 0.0

    def take(self) -> Record:
        """Wait for the turn. Return the SR, its PBDs and VDIs, read anew. Raises XapiError if the SR is gone."""
        is_known = TURN not in self._view.record("SR", self._sr_ref)["other_config"]
        while True:
            if not is_known and not settle(self._view, self._sr_ref, self._is_free):
                self._drop_dead()
            is_known = False
            if not self._try():
                continue
            try:
                # an operator, who takes no turn, may be at work
                settle(self._view, self._sr_ref, self._is_free)
                sr = self._view.record("SR", self._sr_ref)
            except BaseException as error:
                self.leave_after(error)
                raise
            if sr["other_config"].get(TURN) == self._token:
                return sr
            self.lose()  # somebody took us for dead

    def _try(self) -> bool:
        """Write the mark; False where another attempt has its mark there."""
        _alive.add(self._token)
        try:
            self._mark()
        except BaseException as error:
            _alive.discard(self._token)
            if isinstance(error, XapiError):
                if error.code == "MAP_DUPLICATE_KEY":
                    return False
            else:  # it may be there
                self.is_ours = True
                self.leave_after(error)
            raise
        self._view.turn = self._token
        return True

    def leave(self) -> None:
        """Give it back; idempotent, and fine where the SR has gone.

        After a while others may have taken us for dead: then the mark may be that of another attempt, and stays.
        """
        if not self.is_ours:
            return
        call = ("SR.remove_from_other_config", self._sr_ref, TURN)
        _alive.discard(self._token)  # where the mark cannot be removed, nobody here waits for us
        with gone_is_fine("SR"):
            if time.monotonic() - self._since < waiting.GRACE or self._there() == self._token:
                try:
                    self._view.call(*call)
                except XapiUnreachable:
                    if self._there() == self._token:
                        self._view.call(*call)
        self.lose()

    def leave_after(self, error: BaseException) -> None:
        """Give it back where something has failed, which is the error that counts."""
        try:
            self.leave()
        except XenVolError as failure:
            error.add_note(f"not undone: SR {self._sr_ref} keeps the mark {TURN} for a while ({failure})")

    def lose(self) -> None:
        """The SR has gone, and the turn with it."""
        _alive.discard(self._token)
        self.is_ours, self._view.turn = False, None

    def try_to_take(self) -> None:
        """For an undo, which goes on without it."""
        try:
            self.take()
        except XenVolError as error:
            log.info("SR %s is changed out of turn: %s", self._sr_ref, error)

    def _mark(self) -> None:
        call = ("SR.add_to_other_config", self._sr_ref, TURN, self._token)
        change(
            self._view,
            None,
            "took the turn",
            call,
            look=lambda: self._there() == self._token,
        )
        self.is_ours, self._since = True, time.monotonic()

    def _is_free(self, sr: Record) -> bool:
        return is_free(self._view, sr, for_unplug=self._for_unplug)

    def _there(self) -> str | None:
        mark: str | None = self._view.call("SR.get_other_config", self._sr_ref).get(TURN)
        return mark

    def _drop_dead(self) -> None:
        seen = self._view.record("SR", self._sr_ref)["other_config"].get(TURN)
        if seen is not None and self._there() == seen:
            self._view.call("SR.remove_from_other_config", self._sr_ref, TURN)

    def __repr__(self) -> str:
        return f"<Turn on {self._sr_ref}, {'ours' if self.is_ours else 'not ours'}>"


@contextmanager
def turn(view: View, sr_ref: SRRef, *, for_unplug: bool = False, undo: Undo | None = None) -> Iterator[Turn]:
    """Change the SR in the body, and nobody else does. What the body records in `undo` is taken back in a turn, too."""
    mine = Turn(view, sr_ref, for_unplug=for_unplug)
    mine.take()
    if undo is not None:
        undo.did("had the turn", mine.leave)
    try:
        yield mine
    except BaseException as error:
        mine.leave_after(error)
        raise
    else:
        mine.leave()
    finally:
        if undo is not None:
            undo.did("had no turn", mine.try_to_take)


def wait_for_the_first(view: View, sr_ref: SRRef) -> None:
    """Wait until a disk of an SR of ours is in use, since before that the attempt that introduced the SR changes it.

    Returns at once where that attempt is known to be over, and after `waiting.GRACE` where it makes no call.
    """
    if not is_nobodys(sr_ref):
        settle(view, sr_ref, lambda sr: is_in_use(view, sr))


def has_plugged(sr_ref: SRRef) -> None:
    """Note that the attempt that introduced the SR, in this process, changes it no more."""
    _plugged.append(sr_ref)


def is_nobodys(sr_ref: SRRef) -> bool:
    """Whether it is known here that the attempt that introduced the SR changes it no more."""
    return sr_ref in _plugged or waiting.is_left_behind(sr_ref)


def say_left(view: View, sr_ref: SRRef) -> None:
    """Say that what the SR was introduced for leaves it to those who came later. Idempotent."""
    try:
        view.call("SR.add_to_other_config", sr_ref, LEFT, "")
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise


def _this_process() -> str:
    return f"{_PROCESS}.{os.getpid()}"


def _is_dead(mark: str | None, sr_ref: SRRef) -> bool:
    """Whether who was at work here, in this process, is over."""
    if mark is None:
        return waiting.is_left_behind(sr_ref)
    return mark.startswith(f"{_this_process()} ") and mark not in _alive
