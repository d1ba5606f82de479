"""Which addresses and which trust `connect` accepts and refuses."""

from __future__ import annotations

import math
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_xapi import FINGERPRINT, TLS, HangUp, Refuse, TinyXapi

import xenvol
from xenvol.errors import HostNotTrusted, InvalidArgument, XapiError, XapiUnreachable
from xenvol.secret import Secret
from xenvol.session import CallRecord, InsecureConnection, connect


@pytest.fixture
def host() -> Iterator[TinyXapi]:
    with TinyXapi(answers={"SR.get_all": ["OpaqueRef:sr"]}).running() as host:
        yield host


@pytest.fixture
def secure_host() -> Iterator[TinyXapi]:
    with TinyXapi(tls=True, answers={"SR.get_all": ["OpaqueRef:sr"]}).running() as host:
        yield host


def test_connect_logs_in_and_leaving_the_block_logs_out_once(host: TinyXapi) -> None:
    """It also closes the connection."""
    with connect(host.url, "root", "secret") as session:
        assert session.call("SR.get_all") == ["OpaqueRef:sr"]
        assert len(host.sessions) == 1
    session.close()
    assert host.calls("session.login_with_password") == 1
    assert host.calls("session.logout") == 1
    assert host.sessions == set()
    host.wait_until(lambda: host.open_connections == 0)


def test_connect_is_offered_by_the_package_itself(host: TinyXapi) -> None:
    """So is the version; both are imported at their first use."""
    with xenvol.connect(host.url, "root", Secret("secret")) as session:
        assert session.call("SR.get_all")
    assert xenvol.__version__.count(".") == 2
    assert {"connect", "__version__"} <= set(dir(xenvol))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = xenvol.no_such_name


def test_the_originator_is_the_same_for_all_of_a_machine(host: TinyXapi) -> None:
    """xapi ends the oldest sessions of an originator with too many, so xenvol never ends those of other clients."""
    for originator in (None, None, "backup"):
        connect(host.url, "root", "secret", originator=originator).close()
    logins = [params for call, params in host.received if call == "session.login_with_password"]
    ours = ["root", "secret", "1.0", f"xenvol/{socket.gethostname()}"]
    assert logins == [ours, ours, ["root", "secret", "1.0", "backup"]]


def test_a_wrong_password_is_a_refusal_that_does_not_show_it(host: TinyXapi) -> None:
    """It is not retried."""
    with pytest.raises(XapiError) as caught:
        connect(host.url, "root", "canary")
    assert caught.value.code == "SESSION_AUTHENTICATION_FAILED"
    assert caught.value.call == "session.login_with_password"
    assert "canary" not in repr(caught.value) + str(caught.value)
    assert host.calls("session.login_with_password") == 1


def test_an_address_where_no_server_listens_is_reported_at_once() -> None:
    """The address is probably wrong, so there is no retry."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        records: list[CallRecord] = []
        with pytest.raises(XapiUnreachable, match="cannot connect"):
            connect(f"http://127.0.0.1:{unused.getsockname()[1]}", "root", "secret", on_call=records.append)
    assert [(record.call, record.outcome) for record in records] == [
        ("session.login_with_password", "unreachable")
    ]


def test_several_addresses_are_tried_in_turn(host: TinyXapi) -> None:
    """Any host of the pool is good enough."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with connect([dead, host.url], "root", "secret") as session:
            assert session.call("SR.get_all")
    with pytest.raises(ValueError, match="no address"):
        connect([], "root", "secret")


def test_a_busy_xapi_is_asked_again(host: TinyXapi) -> None:
    """So is a host that is still booting: neither has changed anything."""
    refusals = iter([["TOO_MANY_PENDING_TASKS"], ["HOST_STILL_BOOTING"]])

    def login(*_: str) -> str:
        for refusal in refusals:
            raise Refuse(*refusal)
        host.sessions.add("s")
        return "s"

    host.answers["session.login_with_password"] = login
    with connect(host.url, "root", "secret") as session:
        assert session.call("SR.get_all")


