"""Messages: notes about an object for people, written by xapi and its clients (xapi_message.ml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_CLASSES = {"Host": "host", "Pool": "pool"}
"""Classes that messages spell differently."""


def write(call: Call, name: str, cls: str, ref: str, body: str, *, priority: int = 5) -> None:
    """Write a message of xapi's own about an existing object."""
    uuid = call.db.row(_CLASSES.get(cls, cls), ref)["uuid"]
    message_create(call, name, priority, cls, uuid, body)


@rule("message.create")
def message_create(call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> str:
    db = call.db
    if db.by_uuid(_CLASSES.get(cls, cls), obj_uuid) is None:
        raise Failure("UUID_INVALID", cls, obj_uuid)
    return db.create(
        "message",
        name=name,
        priority=priority,
        cls=cls,
        obj_uuid=obj_uuid,
        timestamp=call.xapi.now(),
        body=body,
    )


@rule("message.destroy")
def message_destroy(call: Call, message: str) -> None:
    call.db.delete("message", message)


@rule("message.destroy_many")
def message_destroy_many(call: Call, messages: list[str]) -> None:
    for message in messages:
        message_destroy(call, message)


@rule("message.get")
def message_get(call: Call, cls: str, obj_uuid: str, since: str) -> dict[str, Any]:
    """Return the messages about one object that are newer than a time."""
    newer = message_get_since(call, since)
    return {ref: row for ref, row in newer.items() if (row["cls"], row["obj_uuid"]) == (cls, obj_uuid)}


@rule("message.get_since")
def message_get_since(call: Call, since: str) -> dict[str, Any]:
    records = {ref: call.db.record("message", ref) for ref in call.db.refs("message")}
    return {ref: record for ref, record in records.items() if record["timestamp"] > since}
