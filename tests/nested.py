"""Runs pytest in a child process, the same way whatever the caller of the tests has set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
_OF_THE_CALLER: Final = {"BUILD_NUMBER", "CI", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"}
"""What changes what pytest prints, as do variables like PYTEST_ADDOPTS."""


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what configures pytest, and with this."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_THE_CALLER and not name.startswith("PYTEST_")
    }
    return {**kept, **more}


def command(*arguments: str | Path) -> list[str]:
    """Return a command of pytest that reads no configuration file and loads the plugins that are installed."""
    options = ["-c", os.devnull, "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *options, *map(str, arguments)]


def run_pytest(
    *arguments: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with these variables in the environment besides."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
