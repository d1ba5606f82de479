"""What the tests with nova's services share: the rules of those with Cinder's, and a table at the end of a run."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any

import pytest

from tests.cinder.conftest import pytest_configure as pytest_configure
from tests.cinder.conftest import pytest_runtest_makereport as pytest_runtest_makereport
from tests.cinder.conftest import pytest_sessionfinish as pytest_sessionfinish
from tests.cinder.conftest import pytest_unconfigure as pytest_unconfigure

_SCENARIO = "scenario"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """A test's scenario is the first line of its docstring."""
    text = inspect.getdoc(getattr(item, "function", None)) or item.name
    item.user_properties.append((_SCENARIO, text.partition("\n")[0].rstrip(".")))
    return (yield)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print each scenario with its result. One that leaves something in the pool has failed, too."""
    results: dict[str, tuple[str, str, float]] = {}
    for result in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(result, []):
            seconds = results[report.nodeid][2] if report.nodeid in results else 0.0
            scenario = dict(report.user_properties)[_SCENARIO]
            results[report.nodeid] = (scenario, result, seconds + report.duration)
    if not results:
        return
    width = max(len(scenario) for scenario, _, _ in results.values())
    terminalreporter.section("scenarios")
    for scenario, result, seconds in results.values():
        terminalreporter.write_line(f"| {scenario:{width}} | {result:7} | {seconds:5.1f} s |")
