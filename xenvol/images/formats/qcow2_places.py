"""Which clusters of a file are taken by tables, and where it has data: in memory that has a limit for any file."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final

from xenvol.images.disk_image import SECTOR, ByteFile

MAX_CLUSTERS: Final = 1 << 28  # 32 MiB of bits; a file of 16 TiB, with the usual clusters of 64 KiB
MAX_RANGES: Final = 1 << 20  # 16 MiB; what lies behind so many holes is read, holes and all


class Places:
    """Which of `count` clusters have been added: a bit for each. All runs lie among them."""

    def __init__(self, count: int) -> None:
        self._bits = bytearray(count // 8 + 1)  # the system gives no memory for what stays zero

    def add(self, first: int, count: int) -> None:
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") | ((1 << count) - 1) << first % 8
        self._bits[start:end] = bits.to_bytes(end - start, "little")

    def find(self, first: int, count: int) -> int | None:
        """The first one of the run that has been added."""
        start, end = first // 8, (first + count - 1) // 8 + 1
        bits = int.from_bytes(self._bits[start:end], "little") >> first % 8 & (1 << count) - 1
        return first + (bits & -bits).bit_length() - 1 if bits else None


class Ranges:
    """Where a file has data, in whole sectors."""

    def __init__(self, file: ByteFile | None = None, *, tick: Callable[[int], None] | None = None) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        if file is None:
            return
        for start, end in file.data_ranges():
            if tick is not None:
                tick(0)
            start -= start % SECTOR
            end += -end % SECTOR
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = end
                continue
            if len(self._ends) == MAX_RANGES:
                self._ends[-1] = file.size
                return
            self._starts.append(start)
            self._ends.append(end)

    def within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each range, as far as it lies within these."""
        index = bisect_right(self._ends, start)
        while index < len(self._ends) and self._starts[index] < end:
            yield max(start, self._starts[index]), min(end, self._ends[index])
            index += 1
