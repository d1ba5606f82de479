"""A connection belongs to one thread of one process: each has its own client, made when it first calls, closed when it
ends."""

from __future__ import annotations

import http.client
import threading
import weakref
import xmlrpc.client
from typing import Any, Final

import XenAPI

from xenvol.secret import revealed
from xenvol.session.endpoint import Endpoint
from xenvol.session.transport import Transport, UnreadableAnswer

SILENCE: Final = (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError)
"""What a call raises when no answer came that anybody can read."""


class ThreadClients:
    """The clients of all threads. A thread that turns to another endpoint leaves the one before."""

    def __init__(self, *, timeout: float, connect_timeout: float) -> None:
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self.begin_in_child()

    def begin_in_child(self) -> None:
        """Leave the clients of the parent alone: closing what is left of them here ends no connection there."""
        self._mine = threading.local()
        self._transports: weakref.WeakSet[Transport] = weakref.WeakSet()
        self._lock = threading.Lock()

    def send(
        self, endpoint: Endpoint, call: str, params: tuple[Any, ...], *, timeout: float | None = None
    ) -> Any:
        """The value of one call, sent once over this thread's connection. Raises XenAPI.Failure or SILENCE.

        The one place where secrets are in the clear: in no frame above this one.
        """
        client, transport = self._client(endpoint)
        transport.timeout = self._timeout if timeout is None else min(timeout, self._timeout)
        return _value_of(getattr(client, call)(*revealed(params)))

    def close(self) -> None:
        """Close the connections of all threads; who calls again gets a new one."""
        for transport in self._all():
            transport.close()

    @property
    def connected(self) -> int:
        return sum(transport.is_connected for transport in self._all())

    def _client(self, endpoint: Endpoint) -> tuple[XenAPI.Session, Transport]:
        """The official client, of which the marshalling is used and not the log-in.

        (Logged in by itself it would keep the password in the clear, and renew a session up to three times.)
        """
        mine: tuple[XenAPI.Session, Transport] | None = getattr(self._mine, "client", None)
        if mine is not None:
            if mine[1].endpoint == endpoint:
                return mine
            mine[1].close()
        transport = Transport(endpoint, timeout=self._timeout, connect_timeout=self._connect_timeout)
        # the address here is for show: the transport knows where it goes
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
