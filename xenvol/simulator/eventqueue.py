"""The older event calls: event.register once, then event.next again and again (trace 08).

Unlike event.from, every single change is an event, with the record as it was then. A session has one queue,
from its first event.register to its end.
"""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

from xenvol.simulator.events import Subscription, snapshot
from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import Call, rule
from xenvol.simulator.values import Marshalled, Wire
from xenvol.simulator.waits import EVENT
from xenvol.simulator.xapi import Xapi

_PATIENCE = 86400.0  # seconds; event.next waits without end


class Queues:
    """The event queues of all sessions of a pool. The database reports changes to it."""

    def __init__(self, xapi: Xapi) -> None:
        self._xapi = xapi
        self._count = 0
        """The number of events so far, which is the id of the next one."""
        self.subscriptions: dict[str, list[Subscription]] = {}
        self.waiting: dict[str, list[Wire]] = {}

    def changed(self, cls: str, ref: str) -> None:
        name = cls.lower()
        wanted = [
            session
            for session, subscriptions in self.subscriptions.items()
            if any(subscription.matches(name, ref) for subscription in subscriptions)
        ]
        if wanted and self._xapi.model.classes[cls].has_events:
            event = self._event(cls, ref)
            for session in wanted:
                self.waiting[session].append(event)

    def _event(self, cls: str, ref: str) -> Wire:
        db = self._xapi.db
        change = db.last_change(cls, ref)
        operation = "mod"
        if change is not None and (change.deleted or change.created == change.stamp):
            operation = "del" if change.deleted else "add"
        event: dict[str, Any] = {
            "id": str(self._count),
            "timestamp": f"{int(self._xapi.clock())}.",
            "class": cls.lower(),
            "operation": operation,
            "ref": ref,
        }
        if operation != "del":
            event["snapshot"] = snapshot(db, cls, ref)
        self._count += 1
        return event


_QUEUES: weakref.WeakKeyDictionary[Xapi, Queues] = weakref.WeakKeyDictionary()


def _queues(xapi: Xapi) -> Queues:
    """Return the pool's queues.

    The first event.register creates them; until then changes cost nothing here.
    """
    if xapi not in _QUEUES:
        queues = _QUEUES[xapi] = Queues(xapi)
        xapi.observers.append(queues.changed)
    return _QUEUES[xapi]


@rule("event.register")
def event_register(call: Call, classes: list[str]) -> None:
    queues = _queues(call.xapi)
    queues.waiting.setdefault(call.session, [])
    queues.subscriptions.setdefault(call.session, []).extend(map(Subscription.parse, classes))


@rule("event.unregister")
def event_unregister(call: Call, classes: list[str]) -> None:
    """Drop the subscriptions. The queue stays, so event.next then blocks (trace 08#60)."""
    unwanted = [Subscription.parse(text) for text in classes]
    queues = _queues(call.xapi)
    queues.waiting.setdefault(call.session, [])
    subscriptions = queues.subscriptions.setdefault(call.session, [])
    subscriptions[:] = [subscription for subscription in subscriptions if subscription not in unwanted]


@rule("event.next")
def event_next(call: Call) -> Marshalled:
    """Return the events that the session registered for, and wait for one without limit if there is none."""
    queues = _queues(call.xapi)
    if call.session not in queues.waiting:
        raise Failure("SESSION_NOT_REGISTERED", track_id(call.session))
    while not (events := queues.waiting[call.session]) and not call.xapi.is_closed:
        topics = {subscription.topic for subscription in queues.subscriptions[call.session]}
        with call.waiting(EVENT, *sorted(topics), lasts=lambda: not queues.waiting.get(call.session)):
            call.xapi.bell.wait({*topics, call.session}, _PATIENCE)
        if not call.db.exists("session", call.session):
            del queues.waiting[call.session], queues.subscriptions[call.session]
            raise Failure("SESSION_INVALID", call.session)
    queues.waiting[call.session] = []
    return Marshalled(events)


@rule("event.get_current_id")
def event_get_current_id(call: Call) -> int:
    return 0


def track_id(session: str) -> str:
    """Return xapi's name for a session in places where the reference must not be readable."""
    return f"trackid={hashlib.md5(session.encode(), usedforsecurity=False).hexdigest()}"
