"""Receive a VHD in one forward pass, as vhd-tool does (vhd_format/f.ml, openstream).

The copy of the footer comes first; header, table and blocks follow in the order of their offsets; the footer
is last. A fixed VHD begins with the disk's data and is refused. Sectors that are missing in the VHD keep
their bytes on the disk: zeros of a new disk, or the parent's for a differencing VHD.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from xenvol.simulator.images.body import PIECE, Body, Broken
from xenvol.simulator.images.rawstream import Progress
from xenvol.simulator.images.sink import Sink
from xenvol.simulator.images.vhdformat import HEADER_SIZE, SECTOR, UNUSED, Footer, Header, table_places

_MOST_ENTRIES = 1 << 22
"""Four times the entries of the largest VHD; a table is read into memory."""


def receive(body: Body, sink: Sink, progress: Progress) -> None:
    if body.length is None:
        raise Broken("no Content-Length, which tells where the last footer is")
    footer = Footer.parse(body.read(SECTOR))
    body.skip_to(footer.data_offset)
    header = Header.parse(body.read(HEADER_SIZE))
    for done, (place, index) in enumerate(blocks := _blocks(body, header), 1):
        body.skip_to(place * SECTOR)
        _receive_block(body, sink, header, index * header.block_size)
        progress(done, len(blocks))
    body.skip_to((body.length - 1) // SECTOR * SECTOR)
    Footer.parse(body.read(SECTOR))


def _blocks(body: Body, header: Header) -> list[tuple[int, int]]:
    """Return (offset in the stream, number on the disk) of the blocks with data, by offset."""
    body.skip_to(header.table_offset)
    if header.entries > _MOST_ENTRIES:
        raise Broken(f"{header.entries} blocks")
    places = table_places(body.read(header.table_size), header.entries)
    return sorted((place, index) for index, place in enumerate(places) if place != UNUSED)


def _receive_block(body: Body, sink: Sink, header: Header, offset: int) -> None:
    bitmap = body.read(header.bitmap_size)
    start = body.position
    for is_there, first, end in _spans(bitmap, header.block_size // SECTOR):
        if not is_there:
            body.skip_to(start + end * SECTOR)
            continue
        for at in range(first * SECTOR, end * SECTOR, PIECE):
            sink.write(offset + at, body.read(min(PIECE, end * SECTOR - at)))


def _spans(bitmap: bytes, sectors: int) -> Iterator[tuple[bool, int, int]]:
    """Yield (present, first sector, end sector) for each run of sectors; sector 0 is the highest bit."""
    if bitmap[: sectors // 8].strip(b"\xff") == b"" and sectors % 8 == 0:
        yield True, 0, sectors
        return
    bits = (bool(bitmap[n // 8] & 0x80 >> n % 8) for n in range(sectors))
    at = 0
    for is_there, group in itertools.groupby(bits):
        first, at = at, at + sum(1 for _ in group)
        yield is_there, first, at
