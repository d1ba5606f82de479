"""One HTTP request to a host, byte by byte. No other module of images reads or writes a socket to a host.

The session travels as a cookie, since URLs end up in logs, and only to a host of the pool. Every network failure is
one exception, `Broken`: it says that the exchange is over, and nothing about the result of the transfer.
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
"""Offset and length, before the data of a chunk (ocaml/vhd-tool/src/chunked.ml). The end marker has 0 for both."""
_BATCH: Final = 256 << 10
"""Bytes. Smaller pieces are sent together, so that a thousand clusters are not a thousand packets."""
_BATCH_PARTS: Final = 512  # sendmsg takes 1024 (IOV_MAX)
MOVES: Final = 3
"""Redirects that xenvol follows. A host knows which host has the SR, so more than one means a change under way."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)  # xapi says 302
_EXCERPT: Final = 4096
"""Bytes that are kept of a host's unexpected body."""


class Broken(Exception):  # stays inside the transports: they ask the task, and report that
    """The connection is over."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


def _broken(error: OSError | http.client.HTTPException) -> Broken:
    """Return the error without the text of the HTTP parser, which quotes the answer."""
    if isinstance(error, OSError):
        return Broken(error)
    return Broken(ConnectionError(f"the answer is not HTTP ({type(error).__name__})"))


class Exchange:
    """A request whose head is sent, and whose answer has begun. Leaving the block closes the connection."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        assert connection.sock is not None  # the answer's head came over it
        self._connection = connection
        self._sock: socket.socket = connection.sock
        self._response = response
        self._selector = selectors.DefaultSelector()  # works under eventlet, unlike select.poll
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
        """Send the head, and wait for the answer's head. Raises NotConnected if nothing was sent, else Broken."""
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
                response.close()  # it holds the socket, and the host would not see the close
            connection.close()
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise _broken(error) from None
            raise
        connection.set_answer_timeout(timeouts.stall)
        return cls(connection, response)

    @property
    def location(self) -> str:
        """Return the target of a redirect."""
        return self._response.getheader("Location") or ""

    def send(self, pieces: Iterable[Piece]) -> None:
        """Send each piece as one of xapi's chunks, then the end marker. Raises Broken, and what the pieces raise."""
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
        """Return `size` bytes of the answer's body, or fewer where it ends. Raises Broken."""
        try:
            return self._response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise _broken(error) from None

    def is_readable(self, seconds: float) -> bool:
        """Return whether the host sends something, or closes the connection, within that time."""
        return bool(self._selector.select(seconds))

    def said(self, seconds: float) -> bytes:
        """Return the beginning of the rest of the body, as far as it comes in time: a host's reason for ending the
        transfer."""
        kept = b""
        try:
            self._sock.settimeout(seconds)
            while len(kept) < _EXCERPT and (data := self._response.read(_EXCERPT - len(kept))):
                kept += data
        except (OSError, http.client.HTTPException):
            pass  # the body ends here
        return kept

    def close(self) -> None:
        """Close the connection; the host sees it at once. Idempotent."""
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
                if len(parts) > 2:  # small pieces: a copy costs less than a TLS record for each
                    parts = [b"".join(parts)]
                for part in parts:
                    self._sock.sendall(part)
                return
            if self.is_readable(0):
                raise ConnectionAbortedError(
                    "the host ended the transfer"
                )  # a host sends something before the end only to refuse
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
    """Begin at the first endpoint that accepts a connection, and follow redirects: `follow` turns a Location into an
    endpoint.

    Raises NotConnected if no endpoint accepts, Broken, and what `follow` raises.
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
            raise Broken(
                ConnectionError(f"the hosts redirect in a circle; the last one named was {endpoint}")
            )
        except NotConnected as error:
            if silence is None:
                silence = error
            else:
                silence.add_note(str(error))
    raise silence or NotConnected("no host has the disk's SR plugged")
