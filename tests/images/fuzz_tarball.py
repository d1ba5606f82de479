"""The tarball reader and the decompression against the fuzzer of atheris: ``python tests/images/fuzz_tarball.py``.

Whatever the bytes are: only the errors that a bad image is to get, no read outside of the file, no more bytes than
the disk has, no more work than the input's size allows, and nothing that stays where layers are staged. The mutator
changes members as such, and keeps the headers' checksums right three times of four, so that what lies behind them is
seen. Options are libFuzzer's: ``-max_total_time=60``.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not on every platform, and ships no types

with atheris.instrument_imports(include=["xenvol.images"]):
    from xenvol.images.disk_image import DiskImage, Stream
    from xenvol.images.errors import ImageTooLarge, InvalidImage, NoRoomToStage, UnsupportedImage
    from xenvol.images.formats import raw_tarball, tarball
    from xenvol.images.sources.compression import decompressed
    from xenvol.images.sources.staging import Staging
    from xenvol.images.sources.streams import Peekable

import vhdkit
from backports import zstd
from vhdkit import KIB, MIB

OURS: tuple[type[Exception], ...] = (InvalidImage, UnsupportedImage, ImageTooLarge, NoRoomToStage)
MOST = 32 * KIB
"""Bytes of an input."""
EXPANDED = 64 * MIB
"""Bytes that are looked at of what is compressed."""
LEAF, MIDDLE, BASE = UUID(int=1), UUID(int=2), UUID(int=3)
NAMES = [
    *(
        "0.vhd",
        "1.vhd",
        "2.vhd",
        "29.vhd",
        "30.vhd",
        "snap.vhd",
        "image.vhd",
        "base.vhd",
        "swap.vhd",
        "any.vhd",
        "disk.raw",
    ),
    *("./0.vhd", "./", ".", "..", "../0.vhd", "/0.vhd", "", "a/b.vhd", "x" * 100, "0.vhd\0y"),
]
KINDS = b"0\0" + b"1234567" + b"LKxgXSVMDA"


class Once:
    """A stream that counts."""

    name = "image.tar"
    length: int | None = None

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._ends = 0

    def read(self, size: int, /) -> bytes:
        assert 0 <= size <= 16 * MIB, "memory for whatever a header claims"
        data = self._file.read(size)
        self._ends += not data
        assert self._ends < 100, "it is read for ever"
        return data


class Bounded:
    """What is compressed, up to `EXPANDED` bytes: the rest takes the time that it takes."""

    def __init__(self, stream: Stream) -> None:
        self.name, self.length = stream.name, stream.length
        self._stream = stream
        self._left = EXPANDED

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(min(size, self._left))
        assert len(data) <= size
        self._left -= len(data)
        return data


def drain(disk: DiskImage) -> None:
    given = 0
    for offset, data in disk.pieces():
        assert data
        assert 0 <= offset < offset + len(data) <= disk.virtual_size
        given += len(data)
    assert given <= disk.virtual_size


def as_stream(data: bytes) -> None:
    with Staging(_DIRECTORY) as staging:
        drain(tarball.from_stream(Once(data), staging=staging))


def as_file(data: bytes) -> None:
    drain(tarball.from_file(vhdkit.BytesFile(data, "image.tar"), directory=Path(_DIRECTORY)))


def as_packed(data: bytes) -> None:
    stream = decompressed(Peekable(Once(data)))
    if not isinstance(stream, Peekable):
        with Staging(_DIRECTORY) as staging:
            drain(tarball.from_stream(Bounded(stream), staging=staging))


def as_raw(data: bytes) -> None:
    drain(raw_tarball.from_stream(Once(data)))


WAYS: list[Callable[[bytes], None]] = [as_stream, as_file, as_packed, as_raw]


def one_input(data: bytes) -> None:
    for way in WAYS:
        with contextlib.suppress(*OURS):
            way(data)
        assert os.listdir(_DIRECTORY) == []


# --- inputs ---------------------------------------------------------------------------------------------------------


def tar(*members: tuple[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def corpus() -> dict[str, bytes]:
    half = 512 * KIB
    leaf = vhdkit.make_differencing(MIB, block_size=half, uuid=LEAF, parent=MIDDLE)
    middle = vhdkit.make_differencing(MIB, block_size=half, uuid=MIDDLE, parent=BASE)
    base = vhdkit.make_dynamic(MIB, block_size=half, uuid=BASE)
    small = vhdkit.make_fixed(b"x" * 1024, uuid=BASE)
    over = vhdkit.make_differencing(1024, uuid=LEAF, parent=BASE)
    ordered = tar(("0.vhd", leaf), ("1.vhd", middle), ("2.vhd", base))
    return {
        "ordered": ordered,
        "reversed": tar(("2.vhd", base), ("1.vhd", middle), ("0.vhd", leaf)),
        "old": tar(("image.vhd", middle), ("swap.vhd", b"x"), ("snap.vhd", leaf), ("base.vhd", base)),
        "fixed": tar(("0.vhd", over), ("1.vhd", small)),
        "alone": tar(("./any.vhd", small), format=tarfile.USTAR_FORMAT),
        "pax": tar(("\u00fc" * 60 + ".vhd", base), format=tarfile.PAX_FORMAT),
        "long": tar(("x" * 150 + ".vhd", base)),
        "gzip": gzip.compress(ordered),
        "members": gzip.compress(ordered[:5000]) + gzip.compress(ordered[5000:]),
        "zstd": zstd.compress(ordered),
        "frames": b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
        + zstd.compress(ordered[:5000])
        + zstd.compress(ordered[5000:]),
    }


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    chance = random.Random(seed)
    data = data[:max_size]  # what comes out of compressed data may be longer
    if data[:2] == b"\x1f\x8b" or data[1:4] in (b"\xb5\x2f\xfd", b"\x2a\x4d\x18"):
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))[:max_size]
        with contextlib.suppress(Exception):  # what is damaged is changed as bytes
            is_gzip = data[:2] == b"\x1f\x8b"
            inner = mutate(gzip.decompress(data) if is_gzip else zstd.decompress(data), max_size, seed)
            return (gzip.compress(inner) if is_gzip else zstd.compress(inner))[:max_size]
        return bytes(atheris.Mutate(data, max_size))[:max_size]
    if chance.random() < 0.15:
        return bytes(atheris.Mutate(data, max_size))[:max_size]
    parts = _split(data)
    for _ in range(chance.randint(1, 3)):
        _change(parts, chance)
    made = b"".join(head + body for head, body in parts)[:max_size]
    return made if chance.random() < 0.9 else made[: chance.randrange(len(made) + 1)]


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    """(header, data with its padding) of each member, as far as it goes; what is behind that as the last."""
    parts = []
    position = 0
    while len(data) - position >= 512 and data[position : position + 512].strip(b"\0"):
        head = data[position : position + 512]
        try:
            size = int(head[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            size = 0
        end = min(len(data), position + 512 + max(0, size) + -size % 512)
        parts.append((head, data[position + 512 : end]))
        position = end
    return [*parts, (b"", data[position:])]


def _change(parts: list[tuple[bytes, bytes]], chance: random.Random) -> None:
    at = chance.randrange(len(parts))
    head, body = parts[at]
    what = chance.randrange(8)
    if what == 0:
        parts.insert(chance.randrange(len(parts)), parts[at])
    elif what == 1 and len(parts) > 1:
        del parts[at]
    elif what == 2:
        chance.shuffle(parts)
    elif what == 3 and body:
        place = chance.randrange(len(body))
        parts[at] = (
            head,
            body[:place] + bytes([chance.choice([0, 1, 255, chance.randrange(256)])]) + body[place + 1 :],
        )
    elif what == 4:
        parts[at] = head, body[: chance.randrange(len(body) + 1)]
    elif head:
        if what == 5:
            head = chance.choice(NAMES).encode()[:100].ljust(100, b"\0") + head[100:]
        elif what == 6:
            head = head[:156] + bytes([chance.choice(KINDS)]) + head[157:]
        else:
            size = chance.choice(
                [0, 1, 511, 512, 513, len(body), len(body) + 1, 1 << 33, 1 << 41, chance.getrandbits(32)]
            )
            field = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
            head = head[:124] + field + head[136:]
        if chance.random() < 0.75:
            total = sum(head[:148]) + sum(head[156:]) + 8 * 32
            head = head[:148] + b"%06o\0 " % total + head[156:]
        parts[at] = head, body


def main() -> int:
    """The exit code of the fuzzer, which ends its process without a chance to clean up; so it has one of its own."""
    with tempfile.TemporaryDirectory() as corpus_directory:
        child = os.fork()
        if child == 0:
            for name, data in corpus().items():
                Path(corpus_directory, name).write_bytes(data)
                one_input(data)
            options = [
                f"-max_len={MOST}",
                "-timeout=20",
                "-rss_limit_mb=1024",
                *sys.argv[1:],
                corpus_directory,
            ]
            atheris.Setup([sys.argv[0], *options], one_input, custom_mutator=mutate)
            atheris.Fuzz()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)


_DIRECTORY = ""  # where layers are staged: in memory, if that can be

if __name__ == "__main__":
    # In memory it is faster. The tests set TMPDIR, and remove what is left there of a run that was killed.
    in_memory = "TMPDIR" not in os.environ and os.path.isdir("/dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if in_memory else None) as _DIRECTORY:
        code = main()
    sys.exit(code)
