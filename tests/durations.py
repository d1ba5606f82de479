"""`--measure`: what each test, file and directory costs, in seconds of CPU and of time, and in swept calls.

CPU is that of all threads, and of the child processes that have ended. `make test-durations` runs all tests so.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Any, Final

import pytest

PROPERTY: Final = "xenvol-cost"
_OUTPUT: Final = "xenvol-cpu"


@dataclass(frozen=True)
class Cost:
    """What one test costs, or several together."""

    tests: int = 0
    cpu: float = 0.0
    """Seconds."""
    wall: float = 0.0
    """Seconds."""
    struck: int = 0
    """Calls that a fault sweep struck."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        return f"{self.tests:7} {self.cpu:9.1f} {self.wall:9.1f} {self.struck:8}"


HEADING: Final = f"{'tests':>7} {'CPU s':>9} {'time s':>9} {'struck':>8}"


class Meter:
    """Measures each test in the process that runs it, and sends the cost with the test's last report."""

    def __init__(self) -> None:
        self.struck = 0
        self._began = Cost()

    def now(self) -> Cost:
        return Cost(0, cpu_of(os.times()), time.perf_counter(), self.struck)

    def count_strikes(self, patch: pytest.MonkeyPatch) -> None:
        """Count the cases of `xenvol.testing.sweep`: each is one struck call."""
        from xenvol.testing.sweep import Case  # only if measuring: the import is a cost, too

        initialise = Case.__init__

        def count(case: Case[Any], *args: Any, **kwargs: Any) -> None:
            self.struck += 1
            initialise(case, *args, **kwargs)

        patch.setattr(Case, "__init__", count)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        self._began = self.now()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.when == "teardown":
            began, now = self._began, self.now()
            cost = [1, now.cpu - began.cpu, now.wall - began.wall, now.struck - began.struck]
            is_slow = item.get_closest_marker("slow") is not None
            report.user_properties.append((PROPERTY, [is_slow, *cost]))
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_OUTPUT] = cpu_of(os.times())


class Ledger:
    """Adds up the costs of all tests, in the process that prints."""

    def __init__(self, shown: int, *, is_xdist: bool) -> None:
        self._shown = shown
        self._is_xdist = is_xdist
        self._tests: dict[str, Cost] = {}
        self._is_slow: dict[str, bool] = {}
        self._workers = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == PROPERTY and isinstance(value, list):
                is_slow, *cost = value
                self._tests[report.nodeid] = Cost(*cost)
                self._is_slow[report.nodeid] = is_slow

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._workers += getattr(node, "workeroutput", {}).get(_OUTPUT, 0.0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("what the tests cost")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> Iterator[str]:
        times = os.times()
        # Workers report their own CPU, and xdist may not have waited for them yet.
        used = times.user + times.system + self._workers if self._is_xdist else cpu_of(times)
        total = sum(self._tests.values(), Cost())
        slow = sum((cost for name, cost in self._tests.items() if self._is_slow[name]), Cost())
        yield HEADING
        yield f"{total}  all tests"
        yield f"{slow}  of these: marked as slow"
        yield f"{'':7} {used - total.cpu:9.1f} {'':9} {'':8}  beside the tests: imports, collection, reports"
        directories: dict[str, Cost] = defaultdict(Cost)
        files: dict[str, Cost] = defaultdict(Cost)
        for name, cost in self._tests.items():
            file = name.partition("::")[0]
            files[file] += cost
            directories[(os.path.dirname(file) or ".") + "/"] += cost
        yield ""
        yield "directories"
        yield from (f"{cost}  {name}" for name, cost in sorted(directories.items()))
        yield ""
        yield f"slowest {self._shown} files, by CPU"
        yield from slowest(files.items(), self._shown)
        yield ""
        yield f"slowest {self._shown} tests, by CPU"
        yield from slowest(self._tests.items(), self._shown)


def cpu_of(times: os.times_result) -> float:
    return times.user + times.system + times.children_user + times.children_system


def slowest(costs: Iterable[tuple[str, Cost]], count: int) -> Iterator[str]:
    ordered = sorted(costs, key=lambda item: item[1].cpu, reverse=True)
    return (f"{cost}  {name}" for name, cost in ordered[:count])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("xenvol's own tests").addoption(
        "--measure",
        metavar="N",
        nargs="?",
        type=int,
        const=30,
        help="list what directories and the N slowest files and tests cost in CPU, time and swept calls",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.option.measure is None:
        return
    is_worker = hasattr(config, "workerinput")
    is_xdist = not is_worker and bool(getattr(config.option, "tx", None))
    if not is_xdist:
        meter, patch = Meter(), pytest.MonkeyPatch()
        meter.count_strikes(patch)
        config.add_cleanup(patch.undo)
        config.pluginmanager.register(meter)
    if not is_worker:
        config.pluginmanager.register(Ledger(config.option.measure, is_xdist=is_xdist))
