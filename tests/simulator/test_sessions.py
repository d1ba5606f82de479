"""Which sessions may call, for how long, and on which host."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from direct import Direct, refusal
from xapi_client import PlainClient

from xenvol.simulator import Simulator, sessions
from xenvol.simulator.failure import NULL
from xenvol.simulator.wire import Caller


@pytest.fixture
def pool() -> Iterator[Direct]:
    with Direct(hosts=("one", "two")) as found:
        yield found


def test_a_session_knows_who_made_it(pool: Direct) -> None:
    record = pool.call("session.get_record", pool.session)
    assert record["originator"] == "test"
    assert record["this_host"] == pool.xapi.master
    assert (record["auth_user_name"], record["is_local_superuser"], record["pool"]) == ("root", True, False)
    assert (record["this_user"], record["subject"], record["parent"]) == (NULL, NULL, NULL)


def test_a_wrong_password_and_an_unknown_user_are_told_apart(pool: Direct) -> None:
    for login in ("session.login_with_password", "session.slave_local_login_with_password"):
        assert refusal(lambda login=login: pool.raw(login, "root", "wrong")) == [
            "SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure",
        ]  # fmt: skip  # an ErrorDescription is one line
        assert refusal(lambda login=login: pool.raw(login, "nobody", "secret")) == [
            "SESSION_AUTHENTICATION_FAILED", "nobody", "User not known to the underlying authentication module",
        ]  # fmt: skip  # an ErrorDescription is one line


def test_a_failed_log_in_takes_as_long_as_ordered_and_stops_no_other_call(pool: Direct) -> None:
    pool.xapi.login_penalty = 60.0
    failed = threading.Thread(
        target=lambda: refusal(lambda: pool.raw("session.login_with_password", "root", "wrong"))
    )
    failed.start()
    failed.join(0.1)
    assert failed.is_alive()
    assert pool.call("host.get_all")
    pool.xapi.close()
    failed.join(60)
    assert not failed.is_alive()


def test_a_session_ends_with_its_log_out(pool: Direct) -> None:
    assert pool.call("session.logout") == ""
    assert pool.refusal("host.get_all") == ["SESSION_INVALID", pool.session]
    assert pool.refusal("session.logout") == ["SESSION_INVALID", pool.session]


def test_a_session_ends_after_a_day_without_calls(pool: Direct) -> None:
    for _ in range(3):
        pool.clock.seconds += 23 * 3600
        assert pool.call("host.get_all")
    pool.clock.seconds += 25 * 3600
    assert pool.refusal("host.get_all") == ["SESSION_INVALID", pool.session]
    assert not pool.db.exists("session", pool.session)


def test_the_last_use_of_a_session_is_noted_every_ten_minutes(pool: Direct) -> None:
    first = pool.db.row("session", pool.session)["last_active"]
    for minutes, is_noted in ((5, False), (4, False), (2, True)):
        pool.clock.seconds += 60 * minutes
        stamp = pool.db.stamp
        pool.call("host.get_all")
        assert (pool.db.stamp > stamp) is is_noted
    assert pool.db.row("session", pool.session)["last_active"] == pool.xapi.now() > first


@pytest.mark.parametrize(("originator", "limit"), [("one", 500), ("", 400)])
def test_of_too_many_sessions_the_ones_idle_for_longest_go(pool: Direct, originator: str, limit: int) -> None:
    pool.call("session.logout")
    mine = []
    for _ in range(limit + 5):
        pool.clock.seconds += 1
        mine.append(pool.log_in(originator))
    with pool.xapi.lock:
        assert sorted(sessions.collect(pool.xapi)) == sorted(mine[:5])
        assert sessions.collect(pool.xapi) == []


def test_users_are_limited_too_whatever_originators_they_give(pool: Direct) -> None:
    for number in range(505):
        pool.log_in(f"originator {number}")
    with pool.xapi.lock:
        assert len(sessions.collect(pool.xapi)) == 6  # with the session of the test


def test_a_session_with_a_pending_task_is_not_given_up(pool: Direct) -> None:
    task = pool.call("task.create", "work", "")
    pool.clock.seconds += 1
    for _ in range(500):
        pool.log_in()
    with pool.xapi.lock:
        assert sessions.collect(pool.xapi) == []
    pool.call("task.set_status", task, "success")
    with pool.xapi.lock:
        assert sessions.collect(pool.xapi) == [pool.session]


def test_root_changes_the_password_without_knowing_it(pool: Direct) -> None:
    pool.call("session.change_password", "no idea", "new")
    assert refusal(pool.log_in)[0] == "SESSION_AUTHENTICATION_FAILED"
    assert pool.raw("session.login_with_password", "root", "new")


def test_an_external_user_can_be_logged_out_and_root_cannot(pool: Direct) -> None:
    with pool.xapi.lock:
        theirs, others = (pool.db.create("session", auth_user_sid=sid) for sid in ("S-1", "S-2"))
    pool.call("session.logout_subject_identifier", "S-1")
    pool.call("session.logout_subject_identifier", "")
    assert (pool.db.exists("session", theirs), pool.db.exists("session", others)) == (False, True)
    assert pool.call("host.get_all")


# ---- other hosts


def test_a_member_names_the_master(pool: Direct) -> None:
    member = pool.hosts[1]
    elsewhere = ["HOST_IS_SLAVE", "10.0.0.1"]
    assert pool.xapi.master == pool.hosts[0]
    for password in ("secret", "wrong"):
        login = ("session.login_with_password", "root", password)
        assert refusal(lambda login=login: pool.raw(*login, host=member)) == elsewhere
    assert refusal(lambda: pool.raw("host.get_all", pool.session, host=member)) == elsewhere
    assert refusal(lambda: pool.raw("host.get_all", "x", host=member)) == ["SESSION_INVALID", "x"]


def test_a_local_session_is_known_to_one_host_until_it_ends(pool: Direct) -> None:
    member = pool.hosts[1]
    local = pool.raw("session.slave_local_login_with_password", "root", "secret", host=member)
    assert pool.raw("host.get_all", local, host=member) == pool.call("host.get_all")
    assert refusal(lambda: pool.raw("host.get_all", local)) == ["SESSION_INVALID", local]
    assert pool.raw("session.local_logout", local, host=member) == ""
    gone = ["SESSION_INVALID", local]
    assert refusal(lambda: pool.raw("session.local_logout", local, host=member)) == gone


def test_only_pool_sessions_may_make_calls_between_hosts(pool: Direct) -> None:
    internal = next(m for m in pool.xapi.model.wire_names.values() if m.intra_pool_only and not m.params)
    description = pool.refusal(internal.full_name)
    assert description == [
        "INTERNAL_ERROR",
        f'Internal API "{internal.full_name}" call attempted with non-pool (external) session',
    ]


@pytest.mark.xapi(hosts=2)
def test_each_host_of_a_pool_listens_for_itself(xapi: Simulator) -> None:
    client = PlainClient(xapi)
    assert client.call("host.get_all")[0] == "result"
    member = Caller(xapi.urls[1])
    answer = member.call("xmlrpc", "host.get_all", [client.session])
    assert (answer.kind, answer.value) == ("error", ["HOST_IS_SLAVE", "127.0.0.1"])
