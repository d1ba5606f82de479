"""event.from and event.inject: what changed since a token, by the stamps of the database (trace 08).

A token holds two stamps: up to the first the client has seen changes of its classes, up to the second
messages. An answer has one event per object: additions, then changes, then deletions.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.changes import Change
from xenvol.simulator.conversion import encode_record
from xenvol.simulator.database import Database
from xenvol.simulator.failure import Failure
from xenvol.simulator.notify import EVERYTHING
from xenvol.simulator.rulebook import Call, rule
from xenvol.simulator.values import Int32, Marshalled, Wire
from xenvol.simulator.waits import EVENT

BATCHING_SECONDS = 0.05  # xapi collects events this long, unless only tasks are asked for
LONGEST_SECONDS = 86400.0  # replaces a timeout that is not a valid duration (xapi_event.ml, from)

_INT64 = re.compile(r"-?\d{1,20}")


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client subscribed to: ``*``, ``vdi`` or ``vdi/OpaqueRef:...``."""

    cls: str
    """The class in lower case; ``EVERYTHING`` for all classes."""
    ref: str | None = None

    @classmethod
    def parse(cls, text: str) -> Subscription:
        if text == "*":
            return cls(EVERYTHING)
        name, slash, ref = text.partition("/")
        return cls(name.lower(), ref if slash else None)

    def matches(self, cls: str, ref: str) -> bool:
        """Return True if the subscription covers this object; ``cls`` is in lower case."""
        return self.cls == EVERYTHING or (self.cls == cls and self.ref in (None, ref))

    @property
    def topic(self) -> str:
        return self.cls if self.ref is None else self.ref


@rule("event.from")
def event_from(call: Call, classes: list[str], token: str, timeout: float) -> Marshalled:
    """Return what is new, and wait for it at most ``timeout`` seconds; SESSION_INVALID if the session ends."""
    subscriptions = [Subscription.parse(text) for text in classes]
    seen, seen_messages = parse_token(token)
    seconds = timeout if 0 <= timeout <= LONGEST_SECONDS else (0.0 if timeout < 0 else LONGEST_SECONDS)
    is_task_only = all(s.cls == "task" for s in subscriptions)
    end = time.monotonic() + seconds
    topics = {s.topic for s in subscriptions} | {call.session}
    while True:
        changes = _collect(call.db, subscriptions, seen, seen_messages)
        left = end - time.monotonic()
        if changes or left <= 0 or call.xapi.is_closed:
            return Marshalled(_batch(call.db, subscriptions, changes, seen, seen_messages))
        with call.waiting(
            EVENT,
            *sorted(topics - {call.session}),
            lasts=lambda: not _is_news(call, subscriptions, seen, seen_messages),
        ):
            call.xapi.bell.wait(topics, left)
        if not is_task_only:
            call.xapi.sleep(min(BATCHING_SECONDS, max(0.0, end - time.monotonic())))
        if not call.db.exists("session", call.session):
            raise Failure("SESSION_INVALID", call.session)


def _is_news(call: Call, subscriptions: list[Subscription], seen: int, seen_messages: int) -> bool:
    """Return True if a waiting call has something to answer."""
    return not call.db.exists("session", call.session) or bool(
        _collect(call.db, subscriptions, seen, seen_messages)
    )


def parse_token(token: str) -> tuple[int, int]:
    if token == "":
        return 0, 0
    parts = token.split(",")
    if len(parts) != 2 or not all(_INT64.fullmatch(part) and -(2**63) <= int(part) < 2**63 for part in parts):
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    return int(parts[0]), int(parts[1])


def _collect(db: Database, subscriptions: list[Subscription], seen: int, seen_messages: int) -> list[Change]:
    """Return the latest change of each object since the token, without objects made and deleted in between."""
    found: dict[str, Change] = {}
    for subscription in subscriptions:
        for change in _changes(db, subscription, seen, seen_messages):
            since = seen_messages if change.cls == "message" else seen
            if not (change.deleted and change.created > since):
                found[change.ref] = change
    return list(found.values())


def _changes(db: Database, subscription: Subscription, seen: int, seen_messages: int) -> Iterator[Change]:
    for cls in db.model.event_classes(subscription.cls):
        since = seen_messages if cls == "message" else seen
        if subscription.ref is None:
            yield from db.changes.since(cls, since)
        else:
            change = db.last_change(cls, subscription.ref)
            if change is not None and change.stamp > since:
                yield change


def _batch(
    db: Database, subscriptions: list[Subscription], changes: list[Change], seen: int, seen_messages: int
) -> Wire:
    last = max([seen, *(c.stamp for c in changes if c.cls != "message")])
    last_message = 0
    if any(s.cls in (EVERYTHING, "message") for s in subscriptions):
        last_message = max([seen_messages, *(c.stamp for c in changes if c.cls == "message")])
    by_operation: dict[str, list[Wire]] = {"add": [], "mod": [], "del": []}
    for change in changes:
        since = seen_messages if change.cls == "message" else seen
        operation = "del" if change.deleted else "add" if change.created > since else "mod"
        by_operation[operation].append(_event(db, change, operation))
    return {
        "events": [event for events in by_operation.values() for event in events],
        "valid_ref_counts": {cls.lower(): Int32(db.count(cls)) for cls in reversed(db.model.classes)},
        "token": f"{last:020d},{last_message:020d}",
    }


def _event(db: Database, change: Change, operation: str) -> Wire:
    stamp = 0 if change.cls == "message" else change.stamp
    event = {
        "id": str(stamp),
        "timestamp": "0.0",
        "class": change.cls.lower(),
        "operation": operation,
        "ref": change.ref,
    }
    if operation != "del":
        event["snapshot"] = snapshot(db, change.cls, change.ref)
    return event


def snapshot(db: Database, cls: str, ref: str) -> Any:
    return encode_record(db.model, cls, db.record(cls, ref))


@rule("event.inject")
def event_inject(call: Call, cls: str, ref: str) -> str:
    """Mark the object as changed, and return a token of the moment before."""
    if cls not in call.db.model.classes or not call.db.exists(cls, ref):
        raise Failure("HANDLE_INVALID", cls, ref)
    token = f"{call.db.stamp:020d},{0:020d}"
    call.db.touch(cls, ref)
    return token
