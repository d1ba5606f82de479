"""Write a dynamic VHD to a file, without zeros.

The footer and header at the beginning are written last, so that an unfinished file is not a VHD. The blocks lie
behind their table, in the order of their first write, so that the VHD can be read as a stream.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable, Iterable
from typing import BinaryIO
from uuid import UUID, uuid4

from xenvol.images.disk_image import SECTOR, VHD_MAX, Piece, without_zeros
from xenvol.images.errors import ImageTooLarge
from xenvol.images.formats.vhd_fields import (
    BLOCK_SIZE,
    FOOTER_SIZE,
    HEADER_SIZE,
    UNUSED,
    Footer,
    Header,
    pack_footer,
    pack_header,
)

_EPOCH = 946684800  # 2000-01-01; VHDs count seconds from there


def write_vhd(
    pieces: Iterable[Piece],
    virtual_size: int,
    file: BinaryIO,
    *,
    uuid: UUID | None = None,
    clock: Callable[[], float] = time.time,
) -> int:
    """Write the VHD, and return the bytes of the file. The file must be seekable, and is emptied first.

    The pieces must not overlap, and may come in any order; `uuid` is the VHD's own. Raises ImageTooLarge, ValueError
    for a size that is not in whole sectors or a piece beyond the disk, and what the pieces and the file raise.
    """
    if virtual_size > VHD_MAX:
        raise ImageTooLarge("the image", size=virtual_size, limit=VHD_MAX, what="a VHD")
    if virtual_size <= 0 or virtual_size % SECTOR:
        raise ValueError(f"a VHD's disk has whole sectors, and not {virtual_size} bytes")
    header = Header(
        table_offset=FOOTER_SIZE + HEADER_SIZE,
        entries=-(-virtual_size // BLOCK_SIZE),
        block_size=BLOCK_SIZE,
        parent_uuid=UUID(int=0),
        parent_name="",
    )
    footer = Footer(
        kind="dynamic",
        virtual_size=virtual_size,
        data_offset=FOOTER_SIZE,
        uuid=uuid4() if uuid is None else uuid,
        is_hidden=False,
    )
    file.seek(0)
    file.truncate(0)
    table, end = _write_blocks(without_zeros(pieces), virtual_size, header, file)
    closing = pack_footer(footer, created=int(clock()) - _EPOCH)
    file.seek(end)
    file.write(closing)
    if sys.byteorder == "little":
        table.byteswap()
    file.seek(header.table_offset)
    file.write(table.tobytes().ljust(_table_size(header), b"\xff"))
    file.seek(0)
    file.write(closing + pack_header(header))
    file.flush()
    return end + FOOTER_SIZE


def _write_blocks(
    pieces: Iterable[Piece], virtual_size: int, header: Header, file: BinaryIO
) -> tuple[array[int], int]:
    """Return the block table, and the offset behind the last block."""
    table = array("I", [UNUSED]) * header.entries
    end = header.table_offset + _table_size(header)
    bitmap = (
        b"\xff" * header.bitmap_size
    )  # a new block is complete: bytes that are not written in it are zeros
    for piece in pieces:
        if piece.offset < 0 or piece.end > virtual_size:
            raise ValueError(f"a piece at {piece.offset} to {piece.end} of a disk of {virtual_size} bytes")
        done = 0
        while done < len(piece.data):
            block, within = divmod(piece.offset + done, BLOCK_SIZE)
            size = min(BLOCK_SIZE - within, len(piece.data) - done)
            if table[block] == UNUSED:
                table[block] = end // SECTOR
                file.seek(end)
                file.write(bitmap)
                end += header.stride
            file.seek(table[block] * SECTOR + header.bitmap_size + within)
            file.write(piece.data if size == len(piece.data) else piece.data[done : done + size])
            done += size
    return table, end


def _table_size(header: Header) -> int:
    """Return the bytes of the table, in whole sectors."""
    return -(-4 * header.entries // SECTOR) * SECTOR
