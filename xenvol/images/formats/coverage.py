"""Record which sectors of a disk have been yielded, in constant memory: a byte for every 2 MiB.

The bits of partly covered blocks lie in a temporary file without a name, 512 bytes for each such block.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from xenvol.images.disk_image import SECTOR, Piece
from xenvol.images.errors import NoRoomToStage, TargetError

_BLOCK = 2 << 20
_SECTORS = _BLOCK // SECTOR
_BITS = _SECTORS // 8
_ALL = (1 << _SECTORS) - 1
_NOTHING, _PARTLY, _WHOLE = 0, 1, 2


class Coverage:
    """The sectors of a disk of `virtual_size` bytes. Leaving the block closes the temporary file.

    `directory` is the place of that file, by default the system's. Pieces have whole sectors. Raises NoRoomToStage,
    TargetError.
    """

    def __init__(self, virtual_size: int, *, directory: Path | None = None) -> None:
        self._state = bytearray(-(-virtual_size // _BLOCK))
        self._directory = Path(tempfile.gettempdir()) if directory is None else directory
        self._file: BinaryIO | None = None
        self._block = 0  # the block of these bits
        self._bits = 0  # a sector's bit is 1 << its number in the block
        self._is_changed = False

    def __enter__(self) -> Coverage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __repr__(self) -> str:
        whole, partly = self._state.count(_WHOLE), self._state.count(_PARTLY)
        return f"<Coverage: {whole} whole and {partly} parts of {len(self._state)} blocks>"

    def take(self, piece: Piece) -> Iterator[Piece]:
        """Yield the parts of the piece that were not covered. They are covered from the call on."""
        return iter(self._uncovered(piece, is_taken=True))

    def left(self, piece: Piece) -> Iterator[Piece]:
        """Yield the same parts, and cover nothing: for the last layer."""
        return iter(self._uncovered(piece, is_taken=False))

    def _uncovered(self, piece: Piece, *, is_taken: bool) -> list[Piece]:
        found: list[Piece] = []
        position = piece.offset
        while position < piece.end:
            block, within = divmod(position, _BLOCK)
            size = min(_BLOCK - within, piece.end - position)
            first, count = within // SECTOR, size // SECTOR
            for start, end in self._free(block, first, count, is_taken=is_taken):
                if end - start == len(piece.data) // SECTOR:
                    found.append(piece)
                else:
                    offset = position + start * SECTOR
                    data = piece.data[offset - piece.offset : position + end * SECTOR - piece.offset]
                    found.append(Piece(offset, data))
            position += size
        return found

    def _free(self, block: int, first: int, count: int, *, is_taken: bool) -> Iterator[tuple[int, int]]:
        """Yield (start, end), in sectors from `first`, of each run that is not covered, of `count` sectors."""
        state = self._state[block]
        if state == _WHOLE:
            return
        if state == _NOTHING and not is_taken:
            yield 0, count
            return
        bits = self._load(block)
        wanted = (1 << count) - 1
        free = wanted & ~(bits >> first)
        if is_taken and free:
            self._store(bits | free << first)
        position = 0
        while free:
            skipped = (free & -free).bit_length() - 1
            free >>= skipped
            ones = (~free & (free + 1)).bit_length() - 1
            free >>= ones
            yield position + skipped, position + skipped + ones
            position += skipped + ones

    def _load(self, block: int) -> int:
        if block != self._block:
            self._save()
            self._block = block
            self._bits = self._read(block) if self._state[block] == _PARTLY else 0
        return self._bits

    def _store(self, bits: int) -> None:
        self._bits = bits
        self._is_changed = True
        self._state[self._block] = _WHOLE if bits == _ALL else _PARTLY

    def _save(self) -> None:
        if self._is_changed and self._state[self._block] == _PARTLY:
            self._write(self._block, self._bits.to_bytes(_BITS, "little"))
        self._is_changed = False

    def _read(self, block: int) -> int:
        assert self._file is not None, "a partly covered block has been written"
        try:
            return int.from_bytes(os.pread(self._file.fileno(), _BITS, block * _BITS), "little")
        except OSError as error:
            raise TargetError(str(self._directory), problem=f"a temporary file there: {error}") from error

    def _write(self, block: int, bits: bytes) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed by __exit__
            os.pwrite(self._file.fileno(), bits, block * _BITS)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoomToStage(
                    str(self._directory),
                    needed=len(self._state) * _BITS,
                    free=shutil.disk_usage(self._directory).free,
                    reason="xenvol records there which sectors the upper layers of a chain have",
                ) from error
            raise TargetError(str(self._directory), problem=f"a temporary file there: {error}") from error
