"""Sparse files: find their data, and copy them with their holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def data_ranges(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each stretch that holds data."""
    position = 0
    while position < size:
        try:
            start = os.lseek(file.fileno(), position, os.SEEK_DATA)
        except OSError:  # ENXIO: no data after this position
            return
        position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        yield start, position


def sparse_copy(source: Path, target: Path) -> Path:
    """Copy the data only, so that a large empty disk costs nothing."""
    with source.open("rb") as reader, target.open("r+b") as writer:
        for start, end in data_ranges(reader, source.stat().st_size):
            reader.seek(start)
            writer.seek(start)
            while (left := end - reader.tell()) > 0:
                writer.write(reader.read(min(left, 1 << 20)))
    return target


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
