"""What the tests of images share: qemu-img, which made the images that are read here, or reads what was written."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def qemu_img() -> Callable[..., str]:
    """Runs ``qemu-img`` with these arguments, and gives what it prints. Under CI it must be there."""
    program = shutil.which("qemu-img")
    if program is None:
        assert "CI" not in os.environ, "qemu-img is missing; on Debian: apt-get install qemu-utils"
        pytest.skip(
            "qemu-img is missing, so there is nothing to compare with; on Debian: apt-get install qemu-utils"
        )

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
