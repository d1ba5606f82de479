"""Faults strike where they were ordered, and nowhere else."""

from __future__ import annotations

import threading
import time

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator
from xenvol.simulator.faults import Faults
from xenvol.simulator.hooks import SERVED, Incoming
from xenvol.simulator.orders import KINDS
from xenvol.simulator.wire import Caller

SECRET = {"value": "v", "other_config": {}}


class NoMachines:
    """A pool of one host, to which nothing happens."""

    def die(self, host: str | None) -> None: ...
    def come_back(self, host: str | None) -> None: ...
    def drop_connections(self, host: str | None) -> None: ...
    def move_master(self, host: str, *, keep_sessions: bool) -> None: ...

    def find_host(self, host: str) -> str:
        return host


@pytest.fixture
def faults() -> Faults:
    return Faults(NoMachines())


@pytest.fixture
def client(xapi: Simulator) -> PlainClient:
    return PlainClient(xapi)


def incoming(method: str, number: int = 1, host: str = "host1") -> Incoming:
    return Incoming(number, "xmlrpc", method, ("session",), host)


def secrets(xapi: Simulator) -> int:
    return xapi.db.count("secret")


class TestOrders:
    def test_an_order_strikes_the_nth_matching_call_and_is_then_spent(self, faults: Faults) -> None:
        faults.refuse("SR.scan", "SR_FULL", nth=3)
        fates = [faults.fate(incoming("SR.scan")) for _ in range(5)]
        assert [fate.refuse is not None for fate in fates] == [False, False, True, False, False]
        assert faults.orders == []

    def test_an_order_counts_from_when_it_was_given(self, faults: Faults) -> None:
        faults.fate(incoming("SR.scan"))
        faults.refuse("SR.scan", "SR_FULL", "1", nth=2)
        assert faults.fate(incoming("SR.scan")).refuse is None
        refusal = faults.fate(incoming("SR.scan")).refuse
        assert refusal is not None
        assert refusal.description == ["SR_FULL", "1"]

    def test_an_order_for_every_call_strikes_from_the_nth_on(self, faults: Faults) -> None:
        faults.lose_answer("SR.scan", nth=2, every=True)
        assert [faults.fate(incoming("SR.scan")).lose_answer for _ in range(4)] == [False, True, True, True]
        assert len(faults.orders) == 1

    def test_other_methods_do_not_count(self, faults: Faults) -> None:
        faults.lose_answer("VBD.create", nth=2)
        calls = ["VBD.create", "VBD.plug", "VBD.create"]
        assert [faults.fate(incoming(method)).lose_answer for method in calls] == [False, False, True]

    def test_an_async_call_is_matched_by_the_plain_name(self, faults: Faults) -> None:
        faults.lose_answer("VDI.create")
        assert faults.fate(incoming("Async.VDI.create")).lose_answer

    def test_a_pattern_matches_a_whole_class(self, faults: Faults) -> None:
        faults.lose_answer("VBD.*", nth=2)
        calls = ["VBD.create", "VM.start", "VBD.plug"]
        assert [faults.fate(incoming(method)).lose_answer for method in calls] == [False, False, True]

    def test_a_star_counts_what_the_journal_counts(self, faults: Faults) -> None:
        """Log-ins are not part of the work, so the n-th call is the n-th of the journal."""
        faults.lose_answer("*", nth=2)
        calls = ["session.login_with_password", "SR.scan", "session.logout", "VDI.create"]
        struck = [faults.fate(incoming(method)).lose_answer for method in calls]
        assert struck == [False, False, False, True]

    def test_an_order_may_be_for_one_host(self, faults: Faults) -> None:
        faults.lose_answer("SR.scan", host="host2")
        assert not faults.fate(incoming("SR.scan")).lose_answer
        assert faults.fate(incoming("SR.scan", host="host2")).lose_answer

    def test_several_orders_may_strike_one_call(self, faults: Faults) -> None:
        faults.delay("SR.scan", 1.5)
        faults.lose_answer("SR.*")
        fate = faults.fate(incoming("SR.scan"))
        assert (fate.delay, fate.lose_answer) == (1.5, True)

    def test_what_was_cleared_does_not_strike(self, faults: Faults) -> None:
        faults.lose_answer("SR.scan")
        faults.clear()
        assert faults.fate(incoming("SR.scan")) == SERVED

    def test_a_single_order_can_be_cancelled(self, faults: Faults) -> None:
        order = faults.lose_answer("SR.scan")
        assert order is not None
        assert faults.cancel(order.number)
        assert not faults.cancel(order.number)
        assert faults.fate(incoming("SR.scan")) == SERVED

    def test_an_order_tells_how_often_it_was_seen_and_struck(self, faults: Faults) -> None:
        order = faults.refuse("SR.scan", "SR_FULL", nth=2)
        faults.fate(incoming("SR.scan"))
        assert repr(order) == "<Order 1: refuse SR_FULL at SR.scan #2, seen 1, struck 0>"
        assert repr(faults) == "<Faults: 1 orders open>"

    def test_calls_are_counted_from_one(self, faults: Faults) -> None:
        with pytest.raises(ValueError, match="counted from 1"):
            faults.lose_answer("SR.scan", nth=0)

    def test_under_many_threads_exactly_one_call_is_struck(self, faults: Faults) -> None:
        faults.lose_answer("SR.scan", nth=100)
        struck: list[bool] = []

        def call() -> None:
            struck.extend(faults.fate(incoming("SR.scan")).lose_answer for _ in range(50))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert struck.count(True) == 1


