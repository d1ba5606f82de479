"""A staging directory names its owner, so that another import can tell which ones are stale.

The directory holds a mark with its owner. The owner's process locks the mark as long as it lives. A directory is
stale, and removed, if its mark is valid, our user owns both, no process holds the lock, and the owner is dead. On
this host xenvol sees that; of another host's owner it assumes it after `MAX_AGE`.
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

MAX_AGE: Final = 24 * 3600.0  # seconds; longer than an import takes. Each new file starts it anew
PREFIX: Final = "xenvol-staging-"
MARK: Final = ".xenvol-staging"
_NAME: Final = re.compile(re.escape(PREFIX) + r"[0-9]+-[0-9a-f]{16}")
_MARK_SIZE: Final = 4096  # bytes, at most; a host name has 255
_PROC: Final = Path("/proc")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """A process. The system reuses process numbers, but not with the same start time on the same host."""

    host: str
    """The result of `_host`; the host name alone if that is None."""
    pid: int
    started: str
    """Clock ticks from the host's start to the process's; empty if the system does not tell."""

    @classmethod
    def this(cls) -> Owner:
        host = _host()
        return cls(socket.gethostname() if host is None else host, os.getpid(), _started(os.getpid()) or "")

    @classmethod
    def parse(cls, text: bytes) -> Owner:
        """Return the owner in a mark. Raises ValueError if this module did not write it."""
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
        """Return whether the owner ran on this host, so that `is_alive` can tell."""
        host = _host()
        return host is not None and self.host == host

    def is_alive(self) -> bool:
        """Return whether the process lives. Valid only if `is_here`."""
        return _started(self.pid) == self.started


class StagingDirectory:
    """A new directory below `parent` that only our user can enter, with our mark in it. Raises OSError.

    `remove` removes it, and so does an orderly end of the process. After a kill, `sweep` finds it.
    """

    def __init__(self, parent: Path) -> None:
        self.path = parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        self.path.mkdir(mode=0o700)
        self._mark = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._mark = os.open(self.path / MARK, flags, 0o600)
            _lock(self._mark)  # locked before it has content: a readable mark without a lock has a dead owner
            os.write(self._mark, json.dumps(asdict(Owner.this())).encode())
        except BaseException:
            _remove(self.path, self._mark, os.getpid())
            raise
        self.remove: Callable[[], Any] = weakref.finalize(self, _remove, self.path, self._mark, os.getpid())
        """Remove the directory. Idempotent; raises nothing."""

    def touch(self) -> None:
        """Renew the age of the mark, for hosts that cannot see the process."""
        os.utime(self._mark)

    def __repr__(self) -> str:
        return f"<StagingDirectory {self.path}>"


def _remove(path: Path, mark: int, pid: int) -> None:
    if os.getpid() != pid:
        return  # a fork ends, and the import goes on
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("%s could not be removed", path)
    if mark >= 0:
        os.close(mark)  # releases the lock; until then no other process removes the directory


def sweep(directory: Path, *, now: Callable[[], float] = time.time) -> list[Path]:
    """Remove stale staging directories in `directory`, and return them. Idempotent; raises no OSError.

    Follows no symbolic link below `directory`.
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
                    log.info("removed %s, which a killed import left", directory / name)
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
        if not os.listdir(directory):  # killed before it wrote its mark
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
            ):  # the mark last, since without it the directory would not be recognised
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
    """Return False if another process holds the lock. A file system without locks never holds one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _host() -> str | None:
    """Return what a process number belongs to: the host name, the namespace of the numbers, and the host's start.

    Hosts and containers may share a name, and the first namespace has one number on all hosts; the boot id is unique
    (random(4)). None if the system does not tell all three.
    """
    try:
        namespace = os.readlink(_PROC / "self/ns/pid")
        boot = (_PROC / "sys/kernel/random/boot_id").read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return None
    return f"{socket.gethostname()} {namespace} {boot}" if boot else None


def _started(pid: int) -> str | None:
    """Return when the process started; None if it is gone, or a zombie."""
    try:
        fields = (
            (_PROC / f"{pid}/stat").read_bytes().rpartition(b")")[2].split()
        )  # proc(5); the name of a program may hold spaces
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()
