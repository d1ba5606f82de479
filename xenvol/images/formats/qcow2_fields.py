"""Parse and check the header of a qcow2: from bytes, without I/O.

The source of every rule is QEMU's docs/interop/qcow2.txt. All numbers are big-endian. Reference counts, snapshots
and bitmaps are ignored, since a reader of the active disk does not need them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from xenvol.images.disk_image import SECTOR
from xenvol.images.errors import EncryptedImage, InvalidImage, MissingParent, TruncatedImage, UnsupportedImage
from xenvol.secret import masked

FORMAT: Final = "qcow2"
MAX_CLUSTER: Final = 2 << 20
"""Bytes; QEMU's maximum, with cluster_bits 21. The header and its extensions lie in the first cluster."""

_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3: Final = struct.Struct(">QQQII")  # version 3 adds these
_LENGTH_3: Final = _HEADER.size + _HEADER_3.size  # 104
_MAX_L1_ENTRIES: Final = (
    32 << 20
) // 8  # QEMU's own limit (QCOW_MAX_L1_SIZE): 2 EiB of disk with clusters of 64 KiB
_MAX_SIZE: Final = 1 << 63  # QEMU's offsets are signed

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _SUBCLUSTERS = (1 << bit for bit in range(5))
# Dirty: only the reference counts may be wrong, and a reader needs none.
_FEATURES: Final = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _SUBCLUSTERS
_COMPRESSIONS: Final[tuple[Literal["zlib", "zstd"], ...]] = ("zlib", "zstd")

_EXTENSION: Final = struct.Struct(">II")  # type, length
_BACKING_FORMAT: Final = 0xE2792ACA
_LUKS_HEADER: Final = 0x0537BE77
_DATA_FILE_NAME: Final = 0x44415441