class TestOrdersAsData:
    def test_an_order_can_be_given_as_a_map(self, faults: Faults) -> None:
        order = faults.order({"fault": "refuse", "method": "PBD.plug", "error": ["SR_FULL", "1"], "nth": 2})
        assert order is not None
        assert (order.kind, order.method, order.nth) == ("refuse", "PBD.plug", 2)

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_of_fault_can_be_ordered_as_a_map(self, faults: Faults, kind: str) -> None:
        """Passes if nothing is raised."""
        more = {
            "refuse": {"method": "SR.scan", "error": ["SR_FULL"]},
            "late_error": {"method": "SR.scan", "error": ["INTERNAL_ERROR", "why"]},
            "lose_answer": {"method": "SR.scan"},
            "lose_request": {"method": "SR.scan"},
            "delay": {"method": "SR.scan", "seconds": 1},
            "hang": {"method": "SR.scan"},
            "move_master": {"host": "host2"},
        }
        faults.order({"fault": kind, **more.get(kind, {})})

    @pytest.mark.parametrize(
        ("spec", "key"),
        [
            ({}, "fault"),
            ({"fault": "explode"}, "fault"),
            ({"fault": "refuse", "method": "SR.scan"}, "error"),
            ({"fault": "refuse", "method": "SR.scan", "error": []}, "error"),
            ({"fault": "late_error", "method": "SR.scan"}, "error"),
            ({"fault": "late_error", "method": "SR.scan", "error": [1]}, "error"),
            ({"fault": "refuse", "method": "SR.scan", "error": [1]}, "error"),
            ({"fault": "refuse", "error": ["SR_FULL"]}, "method"),
            ({"fault": "delay", "method": "SR.scan"}, "seconds"),
            ({"fault": "delay", "method": "SR.scan", "seconds": "1"}, "seconds"),
            ({"fault": "hang", "method": "SR.scan", "nth": True}, "nth"),
            ({"fault": "hang", "method": "SR.scan", "every": 1}, "every"),
            ({"fault": "hang", "method": "SR.scan", "when": 1}, "when"),
        ],
    )
    def test_a_wrong_map_is_refused_with_the_key(
        self, faults: Faults, spec: dict[str, object], key: str
    ) -> None:
        with pytest.raises(ValueError, match=f"^{key}: "):
            faults.order(spec)


