"""HTTP/1.1 as a host's xapi speaks it: which path serves which protocol, and which answers are HTML pages.

One `Server` is one host's listener. Several may share one `Service`, each with the identity of another host
of the pool. One thread serves a connection, from its first request to its last.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable

from xenvol.simulator import jsonrpc, xmlrpc
from xenvol.simulator.failure import Failure, Garbage
from xenvol.simulator.hooks import Answer, Reply
from xenvol.simulator.http11 import Request, head, page, read_body, read_head
from xenvol.simulator.images import handlers
from xenvol.simulator.images.body import Broken
from xenvol.simulator.images.exchange import Exchange
from xenvol.simulator.service import Dropped, Service
from xenvol.simulator.xapi import Xapi

log = logging.getLogger(__name__)

LARGEST_BODY = 300 * 1024
"""Bytes (docs/background/xapi.md 4.1)."""
_BACKLOG = 128


class Server:
    """Listens from `start` to `close`. ``host`` may be 127.0.0.2, and ``port`` 0 takes a free one."""

    def __init__(
        self,
        service: Service,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        identity: Callable[[Xapi], str] = lambda xapi: xapi.master,
    ) -> None:
        self.service = service
        self.host = host
        self.port = port
        self.tls = tls
        self.identity = identity
        """Returns the host of the pool that this server is; called for every call, because a reset makes new hosts."""
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._gone = threading.Event()

    def __repr__(self) -> str:
        return f"<Server {self.url} {'up' if self.is_up else 'down'}>"

    @property
    def url(self) -> str:
        return _url(self.host, self.port, is_https=self.tls is not None)

    @property
    def is_up(self) -> bool:
        return self._listener is not None

    @property
    def connections(self) -> int:
        """The number of open connections; one whose client has left counts until its last call is over."""
        with self._guard:
            return len(self._connections)

    def start(self) -> None:
        """Listen; OSError if the port is taken. After `go_down`, on the same port as before."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)
        self.port = listener.getsockname()[1]
        self._gone = threading.Event()
        self._listener = listener
        threading.Thread(
            target=self._accept, args=(listener, self._gone), name=f"accept {self.url}", daemon=True
        ).start()

    def go_down(self) -> None:
        """Let the host die: refuse connections, and end the open ones without an answer. Idempotent."""
        with self._guard:
            listener, self._listener = self._listener, None
            connections, self._connections = self._connections, set()
            self._gone.set()
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Listen again after `go_down`; idempotent."""
        if self._listener is None:
            self.start()

    close = go_down

    def drop_connections(self) -> None:
        """Close every connection, idle ones too; new connections are accepted."""
        with self._guard:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # ---- connections

    def _accept(self, listener: socket.socket, gone: threading.Event) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, gone), daemon=True).start()

    def _serve(self, connection: socket.socket, gone: threading.Event) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = stack.enter_context(self.tls.wrap_socket(connection, server_side=True))
            with self._guard:
                if gone.is_set():
                    return
                self._connections.add(connection)
            stack.callback(self._forget, connection)
            stream = stack.enter_context(connection.makefile("rb"))
            while (request := read_head(stream)) is not None:
                try:
                    if (name := self._image_request(request)) is not None:
                        exchange = Exchange(request, stream, connection)
                        self.service.transfer(name, exchange, self._host(), self._url_of, gone)
                        exchange.finish()
                        if not exchange.stays_open:
                            return
                        exchange.body.skip_to(exchange.body.length or 0)
                        continue
                    request = read_body(request, stream, connection)
                    reply = self._answer(request, gone)
                except Broken:
                    return
                except Dropped as dropped:
                    if dropped.host_dies:
                        self.service.lose(self._host())
                        self.go_down()
                    return
                is_last = request.is_last or reply.status != 200
                connection.sendall(head(reply, request, is_last=is_last) + reply.body)
                if is_last and not self._is_forgotten(request):
                    return

    def _forget(self, connection: socket.socket) -> None:
        with self._guard:
            self._connections.discard(connection)

    # ---- requests

    def _image_request(self, request: Request) -> str | None:
        return handlers.name_of(request.verb, _path(request.path, self.service.xapi.model.release))

    def _is_forgotten(self, request: Request) -> bool:
        """Return True if xapi announces that it closes the connection, and then does not (trace sm/30#220)."""
        return request.verb == "GET" and handlers.name_of("PUT", request.path.partition("?")[0]) is not None

    def _answer(self, request: Request, gone: threading.Event) -> Reply:
        path = _path(request.path, self.service.xapi.model.release)
        if f"{path}/".startswith("/simulator/") and self.service.control is not None:
            return self.service.control(request.verb, request.path, request.body)
        if request.verb == "OPTIONS" and path.startswith("/"):
            return Reply(200, "text/plain", b"")
        if request.verb in ("GET", "PUT") or not path.startswith("/"):
            return page(403)
        if request.verb != "POST":
            return page(501, request.verb)
        if len(request.body) > LARGEST_BODY:
            return page(413)
        try:
            if path.startswith("/jsonrpc"):
                return self._jsonrpc(request.body, gone)
            return self._xmlrpc(request.body, gone)
        except Garbage as garbage:
            return page(500, str(garbage))

    def _xmlrpc(self, body: bytes, gone: threading.Event) -> Reply:
        method, params = xmlrpc.parse_call(body)
        answer = self._call("xmlrpc", method, params, gone)
        if answer.error is not None:
            return Reply(200, "text/xml", xmlrpc.failure(list(answer.error)))
        write = xmlrpc.bare if method == "system.listMethods" else xmlrpc.success
        return Reply(200, "text/xml", write(answer.result))

    def _jsonrpc(self, body: bytes, gone: threading.Event) -> Reply:
        call = jsonrpc.parse_call(body)
        protocol = "jsonrpc2" if call.version == 2 else "jsonrpc"
        try:
            jsonrpc.assert_unicode(call.params)
        except Failure as failure:
            return Reply(200, "application/json", jsonrpc.failure(call, failure.description))
        answer = self._call(protocol, call.method, call.params, gone)
        if answer.error is not None:
            return Reply(200, "application/json", jsonrpc.failure(call, list(answer.error)))
        return Reply(200, "application/json", jsonrpc.success(call, answer.result))

    def _call(self, protocol: str, method: str, params: list[object], gone: threading.Event) -> Answer:
        return self.service.call(protocol, method, params, self._host(), gone)

    def _host(self) -> str:
        return self.identity(self.service.xapi)

    def _url_of(self, host: str) -> str:
        """Return the URL of another host of the pool. (Real hosts redirect to HTTPS, on its usual port.)"""
        address = self.service.xapi.db.row("host", host)["address"]
        return _url(address, self.port, is_https=self.tls is not None)


_URI_SINCE = (24, 20, 0)
"""The first release that reads a request's path as a URI: after ``//`` comes a host (trace 10#16)."""


def _url(address: str, port: int, *, is_https: bool) -> str:
    bracketed = f"[{address}]" if ":" in address else address
    return f"{'https' if is_https else 'http'}://{bracketed}:{port}"


def _path(target: str, release: tuple[int, ...]) -> str:
    """Return the path without query and host."""
    path = target.partition("?")[0]
    if release >= _URI_SINCE and path.startswith("//"):
        _, slash, rest = path[2:].partition("/")
        return slash + rest
    return path
