"""Every XenAPI call goes through `Session.call`, which checks, sends, retries, translates and reports it.

A refusal and a missing answer are different errors. After `XapiError`, a refusal, nothing has changed. After
`XapiUnreachable`, a missing answer, the change may have happened. So a call is sent again only if it changes nothing,
or if it was never sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import tenacity

from xenvol.errors import DeadlineExceeded, ForbiddenCall, RequestError, XapiError, XapiUnreachable
from xenvol.secret import Secret
from xenvol.session.deadline import Deadline
from xenvol.session.endpoint import ANSWER_TIMEOUT, Endpoint
from xenvol.session.foreign import no_session, sender
from xenvol.session.outcome import is_busy, may_repeat, translated
from xenvol.session.pool_client import LOGIN, LOGOUT, PoolClient
from xenvol.session.wire import Call, FilterValue, expression, mask, to_wire

ATTEMPTS: Final = 6  # with waits of at most 0.2, 0.4, … 3.2 seconds, half of that on average
FIRST_WAIT: Final = 0.2  # seconds

FORBIDDEN_TO_DRIVERS: Final = frozenset(
    {
        # these make, format, overwrite or erase data; introduce and forget change records only, and disks only grow
        *("SR.create", "SR.make", "SR.destroy"),
        *("VDI.create", "VDI.destroy", "VDI.data_destroy", "VDI.copy", "VDI.clone", "VDI.snapshot"),
        *("VDI.pool_migrate", "VDI.db_forget", "VDI.db_introduce"),
        # these belong to the facade, and to the owner of the log-in
        *("VM.*", "VBD.*", "session.*"),
    }
)
"""A driver must not be able to format, to erase, or to touch a VM. `VM.*` still allows calls that only read."""

log = logging.getLogger("xenvol.session")


class CallRecord(NamedTuple):
    """One call: `outcome` is "ok", xapi's error code, "unreachable" or "interrupted"."""

    call: str
    seconds: float
    outcome: str


