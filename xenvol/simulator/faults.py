"""What shall go wrong, by order: at the n-th call of a method, counted from the moment it was ordered.

Methods are matched without ``Async.``. A pattern may have wildcards (``VBD.*``); ``*`` is every call that
the journal counts, that is, all but log-ins and log-outs. An order is used up after its n-th call unless it
was given with ``every=True``: then it strikes at the n-th and at all later ones. Several may strike one call.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xenvol.simulator.failure import Failure
from xenvol.simulator.hooks import SERVED, Fate, Incoming
from xenvol.simulator.journal import plain_name
from xenvol.simulator.orders import WITH_ERROR, Order, checked, strikes


class Machines(Protocol):
    """What can happen to hosts at once, by reference; None is every host."""

    def die(self, host: str | None) -> None: ...

    def come_back(self, host: str | None) -> None: ...

    def drop_connections(self, host: str | None) -> None: ...

    def move_master(self, host: str, *, keep_sessions: bool) -> None: ...

    def find_host(self, host: str) -> str:
        """The reference of the host that a reference, uuid, name or address means."""


class Faults:
    """The orders of one simulator. Counting and striking are atomic, however many clients call."""

    def __init__(
        self, machines: Machines, *, met: Callable[[int, str], None] = lambda number, text: None
    ) -> None:
        self._machines = machines
        self._met = met
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._orders: list[Order] = []

    def __repr__(self) -> str:
        return f"<Faults: {len(self.orders)} orders open>"

    @property
    def orders(self) -> list[Order]:
        """Those that may still strike."""
        with self._lock:
            return [order for order in self._orders if not order.is_spent]

    # ---- orders

    def refuse(
        self,
        method: str,
        code: str,
        *params: str,
        nth: int = 1,
        every: bool = False,
        host: str | None = None,
    ) -> Order:
        """Answer with this error, any error, and do nothing."""
        failure = Failure(code, *params)
        return self._order(
            "refuse",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, refuse=fate.refuse or failure),
            detail=code,
        )

    def late_error(
        self,
        method: str,
        code: str,
        *params: str,
        nth: int = 1,
        every: bool = False,
        host: str | None = None,
    ) -> Order:
        """Do it, and answer with this error although it succeeded; a call that fails by itself says why it did.

        A real xapi does so with INTERNAL_ERROR, where it stumbles over what it does after the deed
        (facts/truth.md, last section, finding 3). Not for transfers of images, whose answer is on its way by then.
        """
        failure = Failure(code, *params)
        return self._order(
            "late_error",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, late_error=fate.late_error or failure),
            detail=code,
        )

    def lose_answer(
        self, method: str, *, nth: int = 1, every: bool = False, host: str | None = None
    ) -> Order:
        """Do it, and close the connection instead of answering."""
        return self._order(
            "lose_answer",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, lose_answer=True),
        )

    def lose_request(
        self, method: str, *, nth: int = 1, every: bool = False, host: str | None = None
    ) -> Order:
        """Close the connection with nothing done."""
        return self._order(
            "lose_request",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, lose_request=True),
        )

    def delay(
        self,
        method: str,
        seconds: float,
        *,
        nth: int = 1,
        every: bool = False,
        host: str | None = None,
        answer: bool = False,
        inside: bool = False,
    ) -> Order:
        """Wait before doing it, or with ``answer=True`` between doing it and answering.

        With ``inside=True`` the storage takes so long: the operation is in current_operations, others wait for it,
        and a VBD is currently_attached already (facts/truth.md, last section, finding 8).
        """
        if answer and inside:
            raise ValueError("inside: the storage takes long, or the answer does; give the one or the other")

        def strike(fate: Fate) -> Fate:
            if answer:
                return dataclasses.replace(fate, late=fate.late + seconds)
            if inside:
                return dataclasses.replace(fate, inside=fate.inside + seconds)
            return dataclasses.replace(fate, delay=fate.delay + seconds)

        return self._order("delay", method, nth, every, host, strike, detail=f"{seconds} s")

    def hang(
        self,
        method: str,
        *,
        nth: int = 1,
        every: bool = False,
        host: str | None = None,
        answer: bool = False,
    ) -> Order:
        """Neither do it nor answer (with ``answer=True``: do it, but do not answer) until `Order.release`."""
        released = threading.Event()

        def strike(fate: Fate) -> Fate:
            if answer:
                return dataclasses.replace(fate, hang_answer=released)
            return dataclasses.replace(fate, hang=released)

        return self._order("hang", method, nth, every, host, strike, released=released)

    def drop_connection(
        self,
        method: str | None = None,
        *,
        nth: int = 1,
        every: bool = False,
        host: str | None = None,
    ) -> Order | None:
        """Close all connections of the host (None: of all) at once, or before a call is read from one.

        Idle ones too: a client that keeps one open finds out with its next call. The hosts go on listening.
        """
        if method is None:
            self._machines.drop_connections(host and self._machines.find_host(host))
            return None
        machines = self._machines
        found = host and machines.find_host(host)
        return self._order(
            "drop_connection",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, lose_request=True),
            before=lambda: machines.drop_connections(found),
        )

    def die(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        nth: int = 1,
        host: str | None = None,
    ) -> Order | None:
        """The host (None: the one that is called; without a method, every one) stops answering altogether.

        At once; or ``before`` that call is done, or ``after`` it was done and instead of answering it.
        `come_back` revives it with the pool as it was left.
        """
        method = before or after
        if method is None:
            self._machines.die(host and self._machines.find_host(host))
            return None
        done = before is None
        return self._order(
            "die",
            method,
            nth,
            False,
            host,
            lambda fate: dataclasses.replace(
                fate, host_dies=True, lose_request=fate.lose_request or not done
            ),
            detail="after" if done else "before",
        )

    def come_back(self, host: str | None = None) -> None:
        """Revive one host, or all."""
        self._machines.come_back(host and self._machines.find_host(host))

    def expire_session(
        self, method: str = "*", *, nth: int = 1, every: bool = False, host: str | None = None
    ) -> Order:
        """The session of that call is gone when it arrives: SESSION_INVALID. By default the next call."""
        return self._order(
            "expire_session",
            method,
            nth,
            every,
            host,
            lambda fate: dataclasses.replace(fate, expire_session=True),
        )

    def move_master(
        self, host: str, *, before: str | None = None, nth: int = 1, keep_sessions: bool = True
    ) -> Order | None:
        """Make another host the master, at once or before that call; the old one answers HOST_IS_SLAVE.

        A real new master does not know the sessions of the old one, since xapi keeps them in memory only:
        ``keep_sessions=False``, and a call with an old session gets SESSION_INVALID wherever it asks.
        """
        machines = self._machines
        found = machines.find_host(host)
        if before is None:
            machines.move_master(found, keep_sessions=keep_sessions)
            return None
        return self._order(
            "move_master",
            before,
            nth,
            False,
            None,
            lambda fate: fate,
            detail=f"to {host}",
            before=lambda: machines.move_master(found, keep_sessions=keep_sessions),
        )

    def clear(self) -> None:
        """Forget all orders; what hangs goes on. Dead hosts stay dead."""
        with self._lock:
            orders, self._orders = self._orders, []
        for order in orders:
            order.release()

    def start_over(self) -> None:
        """Forget all orders, and number the next one as the first."""
        self.clear()
        with self._lock:
            self._numbers = itertools.count(1)

    def cancel(self, number: int) -> bool:
        """Forget one order; whether there was one of that number."""
        with self._lock:
            found = [order for order in self._orders if order.number == number]
            self._orders = [order for order in self._orders if order.number != number]
        for order in found:
            order.release()
        return bool(found)

    # ---- what the server asks

    def fate(self, call: Incoming) -> Fate:
        """What the orders make of this call."""
        method = plain_name(call.method)
        with self._lock:
            struck = [order for order in self._orders if strikes(order, method, call)]
            self._orders = [order for order in self._orders if not order.is_spent or order in struck]
        fate = SERVED
        for order in struck:
            self._met(call.number, str(order))
            if order.before is not None:
                order.before()
            fate = order.strike(fate)
        return fate

    def _order(
        self,
        kind: str,
        method: str,
        nth: int,
        every: bool,
        host: str | None,
        strike: Callable[[Fate], Fate],
        *,
        detail: str = "",
        before: Callable[[], None] | None = None,
        released: threading.Event | None = None,
    ) -> Order:
        if nth < 1:
            raise ValueError(f"nth={nth}: calls are counted from 1")
        found = host and self._machines.find_host(host)
        order = Order(
            next(self._numbers),
            kind,
            method,
            nth,
            every,
            found,
            strike,
            detail,
            before,
            released or threading.Event(),
        )
        with self._lock:
            self._orders.append(order)
        return order

    # ---- orders as data, from a world file or over HTTP

    def order(self, spec: Mapping[str, Any]) -> Order | None:
        """One order as a map, e.g. {"fault": "refuse", "method": "PBD.plug", "error": ["SR_FULL"], "nth": 2}.

        Raises ValueError, which names the key that is wrong and what it accepts.
        """
        kind, options = checked(spec)
        if kind in WITH_ERROR:
            method, error = options.pop("method"), options.pop("error")
            answer = self.refuse if kind == "refuse" else self.late_error
            return answer(method, *error, **options)
        order: Order | None = getattr(self, kind)(**options)
        return order
