"""Sends the requests of recording 30 byte by byte, and compares heads, bodies, ends and tasks."""

from __future__ import annotations

import re
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from recorded_world import Player, Storage

from xenvol.simulator import Simulator
from xenvol.simulator.symbols import Symbols

MIB = 1 << 20
_STILL_OPEN = 0.3
"""Seconds without an end after which a connection counts as left open; the recorder waited for 4."""
_TASK = re.compile(r"\$(task(\d+))\b")


def chunk(offset: int, size: int = 512) -> bytes:
    return struct.pack("<QI", offset, size) + b"A" * size


END = struct.pack("<QI", 0, 0)
BODIES = {
    35: b"4\r\nAAAA\r\n0\r\n\r\n",
    38: chunk(0) + chunk(2 * MIB) + END,
    41: chunk(0) + END,
    44: chunk(0),
    47: chunk(8 * MIB) + END,
}
"""Bodies that were not just a number of A; only their length was recorded."""


def exchange(player: Player, line: Mapping[str, Any]) -> Iterator[str]:
    """Send one request; yield every difference as a line of text."""
    where = f"{player.script.file}#{line['n']} ({line['note']})"
    bind_tasks(player.simulator, player.symbols, line["request"])
    request = player.symbols.resolve(line["request"]).encode()
    body = BODIES.get(line["n"], b"A" * line["body_sent"])
    assert len(body) == line["body_sent"]
    is_half = f"Content-Length: {len(body)}\r\n" not in line["request"] and line["request"].startswith("PUT")
    may_be_reset = "Reset" in line["closed"]
    received, closed = talk(player.simulator, request, body, half_closes=is_half, patience=_patience(line))
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if len(lines) != len(line["response_head"]) or not all(
        player.symbols.match(expected, got)
        for expected, got in zip(line["response_head"], lines, strict=True)
    ):
        yield f"{where}: expected {line['response_head']}, got {lines}"
    if line["n"] not in player.script.unjudged:
        yield from _body(where, line, rest)
    if not may_be_reset and closed != line["closed"].startswith("by server"):
        yield f"{where}: expected {line['closed']}, got {'closed' if closed else 'left open'}"
    if "task" in line:
        yield from (f"{where}: {difference}" for difference in _task(player, line))


def _body(where: str, line: Mapping[str, Any], rest: bytes) -> Iterator[str]:
    if len(rest) != line["body_len"]:
        yield f"{where}: expected {line['body_len']} bytes, got {len(rest)}: {rest[:300]!r}"
    start = line["body_start"]
    expected_start = (
        bytes.fromhex(start) if re.fullmatch("([0-9a-f]{2})+", start) else start.encode("latin-1")
    )
    if not rest.startswith(expected_start):
        yield f"{where}: expected {expected_start!r}, got {rest[: len(expected_start)]!r}"


def _patience(line: Mapping[str, Any]) -> float:
    return _STILL_OPEN if "timed out" in line["closed"] else 30.0


def talk(
    simulator: Simulator, request: bytes, body: bytes, *, half_closes: bool = False, patience: float = 30.0
) -> tuple[bytes, bool]:
    """Return the answer, and True if the server closed the connection."""
    with connect(simulator) as connection:
        try:
            connection.sendall(request + body)
            if half_closes:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the server did not read all of it
        connection.settimeout(patience)
        received = bytearray()
        try:
            while data := connection.recv(MIB):
                received += data
        except TimeoutError:
            return bytes(received), False
        except OSError:
            pass
        return bytes(received), True


def connect(simulator: Simulator) -> socket.socket:
    url = urllib.parse.urlsplit(simulator.url)
    return socket.create_connection((url.hostname, url.port), timeout=30)


def bind_tasks(simulator: Simulator, symbols: Symbols, text: str) -> None:
    """Make the tasks of a request, as calls did that were not recorded."""
    for name, number in _TASK.findall(text):
        if name not in symbols:
            with simulator.xapi.lock:
                task = simulator._do("task.create", f"t{number}", "")
            assert symbols.match(f"${name}", task)


def _task(player: Player, line: Mapping[str, Any]) -> Iterator[str]:
    (name,) = {name for name, _ in _TASK.findall(line["request"])}
    record = player.simulator.db.record("task", player.symbols.resolve(f"${name}"))
    for field, expected in line["task"].items():
        got = record[field]
        same = (
            player.symbols.match(expected, got)
            if isinstance(expected, str)
            else len(expected) == len(got) and all(map(player.symbols.match, expected, got))
            if isinstance(expected, list)
            else expected == got
        )
        if not same:
            yield f"task.{field}: expected {expected!r}, got {got!r}"


class Upload:
    """A PUT that has begun and does not continue, until its client closes the connection."""

    def __init__(self) -> None:
        self.connection: socket.socket | None = None

    def begin(self, storage: Storage) -> None:
        head = storage.seen["head"]
        bind_tasks(storage.simulator, storage.symbols, head)
        query = storage.symbols.resolve("session_id=$session&vdi=$vdi_a&task_id=$task43")
        self.connection = connect(storage.simulator)
        start = (
            f"PUT /import_raw_vdi?{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {4 * MIB}\r\n\r\n"
        )
        self.connection.sendall(start.encode() + b"A" * MIB)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += self.connection.recv(4096)
        assert storage.symbols.match(head, received.decode())
        wait_for(lambda: len(storage.simulator.db.children(vdi(storage), "VBDs")) == 2)

    def end(self, storage: Storage) -> None:
        assert self.connection is not None
        self.connection.close()
        task = storage.symbols.resolve("$task43")
        wait_for(lambda: storage.simulator.db.row("task", task)["status"] != "pending")


def vdi(storage: Storage) -> str:
    return str(storage.symbols.resolve("$vdi_a"))


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.01)
