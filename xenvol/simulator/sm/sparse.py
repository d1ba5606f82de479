"""Sparse files: find their data, and copy them with their holes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_PIECE = 1 << 20  # bytes


def data_ranges(file: BinaryIO, size: int, *, begin: int = 0) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each stretch between `begin` and `size` that holds data."""
    position = begin
    while position < size:
        try:
            start = os.lseek(file.fileno(), position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data after this position
            return
        if start >= size:
            return
        position = min(os.lseek(file.fileno(), start, os.SEEK_HOLE), size)
        yield start, position


def sparse_copy(
    source: Path, target: Path, told: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Write the source over the target's beginning. Holes stay holes, so that a large empty disk costs nothing.

    `told` gets the bytes that are done, and the source's size.
    """
    size = source.stat().st_size
    with source.open("rb") as reader, target.open("r+b") as writer:
        end = 0
        for start, next_end in (*data_ranges(reader, size), (size, size)):
            for begin, stop in list(data_ranges(writer, start, begin=end)):  # where the source has a hole
                _write(writer, begin, stop, lambda at, count: bytes(count))
            end = next_end
            _write(writer, start, end, lambda at, count: os.pread(reader.fileno(), count, at))
            told(end, max(size, 1))
    return target


def _write(writer: BinaryIO, start: int, end: int, read: Callable[[int, int], bytes]) -> None:
    for at in range(start, end, _PIECE):
        os.pwrite(writer.fileno(), read(at, min(_PIECE, end - at)), at)


SavedFile = tuple[int, tuple[tuple[int, bytes], ...]]
"""A file's length in bytes, and its stretches of data: offset and bytes."""


def save_file(path: Path) -> SavedFile:
    """Read the data of a file, without its holes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        return size, tuple(
            (start, os.pread(file.fileno(), end - start, start)) for start, end in data_ranges(file, size)
        )


def restore_file(path: Path, saved: SavedFile) -> None:
    """Write a file that `save_file` has read, with all directories above it."""
    size, stretches = saved
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start, data in stretches:
            file.seek(start)
            file.write(data)
        file.truncate(size)
