"""Cinder's own checks of drivers, run on ours as Cinder's authors run them on theirs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cinder.processes import LIMIT

PROGRAM = """
import unittest
import xenvol.cinder
from cinder.tests.compliance import test_volume_drivers
print("drivers:", test_volume_drivers.VOLUME_DRIVERS)
unittest.main(module=test_volume_drivers, argv=["compliance", "--verbose"])
"""


def test_cinders_compliance_checks_find_the_driver_and_pass_it(tmp_path: Path) -> None:
    """In a process of their own, since they change how Python's threads work."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "drivers: [xenvol.cinder.XenSMDriver]\n"
    assert re.search(r"test_volume_driver_compliance_1 .*\n?.*ok\n(.*\n)*Ran 2 tests", done.stderr), (
        done.stderr
    )
