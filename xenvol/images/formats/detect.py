"""Recognise an image by its bytes, never by its name. An unknown beginning is a raw disk.

A guest writes its raw disk, so it can make the disk look like any format. Hence a reader opens no other file that an
image names, and xenvol believes a caller that names the format.
"""

from __future__ import annotations

from typing import Final

from xenvol.images.disk_image import ByteFile
from xenvol.images.errors import UnsupportedImage
from xenvol.images.formats import vhd

_ISO_ID: Final = 0x8001  # ECMA-119 7.1, 8.1: sector 16 of 2048 bytes, after the byte of the descriptor's type
START: Final = _ISO_ID + 5
"""Bytes from the beginning that `of_start` needs; with fewer it recognises less."""

_MAGICS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"conectix", "vhd"),  # the copy of the footer; a fixed VHD has none
    (0, b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk-cowd"),
    (0, b"# Disk DescriptorFile", "vmdk-descriptor"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),  # after 64 bytes of text
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
_UNPACK: Final = "unpack it first, and give its content"
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
        "decrypt it first; if the guest itself is to open it, give the format raw",
    ),
    "xz": ("it is compressed with xz", _UNPACK),
    "bzip2": ("it is compressed with bzip2", _UNPACK),
    "lz4": ("it is compressed with lz4", _UNPACK),
    "zip": ("it is a ZIP archive", _UNPACK),
    "7z": ("it is a 7-Zip archive", _UNPACK),
    "ova": ("it is an OVA, a whole machine", "unpack it with `tar -x`, and give its disks one by one"),
}


def of_start(start: bytes) -> str | None:
    """Return the format that begins like this: one that xenvol reads, or one that `refuse_unreadable` refuses.

    None means a raw disk, or a fixed VHD, which only its end tells. A hybrid ISO, which boots as a disk too, is an
    ``iso``, and so is a disk that holds only a CD's file system.
    """
    for offset, magic, format in _MAGICS:
        if start.startswith(magic, offset):
            return format
    if start.startswith(b"BZh") and start[4:10] == b"1AY&SY":
        return "bzip2"
    if start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5:  # a frame that zstd skips; pzstd begins with one
        return "zstd"
    if _is_tar(start):
        name = start[:100].rstrip(b"\0")
        return "ova" if name.lower().endswith(b".ovf") else "tar"  # DSP0243 5.3: the descriptor comes first
    return None


def of_file(file: ByteFile) -> str:
    """Return the format of a file: as `of_start`, and ``vhd-fixed`` or ``raw`` by its end. Raises SourceError.

    A good footer at the end goes before the disk's beginning, which its guest wrote.
    """
    format = of_start(file.pread(0, min(START, file.size)))
    if vhd.is_fixed(file):
        return "vhd-fixed"
    return "raw" if format is None else format


def refuse_unreadable(image: str, format: str) -> None:
    """Raise UnsupportedImage, with the remedy, if xenvol does not read `format`."""
    if format in _UNREADABLE:
        problem, remedy = _UNREADABLE[format]
        raise UnsupportedImage(image, problem=problem, remedy=remedy.format(image=image))


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
