"""Replay recordings of a real xapi against simulators, and report where the answers differ.

A recording is a file of JSON lines, one call each; tests/data/recordings/README.md has the format. Every file
gets a fresh pool in the recorded initial state.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenvol.simulator.comparison import ABSENT, Comparison, Difference, brief
from xenvol.simulator.shapes import shape_of
from xenvol.simulator.simulator import Simulator
from xenvol.simulator.symbols import Symbols, Unbound
from xenvol.simulator.wire import KINDS, Answer, Caller, body_parts

DEFAULT_VERSION = "24.16.0"
_RELEASES = {"24": "24.16.0", "25": "25.33.1"}
"""The recorded releases, by the first number in file names."""
_AWAIT_SECONDS = 180.0
"""Longer than any recorded task took."""
_NEEDS_SKIPPED = "needs an object of a skipped call"


@dataclass(frozen=True, slots=True)
class Divergence:
    """One answer that differs from the recorded one."""

    file: str
    n: int
    method: str
    note: str
    expected: Any
    got: Any
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        lines = [
            f"{self.file} #{self.n} {self.method}{note}",
            f"  expected {brief(self.expected, 400)}",
            f"  got      {brief(self.got, 400)}",
        ]
        if len(self.differences) > 1 or self.differences[0].path:
            lines += [f"    {difference}" for difference in self.differences[:20]]
            if len(self.differences) > 20:
                lines.append(f"    and {len(self.differences) - 20} more")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "n": self.n,
            "method": self.method,
            "note": self.note,
            "expected": self.expected,
            "got": self.got,
            "differences": [
                {"path": found.path, "expected": found.expected, "got": found.got}
                for found in self.differences
            ],
        }


@dataclass
class Result:
    """The outcome of one or several recordings."""

    calls: int = 0
    """The number of judged calls."""
    divergences: list[Divergence] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Calls that were not judged, by reason."""

    def __str__(self) -> str:
        return f"{self.calls} calls, {len(self.divergences)} divergences, {self.skipped.total()} skipped"

    def add(self, other: Result) -> None:
        self.calls += other.calls
        self.divergences += other.divergences
        self.skipped += other.skipped

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "skipped": self.skipped.total(),
            "skip_reasons": dict(self.skipped),
            "divergences": [divergence.as_json() for divergence in self.divergences],
        }


def version_of(path: Path) -> str:
    """Return the release in a recording's path (``v25.33.1/…``, ``v24-walk-1.jsonl``), else the default."""
    for part in reversed(path.parts):
        if exact := re.fullmatch(r"v(\d+\.\d+\.\d+)", part):
            return exact[1]
        if (year := re.match(r"v(\d\d)\b", part)) and year[1] in _RELEASES:
            return _RELEASES[year[1]]
    return DEFAULT_VERSION


