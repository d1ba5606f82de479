"""Recognise an image by its bytes, never by its name. What is not recognised is a raw disk, if it can be one.

A guest writes its raw disk, so it can make the disk look like any format. Hence a reader opens no other file that an
image names, and xenvol believes a caller that names the format.
"""

from __future__ import annotations

from typing import Final

from xenvol.images.disk_image import SECTOR, ByteFile
from xenvol.images.errors import InvalidImage, UnsupportedImage
from xenvol.images.formats import foreign, ova, tar_names, vhd_footers
from xenvol.images.formats.tar_headers import Headers
from xenvol.images.sources.expanders import is_bzip2

_ISO_ID: Final = 0x8001  # ECMA-119 7.1, 8.1: sector 16 of 2048 bytes, after the byte of the descriptor's type
START: Final = _ISO_ID + 5
"""Bytes from the beginning that `of_start` needs; with fewer it recognises less."""
END: Final = vhd_footers.SEARCHED
"""Bytes from the end that `of_end` needs."""

_MAGICS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"conectix", "vhd"),  # the copy of the footer; a fixed VHD has none
    *foreign.MAGICS,
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (_ISO_ID, b"CD001", "iso"),
)


def of_start(start: bytes) -> str | None:
    """Return the format that begins like this: one that xenvol reads, or one that `refuse_unreadable` refuses.

    None means a raw disk, or a fixed VHD, which only its end tells. A hybrid ISO, which boots as a disk too, is an
    ``iso``, and so is a disk that holds only a CD's file system.
    """
    for offset, magic, format in _MAGICS:
        if start.startswith(magic, offset):
            return format
    if is_bzip2(start):
        return "bzip2"
    if start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5:  # a frame that zstd skips; pzstd begins with one
        return "zstd"
    if foreign.is_lzma(start):
        return "lzma"
    if _is_tar(start):
        return _of_tar(start)
    return foreign.of_text(start)


def _of_tar(start: bytes) -> str:
    """Return ``ova``, ``xva`` or ``tar-raw`` if the first member is of one, else ``tar``, whose reader judges."""
    try:
        headers = Headers("", lambda offset, size: start[offset : offset + size])
        member = headers.next()
        while member is not None and (member.kind == "a directory" or tar_names.is_junk(member.name)):
            member = headers.next()
    except InvalidImage:  # damaged, or a header that is too long: its reader says so
        return "tar"
    return "tar" if member is None else tar_names.kind_of(member.name)


def of_end(tail: bytes, size: int) -> str | None:
    """Return the format that ends like this: ``vhd``, ``vhd-fixed``, or one that `refuse_unreadable` refuses.

    `tail` is the last `END` bytes of `size`, or all of them. A footer that is damaged counts as that of a ``vhd``.
    """
    found = vhd_footers.find_last(tail, size)
    if found is not None:
        return "vhd-fixed" if found.is_fixed else "vhd"
    return foreign.of_end(tail)


def refuse_end(image: str, tail: bytes, size: int) -> None:
    """Raise InvalidImage or UnsupportedImage if a stream that was taken for raw ends like another format."""
    format = of_end(tail, size)
    if format in ("vhd", "vhd-fixed"):
        raise InvalidImage(
            image,
            format="raw",
            problem="it ends like a VHD, whose footer does not belong to the disk",
            offset=size - SECTOR,
            remedy="give the format vhd (--format vhd), or give it as a file; raw, if its bytes are the disk itself",
        )
    if format is not None:
        refuse_unreadable(image, format)


def of_file(file: ByteFile) -> str:
    """Return the format of a file: as `of_start`, or by its end; ``odd`` if it is none and no whole disk.

    A good footer of a fixed VHD at the end goes before the disk's beginning, which its guest wrote. Raises SourceError.
    """
    format = of_start(file.pread(0, min(START, file.size)))
    end = (
        None
        if format == "vhd"
        else of_end(file.pread(max(0, file.size - END), min(END, file.size)), file.size)
    )
    if end == "vhd-fixed" or format is None:
        format = end
    if format == "tar" and _has_description(file):
        return "ova"
    return _raw(file.size) if format is None else format


def _has_description(file: ByteFile) -> bool:
    try:
        return ova.has_description(file)
    except InvalidImage:  # the reader of tarballs says what is wrong
        return False


def of_stream(start: bytes, size: int | None) -> str:
    """Return the format of a stream of `size` bytes (None: not known) that begins like this, as far as it shows."""
    return of_start(start) or _raw(size)


def _raw(size: int | None) -> str:
    return "raw" if size is None or size % SECTOR == 0 else "odd"


def refuse_unreadable(image: str, format: str) -> None:
    """Raise UnsupportedImage, with the remedy, if xenvol does not read `format`."""
    if (found := foreign.FOREIGN.get(format)) is not None:
        remedy = (
            f"{found.remedy.format(image=image)}; or, if its bytes are the disk itself, say so (--format raw)"
        )
        raise UnsupportedImage(image, problem=found.problem, remedy=remedy)


def _is_tar(start: bytes) -> bool:
    """Return whether a tar begins: by its magic, even with a wrong checksum; without a magic (V7) by its checksum."""
    header = start[:512]
    if header[257:262] == b"ustar":
        return True
    if len(header) < 512 or not header[0]:
        return False
    checksum = (
        sum(header) - sum(header[148:156]) + 8 * ord(" ")
    )  # over the header, with spaces for the checksum itself
    return header[148:156].strip(b" \0").lstrip(b"0") == b"%o" % checksum
