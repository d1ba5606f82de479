"""Events: which a client gets, in which order, when, and what they cost other clients."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from direct import Direct, refusal

from xenvol.simulator import events
from xenvol.simulator.events import Subscription
from xenvol.simulator.values import plain


@pytest.fixture
def pool() -> Iterator[Direct]:
    with Direct() as found:
        yield found


def batch(pool: Direct, classes: list[str], token: str = "", timeout: float = 0.0) -> tuple[list[Any], str]:
    """Return the events as (operation, class, reference), and the next token."""
    answer = plain(pool.call("event.from", classes, token, timeout))
    return [(e["operation"], e["class"], e["ref"]) for e in answer["events"]], answer["token"]


def network(pool: Direct, **values: Any) -> str:
    with pool.xapi.lock:
        ref: str = pool.db.create("network", **values)
    return ref


class Background:
    """A call in a thread of its own, and its outcome."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.result = self._call()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Any:
        self._thread.join(60)
        assert self.is_over
        return self.result


def until_it_waits(pool: Direct, count: int = 1) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with pool.xapi.lock:
            if pool.xapi.bell.waiters >= count:
                return
        time.sleep(0.002)
    raise AssertionError("no thread waits")


# ---- which events


def test_without_a_token_everything_is_added(pool: Direct) -> None:
    found, token = batch(pool, ["pool", "host"])
    assert sorted(found) == [("add", "host", pool.hosts[0]), ("add", "pool", pool.db.refs("pool")[0])]
    assert batch(pool, ["pool", "host"], token) == ([], token)


def test_an_object_has_one_event_however_often_it_changed(pool: Direct) -> None:
    lan = network(pool, name_label="a")
    _, token = batch(pool, ["network"])
    for label in "bcd":
        pool.call("network.set_name_label", lan, label)
    answer = plain(pool.call("event.from", ["network"], token, 0.0))
    (event,) = answer["events"]
    assert (event["operation"], event["snapshot"]["name_label"]) == ("mod", "d")
    assert (event["timestamp"], event["id"].isdecimal()) == ("0.0", True)


def test_additions_come_first_and_deletions_last_and_carry_no_record(pool: Direct) -> None:
    kept, gone = network(pool), network(pool)
    _, token = batch(pool, ["network"])
    with pool.xapi.lock:
        pool.db.delete("network", gone)
    pool.call("network.set_name_label", kept, "x")
    new = network(pool)
    answer = plain(pool.call("event.from", ["network"], token, 0.0))
    assert [(e["operation"], e["ref"], "snapshot" in e) for e in answer["events"]] == [
        ("add", new, True), ("mod", kept, True), ("del", gone, False),
    ]  # fmt: skip  # one list


def test_what_came_and_went_since_the_token_is_no_event(pool: Direct) -> None:
    _, token = batch(pool, ["network"])
    with pool.xapi.lock:
        pool.db.delete("network", network(pool))
    assert batch(pool, ["network"], token)[0] == []


def test_a_change_of_a_relation_is_a_change_of_both_sides(pool: Direct) -> None:
    with pool.xapi.lock:
        sr = pool.db.create("SR", name_label="sr")
    _, token = batch(pool, ["sr", "vdi"])
    with pool.xapi.lock:
        vdi = pool.db.create("VDI", SR=sr)
    assert batch(pool, ["sr", "vdi"], token)[0] == [("add", "vdi", vdi), ("mod", "sr", sr)]


@pytest.mark.parametrize(
    ("text", "subscription"),
    [
        ("*", Subscription("")),
        ("VDI", Subscription("vdi")),
        ("Vdi/OpaqueRef:X", Subscription("vdi", "OpaqueRef:X")),
        ("a/b/c", Subscription("a", "b/c")),
    ],
)
def test_classes_go_by_any_case_and_references_by_theirs(text: str, subscription: Subscription) -> None:
    assert Subscription.parse(text) == subscription


