"""The wire without a xapi: an XML-RPC server of a page, which answers what a test says and can fail in every way.

It knows no rule of xapi beyond log-in and log-out. What depends on rules is tested on the simulator.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import ssl
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenvol.session.transport import Transport

TLS = Path(__file__).parent / "data" / "tls"
FINGERPRINT = hashlib.sha256(
    ssl.PEM_cert_to_DER_cert((TLS / "host.pem").read_text().partition("-----END PRIVATE KEY-----\n")[2])
).hexdigest()
POOL_UUID = "11111111-0000-4000-8000-000000000001"


class Refuse(Exception):
    """Answer with this ErrorDescription."""


class HangUp(Exception):
    """Close the connection without an answer."""


class Hang(Exception):
    """Answer nothing, and keep the connection, until the server stops."""


@dataclass
class Raw(Exception):
    """Answer these bytes, whatever they are."""

    body: bytes
    status: int = 200


@dataclass
class TinyXapi:
    """One host. `answers` maps a call to its value, or to a function of the parameters that returns or raises it."""

    address: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    answers: dict[str, Any] = field(default_factory=dict)
    password: str = "secret"
    received: list[tuple[str, list[Any]]] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    connections: int = 0
    open_connections: int = 0
    hangs_up_after_answers: bool = False  # without saying "Connection: close"

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._logins = 0

    def calls(self, call: str) -> int:
        return sum(name == call for name, _ in self.received)

    def params(self, call: str) -> list[Any]:
        """What the last such call was sent with, the session left out."""
        return [params for name, params in self.received if name == call][-1][1:]

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}:{self.port}"

    def answer(self, call: str, params: list[Any]) -> Any:
        if call == "session.login_with_password" and call not in self.answers:
            if params[1] != self.password:
                raise Refuse("SESSION_AUTHENTICATION_FAILED", params[0], "Authentication failure")
            self._logins += 1
            ref = f"OpaqueRef:session-{self.address}-{self._logins}"
            self.sessions.add(ref)
            return ref
        made_up = self.answers.get(call)
        if call not in ("session.login_with_password",) and params[0] not in self.sessions:
            raise Refuse("SESSION_INVALID", params[0])
        if call == "session.logout" and made_up is None:
            self.sessions.remove(params[0])
            return ""
        if made_up is None:
            raise Refuse("MESSAGE_METHOD_UNKNOWN", call)
        return made_up(*params) if callable(made_up) else made_up

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout=60)

    @contextlib.contextmanager
    def running(self) -> Iterator[TinyXapi]:
        server = _Server((self.address, self.port), _Handler)
        server.xapi = self
        self.port = server.server_address[1]
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(TLS / "host.pem")
            server.context = context
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            server.shutdown()
            server.server_close()
            thread.join()
            self.hang_up()

    def hang_up(self) -> None:
        """Close every connection, idle ones too, as a server does that is tired of waiting."""
        with self._changed:
            for each in list(self._sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self.wait_until(lambda: not self._sockets)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    xapi: TinyXapi
    context: ssl.SSLContext | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off a handshake, or hangs up, is what some tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes, and the second would wait 40 ms
    server: _Server

    def setup(self) -> None:
        if self.server.context is not None:
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        xapi = self.server.xapi
        with xapi._changed:
            xapi.connections += 1
            xapi.open_connections += 1
            xapi._sockets.add(self.request)
            xapi._changed.notify_all()
        super().setup()

    def finish(self) -> None:
        xapi = self.server.xapi
        with contextlib.suppress(OSError):
            super().finish()
        self.request.close()
        with xapi._changed:
            xapi.open_connections -= 1
            xapi._sockets.discard(self.request)
            xapi._changed.notify_all()

    def do_POST(self) -> None:
        xapi = self.server.xapi
        params, call = xmlrpc.client.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert call is not None
        with xapi._changed:
            xapi.received.append((call, list(params)))
            xapi._changed.notify_all()
        status = 200
        try:
            answer: dict[str, Any] = {"Status": "Success", "Value": xapi.answer(call, list(params))}
        except Refuse as refusal:
            answer = {"Status": "Failure", "ErrorDescription": list(refusal.args)}
        except HangUp:
            self.close_connection = True
            return
        except Hang:
            xapi._stopped.wait()
            self.close_connection = True
            return
        except Raw as raw:
            self._reply(raw.status, raw.body)
            return
        self._reply(status, xmlrpc.client.dumps((answer,), methodresponse=True).encode())
        self.close_connection = xapi.hangs_up_after_answers

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read the journal, not the log."""


def ask(transport: Transport, call: str = "host.get_all") -> Any:
    """Send one call in session ``s``, and return the value of the answer."""
    body = xmlrpc.client.dumps(("s",), call).encode()
    (answer,) = transport.request("ignored", "/RPC2", body)
    return answer["Value"]
