"""What the tests with a real Cinder share: a skip is a failure under CI, and a run that is ended cleans up."""

from __future__ import annotations

import signal
import types
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.cinder import runs
from tests.needs import pytest_sessionfinish as pytest_sessionfinish  # under CI a skip is a failure

_run = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)  # before pytest decides where temporary directories lie
def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM unwinds like Ctrl-C: databases, queues and services of a run that CI gives up on are taken down."""
    is_worker = hasattr(config, "workerinput")

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        if not is_worker and config.getoption("numprocesses"):
            runs.terminate_children()  # pytest-xdist would let a worker go on for 10 seconds, and then kill it
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if is_worker:
        runs.end_with_parent()
    else:
        config.stash[_run] = runs.begin()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _run in config.stash:
        runs.end(config.stash[_run])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed shows how the log of every service ends."""
    report = yield
    services = getattr(item, "funcargs", {}).get("started")
    if report.failed and services is not None:
        report.sections.append((f"logs of the services, {call.when}", services.tails()))
    return report
