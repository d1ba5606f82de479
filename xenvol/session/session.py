"""Every XenAPI call goes through `Session.call`: checked, sent, retried if it may be, translated, reported.

A refusal and a silence are different errors. `XapiError` is xapi's "no": it did not happen. `XapiUnreachable`
is no answer: it may have happened, so only calls that change nothing are sent again, and calls that were
never sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import tenacity

from xenvol.errors import ForbiddenCall, RequestError, XapiError, XapiUnreachable
from xenvol.secret import Secret
from xenvol.session.endpoint import ANSWER_TIMEOUT, Endpoint
from xenvol.session.foreign import no_session, sender
from xenvol.session.outcome import is_busy, may_repeat, translated
from xenvol.session.pool_client import LOGIN, LOGOUT, PoolClient
from xenvol.session.wire import Call, FilterValue, expression, mask, to_wire

ATTEMPTS: Final = 6  # with waits of at most 0.2, 0.4, … 3.2 seconds, half of that on average
FIRST_WAIT: Final = 0.2  # seconds

FORBIDDEN_TO_DRIVERS: Final = frozenset(
    {
        # what makes, formats, overwrites or erases data; introduce and forget are about records, and disks only grow
        *("SR.create", "SR.make", "SR.destroy"),
        *("VDI.create", "VDI.destroy", "VDI.data_destroy", "VDI.copy", "VDI.clone", "VDI.snapshot"),
        *("VDI.pool_migrate", "VDI.db_forget", "VDI.db_introduce"),
        # what belongs to the facade, or to whoever logged in
        *("VM.*", "VBD.*", "session.*"),
    }
)
"""Connecting a volume must not be able to format or erase, nor touch a VM. `VM.*` spares what only reads."""

log = logging.getLogger("xenvol.session")


class CallRecord(NamedTuple):
    """One call, as it went: `outcome` is "ok", xapi's error code, or "unreachable"."""

    call: str
    seconds: float
    outcome: str


