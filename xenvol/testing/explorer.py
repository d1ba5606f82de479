"""Two clients on one pool, in every order of their calls that a few switches between them make.

    report = explorer.explore(xapi, begin, Client("attach", attach), Client("detach", detach), preemptions=2)
    print(report)
    assert report.violations == []

The simulator holds each call until it is released, and a schedule says which client's call is next. The first
client runs until it is done, or until its call waits in the pool for the other client. A *preemption*
switches to the other client although the first one could continue. All schedules with up to a given number of
preemptions are run, and a seeded sample of those with more. Most faults of this kind need one or two.

Each schedule starts from the pool that `begin` built (`Simulator.restore`). It is right if the clients'
outcomes and the pool are those of one client after the other, in either order. A client may also give up,
with a `XenVolError` that is marked as worth repeating (`is_transient`) and is not a bare code of `RAW`: then
the pool must be as if that client had not begun, and the same call again must succeed. Everything else is a
violation.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import xenvol
from xenvol.errors import XapiError, XenVolError
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.hooks import Incoming
from xenvol.simulator.journal import plain_name
from xenvol.testing.likeness import Changes, Likeness, differences

PATIENCE = 60.0
"""Seconds without progress of either client after which a schedule is stuck; long, because machines may be busy."""
MOST_STEPS = 400
"""Calls of one schedule; more is a livelock."""
FAIRNESS = 60
"""Calls of one client in a row, after which the other one runs: a client may poll until the other has moved."""
SLOW = ("PBD.plug", "PBD.unplug", "VBD.plug", "VBD.unplug")
"""Calls in which the storage takes long: the other client also acts while they are under way."""
RAW = frozenset(
    {
        *("HANDLE_INVALID", "UUID_INVALID", "MAP_DUPLICATE_KEY", "SR_UUID_EXISTS", "PBD_EXISTS"),
        *("SR_HAS_NO_PBDS", "SR_HAS_PBD", "VDI_IN_USE", "DEVICE_ALREADY_EXISTS", "DEVICE_ALREADY_ATTACHED"),
        *("OPERATION_NOT_ALLOWED", "VM_BAD_POWER_STATE", "OTHER_OPERATION_IN_PROGRESS", "INTERNAL_ERROR"),
    }
)
"""Codes by which xapi reports that another client was faster.

