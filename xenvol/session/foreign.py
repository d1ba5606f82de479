"""Calls over a session that the caller logged in. A bare connection serves one thread of one process at a time.

All `Session` objects over one `XenAPI.Session` share a lock: else their requests and answers would get mixed up.
"""

from __future__ import annotations

import threading
import weakref
import xmlrpc.client
from collections.abc import Callable, Sequence
from typing import Any

from xenvol.errors import RequestError
from xenvol.secret import revealed
from xenvol.session.forks import renew_after_fork


def no_session(given: object) -> RequestError:
    """Return the error for an argument that is no session."""
    return RequestError(
        "pass a session of xenvol.connect, or an object with .xenapi that is logged in, such as a XenAPI.Session, "
        f"not a value of type {type(given).__name__}"
    )


def sender(wrapped: Any) -> Callable[[str, Sequence[Any]], Any]:
    """Return a function that makes a call through `wrapped.xenapi`."""

    def send(call: str, params: Sequence[Any]) -> Any:
        try:
            target = wrapped.xenapi
        except AttributeError as error:
            raise no_session(wrapped) from error
        for part in call.split("."):
            target = getattr(target, part)
        return target(*revealed(params))

    if not isinstance(wrapped, xmlrpc.client.ServerProxy):
        return send

    def send_alone(call: str, params: Sequence[Any]) -> Any:
        with _turns.of(wrapped):
            if wrapped.handle is None:
                raise RequestError("the session is not logged in: call its login_with_password first")
            return send(call, params)

    return send_alone


class _Turns:
    """A lock for each bare connection of this process."""

    def __init__(self) -> None:
        self._is_child = False
        self._begin()
        renew_after_fork(self)

    def of(self, connection: xmlrpc.client.ServerProxy) -> threading.Lock:
        """Return the lock of a connection. In a forked child, the first caller closes the inherited socket.

        The parent has that socket open as well, so its connection goes on. The child's next call connects anew.
        """
        with self._lock:
            lock = self._locks.get(connection)
            if lock is None:
                if self._is_child:
                    connection("close")()
                lock = self._locks[connection] = threading.Lock()
            return lock

    def begin_in_child(self) -> None:
        self._is_child = True
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._locks: weakref.WeakKeyDictionary[xmlrpc.client.ServerProxy, threading.Lock] = (
            weakref.WeakKeyDictionary()
        )


_turns = _Turns()
