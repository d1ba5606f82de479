"""An image is told by its bytes, never by its name; what is not known is a raw disk.

A raw disk holds what its guest wrote, so that a guest can make its disk look like any format. Hence a reader believes
nothing that an image says of other files, and whoever knows what he has says so and is not second-guessed.
"""

from __future__ import annotations

from typing import Final

from xenvol.images.disk_image import ByteFile
from xenvol.images.errors import UnsupportedImage
from xenvol.images.formats import vhd

_ISO_ID: Final = (
    0x8001  # ECMA-119 7.1, 8.1: sector 16 of 2048 bytes, behind the byte that is the descriptor's type
)
START: Final = _ISO_ID + 5
"""Bytes from the beginning that `of_start` looks at; with fewer it knows less."""

_MAGICS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"conectix", "vhd"),  # the copy of the footer, which a fixed VHD has not
    (0, b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk-cowd"),
    (0, b"# Disk DescriptorFile", "vmdk-descriptor"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),  # behind 64 bytes of text
    (0, b"QED\x00", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (_ISO_ID, b"CD001", "iso"),
)

_CONVERT: Final = "convert it first: `qemu-img convert -O qcow2 {image} …`"
_UNPACK: Final = "unpack it first, and give what is in it"
_UNREADABLE: Final[dict[str, tuple[str, str]]] = {
    "qcow": ("it is a qcow image of version 1", _CONVERT),
    "vmdk-cowd": ("it is a VMDK of an ESX host's own (COWD)", _CONVERT),
    "vmdk-descriptor": ("it is the text of a VMDK whose disk lies in other files", _CONVERT),
    "vhdx": ("it is a VHDX", _CONVERT),
    "vdi": ("it is a VirtualBox disk (VDI)", _CONVERT),
    "qed": ("it is a QED image", _CONVERT),
    "parallels": ("it is a Parallels disk", _CONVERT),
    "luks": (
        "it is encrypted (LUKS)",
        "decrypt it first; if the guest itself is to open it, say that the format is raw",
    ),
    "xz": ("it is compressed with xz", _UNPACK),
    "bzip2": ("it is compressed with bzip2", _UNPACK),
    "lz4": ("it is compressed with lz4", _UNPACK),
    "zip": ("it is a ZIP archive", _UNPACK),
    "7z": ("it is a 7-Zip archive", _UNPACK),
    "ova": ("it is an OVA, a whole machine", "unpack it with `tar -x`, and give its disks one by one"),
}


def of_start(start: bytes) -> str | None:
    """What begins like this: a format that xenvol reads, or one that `refuse_unreadable` refuses.

    None is a raw disk, or a fixed VHD, which is told by its end alone. A disk that boots as a CD as well (a hybrid
    ISO) is an ``iso``, and so is a disk that holds nothing but a CD's file system.
    """
    for offset, magic, format in _MAGICS:
        if start.startswith(magic, offset):
            return format
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return "bzip2"
    if (
        start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5
    ):  # a frame that zstd skips, with which pzstd begins
        return "zstd"
    if _is_tar(start):
        name = start[:100].rstrip(b"\0")
        return "ova" if name.lower().endswith(b".ovf") else "tar"  # DSP0243 5.3: the descriptor comes first
    return None


def of_file(file: ByteFile) -> str:
    """The same, and ``vhd-fixed`` or ``raw`` where the beginning says nothing. Raises SourceError.

    A good footer at the end goes before what the disk begins with, which is its guest's.
    """
    format = of_start(file.pread(0, min(START, file.size)))
    if vhd.is_fixed(file):
        return "vhd-fixed"
    return "raw" if format is None else format


def refuse_unreadable(image: str, format: str) -> None:
    """Raises UnsupportedImage, with what to do instead, if `format` is one that nobody here reads."""
    if format in _UNREADABLE:
        problem, remedy = _UNREADABLE[format]
        raise UnsupportedImage(image, problem=problem, remedy=remedy.format(image=image))


def _is_tar(start: bytes) -> bool:
    """By its mark, even where the sum is wrong (a damaged one is no disk either); without a mark (V7) by its sum."""
    header = start[:512]
    if header[257:262] == b"ustar":
        return True
    if len(header) < 512 or not header[0]:
        return False
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")  # over the header with its own field blank
    return header[148:156].strip(b" \0").lstrip(b"0") == b"%o" % checksum
