"""Receive a raw disk: its bytes in order, or in chunks with their offsets."""

from __future__ import annotations

import struct
from collections.abc import Callable

from xenvol.simulator.images.body import PIECE, Body, Broken
from xenvol.simulator.images.sink import Sink

_CHUNK = struct.Struct("<QI")
"""Offset and length; both are 0 at the end (docs/background/xapi.md 4.8; trace sm/30#38)."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


def receive(body: Body, sink: Sink, progress: Progress) -> None:
    """Write the body to the disk; a missing length is refused, an empty body changes nothing (sm/30#29, #32)."""
    if body.length is None:
        raise Broken("no Content-Length")
    while body.position < body.length:
        offset = body.position
        sink.write(offset, body.read(min(PIECE, body.length - offset)))
        progress(body.position, body.length)


def receive_chunks(body: Body, sink: Sink) -> None:
    """Write chunks up to the end marker, whatever Content-Length says (trace sm/30#38-47)."""
    while True:
        offset, length = _CHUNK.unpack(body.read(_CHUNK.size))
        if (offset, length) == (0, 0):
            return
        while length:
            data = body.read(min(PIECE, length))
            sink.write(offset, data)
            offset, length = offset + len(data), length - len(data)
