"""Tests of xenvol.session.pool_client: sessions that end, masters that move or die, threads; hosts are a page each."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tiny_xapi import POOL_UUID, Refuse, TinyXapi

from xenvol.errors import RequestError, XapiError, XapiUnreachable
from xenvol.session import Session, connect
from xenvol.session.pool_client import PoolClient

MASTER, MEMBER, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class TinyPool:
    """Hosts that answer one port at different addresses, one of them the master; the others name it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.sessions: set[str] = set()
        first = TinyXapi(MASTER, sessions=self.sessions)
        stack.enter_context(first.running())
        self.hosts = {MASTER: first}
        self._running: dict[str, contextlib.ExitStack] = {}
        for address in (MEMBER, THIRD):
            self.hosts[address] = TinyXapi(address, first.port, sessions=self.sessions)
            self._running[address] = stack.enter_context(contextlib.ExitStack())
            self._running[address].enter_context(self.hosts[address].running())
        self.uuid = POOL_UUID
        self.move_master(MASTER)

    def __getitem__(self, address: str) -> TinyXapi:
        return self.hosts[address]

    def move_master(self, master: str) -> None:
        def refuse(*_: Any) -> None:
            raise Refuse("HOST_IS_SLAVE", master)

        for address, host in self.hosts.items():
            calls = (
                "session.login_with_password",
                "SR.scan",
                "SR.get_all",
                "host.get_all_records",
                "pool.get_all_records",
            )
            if address == master:
                host.answers = {
                    "SR.scan": "",
                    "SR.get_all": ["OpaqueRef:sr"],
                    "pool.get_all_records": lambda _: {"OpaqueRef:pool": {"uuid": self.uuid}},
                    "host.get_all_records": {f"OpaqueRef:{a}": {"address": a} for a in self.hosts},
                }
            else:
                host.answers = dict.fromkeys(calls, refuse)


@pytest.fixture
def pool() -> Iterator[TinyPool]:
    with contextlib.ExitStack() as stack:
        yield TinyPool(stack)


@pytest.fixture
def mortal_pool() -> Iterator[tuple[TinyPool, contextlib.ExitStack]]:
    """A pool whose master THIRD can die: close the stack."""
    with contextlib.ExitStack() as stack:
        pool = TinyPool(stack)
        pool.move_master(THIRD)
        yield pool, pool._running[THIRD]


def logins(pool: TinyPool) -> dict[str, int]:
    return {address: host.calls("session.login_with_password") for address, host in pool.hosts.items()}


