"""What a killed run of these tests leaves is ended and removed by the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cinder import runs
from tests.cinder.processes import LIMIT, wait_for

BEGIN = """
import subprocess, sys, time
from tests.cinder import runs
directory = runs.begin()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9999)"], start_new_session=True)
print(directory, child.pid, flush=True)
time.sleep(9999)
"""


@contextmanager
def a_run(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A process that began a run, its directory, and a process of that run in a session of its own."""
    env = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN], env=env, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        directory, child = process.stdout.readline().split()
        try:
            yield process, Path(directory), int(child)
        finally:
            process.kill()
            process.wait(LIMIT)
            runs.sweep(temporary)


def has_ended(process_id: int) -> bool | None:
    return runs._start_time(process_id) is None or None


def test_a_run_that_goes_on_keeps_its_directory_and_its_processes(tmp_path: Path) -> None:
    with a_run(tmp_path) as (_, directory, child):
        runs.sweep(tmp_path)
        assert directory.exists()
        assert not has_ended(child)


def test_a_killed_run_loses_its_directory_and_its_processes(tmp_path: Path) -> None:
    with a_run(tmp_path) as (process, directory, child):
        process.kill()
        process.wait(LIMIT)
        assert directory.exists()
        assert not has_ended(child)
        runs.sweep(tmp_path)
        assert not directory.exists()
        wait_for("the process to end", lambda: has_ended(child))


def test_a_process_with_the_number_of_a_killed_run_does_not_keep_its_directory(tmp_path: Path) -> None:
    """The start time in the name is not that of this process."""
    left = tmp_path / f"xenvol-cinder-{os.getpid()}-1-x"
    left.mkdir()
    runs.sweep(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("name", ["xenvol-cinder", "xenvol-cinder-mine", "other"])
def test_a_directory_of_another_name_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    runs.sweep(tmp_path)
    assert (tmp_path / name).exists()
