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

_GRACE = 5  # seconds from SIGTERM to SIGKILL; Cinder's own graceful shutdown would take up to 60
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


class Process:
    """One service."""

    def __init__(self, name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,  # its children are ended with it
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def said(self, pattern: str) -> str | None:
        """What the group of the pattern matched in its output so far."""
        found = re.search(pattern, self.log.read_text(errors="replace"))
        return None if found is None else found[1]

    def check_alive(self) -> None:
        assert self._process.poll() is None, f"{self.name} ended with status {self._process.returncode}"

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        """As a crash would: nobody gets to tidy up."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whatever its children still do
        self._process.wait()


@contextmanager
def running(name: str, command: Sequence[str | Path], log: Path, **env: str) -> Iterator[Process]:
    process = Process(name, command, log, env)
    try:
        yield process
    finally:
        process.stop()


def path_with_sudo(directory: Path) -> str:
    """A PATH with a `sudo` that runs what `cinder-rootwrap` would, as whoever asks, and with Cinder's programs."""
    directory.mkdir(exist_ok=True)
    program = directory / "sudo"
    program.write_text('#!/bin/sh\n[ "$1" = cinder-rootwrap ] && shift 2\nexec "$@"\n')
    program.chmod(0o755)
    return f"{directory}:{Path(sys.executable).parent}:{os.environ['PATH']}"


def wait_for(
    what: str, find: Callable[[], T | None], *, alive: Sequence[Process] = (), seconds: float = 30
) -> T:
    """What `find` gives once it gives something; AssertionError after so long, or when a process ended."""
    deadline = time.monotonic() + seconds
    while (found := find()) is None:
        for process in alive:
            process.check_alive()
        assert time.monotonic() < deadline, f"waited {seconds:g} seconds for {what}"
        time.sleep(0.1)
    return found
