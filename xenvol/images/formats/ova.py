"""Read one disk of an OVA, a tar of a machine: its OVF says which members are disks, its manifest what they hold.

The members may come in any order. A name in the OVF is only looked up in the tar: no other file is ever opened.
(DSP0243, "Open Virtualization Format Specification" 2.1.)
"""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from xenvol.images.disk_image import PIECE, ByteFile
from xenvol.images.errors import ChecksumMismatch, InvalidImage, UnsupportedImage
from xenvol.images.formats.tar_headers import Bad, Headers, Member, shown
from xenvol.images.formats.tar_names import is_junk
from xenvol.images.sources.files import Window, as_stream

_LARGEST_TEXT: Final = 4 << 20  # bytes of an OVF or a manifest; those of machines have some KiB
_LISTED: Final = 10  # disks that an error names
_LINE: Final = re.compile(
    r"(?P<algorithm>SHA(?:1|256|512))\s*\((?P<name>.+)\)\s*=\s*(?P<digest>[0-9a-fA-F]+)"
)


@dataclass(frozen=True)
class Disk:
    """A disk that the OVF names."""

    id: str
    href: str
    """The name of its file in the tar."""
    is_packed: bool
    """Whether gzip is around it."""


def has_description(file: ByteFile) -> bool:
    """Return whether the tar has an OVF. Raises InvalidImage for a damaged tar, SourceError."""
    return any(name.lower().endswith(".ovf") for name in _members(file))


def disk_of(
    file: ByteFile, wanted: str | None, *, tick: Callable[[int], None] | None = None
) -> tuple[Disk, Window]:
    """Return the wanted disk, and its file in the tar, compared with the manifest if there is one.

    `wanted` is its number (from 1), its id or its file's name; None: the only one. `tick` gets the bytes that are
    compared. Raises InvalidImage, UnsupportedImage, ChecksumMismatch, SourceError.
    """
    members = _members(file)
    ovfs = [name for name in members if name.lower().endswith(".ovf")]
    if len(ovfs) != 1:
        raise Bad(file.name).tar(f"it has {len(ovfs)} descriptions (.ovf), and an OVA has one", 0)
    (ovf,) = ovfs
    disks = _disks(_text(file, members[ovf]), file.name)
    disk = _chosen(disks, wanted, file.name)
    member = members.get(disk.href)
    if member is None:
        remedy = "give the file that holds its disk" if "://" in disk.href else "fetch it again"
        raise UnsupportedImage(file.name, problem=f"its disk {shown(disk.href)} is not in it", remedy=remedy)
    manifest = next((name for name in members if name == f"{ovf[:-4]}.mf"), None)
    if manifest is not None:
        digests = _digests(_text(file, members[manifest]), file.name)
        for name in (ovf, disk.href):
            _compare(_window(file, members[name]), name, digests, tick)
    return disk, _window(file, member)


def _members(file: ByteFile) -> dict[str, Member]:
    """Return the files in the tar, by name. Raises InvalidImage if one is there twice, or cut."""

    def part(offset: int, size: int) -> bytes:
        return file.pread(offset, min(size, file.size - offset)) if offset < file.size else b""

    headers = Headers(file.name, part)
    members: dict[str, Member] = {}
    while (member := headers.next()) is not None:
        name = member.name.removeprefix("./")
        if member.kind == "a directory" or is_junk(name):
            continue
        if member.kind != "file":
            raise Bad(file.name).tar(f"{shown(name)} is {member.kind}", member.offset)
        if name in members:
            raise Bad(file.name).tar(f"{shown(name)} is there twice", member.offset)
        if member.start + member.size > file.size:
            raise Bad(file.name).cut(f"it ends in {shown(name)}", file.size)
        members[name] = member
    return members


def _window(file: ByteFile, member: Member) -> Window:
    name = f"{member.name.removeprefix('./')} in {file.name}"
    return Window(file, offset=member.start, size=member.size, name=name)


