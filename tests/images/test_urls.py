"""Tests of xenvol.images.sources.urls and requests: an image service is asked, and nobody learns its token."""

from __future__ import annotations

import base64
import contextlib
import datetime
import email.utils
import functools
import gc
import hashlib
import logging
import random
import socket
import ssl
import sys
import threading
import traceback
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import InsecureRequestWarning

from xenvol.images import inspect_image
from xenvol.images.disk_image import PIECE
from xenvol.images.errors import MissingReader, SourceError, SourceUnavailable, TransferCancelled
from xenvol.images.sources import urls
from xenvol.images.sources.checksums import Checksum
from xenvol.images.sources.http_client import DELAYS, MAX_REDIRECTS, proxy_of
from xenvol.images.sources.requests import Request, name_of_url
from xenvol.images.sources.urls import Download, checksum_in
from xenvol.secret import Secret
from xenvol.session.endpoint import InsecureConnection

TLS = Path(__file__).parents[1] / "data" / "tls"
CA = str(TLS / "ca.pem")
TOKEN = "gAAAAA-token-of-the-service"
SIGNATURE = "sig=0123456789abcdef"
DATA = random.Random(1).randbytes(2 * PIECE + 12345)

Answer = Callable[[BaseHTTPRequestHandler], None]
open_url = functools.partial(urls.open_url, pause=lambda seconds: None)


