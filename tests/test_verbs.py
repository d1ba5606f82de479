"""What is recorded of a call: by whether it succeeded, was refused, was not answered or was interrupted."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest

from tests.scenarios import arrange_target, changes, iscsi, touch_hosts
from xenvol.errors import XapiError, XapiUnreachable
from xenvol.simulator import Simulator
from xenvol.undo import Undo
from xenvol.verbs import change, make
from xenvol.volumeops import VolumeOps

REFUSED = XapiError("SR_UUID_EXISTS", [], "SR.introduce")
SILENCE = XapiUnreachable("SR.introduce", TimeoutError())


class Saying:
    """A view of which every call ends alike."""

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
        (KeyboardInterrupt(), "OpaqueRef:found", KeyboardInterrupt, ["OpaqueRef:found"]),
        (KeyboardInterrupt(), None, KeyboardInterrupt, []),
    ],
    ids=[
        "made",
        "refused",
        "silent-and-there",
        "silent-and-not",
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
        (KeyboardInterrupt(), False, KeyboardInterrupt, True),
    ],
    ids=["done", "refused", "silent-and-so", "silent-and-perhaps-under-way", "interrupted"],
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


@pytest.mark.parametrize("method", ["SR.introduce", "PBD.create", "PBD.plug", "VBD.create", "VBD.plug"])
def test_an_attach_that_is_interrupted_while_xapi_is_at_it_is_found_by_the_next(
    xapi: Simulator, volume_ops: VolumeOps, method: str
) -> None:
    """Ctrl-C: the caller no longer waits for the answer, and xapi does what it was asked all the same."""
    arrange_target(xapi)
    touch_hosts(xapi)
    xapi.add_vm("web")
    before = xapi.snapshot()
    order = xapi.faults.hang(method)

    def interrupt() -> None:
        while not order.hits:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.3)  # until the undo is under way; xapi goes on meanwhile
        order.release()

    keyboard = threading.Thread(target=interrupt)
    keyboard.start()
    with pytest.raises(KeyboardInterrupt):
        volume_ops.attach_volume(iscsi(0), "web")
    keyboard.join()
    if (
        method == "PBD.plug"
    ):  # an unplug waits in xapi for the plug to end; what is only made later is not seen yet
        assert changes(before, xapi.snapshot()) == []
    while any(entry.outcome == "pending" for entry in xapi.journal):
        time.sleep(0.01)
    volume_ops.attach_volume(iscsi(0), "web")
    volume_ops.detach_volume(iscsi(0), "web")
    assert changes(before, xapi.snapshot()) == []
