"""Compare an image with its checksum, byte for byte. A difference is a ChecksumMismatch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from xenvol.images.disk_image import PIECE, ByteFile, Stream
from xenvol.images.errors import ChecksumMismatch
from xenvol.images.sources.files import as_stream
from xenvol.images.sources.streams import drain

_DIGITS: Final = {"md5": 32, "sha256": 64, "sha512": 128}
"""Hexadecimal digits of each. MD5 finds damage but no forgery; old image services know nothing else."""


_LINES: Final = (
    re.compile(r"(?P<digest>[0-9a-fA-F]+)(\s+\*?(?P<name>\S.*))?"),  # of GNU's sha256sum, or a digest alone
    re.compile(r"[\w-]+ ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9a-fA-F]+)"),  # of BSD's sha256, and of openssl
)
LARGEST_LIST: Final = 1 << 20
"""Bytes of a list of checksums that are read."""


@dataclass(frozen=True)
class Checksum:
    """`algorithm` is ``md5``, ``sha256`` or ``sha512``; `digest` has lower-case hexadecimal digits."""

    algorithm: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Parse ``sha256:ab…``, or the digits alone, whose number tells the algorithm. Raises ValueError."""
        algorithm, separator, digest = text.strip().lower().rpartition(":")
        if not separator:
            algorithm = next((name for name, digits in _DIGITS.items() if digits == len(digest)), "")
        if algorithm not in _DIGITS or not re.fullmatch(f"[0-9a-f]{{{_DIGITS[algorithm]}}}", digest):
            known = ", ".join(f"{name}:{digits} digits" for name, digits in _DIGITS.items())
            raise ValueError(f"{text!r} is not a checksum; the checksums, in hexadecimal digits, are {known}")
        return cls(algorithm, digest)

    @classmethod
    def listed(cls, text: str, image: str) -> Checksum:
        """Return the strongest checksum of the file `image` in a list, as ``sha256sum`` and others write it.

        A digest without a name counts for any image; so does the only one in the list if `image` is empty. Raises
        ValueError.
        """
        found = [
            (digest.lower(), PurePosixPath(name.strip()).name)
            for line in text.splitlines()
            for pattern in _LINES
            if (match := pattern.fullmatch(line.strip().removeprefix("\\")))
            for digest, name in [(match["digest"], match.groupdict().get("name") or "")]
            if len(digest) in _DIGITS.values()
        ]
        ours = [digest for digest, name in found if name in ("", image)]
        if not image and len(found) == 1:
            ours = [found[0][0]]
        if not ours:
            wanted = f"of {image}" if image else "that could be the image's"
            raise ValueError(f"there is no checksum {wanted} in it (md5, sha256 and sha512 are known)")
        longest = max(map(len, ours))
        if len({digest for digest in ours if len(digest) == longest}) > 1:
            raise ValueError(f"there are several checksums of {image or 'one kind'} in it")
        return cls.parse(max(ours, key=len))

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digest}"


class _Sums:
    """The digests of the bytes that pass, one for each expected algorithm."""

    def __init__(self, image: str, expected: Iterable[Checksum]) -> None:
        self._image = image
        self._expected = tuple(dict.fromkeys(expected))  # without duplicates
        self._hashes = {
            checksum.algorithm: hashlib.new(checksum.algorithm, usedforsecurity=False)
            for checksum in self._expected
        }

    def update(self, data: bytes) -> None:
        for digest in self._hashes.values():
            digest.update(data)

    def check(self) -> None:
        for checksum in self._expected:
            found = self._hashes[checksum.algorithm].hexdigest()
            if found != checksum.digest:
                raise ChecksumMismatch(
                    self._image, algorithm=checksum.algorithm, expected=checksum.digest, found=found
                )


class Summed:
    """A stream that computes the checksums of the bytes that pass."""

    name: str
    length: int | None

    def __init__(self, stream: Stream, expected: Iterable[Checksum]) -> None:
        self.name = stream.name
        self.length = stream.length
        self.position = 0
        """Bytes that have passed."""
        self._stream = stream
        self._sums = _Sums(stream.name, expected)

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer where the stream ends. Raises SourceError."""
        data = self._stream.read(size)
        self._sums.update(data)
        self.position += len(data)
        return data

    def check(self) -> None:
        """Read the rest, and raise ChecksumMismatch if a checksum differs. Idempotent. Raises SourceError."""
        drain(self)
        self._sums.check()


def check_file(
    file: ByteFile, expected: Iterable[Checksum], tick: Callable[[int], None] | None = None
) -> None:
    """Read the whole file once, holes too, and compare. Raises ChecksumMismatch, SourceError.

    `tick` gets the bytes of each piece; an error from it ends the reading. Without a checksum, nothing is read.
    """
    expected = tuple(expected)
    if not expected:
        return
    sums = _Sums(file.name, expected)
    stream = as_stream(file)
    while data := stream.read(PIECE):
        sums.update(data)
        if tick is not None:
            tick(len(data))
    sums.check()
