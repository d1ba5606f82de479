"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from xenvol.pool import waiting

pytest_plugins = ["tests.needs", "tests.temporary", "tests.durations"]

FOR_TESTS = ("XENVOL_TEST_", "XENVOL_SEED", "XENVOL_WRITE_DOCS")
"""How the variables begin that are for the tests. Others of xenvol name the caller's own pool, for instance."""
FOR_TERMINALS = {"COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "PYTHONWARNINGS"}
"""Change what commands print, and so what tests read."""

SLOW_TIMEOUT = 600
"""Seconds. The slowest takes 40 on an idle machine, and some times that on a busy one."""

settings.register_profile(
    "xenvol",
    deadline=None,  # machines are shared: a slow example is no failure
    # Nor is slow generation. Before its first example hypothesis also reads all of xenvol for constants, which takes 2
    # seconds of CPU in a fresh clone.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("xenvol")


GARBAGE = 50_000
"""Objects made before Python looks for garbage in cycles; 700 unless told. Pools are many small objects that live long,
and looking took 7 % of the CPU of a sweep."""


def pytest_sessionstart() -> None:
    """Forget what the caller has set for itself: pytest has read it by now, and tests set what they need."""
    gc.set_threshold(GARBAGE)
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a shell's background job, and so would be our commands
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name in FOR_TERMINALS or (name.startswith("XENVOL_") and not name.startswith(FOR_TESTS)):
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture
def impatient() -> Iterator[None]:
    """An attempt counts as dead at once, where nobody else is at work."""
    with waiting.grace():
        yield
