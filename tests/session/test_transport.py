"""Requests and answers over the loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_xapi import TLS, Hang, HangUp, Raw, TinyXapi, ask

from xenvol.session import transport as transport_module
from xenvol.session.endpoint import Endpoint, NotConnected, Trust
from xenvol.session.transport import IDLE_LIMIT, Transport, UnreadableAnswer


@pytest.fixture
def host() -> Iterator[TinyXapi]:
    with TinyXapi(
        sessions={"s"}, answers={"host.get_all": ["h"], "SR.scan": "", "VM.get_all": []}
    ).running() as host:
        yield host


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestSendingOnce:
    def test_an_answer_comes_back_and_the_connection_is_kept(self, host: TinyXapi) -> None:
        """Two requests in a row share one connection."""
        transport = Transport(Endpoint.parse(host.url))
        assert ask(transport) == ["h"]
        assert ask(transport) == ["h"]
        assert host.connections == 1
        transport.close()

    def test_a_request_whose_answer_is_lost_is_sent_once(self, host: TinyXapi) -> None:
        """The standard library's transport would send it a second time."""

        def hang_up(*_: Any) -> None:
            raise HangUp

        host.answers["SR.scan"] = hang_up
        transport = Transport(Endpoint.parse(host.url))
        ask(transport)  # also on a kept connection
        with pytest.raises(ConnectionError):
            ask(transport, "SR.scan")
        assert host.calls("SR.scan") == 1

        with pytest.raises((ConnectionError, xmlrpc.client.Error)):
            xmlrpc.client.ServerProxy(host.url, transport=(plain := xmlrpc.client.Transport())).SR.scan("s")
        plain.close()
        assert host.calls("SR.scan") == 3, (
            "the standard library no longer sends twice: Transport may be simpler"
        )

    def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent(self, host: TinyXapi) -> None:
        """So a write after a pause neither fails nor is sent twice."""
        transport = Transport(Endpoint.parse(host.url))
        ask(transport)
        host.hang_up()
        assert ask(transport, "SR.scan") == ""
        assert host.calls("SR.scan") == 1
        assert host.connections == 2
        transport.close()

    def test_a_closed_idle_tls_connection_is_replaced_as_well(self, secure_host: TinyXapi) -> None:
        """A closed TLS connection shows like a closed plain one."""
        transport = Transport(Endpoint.parse(secure_host.url, Trust.of(str(TLS / "ca.pem"), None, False)))
        ask(transport)
        assert ask(transport) == ["h"]
        assert secure_host.connections == 1
        secure_host.hang_up()
        assert ask(transport) == ["h"]
        assert secure_host.connections == 2
        transport.close()

    def test_a_connection_that_was_idle_for_long_is_not_trusted(self, host: TinyXapi) -> None:
        """A firewall may have dropped it silently."""
        clock = Clock()
        transport = Transport(Endpoint.parse(host.url), clock=clock)
        ask(transport)
        clock.now += IDLE_LIMIT - 1
        ask(transport)
        assert host.connections == 1
        clock.now += IDLE_LIMIT + 1
        ask(transport)
        assert host.connections == 2
        transport.close()

    def test_nothing_is_sent_where_no_server_listens(self) -> None:
        """NotConnected says that nothing was sent."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            transport = Transport(Endpoint.parse(f"http://127.0.0.1:{unused.getsockname()[1]}"))
            with pytest.raises(NotConnected, match=r"cannot connect to http://127\.0\.0\.1:"):
                ask(transport)

    def test_a_name_that_idna_cannot_spell_is_not_connected(self) -> None:
        """The error of IDNA causes no crash."""
        with pytest.raises(NotConnected):
            ask(Transport(Endpoint("http", "a..b", 80)))

    def test_half_an_answer_does_not_become_the_next_one(self, host: TinyXapi) -> None:
        """Every interrupted wait closes the connection."""

        class Interrupt(BaseException):
            pass

        transport = Transport(Endpoint.parse(host.url))
        ask(transport)

        def interrupt(_: Any) -> None:
            raise Interrupt

        transport.parse_response = interrupt  # type: ignore[method-assign]  # because an interrupt comes from anywhere
        with pytest.raises(Interrupt):
            ask(transport)
        del transport.parse_response  # type: ignore[misc]  # because it was set on the object, two lines above
        assert ask(transport, "VM.get_all") == []
        transport.close()


class TestWaiting:
    def test_a_host_that_never_answers_is_not_waited_for_without_end(self, host: TinyXapi) -> None:
        """The wait ends after the timeout, and the request was sent once."""

        def hang(*_: Any) -> None:
            raise Hang

        host.answers["SR.scan"] = hang
        transport = Transport(Endpoint.parse(host.url), timeout=0.1)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            ask(transport, "SR.scan")
        assert time.monotonic() - started < 60
        assert host.calls("SR.scan") == 1

    @pytest.mark.parametrize(
        "head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"]
    )
    def test_a_host_that_answers_a_byte_now_and_then_is_not_waited_for_without_end(self, head: bytes) -> None:
        """The timeout is for the whole answer, and not for each part of it."""
        is_over = threading.Event()

        def drip(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(head)
                while not is_over.wait(0.01):
                    connection.sendall(b"x")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=drip, args=(listener,))
            thread.start()
            try:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                with pytest.raises(TimeoutError):
                    ask(Transport(Endpoint.parse(url), timeout=0.3))
            finally:
                is_over.set()
                thread.join()

    def test_a_host_that_accepts_and_then_says_nothing_fails_the_tls_handshake_in_time(self) -> None:
        """The connect timeout covers the handshake."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}"
            with pytest.raises(NotConnected):
                ask(Transport(Endpoint.parse(url), connect_timeout=0.1))

    def test_the_timeout_can_change_between_requests_on_one_connection(self, host: TinyXapi) -> None:
        """A log-in has a shorter limit than a plug."""
        host.answers["SR.scan"] = lambda *_: time.sleep(0.3) or ""
        transport = Transport(Endpoint.parse(host.url), timeout=60)
        ask(transport)
        transport.timeout = 0.05
        with pytest.raises(TimeoutError):
            ask(transport, "SR.scan")
        transport.timeout = 60
        assert ask(transport, "SR.scan") == ""
        transport.close()


