"""Check in a VMDK what qemu-img does not notice, before qemu-img unpacks it.

qemu-img reads zeros behind the end of a file that was cut off, and follows the names of other files. It opens a file
by name, not by the descriptor that was checked. So xenvol checks and unpacks a copy that no other user can change.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from xenvol.images.disk_image import SECTOR, ByteFile, DiskImage, EndOfFile
from xenvol.images.errors import (
    InvalidImage,
    MissingParent,
    MissingReader,
    TruncatedImage,
    UnsupportedImage,
)
from xenvol.images.formats import raw
from xenvol.images.formats.vmdk_process import FORMAT, unfold
from xenvol.images.sources.files import as_stream
from xenvol.images.sources.staging import Staged, Staging
from xenvol.secret import masked

# VMware, "Virtual Disk Format 5.0", SparseExtentHeader. Little-endian; places and sizes in sectors.
_HEADER: Final = struct.Struct("<4sIIQQQQIQQ")
_AT_END: Final = (
    1 << 64
) - 1  # of the grain directory: a footer, two sectors before the end, gives its place
_COMPRESSED: Final = 1 << 16  # of the flags
_MAX_SIZE: Final = 64 << 40  # bytes; ESXi's own limit is 62 TB
_MAX_TABLES: Final = 2 << 20  # as many as that size needs with grains of 64 KiB
_DESCRIPTOR: Final = (
    20 * SECTOR
)  # bytes behind the header in which QEMU looks for it, whatever the header says
_KINDS: Final = ("streamoptimized", "monolithicsparse")
_NO_PARENT: Final = "ffffffff"
_EXTENT: Final = re.compile(r"(RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)", re.IGNORECASE)

_CONVERT: Final = "make one file of it, on the machine that has all of its files: `qemu-img convert -O qcow2`"


@dataclass(frozen=True)
class _Extent:
    """The facts in the header; in bytes."""

    capacity: int
    grain_size: int
    table_length: int
    directory: int
    is_compressed: bool

    @property
    def tables(self) -> int:
        return -(-self.capacity // (self.grain_size * self.table_length))


def from_file(file: ByteFile, *, staging: Staging, tick: Callable[[int], None] | None = None) -> DiskImage:
    """Unpack the VMDK into a sparse file of the disk's size, in `staging`, before this returns.

    The VMDK is one file with a whole disk: monolithicSparse, streamOptimized. A file that is not staged is first
    copied there, and the copy is removed. `tick` gets the bytes copied and written, and is called several times a
    second; an error from it ends the work. Raises InvalidImage, TruncatedImage, MissingParent, UnsupportedImage if
    it needs other files, MissingReader without qemu-img, NoRoomToStage, TargetError, SourceError.
    """
    extent, needed = _check(file)  # before it is copied
    program = shutil.which("qemu-img")
    if program is None:
        raise MissingReader(file.name, format="VMDK", package="qemu-img (Debian: qemu-utils)")
    tick = tick or _ignore
    with contextlib.ExitStack() as stack:
        if not isinstance(file, Staged):
            staging.check_room(file.size + needed, reason=f"{file.name} must be copied and unpacked")
            reason = f"{file.name} must not change between its check and its reading"
            file = stack.enter_context(staging.stage(as_stream(file), reason=reason, tick=tick))
            extent, needed = _check(file)  # the file may have changed in between
        assert file.path is not None, "what is staged has a name"
        target = staging.empty_file("disk")
        try:
            staging.check_room(needed, reason=f"{file.name} must be unpacked")
            unfold(
                file.path,
                target,
                program=program,
                name=file.name,
                size=extent.capacity,
                staging=staging,
                tick=tick,
            )
            return raw.from_file(Staged(target, name=file.name), format=FORMAT)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _ignore(size: int) -> None:
    """Do nothing: the default for `tick`."""


# --- the check ----------------------------------------------------------------------------------------------------


def _check(file: ByteFile) -> tuple[_Extent, int]:
    """Return the header's facts, and the bytes that the grains unpack to, at most."""
    try:
        extent = _parse(file)
        return extent, _allocated(file, extent)
    except EndOfFile as error:
        raise TruncatedImage(
            file.name, format=FORMAT, problem="it ends before its header and tables say", offset=file.size
        ) from error


