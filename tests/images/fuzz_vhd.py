"""The VHD reader against the fuzzer of atheris: ``python tests/images/fuzz_vhd.py -max_total_time=60``.

Whatever the bytes are: only the errors that a bad image is to get, no read outside of the file, no more bytes than
the disk has, and no more work than the file's size allows. The mutator keeps the checksums right three times of four,
so that what lies behind them is seen.
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import atheris

with atheris.instrument_imports(include=["xenvol.images"]):
    from xenvol.images.contents import NeedsFile
    from xenvol.images.errors import ImageTooLarge, InvalidImage, UnsupportedImage
    from xenvol.images.formats import chain, vhd

import vhdkit
from vhdkit import KIB, MIB, BytesFile, BytesStream

OURS = (InvalidImage, UnsupportedImage, ImageTooLarge, NeedsFile)
MOST = 3 * MIB
"""Bytes of an input."""
LEAF, BASE = UUID(int=1), UUID(int=2)


def corpus() -> dict[str, bytes]:
    runs = {512: b"a" * 1024, 64 * KIB: b"b" * 4096, 512 * KIB - 512: b"c" * 1024}
    half = 512 * KIB
    return {
        "dynamic": vhdkit.make_dynamic(MIB, runs, block_size=half, uuid=BASE),
        "order": vhdkit.make_dynamic(MIB + 512, runs, block_size=half, uuid=BASE, order=[1, 0], gap=512),
        "late": vhdkit.make_dynamic(MIB, runs, block_size=half, uuid=BASE, bat_at_end=True),
        "whole": vhdkit.make_dynamic(MIB - 512, runs, block_size=half, uuid=BASE, whole=True),
        "large": vhdkit.make_dynamic(4 * MIB, runs, uuid=BASE),
        "leaf": vhdkit.make_differencing(
            MIB, runs, block_size=half, uuid=LEAF, parent=BASE, parent_name="base"
        ),
        "spare": vhdkit.make_dynamic(MIB, {}, block_size=half, uuid=BASE, spare=100, header_at=1024),
        "fixed": vhdkit.make_fixed(b"z" * 4096, uuid=BASE),
        "none": b"",
    }


class Bounded(BytesFile):
    """A file that is not read again and again."""

    def pread(self, offset: int, size: int, /) -> bytes:
        assert len(self.reads) < 64 + 4 * self.size // KIB, "it is read for ever"
        return super().pread(offset, size)


def drain(layer: vhd.Layer) -> None:
    given = 0
    for offset, data in layer.pieces():
        assert data
        assert len(data) <= MIB
        assert 0 <= offset < offset + len(data) <= layer.virtual_size
        given += len(data)
    assert given <= (layer.virtual_size if layer.allocated is None else layer.allocated)


def flat(data: bytes) -> None:
    """As the leaf over a good base, and as the base beneath a good leaf; without the parent it may need."""
    leaf = vhd.from_file(BytesFile(data))
    base = vhd.from_file(BytesFile(_BASE))
    disk = chain.flatten(leaf, iter([base]))
    given = 0
    for offset, part in disk.pieces():
        assert 0 <= offset < offset + len(part) <= disk.virtual_size
        given += len(part)
    assert given <= disk.virtual_size


WAYS: list[Callable[[bytes], object]] = [
    lambda data: drain(vhd.from_file(Bounded(data))),
    lambda data: drain(vhd.from_stream(BytesStream(data))),
    lambda data: drain(vhd.from_stream(BytesStream(data, knows_length=True))),
    lambda data: drain(vhd.fixed_from_stream(BytesStream(data, knows_length=True))),
    lambda data: vhd.is_fixed(BytesFile(data)),
    flat,
]


def one_input(data: bytes) -> None:
    for way in WAYS:
        try:
            way(data)
        except OURS:
            pass


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    chance = random.Random(seed)
    if len(data) < 2048 or chance.random() < 0.1:
        changed: bytes = atheris.Mutate(data, max_size)
    else:
        changed = _in_structures(data, chance)
    if len(changed) > 2048 and chance.random() < 0.75:
        changed = _right(changed, chance)
    return changed[:max_size]


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
        value = chance.choice(
            [
                0,
                1,
                2,
                4,
                512,
                2**31,
                2**32 - 1,
                2**64 - 1,
                len(data) // 512,
                around + 1,
                around - 1,
                around << 1,
            ]
            + [around + 512, around - 512, chance.getrandbits(width * 8), 1 << chance.randrange(64)]
        )
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


_BASE = corpus()["dynamic"]


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
