"""The VHD reader against the fuzzer of atheris: ``python tests/images/fuzz_vhd.py -max_total_time=60``.

Whatever the bytes are: only the errors that a bad image is to get, no read outside of the file, no more bytes than
the disk has, and no more work than the file's size allows. An input is short, so that there are many in a second: it
says how many bytes, and of which kind, lie between its structures and its last footer (`Input`). The mutator keeps
the checksums right three times of four, so that what lies behind them is seen.
"""

from __future__ import annotations

import contextlib
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not on every platform, and ships no types

with atheris.instrument_imports(include=["xenvol.images"]):
    from xenvol.images.disk_image import NeedsFile
    from xenvol.images.errors import ImageTooLarge, InvalidImage, UnsupportedImage
    from xenvol.images.formats import chain, detect, vhd

import vhdkit
from vhdkit import KIB, MIB

OURS: tuple[type[Exception], ...] = (InvalidImage, UnsupportedImage, ImageTooLarge, NeedsFile)
MOST = 8 * KIB
"""Bytes of an input."""
LEAF, BASE = UUID(int=1), UUID(int=2)
CLOSING = 512


class Input:
    """The file that an input stands for: what it begins with, a filling of up to 16 MiB, its last 512 bytes.

    The first 4 bytes: the filling's byte, a bit for each sector of a bitmap that lies there; how many bytes of it.
    It is both a ByteFile and a Stream.
    """

    name = "disk.vhd"

    def __init__(self, data: bytes, *, knows_length: bool = False) -> None:
        self.fill = data[:1] or b"\0"
        self.head, self.tail = data[4:-CLOSING], data[4:][-CLOSING:]
        self.end_of_fill = len(self.head) + int.from_bytes(data[1:4], "big")
        self.size = self.end_of_fill + len(self.tail)
        self.length = self.size if knows_length else None
        self.position = 0
        self.reads = 0

    def pread(self, offset: int, size: int, /) -> bytes:
        assert 0 <= offset <= offset + size <= self.size, "a read outside of the file"
        self.reads += 1
        assert self.reads < 100 + 6 * self.size // (512 * KIB) + self.size // MIB, "it is read for ever"
        head = self.head[offset : offset + size]
        filled = max(0, min(offset + size, self.end_of_fill) - max(offset, len(self.head)))
        tail = self.tail[max(0, offset - self.end_of_fill) : max(0, offset + size - self.end_of_fill)]
        data = head + self.fill * filled + tail
        assert len(data) == size
        return data

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if self.size:
            yield 0, self.size

    def read(self, size: int, /) -> bytes:
        data = self.pread(self.position, min(size, self.size - self.position))
        self.position += len(data)
        return data


def compact(image: bytes, fill: int = 0xFF) -> bytes:
    """An input that begins like this image, and has its length and its end."""
    head = image[:-CLOSING][: 5 * KIB]
    return bytes([fill]) + (len(image) - CLOSING - len(head)).to_bytes(3, "big") + head + image[-CLOSING:]


def corpus() -> dict[str, bytes]:
    runs = {512: b"a" * 1024, 64 * KIB: b"b" * 4096, 512 * KIB - 512: b"c" * 1024}
    half = 512 * KIB
    return {
        "dynamic": compact(vhdkit.make_dynamic(MIB, runs, block_size=half, uuid=BASE)),
        "order": compact(
            vhdkit.make_dynamic(MIB + 512, runs, block_size=half, uuid=BASE, order=[1, 0], gap=512)
        ),
        "whole": compact(vhdkit.make_dynamic(MIB - 512, runs, block_size=half, uuid=BASE, whole=True)),
        "large": compact(vhdkit.make_dynamic(12 * MIB, {9 * MIB: b"x" * MIB, **runs}, uuid=BASE), fill=0xA5),
        "leaf": compact(
            vhdkit.make_differencing(MIB, runs, block_size=half, uuid=LEAF, parent=BASE, parent_name="base"),
            fill=0x0F,
        ),
        "spare": compact(vhdkit.make_dynamic(MIB, {}, block_size=half, uuid=BASE, spare=100, header_at=1024)),
        "fixed": compact(vhdkit.make_fixed(b"z" * 8192, uuid=BASE)),
        "none": b"",
    }


def drain(layer: vhd.Layer) -> None:
    given = 0
    for offset, data in layer.pieces():
        assert data
        assert len(data) <= MIB
        assert 0 <= offset < offset + len(data) <= layer.virtual_size
        given += len(data)
    assert given <= (layer.virtual_size if layer.allocated is None else layer.allocated)


