"""Addresses, trust, and the hosts that get the password."""

from __future__ import annotations

import socket
import threading
import xmlrpc.client
from pathlib import Path

import pytest
from tiny_xapi import FINGERPRINT, TLS, TinyXapi, ask

from xenvol.session.endpoint import Endpoint, InsecureConnection, NotConnected, Trust, UntrustedHost
from xenvol.session.transport import Transport


class TestTrust:
    def test_a_certificate_that_the_given_authority_signed_is_accepted(self, secure_host: TinyXapi) -> None:
        """With ca_file, the host is verified."""
        transport = Transport(Endpoint.parse(secure_host.url, Trust.of(str(TLS / "ca.pem"), None, False)))
        assert ask(transport) == ["h"]
        transport.close()

    @pytest.mark.parametrize("trust", [Trust(), Trust.of(str(TLS / "other-ca.pem"), None, False)])
    def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(
        self, secure_host: TinyXapi, trust: Trust
    ) -> None:
        """Verification is the default, and the error says what to do."""
        with pytest.raises(UntrustedHost, match=r"ca_file.*fingerprint"):
            ask(Transport(Endpoint.parse(secure_host.url, trust)))
        assert secure_host.received == []

    def test_a_certificate_for_another_name_is_refused(self, secure_host: TinyXapi) -> None:
        """The signature of the authority alone is not enough."""
        elsewhere = f"https://127.0.0.3:{secure_host.port}"
        with TinyXapi(address="127.0.0.3", port=secure_host.port, tls=True).running() as other:
            with pytest.raises(UntrustedHost, match=r"127\.0\.0\.3"):
                ask(Transport(Endpoint.parse(elsewhere, Trust.of(str(TLS / "ca.pem"), None, False))))
            assert other.received == []

    @pytest.mark.parametrize(
        "spelling",
        [
            FINGERPRINT,
            FINGERPRINT.upper(),
            "sha256:" + FINGERPRINT,
            "SHA256 Fingerprint=" + ":".join(FINGERPRINT[i : i + 2] for i in range(0, 64, 2)).upper(),
            ["00" * 32, FINGERPRINT],
        ],
    )
    def test_the_pinned_certificate_is_accepted_in_every_usual_spelling(
        self, secure_host: TinyXapi, spelling: str | list[str]
    ) -> None:
        """The spellings are those of openssl, with and without colons. One match is enough: each host has its own
        fingerprint."""
        transport = Transport(Endpoint.parse(secure_host.url, Trust.of(None, spelling, False)))
        assert ask(transport) == ["h"]
        transport.close()

    def test_another_certificate_than_the_pinned_one_is_refused_before_anything_is_sent(
        self, secure_host: TinyXapi
    ) -> None:
        """The error shows the fingerprint that was seen."""
        trust = Trust.of(None, "00" * 32, False)
        with pytest.raises(UntrustedHost, match=FINGERPRINT):
            ask(Transport(Endpoint.parse(secure_host.url, trust)))
        assert secure_host.received == []

    def test_insecure_takes_any_certificate_and_warns(self, secure_host: TinyXapi) -> None:
        """`insecure` must be set, and always warns."""
        endpoint = Endpoint.parse(secure_host.url, Trust.of(None, None, True))
        with pytest.warns(InsecureConnection, match="not checked"):
            endpoint.warn_if_insecure(stacklevel=1)
        transport = Transport(endpoint)
        assert ask(transport) == ["h"]
        transport.close()

    def test_nothing_warns_where_nothing_is_insecure(self) -> None:
        """Warnings are errors in this test run, so the test passes without one."""
        for url in ("https://xapi.example", "http://localhost", "unix:///run/xapi"):
            Endpoint.parse(url).warn_if_insecure(stacklevel=1)

    def test_two_kinds_of_trust_at_once_are_refused(self) -> None:
        """xenvol would have to guess which one counts."""
        with pytest.raises(ValueError, match="exclude each other"):
            Trust.of("ca.pem", None, True)
        with pytest.raises(ValueError, match="exclude each other"):
            Trust.of("ca.pem", "00" * 32, False)

    @pytest.mark.parametrize("text", ["", "abc", "00" * 20, "zz" * 32])
    def test_what_is_no_sha256_fingerprint_is_refused(self, text: str) -> None:
        """A SHA-1 fingerprint is one of them."""
        with pytest.raises(ValueError, match="SHA-256"):
            Trust.of(None, text, False)

    def test_a_ca_file_that_cannot_be_read_is_refused_at_once(self, tmp_path: Path) -> None:
        """The error comes before the first call."""
        with pytest.raises(ValueError, match=r"missing\.pem"):
            Trust.of(str(tmp_path / "missing.pem"), None, False)
        (tmp_path / "empty.pem").write_text("no certificate")
        with pytest.raises(ValueError, match=r"empty\.pem"):
            Trust.of(str(tmp_path / "empty.pem"), None, False)


