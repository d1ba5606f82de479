"""Tests of xenvol.session against the simulator: what xapi's own rules make of sessions, masters and lost answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import XenAPI

from xenvol.errors import ForbiddenCall, XapiError, XapiUnreachable
from xenvol.session import InsecureConnection, Session, connect
from xenvol.simulator import Simulator

UUID = "0a0b0c0d-1111-4222-8333-444455556666"
INTRODUCE = (UUID, "ours", "", "nfs", "", True, {})


@pytest.fixture
def xapi() -> Iterator[Simulator]:
    with Simulator(hosts=3) as xapi:
        yield xapi


@pytest.fixture
def session(xapi: Simulator) -> Iterator[Session]:
    with connect(xapi.url, xapi.user, xapi.password, timeout=5) as session:
        yield session


def entries(xapi: Simulator, method: str) -> list[Any]:
    return [entry for entry in xapi.journal if entry.method == method]


def test_a_session_comes_and_goes(xapi: Simulator) -> None:
    """One row in the pool's database while it lasts, under our originator; none after."""
    with connect(xapi.url, xapi.user, xapi.password) as session:
        record = session.call("session.get_record", session.handle)
        assert record["originator"].startswith("xenvol/")
        assert xapi.db.refs("session") == [session.handle]
    assert xapi.db.refs("session") == []


def test_a_thousand_calls_take_one_session(xapi: Simulator, session: Session) -> None:
    """A leaked session costs somebody else theirs: xapi ends the oldest."""
    for _ in range(1000):
        session.call("pool.get_all")
    assert len(xapi.db.refs("session")) == 1
    assert len(xapi.journal.logins) == 1


def test_after_the_log_in_nothing_is_called_that_was_not_asked_for(xapi: Simulator, session: Session) -> None:
    """Calls are counted: what the session needs for itself, it learns when it logs in."""
    before = len(list(xapi.journal))
    session.call("SR.introduce", *INTRODUCE)
    session.find("SR", {"uuid": UUID})
    assert [entry.method for entry in xapi.journal][before:] == ["SR.introduce", "SR.get_all_records_where"]


def test_a_refusal_is_the_simulator_s_word_for_word(session: Session) -> None:
    """As a real xapi says it (docs/background/recordings.md, Storage)."""
    session.call("SR.introduce", *INTRODUCE)
    with pytest.raises(XapiError) as caught:
        session.call("SR.introduce", *INTRODUCE)
    assert (caught.value.code, caught.value.params, caught.value.call) == (
        "SR_UUID_EXISTS",
        (UUID,),
        "SR.introduce",
    )
    assert caught.value.hint


def test_a_write_that_was_done_and_lost_its_answer_was_done_once(xapi: Simulator, session: Session) -> None:
    """Looking it up tells."""
    xapi.faults.lose_answer("SR.introduce")
    with pytest.raises(XapiUnreachable):
        session.call("SR.introduce", *INTRODUCE)
    assert len(entries(xapi, "SR.introduce")) == 1
    assert len(session.find("SR", {"uuid": UUID})) == 1


def test_a_write_that_was_lost_on_the_way_is_not_done(xapi: Simulator, session: Session) -> None:
    """It looks the same from here, which is why nobody sends it again."""
    xapi.faults.lose_request("SR.introduce")
    with pytest.raises(XapiUnreachable):
        session.call("SR.introduce", *INTRODUCE)
    assert session.find("SR", {"uuid": UUID}) == {}


def test_a_read_that_lost_its_answer_is_asked_again(xapi: Simulator, session: Session) -> None:
    """Twice if need be."""
    xapi.faults.lose_answer("SR.get_all_records_where")
    xapi.faults.lose_request("SR.get_all_records_where", nth=2)
    assert session.find("SR", {"uuid": UUID}) == {}
    assert len(entries(xapi, "SR.get_all_records_where")) == 3


def test_idle_connections_that_xapi_closed_cost_nothing(xapi: Simulator, session: Session) -> None:
    """The next write goes over a new one, once."""
    xapi.faults.drop_connection()
    time.sleep(0.05)  # the end of a connection travels, too, even on the loopback
    session.call("SR.introduce", *INTRODUCE)
    assert len(entries(xapi, "SR.introduce")) == 1


def test_a_write_that_hangs_is_silence_after_the_timeout(xapi: Simulator) -> None:
    """And it may yet happen."""
    with connect(xapi.url, xapi.user, xapi.password) as session:
        session._wrapped._clients._timeout = 0.2  # not from the start: a busy machine needs longer to log in
        order = xapi.faults.hang("SR.introduce")
        with pytest.raises(XapiUnreachable) as caught:
            session.call("SR.introduce", *INTRODUCE)
        assert isinstance(caught.value.cause, TimeoutError)
        order.release()


@pytest.mark.parametrize("call", ["SR.introduce", "SR.get_all"])
def test_an_expired_session_is_renewed_within_the_call(xapi: Simulator, session: Session, call: str) -> None:
    """A write as well as a read: SESSION_INVALID did not happen."""
    xapi.faults.expire_session(call)
    session.call(call, *(INTRODUCE if call == "SR.introduce" else ()))
    assert [entry.outcome for entry in entries(xapi, call)] == ["SESSION_INVALID", "success"]
    assert len(xapi.db.refs("session")) == 1


def test_any_host_leads_to_the_master(xapi: Simulator) -> None:
    """A member answers HOST_IS_SLAVE with the master's address."""
    for url in xapi.urls:
        with connect(url, xapi.user, xapi.password) as session:
            assert str(session.endpoint) == xapi.url


