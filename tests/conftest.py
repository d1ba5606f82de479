"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.needs", "tests.temporary", "tests.durations"]

settings.register_profile(
    "xenvol",
    deadline=None,  # machines are shared: a slow example is no failure
)
settings.load_profile("xenvol")