class Service:
    """An HTTP server on the loopback, which answers each path as it is told to; `received` are its requests."""

    def __init__(self, *, tls: bool = False, address: str = "127.0.0.1") -> None:
        self.answers: dict[str, Answer] = {}
        self.received: list[tuple[str, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                service.received.append(
                    (self.path, {key.lower(): value for key, value in self.headers.items()})
                )
                service.answers[self.path.partition("?")[0]](self)

            def log_message(self, format: str, *arguments: Any) -> None: ...

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that went away
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "host.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{address}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def gives(
        self, path: str, body: bytes = DATA, *, status: int = 200, length: int | None = -1, **headers: str
    ) -> str:
        """`length`: -1 is the body's, None none at all. The URL of it."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for key, value in headers.items():
                handler.send_header(key.replace("_", "-"), value)
            if length is not None:
                handler.send_header("Content-Length", str(len(body) if length == -1 else length))
            else:
                handler.close_connection = True
            handler.end_headers()
            handler.wfile.write(body)
            if length not in (-1, None, len(body)):
                handler.close_connection = True

        self.answers[path] = answer
        return self.url + path

    def sends_on(self, path: str, location: str, *, status: int = 302) -> str:
        return self.gives(path, b"", status=status, Location=location)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


@pytest.fixture
def secure() -> Iterator[Service]:
    with Service(tls=True) as running:
        yield running


def all_of(download: Download, step: int = PIECE) -> bytes:
    parts = []
    while part := download.read(step):
        parts.append(part)
    return b"".join(parts)


def fetch(url: str, **options: Any) -> bytes:
    with open_url(url, **options) as download:
        return all_of(download)


def refused(url: str, **options: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        fetch(url, **options)
    return caught.value


class TestDownload:
    def test_the_bytes_of_a_url_come_as_a_stream(self, service: Service) -> None:
        """Of as many as the service says, in pieces that are full until the last."""
        with open_url(service.gives("/image")) as download:
            assert (download.name, download.length) == (f"{service.url}/image", len(DATA))
            assert (download.read(PIECE), download.read(0)) == (DATA[:PIECE], b"")
            assert all_of(download, 70_001) == DATA[PIECE:]
            assert download.read(1) == b""

    def test_a_service_need_not_say_how_many_they_are(self, service: Service) -> None:
        """As HTTP/1.0 ends: with the connection."""
        with open_url(service.gives("/image", length=None)) as download:
            assert download.length is None
            assert all_of(download) == DATA

    @pytest.mark.parametrize("is_whole", [True, False])
    def test_chunks_are_put_together_and_a_missing_last_one_is_noticed(
        self, service: Service, is_whole: bool
    ) -> None:
        """Image services send them; without the closing one, the image was cut."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for start in range(0, len(DATA), 100_003):
                part = DATA[start : start + 100_003]
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            handler.wfile.write(b"0\r\n\r\n" if is_whole else b"")
            handler.close_connection = True

        service.answers["/image"] = answer
        with open_url(f"{service.url}/image") as download:
            assert download.length is None
            if is_whole:
                assert all_of(download) == DATA
            else:
                with pytest.raises(SourceError, match="broke after"):
                    all_of(download)

    @pytest.mark.parametrize("keep", [0, 1, PIECE, len(DATA) - 1])
    def test_a_connection_that_ends_too_early_is_a_source_error(self, service: Service, keep: int) -> None:
        """It says how many bytes came; curl's exit 18."""
        error = refused(service.gives("/image", DATA[:keep], length=len(DATA)))
        assert f"of {len(DATA)} bytes" in error.problem
        assert error.status == 200

    def test_what_is_encoded_is_not_asked_for_and_not_decoded(self, service: Service) -> None:
        """The length, and the checksum, are of the bytes as they are sent."""
        url = service.gives("/image.gz", b"\x1f\x8b not even gzip", Content_Encoding="gzip")
        assert fetch(url) == b"\x1f\x8b not even gzip"
        assert service.received[0][1]["accept-encoding"] == "identity"

    def test_silence_ends(self, service: Service) -> None:
        """Before the answer, and in the middle of the image."""
        over = threading.Event()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/halfway":
                handler.send_response(200)
                handler.send_header("Content-Length", "100")
                handler.end_headers()
                handler.wfile.write(b"data")
            over.wait(60)

        service.answers |= {"/image": answer, "/halfway": answer}
        try:
            assert "did not answer within 0.2 seconds" in refused(f"{service.url}/image", timeout=0.2).problem
            # a busy machine may need its time for the head of the answer
            assert (
                "no byte came within 2 seconds after" in refused(f"{service.url}/halfway", timeout=2).problem
            )
        finally:
            over.set()

    def test_nobody_there_is_a_source_error(self) -> None:
        """It names the address and what the system says."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert "Connection refused" in refused(f"http://127.0.0.1:{port}/image?{SIGNATURE}").problem
        assert "no connection to nowhere.invalid" in refused("http://nowhere.invalid/image").problem

    @pytest.mark.parametrize(
        "line", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"]
    )
    def test_what_is_no_http_is_a_source_error(self, line: bytes) -> None:
        """Whatever answers there. It is asked once."""
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(line)

            thread = threading.Thread(target=answer)
            thread.start()
            refused(f"http://127.0.0.1:{server.getsockname()[1]}/image")
            thread.join()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # urllib3 2.8 leaves its socket to the collector
            gc.collect()

    def test_the_connection_is_closed_when_it_is_left(self, service: Service) -> None:
        """Also in the middle of the image, by an error."""
        gone = threading.Event()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            try:
                while True:
                    handler.wfile.write(bytes(PIECE))
            except OSError:
                gone.set()
                handler.close_connection = True

        service.answers["/image"] = answer
        with pytest.raises(KeyboardInterrupt), open_url(f"{service.url}/image") as download:  # noqa: PT012  # it is left
            download.read(10)
            raise KeyboardInterrupt
        assert gone.wait(60)

    def test_its_repr_tells_how_far_it_is(self, service: Service) -> None:
        """Of how many bytes."""
        with open_url(service.gives("/image", b"data")) as download:
            download.read(1)
            assert repr(download) == f"<Download {service.url}/image: 1 of 4 bytes>"


class TestRefusals:
    @pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 403, 404, 500, 503])
    def test_any_status_but_200_is_a_source_error(self, service: Service, status: int) -> None:
        """Also those that are successes: a part of an image is none."""
        body = b"" if status in (204, 304) else b"why"
        error = refused(service.gives("/image", body, status=status))
        assert error.status == status
        assert f"HTTP {status}" in error.problem
        assert ("why" in error.problem) == bool(body)
        assert ("--token-file" in error.problem) == (status in (401, 403))
        assert isinstance(error, SourceUnavailable) == (status in (500, 503))

    def test_what_the_service_says_is_shown_short_and_clean(self, service: Service) -> None:
        """Without markup, and without what could garble a terminal."""
        page = (
            "<html><head><title>x</title><style>b {}</style></head><body>\n<h1>404 Not&nbsp;Found</h1><br />\r\n"
            "\x1b[31mFailed to find image &lt;7&gt;\x07 " + "x" * 5000
        )
        problem = refused(service.gives("/image", page.encode(), status=404)).problem
        assert problem.startswith("HTTP 404 Not Found: 404 Not Found [31mFailed to find image <7> xxx")
        assert problem.endswith("x…")
        assert len(problem) < 250
        assert problem.isprintable()

    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("ftp://host/image", "not an http or https URL"),
            ("file:///etc/passwd", "not an http or https URL"),
            ("image", "not an http or https URL"),
            ("https://", "not an http or https URL"),
            ("https://host:0/image", "not an http or https URL"),
            ("https://host:99999/image", "not a URL"),
            ("https://ho\x1bst/image", "not an http or https URL"),
            ("https://[::1/image", "not a URL"),
        ],
    )
    def test_what_is_no_url_is_refused(self, url: str, problem: str) -> None:
        """Before anybody is asked."""
        assert problem in refused(url).problem

    def test_a_url_with_a_password_in_it_is_refused_without_showing_it(self) -> None:
        """It would be in the shell's history and in every log."""
        for url in (
            "https://admin:hunter2@host/image",
            "https://hunter2@host/image",
            "ftp://a:hunter2@host/",
        ):
            error = refused(url)
            assert "Authorization header" in str(error)
            assert "hunter2" not in "".join(traceback.format_exception(error))

    def test_what_is_no_header_is_a_mistake_and_not_shown(self) -> None:
        """A line break in a token would be a second header."""
        for key, value in (("X Auth", "1"), ("X-Auth-Token", f"{TOKEN}\r\nHost: other"), ("", "1")):
            with pytest.raises(ValueError, match="is not a valid header") as caught:
                fetch("https://host/", headers={key: Secret(value)})
            assert TOKEN not in str(caught.value)

    def test_without_urllib3_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The core does not need it."""
        monkeypatch.setitem(sys.modules, "urllib3", None)
        with pytest.raises(MissingReader, match=r"urllib3 \(pip install 'xenvol\[images\]'\)"):
            fetch("https://host/image")


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_it_goes_where_it_is_sent(self, service: Service, status: int) -> None:
        """A relative address is the same service's, which gets the token again."""
        service.gives("/there")
        url = service.sends_on("/image", "/there", status=status)
        assert fetch(url, headers={"X-Auth-Token": Secret(TOKEN)}) == DATA
        assert [(path, headers["x-auth-token"]) for path, headers in service.received] == [
            ("/image", TOKEN),
            ("/there", TOKEN),
        ]

    @pytest.mark.parametrize("count", [MAX_REDIRECTS, MAX_REDIRECTS + 1])
    def test_it_does_not_go_round_for_ever(self, service: Service, count: int) -> None:
        """Five times, and no more."""
        service.gives("/0")
        for number in range(1, count + 1):
            service.sends_on(f"/{number}", f"{service.url}/{number - 1}")
        if count == MAX_REDIRECTS:
            assert fetch(f"{service.url}/{count}") == DATA
        else:
            assert "more than 5 times" in refused(f"{service.url}/{count}").problem

    @pytest.mark.parametrize(
        "header", ["X-Auth-Token", "Authorization", "authorization", "Cookie", "X-Whatever"]
    )
    def test_no_other_origin_gets_a_secret(self, service: Service, header: str) -> None:
        """Another port is another origin; a header is secret by its name or by its value; others are sent on."""
        with Service() as other:
            other.sends_on("/there", f"{service.url}/back")
            service.gives("/back")
            url = service.sends_on("/image", other.gives("/there"))
            other.sends_on("/there", f"{service.url}/back")
            value = Secret(TOKEN) if header == "X-Whatever" else TOKEN
            assert fetch(url, headers={header: value, "X-Tenant": "me"}) == DATA
        first, last = (headers for _, headers in service.received)
        ((_, between),) = other.received
        assert first[header.lower()] == TOKEN
        assert header.lower() not in between
        assert header.lower() not in last  # nor does it come back to where it began, by another's word
        assert TOKEN not in str(between) + str(last)
        assert between["x-tenant"] == "me"

    def test_from_https_to_http_it_does_not_go(self, secure: Service, service: Service) -> None:
        """Anybody on the way could change the image; who says so goes there, without the token."""
        url = secure.sends_on("/image", service.gives("/there"))
        headers = {"X-Auth-Token": Secret(TOKEN)}
        assert "changed on its way" in refused(url, headers=headers, ca_file=CA).problem
        assert service.received == []
        with pytest.warns(InsecureRequestWarning):
            assert fetch(url, headers=headers, insecure=True) == DATA
        ((_, received),) = service.received
        assert TOKEN not in str(received)

    @pytest.mark.parametrize(
        "location", ["file:///etc/passwd", "ftp://host/", "http://a:hunter2@host/", "http://[", ""]
    )
    def test_where_it_cannot_go_is_refused(self, service: Service, location: str) -> None:
        """A service does not get at local files, and a password in its answer is not shown."""
        error = refused(service.sends_on("/image", location))
        assert "hunter2" not in "".join(traceback.format_exception(error))

    def test_an_error_names_whom_it_was_sent_to(self, service: Service) -> None:
        """Not the one who was asked first."""
        with Service() as other:
            url = service.sends_on("/image", other.gives("/there", b"", status=404))
            assert refused(url).image == f"{other.url}/there"


class Pauses:
    """A pause that does not wait, and keeps how long it would have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


class TestTryingAgain:
    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    def test_a_busy_server_is_asked_again_until_it_answers(self, service: Service, status: int) -> None:
        pauses = Pauses()
        url = service.gives("/image", b"busy", status=status)
        real = service.answers["/image"]

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if len(service.received) == 3:
                service.gives("/image")
            service.answers["/image"](handler) if len(service.received) == 3 else real(handler)

        service.answers["/image"] = answer
        assert fetch(url, pause=pauses) == DATA
        assert [low / 2 <= wait <= low for wait, low in zip(pauses.seconds, DELAYS, strict=False)] == [
            True,
            True,
        ]

    def test_it_is_not_asked_for_ever(self, service: Service) -> None:
        pauses = Pauses()
        error = refused(service.gives("/image", b"busy", status=503), pause=pauses)
        assert (type(error), error.is_transient, error.status) == (SourceUnavailable, True, 503)
        assert len(service.received) == len(DELAYS) + 1 == len(pauses.seconds) + 1

    def test_it_is_given_the_time_that_it_asks_for_but_not_more_than_two_minutes(
        self, service: Service
    ) -> None:
        pauses = Pauses()
        refused(service.gives("/image", b"busy", status=503, Retry_After="7"), pause=pauses)
        assert pauses.seconds == [7.0] * len(DELAYS)
        error = refused(service.gives("/later", b"busy", status=503, Retry_After="3600"), pause=pauses)
        assert isinstance(error, SourceUnavailable)
        assert (error.retry_after, len(pauses.seconds)) == (3600.0, len(DELAYS))
        date = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=2))
        error = refused(service.gives("/then", b"busy", status=503, Retry_After=date), pause=pauses)
        assert isinstance(error, SourceUnavailable)
        assert 7000 < (error.retry_after or 0) <= 7200

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
    def test_a_server_that_refuses_is_asked_once(self, service: Service, status: int) -> None:
        error = refused(service.gives("/image", b"no", status=status))
        assert (type(error), error.is_transient, len(service.received)) == (SourceError, False, 1)

    def test_one_that_is_not_there_may_be_later_and_a_name_that_does_not_exist_may_not(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert refused(f"http://127.0.0.1:{port}/image").is_transient

    def test_a_cancel_ends_the_waiting(self, service: Service, tmp_path: Path) -> None:
        cancel = threading.Event()
        service.gives("/image", b"busy", status=503, Retry_After="100")
        real = service.answers["/image"]

        def answer(handler: BaseHTTPRequestHandler) -> None:
            cancel.set()
            real(handler)

        service.answers["/image"] = answer
        with pytest.raises(TransferCancelled):
            inspect_image(f"{service.url}/image", cancel=cancel)


class Breaking:
    """A server that sends `most` bytes of the file at a time, then hangs up; `tag` is its ETag."""

    def __init__(self, service: Service, *, most: int, tag: str | None = '"v1"', **headers: str) -> None:
        self.data = DATA
        self.tag = tag
        self.ranges: list[str | None] = []
        self._most = most
        self._headers = headers
        service.answers["/image"] = self.answer
        self.url = f"{service.url}/image"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked, guard = handler.headers["Range"], handler.headers["If-Range"]
        self.ranges.append(asked)
        start = int(asked[6:-1]) if asked and guard in (None, self.tag) else 0
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        for key, value in ({"ETag": self.tag} if self.tag else {}).items() | self._headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(self.data) - start))
        handler.end_headers()
        handler.wfile.write(self.data[start : start + self._most])
        handler.close_connection = True


class TestGoingOnWhereItBroke:
    def test_the_rest_is_asked_for_if_the_version_is_known(self, service: Service) -> None:
        """By its strong ETag, as often as bytes still come."""
        server = Breaking(service, most=300_000)
        assert fetch(server.url) == DATA
        starts = range(300_000, len(DATA), 300_000)
        assert server.ranges == [None, *(f"bytes={start}-" for start in starts)]

    def test_a_checksum_is_as_good_as_a_version(self, service: Service) -> None:
        md5 = base64.b64encode(hashlib.md5(DATA, usedforsecurity=False).digest()).decode()
        assert fetch(Breaking(service, most=900_000, tag=None, Content_MD5=md5).url) == DATA
        assert fetch(Breaking(service, most=900_000, tag=None).url, is_guarded=True) == DATA

    @pytest.mark.parametrize("tag", [None, 'W/"v1"', "v1"])
    def test_without_either_it_is_refused_since_the_rest_may_be_of_another_file(
        self, service: Service, tag: str | None
    ) -> None:
        server = Breaking(service, most=300_000, tag=tag)
        error = refused(server.url)
        assert (type(error), len(server.ranges)) == (SourceUnavailable, 1)
        assert f"after 300000 of {len(DATA)} bytes" in error.problem
        assert "ETag" in error.problem

    def test_a_file_that_has_changed_meanwhile_is_never_put_together(self, service: Service) -> None:
        server = Breaking(service, most=300_000)

        def change(seconds: float) -> None:
            server.tag, server.data = '"v2"', bytes(len(DATA))

        error = refused(server.url, pause=change)
        assert "the file has changed" in error.problem
        assert len(server.ranges) == 2

    @pytest.mark.parametrize(
        "lie", ["bytes 0-9/10", "bytes 300000-9/10", "bytes 300001-2109496/2109497", "rubbish"]
    )
    def test_a_part_that_is_not_the_rest_is_refused(self, service: Service, lie: str) -> None:
        server = Breaking(service, most=300_000)
        usual = server.answer

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if handler.headers["Range"] is None:
                usual(handler)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", lie)
            handler.send_header("Content-Length", "10")
            handler.end_headers()
            handler.wfile.write(bytes(10))

        service.answers["/image"] = answer
        assert "the server sends no part of it" in refused(server.url).problem

    def test_a_server_that_sends_nothing_more_is_given_up(self, service: Service) -> None:
        server = Breaking(service, most=300_000)
        usual = server.answer

        def answer(handler: BaseHTTPRequestHandler) -> None:
            server._most = 0 if handler.headers["Range"] else 300_000
            usual(handler)

        service.answers["/image"] = answer
        assert f"{len(DELAYS)} times in a row" in refused(server.url).problem
        assert len(server.ranges) == len(DELAYS) + 1


def test_a_rate_is_kept(service: Service) -> None:
    """By waiting as long as the bytes that came should have taken."""
    pauses = Pauses()
    with open_url(service.gives("/image"), rate=len(DATA), pause=pauses) as download:
        assert all_of(download, 100_000) == DATA
    assert len(pauses.seconds) > 10
    assert max(pauses.seconds) > 0.5  # nothing waits here, so that what is due adds up to the whole second


class TestTheEnvironment:
    def test_a_proxy_is_asked_with_its_login_which_is_never_shown(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        service.answers["http://files.invalid/image"] = service.answers[
            service.gives("/image").removeprefix(service.url)
        ]
        proxy = service.url.replace("http://", "http://user:hunter2@")
        monkeypatch.setenv("http_proxy", proxy)
        assert fetch("http://files.invalid/image") == DATA
        ((path, headers),) = service.received
        assert path == "http://files.invalid/image"
        assert base64.b64decode(headers["proxy-authorization"].removeprefix("Basic ")) == b"user:hunter2"
        assert "hunter2" not in caplog.text
        monkeypatch.setenv("no_proxy", "files.invalid")
        assert "no connection to files.invalid" in refused("http://files.invalid/image").problem
        monkeypatch.setenv("http_proxy", "socks5://user:hunter2@proxy")
        monkeypatch.delenv("no_proxy")
        assert "'socks5'" in refused("http://files.invalid/image").problem
        assert "hunter2" not in refused("http://files.invalid/image").problem

    def test_this_machine_is_asked_without_a_proxy(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
        assert proxy_of(urllib.parse.urlsplit("http://other.example/x")) == "http://proxy.invalid:3128"
        assert fetch(service.gives("/image")) == DATA

    def test_a_login_of_netrc_goes_to_its_host_alone(
        self, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where no Authorization is given, and never by the default entry."""
        (tmp_path / "netrc").write_text(
            "machine 127.0.0.1 login me password hunter2\nmachine other.invalid login x password y\n"
        )
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with Service(address="127.0.0.2") as other:
            assert fetch(service.sends_on("/image", other.gives("/there"))) == DATA
            assert "authorization" not in other.received[0][1]
            assert "authorization" not in dict(other.received)["/there"]
        sent = service.received[0][1]["authorization"]
        assert base64.b64decode(sent.removeprefix("Basic ")) == b"me:hunter2"
        assert fetch(service.gives("/image"), headers={"Authorization": Secret("Bearer b")}) == DATA
        assert service.received[1][1]["authorization"] == "Bearer b"
        (tmp_path / "netrc").write_text("default login me password hunter2\n")
        assert fetch(service.gives("/image")) == DATA
        assert "authorization" not in service.received[2][1]
        assert Request.parse("http://other.invalid/", {}, False).with_login().headers == {}

    def test_a_damaged_netrc_is_warned_of_and_not_shown(
        self,
        service: Service,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 hunter2\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert fetch(service.gives("/image")) == DATA
        assert "no login of it is used" in caplog.text
        assert "hunter2" not in caplog.text


class TestTheNetworkOfThisMachine:
    @pytest.mark.parametrize(
        "target",
        [
            "http://169.254.169.254/latest/meta-data/",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
            "http://2852039166/",
            "http://[fd00:ec2::254]/",
            "http://100.100.100.200/",
            "http://metadata.google.internal/",
            "http://METADATA/",
        ],
    )
    def test_is_not_where_a_redirect_leads(self, service: Service, target: str) -> None:
        """Neither by an address nor by a name, however it is spelled."""
        error = refused(service.sends_on("/image", target))
        assert "which xenvol does not follow" in error.problem

    def test_is_this_machine_too_if_another_was_asked(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other one is reached by a proxy here."""
        there = service.gives("/secret")
        service.sends_on("http://files.invalid/image", there)
        monkeypatch.setenv("http_proxy", service.url)
        assert "does not follow" in refused("http://files.invalid/image").problem
        assert [path for path, _ in service.received] == ["http://files.invalid/image"]


class TestTrust:
    def test_a_certificate_of_the_named_authority_is_good(self, secure: Service) -> None:
        """And the token is sent."""
        assert fetch(secure.gives("/image"), ca_file=CA, headers={"X-Auth-Token": Secret(TOKEN)}) == DATA
        assert secure.received[0][1]["x-auth-token"] == TOKEN

    @pytest.mark.parametrize("ca_file", [None, str(TLS / "other-ca.pem")])
    def test_another_is_refused_before_anything_is_sent(self, secure: Service, ca_file: str | None) -> None:
        """And the error says what to do."""
        error = refused(secure.gives("/image"), ca_file=ca_file, headers={"X-Auth-Token": Secret(TOKEN)})
        assert "ca_file" in error.problem
        assert secure.received == []

    def test_a_certificate_for_another_name_is_refused(self) -> None:
        """The authority alone does not make it the right host."""
        with Service(tls=True, address="127.0.0.3") as other:
            assert "certificate" in refused(other.gives("/image"), ca_file=CA).problem
            assert other.received == []

    def test_insecure_takes_any(self, secure: Service) -> None:
        """It was asked for; a warning tells what that means."""
        with pytest.warns(InsecureRequestWarning):
            assert fetch(secure.gives("/image"), insecure=True) == DATA

    def test_a_ca_file_that_cannot_be_read_is_a_mistake(self, tmp_path: Path) -> None:
        """Found before anybody is asked."""
        with pytest.raises(ValueError, match="holds no certificates"):
            fetch("https://host/image", ca_file=str(tmp_path / "absent"))

    @pytest.mark.parametrize(
        "url", ["http://192.0.2.1/image", "http://image-service/image", "http://[2001:db8::1]/image"]
    )
    def test_a_secret_is_not_sent_in_the_clear(self, url: str) -> None:
        """But on the loopback, and where it was asked for; an image without a secret may come so."""
        error = refused(url, headers={"X-Auth-Token": TOKEN})
        assert "X-Auth-Token would be sent in the clear" in error.problem
        assert TOKEN not in str(error)
        Request.parse(url, {"X-Auth-Token": TOKEN}, True)
        Request.parse(url, {"X-Tenant": "me"}, False)
        Request.parse("http://localhost/image", {"X-Auth-Token": TOKEN}, False)
        Request.parse("http://[::1]/image", {"X-Auth-Token": TOKEN}, False)

    def test_a_secret_in_the_clear_is_warned_of(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where it was asked for: the name may lead to the loopback, or anywhere."""
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
        )
        url = service.gives("/image").replace("127.0.0.1", "image-service")
        with pytest.warns(InsecureConnection, match="X-Auth-Token and the image travel") as warned:
            assert fetch(url, headers={"X-Auth-Token": TOKEN}, insecure=True) == DATA
        assert warned[0].filename == __file__
        assert fetch(url, insecure=True) == DATA


class TestSecrets:
    def test_no_error_no_log_and_no_repr_shows_a_token_or_a_signature(
        self, service: Service, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever fails, and even where the service repeats what it was told."""
        caplog.set_level(logging.DEBUG)  # urllib3's too
        headers: Mapping[str, str | Secret] = {
            "X-Auth-Token": Secret(TOKEN),
            "Authorization": f"Bearer {TOKEN}2",
        }
        echo = f"GET /image?{SIGNATURE} with {TOKEN} and {TOKEN}2 and Bearer {TOKEN}2: no".encode()
        with socket.create_server(("127.0.0.1", 0)) as server:
            nobody = f"http://127.0.0.1:{server.getsockname()[1]}"
        urls = [
            service.gives("/denied", echo, status=403),
            service.gives("/cut", b"data", length=99),
            service.sends_on("/nowhere", f"{nobody}/?{SIGNATURE}"),
            service.sends_on("/on", f"ftp://host/?{SIGNATURE}"),
            f"{nobody}/image",
            "https://ho st/image",
            f"https://127.0.0.1:{service.url.rpartition(':')[2]}/image",
        ]
        for url in urls:
            error = refused(f"{url}?{SIGNATURE}#fragment", headers=headers)
            shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
            assert TOKEN not in shown, url
            assert SIGNATURE not in shown, url
        with open_url(service.gives("/image") + f"?{SIGNATURE}", headers=headers) as download:
            assert "?…" in download.name
            assert SIGNATURE not in download.name + repr(download)
        assert service.received[-1][0] == f"/image?{SIGNATURE}"
        request = Request.parse(f"https://host/?{SIGNATURE}", headers, False)
        assert '"GET /image?*** HTTP/1.1" 200' in caplog.text
        for text in (repr(request), caplog.text):
            assert TOKEN not in text
            assert SIGNATURE not in text

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("https://host/a/b", "https://host/a/b"),
            ("https://host:8443/a?x=1", "https://host:8443/a?…"),
            ("https://user:pass@host/a#part", "https://host/a"),
            ("https://host/\x1b[31m", "https://host/�[31m"),
            ("https://[half/", "a URL"),
        ],
    )
    def test_a_url_is_called_by_what_is_not_secret_in_it(self, url: str, name: str) -> None:
        """Its host and its path; that there was more is shown."""
        assert name_of_url(url) == name


DIGEST = hashlib.md5(DATA).digest()
SUM = Checksum("md5", DIGEST.hex())
BASE64 = base64.b64encode(DIGEST).decode()


class TestExpected:
    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({}, None),
            ({"x-image-meta-checksum": SUM.digest}, SUM),
            ({"X-Image-Meta-Checksum": SUM.digest.upper()}, SUM),
            ({"Content-MD5": BASE64}, SUM),
            ({"Content-MD5": SUM.digest}, SUM),
            ({"Content-MD5": "no checksum"}, None),
            ({"Content-MD5": base64.b64encode(b"too short").decode()}, None),
            ({"Content-MD5": "\u00e4"}, None),
            ({"Content-MD5": BASE64, "Content-Encoding": "gzip"}, None),
            ({"Content-MD5": BASE64, "Content-Encoding": "identity"}, SUM),
            ({"ETag": SUM.digest}, None),
            ({"ETag": f'"{SUM.digest}"'}, None),
            ({"ETag": SUM.digest, "x-image-meta-id": "7"}, SUM),
            ({"ETag": f'"{SUM.digest}"', "x-image-meta-id": "7"}, SUM),
            ({"ETag": f'W/"{SUM.digest}"', "x-image-meta-id": "7"}, None),
            ({"ETag": '"5e8-62f"', "x-image-meta-id": "7"}, None),
            ({"x-image-meta-checksum": "None", "x-image-meta-id": "7"}, None),
            ({"x-image-meta-checksum": SUM.digest, "Content-MD5": "00" * 16, "ETag": "11" * 16}, SUM),
        ],
    )
    def test_a_service_promises_a_checksum_in_its_own_way(
        self, service: Service, headers: dict[str, str], expected: Checksum | None
    ) -> None:
        """An ETag that comes alone may be anything: a wrong promise would refuse a good image."""
        with contextlib.suppress(UnicodeEncodeError):
            named = {key.replace("-", "_"): value for key, value in headers.items()}
            with open_url(service.gives("/image", **named)) as download:
                assert download.expected == expected
        assert checksum_in({key.lower(): value for key, value in headers.items()}) == expected