def _text(file: ByteFile, member: Member) -> str:
    if member.size > _LARGEST_TEXT:
        raise Bad(file.name).tar(
            f"{shown(member.name)} has {member.size} bytes, and is a text", member.offset
        )
    return file.pread(member.start, member.size).decode("utf-8", "replace")


def _disks(ovf: str, image: str) -> list[Disk]:
    """Return the disks with content that an OVF names, in its order. Raises InvalidImage."""
    if "<!DOCTYPE" in ovf or "<!ENTITY" in ovf:  # no OVF has them, and they can make a text of any length
        raise _bad(image, "its description has a document type")
    try:
        root = ElementTree.fromstring(ovf)
    except ElementTree.ParseError as error:
        raise _bad(image, f"its description is no XML ({error})") from error
    files = {_of(each, "id"): each for each in root.iter() if _local(each.tag) == "File"}
    disks = []
    for each in root.iter():
        if _local(each.tag) != "Disk" or not (reference := _of(each, "fileRef")):
            continue  # an empty disk has no file
        file = files.get(reference)
        if file is None:
            raise _bad(
                image, f"its disk {shown(_of(each, 'diskId'))} refers to {shown(reference)}, which is missing"
            )
        compression = _of(file, "compression")
        if compression not in ("", "identity", "gzip") or _of(file, "chunkSize"):
            what = "in chunks" if _of(file, "chunkSize") else f"compressed with {shown(compression)}"
            raise UnsupportedImage(
                image,
                problem=f"its disk {shown(_of(file, 'href'))} is {what}",
                remedy="unpack it, and give the disk",
            )
        disks.append(Disk(_of(each, "diskId"), _of(file, "href"), compression == "gzip"))
    if not disks:
        raise _bad(image, "its description names no disk that has a file")
    return disks


def _chosen(disks: list[Disk], wanted: str | None, image: str) -> Disk:
    names = ", ".join(f"{number} {shown(disk.href)}" for number, disk in enumerate(disks[:_LISTED], 1))
    if wanted is None:
        if len(disks) > 1:
            raise UnsupportedImage(
                image,
                problem=f"it holds {len(disks)} disks: {names}",
                remedy="say which, by number or name (--disk)",
            )
        return disks[0]
    found = [disk for number, disk in enumerate(disks, 1) if wanted in (str(number), disk.href, disk.id)]
    if len(found) != 1:
        raise UnsupportedImage(
            image,
            problem=f"it has no disk {wanted!r}, or several",
            remedy=f"give one of its disks (--disk): {names}",
        )
    return found[0]


def _digests(manifest: str, image: str) -> dict[str, tuple[str, str]]:
    """Return algorithm and digest by the file's name. Raises InvalidImage for a line that is none."""
    found = {}
    for line in filter(None, map(str.strip, manifest.splitlines())):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _bad(image, f"its manifest has a line that is none: {shown(line)}")
        found[match["name"].strip()] = match["algorithm"].lower(), match["digest"].lower()
    return found


def _compare(
    window: Window,
    name: str,
    digests: Mapping[str, tuple[str, str]],
    tick: Callable[[int], None] | None,
) -> None:
    """Raise ChecksumMismatch if the file differs from its digest, InvalidImage if it has none."""
    if name not in digests:
        raise _bad(window.name, "the manifest does not list it")
    algorithm, expected = digests[name]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    stream = as_stream(window)
    while data := stream.read(PIECE):
        digest.update(data)
        if tick is not None:
            tick(len(data))
    if digest.hexdigest() != expected:
        raise ChecksumMismatch(window.name, algorithm=algorithm, expected=expected, found=digest.hexdigest())


def _local(tag: str) -> str:
    """Return the name without its namespace, which differs from version to version."""
    return tag.rpartition("}")[2]


def _of(element: ElementTree.Element, name: str) -> str:
    return next((value for key, value in element.attrib.items() if _local(key) == name), "")


def _bad(image: str, problem: str) -> InvalidImage:
    return InvalidImage(image, format="ova", problem=problem)
