"""A raw disk off the wire: its bytes one after the other, or in chunks that say where they belong."""

from __future__ import annotations

import struct
from collections.abc import Callable

from xenvol.simulator.images.body import PIECE, Body, Broken
from xenvol.simulator.images.sink import Sink

_CHUNK = struct.Struct("<QI")
"""Offset and length; both 0 at the end (facts/xapi.md 4.8; trace sm/30#38)."""

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


def receive(body: Body, sink: Sink, progress: Progress) -> None:
    """A body that does not say how long it is, is refused unread; an empty one changes nothing (sm/30#29, #32)."""
    if body.length is None:
        raise Broken("no Content-Length")
    while body.position < body.length:
        offset = body.position
        sink.write(offset, body.read(min(PIECE, body.length - offset)))
        progress(body.position, body.length)


def receive_chunks(body: Body, sink: Sink) -> None:
    """Until the end marker, whatever Content-Length says (trace sm/30#38-47)."""
    while True:
        offset, length = _CHUNK.unpack(body.read(_CHUNK.size))
        if (offset, length) == (0, 0):
            return
        while length:
            data = body.read(min(PIECE, length))
            sink.write(offset, data)
            offset, length = offset + len(data), length - len(data)
