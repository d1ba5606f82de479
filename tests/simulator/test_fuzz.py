"""After any calls in any order the pool is consistent, and event.from reports everything that changed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from invariants import stale, violations
from walker import Step, Walker

VERSIONS = ("24.16.0", "25.33.1")
STEPS = 200

REFRESHED = {
    "SR": ("SR.introduce", "SR.create", "SR.scan"),
    "VDI": ("VDI.create", "VDI.introduce", "VDI.snapshot"),
    "VBD": ("VBD.create", "VBD.plug", "VBD.unplug", "VBD.unplug_force", "VBD.insert", "VBD.eject"),
    "VM": (
        *("VM.create", "VM.start", "VM.pause", "VM.unpause", "VM.clean_shutdown", "VM.hard_shutdown"),
        *("VM.clean_reboot", "VM.hard_reboot", "VM.suspend", "VM.resume", "VM.snapshot", "VM.clone"),
    ),
}
"""Messages after which xapi has just computed what the object allows: the result's object, or the first parameter."""
POWER = (
    "start",
    "pause",
    "unpause",
    "clean_shutdown",
    "hard_shutdown",
    "clean_reboot",
    "hard_reboot",
    "suspend",
)
"""Messages of a VM after which this holds for the VM and its devices."""


class Mirror:
    """A copy of all records that is updated by events alone, as a client keeps one."""

    def __init__(self, walker: Walker) -> None:
        self._walker = walker
        self._token = ""
        self.records: dict[tuple[str, str], Any] = {}
        self.surprises: list[str] = []
        """Impossible events: an object added twice, or changed before it was added.

        A deletion before an addition is possible: xapi forgets that an object is new as soon as a token is
        younger than the object, and then reports its deletion (db_cache_types.ml, fold_over_deleted; trace
        08#20).
        """

    def follow(self) -> None:
        batch = self._walker.call("event.from", ["*"], self._token, 0.0).result
        for event in batch["events"]:
            key = event["class"], event["ref"]
            if event["operation"] == ("add" if key in self.records else "mod"):
                self.surprises.append(f"{event['operation']} of {key}")
            if event["operation"] == "del":
                self.records.pop(key, None)
            else:
                self.records[key] = _unordered(event["snapshot"])
        self._token = batch["token"]

    def differences(self) -> list[str]:
        """Return where the copy differs from get_all_records."""
        actual = _all_records(self._walker)
        keys = {
            key for key in actual.keys() | self.records.keys() if actual.get(key) != self.records.get(key)
        }
        return sorted(map(str, keys)) + self.surprises


def _all_records(walker: Walker) -> dict[tuple[str, str], Any]:
    from_events = walker.call("event.from", ["*"], "", 0.0).result["events"]
    records = {(event["class"], event["ref"]): _unordered(event["snapshot"]) for event in from_events}
    for cls in ("SR", "PBD", "VDI", "VBD", "VM", "task"):
        listed = walker.call(f"{cls}.get_all_records").result
        assert {ref: records[cls.lower(), ref] for ref in listed} == _unordered(listed)
    return records


def _unordered(value: Any) -> Any:
    """Return the value with sorted lists: they are sets, whose order means nothing and makes no event."""
    match value:
        case list():
            return sorted(value)
        case dict():
            return {key: _unordered(item) for key, item in value.items()}
    return value


def _stale(walker: Walker, step: Step) -> str:
    """Return stale allowed_operations of the object of a successful call, if xapi should have just computed them."""
    if step.error:
        return ""
    xapi, db = walker.xapi, walker.db
    named = [ref for ref in (step.result, *step.params[:1]) if isinstance(ref, str)]
    fresh = [(cls, ref) for cls, messages in REFRESHED.items() if step.message in messages for ref in named]
    if step.message.removeprefix("VM.") in POWER:
        slots = db.children(step.params[0], "VBDs")
        fresh += [("VBD", vbd) for vbd in slots]
        fresh += [("VDI", db.row("VBD", vbd)["VDI"]) for vbd in slots]
    return " ".join(stale(xapi, cls, ref) for cls, ref in fresh if db.exists(cls, ref)).strip()


def walk(version: str, seed: int, steps: int, caplog: pytest.LogCaptureFixture) -> None:
    with Walker(version, seed) as walker:
        mirror = Mirror(walker)
        mirror.follow()
        for number in range(steps):
            step = walker.step()
            where = f"walk {version} {seed}, step {number}: {step}"
            bugs = [record for record in caplog.records if record.levelno >= logging.ERROR]
            assert not bugs, f"{where}: {caplog.text}"
            assert violations(walker.xapi) == [], where
            assert _stale(walker, step) == "", where
            mirror.follow()
            if number % 10 == 0 or number == steps - 1:
                assert mirror.differences() == [], where


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_walk_leaves_the_pool_sound(version: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    walk(version, seed, STEPS, caplog)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("first", range(100, 200, 25))
def test_many_walks_leave_the_pool_sound(version: str, first: int, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(first, first + 25):
        walk(version, seed, STEPS, caplog)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_seed_is_a_walk(version: str) -> None:
    def story() -> list[tuple[str, str]]:
        with Walker(version, 7) as walker:
            steps = [walker.step() for _ in range(60)]
        return [(step.method, step.error[0] if step.error else "") for step in steps]

    assert story() == story()
