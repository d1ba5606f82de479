"""The official XenAPI client, logged in, and closed without output afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import XenAPI

from xenvol.simulator import Simulator
from xenvol.simulator.wire import Caller


@contextmanager
def log_in(xapi: Simulator, url: str | None = None) -> Iterator[Any]:
    """Yield the ``xenapi`` object of a session; the connection is closed at the end, the session stays open."""
    session = XenAPI.Session(url or xapi.url, ignore_ssl=xapi.tls)
    try:
        session.login_with_password(xapi.user, xapi.password, "1.0", "test")
        yield session.xenapi
    finally:
        session("close")()


class PlainClient:
    """Calls without the retries of `xmlrpc.client`: each on a connection of its own, sent exactly once."""

    def __init__(self, xapi: Simulator, url: str | None = None) -> None:
        self._caller = Caller(url or xapi.url)
        self.session = self.answer("session.login_with_password", xapi.user, xapi.password)[1]

    def answer(self, method: str, *params: Any) -> tuple[str, Any]:
        """Return (kind, value): result, error, or nothing."""
        found = self._caller.call("xmlrpc", method, list(params))
        return found.kind, found.value

    def call(self, method: str, *params: Any) -> tuple[str, Any]:
        return self.answer(method, self.session, *params)
