"""Send a request once, and limit the wait for its answer.

The transports of the standard library send a request a second time if the connection breaks before the answer. The host
may then do it twice. Here the caller gets the error, and decides. Only after `NotConnected` is it certain that the host
did nothing, since nothing was sent.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
import xml.etree.ElementTree as ET
import xmlrpc.client
from collections.abc import Callable
from typing import Any, Final

from xenvol.session.answer import read_answer
from xenvol.session.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Connection, Endpoint

LARGEST_ANSWER: Final = 256 << 20  # bytes; the records of 10,000 SRs take 20 MiB
IDLE_LIMIT: Final = 60.0  # seconds; firewalls drop idle connections silently, and a new one is cheap


class UnreadableAnswer(OSError):
    """The host sent something that is no XML-RPC answer."""


class _Source(io.RawIOBase):
    """Reads an answer from a socket until a moment, however slowly it comes."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        self._sock = sock
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


class _Answer(http.client.HTTPResponse):
    """An answer that must be whole within so many seconds. The standard library limits only the wait for each part."""

    def __init__(self, sock: socket.socket, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Source(sock, seconds))


class NotHTTP(OSError):
    """The host closed a new connection without an answer, as one does that speaks another protocol."""


class Transport(xmlrpc.client.Transport):
    """One thread's connection to one endpoint. A failed request closes it, and the next one connects anew."""

    accept_gzip_encoding = False  # xapi never compresses
    user_agent = "xenvol"

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float = ANSWER_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._clock = clock
        self._idle_since = 0.0

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        """Send once. After NotConnected nothing was sent; after every other error the host may have acted."""
        answered, is_new = False, not self.is_connected
        try:
            answer = self.single_request(host, handler, request_body, verbose)
            answered = True
        except (ConnectionError, http.client.BadStatusLine) as error:
            if is_new and self.endpoint.scheme == "http":
                raise NotHTTP(
                    f"{self.endpoint} closed the connection without an answer; if it speaks https, say https://"
                ) from error
            raise
        finally:
            if (
                not answered
            ):  # also after an interrupt: the next request must not read the rest of this answer
                self.close()
        self._idle_since = self._clock()
        return answer

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = self._connection[1]
        if isinstance(connection, Connection):
            if self._clock() - self._idle_since < IDLE_LIMIT and not connection.is_stale():
                connection.set_answer_timeout(self.timeout)
                return connection
            self.close()
        connection = self.endpoint.open(timeout=self.timeout, connect_timeout=self.connect_timeout)
        connection.response_class = self._answer  # type: ignore[assignment]  # all that is called is the constructor
        self._connection = (host, connection)
        return connection

    def _answer(self, sock: socket.socket, *args: Any, **kwargs: Any) -> _Answer:
        return _Answer(sock, *args, seconds=self.timeout, **kwargs)

    def parse_response(self, response: http.client.HTTPResponse) -> tuple[Any]:
        body = response.read(LARGEST_ANSWER + 1)
        if len(body) > LARGEST_ANSWER:
            raise UnreadableAnswer(f"the answer is larger than {LARGEST_ANSWER >> 20} MiB")
        try:
            return (read_answer(body),)
        except ET.ParseError as error:
            raise UnreadableAnswer(f"not an XML-RPC answer: {error}") from error
        except (xmlrpc.client.ResponseError, ValueError, TypeError, LookupError) as error:
            # well-formed, but no XML-RPC; the parser's message may quote the answer, which may hold a secret
            raise UnreadableAnswer(f"not an XML-RPC answer ({type(error).__name__})") from None

    @property
    def is_connected(self) -> bool:
        connection = self._connection[1]
        return connection is not None and connection.sock is not None

    def __repr__(self) -> str:
        return f"<Transport to {self.endpoint}, {'connected' if self.is_connected else 'not connected'}>"
