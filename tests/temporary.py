"""All temporary files of a test run are in one directory, which the run removes when it ends.

The next run removes the directory of a run that was killed. A run holds a lock on its directory, and the kernel
releases the lock when the process ends, however it ends. So a run is dead if its lock is free. The process id alone
would not tell: another process can have it by then, and the run of another container has no process id here.

Child processes find the directory by TMPDIR: xdist's workers, xenvol's commands, and pytest itself when a test runs
it. `--basetemp` keeps what tests write to `tmp_path`, in a directory of the caller's choice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Final

import pytest

PREFIX: Final = "xenvol-tests-"
"""Then come the process id of the run, for people, and a random word."""
VARIABLE: Final = "XENVOL_TEST_DIRECTORY"
"""Tells the child processes of a run that they belong to it."""


class RunDirectory:
    """The temporary directory of this run, locked."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    def remove(self) -> None:
        _remove(self.path)
        os.close(self._lock)


def make(place: Path) -> RunDirectory:
    """Make the directory of a run, and lock it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place))
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another run has swept it, since it was not locked yet
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return RunDirectory(path, lock)
        os.close(lock)  # another run has swept it while this one waited for the lock


def sweep(place: Path) -> list[Path]:
    """Remove the directories that killed runs of this user left here, and return them."""
    removed = []
    for path in sorted(place.glob(f"{PREFIX}*")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # it is gone, no directory, or closed to this user
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path)
                removed.append(path)
        except BlockingIOError:
            pass  # its run is alive
        finally:
            os.close(lock)
    return removed


def _remove(path: Path) -> None:
    for directory, names, _ in os.walk(path):
        for name in names:  # a test may have left directories that it may not write to
            inner = os.path.join(directory, name)
            if not os.path.islink(inner):
                with contextlib.suppress(OSError):
                    os.chmod(inner, 0o700)
    # A child process of a killed run may still be writing; a later run then removes what is left.
    shutil.rmtree(path, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    if os.path.isdir(os.environ.get(VARIABLE, "")):
        return  # a worker of xdist, or pytest run by a test: the run that started it has made the directory
    place = Path(tempfile.gettempdir())
    sweep(place)
    run = make(place)
    environment = pytest.MonkeyPatch()
    environment.setenv(VARIABLE, str(run.path))
    environment.setenv("TMPDIR", str(run.path))
    environment.setattr(tempfile, "tempdir", str(run.path))  # Python asks the environment only once
    if config.option.basetemp is None:
        config.option.basetemp = str(run.path / "pytest")
    config.add_cleanup(environment.undo)
    # multiprocessing removes its own temporary directory when Python exits, with priority -100, and complains if that
    # is gone. Forked children do not run this.
    Finalize(None, run.remove, exitpriority=-1000)