class TestEndpoint:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://xapi.example", "https://xapi.example"),
            ("xapi.example", "https://xapi.example"),
            ("xapi.example:8443", "https://xapi.example:8443"),
            ("https://xapi.example:443/", "https://xapi.example"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]"),
            ("https://[2001:db8::1]:444/RPC2", "https://[2001:db8::1]:444"),
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://127.0.0.1", "http://127.0.0.1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("unix:///var/lib/xcp/xapi", "unix:///var/lib/xcp/xapi"),
        ],
    )
    def test_an_address_is_read_and_shown(self, url: str, shown: str) -> None:
        """https is the default, and default ports are not shown."""
        assert str(Endpoint.parse(url)) == shown
        assert Endpoint.parse(str(Endpoint.parse(url))) == Endpoint.parse(url)

    @pytest.mark.parametrize("url", ["http://xapi.example", "http://10.0.0.1:80", "http://localhost.example"])
    def test_a_password_in_the_clear_needs_saying_so(self, url: str) -> None:
        """http:// is refused except on the loopback; with insecure=True it warns."""
        with pytest.raises(ValueError, match="insecure=True"):
            Endpoint.parse(url)
        with pytest.warns(InsecureConnection, match="in the clear"):
            Endpoint.parse(url, Trust.of(None, None, True)).warn_if_insecure(stacklevel=1)

    @pytest.mark.parametrize(
        "url", ["", "ftp://xapi.example", "https://", "https://h/path", "https://h?q=1", "https://h#f"]
    )
    def test_what_is_no_address_of_a_xapi_is_refused(self, url: str) -> None:
        """The error lists the valid forms."""
        with pytest.raises(ValueError, match="address"):
            Endpoint.parse(url)

    def test_a_password_in_a_url_is_refused_and_not_repeated(self) -> None:
        """URLs are often logged."""
        with pytest.raises(ValueError, match="pass them as arguments") as caught:
            Endpoint.parse("https://root:canary@xapi.example")
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            ("10.0.0.2", "https://10.0.0.2:8443"),
            ("2001:db8::2", "https://[2001:db8::2]:8443"),
            ("host2.example", "https://host2.example:8443"),
            ("10.0.0.2:444", "https://10.0.0.2:444"),
            ("[2001:db8::2]:444", "https://[2001:db8::2]:444"),
        ],
    )
    def test_the_master_is_reached_as_the_host_was_that_named_it(self, address: str, shown: str) -> None:
        """xapi sends a bare address, so scheme, port and trust stay the same."""
        trust = Trust.of(None, "00" * 32, False)
        moved = Endpoint.parse("https://10.0.0.1:8443", trust).at(address)
        assert str(moved) == shown
        assert moved.trust == trust

    def test_a_plain_endpoint_does_not_take_the_password_off_the_machine(self) -> None:
        """If a host on the loopback names a master elsewhere, xenvol does not follow it over http."""
        with pytest.raises(NotConnected, match="in the clear"):
            Endpoint.parse("http://127.0.0.1:8080").at("10.0.0.2")
        assert str(Endpoint.parse("http://127.0.0.1:8080").at("127.0.0.2")) == "http://127.0.0.2:8080"
        assert str(Endpoint.parse("unix:///run/xapi").at("10.0.0.2")) == "https://10.0.0.2"

    def test_an_address_that_is_none_is_not_connected(self) -> None:
        """The answer of a broken host causes no crash."""
        for address in ("", "[", "10.0.0.1:port"):
            with pytest.raises(NotConnected):
                Endpoint.parse("https://10.0.0.1").at(address)

    def test_a_unix_socket_serves(self, tmp_path: Path) -> None:
        """dom0 has such a socket."""
        path = tmp_path / "xapi"
        answer = xmlrpc.client.dumps(({"Status": "Success", "Value": "v"},), methodresponse=True).encode()

        def serve(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"</methodCall>" not in request:
                    request += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            thread = threading.Thread(target=serve, args=[listener])
            thread.start()
            transport = Transport(Endpoint.parse(f"unix://{path}"))
            assert ask(transport) == "v"
            transport.close()
            thread.join()
