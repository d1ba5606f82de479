"""One request at a door of a host, byte by byte: the only lines that read or write a socket to one.

The session goes as a cookie, never in a URL, since URLs end up in logs, and only to a host of the pool. What the
network does is one exception, `Broken`, which says that the exchange is over and nothing about what became of it.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import ssl
import struct
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, Self

from xenvol.images.disk_image import Piece
from xenvol.images.transports.base import Timeouts
from xenvol.session.endpoint import Connection, Endpoint, NotConnected

CHUNK: Final = struct.Struct("<QI")
"""Offset and length before the data of a chunk of xapi's (ocaml/vhd-tool/src/chunked.ml); both 0 at the end."""
_BATCH: Final = 256 << 10
"""Bytes; smaller pieces are sent together, so that a thousand clusters are not a thousand packets."""
_BATCH_PARTS: Final = 512  # sendmsg takes 1024 (IOV_MAX)
MOVES: Final = 3
"""Redirects that are followed: a host knows who has the SR, so that more than one is a change under way."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)  # xapi says 302
_EXCERPT: Final = 4096
"""Bytes that are kept of what a host says in a body that nobody asked for."""


class Broken(Exception):  # never leaves the roads: they ask the task, and say what came of it
    """The connection is no more."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


def _broken(error: OSError | http.client.HTTPException) -> Broken:
    """Without the words of the HTTP parser, which quote what came."""
    if isinstance(error, OSError):
        return Broken(error)
    return Broken(ConnectionError(f"what came is no HTTP ({type(error).__name__})"))


class Exchange:
    """A request whose head is sent and whose answer has begun. Leave the block to close the connection."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        assert connection.sock is not None  # the answer's head came over it
        self._connection = connection
        self._sock: socket.socket = connection.sock
        self._response = response
        self._selector = selectors.DefaultSelector()  # which knows eventlet's ways, unlike select.poll
        self._selector.register(self._sock, selectors.EVENT_READ)
        self.status: int = response.status

    @classmethod
    def begin(
        cls,
        endpoint: Endpoint,
        verb: str,
        path: str,
        query: Mapping[str, str],
        *,
        session_ref: str,
        timeouts: Timeouts,
    ) -> Exchange:
        """Send the head, and wait for the answer's. Raises NotConnected when nothing was sent, else Broken."""
        connection = Connection(endpoint, timeout=timeouts.head, connect_timeout=timeouts.connect)
        connection.connect()
        response: http.client.HTTPResponse | None = None
        try:
            connection.putrequest(verb, f"{path}?{urllib.parse.urlencode(query)}", skip_accept_encoding=True)
            connection.putheader("User-Agent", "xenvol")
            connection.putheader("Cookie", f"session_id={session_ref}")
            connection.endheaders()
            assert connection.sock is not None  # it is connected
            response = http.client.HTTPResponse(connection.sock, method=verb)
            response.begin()
        except BaseException as error:
            if response is not None:
                response.close()  # which has a hold on the socket, so that the host would not notice
            connection.close()
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise _broken(error) from None
            raise
        connection.set_answer_timeout(timeouts.stall)
        return cls(connection, response)

    @property
    def location(self) -> str:
        """Where a redirect leads."""
        return self._response.getheader("Location") or ""

    def send(self, pieces: Iterable[Piece]) -> None:
        """Each as one of xapi's chunks, then their end marker. Raises Broken, and whatever the pieces raise."""
        parts: list[bytes] = []
        held = 0
        for offset, data in pieces:
            parts += (CHUNK.pack(offset, len(data)), data)
            held += len(data)
            if held >= _BATCH or len(parts) >= _BATCH_PARTS:
                self._send(parts)
                parts, held = [], 0
        parts.append(CHUNK.pack(0, 0))
        self._send(parts)

    def read(self, size: int) -> bytes:
        """So many bytes of the answer's body, or fewer where it ends. Raises Broken."""
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from None

    def is_readable(self, seconds: float) -> bool:
        """Whether the host says something, or hangs up, within that time."""
        return bool(self._selector.select(seconds))

    def said(self, seconds: float) -> bytes:
        """The beginning of the rest of the body, as far as it comes in time: what a host says that has broken off."""
        kept = b""
        try:
            self._sock.settimeout(seconds)
            while len(kept) < _EXCERPT and (data := self._response.read(_EXCERPT - len(kept))):
                kept += data
        except (OSError, http.client.HTTPException):
            pass  # there is not more of it
        return kept

    def close(self) -> None:
        """Idempotent; the host notices at once."""
        self._selector.close()
        self._response.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, parts: list[bytes]) -> None:
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                if len(parts) > 2:  # small ones: a copy costs less than a record of TLS for each
                    parts = [b"".join(parts)]
                for part in parts:
                    self._sock.sendall(part)
                return
            if self.is_readable(0):
                raise ConnectionAbortedError("the host broke off")  # before the end it says nothing else
            sent = self._sock.sendmsg(parts)
            for part in parts:
                if sent < len(part):
                    self._sock.sendall(memoryview(part)[sent:])
                sent = max(0, sent - len(part))
        except OSError as error:
            raise Broken(error) from error


def begin(
    endpoints: Iterable[Endpoint],
    verb: str,
    path: str,
    query: Mapping[str, str],
    *,
    session_ref: str,
    follow: Callable[[str], Endpoint],
    timeouts: Timeouts,
) -> Exchange:
    """At the first of these that takes a connection, or where it sends us: `follow` makes an endpoint of a Location.

    Raises NotConnected where none does, Broken, and what `follow` raises.
    """
    silence: NotConnected | None = None
    for endpoint in endpoints:
        try:
            for _ in range(MOVES + 1):
                exchange = Exchange.begin(
                    endpoint, verb, path, query, session_ref=session_ref, timeouts=timeouts
                )
                if exchange.status not in _REDIRECTS:
                    return exchange
                exchange.close()
                endpoint = follow(exchange.location)
            raise Broken(ConnectionError(f"the hosts send us in circles; the last one named was {endpoint}"))
        except NotConnected as error:
            if silence is None:
                silence = error
            else:
                silence.add_note(str(error))
    raise silence or NotConnected("no host has the disk's SR plugged")