A caller cannot know that from the code alone.
"""
_POLL_SECONDS = 0.001
"""Seconds between two checks of a call that is in the pool."""


@dataclass(frozen=True)
class Client:
    """One of the two clients, with a session of its own. It makes one call at a time."""

    name: str
    run: Callable[[Session], object]


@dataclass(frozen=True, order=True)
class Schedule:
    """Which client starts (0 or 1), and the steps before which to switch to the other one."""

    start: int
    preemptions: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"Schedule({self.start}, {self.preemptions})"


@dataclass(frozen=True)
class Step:
    """A call that was released, before it was served or from its storage driver."""

    client: int
    call: str
    is_choice: bool
    """True if the other client could have been next as well."""


@dataclass(frozen=True)
class Run:
    """One schedule and its outcome."""

    schedule: Schedule
    steps: tuple[Step, ...]
    errors: tuple[BaseException | None, BaseException | None]
    state: Likeness = field(repr=False)
    waits: tuple[str, ...]
    """The calls that had to wait for a conflicting operation: on a real pool each may wait for 20 s."""
    stuck: str = ""
    """Why the schedule was ended early."""

    def as_text(self, names: Sequence[str]) -> str:
        """Return the calls in their order, one per line, and how the clients ended."""
        lines = [f"  {names[step.client]}: {step.call}" for step in self.steps]
        for name, error in zip(names, self.errors, strict=True):
            lines.append(f"  {name} {'succeeded' if error is None else f'raised {_described(error)}'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Violation:
    """A schedule whose end is not that of one client after the other; prints as its calls and outcomes."""

    run: Run
    what: str
    names: tuple[str, str]

    def __str__(self) -> str:
        return f"{self.what}, at {self.run.schedule}:\n{self.run.as_text(self.names)}"


@dataclass
class Report:
    """The result of an exploration."""

    names: tuple[str, str]
    seed: int
    schedules: int = 0
    gave_up: int = 0
    """Schedules in which a client gave up with an error that is worth repeating."""
    waited: int = 0
    """Schedules in which a call waited for a conflicting operation."""
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{' x '.join(self.names)}: {self.schedules} schedules, {len(self.violations)} violations"
        return "\n".join([head, *map(str, self.violations)])


def table(rows: Iterable[tuple[str, str, Report]]) -> str:
    """Return a Markdown table of pair, driver and report of each exploration."""
    lines = [
        "| pair | driver | schedules | gave up, worth repeating | with a wait | violations |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for pair, driver, report in rows:
        numbers = (report.schedules, report.gave_up, report.waited, len(report.violations))
        lines.append(f"| {pair} | {driver} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def explore(
    xapi: Simulator,
    begin: Callable[[], object],
    first: Client,
    second: Client,
    *,
    preemptions: int = 1,
    sample: int = 0,
    seed: int = 0,
    slow: Collection[str] = SLOW,
    check: Callable[[], object] = lambda: None,
    ignore: Iterable[str] = (),
    may_wait: bool = True,
) -> Report:
    """Run every schedule with up to `preemptions` switches, and `sample` random ones with more.

    `begin` builds the pool; it is called once. `check` is called after each schedule, and its assertions must
    hold for every order. `ignore` has patterns of what does not matter at the end, as in
    `xenvol.testing.likeness.IGNORED`. With `slow=()` every call is done at once. With `may_wait=False` a call
    that waits for a conflicting operation is a violation.
    """
    begin()
    with Explorer(xapi, (first, second), slow=slow, ignore=ignore) as explorer:
        report = Report(explorer.names, seed)
        judge = _Judge(explorer)
        for run in _runs(explorer, preemptions, sample, random.Random(seed)):
            report.schedules += 1
            report.waited += bool(run.waits)
            waited = "" if may_wait or not run.waits else f"the pool made a call wait: {'; '.join(run.waits)}"
            what = judge.violation(run) or _failed(check) or waited
            if what:
                report.violations.append(Violation(run, what, explorer.names))
            else:
                report.gave_up += judge.gave_up(run)
    return report


class Explorer:
    """The current pool, and two clients with a session each; `run` runs one schedule of them."""

    def __init__(
        self,
        xapi: Simulator,
        clients: tuple[Client, Client],
        *,
        slow: Collection[str] = SLOW,
        ignore: Iterable[str] = (),
    ) -> None:
        self.xapi = xapi
        self.clients = clients
        self.names = (clients[0].name, clients[1].name)
        self._slow = frozenset(slow)
        self._sessions = [xenvol.connect(xapi.url, xapi.user, xapi.password) for _ in clients]
        self._kept = xapi.checkpoint()
        self._changes = Changes(xapi.snapshot(), ignore=ignore)

    def __enter__(self) -> Explorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.xapi.restore(self._kept)
        for session in self._sessions:
            session.close()

    def __repr__(self) -> str:
        return f"<Explorer of {' and '.join(self.names)} on {self.xapi!r}>"

    def state(self) -> Likeness:
        """Return the changes of the pool since the beginning."""
        return self._changes.until(self.xapi.snapshot())

    def alone(self, *order: int) -> tuple[list[BaseException | None], Likeness]:
        """Run these clients one after the other, from the beginning, without any other client."""
        self.xapi.restore(self._kept)
        errors = [self.again(client) for client in order]
        return errors, self.state()

    def again(self, client: int) -> BaseException | None:
        """Run one client in the current pool, and return its error."""
        return _error_of(self.clients[client].run, self._sessions[client])

    def run(self, schedule: Schedule, *, switches: Callable[[], bool] = lambda: False) -> Run:
        """Run one schedule from the beginning; `switches` may ask for further preemptions."""
        self.xapi.restore(self._kept)
        gate = _Gate(self.xapi, [session.handle for session in self._sessions], self._slow)
        errors: list[BaseException | None] = [None, None]

        def work(client: int) -> None:
            try:
                errors[client] = _error_of(self.clients[client].run, self._sessions[client])
            finally:
                gate.finished(client)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(2)]
        self.xapi.gate = gate
        try:
            for thread in threads:
                thread.start()
            steps, taken, stuck = _conduct(gate, schedule, switches)
        finally:
            gate.open()
            for thread in threads:
                thread.join(PATIENCE)
            self.xapi.gate = None
        waits = tuple(str(entry) for entry in self.xapi.journal.waits())
        ended = errors[0], errors[1]
        return Run(Schedule(schedule.start, taken), tuple(steps), ended, self.state(), waits, stuck)


def _conduct(
    gate: _Gate, schedule: Schedule, switches: Callable[[], bool]
) -> tuple[list[Step], tuple[int, ...], str]:
    """Release the calls as the schedule says; return the steps, the preemptions, and why it was ended early."""
    current, in_a_row = schedule.start, 0
    steps: list[Step] = []
    taken: list[int] = []
    while ready := gate.ready():
        other = 1 - current
        is_choice = len(ready) == 2
        if current not in ready:
            current, in_a_row = other, 0
        elif is_choice and (len(steps) in schedule.preemptions or (steps and switches())):
            taken.append(len(steps))
            current, in_a_row = other, 0
        elif is_choice and in_a_row >= FAIRNESS:
            current, in_a_row = other, 0
        if len(steps) >= MOST_STEPS:
            return steps, tuple(taken), f"not finished after {MOST_STEPS} calls"
        steps.append(Step(current, gate.release(current), is_choice))
        in_a_row += 1
    return steps, tuple(taken), gate.stuck


def _runs(explorer: Explorer, preemptions: int, sample: int, chance: random.Random) -> Iterator[Run]:
    """Run all schedules, those with fewer preemptions first; each run shows where one more is possible."""
    level = [Schedule(0), Schedule(1)]
    seen = set()
    for left in range(preemptions, -1, -1):
        following: list[Schedule] = []
        for schedule in level:
            run = explorer.run(schedule)
            seen.add(run.schedule)
            yield run
            if left:
                following += _with_one_more(run)
        level = following
    for _ in range(sample):
        run = explorer.run(Schedule(chance.randrange(2)), switches=lambda: chance.random() < 0.3)
        if run.schedule not in seen:
            seen.add(run.schedule)
            yield run


def _with_one_more(run: Run) -> Iterator[Schedule]:
    """Yield the schedules that begin like this run and switch once more, later."""
    taken = run.schedule.preemptions
    begin = taken[-1] + 1 if taken else 1
    for n in range(begin, len(run.steps)):
        if run.steps[n].is_choice:
            yield Schedule(run.schedule.start, (*taken, n))


class _Judge:
    def __init__(self, explorer: Explorer) -> None:
        self._explorer = explorer
        self._serial = []
        for order in ((0, 1), (1, 0)):
            errors, state = explorer.alone(*order)
            by_client = tuple(errors[order.index(client)] for client in (0, 1))
            self._serial.append(([_kind(error) for error in by_client], state))
        self._untouched = explorer.alone()[1]
        self._alone = [explorer.alone(client)[1] for client in (0, 1)]

    def gave_up(self, run: Run) -> bool:
        return any(error is not None for error in run.errors) and not self._is_serial(run)

    def violation(self, run: Run) -> str:
        """Return what is wrong with the run; empty if nothing is."""
        if run.stuck:
            return run.stuck
        if self._is_serial(run):
            return ""
        failed = [client for client, error in enumerate(run.errors) if error is not None]
        if not failed:
            return f"both succeeded, and the pool is as after neither order{self._nearest(run.state)}"
        for client in failed:
            name, error = self._explorer.names[client], run.errors[client]
            if not isinstance(error, XenVolError):
                return f"{name} raised an error that is not xenvol's: {_described(error)}"
            if isinstance(error, XapiError) and error.code in RAW:
                return f"{name} raised xapi's bare error for a conflict, not an error of its own: {_described(error)}"
            if not getattr(error, "is_transient", False):
                return f"{name} raised an error that is not marked as worth repeating: {_described(error)}"
        return self._after_giving_up(run, failed)

    def _after_giving_up(self, run: Run, failed: list[int]) -> str:
        expected = self._untouched if len(failed) == 2 else self._alone[1 - failed[0]]
        if run.state != expected:
            left = "\n".join(f"  {line}" for line in differences(expected, run.state))
            names = " and ".join(self._explorer.names[client] for client in failed)
            return f"{names} gave up, and left the pool changed:\n{left}\n"
        errors = list(run.errors)
        for client in failed:  # the pool is still that of the run
            errors[client] = self._explorer.again(client)
        state = self._explorer.state()
        if not any([_kind(error) for error in errors] == kinds and state == s for kinds, s in self._serial):
            ends = ", ".join(_described(errors[client]) for client in failed)
            return (
                f"the same call again did not complete after a client gave up ({ends}){self._nearest(state)}"
            )
        return ""

    def _is_serial(self, run: Run) -> bool:
        kinds = [_kind(error) for error in run.errors]
        return any(kinds == expected and run.state == state for expected, state in self._serial)

    def _nearest(self, found: Likeness) -> str:
        """Return the differences from the closest serial order."""
        texts = [differences(state, found) for _, state in self._serial]
        return ":\n" + "\n".join(f"  {line}" for line in min(texts, key=len)) + "\n"


class _Place:
    """Where a client is: in its own code, before a call, in the pool, in a storage driver, or done."""

    def __init__(self) -> None:
        self.where = "outside"
        self.call: Incoming | None = None
        self.may_go = False


class _Gate:
    """Holds the calls of two sessions; calls of other sessions pass."""

    def __init__(self, xapi: Simulator, handles: Sequence[str], slow: Collection[str]) -> None:
        self._xapi = xapi
        self._clients = {handle: n for n, handle in enumerate(handles)}
        self._slow = slow
        self._places = [_Place() for _ in handles]
        self._is_open = False
        self._changed = threading.Condition()
        """Never held while asking for the pool's lock:

        `in_storage` has the pool's lock and asks for this one.
        """
        self.stuck = ""

    # ---- for the simulator

    def enter(self, call: Incoming) -> None:
        if (place := self._place_of(call)) is not None:
            with self._changed:
                self._hold(place, "before", call)
                while not (place.may_go or self._is_open):
                    self._changed.wait()
                place.where, place.may_go = "pool", False

    def in_storage(self, call: Incoming, sleep: Callable[[float], None]) -> None:
        if plain_name(call.method) not in self._slow or (place := self._place_of(call)) is None:
            return
        with self._changed:
            if place.call is not call:
                return  # an Async call, which was answered before its work began
            self._hold(place, "storage", call)
        while not (place.may_go or self._is_open or self._xapi.xapi.is_closed):
            sleep(_POLL_SECONDS)
        with self._changed:
            place.where, place.may_go = "pool", False

    def left(self, call: Incoming) -> None:
        if (place := self._place_of(call)) is not None:
            self._move(place, "outside")

    def _place_of(self, call: Incoming) -> _Place | None:
        client = self._clients.get(call.session or "")
        return None if client is None else self._places[client]

    def _hold(self, place: _Place, where: str, call: Incoming) -> None:
        place.where, place.call, place.may_go = where, call, False
        self._changed.notify_all()

    def _move(self, place: _Place, where: str) -> None:
        with self._changed:
            place.where, place.call = where, None
            self._changed.notify_all()

    # ---- for the explorer

    def finished(self, client: int) -> None:
        self._move(self._places[client], "done")

    def open(self) -> None:
        """Stop holding calls."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def release(self, client: int) -> str:
        """Release the held call, and return its name."""
        place = self._places[client]
        with self._changed:
            assert place.call is not None
            name = place.call.method + (" ends" if place.where == "storage" else "")
            place.may_go = True
            place.where = "pool"
            self._changed.notify_all()
        return name

    def ready(self) -> list[int]:
        """Return the clients whose calls are held, once the other one cannot move; none when both are done."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._changed:
                places = [(place.where, place.call) for place in self._places]
                held = [n for n, (where, _) in enumerate(places) if where in ("before", "storage")]
                if all(where == "done" for where, _ in places):
                    return []
            moving = [call for where, call in places if where in ("outside", "pool") if not self._waits(call)]
            if held and not moving and [(p.where, p.call) for p in self._places] == places:
                return held
            if time.monotonic() > deadline:
                self.stuck = f"neither client moved for {PATIENCE:.0f} seconds: {places}"
                return []
            with self._changed:
                if [(place.where, place.call) for place in self._places] == places:
                    self._changed.wait(_POLL_SECONDS if any(where == "pool" for where, _ in places) else 1)

    def _waits(self, call: Incoming | None) -> bool:
        """Return True if the call waits in the pool for something that only the other client can do."""
        if call is None:
            return False
        entry = self._xapi.journal.entry(call.number)
        with self._xapi.xapi.lock:
            return entry is not None and entry.is_waiting


def _error_of(run: Callable[[Session], object], session: Session) -> BaseException | None:
    try:
        run(session)
    except Exception as error:  # noqa: BLE001  # every error is judged
        return error
    return None


def _kind(error: BaseException | None) -> Any:
    """Return what makes two errors equal: the class, and xapi's code."""
    return None if error is None else (type(error), getattr(error, "code", None))


def _described(error: BaseException | None) -> str:
    return "nothing" if error is None else f"{type(error).__name__}: {error}"


def _failed(check: Callable[[], object]) -> str:
    try:
        check()
    except AssertionError as failed:
        return f"the caller's check failed: {failed}"
    return ""
