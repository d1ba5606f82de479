"""Temporary files of an import. The import removes them; the next import removes those of a killed one.

Each import has its own directory, with a mark that names the owner. The import removes it at its end. After a kill,
the next import that stages in the same place removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from xenvol.images.disk_image import PIECE, Piece, Stream, without_zeros
from xenvol.images.errors import NoRoomToStage, TargetError
from xenvol.images.sources.files import FileSource, problem_of
from xenvol.images.sources.staging_directory import StagingDirectory, sweep

__all__ = ["RESERVE", "Staged", "Staging", "sweep"]

RESERVE: Final = (
    256 << 20
)  # bytes that stay free for other programs, since a full /tmp stops more than an import
RESERVE_SHARE: Final = 20  # of a small file system a twentieth stays free, as ext4 does for root
_CHECK_EVERY: Final = 64 << 20  # bytes; a check at each piece would take longer than writing zeros


class Staged(FileSource):
    """A file that is removed when it is closed."""

    path: Path

    def close(self) -> None:
        """Close and remove the file. Idempotent."""
        super().close()
        self.path.unlink(missing_ok=True)


class Staging:
    """The staging directory of one import, below `directory` or the system's temporary directory; made when needed.

    Entering the block removes stale staging directories; leaving it removes its own. Raises TargetError if
    `directory` is not a directory. Not thread-safe.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(tempfile.gettempdir() if directory is None else directory)
        self._is_named = directory is not None
        self._own: StagingDirectory | None = None
        self._is_closed = False
        self._files = 0

    def stage(self, stream: Stream, *, reason: str, tick: Callable[[int], None] | None = None) -> FileSource:
        """Write the whole stream to a file, with holes for its zeros; `reason` ends the sentence "… are needed,
        since".

        Closing the file removes it. `tick` gets the bytes of each piece; an error from it ends the staging, and
        nothing is left. Raises NoRoomToStage, at once if the stream's length is known; TargetError, SourceError.
        """
        if stream.length is not None:
            self.check_room(stream.length, reason=reason)
        path = self.empty_file("stream")
        try:
            self._write(stream, path, reason, tick)
            return Staged(path, name=stream.name)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _write(self, stream: Stream, path: Path, reason: str, tick: Callable[[int], None] | None) -> None:
        size = 0
        unchecked = 0
        with self._written(path, reason):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            while data := stream.read(PIECE):
                if stream.length is None and unchecked >= _CHECK_EVERY:
                    self.check_room(PIECE, reason=reason)
                    unchecked = 0
                for offset, part in without_zeros([Piece(size, data)]):
                    with self._written(path, reason):
                        _pwrite(descriptor, part, offset)
                    unchecked += len(part)
                size += len(data)
                if tick is not None:
                    tick(len(data))
            with self._written(path, reason):
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _written(self, path: Path, reason: str) -> Iterator[None]:
        """Translate errors of the file system. Errors of the stream and of `tick` do not pass through here."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = self.room()
                raise NoRoomToStage(str(self.directory), needed=PIECE, free=free, reason=reason) from error
            raise TargetError(str(path), problem=problem_of(error)) from error

    def empty_file(self, name: str) -> Path:
        """Make an empty file that only we can read; its name ends in `name`. Raises TargetError."""
        own = self._own_directory()
        self._files += 1
        path = own / f"{self._files}-{os.path.basename(name)}"
        try:
            os.close(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            )
        except (OSError, ValueError) as error:
            raise TargetError(str(path), problem=problem_of(error)) from error
        return path

    def check_room(self, needed: int, *, reason: str) -> None:
        """Raise NoRoomToStage if fewer bytes are free; `reason` ends the sentence "… are needed, since". Raises
        TargetError."""
        free = self.room()
        if needed > free:
            raise NoRoomToStage(str(self.directory), needed=needed, free=free, reason=reason)

    def room(self) -> int:
        """Return the bytes that may be used; a reserve stays free. Raises TargetError."""
        try:
            state = os.statvfs(self.directory)
        except OSError as error:
            raise TargetError(str(self.directory), problem=problem_of(error)) from error
        reserve = min(RESERVE, state.f_blocks * state.f_frsize // RESERVE_SHARE)
        return max(0, state.f_bavail * state.f_frsize - reserve)

    def _own_directory(self) -> Path:
        if self._is_closed:
            raise ValueError("the staging directory is closed")
        try:
            if self._own is None:
                self._own = StagingDirectory(self.directory)
            self._own.touch()
        except (OSError, ValueError) as error:
            raise TargetError(str(self.directory), problem=problem_of(error)) from error
        return self._own.path

    def close(self) -> None:
        """Remove the directory and its files. Idempotent."""
        self._is_closed = True
        if self._own is not None:
            self._own.remove()

    def __enter__(self) -> Self:
        if self._is_named and not self.directory.is_dir():
            raise TargetError(str(self.directory), problem="no such directory")
        sweep(self.directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "unused" if self._own is None else f"{self._files} files"
        return f"<Staging {self.directory}: {state}>"


def _pwrite(descriptor: int, data: bytes, offset: int) -> None:
    done = os.pwrite(descriptor, data, offset)
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)
