"""The formats that xenvol recognises and does not read: each is refused by its name, with what to do instead.

A file that begins or ends like one of these is no raw disk, and as a disk it would be useless. Only a caller that says
`raw` makes a disk of it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_CONVERT: Final = "convert it first: `qemu-img convert -O qcow2 {image} …`"
_UNPACK: Final = "unpack it first, and give its content"
_FETCH: Final = (
    "give the image itself; if it was downloaded, check the URL and whether the server wants a log-in"
)


class Foreign(NamedTuple):
    """What the image is, as a sentence, and the remedy."""

    problem: str
    remedy: str


FOREIGN: Final[dict[str, Foreign]] = {
    "qcow": Foreign("it is a qcow image of version 1", _CONVERT),
    "vmdk-cowd": Foreign("it is a VMDK of an ESX host's own (COWD)", _CONVERT),
    "vmdk-sesparse": Foreign("it is a VMDK of an ESXi host's own (SEsparse)", _CONVERT),
    "vmdk-descriptor": Foreign("it is the text of a VMDK whose disk lies in other files", _CONVERT),
    "vhdx": Foreign("it is a VHDX", _CONVERT),
    "vdi": Foreign("it is a VirtualBox disk (VDI)", _CONVERT),
    "qed": Foreign("it is a QED image", _CONVERT),
    "parallels": Foreign("it is a Parallels disk", _CONVERT),
    "bochs": Foreign("it is a Bochs disk", _CONVERT),
    "cloop": Foreign("it is a compressed loop image (cloop)", _CONVERT),
    "dmg": Foreign("it is a disk image of macOS (DMG)", _CONVERT),
    "sparseimage": Foreign("it is a sparse disk image of macOS", "convert it first, with `hdiutil convert`"),
    "vma": Foreign(
        "it is a backup of Proxmox (VMA)", "unpack it first, with `vma extract`, and give its disks"
    ),
    "wim": Foreign("it is a Windows image of files (WIM)", "apply it to a disk first, and give that disk"),
    "android-sparse": Foreign("it is a sparse image of Android", "unpack it first, with `simg2img`"),
    "ewf": Foreign("it is a forensic image (EWF, E01)", "unpack it first, with `ewfexport`"),
    "partclone": Foreign("it is an image of a partition (partclone)", "restore it to a disk first"),
    "luks": Foreign(
        "it is encrypted (LUKS)",
        "decrypt it first; if the guest itself is to open it, give the format raw",
    ),
    "lz4": Foreign("it is compressed with lz4", _UNPACK),
    "lzma": Foreign("it is compressed with lzma", _UNPACK),
    "lzop": Foreign("it is compressed with lzop", _UNPACK),
    "lzip": Foreign("it is compressed with lzip", _UNPACK),
    "compress": Foreign("it is compressed with compress", _UNPACK),
    "zip": Foreign("it is a ZIP archive", _UNPACK),
    "7z": Foreign("it is a 7-Zip archive", _UNPACK),
    "rar": Foreign("it is a RAR archive", _UNPACK),
    "cab": Foreign("it is a cabinet archive", _UNPACK),
    "ova-late": Foreign(
        "it is an OVA whose disks come before its description", "give it as a file, not as a stream"
    ),
    "xva": Foreign(
        "it is an XVA, a whole VM", "import it with `xe vm-import`, which makes the VM and its disks"
    ),
    "html": Foreign("it is an HTML page", _FETCH),
    "xml": Foreign("it is an XML text", _FETCH),
    "json": Foreign("it is a JSON text", _FETCH),
    "git-lfs": Foreign("it is a pointer of Git LFS, and not the file", "fetch the file with `git lfs pull`"),
    "checksums": Foreign(
        "it is a file of checksums", "give the image, and the checksum as such (--checksum)"
    ),
    "signature": Foreign("it is a signature, a key or a certificate", "give the image itself"),
    "text": Foreign("it is a text", _FETCH),
    "odd": Foreign(
        "its size is no whole number of sectors (512 bytes), so it is no whole disk",
        "fetch it again, in case it was cut off",
    ),
}
"""By the name that `detect` gives a format."""

MAGICS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"QFI\xfb\x00\x00\x00\x01", "qcow"),
    (0, b"COWD", "vmdk-cowd"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "vmdk-sesparse"),
    (0, b"vhdxfile", "vhdx"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),  # after 64 bytes of text
    (0, b"QED\x00", "qed"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format", "cloop"),
    (0, b"koly\0\0\0\x04", "dmg"),
    (0, b"sprs", "sparseimage"),
    (0, b"VMA\0", "vma"),
    (0, b"MSWIM\0\0\0", "wim"),
    (0, b"\x3a\xff\x26\xed", "android-sparse"),
    (0, b"EVF\x09\r\n\xff\0", "ewf"),
    (0, b"partclone-image", "partclone"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"\x02\x21\x4c\x18", "lz4"),  # as `lz4 -l` writes it
    (0, b"\x89LZO\x00\r\n\x1a\n", "lzop"),
    (0, b"LZIP\x01", "lzip"),
    (0, b"\x1f\x9d\x90", "compress"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),  # empty
    (0, b"PK\x07\x08", "zip"),  # one of several files
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"MSCF\0\0\0\0", "cab"),
)
"""Offset, bytes there, name."""

_DMG_TRAILER: Final = b"koly\0\0\0\x04"
_DMG_TRAILER_SIZE: Final = 512

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_LOOKED_AT: Final = 10 << 10  # bytes: the longest descriptor that QEMU reads
_WHOLE: Final = 512  # bytes of text at the beginning of what is a text, and no disk
_VMDK: Final = re.compile(
    r"^\s*(createType\s*=|#\s*disk\s*descriptor\s*file|(RW|RDONLY|NOACCESS)\s+\d+\s+[A-Z]+\b|ddb\.\w+\s*=)",
    re.IGNORECASE | re.MULTILINE,
)
_STARTS: Final = (
    (
        "html",
        re.compile(r"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL),
    ),
    ("xml", re.compile(r"\s*<(\?xml|\w+[\s>:/])", re.IGNORECASE)),
    ("git-lfs", re.compile(r"version https?://\S+/spec/")),
    ("json", re.compile(r"\s*[\[{]\s*[\"\[\]{}]")),
    ("signature", re.compile(r"\s*-----BEGIN ")),
    (
        "checksums",
        re.compile(
            r"\s*(#[^\n]*\n\s*)*([0-9a-f]{32,128}([ \t]+[*]?\S|\s*$)|\w+ \(.+\) = [0-9a-f]{32})", re.I
        ),
    ),
)


def of_text(start: bytes) -> str | None:
    """Return what kind of text begins like this; None if it is no text.

    The text of a VMDK, and a page or an XML, are told by a few words, since zeros may follow them. Any other text is
    told by its first 512 bytes, or all of it if it is shorter: no boot sector is so, and it has lines.
    """
    head = start[:_LOOKED_AT]
    text = _decoded(head.split(b"\0\0", 1)[0])
    if text is None or not text.strip():
        return None
    if _VMDK.search(text):
        return "vmdk-descriptor"
    known = next((name for name, pattern in _STARTS if pattern.match(text)), None)
    if known in ("html", "git-lfs", "signature"):
        return known
    if _decoded(head[:_WHOLE].rstrip(b"\0") if len(head) < _WHOLE else head[:_WHOLE]) is None:
        return None
    return known or ("text" if "\n" in text[:_WHOLE] else None)  # a disk may be full of one letter


def _decoded(data: bytes) -> str | None:
    """Return the bytes as text; None if some are of no text. The last character may be cut."""
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3:
            return None
        text = data[: error.start].decode(encoding)
    text = text.removeprefix("\ufeff")
    return text if all(character.isprintable() or character in "\t\r\n\f\v" for character in text) else None


def is_lzma(start: bytes) -> bool:
    """Return whether a stream of the old format of LZMA begins, which has no magic: its header is plausible."""
    if len(start) < 13 or start[0] != 0x5D:  # the properties that every tool writes
        return False
    dictionary, size = int.from_bytes(start[1:5], "little"), int.from_bytes(start[5:13], "little")
    is_round = dictionary >= 4096 and bin(dictionary).count("1") <= 2
    return (is_round or dictionary == 0xFFFFFFFF) and (size == (1 << 64) - 1 or 0 < size < 1 << 50)


def of_end(tail: bytes) -> str | None:
    """Return the format whose trailer these last bytes are, or None."""
    trailer = tail[-_DMG_TRAILER_SIZE:]
    return "dmg" if len(trailer) == _DMG_TRAILER_SIZE and trailer.startswith(_DMG_TRAILER) else None