def replay_file(path: Path, *, version: str | None = None, extra_fields_ok: bool = False) -> Result:
    """Replay one recording against a fresh simulator; OSError or ValueError if the file is not a recording."""
    lines = list(read(path))
    with Simulator(version or version_of(path), world="recorded") as xapi:
        player = Player(Caller(xapi.url), str(path), extra_fields_ok=extra_fields_ok)
        for line in lines:
            player.play(line)
        return player.result


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a recording; ValueError names an invalid line."""
    with path.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(line, dict) or "method" not in line or "n" not in line:
                raise ValueError(f"{path}:{number}: a line of a recording is a map with n, proto and method")
            yield line


class Player:
    """Replays the lines of one recording, in order, against one server."""

    def __init__(self, caller: Caller, name: str, *, extra_fields_ok: bool = False) -> None:
        self.result = Result()
        self._caller = caller
        self._name = name
        self._extra_fields_ok = extra_fields_ok
        self._symbols = Symbols()
        self._orphans: set[str] = set()
        """Names whose values only the answers of skipped calls would give."""

    def play(self, line: dict[str, Any]) -> None:
        """Make one call and judge its answer, if the line asks for that."""
        if "skip" in line:
            self.result.skipped[line["skip"]] += 1
            if line.get("send"):
                self._attempt(line)
            else:
                answers = [line[kind] for kind in KINDS if kind in line]
                self._orphans |= self._symbols.unbound(answers)
                if "await" in line:  # later calls may rely on it
                    with contextlib.suppress(Unbound):
                        session, task = map(self._symbols.resolve, (line["params"][0], line["await"]))
                        self._await(line["proto"], session, task)
            return
        try:
            expected, got, differences = self._attempt(line)
        except _Orphaned:
            self.result.skipped[_NEEDS_SKIPPED] += 1
            return
        self.result.calls += 1
        if differences:
            self.result.divergences.append(
                Divergence(
                    self._name,
                    line["n"],
                    line["method"],
                    line.get("note", ""),
                    expected,
                    got,
                    tuple(differences),
                )
            )

    def _attempt(self, line: dict[str, Any]) -> tuple[Any, Any, list[Difference]]:
        """Make a call, and return (expected, got, differences); raises _Orphaned."""
        time.sleep(line.get("delay", 0))
        act = self._http if line["proto"] == "http" else self._call
        try:
            return act(line)
        except Unbound as unbound:
            if unbound.names <= self._orphans:
                raise _Orphaned from unbound
            expected = line.get("response") or _recorded(line).as_json()
            return expected, None, [Difference("params", f"a value for {unbound}", ABSENT)]

    def _call(self, line: dict[str, Any]) -> tuple[Any, Any, list[Difference]]:
        protocol, method = line["proto"], line["method"]
        params = self._symbols.resolve(line["params"])
        if "await" in line:
            self._await(protocol, params[0], self._symbols.resolve(line["await"]))
        got, expected = self._caller.call(protocol, method, params), _recorded(line)
        return (
            expected.as_json(),
            got.as_json(),
            self._judge(method, expected, got, line.get("ordered", False)),
        )

    def _http(self, line: dict[str, Any]) -> tuple[Any, Any, list[Difference]]:
        request, response = line["request"], line["response"]
        body = self._symbols.resolve(request["body"]).encode(request.get("charset", "utf-8"))
        try:
            status, data = self._caller.http(request["verb"], request["path"], body, request["headers"])
        except OSError as error:
            return response, repr(error), [Difference("", response, repr(error))]
        got = {"status": status, **body_parts(data)}
        rest = {key: value for key, value in got.items() if key != "rpc"}
        wanted = {key: value for key, value in response.items() if key != "rpc"}
        differences = Comparison(self._symbols).value(wanted, rest, "response")
        if ("rpc" in got) != ("rpc" in response):
            differences.append(Difference("rpc", response.get("rpc", ABSENT), got.get("rpc", ABSENT)))
        elif "rpc" in got:
            differences += self._judge(line["method"], Answer(*response["rpc"]), Answer(*got["rpc"]), False)
        return response, got, differences

    def _judge(self, method: str, expected: Answer, got: Answer, ordered: bool) -> list[Difference]:
        if expected.kind != got.kind:
            return [Difference("", expected.as_json(), got.as_json())]
        comparison = Comparison(self._symbols, extra_fields_ok=self._extra_fields_ok, ordered=ordered)
        if expected.kind == "fault":  # the fault's text is the client library's
            return []
        if expected.kind == "error":
            return comparison.error(expected.value, got.value, "error")
        return comparison.value(expected.value, got.value, "result", shape_of(method))

    def _await(self, protocol: str, session: str, task: str) -> None:
        deadline = time.monotonic() + _AWAIT_SECONDS
        while time.monotonic() < deadline:
            status = self._caller.call(protocol, "task.get_status", [session, task])
            if status.kind != "result" or status.value not in ("pending", "cancelling"):
                return
            time.sleep(0.02)


class _Orphaned(Exception):
    """The call is about objects that only a skipped call would have made."""


def _recorded(line: dict[str, Any]) -> Answer:
    kind = next(kind for kind in KINDS if kind in line)
    return Answer(kind, line[kind])


def replay(
    files: Iterable[Path],
    *,
    version: str | None = None,
    extra_fields_ok: bool = False,
    report: Callable[[Divergence], None] = lambda divergence: None,
) -> Result:
    """Replay several recordings, each against a fresh simulator."""
    total = Result()
    for path in files:
        found = replay_file(path, version=version, extra_fields_ok=extra_fields_ok)
        for divergence in found.divergences:
            report(divergence)
        total.add(found)
    return total
