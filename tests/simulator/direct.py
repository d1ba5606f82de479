"""A pool without a server: tests pass calls to the dispatcher as if they had just been parsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xenvol.simulator import bootstrap, dispatch
from xenvol.simulator.failure import Failure
from xenvol.simulator.xapi import Xapi


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_795_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Direct:
    """One pool, and root's session on its master."""

    def __init__(self, version: str = "24.16.0", *, hosts: Sequence[str] = ("one",)) -> None:
        dispatch.load_rules()
        self.clock = Clock()
        self.xapi = Xapi(version=version)
        self.xapi.clock = self.clock
        specs = tuple(bootstrap.HostSpec(name, address=f"10.0.0.{n}") for n, name in enumerate(hosts, 1))
        with self.xapi.lock:
            bootstrap.build(self.xapi, bootstrap.PoolSpec(hosts=specs))
        self.hosts = self.xapi.db.refs("host")
        self.session = self.log_in()

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def db(self) -> Any:
        return self.xapi.db

    def log_in(self, originator: str = "test") -> Any:
        return self.raw("session.login_with_password", "root", "secret", "1.0", originator)

    def raw(self, method: str, *params: Any, host: str | None = None) -> Any:
        """Return the wire value of the answer; raises `Failure`."""
        return dispatch.dispatch(self.xapi, host or self.xapi.master, method, params)

    def call(self, method: str, *params: Any) -> Any:
        """Call with the session as the first parameter."""
        return self.raw(method, self.session, *params)

    def refusal(self, method: str, *params: Any) -> list[str]:
        """Return the ErrorDescription of a call with the session; fails if the call succeeds."""
        return refusal(lambda: self.call(method, *params))

    def close(self) -> None:
        self.xapi.close()
        self.xapi.world.close()


def refusal(call: Callable[[], object]) -> list[str]:
    """Return the ErrorDescription of a call; fails if the call succeeds."""
    try:
        result = call()
    except Failure as failure:
        return failure.description
    raise AssertionError(f"it was not refused: {result!r}")
