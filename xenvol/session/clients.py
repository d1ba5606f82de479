"""One connection for each thread of each process: made at the thread's first call, closed when the thread ends."""

from __future__ import annotations

import http.client
import math
import threading
import time
import weakref
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import XenAPI

from xenvol.secret import revealed
from xenvol.session.endpoint import Endpoint, NotConnected
from xenvol.session.transport import Transport, UnreadableAnswer

SILENCE: Final = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)
"""What a call raises if no readable answer comes."""


class ThreadClients:
    """The clients of all threads. A thread that calls another endpoint closes its connection to the one before."""

    def __init__(self, *, timeout: float, connect_timeout: float) -> None:
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.begin_in_child()

    def begin_in_child(self) -> None:
        """Drop the parent's clients. Closing the inherited sockets here does not end the parent's connections."""
        self._mine = threading.local()
        self._transports: weakref.WeakSet[Transport] = weakref.WeakSet()
        self._lock = threading.Lock()

    def send(
        self, endpoint: Endpoint, call: str, params: tuple[Any, ...], *, timeout: float | None = None
    ) -> Any:
        """Send one call, once, over this thread's connection, and return its value. Raises XenAPI.Failure or SILENCE.

        Secrets are in the clear here and in the frames below, never in a frame above.
        """
        client, transport = self._client(endpoint)
        left = self._left()
        transport.timeout = min(self._timeout if timeout is None else min(timeout, self._timeout), left)
        transport.connect_timeout = min(self._connect_timeout, left)
        return _value_of(getattr(client, call)(*revealed(params)))

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """Let each wait of this thread's calls in the block end at this moment of `time.monotonic`."""
        self._mine.end = end
        try:
            yield
        finally:
            self._mine.end = math.inf

    def _left(self) -> float:
        """Return the seconds that are left for this thread's call. Raises NotConnected if there are none."""
        left: float = getattr(self._mine, "end", math.inf) - time.monotonic()
        if left <= 0:
            raise NotConnected("no time was left")
        return left

    def close(self) -> None:
        """Close the connections of all threads. A later call opens a new one."""
        for transport in self._all():
            transport.close()

    @property
    def connected(self) -> int:
        return sum(transport.is_connected for transport in self._all())

    def _client(self, endpoint: Endpoint) -> tuple[XenAPI.Session, Transport]:
        """Return this thread's official client, used for its marshalling only.

        Its own log-in would keep the password in the clear, and renew a session up to three times.
        """
        mine: tuple[XenAPI.Session, Transport] | None = getattr(self._mine, "client", None)
        if mine is not None:
            if mine[1].endpoint == endpoint:
                return mine
            mine[1].close()
        transport = Transport(endpoint, timeout=self._timeout, connect_timeout=self._connect_timeout)
        # the client wants an address, but the transport decides where the call goes
        client = XenAPI.Session("http://localhost/RPC2", transport=transport)
        weakref.finalize(client, transport.close)  # when its thread ends
        with self._lock:
            self._transports.add(transport)
        self._mine.client = client, transport
        return client, transport

    def _all(self) -> list[Transport]:
        with self._lock:
            return list(self._transports)

    def __repr__(self) -> str:
        return f"<ThreadClients, {self.connected} connected>"


def _value_of(answer: Any) -> Any:
    match answer:
        case {"Status": "Success", "Value": value}:
            return value
        case {"Status": "Failure", "ErrorDescription": [str(), *_] as details}:
            raise XenAPI.Failure(details)
        case _:
            raise UnreadableAnswer("not an answer of xapi: it has no Status, or no Value")
