"""Nothing stays in a staging directory: not what an import wrote there, and not what one that was killed did.

Each import has a directory of its own there, with a mark in it that says whose it is. It is removed when the import
ends, however it ends; where the process was killed, the next import that stages in the same place removes it.
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

RESERVE: Final = 256 << 20  # bytes that others may need: a full /tmp stops more than an import
RESERVE_SHARE: Final = 20  # of a small file system a twentieth, as ext4 keeps for root
_CHECK_EVERY: Final = 64 << 20  # bytes; asking for each piece would take longer than writing zeros


class Staged(FileSource):
    """A file that goes when it is closed."""

    path: Path

    def close(self) -> None:
        """Gives its room back; idempotent."""
        super().close()
        self.path.unlink(missing_ok=True)


class Staging:
    """One import's own directory, below `directory` or the system's for temporary files, made when first needed.

    A context manager: what dead imports left there is swept when it begins, and all of its own is gone when it ends.
    Raises TargetError where a directory was named that is none. For one thread.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = Path(tempfile.gettempdir() if directory is None else directory)
        self._is_named = directory is not None
        self._own: StagingDirectory | None = None
        self._is_closed = False
        self._files = 0

    def stage(self, stream: Stream, *, reason: str, tick: Callable[[int], None] | None = None) -> FileSource:
        """The whole stream as a file, with holes for its zeros; `reason` ends the sentence "… are needed, since".

        Closing the file gives its room back. `tick` is told the bytes of each piece; what it raises ends it, and
        nothing is left. Raises NoRoomToStage, at once where the stream says its length; TargetError, SourceError.
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
        """What the file system has against it. Neither the stream's errors nor the listener's are its own."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free = self.room()
                raise NoRoomToStage(str(self.directory), needed=PIECE, free=free, reason=reason) from error
            raise TargetError(str(path), problem=problem_of(error)) from error

    def empty_file(self, name: str) -> Path:
        """A new empty file that others cannot read; its name ends in `name`. Raises TargetError."""
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
        """For so many bytes; `reason` ends the sentence "… are needed, since". Raises NoRoomToStage, TargetError."""
        free = self.room()
        if needed > free:
            raise NoRoomToStage(str(self.directory), needed=needed, free=free, reason=reason)

    def room(self) -> int:
        """Bytes that may be taken: a reserve stays free for others. Raises TargetError."""
        try:
            state = os.statvfs(self.directory)
        except OSError as error:
            raise TargetError(str(self.directory), problem=problem_of(error)) from error
        reserve = min(RESERVE, state.f_blocks * state.f_frsize // RESERVE_SHARE)
        return max(0, state.f_bavail * state.f_frsize - reserve)

    def _own_directory(self) -> Path:
        if self._is_closed:
            raise ValueError("the staging is over")
        try:
            if self._own is None:
                self._own = StagingDirectory(self.directory)
            self._own.touch()
        except (OSError, ValueError) as error:
            raise TargetError(str(self.directory), problem=problem_of(error)) from error
        return self._own.path

    def close(self) -> None:
        """All of its files go; idempotent."""
        self._is_closed = True
        if self._own is not None:
            self._own.remove()

    def __enter__(self) -> Self:
        if self._is_named and not self.directory.is_dir():
            raise TargetError(str(self.directory), problem="there is no such directory")
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
