"""Where an image is, and what its caller knows of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final, TypeGuard

from xenvol.images.errors import SourceError
from xenvol.images.sources.checksums import Checksum
from xenvol.images.sources.requests import name_of_url
from xenvol.secret import Secret

FORMATS: Final = ("raw", "vhd", "qcow2", "vmdk", "iso", "tarball", "ova")
"""The formats that a caller can name. xenvol decompresses gzip, bzip2, xz and zstd around any of them."""
SYNONYMS: Final = {"tarball": "tar", "ovf": "tar"}
"""Other names of formats. Image services call a tarball of VHDs ``ovf`` (docs/background/peers.md, e.6)."""

Place = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True, kw_only=True, repr=False)
class ImageSource:
    """Where an image is, and what the caller knows of it."""

    where: Place | Sequence[str | os.PathLike[str]]
    """A path, an http or https URL, an open binary file, or the paths of a chain of VHDs, leaf first. An open file is
    read from its current position."""
    format: str | None = None
    """One of `FORMATS`. None: xenvol recognises the format by its first bytes. A raw disk may begin like any format,
    so a caller that knows the format says it. What is said to be ``raw`` or ``iso`` is not decompressed."""
    disk: str | None = None
    """Of an OVA with several disks: the number (from 1), the id or the file's name of the one that is meant."""
    is_packed: bool = False
    """Whether a compression is around what is said to be ``raw`` or ``iso``; around others the first bytes tell."""
    size: int | None = None
    """Bytes of the image as it is stored, for a stream that does not say its length."""
    checksum: str | None = None
    """Of the image as it is stored: ``sha256:…``, ``sha512:…``, ``md5:…``, or the digits alone."""
    checksum_file: str | os.PathLike[str] | None = None
    """The path or URL of a list of checksums, as ``sha256sum`` writes it, that names the image's file."""
    headers: Mapping[str, str | Secret] = field(default_factory=dict)
    """For a URL: for example the token of an image service."""
    ca_file: str | None = None
    """For a URL: the certificates of the authorities that xenvol trusts instead of the system's."""
    insecure: bool = False
    """For a URL: the host's certificate is not checked."""
    rate: int | None = None
    """For a URL: bytes a second, at most."""
    unknown_length: bool = False
    """The image may be raw, from a stream whose end shows nowhere: it is taken for whole, wherever it ends."""

    @classmethod
    def of(cls, source: Source) -> ImageSource:
        """Return the source itself, or one that has this place and nothing else."""
        return source if isinstance(source, ImageSource) else cls(where=source)

    def __repr__(self) -> str:
        """Without a URL's query and headers, which may hold secrets."""
        where = name_of_url(self.where) if is_url(self.where) else repr(self.where)
        return f"<ImageSource {where}{'' if self.format is None else f', {self.format}'}>"

    def checksums(self) -> list[Checksum]:
        return [] if self.checksum is None else [Checksum.parse(self.checksum)]

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown format, or a checksum that is not one."""
        self.checksums()
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"a rate is a number of bytes a second above 0, and not {self.rate}")
        if self.format is not None and self.format not in (*FORMATS, *SYNONYMS):
            raise ValueError(f"{self.format!r} is not an image format; the formats are {', '.join(FORMATS)}")


Source = ImageSource | Place | Sequence[str | os.PathLike[str]]


def is_url(where: object) -> TypeGuard[str]:
    return isinstance(where, str) and where.lower().startswith(("http://", "https://"))


def check_place(where: object) -> None:
    """Raise SourceError for a URL that xenvol does not fetch, unless there is a file of that name."""
    if not isinstance(where, str) or is_url(where) or os.path.lexists(where):
        return
    scheme, colon, rest = where.partition(":")
    if not colon or not re.fullmatch("[A-Za-z][A-Za-z0-9+.-]+", scheme):
        return
    if scheme.lower() == "file":
        raise SourceError(
            name_of_url(where), problem="it is a URL of a file of this machine: give its path instead"
        )
    if rest.startswith("//"):
        raise SourceError(
            name_of_url(where),
            problem=f"xenvol fetches http and https URLs, and not {scheme}: give such a URL (of object storage a "
            "signed one), or fetch the image with a program that knows the service, and pipe it in (-)",
        )