def test_a_master_that_moves_before_a_write_is_followed(xapi: Simulator, session: Session) -> None:
    """The write is done once, by the new master."""
    second = xapi.db.refs("host")[1]
    xapi.faults.move_master(second, before="SR.introduce")
    session.call("SR.introduce", *INTRODUCE)
    assert [entry.outcome for entry in entries(xapi, "SR.introduce")] == ["HOST_IS_SLAVE", "success"]
    assert str(session.endpoint) == xapi.urls[1]
    assert len(xapi.journal.logins) == 1


def test_a_master_that_dies_is_succeeded(xapi: Simulator, session: Session) -> None:
    """The first call after that finds the new one, logs in there and is done once."""
    first, second, _ = xapi.db.refs("host")
    xapi.faults.die(host=first)
    xapi.faults.move_master(second)
    session.call("SR.introduce", *INTRODUCE)
    assert len(entries(xapi, "SR.introduce")) == 1
    assert str(session.endpoint) == xapi.urls[1]
    assert len(session.find("SR", {"uuid": UUID})) == 1


def test_a_master_that_dies_in_the_middle_of_a_write_leaves_it_to_the_caller(
    xapi: Simulator, session: Session
) -> None:
    """It was done, nobody said so, and the next call is answered by the successor."""
    first, second, _ = xapi.db.refs("host")
    xapi.faults.die(after="SR.introduce", host=first)
    with pytest.raises(XapiUnreachable):
        session.call("SR.introduce", *INTRODUCE)
    xapi.faults.move_master(second)
    assert len(session.find("SR", {"uuid": UUID})) == 1
    assert len(entries(xapi, "SR.introduce")) == 1


def test_a_master_that_comes_back_is_taken_up_again(xapi: Simulator, session: Session) -> None:
    """Its toolstack was restarted: nobody took over meanwhile, and the call waits a little."""
    xapi.faults.die(host=xapi.xapi.master)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        xapi.faults.come_back()

    Session(session._wrapped, sleep=wait).call("SR.introduce", *INTRODUCE)
    assert len(waits) == 1
    assert len(entries(xapi, "SR.introduce")) == 1


def test_a_busy_xapi_is_asked_again(xapi: Simulator, session: Session) -> None:
    """TOO_MANY_PENDING_TASKS is a no that passes."""
    xapi.faults.refuse("SR.introduce", "TOO_MANY_PENDING_TASKS")
    session.call("SR.introduce", *INTRODUCE)
    assert [entry.outcome for entry in entries(xapi, "SR.introduce")] == ["TOO_MANY_PENDING_TASKS", "success"]


def test_a_driver_s_view_reaches_nothing_that_it_may_not(xapi: Simulator, session: Session) -> None:
    """Nothing of it is in the journal."""
    view = session.restricted(driver="nfs")
    sr_ref = view.call("SR.introduce", *INTRODUCE)
    for call in ("SR.destroy", "Async.SR.destroy"):
        with pytest.raises(ForbiddenCall):
            view.call(call, sr_ref)
    assert entries(xapi, "SR.destroy") == entries(xapi, "Async.SR.destroy") == []
    view.call("SR.forget", sr_ref)


def test_a_session_of_the_official_client_serves_as_well(xapi: Simulator) -> None:
    """It follows no master and renews its sessions itself."""
    theirs = XenAPI.Session(xapi.url)
    theirs.login_with_password(xapi.user, xapi.password, "1.0", "theirs")
    session = Session(theirs)
    assert session.call("SR.introduce", *INTRODUCE).startswith("OpaqueRef:")
    xapi.faults.expire_session("SR.get_all")
    assert len(session.call("SR.get_all")) == 1
    theirs.logout()
    theirs("close")()


def test_filters_find_what_they_say(session: Session) -> None:
    """In xapi's own language, as xapi reads it."""
    refs = [
        session.call(
            "SR.introduce",
            f"0000000{n}-1111-4222-8333-444455556666",
            f"sr (or) and {n}",
            "",
            kind,
            "",
            n > 1,
            {},
        )
        for n, kind in enumerate(["nfs", "nfs", "iscsi", "file"])
    ]
    assert set(session.find("SR", {"type": "nfs"})) == set(refs[:2])
    assert set(session.find("SR", {"type": ["nfs", "file"], "shared": False})) == set(refs[:2])
    assert set(
        session.find("SR", {"shared": True}, either={"type": "iscsi", "name_label": "sr (or) and 1"})
    ) == {refs[2]}
    assert set(session.find("SR", {}, either={"type": "file", "name_label": "sr (or) and 1"})) == {
        refs[1],
        refs[3],
    }
    assert session.find("SR", {"type": []}) == {}


class TestTLS:
    @pytest.fixture
    def xapi(self) -> Iterator[Simulator]:
        with Simulator(tls=True) as xapi:
            yield xapi

    def test_the_simulator_is_trusted_by_its_certificate(self, xapi: Simulator) -> None:
        """And not without."""
        with connect(xapi.url, xapi.user, xapi.password, ca_file=xapi.ca_file) as session:
            assert len(session.call("pool.get_all")) == 1
        with pytest.raises(XapiUnreachable, match="certificate"):
            connect(xapi.url, xapi.user, xapi.password)
        with pytest.warns(InsecureConnection):
            connect(xapi.url, xapi.user, xapi.password, insecure=True).close()