def test_one_object_may_be_asked_for(pool: Direct) -> None:
    one, other = network(pool), network(pool)
    assert batch(pool, [f"network/{one}", f"NETWORK/{one}"])[0] == [("add", "network", one)]
    _, token = batch(pool, [f"network/{one}"])
    pool.call("network.set_name_label", other, "x")
    assert batch(pool, [f"network/{one}"], token) == ([], token)
    assert batch(pool, [f"vdi/{one}"])[0] == []


def test_classes_without_events_and_unknown_ones_have_none(pool: Direct) -> None:
    pool.call("secret.create", {"value": "x"})
    for classes in (["session"], ["secret"], ["user"], ["nosuch"], []):
        assert batch(pool, classes) == ([], f"{0:020d},{0:020d}")
    assert {cls for _, cls, _ in batch(pool, ["*"])[0]}.isdisjoint({"session", "secret", "user"})


def test_messages_have_a_token_of_their_own(pool: Direct) -> None:
    host = pool.hosts[0]
    uuid = pool.call("host.get_uuid", host)
    message = pool.call("message.create", "NAME", 5, "Host", uuid, "body")
    found, token = batch(pool, ["message"])
    assert found == [("add", "message", message)]
    assert token.startswith(f"{0:020d},")
    assert batch(pool, ["message"], token) == ([], token)


def test_valid_ref_counts_say_how_many_objects_there_are(pool: Direct) -> None:
    network(pool)
    counts = plain(pool.call("event.from", [], "", 0.0))["valid_ref_counts"]
    assert (counts["network"], counts["host"], counts["vbd"]) == (2, 1, 0)
    assert len(counts) == 68  # trace 08#5


@pytest.mark.parametrize("token", ["garbage", "0", "1,2,3", "99999999999999999999,0", " 1,2", "1,"])
def test_a_token_that_is_none_is_refused(pool: Direct, token: str) -> None:
    assert pool.refusal("event.from", ["sr"], token, 0.1) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", token]


def test_deletions_are_forgotten_some_day(pool: Direct) -> None:
    _, token = batch(pool, ["network"])
    refs = [network(pool) for _ in range(600)]
    _, later = batch(pool, ["network"])
    with pool.xapi.lock:
        for ref in refs:
            pool.db.delete("network", ref)
    deleted = [ref for operation, _, ref in batch(pool, ["network"], later)[0] if operation == "del"]
    assert 256 <= len(deleted) < 600
    assert set(deleted) == set(refs[-len(deleted) :])
    assert batch(pool, ["network"], token)[0] == []


# ---- when


def test_a_client_waits_no_longer_than_it_wants(pool: Direct) -> None:
    for timeout in (0.0, -1.0, 0.1):
        start = time.monotonic()
        assert batch(pool, ["vdi"], "", timeout)[0] == []
        assert max(0.0, timeout) <= time.monotonic() - start < 60


def test_a_change_ends_the_waiting(pool: Direct) -> None:
    _, token = batch(pool, ["network"])
    waiting = Background(lambda: batch(pool, ["network"], token, 60.0))
    until_it_waits(pool)
    lan = network(pool)
    assert waiting.wait()[0] == [("add", "network", lan)]


def test_changes_at_about_the_same_time_come_together(pool: Direct) -> None:
    _, token = batch(pool, ["network"])
    waiting = Background(lambda: batch(pool, ["network"], token, 60.0))
    until_it_waits(pool)
    refs = {network(pool) for _ in range(3)}
    assert {ref for _, _, ref in waiting.wait()[0]} == refs


