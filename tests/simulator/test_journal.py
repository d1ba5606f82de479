"""The journal has every call once, in order, and no secret."""

from __future__ import annotations

import threading
import time

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator
from xenvol.simulator.hooks import Answer, Incoming
from xenvol.simulator.journal import MASK, Entry, Journal

SECRET = {"value": "hunter2", "other_config": {}}


@pytest.fixture
def journal() -> Journal:
    return Journal()


def incoming(number: int, method: str, *params: object) -> Incoming:
    return Incoming(number, "xmlrpc", method, params, "host")


class TestWhatIsWritten:
    def test_an_answered_call_has_its_outcome_and_its_time(self, journal: Journal) -> None:
        call = incoming(1, "SR.scan", "session", "sr")
        journal.arrived(call)
        assert (journal[0].outcome, journal[0].seconds) == ("pending", None)
        time.sleep(0.01)
        journal.answered(call, Answer(""))
        entry = journal[0]
        assert (entry.n, entry.method, entry.params, entry.session) == (1, "SR.scan", ("sr",), "session")
        assert entry.outcome == "success"
        assert entry.seconds is not None
        assert entry.seconds >= 0.01

    def test_a_refused_call_has_the_whole_error(self, journal: Journal) -> None:
        call = incoming(1, "SR.scan", "session", "sr")
        journal.arrived(call)
        journal.answered(call, Answer(error=("SR_HAS_NO_PBDS", "sr")))
        assert (journal[0].outcome, journal[0].error) == ("SR_HAS_NO_PBDS", ("SR_HAS_NO_PBDS", "sr"))

    def test_a_call_that_was_not_done_says_nothing(self, journal: Journal) -> None:
        call = incoming(1, "SR.scan", "session", "sr")
        journal.arrived(call)
        journal.answered(call, None)
        assert journal[0].outcome == "nothing"

    def test_log_ins_are_kept_apart(self, journal: Journal) -> None:
        for number, method in enumerate(["session.login_with_password", "SR.scan", "session.logout"], 1):
            journal.arrived(incoming(number, method, "x"))
        assert journal.methods() == ["SR.scan"]
        assert journal.logins.methods() == ["session.login_with_password", "session.logout"]
        assert repr(journal) == "<Journal: 1 calls>"

    def test_the_listener_is_told_when_a_call_is_over(self, journal: Journal) -> None:
        told: list[Entry] = []
        journal.listener = told.append
        call = incoming(1, "SR.scan", "session", "sr")
        journal.arrived(call)
        assert told == []
        journal.answered(call, Answer(""))
        assert [str(entry) for entry in told] == ["1 SR.scan('sr') → success"]

    def test_a_fault_is_noted_before_or_after_the_arrival(self, journal: Journal) -> None:
        journal.met_fault(1, "refuse")
        journal.arrived(incoming(1, "SR.scan", "session"))
        journal.arrived(incoming(2, "SR.scan", "session"))
        journal.met_fault(2, "delay")
        assert [entry.fault for entry in journal] == ["refuse", "delay"]


class TestSections:
    def test_a_recording_has_the_calls_of_its_block(self, journal: Journal) -> None:
        journal.arrived(incoming(1, "a.b"))
        with journal.recording() as calls:
            assert len(calls) == 0
            journal.arrived(incoming(2, "c.d"))
            assert calls.methods() == ["c.d"]
        journal.arrived(incoming(3, "e.f"))
        assert calls.methods() == ["c.d"]

    def test_since_a_mark_the_calls_grow_on(self, journal: Journal) -> None:
        journal.arrived(incoming(1, "a.b"))
        later = journal.since(journal.mark())
        journal.arrived(incoming(2, "c.d"))
        assert later.methods() == ["c.d"]

    def test_a_cleared_journal_ignores_what_was_under_way(self, journal: Journal) -> None:
        call = incoming(1, "a.b")
        journal.arrived(call)
        journal.clear()
        journal.answered(call, Answer(""))
        assert len(journal) == 0

    def test_the_oldest_calls_are_dropped_beyond_the_limit_and_marks_stay_right(self) -> None:
        journal = Journal(limit=10)
        marks = []
        for number in range(95):
            marks.append(journal.mark())
            journal.arrived(incoming(number, "SR.scan", "session", str(number)))
            assert min(number + 1, 10) <= len(journal) < 20
        assert marks == list(range(95))
        assert [entry.params for entry in journal.since(93)] == [("93",), ("94",)]
        assert len(journal.since(0)) == len(journal)
        journal.clear()
        assert (journal.mark(), len(journal)) == (0, 0)

    def test_slices_and_indexes_work_as_in_a_list(self, journal: Journal) -> None:
        for number in range(5):
            journal.arrived(incoming(number, f"c.m{number}"))
        assert journal[-1].method == "c.m4"
        assert [entry.method for entry in journal[1:3]] == ["c.m1", "c.m2"]


class TestSecrets:
    @pytest.mark.parametrize(
        ("method", "params"),
        [
            ("session.login_with_password", ("root", "hunter2", "1.0", "me")),
            ("session.slave_local_login_with_password", ("root", "hunter2")),
            ("session.change_password", ("s", "hunter2", "hunter2")),
            ("secret.create", ("s", SECRET)),
            ("Async.secret.create", ("s", SECRET)),
            ("secret.set_value", ("s", "ref", "hunter2")),
            ("PBD.create", ("s", {"device_config": {"chappassword": "hunter2", "target": "t"}})),
            ("SR.create", ("s", "host", {"cifspassword": "hunter2", "password": "hunter2"}, "0")),
            ("SR.probe", ("s", "host", {"incoming_chappassword": "hunter2"}, "iscsi", {})),
        ],
    )
    def test_passwords_are_masked(self, journal: Journal, method: str, params: tuple[object, ...]) -> None:
        call = incoming(1, method, *params)
        journal.arrived(call)
        journal.answered(call, Answer(""))
        entries = [*journal, *journal.logins]
        assert "hunter2" not in f"{entries!r} {list(map(str, entries))} {[e.as_json() for e in entries]}"
        assert MASK in str(entries[0])

    def test_what_is_masked_is_a_copy(self, journal: Journal) -> None:
        config = {"device_config": {"chappassword": "hunter2"}}
        journal.arrived(incoming(1, "PBD.create", "s", config))
        assert config == {"device_config": {"chappassword": "hunter2"}}

    def test_the_uuid_of_a_secret_is_no_secret(self, journal: Journal) -> None:
        journal.arrived(incoming(1, "PBD.create", "s", {"chappassword_secret": "uuid"}))
        assert journal[0].params == ({"chappassword_secret": "uuid"},)


class TestOnTheWire:
    def test_every_call_over_the_wire_is_there(self, xapi: Simulator) -> None:
        client = PlainClient(xapi)
        with xapi.journal.recording() as calls:
            client.call("host.get_all")
            client.call("SR.get_uuid", "OpaqueRef:none")
        assert [(entry.method, entry.outcome) for entry in calls] == [
            ("host.get_all", "success"),
            ("SR.get_uuid", "HANDLE_INVALID"),
        ]
        assert {entry.session for entry in calls} == {client.session}
        assert {entry.host for entry in calls} == {xapi.xapi.master}

    def test_no_call_of_many_clients_is_missed_or_counted_twice(self, xapi: Simulator) -> None:
        def work() -> None:
            client = PlainClient(xapi)
            for _ in range(10):
                client.call("host.get_all")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(xapi.journal) == 80
        assert len({entry.n for entry in xapi.journal}) == 80
        assert len(xapi.journal.logins) == 8
