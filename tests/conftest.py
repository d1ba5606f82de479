"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.needs", "tests.temporary", "tests.durations"]

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
