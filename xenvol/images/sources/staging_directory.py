"""A directory that says whose it is, so that whoever comes later knows what a killed process has left, and only that.

Whose it is stands in a mark inside, which its process keeps locked as long as it lives. A directory is removed only
where its mark is right, it and the mark are ours, nobody has it locked, and its process is dead: seen to be, on this
host, or else after `MAX_AGE`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

MAX_AGE: Final = (
    24 * 3600.0
)  # seconds; longer than an import takes, and each file that is begun starts it anew
PREFIX: Final = "xenvol-staging-"
MARK: Final = ".xenvol-staging"
_NAME: Final = re.compile(re.escape(PREFIX) + r"[0-9]+-[0-9a-f]{16}")
_MARK_SIZE: Final = 4096  # bytes, at most; a host's name has 255
_PROC: Final = Path("/proc")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """A process: numbers come back, but not with the same start on the same host."""

    host: str
    """What `_host` says; its name alone where that is not known."""
    pid: int
    started: str
    """When, in clock ticks since the host's start; empty where the system does not say it."""

    @classmethod
    def this(cls) -> Owner:
        host = _host()
        return cls(socket.gethostname() if host is None else host, os.getpid(), _started(os.getpid()) or "")

    @classmethod
    def parse(cls, text: bytes) -> Owner:
        """Raises ValueError for what this module has not written."""
        try:
            value = json.loads(text)
        except RecursionError as error:
            raise ValueError("no mark of a staging directory") from error
        match value:
            case {"host": str(host), "pid": int(pid), "started": str(started)} if (
                len(value) == 3 and 0 < pid < 1 << 31
            ):
                return cls(host, pid, started)
        raise ValueError("no mark of a staging directory")

    def is_here(self) -> bool:
        """Whether it can be seen if it lives; where this host is not known, nobody can."""
        host = _host()
        return host is not None and self.host == host

    def is_alive(self) -> bool:
        """Asked only of one that `is_here`."""
        return _started(self.pid) == self.started


class StagingDirectory:
    """A new directory below `parent` that none but us can enter, with our mark in it. Raises OSError.

    It goes with `remove`, or with the process, if that ends in an orderly way; else it is for `sweep` to find.
    """

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self.path.mkdir(mode=0o700)
        self._mark = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._mark = os.open(self.path / MARK, flags, 0o600)
            _lock(self._mark)  # before it says anything: what can be read is locked, or its owner is dead
            os.write(self._mark, json.dumps(asdict(Owner.this())).encode())
        except BaseException:
            _remove(self.path, self._mark, os.getpid())
            raise
        self.remove: Callable[[], Any] = weakref.finalize(self, _remove, self.path, self._mark, os.getpid())
        """Idempotent; raises nothing."""

    def touch(self) -> None:
        """It is still in use, whatever hosts that cannot see the process think."""
        os.utime(self._mark)

    def __repr__(self) -> str:
        return f"<StagingDirectory {self.path}>"


def _remove(path: Path, mark: int, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork's end is not the end of the import
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("%s could not be removed", path)
    if mark >= 0:
        os.close(mark)  # and with it the lock: until then nobody else removes it


def sweep(directory: Path, *, now: Callable[[], float] = time.time) -> list[Path]:
    """Remove what dead imports left in `directory`, and say what that was. Idempotent; raises nothing of the system's.

    No symbolic link is followed, below `directory`.
    """
    removed: list[Path] = []
    try:
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return removed
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
        for name in sorted(names):
            try:
                if _sweep_one(parent, name, now()):
                    removed.append(directory / name)
                    log.info("removed %s, which an import that was killed had left", directory / name)
            except OSError as error:
                log.debug("%s stays: %s", directory / name, error)
    except OSError as error:
        log.debug("%s was not swept: %s", directory, error)
    finally:
        os.close(parent)
    return removed


def _sweep_one(parent: int, name: str, now: float) -> bool:
    directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        state = os.fstat(directory)
        if state.st_uid != os.geteuid():
            return False
        if not os.listdir(directory):  # killed before it could say whose it is
            if now - state.st_mtime <= MAX_AGE:
                return False
            os.rmdir(name, dir_fd=parent)
            return True
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        mark = os.open(MARK, flags, dir_fd=directory)
        try:
            if not _is_left(mark, now):
                return False
            for entry in sorted(
                os.listdir(directory), key=MARK.__eq__
            ):  # the mark last: until then, it is known
                if stat.S_ISDIR(os.stat(entry, dir_fd=directory, follow_symlinks=False).st_mode):
                    shutil.rmtree(entry, dir_fd=directory)
                else:
                    os.unlink(entry, dir_fd=directory)
            os.rmdir(name, dir_fd=parent)
            return True
        finally:
            os.close(mark)
    finally:
        os.close(directory)


def _is_left(mark: int, now: float) -> bool:
    state = os.fstat(mark)
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
        return False
    try:
        owner = Owner.parse(os.pread(mark, _MARK_SIZE, 0))
    except ValueError:
        return False
    if not _lock(mark):
        return False
    return not owner.is_alive() if owner.is_here() else now - state.st_mtime > MAX_AGE


def _lock(descriptor: int) -> bool:
    """False where another has it; where the file system knows no locks, nobody has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _host() -> str | None:
    """Where process numbers mean the same: a name, the namespace of the numbers, and the host's start.

    Containers share a name; hosts do too, and the first namespace has one number on all of them; the start's id is of
    one host alone (random(4)). None of a system that does not say all of it.
    """
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
        boot = (_PROC / "sys/kernel/random/boot_id").read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return None
    return f"{socket.gethostname()} {namespace} {boot}" if boot else None


def _started(pid: int) -> str | None:
    """None of a process that is not there, or is no more than waiting to be forgotten."""
    try:
        fields = (
            (_PROC / f"{pid}/stat").read_bytes().rpartition(b")")[2].split()
        )  # proc(5); a name may hold spaces
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