class TestOnTheWire:
    def test_a_refusal_carries_any_error_and_does_nothing(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.refuse("secret.create", "SR_BACKEND_FAILURE_47", "", "the cable", "")
        assert client.call("secret.create", SECRET) == (
            "error",
            ["SR_BACKEND_FAILURE_47", "", "the cable", ""],
        )
        assert secrets(xapi) == before
        assert client.call("secret.create", SECRET)[0] == "result"

    def test_where_the_error_is_late_it_was_done(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.order(
            {"fault": "late_error", "method": "secret.create", "error": ["INTERNAL_ERROR", "x"]}
        )
        assert client.call("secret.create", SECRET) == ("error", ["INTERNAL_ERROR", "x"])
        assert secrets(xapi) == before + 1
        assert xapi.journal[-1].outcome == "INTERNAL_ERROR"
        assert xapi.journal[-1].fault == "late_error INTERNAL_ERROR at secret.create #1"
        client.call("secret.create", SECRET)
        assert xapi.journal[-1].outcome == "success"

    def test_a_late_error_does_not_hide_why_a_call_failed_by_itself(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        xapi.faults.late_error("SR.get_uuid", "INTERNAL_ERROR", "x")
        assert client.call("SR.get_uuid", "none")[1] == ["HANDLE_INVALID", "SR", "none"]

    def test_a_delay_inside_is_the_storage_s_and_the_operation_is_under_way(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        """A VBD is currently_attached as soon as its plug begins."""
        vm = xapi.add_vm("web")
        vbd = xapi.add_vbd(vm, xapi.add_vdi(xapi.add_sr("store"), "disk"), plugged=False)
        xapi.faults.order({"fault": "delay", "method": "VBD.plug", "seconds": 0.3, "inside": True})
        start = time.monotonic()
        plug = threading.Thread(target=client.call, args=("VBD.plug", vbd))
        plug.start()
        while (
            not (row := dict(xapi.db.row("VBD", vbd)))["current_operations"] or not row["currently_attached"]
        ):
            assert time.monotonic() - start < 60
        assert list(row["current_operations"].values()) == ["plug"]
        assert row["device"] == ""
        plug.join()
        assert time.monotonic() - start >= 0.3
        assert xapi.db.row("VBD", vbd)["device"] == "xvda"
        assert xapi.journal[-1].fault == "delay 0.3 s at VBD.plug #1"

    def test_a_vm_is_shut_down_after_a_disk_is_plugged_into_it_and_not_meanwhile(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        vm = xapi.add_vm("web")
        vbd = xapi.add_vbd(vm, xapi.add_vdi(xapi.add_sr("store"), "disk"), plugged=False)
        xapi.faults.delay("VBD.plug", 0.2, inside=True)
        answers = []
        plug = threading.Thread(target=lambda: answers.append(client.call("VBD.plug", vbd)))
        plug.start()
        while not xapi.db.row("VBD", vbd)["currently_attached"]:
            time.sleep(0.005)
        other = PlainClient(xapi)
        assert other.call("VM.clean_shutdown", vm)[0] != "error"
        plug.join()
        assert [answer[0] for answer in answers] != ["error"]
        (waited,) = xapi.journal.waits("storage")
        assert [wait.what for wait in waited.waited_for] == [("VM", vm)]
        assert xapi.journal.waits() == []

    def test_a_delay_is_inside_or_of_the_answer(self, xapi: Simulator) -> None:
        with pytest.raises(ValueError, match="inside"):
            xapi.faults.delay("VBD.plug", 1, answer=True, inside=True)

    def test_where_the_answer_is_lost_it_was_done(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.lose_answer("secret.create")
        assert client.call("secret.create", SECRET)[0] == "nothing"
        assert secrets(xapi) == before + 1

    def test_where_the_request_is_lost_it_was_not_done(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.lose_request("secret.create")
        assert client.call("secret.create", SECRET)[0] == "nothing"
        assert secrets(xapi) == before

    def test_where_the_connection_is_dropped_it_was_not_done(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        before = secrets(xapi)
        xapi.faults.drop_connection("secret.create")
        assert client.call("secret.create", SECRET)[0] == "nothing"
        assert secrets(xapi) == before
        assert client.call("secret.create", SECRET)[0] == "result"

    def test_a_delayed_call_takes_that_long(self, xapi: Simulator, client: PlainClient) -> None:
        xapi.faults.delay("host.get_all", 0.2)
        start = time.monotonic()
        assert client.call("host.get_all")[0] == "result"
        assert time.monotonic() - start >= 0.2

    def test_an_answer_can_be_delayed_after_the_deed(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.delay("secret.create", 1.5, answer=True)  # a busy machine sees the effect late
        thread = threading.Thread(target=client.call, args=("secret.create", SECRET))
        start = time.monotonic()
        thread.start()
        while secrets(xapi) == before and thread.is_alive():
            time.sleep(0.01)
        assert thread.is_alive()
        assert secrets(xapi) == before + 1
        thread.join()
        assert time.monotonic() - start >= 1.5

    def test_a_hanging_call_goes_on_when_it_is_released(self, xapi: Simulator, client: PlainClient) -> None:
        order = xapi.faults.hang("secret.create")
        before = secrets(xapi)
        answers: list[tuple[str, object]] = []
        thread = threading.Thread(target=lambda: answers.append(client.call("secret.create", SECRET)))
        thread.start()
        time.sleep(0.1)
        assert secrets(xapi) == before
        order.release()
        thread.join(60)
        assert answers[0][0] == "result"

    def test_a_hanging_call_ends_with_the_simulator(self) -> None:
        answers: list[tuple[str, object]] = []
        with Simulator() as xapi:
            client = PlainClient(xapi)
            xapi.faults.hang("host.get_all")
            thread = threading.Thread(target=lambda: answers.append(client.call("host.get_all")))
            thread.start()
            while not len(xapi.journal):
                time.sleep(0.01)
        thread.join(60)
        assert not thread.is_alive()

    def test_an_expired_session_is_invalid_and_a_new_one_is_not(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        xapi.faults.expire_session()
        assert client.call("host.get_all") == ("error", ["SESSION_INVALID", client.session])
        assert client.call("host.get_all") == ("error", ["SESSION_INVALID", client.session])
        assert PlainClient(xapi).call("host.get_all")[0] == "result"

    def test_a_dead_host_refuses_connections_until_it_comes_back(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        xapi.faults.die()
        assert client.call("host.get_all")[0] == "nothing"
        xapi.faults.come_back()
        assert client.call("host.get_all")[0] == "result"

    def test_a_host_can_die_after_it_did_something(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.die(after="secret.create")
        assert client.call("secret.create", SECRET)[0] == "nothing"
        assert secrets(xapi) == before + 1
        assert client.call("host.get_all")[0] == "nothing"

    def test_a_host_can_die_before_it_does_something(self, xapi: Simulator, client: PlainClient) -> None:
        before = secrets(xapi)
        xapi.faults.die(before="secret.create")
        assert client.call("secret.create", SECRET)[0] == "nothing"
        assert secrets(xapi) == before
        assert client.call("host.get_all")[0] == "nothing"

    @pytest.mark.xapi(hosts=3)
    def test_one_of_several_hosts_can_die(self, xapi: Simulator) -> None:
        xapi.faults.die(host="host2")
        assert PlainClient(xapi).call("host.get_all")[0] == "result"
        assert Caller(xapi.urls[1]).call("xmlrpc", "host.get_all", ["none"]).kind == "nothing"
        assert Caller(xapi.urls[2]).call("xmlrpc", "host.get_all", ["none"]).kind == "error"

    @pytest.mark.xapi(hosts=2)
    def test_after_a_move_the_old_master_names_the_new_one(self, xapi: Simulator) -> None:
        old = PlainClient(xapi)
        xapi.faults.move_master("host2")
        assert old.call("host.get_all") == ("error", ["HOST_IS_SLAVE", "127.0.0.2"])
        assert xapi.url.startswith("http://127.0.0.2:")
        new = PlainClient(xapi, xapi.url)
        assert new.answer("host.get_all", old.session)[0] == "result"

    @pytest.mark.xapi(hosts=2)
    def test_a_new_master_may_know_no_session_of_before(self, xapi: Simulator) -> None:
        """As a real one: the hosts of a pool do not copy sessions to each other."""
        old = PlainClient(xapi)
        xapi.faults.move_master("host2", keep_sessions=False)
        assert old.call("host.get_all") == ("error", ["SESSION_INVALID", old.session])
        login = old.answer("session.login_with_password", xapi.user, xapi.password)
        assert login == ("error", ["HOST_IS_SLAVE", "127.0.0.2"])
        assert PlainClient(xapi).call("host.get_all")[0] == "result"

    @pytest.mark.xapi(hosts=2)
    def test_the_master_can_move_just_before_a_call(self, xapi: Simulator) -> None:
        client = PlainClient(xapi)
        before = secrets(xapi)
        xapi.faults.move_master("host2", before="secret.create")
        assert client.call("host.get_all")[0] == "result"
        assert client.call("secret.create", SECRET) == ("error", ["HOST_IS_SLAVE", "127.0.0.2"])
        assert secrets(xapi) == before

    def test_the_journal_says_which_order_a_call_ran_into(self, xapi: Simulator, client: PlainClient) -> None:
        xapi.faults.lose_answer("host.get_all")
        client.call("host.get_all")
        assert xapi.journal[-1].fault == "lose_answer at host.get_all #1"

    def test_the_fault_at_call_n_hits_the_nth_call_of_the_journal(
        self, xapi: Simulator, client: PlainClient
    ) -> None:
        """So a sweep over all calls can take its numbers from the journal of a successful run."""
        methods = ["host.get_all", "pool.get_all", "secret.create", "SR.get_all"]
        for n, struck in enumerate(methods, 1):
            xapi.journal.clear()
            xapi.faults.refuse("*", "TEST", nth=n)
            again = PlainClient(xapi)
            outcomes = [again.call(m, *([SECRET] if m == "secret.create" else []))[1] for m in methods]
            assert [m for m, outcome in zip(methods, outcomes, strict=True) if outcome == ["TEST"]] == [
                struck
            ]
            assert xapi.journal[n - 1].outcome == "TEST"
