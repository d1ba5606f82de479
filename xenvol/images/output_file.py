"""An image file gets its name when it is complete. An existing file is replaced only if the caller says so."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast

from xenvol.images.disk_image import PIECE, Piece
from xenvol.images.errors import TargetError
from xenvol.images.sources.compression import zstd_library

Compression = Literal["none", "gzip", "zstd"]
Output = str | os.PathLike[str] | BinaryIO

_GZIP_LEVEL: Final = (
    1  # the fastest: the content of a disk compresses well at any level, or is compressed already
)


@contextlib.contextmanager
def output(target: Output, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write: the open one, or a new one that is named `target` after the block.

    After an error it gets no name. Raises TargetError: for an existing file, unless `overwrite`; always for a
    device.
    """
    if not isinstance(target, (str, os.PathLike)):
        yield target
        target.flush()
        return
    path = Path(target)
    check_free(path, overwrite=overwrite)
    try:
        with _unnamed(path) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _name(file, path, overwrite=overwrite)
    except OSError as error:
        raise TargetError(str(path), problem=error.strerror or str(error)) from error


@contextlib.contextmanager
def _unnamed(path: Path) -> Iterator[BinaryIO]:
    """Give a file without a name in the same directory; the kernel removes it when it is closed, also after a kill.

    A file system without such files gets one with a temporary name.
    """
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError:  # a file system without O_TMPFILE (NFS, FAT…)
        part = _part_of(path)
        with open(part, "x+b") as file:
            try:
                yield file
            finally:
                part.unlink(missing_ok=True)
        return
    with open(descriptor, "r+b") as file:
        yield file


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _name(file: BinaryIO, path: Path, *, overwrite: bool) -> None:
    """Give the complete file its name, in one step."""
    has_name = isinstance(file.name, str)
    there = file.name if has_name else f"/proc/self/fd/{file.fileno()}"
    try:
        if not overwrite:
            _link(there, path)  # unlike a rename, it fails if the name was taken meanwhile
            return
        part = _part_of(path)
        _link(there, part)
    except FileExistsError:
        raise
    except OSError:
        if not has_name:
            raise
        if not overwrite:  # a file system without hard links: an empty file takes the name first
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        part = Path(there)
    os.replace(part, path)


def _link(there: str, path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(
            there, path.name, dst_dir_fd=directory
        )  # linkat, which follows the link in /proc; link does not
    finally:
        os.close(directory)


def check_free(target: Output, *, overwrite: bool) -> None:
    """Raise TargetError if no image can be written there."""
    if not isinstance(target, (str, os.PathLike)):
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise TargetError(str(path), problem=f"there is no directory {path.parent}")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise TargetError(str(path), problem=error.strerror or str(error)) from error
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise TargetError(str(path), problem="it exists, and is not a file")
    if not overwrite:
        raise TargetError(str(path), problem="it exists already (--overwrite replaces it)")


@contextlib.contextmanager
def compressed(file: BinaryIO, compression: Compression, *, image: str) -> Iterator[BinaryIO]:
    """Give a file that compresses into `file`. Raises MissingReader."""
    if compression == "none":
        yield file
    elif compression == "gzip":
        with gzip.GzipFile(
            fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0, filename=""
        ) as zipped:
            yield cast(BinaryIO, zipped)
    else:
        with zstd_library(image).ZstdFile(file, "wb") as zipped:
            yield cast(BinaryIO, zipped)


def is_sparse(file: BinaryIO) -> bool:
    """Return whether the file can have holes: an empty regular file, not opened for appending, without compression."""
    if not isinstance(file, (io.BufferedRandom, io.BufferedWriter, io.FileIO)):
        return False
    try:
        state = os.fstat(file.fileno())
        appends = fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
        return stat.S_ISREG(state.st_mode) and state.st_size == 0 and not appends
    except (OSError, ValueError):
        return False


def write_raw(pieces: Iterable[Piece], size: int, file: BinaryIO) -> None:
    """Write a disk of `size` bytes: with holes if the file can have them, else in order, with zeros."""
    if is_sparse(file):
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)
        file.seek(size)
        return
    position = 0
    for offset, data in pieces:
        write_zeros(offset - position, file)
        file.write(data)
        position = offset + len(data)
    write_zeros(size - position, file)


def write_zeros(size: int, file: BinaryIO) -> None:
    zeros = bytes(min(size, PIECE))
    while size > 0:
        size -= file.write(zeros[:size])