@dataclass(frozen=True)
class Header:
    """Sizes and offsets in bytes. `l1_entries` is what the disk needs; the table may be longer."""

    version: int
    virtual_size: int
    cluster_bits: int
    l1_offset: int
    l1_size: int
    compression: Literal["zlib", "zstd"]
    has_subclusters: bool

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def entry_size(self) -> int:
        return 16 if self.has_subclusters else 8

    @property
    def l2_span(self) -> int:
        """Return the bytes of the disk that one L2 table describes."""
        return self.cluster_size * (self.cluster_size // self.entry_size)

    @property
    def l1_entries(self) -> int:
        return -(-self.virtual_size // self.l2_span)


def parse_header(start: bytes, name: str) -> Header:
    """Parse the header. `start` is the first cluster, or the whole file if that is shorter.

    Raises InvalidImage, TruncatedImage, EncryptedImage, MissingParent, and UnsupportedImage for an unknown version
    or feature, and for an image whose disk is in another file.
    """
    if len(start) < _HEADER.size:
        raise TruncatedImage(name, format=FORMAT, problem="its header is cut", offset=len(start))
    (magic, version, parent, parent_size, cluster_bits, size, encryption, l1_length, l1_offset, *_) = (
        _HEADER.unpack_from(start)
    )
    if magic != b"QFI\xfb":
        raise bad(name, "it has the wrong magic", 0)
    if version not in (2, 3):
        raise UnsupportedImage(
            name, problem=f"it is a qcow2 of version {version}", remedy="convert it to version 2 or 3"
        )
    if not 9 <= cluster_bits <= 21:
        raise bad(name, f"its clusters would have 2^{cluster_bits} bytes", 20)
    features, compression, length = _parse_version_3(start, name) if version == 3 else (0, 0, _HEADER.size)
    if length % 8 or length > 1 << cluster_bits:
        raise bad(name, f"its header would have {length} bytes", 100)
    if encryption in (1, 2):
        raise EncryptedImage(name, format=FORMAT)
    if encryption:
        raise bad(name, f"its encryption is of an unknown kind, {encryption}", 32)
    if parent or parent_size:
        raise MissingParent(
            name, format=FORMAT, parent=_text(start[parent : parent + min(parent_size, 1023)])
        )
    _check_features(name, features, compression)
    if features & _SUBCLUSTERS and cluster_bits < 14:
        raise bad(name, f"its clusters, of 2^{cluster_bits} bytes, are too small for subclusters", 20)
    _check_extensions(start[: 1 << cluster_bits], length, name)
    if not 0 < size < _MAX_SIZE or size % SECTOR:
        raise bad(name, f"its disk would have {size} bytes", 24)
    header = Header(
        version=version,
        virtual_size=size,
        cluster_bits=cluster_bits,
        l1_offset=l1_offset,
        l1_size=l1_length * 8,
        compression=_COMPRESSIONS[compression],
        has_subclusters=bool(features & _SUBCLUSTERS),
    )
    if not header.l1_entries <= l1_length <= _MAX_L1_ENTRIES:
        raise bad(
            name,
            f"its L1 table has {l1_length} entries, and its disk needs {header.l1_entries}, "
            f"of {_MAX_L1_ENTRIES} at most",
            36,
        )
    if l1_offset % header.cluster_size:
        raise bad(name, f"its L1 table begins at {l1_offset}, within a cluster", 40)
    return header


def bad(name: str, problem: str, offset: int) -> InvalidImage:
    return InvalidImage(name, format=FORMAT, problem=problem, offset=offset)


def _parse_version_3(start: bytes, name: str) -> tuple[int, int, int]:
    """Return the incompatible features, the number of the compression, and the header's length in bytes."""
    if len(start) < _LENGTH_3:
        raise TruncatedImage(name, format=FORMAT, problem="its header is cut", offset=len(start))
    features, _, _, _, length = _HEADER_3.unpack_from(start, _HEADER.size)
    if length < _LENGTH_3:
        raise bad(name, f"its header would have {length} bytes", 100)
    return features, start[_LENGTH_3] if length > _LENGTH_3 and len(start) > _LENGTH_3 else 0, length


def _check_features(name: str, features: int, compression: int) -> None:
    if features & _CORRUPT:
        raise InvalidImage(
            name,
            format=FORMAT,
            problem="it is marked as corrupt",
            offset=72,
            remedy="repair a copy of it with `qemu-img check -r all`",
        )
    if features & _DATA_FILE:
        raise _has_data_file(name)
    if unknown := features & ~_FEATURES:
        raise UnsupportedImage(
            name,
            problem=f"it needs features that xenvol does not know (bits {unknown:#x})",
            remedy="convert it with the QEMU that made it: `qemu-img convert -O qcow2`",
        )
    if compression >= len(_COMPRESSIONS):
        raise UnsupportedImage(
            name,
            problem=f"it is compressed in an unknown way, {compression}",
            remedy="convert it with the QEMU that made it: `qemu-img convert -O qcow2`",
        )
    if bool(compression) != bool(features & _COMPRESSION):
        raise bad(name, "its header has two different compressions", 104)


def _check_extensions(start: bytes, position: int, name: str) -> None:
    while position + _EXTENSION.size <= len(start):
        kind, length = _EXTENSION.unpack_from(start, position)
        if kind == 0:
            return
        position += _EXTENSION.size
        if length > len(start) - position:
            raise bad(name, f"an extension of its header would have {length} bytes", position - 4)
        if kind == _BACKING_FORMAT:  # the header, checked before, names no parent
            what = _text(start[position : position + min(length, 16)])
            raise MissingParent(
                name, format=FORMAT, parent=f"an image, of format {what}, that it does not name"
            )
        if kind == _LUKS_HEADER:
            raise EncryptedImage(name, format=FORMAT)
        if kind == _DATA_FILE_NAME:
            raise _has_data_file(name)
        position += length + -length % 8


def _has_data_file(name: str) -> UnsupportedImage:
    return UnsupportedImage(
        name,
        problem="its disk is in another file",
        remedy="where that file is, make one of both: `qemu-img convert -O qcow2`",
    )


def _text(name: bytes) -> str:
    """Return a name from the image for messages: it is untrusted, and may hold a password (``rbd:…:key=…``)."""
    return repr(masked(name.decode("utf-8", "replace"))) if name else "another image"
