"""Logged in to a pool once, for all threads, and kept so: the master followed, the session renewed.

What xapi answers with `HOST_IS_SLAVE` or `SESSION_INVALID` did not happen (docs/background/xapi.md 4.4), so those calls
are sent again, the ones that change something too. A call of which nobody knows whether it happened is never
sent again here: the error leaves, and `xenvol.session` decides.

The session reference and the address are the pool's; connections are the threads' own. A forked child goes on with the
session of its parent over connections of its own; it ends that session never, and one that it began itself at its end.
 The master's death is
noticed when nothing accepts a connection any more. Then the pool's other hosts, whose addresses were asked
for at log-in, are tried; a host that takes the password is believed only when its pool has the uuid of ours,
since a host can leave a pool and keep its address and its password.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import XenAPI

from xenvol.errors import RequestError
from xenvol.secret import Secret
from xenvol.session.clients import SILENCE, ThreadClients
from xenvol.session.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Endpoint, NotConnected
from xenvol.session.forks import renew_after_fork

LOGIN: Final = "session.login_with_password"
LOGOUT: Final = "session.logout"
API_VERSION: Final = "1.0"  # xapi ignores it (trace 01-session#8)
MOVES: Final = 3  # followed in one go; a pool has one master, so more than two is a dispute among hosts
LOGIN_TIMEOUT: Final = 60.0  # seconds; xapi delays a refusal by 5, a directory service may be asked
LOGOUT_TIMEOUT: Final = 10.0  # seconds; an unused session ends by itself, nobody should wait to leave

log = logging.getLogger("xenvol.session")


def default_originator() -> str:
    """The name by which xapi rations sessions: one for all processes of this machine, another elsewhere."""
    return f"xenvol/{socket.gethostname()}"


@dataclass(frozen=True)
class _Login:
    """Compared by identity: two threads that trip over one dead session renew it once."""

    endpoint: Endpoint
    session_ref: str
    process: int = field(default_factory=os.getpid)
    """The id of the process that logged in, and that logs out."""


class PoolClient:
    """Sends calls to a pool's master, from any thread. A no is `XenAPI.Failure`, no answer is `SILENCE`."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        user: str,
        password: Secret,
        *,
        originator: str,
        timeout: float = ANSWER_TIMEOUT,
        connect_timeout: float = CONNECT_TIMEOUT,
        failover: bool = True,
    ) -> None:
        self._user = user
        self._password = password
        self._originator = originator
        self._failover = failover
        self._others = tuple(endpoints)  # where the pool may be found; after log-in, all its hosts
        self._pool_uuid: str | None = None
        self._login: _Login | None = None
        self.is_closed = False
        self._lock = threading.RLock()
        self._clients = ThreadClients(timeout=timeout, connect_timeout=connect_timeout)
        renew_after_fork(self)

    def begin_in_child(self) -> None:
        self._lock = threading.RLock()
        self._clients.begin_in_child()

    @property
    def endpoint(self) -> Endpoint:
        """Where the master is, as far as is known."""
        login = self._login
        return self._others[0] if login is None else login.endpoint

    @property
    def is_logged_in(self) -> bool:
        return self._login is not None

    @property
    def has_own_login(self) -> bool:
        """Whether it is logged in, and this process did it: a forked child has the login of its parent."""
        login = self._login
        return login is not None and login.process == os.getpid()

    @property
    def credentials(self) -> tuple[str, Secret]:
        return self._user, self._password

    @property
    def handle(self) -> str:
        """The reference of the session. Whoever has it is logged in: for the wire only."""
        return self._logged_in().session_ref

    def log_in(self) -> None:
        """Log in at the first address that answers, and learn the pool's uuid and its hosts (two calls)."""
        with self._lock:
            silence: BaseException | None = None
            for endpoint in self._others:
                try:
                    self._login = self._log_in(endpoint)
                except SILENCE as error:
                    silence = silence or error
                    continue
                if self._failover:
                    self._learn(self._login)
                return
            assert silence is not None  # because there is at least one address, and none gave a log-in
            raise silence

    def request(self, call: str, params: Sequence[Any]) -> Any:
        """Send a call that takes the session first, and come back with its value."""
        login = self._logged_in()
        moves, is_renewed = 0, False  # bounded, so that hosts that never agree do not keep us for ever
        while True:
            try:
                return self._clients.send(login.endpoint, call, (login.session_ref, *params))
            except NotConnected as error:
                if moves == MOVES:
                    raise
                moves += 1
                login = self._fail_over(login, error)
            except XenAPI.Failure as failure:
                match failure.details:
                    case ["HOST_IS_SLAVE", str(master)] if master and moves < MOVES:
                        moves += 1
                        login = self._follow(login, master)
                    case ["SESSION_INVALID", *_] if not is_renewed:
                        is_renewed = True
                        login = self._renew(login, failure)
                    case _:
                        raise

    def log_out(self) -> None:
        """End the session, and close every thread's connection whether that worked or not. Idempotent.

        In a forked child the session of the parent goes on.
        """
        with self._lock:
            login, self._login, self.is_closed = self._login, None, True
            try:
                if login is not None and login.process == os.getpid():
                    self._end(login)
            finally:
                self._clients.close()

    def _logged_in(self) -> _Login:
        login = self._login
        if login is None:
            raise RequestError("the session is closed" if self.is_closed else "the session is not logged in")
        return login

    def _log_in(self, endpoint: Endpoint, *, avoid: Iterable[Endpoint] = ()) -> _Login:
        """Log in there, or at the master that it names; NotConnected when that one is to be avoided."""
        for _ in range(MOVES + 1):
            params = (self._user, self._password, API_VERSION, self._originator)
            try:
                session_ref = self._clients.send(endpoint, LOGIN, params, timeout=LOGIN_TIMEOUT)
            except XenAPI.Failure as failure:
                match failure.details:
                    case ["HOST_IS_SLAVE", str(master)] if master:
                        log.debug("%s is not the master of its pool; it names %s", endpoint, master)
                        endpoint = endpoint.at(master)
                    case _:
                        raise
            else:
                log.debug("logged in to %s as %s, originator %s", endpoint, self._user, self._originator)
                return _Login(endpoint, str(session_ref))
            if endpoint in avoid:
                raise NotConnected(f"the other hosts still name {endpoint} as their master")
        raise NotConnected(f"the hosts send us in circles; the last one named was {endpoint}")

    def _follow(self, login: _Login, master: str) -> _Login:
        """The master moved. The session is the pool's, so it goes with it."""
        with self._lock:
            if self._login is login:
                self._login = replace(login, endpoint=login.endpoint.at(master))
                log.info("the pool's master moved from %s to %s", login.endpoint, self._login.endpoint)
            return self._logged_in()

    def _renew(self, login: _Login, failure: XenAPI.Failure) -> _Login:
        with self._lock:
            if self._login is login:
                renewed = self._log_in(login.endpoint)
                if not self._is_ours(renewed, was=login.endpoint):
                    self._leave(renewed)
                    raise failure
                self._login = renewed
            return self._logged_in()

    def _fail_over(self, login: _Login, cause: NotConnected) -> _Login:
        """Find the new master among the pool's other hosts; raise `cause` when there is none."""
        with self._lock:
            if self._login is not login:
                return self._logged_in()
            if self._pool_uuid is None:
                raise cause
            avoid = {login.endpoint}
            for endpoint in self._others:
                if endpoint in avoid:
                    continue
                try:
                    found = self._log_in(endpoint, avoid=avoid)
                    if self._is_ours(found, was=login.endpoint):
                        log.warning(
                            "%s does not answer; the pool's master is now %s", login.endpoint, found.endpoint
                        )
                        self._login = found
                        self._learn(found)
                        return found
                    avoid.add(found.endpoint)
                    self._leave(found)
                except SILENCE as error:
                    cause.add_note(f"{endpoint}: {error}")
                except XenAPI.Failure as failure:
                    cause.add_note(f"{endpoint}: {failure.details[0]}")
            raise cause

    def _is_ours(self, login: _Login, *, was: Endpoint) -> bool:
        """Whether this log-in is in the pool that the session began in."""
        if self._pool_uuid is None:
            return login.endpoint == was  # nothing else to know it by
        (pool,) = self._clients.send(login.endpoint, "pool.get_all_records", (login.session_ref,)).values()
        is_ours = bool(pool["uuid"] == self._pool_uuid)
        if not is_ours:
            log.warning(
                "%s is now in another pool (%s, not %s)", login.endpoint, pool["uuid"], self._pool_uuid
            )
        return is_ours

    def _learn(self, login: _Login) -> None:
        """Remember the pool and its hosts. Who may not ask, or gets no answer, goes without failing over."""
        try:
            (pool,) = self._clients.send(
                login.endpoint, "pool.get_all_records", (login.session_ref,)
            ).values()
            hosts = self._clients.send(login.endpoint, "host.get_all_records", (login.session_ref,)).values()
        except (XenAPI.Failure, *SILENCE) as error:
            log.info(
                "the pool's hosts are not known, so the end of its master will be the session's: %s", error
            )
            return
        self._pool_uuid = pool["uuid"]
        others = []
        for host in hosts:
            with contextlib.suppress(NotConnected):  # no address yet, or one to which the password may not go
                others.append(login.endpoint.at(host["address"]))
        self._others = tuple(others) or (login.endpoint,)

    def _leave(self, login: _Login) -> None:
        """Log out where we should not have logged in, as far as anybody listens."""
        with contextlib.suppress(*SILENCE, XenAPI.Failure):
            self._end(login)

    def _end(self, login: _Login) -> None:
        self._clients.send(login.endpoint, LOGOUT, (login.session_ref,), timeout=LOGOUT_TIMEOUT)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "not logged in" if self._login is None else "logged in"
        return (
            f"<PoolClient of {self.endpoint} as {self._user}, {state}, {self._clients.connected} connected>"
        )