def flat(data: bytes) -> None:
    """As the leaf over a good base, and as the base beneath a good leaf."""
    for leaf, base in ((data, _BASE), (_LEAF, data)):
        disk = chain.flatten(vhd.from_file(Input(leaf)), iter([vhd.from_file(Input(base))]))
        given = 0
        for offset, part in disk.pieces():
            assert 0 <= offset < offset + len(part) <= disk.virtual_size
            given += len(part)
        assert given <= disk.virtual_size


WAYS: list[Callable[[bytes], object]] = [
    lambda data: drain(vhd.from_file(Input(data))),
    lambda data: drain(vhd.from_stream(Input(data))),
    lambda data: drain(vhd.from_stream(Input(data, knows_length=True))),
    lambda data: drain(vhd.fixed_from_stream(Input(data, knows_length=True))),
    lambda data: detect.of_file(Input(data)),
    flat,
]


def one_input(data: bytes) -> None:
    for way in WAYS:
        with contextlib.suppress(*OURS):
            way(data)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    chance = random.Random(seed)
    prefix, image = data[:4].ljust(4, b"\0"), data[4:]
    if len(image) < 2048 or chance.random() < 0.1:
        changed: bytes = atheris.Mutate(data, max_size)
        prefix, image = changed[:4].ljust(4, b"\0"), changed[4:]
    else:
        image = _in_structures(image, chance)
        if chance.random() < 0.2:
            prefix = bytes([chance.choice([0, 255, 0xA5, 1, 0x80, chance.getrandbits(8)])]) + prefix[1:]
        if chance.random() < 0.1:
            more = int.from_bytes(prefix[1:], "big") + chance.choice(
                [-512, 512, -1, 1, 1 << 20, 512 * KIB + 512]
            )
            prefix = prefix[:1] + (more % (1 << 24)).to_bytes(3, "big")
    if len(image) > 2048 and chance.random() < 0.75:
        image = _right(image, chance)
    return (prefix + image)[:max_size]


def _in_structures(data: bytes, chance: random.Random) -> bytes:
    """A random change with the fuzzer's bytes or with numbers that matter, where they are looked at."""
    header = int.from_bytes(data[16:24], "big")
    header = header if header + 1024 <= len(data) else 512
    table = int.from_bytes(data[header + 16 : header + 24], "big")
    table = table if table + 64 <= len(data) else 1536
    fields = [12, 16, 48, 60, 64, 68, 85, *(header + at for at in (0, 16, 20, 24, 28, 32, 40, 64))]
    entries = [table + 4 * index for index in range(16)]
    for _ in range(chance.randint(1, 3)):
        at = chance.choice(
            [*fields, *entries, chance.randrange(len(data)), len(data) - 512 + chance.randrange(512)]
        )
        width = chance.choice([1, 4, 8])
        around = int.from_bytes(data[at : at + width], "big")
        numbers = [0, 1, 2, 4, 512, 2**31, 2**32 - 1, 2**64 - 1, len(data) // 512, 1 << chance.randrange(64)]
        numbers += [around + 1, around - 1, around << 1, around + 512, around - 512, chance.getrandbits(64)]
        value = chance.choice(numbers)
        data = vhdkit.patched(data, at, (value % 256**width).to_bytes(width, "big"))[: len(data)]
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))] + data[chance.randrange(len(data)) :]
    return data


def _right(data: bytes, chance: random.Random) -> bytes:
    """With right cookies and checksums, and mostly with the same footer at both ends."""
    (header,) = struct.unpack_from(">Q", data, 16)
    if chance.random() < 0.9 and 512 <= header <= len(data) - 1024 - 512:
        block = b"cxsparse" + data[header + 8 : header + 1024]
        data = vhdkit.patched(data, header, vhdkit.summed(block, 36))
    first = vhdkit.summed(b"conectix" + data[8:512], 64)
    last = first if chance.random() < 0.8 else vhdkit.summed(b"conectix" + data[-504:], 64)
    return first + data[512:-512] + last


_BASE, _LEAF = corpus()["dynamic"], corpus()["leaf"]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, data in corpus().items():
            Path(directory, name).write_bytes(data)
        arguments = [
            sys.argv[0],
            f"-max_len={MOST}",
            "-timeout=20",
            "-rss_limit_mb=1024",
            *sys.argv[1:],
            directory,
        ]
        atheris.Setup(arguments, one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
