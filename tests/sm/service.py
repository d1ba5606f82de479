"""One of several services with the same pool and database: a process that works at random until it is killed.

It writes what it is about to do, and the result, to a file of its own, a line at a time. The file outlives it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xenvol
from xenvol.errors import XenVolError
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.sm import Database, StorageManager
from xenvol.sm.records import Volume

MIB = 1 << 20
SHARED = [f"shared-{number}" for number in range(5)]
SIZES = (8 * MIB, 16 * MIB)


@dataclass(frozen=True)
class Event:
    """One operation of one service, as in its file."""

    operation: str
    volume_id: str
    began: float
    ended: float | None
    """By the clock that all processes of the machine share; None if it was killed during the operation."""
    outcome: str
    """``ok``, the class of the error, or ``killed``."""
    vdi_uuid: str | None = None
    text: str = ""


class Ledger:
    """What a service writes before and after each operation."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, *values: Any) -> None:
        os.write(self._fd, (json.dumps([time.monotonic(), *values]) + "\n").encode())


def events_of(path: Path) -> Iterator[Event]:
    begun: tuple[float, str, str] | None = None
    for line in path.read_text().splitlines() if path.exists() else []:
        at, what, *values = json.loads(line)
        if what == "begin":
            begun = (at, *values)
        elif begun is not None:
            began, operation, volume_id = begun
            outcome, vdi_uuid, text = values
            yield Event(operation, volume_id, began, at, outcome, vdi_uuid, text)
            begun = None
    if begun is not None:
        yield Event(begun[1], begun[2], begun[0], None, "killed")


@dataclass(frozen=True)
class Place:
    """The pool, the database and the file of a service."""

    url: str
    user: str
    password: str
    database_url: str


class Service:
    def __init__(self, place: Place, ledger: Path, seed: int) -> None:
        logging.disable(logging.CRITICAL)
        self.random = random.Random(seed)
        self.ledger = Ledger(ledger)
        session = Session(xenvol.connect(place.url, place.user, place.password), sleep=lambda seconds: None)
        self.manager = StorageManager(session, Database(place.database_url))
        self.own = [f"own-{seed}-{number}" for number in range(3)]

    def do(self, operation: str, volume_id: str, work: Callable[[], object]) -> None:
        self.ledger.write("begin", operation, volume_id)
        outcome, vdi_uuid, text = "ok", None, ""
        try:
            result = work()
            if isinstance(result, Volume):
                assert result.state == "available"
                vdi_uuid = result.vdi_uuid
        except XenVolError as error:
            outcome, text = type(error).__name__, str(error)
        except Exception:  # noqa: BLE001  # told to the test, which fails
            outcome, text = "bug", traceback.format_exc()
        self.ledger.write("end", outcome, vdi_uuid, text)

    def work(self) -> None:
        while True:
            volume_id = self.random.choice(SHARED if self.random.random() < 0.6 else self.own)
            operation, weight = zip(*_OPERATIONS.items(), strict=True)
            (chosen,) = self.random.choices(operation, weight)
            getattr(self, chosen)(volume_id)

    # ---- operations

    def create(self, volume_id: str) -> None:
        size = SIZES[0] if self.random.random() < 0.9 else SIZES[1]
        self.do("create", volume_id, lambda: self.manager.create_volume(volume_id, "gold", size))

    def delete(self, volume_id: str) -> None:
        victim = self.random.choice([volume_id, f"{volume_id}-snapshot", f"{volume_id}-clone"])
        self.do("delete", victim, lambda: self.manager.delete_volume(victim))

    def snapshot(self, volume_id: str) -> None:
        copy_id = f"{volume_id}-snapshot"
        self.do("create", copy_id, lambda: self.manager.create_snapshot(copy_id, volume_id))

    def clone(self, volume_id: str) -> None:
        copy_id = f"{volume_id}-clone"
        source_id = self.random.choice([volume_id, f"{volume_id}-snapshot"])
        size = self.random.choice([None, None, 32 * MIB])
        self.do("create", copy_id, lambda: self.manager.clone_volume(copy_id, source_id, size=size))

    def extend(self, volume_id: str) -> None:
        self.do("extend", volume_id, lambda: self.manager.extend_volume(volume_id, 24 * MIB))

    def set_up(self, volume_id: str) -> None:
        self.do("set_up", "", self.manager.do_setup)

    def audit(self, volume_id: str) -> None:
        """Run an audit beside services that work."""
        self.do("audit", "", lambda: self.manager.audit(repair=True))


_OPERATIONS = {"create": 30, "delete": 25, "snapshot": 15, "clone": 15, "extend": 8, "set_up": 2, "audit": 3}


def run(place: Place, ledger: str, seed: int) -> None:
    """The process of a service, which ends by being killed."""
    Service(place, Path(ledger), seed).work()


def register(
    place: Place, ledger: str, seed: int, config: dict[str, str], chap_password: str, at: float
) -> None:
    """The process that registers a backend at that moment, as seven others do, and ends."""
    service = Service(place, Path(ledger), seed)
    given: dict[str, str | Secret] = {**config, "chappassword": Secret(chap_password)}
    time.sleep(max(0.0, at - time.monotonic()))
    device = config["SCSIid"]
    service.do(
        "register",
        "",
        lambda: service.manager.add_backend("gold", "lvmoiscsi", given, format_device=device),
    )