class Session:
    """A logged-in session, of `xenvol.connect` or over any object with `.xenapi`, such as a `XenAPI.Session`.

    It has `.xenapi` itself: `session.xenapi.SR.scan(ref)` is the same as `session.call("SR.scan", ref)`. It sends ints
    as decimal strings, since XML-RPC ends at 2³¹; xapi accepts both forms.

    The constructor makes no call. `on_call` gets a `CallRecord` after each call, and must not raise. Several threads
    may use one session at once. A wrapped `XenAPI.Session` is one connection, so it serves one thread at a time; it has
    no time limit, and sends a call again when a kept connection breaks. A session of `xenvol.connect` has one, and
    sends a call again only if that is safe. A forked child may use the session, over connections of its own; only the
    process that logged in logs out.
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
        self._deadline: Deadline | None = None
        self.sm_refs: dict[str, str] = {}
        """The reference of the SM object of each SR type that was read before; it may be stale."""
        self._wrapped: Any
        self._send: Callable[[str, Sequence[Any]], Any]
        if isinstance(wrapped, Session):  # one layer, so that a call is retried and reported once
            self._on_call = on_call or wrapped._on_call
            self._driver, self._forbidden = wrapped._driver, wrapped._forbidden
            self._deadline = wrapped._deadline
            self._wrapped, self._send = wrapped._wrapped, wrapped._send
            self.sm_refs = wrapped.sm_refs
        elif wrapped is None or isinstance(wrapped, str | bytes):  # a failed connection, or its URL
            raise no_session(wrapped)
        else:
            self._wrapped = wrapped
            self._send = wrapped.request if isinstance(wrapped, PoolClient) else sender(wrapped)

    @property
    def xenapi(self) -> Any:
        """Calls written as attributes, as with the official client."""
        return _Spelling(self.call, "")

    @property
    def handle(self) -> str:
        """The session's reference. It works like a password: send it to xapi only."""
        return str(self._wrapped.handle)

    @property
    def endpoint(self) -> Endpoint | None:
        """The address of the pool's master; None if the session was not made by `xenvol.connect`."""
        return self._wrapped.endpoint if isinstance(self._wrapped, PoolClient) else None

    def call(self, call: str, *params: Any) -> Any:
        """Send `Class.method` with these parameters, without the session's reference, and return its value.

        Raises XapiError, XapiUnreachable, ForbiddenCall, and ValueError if `call` is no name of a call.
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
        """Return the records, by reference, of the objects that match all of `where` and one of `either`; one call.

        A collection of values means any of them: `find("VBD", {"VM": vm_ref, "VDI": [a, b]})`.
        `xenvol.session.wire.expression` says what xapi can filter by.
        """
        found: dict[str, dict[str, Any]] = self.call(
            f"{cls}.get_all_records_where", expression(where, either)
        )
        return found

    def restricted(
        self, forbidden: Collection[str] = FORBIDDEN_TO_DRIVERS, *, driver: str | None = None
    ) -> Session:
        """Return a copy that refuses these calls, also as `Async.`, with a ForbiddenCall that names the driver."""
        view = copy(self)
        view._forbidden = self._forbidden | frozenset(forbidden)
        view._driver = driver if driver is not None else self._driver
        return view

    def until(self, deadline: Deadline) -> Session:
        """Return a copy whose calls end by the deadline; after that they raise DeadlineExceeded.

        A call over a session that the caller logged in is not interrupted: such a session has no time limit.
        """
        view = copy(self)
        view._deadline = deadline
        return view

    def hiding(self, secrets: Collection[Secret]) -> Session:
        """Return a copy of this session that masks these secrets in the errors of every call.

        It reads the collection when an error comes, so secrets that are added later are masked too.
        """
        view = copy(self)
        view._hidden = secrets
        return view

    def log_in(self) -> None:
        """Log in. `connect` does this for its sessions."""
        if not isinstance(self._wrapped, PoolClient):
            raise RequestError("xenvol did not log in to this session: log in with the client that did")
        # report a wrong address at once: only a busy xapi is asked again
        self._perform(Call.parse(LOGIN), self._wrapped.credentials, self._wrapped.log_in, is_busy)

    def close(self) -> None:
        """Log out and close the connections of all threads, if xenvol logged in. Idempotent.

        A refusal or a missing answer is only logged. In a forked child it closes the child's connections only, since
        the session belongs to the parent.
        """
        if Call.parse(LOGOUT).is_among(self._forbidden):
            raise ForbiddenCall(LOGOUT, driver=self._driver)
        if not isinstance(self._wrapped, PoolClient):
            return  # the caller logged in, and logs out
        if not self._wrapped.has_own_login:
            self._wrapped.log_out()
            return
        try:
            self._once(Call.parse(LOGOUT), (), self._wrapped.log_out)
        except (XapiError, XapiUnreachable) as error:
            log.info("cannot log out; xapi ends the session when it is idle: %s", error)

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
            retry=tenacity.retry_if_exception(
                lambda error: repeat(error) and not isinstance(error, DeadlineExceeded)
            ),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_WAIT),
            stop=lambda state: state.attempt_number >= ATTEMPTS or self._clock() - started >= self._retry_for,
            sleep=self._pause,
            reraise=True,
        )
        return retrying(self._once, name, params, send)

    def _pause(self, seconds: float) -> None:
        self._sleep(seconds if self._deadline is None else min(seconds, self._deadline.left))

    def _in_time(self, name: Call, send: Callable[[], Any]) -> Callable[[], Any]:
        """Return what sends the call within the deadline, if there is one. Raises DeadlineExceeded if it has passed."""
        if self._deadline is None:
            return send
        self._deadline.check(str(name))
        if not isinstance(self._wrapped, PoolClient):
            return send
        wrapped, end = self._wrapped, self._deadline.end

        def run() -> Any:
            with wrapped.until(end):
                return send()

        return run

    def _once(self, name: Call, params: Sequence[Any], send: Callable[[], Any]) -> Any:
        send = self._in_time(name, send)
        started, outcome = self._clock(), "interrupted"
        try:
            value = translated(name, params, send, hidden=self._hidden)
            outcome = "ok"
            return value
        except XapiError as error:
            outcome = error.code
            raise
        except XapiUnreachable as error:
            outcome = "unreachable"
            if self._deadline is not None and not self._deadline.left:
                raise self._deadline.exceeded(str(name), error.cause) from error
            raise
        finally:
            record = CallRecord(str(name), self._clock() - started, outcome)
            if log.isEnabledFor(logging.DEBUG):
                shown, _ = mask(name, params)
                log.debug("%s%s: %s, %.3f s", name, tuple(shown), outcome, record.seconds)
            if self._on_call is not None:
                self._on_call(record)


class _Spelling:
    """The name of a call, collected from attributes: `session.xenapi.SR.scan` becomes "SR.scan"."""

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