class TestGarbage:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html><body>500</body></html>",
            b"<?xml version='1.0'?><methodResponse><params><param><value><int>canary-in-answer</int>"
            b"</value></param></params></methodResponse>",
            b"<methodResponse><params><param><value><boolean>canary-in-answer</boolean></value></param></params></methodResponse>",
            b"<methodResponse><params><param><value><struct>",
            b"\xff\xfe\x00",
            b"<methodResponse></value></methodResponse>",
        ],
    )
    def test_what_is_no_answer_is_unreadable_and_not_quoted(self, host: TinyXapi, body: bytes) -> None:
        """Every error of the parser becomes one error, which does not quote the answer."""

        def garbage(*_: Any) -> None:
            raise Raw(body)

        host.answers["SR.scan"] = garbage
        transport = Transport(Endpoint.parse(host.url))
        with pytest.raises(UnreadableAnswer) as caught:
            ask(transport, "SR.scan")
        assert "canary" not in str(caught.value)
        assert ask(transport) == ["h"]
        transport.close()

    def test_an_answer_that_is_too_large_is_not_read_to_its_end(
        self, host: TinyXapi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport_module, "LARGEST_ANSWER", 2 << 20)
        host.answers["SR.scan"] = "x" * (3 << 20)
        transport = Transport(Endpoint.parse(host.url))
        with pytest.raises(UnreadableAnswer, match="larger than 2 MiB"):
            ask(transport, "SR.scan")
        host.answers["SR.scan"] = "x" * (1 << 20)
        assert len(ask(transport, "SR.scan")) == 1 << 20
        transport.close()

    def test_an_http_error_costs_the_connection_and_nothing_else(self, host: TinyXapi) -> None:
        """xapi answers malformed requests with HTTP 500 and a page (recordings.md, Envelope and types)."""

        def page(*_: Any) -> None:
            raise Raw(b"<html/>", status=500)

        host.answers["SR.scan"] = page
        transport = Transport(Endpoint.parse(host.url))
        with pytest.raises(xmlrpc.client.ProtocolError):
            ask(transport, "SR.scan")
        assert ask(transport) == ["h"]
        transport.close()


def test_a_repr_tells_the_state(host: TinyXapi) -> None:
    """It shows the address, and whether it is connected."""
    transport = Transport(Endpoint.parse(host.url))
    assert repr(transport) == f"<Transport to {host.url}, not connected>"
    ask(transport)
    assert repr(transport) == f"<Transport to {host.url}, connected>"
    transport.close()
    assert repr(transport) == f"<Transport to {host.url}, not connected>"