def test_a_log_in_that_fails_half_way_leaves_no_session_and_no_connection(host: TinyXapi) -> None:
    """The cases are the errors that can end it."""

    def hang_up(*_: str) -> str:
        raise HangUp

    def interrupt(record: CallRecord) -> None:
        if record.call == "session.login_with_password":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(host.url, "root", "secret", on_call=interrupt)
    assert host.calls("session.login_with_password") == host.calls("session.logout") == 1
    host.answers["session.login_with_password"] = hang_up
    with pytest.raises(XapiUnreachable):
        connect(host.url, "root", "secret")
    host.wait_until(lambda: host.open_connections == 0)


@pytest.mark.parametrize("answer", [5, "", {}, ["OpaqueRef:s"], False])
def test_a_log_in_that_returns_no_session_is_no_answer(host: TinyXapi, answer: object) -> None:
    host.answers["session.login_with_password"] = answer
    with pytest.raises(XapiUnreachable, match="a log-in returns the reference of a session"):
        connect(host.url, "root", "secret")
    host.wait_until(lambda: host.open_connections == 0)


@pytest.mark.parametrize("call", ["pool.get_all_records", "host.get_all_records"])
@pytest.mark.parametrize(
    "answer", [5, "", [], {}, {"OpaqueRef:p": 5}, {"OpaqueRef:p": {}}, {"a": {}, "b": {}}]
)
def test_an_odd_answer_about_the_pool_costs_the_fail_over_and_nothing_else(
    host: TinyXapi, call: str, answer: object
) -> None:
    host.answers[call] = answer
    with connect(host.url, "root", "secret") as session:
        assert session.call("SR.get_all") == ["OpaqueRef:sr"]


def test_closing_ignores_a_missing_answer() -> None:
    """Nothing is raised; xapi ends the idle session later."""
    with TinyXapi().running() as host:
        session = connect(host.url, "root", "secret")
    session.close()


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, 1e30, True, "5"])
@pytest.mark.parametrize("name", ["timeout", "connect_timeout"])
def test_a_timeout_that_no_clock_can_measure_is_refused(name: str, seconds: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} is a number of seconds above 0 and at most 1000000"):
        connect("https://192.0.2.1", "root", "secret", **{name: seconds})


def test_http_to_a_host_that_speaks_https_says_so(secure_host: TinyXapi) -> None:
    with pytest.raises(XapiUnreachable, match="if it speaks https, say https://") as caught:
        connect(secure_host.url.replace("https:", "http:"), "root", "secret")
    assert "may have happened" not in str(caught.value)


class TestTrust:
    def test_the_authority_or_the_fingerprint_proves_the_host(self, secure_host: TinyXapi) -> None:
        """`ca_file` may be a Path."""
        with connect(secure_host.url, "root", "secret", ca_file=TLS / "ca.pem") as session:
            assert session.call("SR.get_all")
        with connect(secure_host.url, "root", "secret", fingerprint=FINGERPRINT) as session:
            assert session.call("SR.get_all")

    @pytest.mark.parametrize("trust", [{}, {"ca_file": TLS / "other-ca.pem"}, {"fingerprint": "ab" * 32}])
    def test_without_proof_the_password_is_not_sent(
        self, secure_host: TinyXapi, trust: dict[str, str | Path]
    ) -> None:
        """Verification is the default."""
        with pytest.raises(HostNotTrusted, match="certificate"):
            connect(secure_host.url, "root", "secret", **trust)  # type: ignore[arg-type]  # because of ** over a union
        assert secure_host.received == []

    def test_insecure_is_possible_and_warns_at_the_caller(self, secure_host: TinyXapi) -> None:
        """The warning points to the line of the caller."""
        with pytest.warns(InsecureConnection) as caught:
            session = connect(secure_host.url, "root", "secret", insecure=True)
        session.close()
        assert [warning.filename for warning in caught] == [__file__]

    def test_http_elsewhere_than_on_the_loopback_needs_insecure(self) -> None:
        """Other machines on the network could read the password."""
        with pytest.raises(ValueError, match="in the clear"):
            connect("http://192.0.2.1", "root", "secret")

    def test_http_on_the_loopback_says_nothing(self, host: TinyXapi) -> None:
        """No other machine can read the loopback."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            connect(host.url, "root", "secret").close()
