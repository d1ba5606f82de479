"""One log-in to a pool for all threads: it follows the master and renews the session.

After an answer of `HOST_IS_SLAVE` or `SESSION_INVALID` nothing has changed (docs/background/xapi.md 4.4). So this
module sends those calls again, also if they change something. It never sends a call again after a missing answer: the
error leaves, and `xenvol.session` decides.

All threads share the session reference and the address; each thread has its own connection. A forked child uses the
session of its parent over connections of its own, and never logs it out; a session that the child began, it logs out.

The master counts as dead when it accepts no connection any more. Then this module tries the pool's other hosts, whose
addresses it read at log-in. A host can leave a pool and keep its address and its password. So a host is accepted only
if its pool has the same uuid.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import XenAPI

from xenvol.errors import RequestError
from xenvol.secret import Secret
from xenvol.session.clients import SILENCE, ThreadClients
from xenvol.session.endpoint import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Endpoint, NotConnected
from xenvol.session.forks import renew_after_fork
from xenvol.session.transport import UnreadableAnswer

LOGIN: Final = "session.login_with_password"
LOGOUT: Final = "session.logout"
API_VERSION: Final = "1.0"  # xapi ignores it (trace 01-session#8)
MOVES: Final = 3  # for one call; a pool has one master, so more than two moves mean that the hosts disagree
LOGIN_TIMEOUT: Final = 60.0  # seconds; xapi delays a refusal by 5, and may ask a directory service
LOGOUT_TIMEOUT: Final = 10.0  # seconds; an unused session ends by itself, so the caller need not wait long

log = logging.getLogger("xenvol.session")


def default_originator() -> str:
    """Return the name by which xapi counts sessions: the same for all processes of this machine."""
    return f"xenvol/{socket.gethostname()}"


@dataclass(frozen=True)
class _Login:
    """One log-in. Compared by identity, so that two threads with the same invalid session renew it once."""

    endpoint: Endpoint
    session_ref: str
    process: int = field(default_factory=os.getpid)
    """The id of the process that logged in; only this process logs out."""


class PoolClient:
    """Sends calls to the pool's master, from any thread. A refusal is `XenAPI.Failure`, a missing answer `SILENCE`."""

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
        self._others = tuple(
            endpoints
        )  # before the log-in, the addresses to try; after it, all hosts of the pool
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
        """The last known address of the master."""
        login = self._login
        return self._others[0] if login is None else login.endpoint

    @property
    def has_own_login(self) -> bool:
        """Whether this process logged in. A forked child has the log-in of its parent."""
        login = self._login
        return login is not None and login.process == os.getpid()

    @property
    def credentials(self) -> tuple[str, Secret]:
        return self._user, self._password

    @property
    def handle(self) -> str:
        """The reference of the session. It works like a password: send it to xapi only."""
        return self._logged_in().session_ref

    def log_in(self) -> None:
        """Log in at the first address that answers; with `failover`, read the pool's uuid and hosts (two calls)."""
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
            assert silence is not None  # there is at least one address, and none answered
            raise silence

    def request(self, call: str, params: Sequence[Any]) -> Any:
        """Send a call whose first parameter is the session, and return its value."""
        login = self._logged_in()
        moves, is_renewed = 0, False  # limited, since hosts that disagree could name each other for ever
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

    def until(self, end: float) -> AbstractContextManager[None]:
        """Let each wait of this thread's calls in the block end at this moment of `time.monotonic`."""
        return self._clients.until(end)

    def log_out(self) -> None:
        """End the session, and close the connections of all threads, also if xapi does not answer. Idempotent.

        In a forked child, the session of the parent continues.
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
        """Log in at this host, or at the master that it names. Raises NotConnected if that master is in `avoid`."""
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
                if not isinstance(session_ref, str) or not session_ref:
                    raise UnreadableAnswer(
                        "not an answer of xapi: a log-in returns the reference of a session"
                    )
                log.debug("logged in to %s as %s, originator %s", endpoint, self._user, self._originator)
                return _Login(endpoint, session_ref)
            if endpoint in avoid:
                raise NotConnected(f"the other hosts still name {endpoint} as their master")
        raise NotConnected(f"the hosts of the pool name each other as the master, {endpoint} last")

    def _follow(self, login: _Login, master: str) -> _Login:
        """Use the new master's address. The session stays valid, since it belongs to the pool."""
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
        """Log in at the new master, found through the pool's other hosts. Raises `cause` if there is none."""
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
        """Whether this log-in is in the pool in which the session began."""
        if self._pool_uuid is None:
            return login.endpoint == was  # without the uuid, only the address is known
        pool = self._pool_record(login)
        is_ours = bool(pool["uuid"] == self._pool_uuid)
        if not is_ours:
            log.warning(
                "%s is now in another pool (%s, not %s)", login.endpoint, pool["uuid"], self._pool_uuid
            )
        return is_ours

    def _learn(self, login: _Login) -> None:
        """Read the pool's uuid and hosts. If xapi refuses or does not answer, the session cannot fail over."""
        try:
            pool = self._pool_record(login)
            hosts = self._records(login, "host.get_all_records")
        except (XenAPI.Failure, *SILENCE) as error:
            log.info("cannot read the pool's hosts, so this session ends if the master dies: %s", error)
            return
        self._pool_uuid = pool["uuid"]
        others = []
        for host in hosts:
            with contextlib.suppress(
                NotConnected
            ):  # no address yet, or one that would get the password in the clear
                others.append(login.endpoint.at(str(host.get("address", ""))))
        self._others = tuple(others) or (login.endpoint,)

    def _pool_record(self, login: _Login) -> Mapping[str, Any]:
        pools = self._records(login, "pool.get_all_records")
        if len(pools) != 1 or "uuid" not in pools[0]:
            raise UnreadableAnswer("not an answer of xapi: there is one pool, and it has a uuid")
        return pools[0]

    def _records(self, login: _Login, call: str) -> list[Mapping[str, Any]]:
        answer = self._clients.send(login.endpoint, call, (login.session_ref,))
        if not isinstance(answer, Mapping) or not all(isinstance(each, Mapping) for each in answer.values()):
            raise UnreadableAnswer(f"not an answer of xapi: {call} returns records")
        return list(answer.values())

    def _leave(self, login: _Login) -> None:
        """Log out of a wrong pool. Ignores every failure."""
        with contextlib.suppress(*SILENCE, XenAPI.Failure):
            self._end(login)

    def _end(self, login: _Login) -> None:
        self._clients.send(login.endpoint, LOGOUT, (login.session_ref,), timeout=LOGOUT_TIMEOUT)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "not logged in" if self._login is None else "logged in"
        return (
            f"<PoolClient of {self.endpoint} as {self._user}, {state}, {self._clients.connected} connected>"
        )
