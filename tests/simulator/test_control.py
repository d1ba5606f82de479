"""A test in any language can arrange and examine a simulator with plain HTTP and JSON."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from typing import Any

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator

SECRET = {"value": "hunter2", "other_config": {}}


class HTTP:
    """A client that uses no code of xenvol."""

    def __init__(self, url: str) -> None:
        self._address = urllib.parse.urlsplit(url)

    def __call__(self, verb: str, path: str, data: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port)
        body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        connection.request(verb, path, body)
        answer = connection.getresponse()
        try:
            assert answer.headers["content-type"] == "application/json"
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture
def http_client(xapi: Simulator) -> HTTP:
    return HTTP(xapi.url)


@pytest.fixture
def client(xapi: Simulator) -> PlainClient:
    return PlainClient(xapi)


class TestCheckpoints:
    def test_a_pool_is_as_it_was_when_its_checkpoint_was_made(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        """A client that was logged in then still is."""
        assert http_client("POST", "/simulator/checkpoint") == (200, {"checkpoint": 1})
        xapi.add_vm("web")
        assert http_client("POST", "/simulator/checkpoint") == (200, {"checkpoint": 2})
        for number, count in ((1, 0), (2, 1), (1, 0)):
            assert http_client("POST", "/simulator/restore", {"checkpoint": number}) == (200, {})
            assert len(client.call("VM.get_by_name_label", "web")[1]) == count

    @pytest.mark.parametrize("data", [None, {}, {"checkpoint": 1}, {"checkpoint": "1"}, {"checkpoint": True}])
    def test_one_that_was_not_made_is_refused(self, http_client: HTTP, data: Any) -> None:
        status, answer = http_client("POST", "/simulator/restore", data)
        assert status == 400
        assert "there are none: POST /simulator/checkpoint" in answer["error"]


class TestHelp:
    @pytest.mark.parametrize("path", ["/simulator", "/simulator/"])
    def test_the_first_page_says_how_to_log_in_and_what_there_is(
        self, xapi: Simulator, http_client: HTTP, path: str
    ) -> None:
        status, page = http_client("GET", path)
        assert status == 200
        assert (page["url"], page["user"], page["password"]) == (xapi.url, "root", "secret")
        assert "POST /simulator/reset" in page["help"]

    @pytest.mark.parametrize(
        ("verb", "path", "status"),
        [
            ("GET", "/simulator/nothing", 404),
            ("GET", "/simulator/reset", 405),
            ("PUT", "/simulator/faults", 405),
        ],
    )
    def test_what_is_not_there_is_an_error_with_the_help(
        self, http_client: HTTP, verb: str, path: str, status: int
    ) -> None:
        got, page = http_client(verb, path)
        assert got == status
        assert "POST /simulator/reset" in page["help"]

    def test_no_session_is_needed_and_no_call_is_written_down(
        self, xapi: Simulator, http_client: HTTP
    ) -> None:
        http_client("GET", "/simulator/snapshot")
        assert len(xapi.journal) == 0


class TestReset:
    def test_a_reset_restores_the_initial_state(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        before = xapi.db.count("secret")
        client.call("secret.create", SECRET)
        assert http_client("POST", "/simulator/reset") == (200, {})
        assert xapi.db.count("secret") == before
        assert client.call("host.get_all")[1][0] == "SESSION_INVALID"


class TestJournal:
    def test_the_journal_has_the_calls_without_secrets(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        client.call("secret.create", SECRET)
        client.call("host.get_uuid", "none")
        status, page = http_client("GET", "/simulator/journal")
        assert status == 200
        assert [(call["method"], call["outcome"]) for call in page["calls"]] == [
            ("secret.create", "success"),
            ("host.get_uuid", "HANDLE_INVALID"),
        ]
        assert page["logins"] == 1
        assert "hunter2" not in json.dumps(page)

    def test_the_journal_says_what_a_call_waited_for(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        sr = xapi.add_sr("busy")
        with xapi.xapi.lock:
            xapi.db.set("SR", sr, current_operations={"OpaqueRef:other": "scan"})
        client.call("Async.SR.scan", sr)
        while not xapi.journal.waits():
            time.sleep(0.005)
        (call,) = http_client("GET", "/simulator/journal")[1]["calls"]
        (wait,) = call["waited_for"]
        assert (wait["kind"], wait["what"]) == ("operation", ["SR", sr, "scan"])
        assert wait["seconds"] >= 0

    def test_only_what_is_new_can_be_asked_for(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        client.call("host.get_all")
        mark = http_client("GET", "/simulator/journal")[1]["mark"]
        client.call("pool.get_all")
        page = http_client("GET", f"/simulator/journal?since={mark}")[1]
        assert [call["method"] for call in page["calls"]] == ["pool.get_all"]

    def test_the_journal_can_be_cleared(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        client.call("host.get_all")
        assert http_client("DELETE", "/simulator/journal") == (200, {})
        assert http_client("GET", "/simulator/journal")[1]["calls"] == []

    def test_a_mark_that_is_no_number_is_refused(self, http_client: HTTP) -> None:
        status, page = http_client("GET", "/simulator/journal?since=now")
        assert status == 400
        assert page["error"] == "since: 'now' is not a number"


class TestFaults:
    def test_an_ordered_fault_strikes_and_is_listed_until_then(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        order = {"fault": "refuse", "method": "host.get_all", "error": ["SR_FULL", "1", "2"], "nth": 2}
        status, page = http_client("POST", "/simulator/faults", order)
        assert (status, page["id"]) == (200, 1)
        assert len(http_client("GET", "/simulator/faults")[1]["faults"]) == 1
        assert client.call("host.get_all")[0] == "result"
        assert client.call("host.get_all") == ("error", ["SR_FULL", "1", "2"])
        assert http_client("GET", "/simulator/faults")[1]["faults"] == []

    def test_faults_can_be_forgotten_one_by_one_or_together(self, xapi: Simulator, http_client: HTTP) -> None:
        for _ in range(3):
            http_client("POST", "/simulator/faults", {"fault": "hang", "method": "x.y"})
        assert http_client("DELETE", "/simulator/faults?id=2") == (200, {})
        assert [order.number for order in xapi.faults.orders] == [1, 3]
        assert http_client("DELETE", "/simulator/faults?id=2")[0] == 400
        http_client("DELETE", "/simulator/faults")
        assert xapi.faults.orders == []

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"{", "the body is not JSON"),
            ([], "a fault is a map"),
            ({"fault": "refuse"}, "method: missing"),
            ({"fault": "die", "host": "nowhere"}, "no host 'nowhere'"),
        ],
    )
    def test_a_wrong_order_is_refused_with_the_reason(self, http_client: HTTP, data: Any, text: str) -> None:
        status, page = http_client("POST", "/simulator/faults", data)
        assert status == 400
        assert text in page["error"]


class TestSnapshots:
    def test_what_changed_since_a_snapshot_is_told_in_words(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        before = http_client("GET", "/simulator/snapshot")[1]
        assert http_client("POST", "/simulator/compare", {"before": before})[1] == {"differences": []}
        client.call("secret.create", SECRET)
        (line,) = http_client("POST", "/simulator/compare", {"before": before})[1]["differences"]
        assert line.startswith("secret ")
        assert line.endswith(" is new")
        ignored = http_client("POST", "/simulator/compare", {"before": before, "ignore": ["secret"]})
        assert ignored[1] == {"differences": []}

    def test_two_snapshots_can_be_compared(
        self, xapi: Simulator, http_client: HTTP, client: PlainClient
    ) -> None:
        before = http_client("GET", "/simulator/snapshot")[1]
        client.call("secret.create", SECRET)
        after = http_client("GET", "/simulator/snapshot")[1]
        page = http_client("POST", "/simulator/compare", {"before": after, "after": before})[1]
        assert [line.split()[-1] for line in page["differences"]] == ["gone"]

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            ({}, "before: missing"),
            ({"before": {}}, "a snapshot has the keys"),
            ({"before": {"objects": {}, "storage": {}}, "ignore": "x"}, "ignore: expected a list"),
        ],
    )
    def test_a_wrong_comparison_is_refused_with_the_reason(
        self, http_client: HTTP, data: Any, text: str
    ) -> None:
        status, page = http_client("POST", "/simulator/compare", data)
        assert status == 400
        assert text in page["error"]


def test_a_plugin_can_be_given_its_answer(xapi: Simulator, http_client: HTTP) -> None:
    order = {"plugin": "raid.py", "function": "check", "answer": "[]"}
    assert http_client("POST", "/simulator/plugins", order) == (200, {})
    client = PlainClient(xapi)
    assert client.call("host.call_plugin", xapi.xapi.master, "raid.py", "check", {}) == ("result", "[]")
    for wrong in ({}, {**order, "answer": 1}, {**order, "more": ""}, ["raid.py"]):
        status, answer = http_client("POST", "/simulator/plugins", wrong)
        assert status == 400
        assert answer["error"] == "a plugin's answer has the keys plugin, function, answer, each with a text"
