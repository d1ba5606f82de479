"""Every call that reached the pool, in the order of arrival, with its outcome and without secrets.

Log-ins and log-outs are kept apart (`Journal.logins`), because a cost in calls is about the work. An extra
log-in of a client shows up there, and not as work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, overload

from xenvol.simulator.hooks import Answer, Incoming
from xenvol.simulator.waits import KINDS, OPERATION, Wait

LIMIT = 100_000
"""So many calls a journal keeps by default: some 100 MB."""
MASK = "********"
_SECRET_ARGUMENTS = {
    "session.login_with_password": (1,),
    "session.slave_local_login_with_password": (1,),
    "session.slave_login": (1,),
    "session.change_password": (1, 2),
    "secret.set_value": (2,),
    "secret.introduce": (2,),
    "pool.join": (3,),
    "pool.join_force": (3,),
}
"""Positions of arguments that are secrets, counted as sent: position 0 is the session, if there is one."""

_SESSION_METHODS = frozenset(
    {
        "session.login_with_password",
        "session.logout",
        "session.local_logout",
        "session.slave_login",
        "session.slave_local_login",
        "session.slave_local_login_with_password",
    }
)


def is_login(method: str) -> bool:
    """Return True for calls that open or close a session; the journal keeps them apart."""
    return method in _SESSION_METHODS


def plain_name(method: str) -> str:
    """Return the name without ``Async.``."""
    return method.removeprefix("Async.")


@dataclass
class Entry:
    """One call. ``outcome`` is ``pending``, ``success``, an error code, or ``nothing``: not done at all."""

    n: int
    protocol: str
    method: str
    params: tuple[Any, ...]
    """The parameters without the session; secrets are masked."""
    session: str | None
    host: str
    """The reference of the host that received the call."""
    outcome: str = "pending"
    error: tuple[str, ...] | None = None
    """The ErrorDescription of a refusal."""
    seconds: float | None = None
    """The time between the call's arrival and its end."""
    fault: str = ""
    """The ordered fault that struck the call, if any (`xenvol.simulator.faults`)."""
    waited_for: tuple[Wait, ...] = ()
    """What the call waited for in the pool, in order (`xenvol.simulator.waits`)."""
    _arrived: float = field(default=0.0, repr=False, compare=False)

    def __str__(self) -> str:
        end = "" if not self.fault else f" [{self.fault}]"
        end += "".join(f" [waited {wait.seconds:.1f} s for {wait}]" for wait in self.waited_for)
        return f"{self.n} {self.method}({', '.join(map(repr, self.params))}) → {self.outcome}{end}"

    @property
    def waited(self) -> float:
        """The seconds that the call waited in the pool, for any reason."""
        return sum(wait.seconds for wait in self.waited_for)

    @property
    def is_waiting(self) -> bool:
        """True if the call waits now. The answer holds as long as the reader holds the pool's lock."""
        return any(not wait.is_over and wait.lasts() for wait in self.waited_for)

    def as_json(self) -> dict[str, Any]:
        """Return the entry as plain values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["_arrived"]
        values["waited_for"] = [
            {"kind": wait.kind, "what": list(wait.what), "seconds": wait.seconds} for wait in self.waited_for
        ]
        return values


class Calls(Sequence[Entry]):
    """A sequence of calls in the order of arrival."""

    def __init__(self, entries: Callable[[], list[Entry]]) -> None:
        self._entries = entries

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self._entries()[index]

    def __len__(self) -> int:
        return len(self._entries())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries())

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} calls>"

    def methods(self) -> list[str]:
        """Return the methods' names, as sent."""
        return [entry.method for entry in self]

    def waits(self, kind: str = OPERATION) -> list[Entry]:
        """Return the calls that waited, by default for a conflicting operation (kinds: `xenvol.simulator.waits`).

        ``assert calls.waits() == []`` says that no call would have made a real xapi sleep.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
        return [entry for entry in self if any(wait.kind == kind for wait in entry.waited_for)]


class Journal(Calls):
    """All calls but log-ins and log-outs; those are in `logins`. Safe to read while calls arrive.

    The oldest calls are dropped, so that at least `limit` and at most twice as many stay.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(lambda: self._select(logins=False))
        self.logins = Calls(lambda: self._select(logins=True))
        """The calls that open or close a session."""
        self.listener: Callable[[Entry], None] = lambda entry: None
        """Called with every call when it is over."""
        self._lock = threading.Lock()
        self._limit = limit
        self._dropped = 0  # so many calls came before those in `_all`
        self._all: list[Entry] = []
        self._open: dict[int, Entry] = {}
        self._faults: dict[int, str] = {}

    def mark(self) -> int:
        """Return the position of the next call, for `since`."""
        with self._lock:
            return self._dropped + len(self._all)

    def since(self, mark: int) -> Calls:
        """Return the calls that arrived after the mark, without log-ins; later calls are added to it."""
        return Calls(lambda: self._select(mark, logins=False))

    @contextmanager
    def recording(self) -> Iterator[Calls]:
        """Yield the calls that arrive during the block."""
        start = self.mark()
        end: list[int] = []
        try:
            yield Calls(lambda: self._select(start, *end, logins=False))
        finally:
            end.append(self.mark())

    def entry(self, n: int) -> Entry | None:
        """Return the call with that number, or None."""
        with self._lock:
            return self._open.get(n) or next((entry for entry in reversed(self._all) if entry.n == n), None)

    def clear(self) -> None:
        """Drop all calls; the end of a call under way is not recorded."""
        with self._lock:
            self._dropped = 0
            self._all.clear()
            self._open.clear()
            self._faults.clear()

    # ---- for the server and the faults

    def arrived(self, call: Incoming) -> None:
        entry = _entry(call)
        with self._lock:
            entry.fault = self._faults.pop(call.number, "")
            self._all.append(entry)
            self._open[call.number] = entry
            if len(self._all) >= 2 * self._limit:
                self._dropped += self._limit
                del self._all[: self._limit]

    def began_to_wait(self, call: Incoming, wait: Wait) -> None:
        """Record a wait; an Async call waits after its answer."""
        entry = self.entry(call.number)
        if entry is not None:
            entry.waited_for += (wait,)

    def answered(self, call: Incoming, answer: Answer | None) -> None:
        with self._lock:
            entry = self._open.pop(call.number, None)
            if entry is None:
                return
            entry.seconds = time.monotonic() - entry._arrived
            if answer is None:
                entry.outcome = "nothing"
            elif answer.error is None:
                entry.outcome = "success"
            else:
                entry.outcome, entry.error = answer.error[0], answer.error
        self.listener(entry)

    def met_fault(self, number: int, text: str) -> None:
        """Record that an ordered fault struck the call with that number."""
        with self._lock:
            if (entry := self._open.get(number)) is not None:
                entry.fault = text
            else:
                self._faults[number] = text

    def _select(self, start: int = 0, end: int | None = None, *, logins: bool) -> list[Entry]:
        with self._lock:
            first = max(0, start - self._dropped)
            last = None if end is None else max(0, end - self._dropped)
            return [e for e in self._all[first:last] if is_login(e.method) == logins]


def _entry(call: Incoming) -> Entry:
    method = plain_name(call.method)
    params = list(call.params)
    for index in _SECRET_ARGUMENTS.get(method, ()):
        if index < len(params):
            params[index] = MASK
    params = [masked(value, of_secret=method == "secret.create") for value in params]
    session = None
    if "login" not in method and params and isinstance(params[0], str):
        session, *params = params
    return Entry(
        call.number,
        call.protocol,
        call.method,
        tuple(params),
        session,
        call.host,
        _arrived=time.monotonic(),
    )


def masked(value: Any, *, of_secret: bool = False) -> Any:
    """Return a copy with masked passwords (``chappassword``…); ``password_secret`` is a uuid and stays."""
    if isinstance(value, dict):
        return {
            key: MASK
            if str(key).endswith("password") or (of_secret and key == "value")
            else masked(item, of_secret=of_secret)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [masked(item, of_secret=of_secret) for item in value]
    return value