class TestMasters:
    def test_a_member_names_the_master_and_is_followed_at_log_in(self, pool: TinyPool) -> None:
        """With the scheme and the port of the address that was given."""
        with connect(pool[MEMBER].url, "root", "secret") as session:
            assert session.call("SR.get_all") == ["OpaqueRef:sr"]
            assert str(session.endpoint) == pool[MASTER].url
        assert pool[MEMBER].calls("session.logout") == 0
        assert pool.sessions == set()

    def test_a_master_that_moves_is_followed_with_the_same_session(self, pool: TinyPool) -> None:
        """HOST_IS_SLAVE did not happen, so a write goes on as well; nobody logs in again."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.move_master(MEMBER)
            session.call("SR.scan", "OpaqueRef:sr")
            assert pool[MASTER].calls("SR.scan") == pool[MEMBER].calls("SR.scan") == 1
            assert str(session.endpoint) == pool[MEMBER].url
        assert logins(pool) == {MASTER: 1, MEMBER: 0, THIRD: 0}
        assert pool.sessions == set()

    def test_hosts_that_never_agree_who_is_master_are_given_up(self, pool: TinyPool) -> None:
        """After a few moves the refusal leaves."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.move_master(MEMBER)
            pool[MEMBER].answers["SR.scan"] = pool[THIRD].answers[
                "SR.scan"
            ]  # MEMBER names itself, and refuses
            with pytest.raises(XapiError) as caught:
                session.call("SR.scan", "OpaqueRef:sr")
            assert (caught.value.code, caught.value.params) == ("HOST_IS_SLAVE", (MEMBER,))

    def test_log_ins_that_go_in_circles_are_given_up(self, pool: TinyPool) -> None:
        """Two hosts that name each other are no pool."""
        pool[MASTER].answers = pool[MEMBER].answers | {}
        with pytest.raises(XapiUnreachable, match="circles"):
            connect(pool[MASTER].url, "root", "secret")

    def test_when_the_master_dies_its_successor_is_found(
        self, mortal_pool: tuple[TinyPool, contextlib.ExitStack], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A call that could not be sent goes to the new master, a write too."""
        pool, master_life = mortal_pool
        with connect(pool[THIRD].url, "root", "secret") as session:
            session.call("SR.get_all")
            master_life.close()
            pool.move_master(MEMBER)
            session.call("SR.scan", "OpaqueRef:sr")
            assert str(session.endpoint) == pool[MEMBER].url
            assert pool[MEMBER].calls("SR.scan") == 1
            assert session.call("SR.get_all") == ["OpaqueRef:sr"]
        assert "master is now" in caplog.text

    def test_while_there_is_no_new_master_the_old_one_is_unreachable(
        self, mortal_pool: tuple[TinyPool, contextlib.ExitStack]
    ) -> None:
        """Members go on naming the dead one (docs/background/recordings.md, "Pool member that cannot reach its
        coordinator"); the error has what each said."""
        pool, master_life = mortal_pool
        waits: list[float] = []
        with connect(pool[THIRD].url, "root", "secret") as connected:
            session = Session(connected._wrapped, sleep=waits.append)
            master_life.close()
            with pytest.raises(XapiUnreachable) as caught:
                session.call("SR.scan", "OpaqueRef:sr")
            assert caught.value.cause is not None
            notes = "\n".join(caught.value.cause.__notes__)
            assert pool[MASTER].url in notes
            assert "still name" in notes
        assert len(waits) == 5

    def test_a_host_that_takes_the_password_in_another_pool_is_not_believed(
        self, mortal_pool: tuple[TinyPool, contextlib.ExitStack], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A host that left keeps its address; nothing is done there, and we log out again."""
        pool, master_life = mortal_pool
        with connect(pool[THIRD].url, "root", "secret") as connected:
            session = Session(connected._wrapped, sleep=lambda _: None)
            master_life.close()
            pool.move_master(MEMBER)
            pool.uuid = "another pool's"
            before = set(pool.sessions)
            with pytest.raises(XapiUnreachable):
                session.call("SR.scan", "OpaqueRef:sr")
            assert pool[MEMBER].calls("SR.scan") == 0
            assert pool.sessions == before
        assert "another pool" in caplog.text

    def test_without_failover_two_calls_are_saved_and_the_session_dies_with_its_master(
        self, mortal_pool: tuple[TinyPool, contextlib.ExitStack]
    ) -> None:
        """For commands that are over in a moment."""
        pool, master_life = mortal_pool
        with connect(pool[THIRD].url, "root", "secret", failover=False) as connected:
            assert [call for call, _ in pool[THIRD].received] == ["session.login_with_password"]
            session = Session(connected._wrapped, sleep=lambda _: None)
            master_life.close()
            pool.move_master(MEMBER)
            with pytest.raises(XapiUnreachable):
                session.call("SR.scan", "OpaqueRef:sr")
        assert logins(pool)[MEMBER] == 0

    def test_who_may_not_ask_for_the_hosts_connects_nevertheless(self, pool: TinyPool) -> None:
        """A user with few rights goes without failing over."""
        del pool[MASTER].answers["host.get_all_records"]
        with connect(pool[MASTER].url, "root", "secret") as session:
            assert session.call("SR.get_all") == ["OpaqueRef:sr"]

    def test_hosts_without_an_address_that_serves_are_left_out(self, pool: TinyPool) -> None:
        """A pool of one may have none; over http nothing goes off the machine. Connecting works all the same."""
        pool[MASTER].answers["host.get_all_records"] = {
            "OpaqueRef:1": {"address": ""},
            "OpaqueRef:2": {"address": "192.0.2.1"},
            "OpaqueRef:3": {"address": MEMBER},
        }
        with connect(pool[MASTER].url, "root", "secret") as session:
            assert [str(endpoint) for endpoint in session._wrapped._others] == [pool[MEMBER].url]


class TestExpiry:
    def test_an_ended_session_is_renewed_and_the_call_repeated(self, pool: TinyPool) -> None:
        """SESSION_INVALID did not happen, so a write is repeated as well."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.sessions.clear()
            session.call("SR.scan", "OpaqueRef:sr")
            assert pool[MASTER].calls("session.login_with_password") == 2
            assert pool[MASTER].calls("SR.scan") == 2
            session.call("SR.get_all")
            assert pool[MASTER].calls("session.login_with_password") == 2

    def test_a_session_is_renewed_once_in_a_call(self, pool: TinyPool) -> None:
        """Where no session lasts, the refusal leaves, and the password is not sent for ever."""

        def refuse(ref: str, *_: Any) -> None:
            raise Refuse("SESSION_INVALID", ref)

        with connect(pool[MASTER].url, "root", "secret") as session:
            pool[MASTER].answers["SR.scan"] = refuse
            with pytest.raises(XapiError) as caught:
                session.call("SR.scan", "OpaqueRef:sr")
            assert caught.value.code == "SESSION_INVALID"
            assert pool[MASTER].calls("session.login_with_password") == 2

    def test_a_password_that_changed_meanwhile_is_a_refusal(self, pool: TinyPool) -> None:
        """xapi's own words for it."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.sessions.clear()
            pool[MASTER].password = "new"
            with pytest.raises(XapiError) as caught:
                session.call("SR.scan", "OpaqueRef:sr")
            assert caught.value.code == "SESSION_AUTHENTICATION_FAILED"

    def test_a_session_is_not_renewed_in_another_pool(self, pool: TinyPool) -> None:
        """The host was ejected: same address, same password, and none of our objects."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.sessions.clear()
            pool.uuid = "another pool's"
            with pytest.raises(XapiError) as caught:
                session.call("SR.scan", "OpaqueRef:sr")
            assert caught.value.code == "SESSION_INVALID"
            assert pool[MASTER].calls("SR.scan") == 1
            assert pool.sessions == set()

    @pytest.mark.parametrize("failover", [True, False])
    def test_a_session_that_ends_while_the_master_moves_is_renewed_only_where_the_pool_is_known(
        self, pool: TinyPool, failover: bool
    ) -> None:
        """Without the pool's uuid, another address may be another pool."""
        with connect(pool[MASTER].url, "root", "secret", failover=failover) as session:
            pool.move_master(MEMBER)
            pool.sessions.clear()
            if failover:
                session.call("SR.scan", "OpaqueRef:sr")
                assert str(session.endpoint) == pool[MEMBER].url
            else:
                with pytest.raises(XapiError) as caught:
                    session.call("SR.scan", "OpaqueRef:sr")
                assert caught.value.code == "SESSION_INVALID"
        assert pool.sessions == set()

    def test_a_closed_session_says_so(self, pool: TinyPool) -> None:
        """And does not log in behind anybody's back."""
        session = connect(pool[MASTER].url, "root", "secret")
        session.close()
        with pytest.raises(RequestError, match="closed"):
            session.call("SR.get_all")
        with pytest.raises(RequestError, match="closed"):
            _ = session.handle
        assert pool[MASTER].calls("session.login_with_password") == 1

    def test_logging_out_by_name_closes_the_session(self, pool: TinyPool) -> None:
        """As users of the official client are used to."""
        session = connect(pool[MASTER].url, "root", "secret")
        session.xenapi.session.logout()
        assert pool.sessions == set()
        with pytest.raises(RequestError, match="closed"):
            session.call("SR.get_all")


class TestThreads:
    def test_threads_share_the_session_and_not_the_connection(self, pool: TinyPool) -> None:
        """8 threads, 50 calls each: 8 connections and the first one's, one log-in."""
        start = threading.Barrier(8)
        with connect(pool[MASTER].url, "root", "secret") as session:

            def work(_: int) -> int:
                start.wait()
                return sum(session.call("SR.get_all") == ["OpaqueRef:sr"] for _ in range(50))

            with ThreadPoolExecutor(8) as threads:
                assert list(threads.map(work, range(8))) == [50] * 8
                assert pool[MASTER].connections == 9
        assert pool[MASTER].calls("session.login_with_password") == 1
        assert pool[MASTER].calls("session.logout") == 1

    def test_a_thread_that_ends_closes_its_connection(self, pool: TinyPool) -> None:
        """A service that makes a thread for each request does not run out of them."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            for _ in range(5):
                thread = threading.Thread(target=session.call, args=["SR.get_all"])
                thread.start()
                thread.join()
            pool[MASTER].wait_until(lambda: pool[MASTER].open_connections == 1)
            assert pool[MASTER].connections == 6

    def test_closing_closes_the_connections_of_all_threads(self, pool: TinyPool) -> None:
        """Those that are still there, too."""
        session = connect(pool[MASTER].url, "root", "secret")
        with ThreadPoolExecutor(4) as threads:
            start = threading.Barrier(4)
            list(threads.map(lambda _: (start.wait(), session.call("SR.get_all")), range(4)))
            assert pool[MASTER].open_connections == 5
            session.close()
            pool[MASTER].wait_until(lambda: pool[MASTER].open_connections == 0)

    def test_threads_that_trip_over_one_dead_session_renew_it_once(self, pool: TinyPool) -> None:
        """Otherwise every expiry would cost the pool as many sessions as there are threads."""
        with connect(pool[MASTER].url, "root", "secret") as session:
            pool.sessions.clear()
            start = threading.Barrier(8)

            def work(_: int) -> Any:
                start.wait()
                return session.call("SR.get_all")

            with ThreadPoolExecutor(8) as threads:
                assert list(threads.map(work, range(8))) == [["OpaqueRef:sr"]] * 8
            assert pool[MASTER].calls("session.login_with_password") == 2


def test_a_repr_tells_the_state_and_no_secret(pool: TinyPool, caplog: pytest.LogCaptureFixture) -> None:
    """Where, who, logged in or not, how many connections."""
    caplog.set_level(logging.DEBUG)
    with connect(pool[MASTER].url, "root", "secret") as session:
        client = session._wrapped
        assert isinstance(client, PoolClient)
        assert repr(client) == f"<PoolClient of {pool[MASTER].url} as root, logged in, 1 connected>"
        assert repr(session) == f"<Session over {client!r}>"
        assert (
            repr(session.restricted(driver="nfs"))
            == f"<Session over {client!r}, restricted for driver 'nfs'>"
        )
        assert session.handle in pool.sessions
        for secret in ("secret", session.handle):
            assert secret not in repr(session)
    assert repr(client) == f"<PoolClient of {pool[MASTER].url} as root, closed, 0 connected>"
