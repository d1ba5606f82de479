"""Read one VHD: its own blocks and their places on the disk. `chain` merges it with its parents.

A VHD ends with its footer, and so must the file or the stream. Otherwise it was cut off, or has grown, and is
refused. One of the footer and its copy at the beginning may be damaged; in a stream only the footer, since nothing
else comes before the copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from xenvol.images.disk_image import PIECE, SECTOR, ByteFile, NeedsFile, Piece, Stream
from xenvol.images.formats.vhd_blocks import Blocks, set_runs
from xenvol.images.formats.vhd_fields import (
    FOOTER_SIZE,
    HEADER_SIZE,
    Footer,
    Header,
    Kind,
    bad,
    check_virtual_size,
    cut,
    has_cookie,
    is_footer,
    parse_footer,
    parse_header,
)
from xenvol.images.formats.vhd_footers import ending_with_its_footer
from xenvol.images.formats.vhd_source import VHDBytes, VHDFile, VHDStream, compare, is_damaged_footer, no_end

UNKNOWN = UUID(int=0)
"""The `uuid` of a fixed VHD in a stream, until its end has been read."""


class Layer:
    """One VHD, as a DiskImage. The pieces of a differencing VHD are only the sectors that it holds itself."""

    format = "vhd"

    def __init__(
        self,
        source: VHDBytes,
        *,
        virtual_size: int,
        footer: Footer | None,
        header: Header | None = None,
        blocks: Blocks | None = None,
        as_it_comes: bool = False,
    ) -> None:
        self._source = source
        self._footer = footer
        self._header = header
        self._blocks = blocks
        self._as_it_comes = as_it_comes
        self.name = source.name
        self.virtual_size = virtual_size
        self.kind: Kind = "fixed" if footer is None else footer.kind
        self.block_size = 0
        """Bytes; 0 for a fixed VHD."""
        self.uuid = UNKNOWN if footer is None else footer.uuid
        self.parent_uuid: UUID | None = None
        self.parent_name = ""
        """The name that its writer gave. It is untrusted: never open it."""
        self.is_hidden = False if footer is None else footer.is_hidden
        self.allocated: int | None = virtual_size
        self.is_ordered = True
        if header is not None and blocks is not None:
            self.block_size = header.block_size
            if self.kind == "differencing":
                self.parent_uuid = header.parent_uuid
                self.parent_name = header.parent_name
            self.allocated = blocks.allocated
            self.is_ordered = blocks.is_ascending or not as_it_comes

    def __repr__(self) -> str:
        return f"<Layer {self.name!r}: {self.kind} VHD {self.uuid} of {self.virtual_size} bytes>"

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces: of a file in the disk's order, of a stream in its own order, to its end.

        Raises InvalidImage, SourceError.
        """
        if self._header is None or self._blocks is None:
            yield from self._source.fixed(self.virtual_size)
            last = self._source.finish(self._footer, self.virtual_size)
            _check_fixed(last, self.virtual_size, self.name)
            self.uuid, self.is_hidden = last.uuid, last.is_hidden
            return
        for index, start in self._blocks.by_file() if self._as_it_comes else self._blocks.by_disk():
            yield from self._block(self._header, index, start)
        self._source.finish(self._footer, self._blocks.end)

    def _block(self, header: Header, index: int, start: int) -> Iterator[Piece]:
        bitmap = self._source.pread(start, header.bitmap_size)
        disk = index * header.block_size
        data = start + header.bitmap_size
        length = min(header.block_size, self.virtual_size - disk)
        for at in range(0, length, PIECE):
            sectors = min(PIECE, length - at) // SECTOR
            bits = bitmap[at // SECTOR // 8 : -(-(at // SECTOR + sectors) // 8)]
            runs = [(first * SECTOR, last * SECTOR) for first, last in set_runs(bits, sectors)]
            if not runs:
                continue
            begin, end = runs[0][0], runs[-1][1]
            held = self._source.pread(data + at + begin, end - begin)
            if len(runs) == 1:
                yield Piece(disk + at + begin, held)
                continue
            for first, last in runs:
                yield Piece(disk + at + first, held[first - begin : last - begin])


def from_file(file: ByteFile) -> Layer:
    """Read and check all but the blocks. Raises InvalidImage, UnsupportedImage, ImageTooLarge, SourceError."""
    if file.size < FOOTER_SIZE:
        raise cut(file.name, "it is shorter than a footer", offset=file.size)
    file = ending_with_its_footer(file)
    source = VHDFile(file)
    first, last = source.pread(0, FOOTER_SIZE), source.pread(file.size - FOOTER_SIZE, FOOTER_SIZE)
    has_end = is_footer(last)
    if has_end or not has_cookie(first):
        footer = parse_footer(last, image=file.name, offset=file.size - FOOTER_SIZE)
    else:
        footer = parse_footer(first, image=file.name, offset=0)
    if footer.kind == "fixed":
        if not has_end or is_footer(first):
            raise bad(file.name, "it begins with a footer, and a fixed VHD only ends with one", offset=0)
        _check_fixed(footer, file.size - FOOTER_SIZE, file.name)
        return Layer(source, virtual_size=footer.virtual_size, footer=footer)
    if has_end and is_footer(first):
        compare(parse_footer(first, image=file.name, offset=0), footer, image=file.name, size=file.size)
    header, blocks = _tables(source, footer, file.size)
    if not has_end and not is_damaged_footer(last, size=file.size, end=blocks.end):
        raise no_end(file.name, size=file.size, end=blocks.end)
    return Layer(source, virtual_size=footer.virtual_size, footer=footer, header=header, blocks=blocks)


def from_stream(stream: Stream) -> Layer:
    """Read and check all that lies before the blocks; `pieces` reads on, block by block, to the stream's end.

    Raises as `from_file`, and NeedsFile if a block lies before the table of blocks.
    """
    source = VHDStream(stream)
    first = source.pread(0, FOOTER_SIZE)
    if has_cookie(first) and not is_footer(first):
        raise bad(
            stream.name,
            "the copy of its footer at its beginning is damaged",
            offset=0,
            remedy="give it as a file: the footer at its end may be good",
        )
    footer = parse_footer(first, image=stream.name, offset=0)
    if footer.kind == "fixed":
        raise bad(stream.name, "it begins with a footer, and a fixed VHD only ends with one", offset=0)
    header, blocks = _tables(source, footer, stream.length)
    if blocks.count and blocks.start < header.table_end:
        raise NeedsFile(f"blocks of {stream.name} lie before the table that says where they are")
    return Layer(
        source,
        virtual_size=footer.virtual_size,
        footer=footer,
        header=header,
        blocks=blocks,
        as_it_comes=True,
    )


def fixed_from_stream(stream: Stream) -> Layer:
    """Open a stream that the caller knows to be a fixed VHD. Its footer, at its end, is checked there.

    Until then its `uuid` is `UNKNOWN`, and `is_hidden` is False. Raises NeedsFile if the stream's length is not
    known, InvalidImage and ImageTooLarge if no VHD has this length.
    """
    if stream.length is None:
        raise NeedsFile(f"the length of {stream.name} is not known, and so not where its disk ends")
    if stream.length < FOOTER_SIZE:
        raise cut(stream.name, "it is shorter than a footer", offset=stream.length)
    size = stream.length - FOOTER_SIZE
    check_virtual_size(size, image=stream.name)
    return Layer(VHDStream(stream), virtual_size=size, footer=None)


def _tables(source: VHDBytes, footer: Footer, size: int | None) -> tuple[Header, Blocks]:
    at = footer.data_offset
    if at < FOOTER_SIZE:
        raise bad(source.name, f"its header lies over its footer, at byte {at}", offset=16)
    header = parse_header(source.pread(at, HEADER_SIZE), footer, image=source.name, offset=at)
    table = (
        source.pread(start, min(PIECE, header.table_end - start))
        for start in range(header.table_offset, header.table_end, PIECE)
    )
    return header, Blocks(table, footer, header, image=source.name, file_size=size)


def _check_fixed(footer: Footer, size: int, image: str) -> None:
    """Check a fixed VHD's footer; `size` is the bytes before the footer."""
    if footer.kind != "fixed":
        raise bad(image, f"it ends with the footer of a {footer.kind} VHD, and is not one", offset=size + 60)
    if footer.virtual_size > size:
        raise cut(
            image,
            f"its disk has {footer.virtual_size} bytes, and the file holds {size}",
            offset=size + FOOTER_SIZE,
        )
    if footer.virtual_size < size:
        raise bad(
            image,
            f"its disk has {footer.virtual_size} bytes, and the file holds {size}",
            offset=footer.virtual_size,
        )
