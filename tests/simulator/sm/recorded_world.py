"""Replays a recording of real storage drivers against a simulator, and changes the storage as its notes say.

A recording holds calls, and between them lines that describe a change of the storage or the state of the
control domain. A `Script` says what each of those lines means here; a line without a meaning is an error, so
no change of the storage is skipped. Every call is sent over the wire and its answer is compared, except for
calls that a script lists with a reason.

    SCRIPT = Script("20a-iscsi-attach", storage={4: arrange, 40: looked_up})

    def test_the_recording_is_answered_as_it_was_recorded() -> None:
        assert play(SCRIPT) == []
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenvol.simulator import Simulator
from xenvol.simulator.comparison import Comparison, brief
from xenvol.simulator.rules import gc
from xenvol.simulator.shapes import shape_of
from xenvol.simulator.sm.world import HostStorage, World
from xenvol.simulator.symbols import Symbols, Unbound

RECORDINGS = Path(__file__).parents[2] / "data" / "recordings" / "sm"
HOST = "xapihost"
"""The one host of the recorded pool."""

_DERIVED_UUID = re.compile(r"\$md5:([0-9a-f]+)")
_TOKEN = re.compile(r"\b0*([0-9]+),0{20}\b")
_NAME = re.compile(r"\$([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Storage:
    """What a step of a script may change."""

    simulator: Simulator
    world: World
    symbols: Symbols
    seen: Mapping[str, Any]
    """The content of the line."""

    @property
    def host(self) -> HostStorage:
        return self.world.host(HOST)


Step = Callable[[Storage], None]


def token_is_taken(name: str) -> Step:
    """Take an event token, as the client did here; the token is an argument of a later call."""

    def step(storage: Storage) -> None:
        assert storage.symbols.match(f"${name}", f"{storage.simulator.db.stamp:020},{0:020}")

    return step


def pool_secret_is(name: str) -> Step:
    """Bind the value of the secret that every pool has; a listing alone does not distinguish it."""

    def step(storage: Storage) -> None:
        db = storage.simulator.db
        (pool,) = db.refs("pool")
        secret = db.row("pool", pool)["telemetry_uuid"]
        assert storage.symbols.match(f"${name}", db.row("secret", secret)["value"])

    return step


def vdis_are(**scsi_ids: str) -> Step:
    """Bind each name to its VDI; a list of references alone does not identify it."""

    def step(storage: Storage) -> None:
        for name, scsi_id in scsi_ids.items():
            ref = storage.simulator.db.by_uuid("VDI", derived_uuid(scsi_id))
            assert storage.symbols.match(f"${name}", ref or "")

    return step


def collector_ran(storage: Storage) -> None:
    """Run the garbage collection, as xapi does every 30 seconds."""
    gc.collect(storage.simulator.xapi)


def looked_up(storage: Storage) -> None:
    """Do nothing: the line shows a part of the control domain that the simulator lacks (commands, log files)."""


@dataclass(frozen=True)
class Script:
    file: str
    """The name of the recording, without ``.jsonl``."""
    storage: Mapping[int, Step] = field(default_factory=dict)
    """By number: what a line did that is not a call, or what happened before a call without a line."""
    start: Step = looked_up
    """The storage before the first line."""
    unjudged: Mapping[int, str] = field(default_factory=dict)
    """Calls that are made and not compared, and why."""
    unmade: Mapping[int, str] = field(default_factory=dict)
    """Calls that are not made, and why."""
    same: Mapping[str, str] = field(default_factory=dict)
    """Names of the recording for one object: ``{"ref10": "dom0"}``."""
    meanwhile: Mapping[int, Step] = field(default_factory=dict)
    """By number: what happens before a line while calls go on, so without the pool's lock."""
    params: Mapping[int, Mapping[int, Any]] = field(default_factory=dict)
    """Arguments, by number of the call and of the argument, that replace the recorded ones."""
    free: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Fields of a record that are not compared."""
    http: Callable[[Player, Mapping[str, Any]], Iterator[str]] | None = None
    """Makes a request that is not a call, and yields the differences of the answer."""
    world: Mapping[str, Any] | str = "recorded"
    """The pool."""
    called: int = 0
    """The index of the host that is called."""


def play(script: Script) -> list[str]:
    """Replay against a new simulator; return every difference as a line of text."""
    with Simulator(world=script.world) as simulator:
        player = Player(script, simulator)
        with player.wire:
            return [difference for line in _lines(script) for difference in player.play(line)]


class Player:
    def __init__(self, script: Script, simulator: Simulator) -> None:
        self.script = script
        self.simulator = simulator
        self.symbols = Symbols()
        self.wire = xmlrpc.client.ServerProxy(simulator.urls[script.called], allow_none=True)
        host = simulator.db.refs("host")[0]
        assert self.symbols.match("$host", host)
        self._step(script.start, {})

    def play(self, line: Mapping[str, Any]) -> Iterator[str]:
        number = line["n"]
        if number in self.script.meanwhile:
            self.script.meanwhile[number](self.storage(line.get("seen", {})))
        if line["proto"] == "http":
            assert self.script.http is not None, "the script says how to make requests"
            yield from self.script.http(self, line)
            return
        method = line["method"]
        if method == "-":
            if number not in self.script.storage:
                yield f"#{number}: the script does not say what this means: {line['note']}"
                return
            yield from self._happen(number, line.get("seen", {}))
            return
        if number in self.script.storage:
            yield from self._happen(number, {})
        if number in self.script.unmade:
            return
        where = f"{self.script.file}#{number} {method} ({line.get('note', '')})"
        differences = list(self._call(line))
        if number not in self.script.unjudged:
            yield from (f"{where}: {difference}" for difference in differences)
        elif not differences:
            yield f"{where}: answered as recorded, so it needs no exception"

    def _happen(self, number: int, seen: Mapping[str, Any]) -> Iterator[str]:
        try:
            self._step(self.script.storage[number], seen)
        except AssertionError as error:
            yield f"{self.script.file}#{number}: the storage is not as it was: {error}"

    def _step(self, step: Step, seen: Mapping[str, Any]) -> None:
        with self.simulator.xapi.lock:
            step(self.storage(seen))

    def storage(self, seen: Mapping[str, Any]) -> Storage:
        return Storage(self.simulator, self.simulator.storage, self.symbols, seen)

    def _call(self, line: Mapping[str, Any]) -> Iterator[str]:
        try:
            params = self.symbols.resolve(line["params"])
            for position, value in self.script.params.get(line["n"], {}).items():
                params[position] = value if not isinstance(value, dict) else {**params[position], **value}
        except Unbound as unbound:
            yield f"no value for {unbound}"
            return
        try:
            answer: Any = getattr(self.wire, line["method"])(*params)
        except xmlrpc.client.ProtocolError as error:
            if error.errcode != line.get("http_status"):
                yield f"HTTP {error.errcode}"
            return
        succeeded = answer["Status"] == "Success"
        got = _plain(answer["Value"] if succeeded else answer["ErrorDescription"])
        if ("result" in line) != succeeded:
            expected = line["result"] if "result" in line else line["error"]
            yield f"expected {brief(expected)}, got {brief(got)}"
            return
        comparison = Comparison(self.symbols)
        if succeeded:
            expected = line["result"]
            for name in self.script.free.get(line["n"], ()):
                expected = {**expected, name: got[name]}
            found = comparison.value(expected, got, "result", shape_of(line["method"]))
        else:
            found = comparison.error(line["error"], got, "error")
        yield from map(str, found)


def _lines(script: Script) -> Iterator[dict[str, Any]]:
    for text in (RECORDINGS / f"{script.file}.jsonl").read_text(encoding="utf-8").splitlines():
        text = _DERIVED_UUID.sub(lambda found: derived_uuid(found[1]), text)
        text = _TOKEN.sub(lambda found: f"$token{found[1]}", text)
        text = _NAME.sub(lambda found: f"${script.same.get(found[1], found[1])}", text)
        yield json.loads(text)


def derived_uuid(scsi_id: str) -> str:
    """Return the uuid of the VDI of a LUN with that SCSI id."""
    return str(uuid.UUID(hashlib.md5(scsi_id.encode()).hexdigest()))


def _plain(value: Any) -> Any:
    if isinstance(value, xmlrpc.client.DateTime):
        return {"$dateTime": value.value}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
