"""The names of a tarball's members tell the order of the chain (docs/background/peers.md, e.6)."""

from __future__ import annotations

import logging
import re
from typing import Final, Literal

from xenvol.images.errors import InvalidImage, UnsupportedImage
from xenvol.images.formats.chain import MAX_CHAIN
from xenvol.images.formats.foreign import FOREIGN
from xenvol.images.formats.tar_headers import Bad, Member, shown

_OLD: Final = ("snap.vhd", "image.vhd", "base.vhd")
_IGNORED: Final = "swap.vhd"

_JUNK: Final = re.compile(r"(.*/)?(\._[^/]*|\.DS_Store)|__MACOSX(/.*)?")
"""What a Mac adds to an archive: attributes of its files, and no file of the chain."""
_OF_AN_OVA: Final = re.compile(r"[^/]+\.(ovf|mf|cert|vmdk|vhdx)", re.IGNORECASE)  # DSP0243 5.3
_OF_AN_XVA: Final = re.compile(r"ova\.xml|Ref:[^/]*(/.*)?")

log = logging.getLogger(__name__)


class Names:
    """Collects the members in the order of the tar. No I/O.

    The names are numbers, the old names, or one other name, which stands alone. A single VHD is the leaf under any
    name.
    """

    def __init__(self, image: str) -> None:
        self._bad = Bad(image)
        self.members: dict[str, Member] = {}
        """By name without ``./``, in the order of the tar."""
        self._seen: set[str] = set()

    def take(self, member: Member) -> str | None:
        """Return the member's name; None if it holds no layer. Raises InvalidImage for an unexpected member."""
        name = member.name.removeprefix("./")
        if is_junk(name):
            log.info("%s in %s is skipped", shown(name), self._bad.image)
            return None
        if (kind := kind_of(name)) in ("ova", "xva"):
            found = FOREIGN["xva" if kind == "xva" else "ova-late"]
            raise UnsupportedImage(self._bad.image, problem=found.problem, remedy=found.remedy)
        if member.kind != "file":
            if member.kind == "a directory" and name in ("", "."):
                return None
            raise self._refused(member, f"is {member.kind}")
        if not (
            re.fullmatch(r"[^/\\]{1,251}\.vhd", name) and name.isprintable()
        ):  # at most the length of a file name
            raise self._refused(member, "does not have the name of a VHD of a chain")
        if name in self._seen:
            raise self._refused(member, "is there twice")
        self._seen.add(name)
        if name == _IGNORED:
            log.info("%s in %s is skipped", name, self._bad.image)
            return None
        if self.members and {_kind(other) for other in self.members} | {_kind(name)} not in (
            {"number"},
            {"old"},
        ):
            others = ", ".join(shown(other) for other in self.members)
            raise self._refused(member, f"is of another kind than {others}")
        if _kind(name) == "number" and int(name.removesuffix(".vhd")) >= MAX_CHAIN and self.members:
            raise self._refused(member, f"would be more than the {MAX_CHAIN} layers that a chain may have")
        self.members[name] = member
        return name

    def below(self, name: str) -> str | None:
        """Return the name of the layer below; None if the layer stands alone."""
        if _kind(name) == "number":
            return f"{int(name.removesuffix('.vhd')) + 1}.vhd"
        return _OLD[_OLD.index(name) + 1] if name in _OLD[:-1] else None

    def leads(self, name: str) -> bool:
        """Return whether a member of this name is the leaf, whatever members follow."""
        return name in ("0.vhd", "snap.vhd") or _kind(name) == "any"

    def stands_alone(self, name: str) -> bool:
        """Return whether a member of this name has no layer below it."""
        return _kind(name) == "any"

    def chain(self) -> list[str]:
        """Return all layers, leaf first. Call it after the last member. Raises InvalidImage for a chain with gaps."""
        names = self.members
        if not names:
            raise self._bad.tar("there is no VHD in it", 0)
        if len(names) == 1:
            return list(names)
        if not names.keys().isdisjoint(_OLD):
            if "image.vhd" not in names:
                raise self._bad.tar(
                    "snap.vhd and base.vhd are there, and image.vhd between them is missing", 0
                )
            return [name for name in _OLD if name in names]
        chain = [f"{number}.vhd" for number in range(len(names))]
        for name in chain:
            if name not in names:
                raise self._bad.tar(f"{name} is missing, and {', '.join(sorted(names))} are there", 0)
        return chain

    def _refused(self, member: Member, why: str) -> InvalidImage:
        return self._bad.tar(f"{shown(member.name)} {why}", member.offset)


def is_junk(name: str) -> bool:
    """Return whether the member is what a Mac adds to an archive, and no part of an image."""
    return _JUNK.fullmatch(name.removeprefix("./")) is not None


def kind_of(name: str) -> Literal["ova", "xva", "tar-raw", "tar"]:
    """Return what a tar is that has a member of this name: a whole machine, a raw disk, or perhaps a chain of VHDs."""
    name = name.removeprefix("./")
    if name == "disk.raw":
        return "tar-raw"
    if _OF_AN_XVA.fullmatch(name):
        return "xva"
    return "ova" if _OF_AN_OVA.fullmatch(name) else "tar"


def _kind(name: str) -> str:
    if name in _OLD:
        return "old"
    return "number" if re.fullmatch(r"(0|[1-9][0-9]{0,3})\.vhd", name) else "any"
