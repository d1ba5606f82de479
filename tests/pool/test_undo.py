"""`unwind` runs every step, newest first, even if some fail."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.pool.undo import Undo


def raising(error: BaseException) -> Callable[[], None]:
    def inverse() -> None:
        raise error

    return inverse


def test_steps_are_taken_back_newest_first() -> None:
    """The last step is undone first, with its recorded arguments."""
    undone: list[object] = []
    undo = Undo()
    undo.did("introduced SR", undone.append, "SR")
    undo.did("created PBD", undone.append, "PBD")
    undo.did("plugged PBD", lambda what, *, how: undone.append((what, how)), "plug", how="hard")
    assert undo.unwind() == []
    assert undone == [("plug", "hard"), "PBD", "SR"]


def test_a_second_unwind_does_nothing() -> None:
    """A step that succeeded never runs again."""
    undone: list[str] = []
    undo = Undo()
    undo.did("introduced SR", undone.append, "SR")
    undo.unwind()
    assert undo.unwind() == []
    assert undone == ["SR"]


def test_forgotten_steps_stay_done() -> None:
    """After `forget`, `unwind` takes nothing back."""
    undone: list[str] = []
    undo = Undo()
    undo.did("introduced SR", undone.append, "SR")
    undo.forget()
    undo.unwind()
    assert undone == []
    assert undo.pending == ()


def test_a_failure_becomes_a_note_on_the_first_error(caplog: pytest.LogCaptureFixture) -> None:
    """No failure replaces the error that caused the unwinding; each one is noted, logged and returned."""
    undone: list[str] = []
    undo = Undo()
    undo.did("introduced SR a1", undone.append, "SR")
    undo.did("plugged PBD b2", raising(XapiError("VDI_IN_USE", ["x"], "PBD.unplug")))
    first = ValueError("the plug failed")
    with caplog.at_level(logging.ERROR):
        residue = undo.unwind(first)
    assert undone == ["SR"]
    assert len(residue) == 1
    assert "plugged PBD b2" in residue[0]
    assert "VDI_IN_USE" in residue[0]
    assert first.__notes__ == residue
    assert [record.getMessage() for record in caplog.records] == residue


@pytest.mark.parametrize(
    "failure", [XapiUnreachable("SR.forget", TimeoutError()), XapiError("SR_HAS_PBD", [], "SR.forget")]
)
def test_a_step_that_failed_is_tried_once_more_by_the_next_unwind(failure: Exception) -> None:
    """After a refusal nothing changed, and after a missing answer the result is unknown: both steps stay recorded."""
    attempts: list[str] = []
    answers: list[Exception | None] = [failure, None]

    def forget() -> None:
        attempts.append("SR.forget")
        if (answer := answers.pop(0)) is not None:
            raise answer

    undo = Undo()
    undo.did("older", attempts.append, "older")
    undo.did("introduced SR", forget)
    assert len(undo.unwind()) == 1
    assert undo.pending == ("introduced SR",)
    assert undo.unwind() == []
    assert attempts == ["SR.forget", "older", "SR.forget"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_costs_no_other_step(interrupt: type[BaseException]) -> None:
    """The remaining steps run. Then the interrupt is raised, or noted on the error if there is one."""
    undone: list[str] = []
    undo = Undo()
    undo.did("oldest", undone.append, "oldest")
    undo.did("middle", raising(interrupt()))
    undo.did("newest", undone.append, "newest")
    with pytest.raises(interrupt):
        undo.unwind()
    assert undone == ["newest", "oldest"]
    assert undo.pending == ("middle",)

    first = ValueError()
    undo.unwind(first)
    assert interrupt.__name__ in first.__notes__[0]


def test_a_step_that_is_interrupted_runs_once_more() -> None:
    """The interrupt is raised when all steps have run; with an error, it becomes a note."""
    undone: list[str] = []
    answers: list[BaseException] = [KeyboardInterrupt(), SystemExit()]

    def forget() -> None:
        if answers:
            raise answers.pop()
        undone.append("SR")

    undo = Undo()
    undo.did("introduced SR", forget)
    first = ValueError()
    assert len(undo.unwind(first)) == 1
    assert undone == []
    assert undo.unwind() == []
    assert undone == ["SR"]

    answers.append(KeyboardInterrupt())
    undo.did("introduced SR", forget)
    with pytest.raises(KeyboardInterrupt):
        undo.unwind()
    assert undone == ["SR", "SR"]

    answers.append(KeyboardInterrupt())
    undo.did("introduced SR", forget)
    second = ValueError()
    assert undo.unwind(second) == []
    assert second.__notes__ == ["interrupted while undoing (KeyboardInterrupt): all of it was undone"]


def test_the_repr_tells_the_state() -> None:
    """It shows the number of steps and the newest one, never the arguments."""
    undo = Undo()
    assert repr(undo) == "<Undo: nothing to take back>"
    undo.did("introduced SR", print)
    undo.did("made a secret for the PBD", print, "hunter2")
    assert repr(undo) == "<Undo: 2 to take back, newest: made a secret for the PBD>"


@given(st.lists(st.booleans(), max_size=12))
def test_every_step_runs_exactly_once_per_unwind(outcomes: list[bool]) -> None:
    """If any subset fails, all steps run in reverse order, and only the failed ones remain, in order."""
    ran: list[int] = []

    def inverse(number: int) -> None:
        ran.append(number)
        if not outcomes[number]:
            raise OSError

    undo = Undo()
    for number in range(len(outcomes)):
        undo.did(str(number), inverse, number)
    residue = undo.unwind()
    failed = [number for number, fine in enumerate(outcomes) if not fine]
    assert ran == list(reversed(range(len(outcomes))))
    assert undo.pending == tuple(map(str, failed))
    assert len(residue) == len(failed)