def _parse(file: ByteFile) -> _Extent:
    extent, descriptor_at, descriptor_size = _parse_header(file, 0)
    if descriptor_at == 0 or extent.capacity == 0:
        # one extent of several, or, for QEMU, the text of a disk in other files
        raise UnsupportedImage(file.name, problem="it is one of the files of a VMDK", remedy=_CONVERT)
    if descriptor_at != SECTOR or not 0 < descriptor_size <= _DESCRIPTOR:
        raise _bad(file, f"its descriptor would have {descriptor_size} bytes at {descriptor_at}", 0x1C)
    seen = max(descriptor_size, min(_DESCRIPTOR, file.size - SECTOR))  # QEMU looks beyond its end as well
    _check_descriptor(file, file.pread(SECTOR, seen))
    if extent.directory == _AT_END * SECTOR:
        # the footer, then the marker that ends the stream
        footer, _, _ = _parse_header(file, max(0, file.size - 2 * SECTOR))
        if footer.capacity != extent.capacity:
            raise _bad(file, f"its footer says {footer.capacity} bytes, its header {extent.capacity}", 0x0C)
        extent = footer
    if not 0 < extent.capacity <= _MAX_SIZE:
        raise _bad(file, f"its disk would have {extent.capacity} bytes", 0x0C)
    grain = extent.grain_size // SECTOR
    if not 8 <= grain <= 2048 or grain & (grain - 1):
        raise _bad(file, f"its grains would have {extent.grain_size} bytes", 0x14)
    if not 0 < extent.table_length <= 512 or extent.tables > _MAX_TABLES:
        raise _bad(file, f"its tables would have {extent.table_length} entries", 0x2C)
    return extent


def _parse_header(file: ByteFile, at: int) -> tuple[_Extent, int, int]:
    """Return the header's facts, and the offset and length of the descriptor in bytes."""
    magic, version, flags, capacity, grain, text, text_size, length, _, directory = _HEADER.unpack(
        file.pread(at, _HEADER.size)
    )
    if magic != b"KDMV":
        if at:
            raise TruncatedImage(
                file.name, format=FORMAT, problem="the footer at its end is missing", offset=at
            )
        raise _bad(file, "it has the wrong magic", 0)
    if not 1 <= version <= 3:
        raise UnsupportedImage(file.name, problem=f"it is a VMDK of version {version}", remedy=_CONVERT)
    extent = _Extent(
        capacity=capacity * SECTOR,
        grain_size=grain * SECTOR,
        table_length=length,
        directory=directory * SECTOR,
        is_compressed=bool(flags & _COMPRESSED),
    )
    return extent, text * SECTOR, text_size * SECTOR


def _check_descriptor(file: ByteFile, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    values: dict[str, str] = {}
    extents: list[str] = []
    for line in re.split(r"[\r\n\0]+", text):
        key, equals, value = line.partition("=")
        if found := _EXTENT.match(line.strip()):
            extents.append(found[2].upper())
        elif equals:
            values[key.strip().lower()] = value.strip().strip('"')
    if values.get("parentcid", _NO_PARENT).lower() != _NO_PARENT or "parentfilenamehint" in text.lower():
        hint = values.get("parentfilenamehint")
        parent = "another image" if hint is None else repr(masked(hint[:1023]))
        raise MissingParent(file.name, format=FORMAT, parent=parent)
    kind = values.get("createtype", "")
    if kind.lower() not in _KINDS or extents != ["SPARSE"]:
        raise UnsupportedImage(
            file.name,
            problem=f"it is a VMDK of type {kind[:40]!r} with {len(extents)} extents, "
            "and xenvol reads only streamOptimized and monolithicSparse with one extent",
            remedy=_CONVERT,
        )


def _allocated(file: ByteFile, extent: _Extent) -> int:
    """Return the bytes of all grains, and check that each lies within the file. Raises TruncatedImage, EndOfFile."""
    grains = 0
    for table in _tables(file, extent):
        last = max(table)
        if last <= 1:  # no grain, or a grain of zeros
            continue
        end = last * SECTOR + (SECTOR if extent.is_compressed else min(extent.grain_size, extent.capacity))
        if end > file.size:
            raise TruncatedImage(
                file.name, format=FORMAT, problem=f"a grain lies at {last * SECTOR}", offset=file.size
            )
        grains += len(table) - table.count(0) - table.count(1)
    return grains * extent.grain_size


def _tables(file: ByteFile, extent: _Extent) -> Iterator[array[int]]:
    step = 16384
    for first in range(0, extent.tables, step):
        count = min(step, extent.tables - first)
        directory = _numbers(file.pread(extent.directory + 4 * first, 4 * count))
        for place in directory:
            if place:
                yield _numbers(file.pread(place * SECTOR, 4 * extent.table_length))


def _numbers(data: bytes) -> array[int]:
    numbers = array("I", data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _bad(file: ByteFile, problem: str, offset: int) -> InvalidImage:
    return InvalidImage(file.name, format=FORMAT, problem=problem, offset=offset)
