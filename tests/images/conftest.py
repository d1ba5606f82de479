"""What the tests of images share: qemu-img, which made the images that are read here, or reads what was written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests import needs


@pytest.fixture(scope="session")
def qemu_img() -> Callable[..., str]:
    """Runs ``qemu-img`` with these arguments, and gives what it prints."""
    program = needs.program("qemu-img")

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
