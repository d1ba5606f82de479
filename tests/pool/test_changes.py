"""What a change records if its call succeeds, is refused, gets no answer or is interrupted."""

from __future__ import annotations

import copy
import signal
import threading
import time
from typing import Any

import pytest

from tests.scenarios import arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.pool.changes import LATE_REFUSALS, call_and_confirm, change, is_no_more, make
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

REFUSED = XapiError("SR_UUID_EXISTS", [], "SR.introduce")
SILENCE = XapiUnreachable("SR.introduce", TimeoutError())
LATE = XapiError("INTERNAL_ERROR", ["Unix.ECONNREFUSED"], "SR.introduce")


class Saying:
    """A view in which every call has the same outcome."""

    def __init__(self, outcome: BaseException | None) -> None:
        self.outcome = outcome

    def call(self, name: str, *params: Any) -> str:
        if self.outcome is not None:
            raise self.outcome
        return "OpaqueRef:new"


@pytest.mark.parametrize(
    ("outcome", "found", "result", "recorded"),
    [
        (None, None, "OpaqueRef:new", ["OpaqueRef:new"]),
        (REFUSED, "OpaqueRef:theirs", REFUSED, []),
        (SILENCE, "OpaqueRef:found", "OpaqueRef:found", ["OpaqueRef:found"]),
        (SILENCE, None, SILENCE, []),
        (LATE, "OpaqueRef:found", "OpaqueRef:found", ["OpaqueRef:found"]),
        (LATE, None, LATE, []),
        (KeyboardInterrupt(), "OpaqueRef:found", KeyboardInterrupt, ["OpaqueRef:found"]),
        (KeyboardInterrupt(), None, KeyboardInterrupt, []),
    ],
    ids=[
        "made",
        "refused",
        "silent-and-there",
        "silent-and-not",
        "refused-after-the-deed",
        "refused-with-such-a-code-before-it",
        "interrupted-and-there",
        "interrupted-and-not",
    ],
)
def test_what_is_made_is_recorded_when_it_is_there(
    outcome: BaseException | None, found: str | None, result: Any, recorded: list[str]
) -> None:
    undo, taken_back = Undo(), []

    def run() -> str:
        view: Any = Saying(outcome)
        return make(
            view,
            undo,
            "made",
            ("SR.introduce",),
            look=lambda: found,
            inverse=lambda _, r: taken_back.append(r),
        )

    if isinstance(result, str):
        assert run() == result
    else:
        with pytest.raises(result if isinstance(result, type) else type(result)):
            run()
    undo.unwind()
    assert taken_back == recorded


@pytest.mark.parametrize(
    ("outcome", "is_so", "raises", "is_recorded"),
    [
        (None, False, None, True),
        (REFUSED, True, XapiError, False),
        (SILENCE, True, None, True),
        (SILENCE, False, XapiUnreachable, True),
        (LATE, True, None, True),
        (LATE, False, XapiError, False),
        (KeyboardInterrupt(), False, KeyboardInterrupt, True),
    ],
    ids=[
        "done",
        "refused",
        "silent-and-so",
        "silent-and-perhaps-under-way",
        "refused-after-the-deed",
        "refused-with-such-a-code-before-it",
        "interrupted",
    ],
)
def test_a_change_is_recorded_unless_it_was_refused(
    outcome: BaseException | None, is_so: bool, raises: type[BaseException] | None, is_recorded: bool
) -> None:
    undo = Undo()
    view: Any = Saying(outcome)

    def run() -> None:
        change(view, undo, "changed", ("PBD.plug",), look=lambda: is_so, inverse=lambda: None)

    if raises is None:
        run()
    else:
        with pytest.raises(raises):
            run()
    assert bool(undo.pending) is is_recorded


