"""Record what is written, and compare it with what can be read back.

Pieces are written in any order, and read back in order with other cuts. So a table on disk records (offset, size,
digest) of each piece. The table sorts them and keeps memory constant. All that was not written must read as zeros.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from xenvol.images.disk_image import DiskImage, Piece, is_zero, without_zeros
from xenvol.images.errors import NotAsWritten

_AT_ONCE = 256  # rows that are inserted together


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class Ledger:
    """The record of what went onto one disk. Close it, or use it in a `with` block."""

    def __init__(self, directory: Path) -> None:
        descriptor, path = tempfile.mkstemp(dir=directory, prefix="xenvol-")
        os.close(descriptor)
        try:
            self._table = sqlite3.connect(path, isolation_level=None)
            self._table.execute("SELECT count(*) FROM sqlite_master")  # opens it
        finally:
            os.unlink(path)  # the kernel removes it when it is closed, or when the process is killed
        self._table.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192;"
            "CREATE TABLE written (start INTEGER PRIMARY KEY, size INTEGER, digest BLOB)"
        )
        self._waiting: list[tuple[int, int, bytes]] = []

    def recording(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the same pieces, and record each. They must not overlap."""
        for piece in pieces:
            self._waiting.append((piece.offset, len(piece.data), _digest(piece.data)))
            if len(self._waiting) >= _AT_ONCE:
                self._flush()
            yield piece

    def check(self, disk: str, found: DiskImage) -> Iterator[Piece]:
        """Yield each piece when it has been compared; raise NotAsWritten at the first difference. `found` must be
        ordered."""
        assert found.is_ordered, "what is read back comes in order"
        self._flush()
        reading = _Reading(without_zeros(found.pieces()))
        position = 0
        for start, size, digest in self._table.execute(
            "SELECT start, size, digest FROM written ORDER BY start"
        ):
            if (other := reading.first_byte(position, start)) is not None:
                raise NotAsWritten(disk, offset=other)
            data = reading.take(start, size)
            if _digest(data) != digest:
                raise NotAsWritten(disk, offset=start)
            yield Piece(start, data)
            position = start + size
        if (other := reading.first_byte(position, None)) is not None:
            raise NotAsWritten(disk, offset=other)
        reading.finish()

    def _flush(self) -> None:
        self._table.execute("BEGIN")
        self._table.executemany("INSERT INTO written VALUES (?, ?, ?)", self._waiting)
        self._table.execute("COMMIT")
        self._waiting.clear()

    def close(self) -> None:
        self._table.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Reading:
    """Pieces in order, cut anew."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._now: Piece | None = next(pieces, None)

    def first_byte(self, start: int, end: int | None) -> int | None:
        """Return the offset of the first byte between `start` and `end` that is not zero, or None. Takes no bytes."""
        self._skip(start)
        while self._now is not None and (end is None or self._now.offset < end):
            offset = max(start, self._now.offset)
            data = self._now.data[offset - self._now.offset :]
            data = data if end is None else data[: end - offset]
            if not is_zero(data):
                return offset + len(data) - len(data.lstrip(b"\0"))
            if end is not None and self._now.end >= end:
                return None
            self._now = next(self._pieces, None)
        return None

    def take(self, start: int, size: int) -> bytes:
        """Return these bytes, with zeros where there is no piece."""
        self._skip(start)
        end = start + size
        if self._now is None or self._now.offset >= end:
            return bytes(size)
        if self._now.offset <= start and self._now.end >= end:
            begin = start - self._now.offset
            return self._now.data[begin : begin + size]
        data = bytearray(size)
        while self._now is not None and self._now.offset < end:
            offset, piece = self._now
            low, high = max(start, offset), min(end, offset + len(piece))
            data[low - start : high - start] = piece[low - offset : high - offset]
            if offset + len(piece) > end:
                break
            self._now = next(self._pieces, None)
        return bytes(data)

    def _skip(self, start: int) -> None:
        while self._now is not None and self._now.end <= start:
            self._now = next(self._pieces, None)

    def finish(self) -> None:
        """Read to the end, where the source tells whether it was complete."""
        for _ in self._pieces:
            pass
