"""Where a VHD's blocks lie, and which sectors of a block are stored: from its table and bitmaps, without I/O.

Memory: 4 bytes for each entry of the table, and again 4 if the blocks are not in order.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator

from xenvol.images.disk_image import SECTOR
from xenvol.images.formats.vhd_fields import FOOTER_SIZE, HEADER_SIZE, UNUSED, Footer, Header, bad, cut

_BUCKET = 1 << 16
"""Blocks that are sorted at a time: a list of all would take 40 MB for a disk of 2040 GiB."""


class Blocks:
    """The block table, checked: blocks overlap neither each other nor the header nor the table, and lie within the
    disk.

    They also lie within the file, if `file_size` is known. Raises InvalidImage, and what `table` raises.
    """

    def __init__(
        self, table: Iterable[bytes], footer: Footer, header: Header, *, image: str, file_size: int | None
    ) -> None:
        self._sectors = array("I")
        for part in table:
            self._sectors.frombytes(part)
        if sys.byteorder == "little":
            self._sectors.byteswap()
        self._image = image
        self._header = header
        self._header_offset = footer.data_offset
        self._stride = header.stride
        self.needed = -(-footer.virtual_size // header.block_size)
        self.count = 0
        self.is_ascending = True
        """Whether the blocks lie in the file in the disk's order."""
        self.start = 0
        """Offset of the first block in the file; 0 without blocks."""
        self.end = max(footer.data_offset + HEADER_SIZE, header.table_end)
        """End of the known bytes of the file: of the last block, or of the table or the header if that lies behind
        it."""
        self._look_at_each(file_size)
        self._order = None if self.is_ascending else self._sorted()
        has_last = self._sectors[self.needed - 1] != UNUSED
        behind = (
            self.needed * header.block_size - footer.virtual_size
        )  # the part of the last block beyond the disk
        self.allocated = self.count * header.block_size - (behind if has_last else 0)
        """Bytes of the disk in stored blocks."""

    def _look_at_each(self, file_size: int | None) -> None:
        before = 0  # end of the block before
        for index, sector in enumerate(self._sectors):
            if sector == UNUSED:
                continue
            start = sector * SECTOR
            end = start + self._stride
            if index >= self.needed:
                raise bad(
                    self._image,
                    f"its block {index} lies behind the end of the disk",
                    offset=self._entry(index),
                )
            self._check_place(index, start, end)
            if file_size is not None and end > file_size - FOOTER_SIZE:
                raise cut(
                    self._image,
                    f"its block {index} ends at byte {end}, and a footer must follow, but the file ends at {file_size}",
                    offset=self._entry(index),
                )
            if start < before:
                self.is_ascending = False
            before = end
            self.count += 1
            self.start = min(self.start, start) if self.start else start
            self.end = max(self.end, end)

    def _check_place(self, index: int, start: int, end: int) -> None:
        header = self._header_offset
        if (
            start < FOOTER_SIZE
            or (start < header + HEADER_SIZE and end > header)
            or (start < self._header.table_end and end > self._header.table_offset)
        ):
            raise bad(
                self._image,
                f"its block {index} lies over its footer, its header or its block table, at byte {start}",
                offset=self._entry(index),
            )

    def _sorted(self) -> array[int]:
        """Return the numbers of the blocks in the file's order. Raises InvalidImage for an overlap."""
        span = _BUCKET * self._stride // SECTOR
        buckets: dict[int, array[int]] = {}
        for index, sector in enumerate(self._sectors):
            if sector == UNUSED:
                continue
            bucket = buckets.setdefault(sector // span, array("I"))
            bucket.append(index)
            if len(bucket) > _BUCKET:
                raise bad(self._image, "its blocks overlap", offset=self._entry(index))
        order = array("I")
        before = 0
        for number in sorted(buckets):
            for index in sorted(buckets.pop(number), key=self._sectors.__getitem__):
                start = self._sectors[index] * SECTOR
                if start < before:
                    raise bad(
                        self._image,
                        f"its block {index} lies over its block {order[-1]}, at byte {start}",
                        offset=self._entry(index),
                    )
                before = start + self._stride
                order.append(index)
        return order

    def _entry(self, index: int) -> int:
        return self._header.table_offset + 4 * index

    def by_disk(self) -> Iterator[tuple[int, int]]:
        """Yield (number, offset of its bitmap in the file) of each stored block, in the disk's order."""
        for index, sector in enumerate(self._sectors):
            if sector != UNUSED:
                yield index, sector * SECTOR

    def by_file(self) -> Iterator[tuple[int, int]]:
        """Yield the same in the file's order."""
        if self._order is None:
            yield from self.by_disk()
        else:
            for index in self._order:
                yield index, self._sectors[index] * SECTOR


def set_runs(bits: bytes, count: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each run of ones among the first `count` bits; a byte's highest bit comes first."""
    if bits.count(0xFF) == len(bits):
        yield 0, count
        return
    left = int.from_bytes(bits, "big") >> (len(bits) * 8 - count)
    while left:
        top = left.bit_length()  # the first set bit, counted from the end
        bottom = (~left & ((1 << top) - 1)).bit_length()  # the first unset bit after it
        yield count - top, count - bottom
        left &= (1 << bottom) - 1
