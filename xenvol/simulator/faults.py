"""Order faults: each strikes the n-th call of a method, counted from the order.

Methods are matched without ``Async.``. A pattern may have wildcards (``VBD.*``); ``*`` is every call that the
journal counts: all but log-ins and log-outs. An order strikes once, at its n-th call. With ``every=True`` it
strikes the n-th and all later calls. Several orders may strike one call.
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
    """What faults can do to hosts, by reference; None means every host."""

    def die(self, host: str | None) -> None: ...

    def come_back(self, host: str | None) -> None: ...

    def drop_connections(self, host: str | None) -> None: ...

    def move_master(self, host: str, *, keep_sessions: bool) -> None: ...

    def find_host(self, host: str) -> str:
        """Return the reference of the host with that reference, uuid, name or address."""


class Faults:
    """The orders of one simulator. Counting and striking are atomic when several clients call."""

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
        """The orders that can still strike."""
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
        """Answer with this error, which may have any code, and do nothing."""
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
        """Do the call, and answer with this error although it succeeded; a failing call keeps its own error.

        A real xapi does this with INTERNAL_ERROR if a later step fails after the call took effect
        (docs/background/recordings.md, finding 3 (xapi)). Not for transfers of images, whose answer is
        already on its way.
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
        """Do the call, and close the connection instead of answering."""
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
        """Close the connection and do nothing."""
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
        """Wait before doing the call, or with ``answer=True`` between doing it and answering.

        With ``inside=True`` the storage takes this long: the operation is in current_operations, other calls
        wait for it, and a VBD is already currently_attached (docs/background/recordings.md, finding 8
        (xapi)).
        """
        if answer and inside:
            raise ValueError(
                "inside: either the storage or the answer takes long; give inside or answer, not both"
            )

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
        """Neither do the call nor answer it until `Order.release`; with ``answer=True`` do it, but do not answer."""
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
        """Close all connections of the host (None: of all hosts), at once or before reading the ordered call.

        Idle connections are closed too; a client that keeps one open notices at its next call. The hosts go
        on listening.
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
        """Stop the host (None: the host that receives the call; without a method, every host) from answering.

        It stops at once, or ``before`` that call is done, or ``after`` the call is done and instead of its
        answer. `come_back` revives the host with the pool as it was left.
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
        """Revive one host, or all of them."""
        self._machines.come_back(host and self._machines.find_host(host))

    def expire_session(
        self, method: str = "*", *, nth: int = 1, every: bool = False, host: str | None = None
    ) -> Order:
        """Destroy the session of that call, by default the next one, when it arrives: it gets SESSION_INVALID."""
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
        """Make another host the master, at once or before that call; the old master then answers HOST_IS_SLAVE.

        With ``keep_sessions=False`` the new master does not know the old sessions, because xapi keeps them in
        memory only. A call with an old session then gets SESSION_INVALID from every host.
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
        """Drop all orders and release the calls that hang. Dead hosts stay dead."""
        with self._lock:
            orders, self._orders = self._orders, []
        for order in orders:
            order.release()

    def start_over(self) -> None:
        """Drop all orders, and number the next one 1."""
        self.clear()
        with self._lock:
            self._numbers = itertools.count(1)

    def cancel(self, number: int) -> bool:
        """Drop one order; return False if no order has that number."""
        with self._lock:
            found = [order for order in self._orders if order.number == number]
            self._orders = [order for order in self._orders if order.number != number]
        for order in found:
            order.release()
        return bool(found)

    # ---- for the server

    def fate(self, call: Incoming) -> Fate:
        """Return what the orders make of this call."""
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
        """Place an order given as a map: {"fault": "refuse", "method": "PBD.plug", "error": ["SR_FULL"], "nth": 2}.

        Raises ValueError, which names the wrong key and what it accepts.
        """
        kind, options = checked(spec)
        if kind in WITH_ERROR:
            method, error = options.pop("method"), options.pop("error")
            answer = self.refuse if kind == "refuse" else self.late_error
            return answer(method, *error, **options)
        order: Order | None = getattr(self, kind)(**options)
        return order
