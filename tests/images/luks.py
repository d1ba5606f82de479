"""Encrypted images, made by hand: as qemu-img makes them, but for the keys, which nobody has.

`qemu-img create` measures how fast this machine derives keys, whatever `iter-time` says. That costs 2 seconds of CPU,
and fails on a busy machine: "Unable to get accurate CPU usage". The tests check with `qemu-img info` that QEMU knows
these for what they are.
"""

from __future__ import annotations

import struct
from typing import Final

from fuzz_qcow2 import LUKS_HEADER

_SECTOR: Final = 512
_KEY: Final = 64
"""Bytes: AES-256 in XTS mode takes two keys."""
_STRIPES: Final = 4000
_SLOTS: Final = 8
_FIRST: Final = 8
"""The sector where the material of the first key slot begins; that of the next ones follows."""
_MATERIAL: Final = -(-_KEY * _STRIPES // _SECTOR // _FIRST) * _FIRST
"""Sectors of one key slot."""
_PAYLOAD: Final = _FIRST + _SLOTS * _MATERIAL
"""The sector where the disk begins."""
_ENABLED, _DISABLED = 0x00AC71F3, 0x0000DEAD


def header() -> bytes:
    """Return the header of a LUKS 1 container, with the room of its key slots."""
    cipher = struct.pack(">6sH32s32s32s", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256")
    key = struct.pack(">II20s32sI", _PAYLOAD, _KEY, b"d" * 20, b"s" * 32, 1000)
    identity = struct.pack(">40s", b"5a000000-0000-4000-8000-000000000001")
    slots = b"".join(
        struct.pack(
            ">II32sII",
            _ENABLED if number == 0 else _DISABLED,
            1000 if number == 0 else 0,
            b"s" * 32 if number == 0 else b"",
            _FIRST + number * _MATERIAL,
            _STRIPES,
        )
        for number in range(_SLOTS)
    )
    return (cipher + key + identity + slots).ljust(_PAYLOAD * _SECTOR, b"\0")


def image(size: int) -> bytes:
    """Return a LUKS container with a disk of this many bytes."""
    return header() + bytes(size)


def qcow2(plain: bytes) -> bytes:
    """Return this QCOW2 image as an encrypted one: it says so, and has the header of LUKS at its end."""
    cluster = 1 << struct.unpack_from(">I", plain, 20)[0]
    place, keys = -(-len(plain) // cluster) * cluster, header()
    made = bytearray(plain.ljust(place, b"\0") + keys)
    struct.pack_into(">I", made, 32, 2)
    (length,) = struct.unpack_from(">I", made, 100)
    extension = struct.pack(">IIQQ", LUKS_HEADER, 16, place, len(keys))
    made[length:cluster] = extension + made[length : cluster - len(extension)]
    return bytes(made)
