"""A rule answers or refuses any call: no call breaks a rule, and none leaves the database inconsistent."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest

from xenvol.simulator import Simulator
from xenvol.simulator.datamodel import Message
from xenvol.simulator.dispatch import dispatch
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import RULES
from xenvol.simulator.values import Date, Wire

CALLS = 6000
WORDS = (
    "", "x", "0", "3", "15", "-1", "xvda", "hdc", "autodetect", "dummy", "flaky", "lvm", "user", "iso", "k",
    "11111111-1111-4111-8111-111111111111", "order", "type", "true", "é😀", " x ", 'field "uuid" = "x"',
)  # fmt: skip  # one list
NUMBERS = (0, 1, -1, 5, 4096, 1 << 30, 2**63 - 1, -(2**63), "7", "0x10", "1_000")
WRONG = (None, 5, True, 1.5, "x", [], {}, ["x"], {"k": "v"})
RARE = 0.04
"""The fraction of values that have a wrong type."""


class Caller:
    """Makes random calls about the existing objects."""

    def __init__(self, simulator: Simulator, seed: int) -> None:
        self.random = random.Random(seed)
        self.simulator = simulator
        self.xapi = simulator.xapi
        self.model = self.xapi.model
        self.messages = [
            message
            for cls in self.model.classes.values()
            for message in cls.messages.values()
            if cls.name not in ("session", "event", "host", "pool") and self.is_of_interest(message)
        ]

    def is_of_interest(self, message: Message) -> bool:
        return not message.intra_pool_only and (message.full_name in RULES or self.random.random() < 0.1)

    def furnish(self) -> None:
        """Make sure that there are objects to call about."""
        db = self.xapi.db
        if db.count("VDI") < 4:
            sr = self.simulator.add_sr(f"sr {db.stamp}", type=self.random.choice(["dummy", "flaky"]))
            self.simulator.add_vdis(sr, 4)
        if db.count("VM") < 4:
            state = self.random.choice(["Running", "Halted", "Paused"])
            vm = self.simulator.add_vm(
                f"vm {db.stamp}", kind=self.random.choice(["pv", "hvm"]), power_state=state
            )
            if state == "Halted":
                with contextlib.suppress(Failure):  # the disk may be read-only by now
                    self.simulator.add_vbd(vm, self.random.choice(db.refs("VDI")))

    def value(self, kind: str) -> Wire:
        if self.random.random() < RARE:
            return self.random.choice(WRONG)
        head, _, last = kind.rpartition(" ")
        match last:
            case "ref":
                refs = self.xapi.db.refs(head) if head in self.model.classes else []
                known = refs and self.random.random() < 0.9
                return self.random.choice(refs if known else [NULL, "rubbish", *self.xapi.db.refs("VM")])
            case "set":
                return [self.value(head) for _ in range(self.random.randrange(3))]
            case "map":
                key, item = head[1:-1].split(" -> ", 1)
                return {str(self.value(key)): self.value(item) for _ in range(self.random.randrange(3))}
            case "record":
                return self.record(head)
            case "option":
                return self.value(head)
        if head == "enum":
            return self.random.choice(self.model.enums[last])
        choices: dict[str, tuple[Wire, ...]] = {
            "bool": (True, False),
            "int": NUMBERS,
            "float": (0.0, 1.0, -1.0, 0.1, "2.5", 3),
            "datetime": (Date("20200101T00:00:00Z"), "20200101T00:00:00Z"),
        }
        return self.random.choice(choices.get(kind, WORDS))

    def record(self, cls: str) -> dict[str, Wire]:
        fields = self.model.classes[cls].constructor.values()
        return {f.name: self.value(f.type) for f in fields if not f.has_default or self.random.random() < 0.6}

    def call(self, session: str) -> tuple[str, list[Wire]]:
        message = self.random.choice(self.messages)
        params = [self.value(p.type) for p in message.params if p.required or self.random.random() < 0.7]
        return message.full_name, [session, *params]


class Broken(logging.Handler):
    """Collects the rules that the dispatcher reports as broken."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reports.append(f"{record.getMessage()}: {record.exc_info[1]!r}" if record.exc_info else "")


@pytest.fixture
def broken() -> Iterator[Broken]:
    handler = Broken()
    logger = logging.getLogger("xenvol.simulator")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.mark.parametrize("version", ["24.16.0", "25.33.1"])
@pytest.mark.parametrize("seed", [1, 2])
def test_no_call_breaks_a_rule(version: str, seed: int, broken: Broken) -> None:
    with Simulator(version=version) as simulator:
        caller = Caller(simulator, seed)
        xapi = simulator.xapi
        login = ("session.login_with_password", ["root", "secret"])
        session = dispatch(xapi, xapi.master, *login)
        xapi.close()  # ends all waits: a VM may have a shutdown delay of years
        answered = 0
        for _ in range(CALLS):
            caller.furnish()
            method, params = caller.call(session)
            with contextlib.suppress(Failure):
                dispatch(xapi, xapi.master, method, params)
                answered += 1
            assert not broken.reports, (method, params, broken.reports)
        assert answered > CALLS / 5
        assert_whole(simulator)


def assert_whole(simulator: Simulator) -> None:
    """Check that every index agrees with the rows."""
    db: Any = simulator.db
    for (cls, uuid), ref in db._by_uuid.items():
        assert db.row(cls, ref)["uuid"].lower() == uuid
    for (cls, field, value), refs in db._by_value.items():
        assert refs
        assert all(db.row(cls, ref)[field] == value for ref in refs)
    for child, field, parent, _ in db.model.relations:
        if child not in db.model.classes or field not in db.model.classes[child].fields:
            continue
        for ref in db.refs(child):
            target = db.row(child, ref)[field]
            for one in target if isinstance(target, list) else [target]:
                if db.exists(parent, one):
                    assert ref in db.children(one, db._parent_sets[child, field][1])
