"""docs/background/recordings.md, "pool member that cannot reach its coordinator" (trace 31): its answers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from xenvol.simulator import Simulator
from xenvol.simulator.wire import Caller

COORDINATOR = "127.0.0.1"
ELSEWHERE = ("error", ["HOST_IS_SLAVE", COORDINATOR])


class Member:
    """The second host of a pool, the first of which is dead."""

    def __init__(self, xapi: Simulator) -> None:
        self.xapi = xapi
        self._caller = Caller(xapi.urls[1])

    def call(self, method: str, *params: Any) -> tuple[str, Any]:
        answer = self._caller.call("xmlrpc", method, list(params))
        return answer.kind, answer.value


@pytest.fixture
def member() -> Iterator[Member]:
    with Simulator(hosts=2) as xapi:
        xapi.faults.die(host="host1")
        yield Member(xapi)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(("root", "secret"), id="right, 2 parameters"),
        pytest.param(("root", "secret", "1.0"), id="right, 3 parameters"),
        pytest.param(("root", "secret", "1.0", "t"), id="right, 4 parameters"),
        pytest.param(("root", "wrong", "1.0", "t"), id="wrong password"),
        pytest.param(("nobody", "wrong"), id="unknown user"),
        pytest.param(("", ""), id="nothing"),
    ],
)
def test_a_log_in_is_sent_to_the_coordinator_before_its_credentials_are_checked(
    member: Member, params: tuple[str, ...]
) -> None:
    """Trace 31#2-4. A wrong password would cost a wait; there is none."""
    member.xapi.xapi.login_penalty = 600.0
    start = time.monotonic()
    assert member.call("session.login_with_password", *params) == ELSEWHERE
    assert time.monotonic() - start < 60


def test_no_session_is_left_of_such_a_log_in(member: Member) -> None:
    before = member.xapi.db.count("session")
    member.call("session.login_with_password", "root", "secret")
    assert member.xapi.db.count("session") == before


def test_a_number_of_parameters_that_no_log_in_has_is_refused_as_on_any_host(member: Member) -> None:
    """The dispatcher counts before any rule; not recorded on a member."""
    few = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "session.login_with_password", "2", "1"]
    assert member.call("session.login_with_password", "root") == ("error", few)


def test_a_local_log_in_works_there(member: Member) -> None:
    """Trace 31#5."""
    kind, session = member.call("session.slave_local_login_with_password", "root", "secret")
    assert kind == "result"
    assert session.startswith("OpaqueRef:")
    assert member.call("session.local_logout", session)[0] == "result"


def test_a_local_log_in_looks_at_the_password(member: Member) -> None:
    """Trace 31#6: after two seconds."""
    refused = ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"]
    assert member.call("session.slave_local_login_with_password", "root", "wrong") == ("error", refused)


def test_whether_there_is_an_emergency_is_not_told_without_a_session(member: Member) -> None:
    """Trace 31#7: the missing session counts as minus one parameter."""
    few = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "host.is_in_emergency_mode", "0", "-1"]
    assert member.call("host.is_in_emergency_mode") == ("error", few)


def test_no_answer_at_all_can_be_ordered(member: Member) -> None:
    """What a call with an unknown session got (trace 31#8); here it is refused, unless a test orders no answer."""
    assert member.call("host.get_all", "none") == ("error", ["SESSION_INVALID", "none"])
    order = member.xapi.faults.hang("host.get_all", host="host2")
    impatient = Caller(member.xapi.urls[1], timeout=0.3)
    assert impatient.call("xmlrpc", "host.get_all", ["none"]).kind == "nothing"
    order.release()
