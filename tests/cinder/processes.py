"""Processes of a run: their output in files, ended with the run, also when that is killed."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LIMIT = 600
"""Seconds until a test gives up on an event that takes some seconds on an idle machine."""
_GRACE = 5  # seconds from SIGTERM to SIGKILL, for a process that removes its own files
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


class Process:
    """One service."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._is_ended = False
        with log.open("ab") as output:
            self._begin = output.tell()  # an earlier process may have written to the same file
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,  # its children are ended with it
                preexec_fn=lambda: set_death_signal(signal.SIGKILL),
            )

    def said(self, pattern: str) -> str | None:
        """What the group of the pattern matched in the output of this process so far."""
        with self.log.open("rb") as output:
            output.seek(self._begin)
            found = re.search(pattern, output.read().decode(errors="replace"))
        return None if found is None else found[1]

    def check_alive(self) -> None:
        assert self._process.poll() is None, f"{self.name} ended with status {self._process.returncode}"

    def wait(self) -> int:
        return self._process.wait(LIMIT)

    def kill(self) -> None:
        """End the process and its children as a crash does: no process cleans up. Idempotent."""
        if self._is_ended:  # other processes may have its number by now
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._is_ended = True

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self.kill()  # its children, which may still run


@contextmanager
def running(name: str, command: Sequence[str | Path], log: Path, **env: str) -> Iterator[Process]:
    process = Process(name, command, log, env)
    try:
        yield process
    finally:
        process.stop()


def set_death_signal(number: signal.Signals) -> None:
    """Have the kernel send this signal to this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number)


def path_with_sudo(directory: Path) -> str:
    """A PATH with a `sudo` that runs what `cinder-rootwrap` would, as whoever asks, and with Cinder's programs."""
    directory.mkdir(exist_ok=True)
    program = directory / "sudo"
    program.write_text('#!/bin/sh\n[ "$1" = cinder-rootwrap ] && shift 2\nexec "$@"\n')
    program.chmod(0o755)
    return f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def wait_for(
    what: str, find: Callable[[], T | None], *, alive: Sequence[Process] = (), pause: float = 0.05
) -> T:
    """Return what `find` returns, once that is not None. AssertionError after `LIMIT`, or when a process ended."""
    deadline = time.monotonic() + LIMIT
    while (found := find()) is None:
        for process in alive:
            process.check_alive()
        assert time.monotonic() < deadline, f"waited {LIMIT:g} seconds for {what}"
        time.sleep(pause)
    return found