def test_who_waits_for_a_task_is_answered_at_once(pool: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BATCHING_SECONDS", 3600.0)
    task = pool.call("task.create", "x", "")
    _, token = batch(pool, [f"task/{task}"])
    waiting = Background(lambda: batch(pool, [f"task/{task}"], token, 60.0))
    until_it_waits(pool)
    pool.call("task.set_status", task, "success")
    assert waiting.wait()[0] == [("mod", "task", task)]


def test_the_end_of_the_session_ends_the_waiting(pool: Direct) -> None:
    for wait in (
        lambda: pool.call("event.from", ["vdi"], "", 60.0),
        lambda: (pool.call("event.register", ["vdi"]), pool.call("event.next")),
    ):
        pool.session = pool.log_in()
        session = pool.session
        waiting = Background(lambda wait=wait: refusal(wait))
        until_it_waits(pool)
        pool.raw("session.logout", session)
        assert waiting.wait() == ["SESSION_INVALID", session]


def test_injecting_an_event_is_a_barrier(pool: Direct) -> None:
    lan = network(pool)
    _, token = batch(pool, ["network"])
    pool.call("network.set_name_label", lan, "x")
    barrier = pool.call("event.inject", "network", lan)
    found, now = batch(pool, ["network"], token)
    assert found == [("mod", "network", lan)]
    assert now > barrier
    for cls in ("Network", "nosuch", "VDI"):
        assert pool.refusal("event.inject", cls, lan) == ["HANDLE_INVALID", cls, lan]


# ---- what it costs


def test_a_change_wakes_only_who_waits_for_it(pool: Direct) -> None:
    lan, other = network(pool), network(pool)
    waiting = {
        name: Background(lambda classes=classes: batch(pool, classes, batch(pool, classes)[1], 60.0))
        for name, classes in {"one": [f"network/{lan}"], "vdi": ["vdi"], "all": ["*"]}.items()
    }
    until_it_waits(pool, 3)
    pool.call("network.set_name_label", other, "x")
    assert waiting["all"].wait()[0] == [("mod", "network", other)]
    with pool.xapi.lock:
        assert pool.xapi.bell.waiters == 2
    pool.call("network.set_name_label", lan, "x")
    assert waiting["one"].wait()[0] == [("mod", "network", lan)]
    assert not waiting["vdi"].is_over


def test_a_waiter_is_woken_once_for_many_changes(pool: Direct) -> None:
    """A client that is awake costs the next change nothing: a burst of changes wakes each client once."""
    lan = network(pool)
    _, token = batch(pool, ["network"])
    clients = [Background(lambda: batch(pool, ["network"], token, 60.0)) for _ in range(20)]
    until_it_waits(pool, len(clients))
    with pool.xapi.lock:
        pool.db.set("network", lan, name_label="first")
        assert pool.xapi.bell.waiters == 0
        for number in range(100):
            pool.db.set("network", lan, name_label=str(number))
    for client in clients:
        assert client.wait()[0] == [("mod", "network", lan)]


# ---- register and next


def test_next_tells_every_change_since_the_registration(pool: Direct) -> None:
    lan = network(pool)
    pool.call("event.register", ["network"])
    for label in "ab":
        pool.call("network.set_name_label", lan, label)
    pool.call("task.create", "x", "")
    found = plain(pool.call("event.next"))
    assert [(e["operation"], e["snapshot"]["name_label"], e["id"]) for e in found] == [
        ("mod", "a", "0"), ("mod", "b", "1"),
    ]  # fmt: skip  # one list
    assert found[0]["timestamp"] == "1795000000."


def test_next_tells_of_additions_and_deletions(pool: Direct) -> None:
    pool.call("event.register", ["*"])
    with pool.xapi.lock:
        lan = network(pool)
        pool.db.delete("network", lan)
    found = plain(pool.call("event.next"))
    assert [(e["operation"], e["ref"], "snapshot" in e) for e in found] == [
        ("add", lan, True),
        ("del", lan, False),
    ]


def test_next_waits_for_something_new(pool: Direct) -> None:
    pool.call("event.register", ["network"])
    waiting = Background(lambda: pool.call("event.next"))
    until_it_waits(pool)
    lan = network(pool)
    assert [event["ref"] for event in waiting.wait()] == [lan]


def test_next_is_for_who_has_registered(pool: Direct) -> None:
    code, track = pool.refusal("event.next")
    assert code == "SESSION_NOT_REGISTERED"
    assert track.startswith("trackid=")
    assert pool.session not in track
    pool.call("event.register", ["network"])
    pool.call("event.unregister", ["network"])
    waiting = Background(lambda: pool.call("event.next"))
    until_it_waits(pool)
    network(pool)
    assert not waiting.is_over