class Session:
    """A logged-in session: ours (`xenvol.connect`) or anything with `.xenapi`, such as a `XenAPI.Session`.

    It is such an object itself: `session.xenapi.SR.scan(ref)` is the same as `session.call("SR.scan", ref)`.
    Ints are sent as decimal strings, since XML-RPC has no room for sizes; xapi takes both.

    The constructor makes no call. `on_call` is given a `CallRecord` after each call and must not raise. From
    several threads at once: yes; a wrapped `XenAPI.Session` serves one of them at a time, since it is one
    connection. It also has no time limit, and sends a call again when a kept connection breaks; ours does
    neither. In a forked child: yes, with connections of the child's own; only the process that logged in logs out.
    """

    def __init__(
        self,
        wrapped: Any,
        *,
        on_call: Callable[[CallRecord], None] | None = None,
        retry_for: float = ANSWER_TIMEOUT,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_call = on_call
        self._retry_for = retry_for
        self._sleep = sleep
        self._clock = clock
        self._driver: str | None = None
        self._forbidden: frozenset[str] = frozenset()
        self._hidden: Collection[Secret] = ()
        self.sm_refs: dict[str, str] = {}
        """The SM object of each SR type that was asked for, as it was last seen: where to look first."""
        self._wrapped: Any
        self._send: Callable[[str, Sequence[Any]], Any]
        if isinstance(wrapped, Session):  # one layer, so that a call is retried and reported once
            self._on_call = on_call or wrapped._on_call
            self._driver, self._forbidden = wrapped._driver, wrapped._forbidden
            self._wrapped, self._send = wrapped._wrapped, wrapped._send
            self.sm_refs = wrapped.sm_refs
        elif wrapped is None or isinstance(wrapped, str | bytes):  # a connection that failed, or its URL
            raise no_session(wrapped)
        else:
            self._wrapped = wrapped
            self._send = wrapped.request if isinstance(wrapped, PoolClient) else sender(wrapped)

    @property
    def xenapi(self) -> Any:
        """Calls spelled as attributes, as with the official client."""
        return _Spelling(self.call, "")

    @property
    def handle(self) -> str:
        """The session's reference. Whoever has it is logged in: hand it to the wire and to nothing else."""
        return str(self._wrapped.handle)

    @property
    def endpoint(self) -> Endpoint | None:
        """Where the pool's master is; None when the session was logged in by somebody else."""
        return self._wrapped.endpoint if isinstance(self._wrapped, PoolClient) else None

    def call(self, call: str, *params: Any) -> Any:
        """Send `Class.method` with these parameters (the session itself is not one of them), and give its
        value.

        Raises XapiError, XapiUnreachable, ForbiddenCall, and ValueError for what is no call's name.
        """
        name = Call.parse(call)
        if name.is_among(self._forbidden):
            raise ForbiddenCall(call, driver=self._driver)
        if name.plain == LOGOUT and isinstance(self._wrapped, PoolClient):
            return self.close()
        wire = [to_wire(param) for param in params]
        return self._perform(name, params, lambda: self._send(call, wire), may_repeat(name))

    def find(
        self,
        cls: str,
        where: Mapping[str, FilterValue | Collection[FilterValue]],
        *,
        either: Mapping[str, FilterValue | Collection[FilterValue]] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """In one call, the records by reference of the objects that fit all of `where` and any of `either`.

        A collection of values means any of them: `find("VBD", {"VM": vm_ref, "VDI": [a, b]})`. What can be
        asked is said at `xenvol.session.wire.expression`.
        """
        found: dict[str, dict[str, Any]] = self.call(
            f"{cls}.get_all_records_where", expression(where, either)
        )
        return found

    def restricted(
        self, forbidden: Collection[str] = FORBIDDEN_TO_DRIVERS, *, driver: str | None = None
    ) -> Session:
        """A view that refuses these calls, also as `Async.`, by ForbiddenCall with the driver's name."""
        view = copy(self)
        view._forbidden = self._forbidden | frozenset(forbidden)
        view._driver = driver if driver is not None else self._driver
        return view

    def hiding(self, secrets: Collection[Secret]) -> Session:
        """A view of this session in whose errors these secrets are masked, whichever call brings them back.

        The collection is looked at when an error comes, so what is put into it later is masked as well.
        """
        view = copy(self)
        view._hidden = secrets
        return view

    def log_in(self) -> None:
        """Log in; for sessions of `connect`, which has done it."""
        if not isinstance(self._wrapped, PoolClient):
            raise RequestError("this session belongs to whoever logged in: log in there")
        # an address where nobody listens is a mistake to report at once, so only a busy xapi is asked again
        self._perform(Call.parse(LOGIN), self._wrapped.credentials, self._wrapped.log_in, is_busy)

    def close(self) -> None:
        """Log out and close all threads' connections, if we logged in. Idempotent; does not mind silence.

        In a forked child it closes the child's connections: the session is still its parent's.
        """
        if Call.parse(LOGOUT).is_among(self._forbidden):
            raise ForbiddenCall(LOGOUT, driver=self._driver)
        if not isinstance(self._wrapped, PoolClient):
            return  # whoever logged in logs out
        if not self._wrapped.has_own_login:
            self._wrapped.log_out()
            return
        try:
            self._once(Call.parse(LOGOUT), (), self._wrapped.log_out)
        except (XapiError, XapiUnreachable) as error:
            log.info("not logged out, so the session ends when xapi finds it idle: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        what = self._wrapped if isinstance(self._wrapped, PoolClient) else type(self._wrapped).__name__
        limits = f", restricted for driver {self._driver!r}" if self._forbidden else ""
        return f"<Session over {what}{limits}>"

    def _perform(
        self,
        name: Call,
        params: Sequence[Any],
        send: Callable[[], Any],
        repeat: Callable[[BaseException], bool],
    ) -> Any:
        started = self._clock()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(repeat),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT),
            stop=lambda state: state.attempt_number >= ATTEMPTS or self._clock() - started >= self._retry_for,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._once, name, params, send)

    def _once(self, name: Call, params: Sequence[Any], send: Callable[[], Any]) -> Any:
        started, outcome = self._clock(), "interrupted"
        try:
            value = translated(name, params, send, hidden=self._hidden)
            outcome = "ok"
            return value
        except XapiError as error:
            outcome = error.code
            raise
        except XapiUnreachable:
            outcome = "unreachable"
            raise
        finally:
            record = CallRecord(str(name), self._clock() - started, outcome)
            if log.isEnabledFor(logging.DEBUG):
                shown, _ = mask(name, params)
                log.debug("%s%s: %s, %.3f s", name, tuple(shown), outcome, record.seconds)
            if self._on_call is not None:
                self._on_call(record)


class _Spelling:
    """`session.xenapi.SR.scan` on its way to becoming "SR.scan"."""

    __slots__ = ("_call", "_name")

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self._call = call
        self._name = name

    def __getattr__(self, part: str) -> _Spelling:
        if part.startswith("_"):
            raise AttributeError(part)  # copy, pickle and inspect ask for such names; xapi has none
        return _Spelling(self._call, f"{self._name}.{part}" if self._name else part)

    def __call__(self, *params: Any) -> Any:
        return self._call(self._name, *params)

    def __repr__(self) -> str:
        return f"<XenAPI call {self._name}>"
