"""A run and what it may leave: one directory for its files, and a name that each of its processes carries.

The directory's name holds the process id and the start time of pytest, so that the next run can tell a run that
still goes on from one that was killed. Every process of a run inherits `VARIABLE`, also one in a session of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from tests.cinder.processes import set_death_signal

VARIABLE = "XENVOL_CINDER_RUN"
"""Names the run's directory in the environment of all its processes."""
_PREFIX = "xenvol-cinder-"
_NAME = re.compile(rf"{_PREFIX}(\d+)-(\d+)-")


def begin() -> Path:
    """Sweep what dead runs left, and make this run's directory, in which all temporary files of it are from now on."""
    temporary = Path(tempfile.gettempdir())
    sweep(temporary)
    me = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{me}-{_start_time(me)}-", dir=temporary))
    os.environ[VARIABLE] = str(directory)
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    return directory


def end(directory: Path) -> None:
    """Idempotent."""
    shutil.rmtree(directory, ignore_errors=True)


def terminate_children() -> None:
    """Send SIGTERM to the processes that the main thread of this one has started."""
    me = os.getpid()
    for process_id in Path(f"/proc/{me}/task/{me}/children").read_text().split():
        os.kill(int(process_id), signal.SIGTERM)


def end_with_parent() -> None:
    """Have this process receive SIGTERM when its parent ends, even if the parent is killed."""
    set_death_signal(signal.SIGTERM)


def sweep(temporary: Path) -> None:
    """End the processes of every run whose pytest is dead, then remove their directories."""
    for process_id in _processes():
        _end_if_orphan(process_id)
    for directory in temporary.glob(f"{_PREFIX}*"):
        if _is_dead(directory.name):
            end(directory)


def _end_if_orphan(process_id: int) -> None:
    """The descriptor stands for this one process, so a new process with the same number is safe."""
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return
    try:
        if _is_dead(Path(_run_of(process_id)).name):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _run_of(process_id: int) -> str:
    """The directory of the run to which a process belongs; empty for a process of no run, or of another user."""
    try:
        environment = Path(f"/proc/{process_id}/environ").read_bytes()
    except OSError:
        return ""
    found = re.search(rb"(?:^|\0)" + VARIABLE.encode() + rb"=([^\0]*)", environment)
    return "" if found is None else os.fsdecode(found[1])


def _is_dead(name: str) -> bool:
    """Whether this is the name of a run, and its pytest has ended. A process that is a zombie has ended."""
    found = _NAME.match(name)
    return found is not None and _start_time(int(found[1])) != int(found[2])


def _start_time(process_id: int) -> int | None:
    """In clock ticks since the machine booted (proc(5), field 22 of stat); None if the process has ended."""
    try:
        text = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(") ")[2].split()
    return None if state in ("Z", "X") else int(fields[18])
