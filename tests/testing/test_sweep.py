"""The sweep strikes every call of an operation once, each in a pool of its own, and the caller judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import xenvol
from xenvol.errors import XapiError, XapiUnreachable
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.testing import sweep

CALLS = ["SR.introduce", "SR.add_to_other_config", "SR.forget"]


@pytest.fixture
def begin(xapi: Simulator) -> Iterator[Callable[[], Session]]:
    sessions = []

    def begin() -> Session:
        xapi.reset()
        sessions.append(xenvol.connect(xapi.url, xapi.user, xapi.password))
        return Session(sessions[-1], sleep=lambda seconds: None)

    yield begin
    for session in sessions:
        session.close()


def operation(session: Session) -> None:
    sr_ref = session.call("SR.introduce", "", "sr", "", "nfs", "", True, {})
    session.call("SR.add_to_other_config", sr_ref, "key", "value")
    session.call("SR.forget", sr_ref)


def test_a_run_without_a_fault_tells_the_calls(xapi: Simulator, begin: Callable[[], Session]) -> None:
    assert sweep.calls_of(xapi, begin, operation) == CALLS


@pytest.mark.parametrize(
    ("strike", "error", "left"),
    [
        (sweep.refuse, XapiError, [0, 1, 1]),
        (sweep.late_error, XapiError, [1, 1, 0]),
        (sweep.lose_request, XapiUnreachable, [0, 1, 1]),
        (sweep.lose_answer, XapiUnreachable, [1, 1, 0]),
        (sweep.die, XapiUnreachable, [1, 1, 0]),
    ],
)
def test_each_call_is_struck_in_turn(xapi, begin, strike, error, left) -> None:
    """The faults are over when a case is judged, so the judge may call."""
    cases, found = [], []
    for case in sweep.each_call(xapi, begin, operation, strike):
        cases.append(case)
        found.append(len(case.trial.xenapi.SR.get_all()))
    assert [case.call for case in cases] == CALLS
    assert [case.n for case in cases] == [1, 2, 3]
    assert all(isinstance(case.error, error) for case in cases)
    assert found == left
    assert str(cases[1]).startswith(
        f"{strike.__name__} at call 2, SR.add_to_other_config: {error.__name__}: "
    )


def test_an_operation_that_gets_over_it_has_no_error(xapi: Simulator, begin: Callable[[], Session]) -> None:
    """A read whose answer was lost is retried."""
    (case,) = sweep.each_call(xapi, begin, lambda session: session.call("SR.get_all"), sweep.lose_answer)
    assert case.error is None
    assert str(case) == "lose_answer at call 1, SR.get_all: it succeeded"


def test_an_assertion_of_the_operations_own_is_no_outcome(
    xapi: Simulator, begin: Callable[[], Session]
) -> None:
    """The assertion is raised, with a note on where."""

    def failing(session: Session) -> None:
        try:
            operation(session)
        except XapiError:
            raise AssertionError("a test within the operation") from None

    with pytest.raises(AssertionError, match="a test within") as caught:
        list(sweep.each_call(xapi, begin, failing, sweep.refuse))
    assert caught.value.__notes__ == ["at refuse of call 1, SR.introduce"]
    assert xapi.faults.orders == []
