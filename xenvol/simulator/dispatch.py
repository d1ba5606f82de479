"""Check a parsed call in xapi's order, run its rule, and return the answer.

xapi's dispatcher is generated from the data model (gen_server.ml), and so is this one. It checks the name,
the number of parameters, their types and the session, in that order. A removed message is refused after these
checks. A rule runs under the pool's lock, and gives the lock up only to wait.
"""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import pkgutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xenvol.simulator import eventqueue, events, generic, sessions, tasks
from xenvol.simulator.conversion import decode, encode, parse_type
from xenvol.simulator.datamodel import DataModel, Message
from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.ocaml import failure
from xenvol.simulator.rulebook import RULES, Call
from xenvol.simulator.values import Marshalled, Wire, show
from xenvol.simulator.waits import Listener, ignore_wait
from xenvol.simulator.xapi import Xapi

log = logging.getLogger(__name__)

#: Modules outside the rules package that register rules.
_PROTOCOL_RULES = (sessions, tasks, events, eventqueue)


@functools.cache
def load_rules() -> None:
    """Import every module of the rules package, which registers its rules."""
    package = importlib.import_module("xenvol.simulator.rules")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call that passed every check."""

    message: Message
    call: Call
    arguments: list[Any]


def dispatch(
    xapi: Xapi,
    host: str,
    method: str,
    params: Sequence[Wire],
    *,
    on_wait: Listener = ignore_wait,
    storage_begins: Callable[[], None] = lambda: None,
) -> Wire:
    """Answer one call with a wire value, or raise `Failure`. Takes the pool's lock."""
    prefix = next((p for p in ("Async.", "InternalAsync.") if method.startswith(p)), "")
    name = method.removeprefix(prefix)
    with xapi.lock:
        message = xapi.model.wire_names.get(name)
        if message is None:
            return _not_a_message(xapi, host, name, params)
        prepared = prepare(xapi, host, name, message, params, on_wait=on_wait, storage_begins=storage_begins)
        if prefix:
            if not message.is_async:
                raise Failure("Fault", f"No async mode for this operation (rpc: {name})")
            return tasks.start(prepared.call, f"Async.{message.full_name}", lambda call: run(prepared, call))
        return run(prepared, prepared.call)


def prepare(
    xapi: Xapi,
    host: str,
    name: str,
    message: Message,
    params: Sequence[Wire],
    *,
    on_wait: Listener = ignore_wait,
    storage_begins: Callable[[], None] = lambda: None,
) -> Prepared:
    """Check the parameters and the session, and convert the parameters; ``name`` is in the caller's spelling."""
    with_session = message.takes_session
    given = len(params) - with_session
    optional = len(message.params) - message.required
    if given < message.required or (given > message.required and not optional):
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", name, str(message.required), str(given))
    rest = list(params)
    session = _session(rest.pop(0)) if with_session else ""
    is_removed = message.state == "Removed"
    arguments = [] if is_removed else _arguments(xapi.model, message, rest)
    if with_session:
        sessions.check(xapi, session, host, message.full_name, intra_pool_only=message.intra_pool_only)
    if is_removed:
        raise Failure("MESSAGE_REMOVED")
    task = f"OpaqueRef:{uuid.uuid4()}"
    call = Call(xapi, message.full_name, session, task, host, on_wait, storage_begins)
    return Prepared(message, call, arguments)


def run(prepared: Prepared, call: Call) -> Wire:
    """Run the call's rule, and marshal the result."""
    message, model = prepared.message, call.xapi.model
    act = RULES.get(message.full_name) or generic.handler(model.classes[message.cls], message)
    if act is None:
        raise Failure("NOT_IMPLEMENTED", message.full_name)
    try:
        result = act(call, *prepared.arguments)
        return (
            result.wire
            if isinstance(result, Marshalled)
            else encode(model, parse_type(message.result), result)
        )
    except Failure:
        raise
    except Exception as error:  # xapi answers INTERNAL_ERROR to every exception that it does not translate
        log.exception("%s failed", message.full_name)
        raise internal_error(repr(error)) from error


# ---- inside


def _session(wire: Wire) -> str:
    if not isinstance(wire, str):
        raise failure(f"Expected string, got '{show(wire)}'")
    return wire


def _arguments(model: DataModel, message: Message, given: list[Wire]) -> list[Any]:
    if (
        message.name == "create"
        and len(message.params) == 1
        and message.params[0].type == f"{message.cls} record"
    ):
        return [_constructor_record(model, message.cls, given[0])]
    return [
        decode(model, parse_type(param.type), given[position])
        if position < len(given)
        else copy.copy(param.default)
        for position, param in enumerate(message.params)
    ]


def _constructor_record(model: DataModel, cls: str, wire: Wire) -> dict[str, Any]:
    """Return the fields that a constructor reads, with defaults filled in; other keys of the record are ignored."""
    if not isinstance(wire, dict):
        raise failure("bad __structure")
    record = {}
    for name, field in model.classes[cls].constructor.items():
        if name in wire:
            record[name] = decode(model, parse_type(field.type), wire[name])
        elif field.has_default:
            record[name] = copy.copy(field.default)
        else:
            raise internal_error(f'Server_helpers.Dispatcher_FieldNotFound("{name}")')
    return record


def _not_a_message(xapi: Xapi, host: str, name: str, params: Sequence[Wire]) -> Wire:
    if name == "system.listMethods":
        return [message.full_name for cls in xapi.model.classes.values() for message in cls.messages.values()]
    if name.startswith("system.isAlive:"):
        if not params:
            raise failure("hd")
        return params[0]
    if params:  # it might be an extension of the host's, so the session is checked first
        sessions.check(xapi, _session(params[0]), host, "Host.call_extension")
    raise Failure("MESSAGE_METHOD_UNKNOWN", name)
