"""Arrange and examine a simulator over HTTP, under /simulator, for tests in any language.

Requests and replies are JSON; no session is needed. Each request does what the Python method of the same name
does.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xenvol.simulator.checkpoint import Checkpoint
from xenvol.simulator.faults import Faults
from xenvol.simulator.hooks import Reply
from xenvol.simulator.journal import Journal
from xenvol.simulator.orders import KINDS
from xenvol.simulator.snapshot import Snapshot


class Controlled(Protocol):
    """The part of the simulator that HTTP clients can control."""

    @property
    def journal(self) -> Journal: ...

    @property
    def faults(self) -> Faults: ...

    def reset(self) -> None: ...

    def checkpoint(self) -> Checkpoint: ...

    def restore(self, kept: Checkpoint) -> None: ...

    def snapshot(self) -> Snapshot: ...

    def answer_plugin(self, plugin: str, function: str, answer: str) -> None: ...

    def about(self) -> dict[str, Any]: ...


class BadRequest(ValueError):
    """The request is not acceptable; the text says what is accepted."""


class Control:
    """Serves the requests for one simulator."""

    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator
        self._checkpoints: list[Checkpoint] = []
        self._routes: dict[tuple[str, str], tuple[Callable[[str, Any], Any], str]] = {
            ("GET", ""): (self._help, "this page"),
            ("POST", "/reset"): (self._reset, "restore the initial state"),
            ("POST", "/checkpoint"): (self._checkpoint, "save the whole state, and return its number"),
            ("POST", "/restore"): (
                self._restore,
                'restore a checkpoint with its sessions: {"checkpoint": 1}',
            ),
            ("GET", "/journal"): (
                self._journal,
                'all calls; ?since=MARK for those after the "mark" of an earlier answer',
            ),
            ("DELETE", "/journal"): (self._clear_journal, "forget all calls"),
            ("GET", "/faults"): (self._faults, "the orders that can still strike"),
            ("POST", "/faults"): (
                self._order,
                'order a fault: {"fault": "refuse", "method": "PBD.plug", "error": ["SR_BACKEND_FAILURE_47", "", '
                '"why", ""], "nth": 1, "every": false}; faults: ' + ", ".join(KINDS),
            ),
            ("DELETE", "/faults"): (self._clear_faults, "drop all orders; ?id=N drops one"),
            ("POST", "/plugins"): (
                self._answer_plugin,
                'let a plugin answer: {"plugin": "raid.py", "function": "check", "answer": "[]"}',
            ),
            ("GET", "/snapshot"): (self._snapshot, "the whole state"),
            ("POST", "/compare"): (
                self._compare,
                'what changed since a snapshot: {"before": SNAPSHOT, "after": SNAPSHOT or absent for now, '
                '"ignore": ["VM.user_version"]}',
            ),
        }

    def __call__(self, verb: str, path: str, body: bytes) -> Reply:
        """Answer one request: verb, path with query, body. The server calls this without the pool's lock."""
        route, _, query = path.partition("?")
        route = route.removeprefix("/simulator").rstrip("/")
        if (verb, route) not in self._routes:
            verbs = [known for known, where in self._routes if where == route]
            status = 405 if verbs else 404
            return _reply(status, {"error": f"{verb} {path}: unknown", "help": self._page()})
        act, _ = self._routes[verb, route]
        try:
            data = json.loads(body) if body.strip() else {}
            return _reply(200, act(query, data))
        except json.JSONDecodeError as error:
            return _reply(400, {"error": f"the body is not JSON: {error}"})
        except (ValueError, KeyError) as error:
            return _reply(400, {"error": str(error.args[0])})

    def forget_checkpoints(self) -> None:
        """Drop the checkpoints made over HTTP, and number the next one 1."""
        self._checkpoints.clear()

    def _page(self) -> dict[str, str]:
        return {f"{verb} /simulator{route}": text for (verb, route), (_, text) in self._routes.items()}

    def _help(self, query: str, data: Any) -> Any:
        return {**self._simulator.about(), "help": self._page()}

    def _reset(self, query: str, data: Any) -> Any:
        self._simulator.reset()
        return {}

    def _checkpoint(self, query: str, data: Any) -> Any:
        try:
            self._checkpoints.append(self._simulator.checkpoint())
        except RuntimeError as error:
            raise BadRequest(str(error)) from error
        return {"checkpoint": len(self._checkpoints)}

    def _restore(self, query: str, data: Any) -> Any:
        number = data.get("checkpoint") if isinstance(data, Mapping) else None
        if type(number) is not int or not 1 <= number <= len(self._checkpoints):
            made = (
                f"1 to {len(self._checkpoints)}" if self._checkpoints else "none: POST /simulator/checkpoint"
            )
            raise BadRequest(f"checkpoint: there is no {number!r}; there are {made}")
        self._simulator.restore(self._checkpoints[number - 1])
        return {}

    def _journal(self, query: str, data: Any) -> Any:
        journal = self._simulator.journal
        since = _number(query, "since") or 0
        mark = journal.mark()
        return {
            "calls": [entry.as_json() for entry in journal.since(since)],
            "logins": len(journal.logins),
            "mark": mark,
        }

    def _clear_journal(self, query: str, data: Any) -> Any:
        self._simulator.journal.clear()
        return {}

    def _faults(self, query: str, data: Any) -> Any:
        return {"faults": [order.as_json() for order in self._simulator.faults.orders]}

    def _order(self, query: str, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise BadRequest("a fault is a map, as in GET /simulator")
        order = self._simulator.faults.order(data)
        return order.as_json() if order is not None else {}

    def _clear_faults(self, query: str, data: Any) -> Any:
        number = _number(query, "id")
        if number is None:
            self._simulator.faults.clear()
        elif not self._simulator.faults.cancel(number):
            raise BadRequest(f"id: there is no open order {number}")
        return {}

    def _answer_plugin(self, query: str, data: Any) -> Any:
        keys = ("plugin", "function", "answer")
        given = data if isinstance(data, Mapping) else {}
        if set(given) != set(keys) or not all(isinstance(value, str) for value in given.values()):
            raise BadRequest(f"a plugin's answer has the keys {', '.join(keys)}, each with a text")
        self._simulator.answer_plugin(*(given[key] for key in keys))
        return {}

    def _snapshot(self, query: str, data: Any) -> Any:
        return self._simulator.snapshot().as_json()

    def _compare(self, query: str, data: Any) -> Any:
        if not isinstance(data, Mapping) or "before" not in data:
            raise BadRequest("before: missing; expected an answer of GET /simulator/snapshot")
        before = Snapshot.from_json(data["before"])
        after = Snapshot.from_json(data["after"]) if "after" in data else self._simulator.snapshot()
        ignore = data.get("ignore", [])
        if not isinstance(ignore, list) or not all(isinstance(item, str) for item in ignore):
            raise BadRequest('ignore: expected a list of patterns, as in ["VM.user_version"]')
        return {"differences": before.difference(after, ignore)}


def _number(query: str, key: str) -> int | None:
    values = urllib.parse.parse_qs(query).get(key)
    if not values:
        return None
    try:
        return int(values[0])
    except ValueError:
        raise BadRequest(f"{key}: {values[0]!r} is not a number") from None


def _reply(status: int, data: Any) -> Reply:
    body = json.dumps(data, ensure_ascii=False).encode() + b"\n"
    return Reply(status, "application/json", body)