class Failing:
    """A `look` that gives these answers in turn, and raises those that are errors."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def __call__(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def made(error: BaseException, look: Failing, undo: Undo, taken_back: list[str]) -> None:
    view: Any = Saying(error)
    make(view, undo, "made X", ("SR.introduce",), look=look, inverse=lambda _, ref: taken_back.append(ref))


@pytest.mark.parametrize("error", [SILENCE, LATE, KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_a_look_that_fails_replaces_no_error_and_the_undo_looks_again(error: BaseException) -> None:
    """The error of `look` becomes a note, and the undo takes back what it finds."""
    error = copy.copy(error)
    undo, taken_back = Undo(), list[str]()
    with pytest.raises(type(error)) as caught:
        made(
            error,
            Failing(XapiUnreachable("SR.get_by_uuid", TimeoutError()), "OpaqueRef:late"),
            undo,
            taken_back,
        )
    assert caught.value is error
    assert "SR.get_by_uuid" in error.__notes__[0]
    assert undo.pending == ("made X, perhaps",)
    assert undo.unwind() == []
    assert taken_back == ["OpaqueRef:late"]


def test_what_was_perhaps_made_and_is_not_there_needs_no_undo() -> None:
    undo, taken_back = Undo(), list[str]()
    with pytest.raises(XapiUnreachable):
        made(copy.copy(SILENCE), Failing(OSError(), None), undo, taken_back)
    assert undo.unwind() == []
    assert taken_back == []


def test_an_interrupt_of_a_look_leaves_and_the_undo_looks_again() -> None:
    """No answer comes, and the user interrupts the `look` that follows."""
    undo, taken_back = Undo(), list[str]()
    with pytest.raises(KeyboardInterrupt):
        made(copy.copy(SILENCE), Failing(KeyboardInterrupt(), "OpaqueRef:late"), undo, taken_back)
    undo.unwind()
    assert taken_back == ["OpaqueRef:late"]


@pytest.mark.parametrize("error", [SILENCE, LATE])
def test_a_change_with_an_unknown_result_is_recorded_and_the_error_stays(error: XenVolError) -> None:
    """The inverse is idempotent, and the error of `look` becomes a note."""
    error = copy.copy(error)
    undo = Undo()
    view: Any = Saying(error)
    with pytest.raises(type(error)) as caught:
        change(view, undo, "changed", ("PBD.plug",), look=Failing(OSError("down")), inverse=lambda: None)
    assert caught.value is error
    assert "down" in error.__notes__[0]
    assert undo.pending == ("changed",)


@pytest.mark.parametrize(
    ("outcome", "look", "raises"),
    [
        (None, Failing(), None),
        (SILENCE, Failing(True), None),
        (SILENCE, Failing(False), XapiUnreachable),
        (SILENCE, Failing(OSError()), XapiUnreachable),
        (LATE, Failing(True), None),
        (LATE, Failing(False), XapiError),
        (REFUSED, Failing(), XapiError),
        (KeyboardInterrupt(), Failing(), KeyboardInterrupt),
    ],
    ids=[
        "done",
        "silent-done",
        "silent-not",
        "silent-unknown",
        "late-done",
        "late-not",
        "refused",
        "interrupted",
    ],
)
def test_what_is_taken_back_is_not_said_not_to_be(
    outcome: BaseException | None, look: Failing, raises: type[BaseException] | None
) -> None:
    """After a missing answer, and after a late refusal, `is_done` reads what happened."""
    undo = Undo()
    view: Any = Saying(outcome)
    undo.did("made X", call_and_confirm, view, ("SR.forget",), is_done=look)
    if raises is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            undo.unwind()
        return
    assert undo.unwind() == ([] if raises is None else [f"not undone: made X ({raises.__name__}: {outcome})"])


@pytest.mark.parametrize("method", ["PBD.unplug", "PBD.destroy", "SR.forget"])
def test_an_undo_whose_answers_are_lost_claims_nothing_false(
    xapi: Simulator, volume_ops: VolumeOps, method: str
) -> None:
    """The attach fails, and every step of the undo succeeds without an answer: no note says that it failed."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    before = xapi.snapshot()
    xapi.faults.refuse("VBD.create", "INTERNAL_ERROR", "no such thing")
    xapi.faults.lose_answer(method, every=True)
    with pytest.raises(XapiError) as caught:
        volume_ops.attach_volume(iscsi(0), "web")
    assert caught.value.call == "VBD.create"
    assert getattr(caught.value, "__notes__", []) == []
    assert changes(before, xapi.snapshot()) == []


def test_an_object_that_is_gone_is_told_from_an_unknown_result(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    view = View(volume_ops._session)
    assert not is_no_more(view, "host", view.master)
    assert is_no_more(view, "host", "OpaqueRef:gone")
    xapi.faults.refuse("host.get_uuid", "RBAC_PERMISSION_DENIED")
    with pytest.raises(XapiError):
        is_no_more(view, "host", view.master)
    assert {"INTERNAL_ERROR"} == LATE_REFUSALS


@pytest.mark.parametrize("method", ["SR.introduce", "PBD.create", "PBD.plug", "VBD.create", "VBD.plug"])
def test_an_attach_that_is_interrupted_while_xapi_is_at_it_is_found_by_the_next(
    xapi: Simulator, volume_ops: VolumeOps, method: str
) -> None:
    """After Ctrl-C the caller no longer waits for the answer, and xapi still completes the call."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    before = xapi.snapshot()
    order = xapi.faults.hang(method)

    def interrupt() -> None:
        while not order.hits:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.3)  # until the undo has begun; xapi continues the call
        order.release()

    keyboard = threading.Thread(target=interrupt)
    keyboard.start()
    with pytest.raises(KeyboardInterrupt):
        volume_ops.attach_volume(iscsi(0), "web")
    keyboard.join()
    if (
        method == "PBD.plug"
    ):  # an unplug waits in xapi for the plug; an object that xapi creates later is not there yet
        assert changes(before, xapi.snapshot()) == []
    while any(entry.outcome == "pending" for entry in xapi.journal):
        time.sleep(0.01)
    volume_ops.attach_volume(iscsi(0), "web")
    volume_ops.detach_volume(iscsi(0), "web")
    assert changes(before, xapi.snapshot()) == []
