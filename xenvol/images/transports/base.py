"""What a transport promises: when `fill` returns, the host has the bytes; when it raises, nothing of it remains.

A transport makes no disk and destroys none. It may write a disk twice, and read it any number of times. It keeps the
old bytes wherever no piece comes: give it `xenvol.images.disk_image.dense` pieces to overwrite them.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from xenvol.images.disk_image import PIECE, SECTOR, DiskImage, Piece
from xenvol.images.errors import ImageTooLarge
from xenvol.session.refs import VDIRef


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a transport waits, in seconds. A test gives its own clock and sleep."""

    connect: float = 10.0
    """For a connection: TCP and TLS each."""
    head: float = 60.0
    """For the head of an answer. xapi sends it before it reads a byte of the body, or plugs the disk."""
    stall: float = 360.0
    """For the next bytes, in either direction. Storage that fails over may stop for minutes."""
    finish: float = 1800.0
    """For a host to write out what it has received: a slow NFS server behind a large page cache."""
    settle: float = 60.0
    """For a task to end after its connection. Some stay pending for ever (docs/background/recordings.md)."""
    device: float = 30.0
    """For a device to appear after the plug, and to be released for the unplug."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def poll(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return whether the condition becomes true in that time. Asks at once, then less and less often, at last
        every 5 s."""
        deadline = self.clock() + seconds
        pause = 0.05
        while not condition():
            left = deadline - self.clock()
            if left <= 0:
                return False
            self.sleep(min(pause, left))
            pause = min(pause * 2, 5.0)
        return True


TIMEOUTS: Final = Timeouts()


class Transport(abc.ABC):
    """One way to the bytes of disks. Not thread-safe, since its view is not."""

    name: str
    """``http``, ``block`` or ``device``."""

    @abc.abstractmethod
    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        """Write these pieces onto the disk. When it returns, the host has flushed them, and its task has succeeded.

        Bytes that no piece covers stay. An error from the pieces is raised unchanged, after the disk has been
        released. Raises TransferFailed, ImageTooLarge for a piece beyond the disk's end, XapiError, XapiUnreachable.
        """

    @abc.abstractmethod
    def contents(self, vdi_ref: VDIRef) -> AbstractContextManager[DiskImage]:
        """Give the disk's content, to be read inside the block; known holes are left out.

        Raises, as its `pieces` do, TransferFailed, XapiError, XapiUnreachable.
        """


def fitting(pieces: Iterable[Piece], size: int, disk: str) -> Iterator[Piece]:
    """Yield the same pieces, none empty, none above `PIECE`, padded with zeros to whole sectors.

    Raises ImageTooLarge for the first piece that ends beyond `size`, the bytes of the disk.
    """
    for offset, data in pieces:
        end = offset + len(data)
        if offset < 0 or end > size:
            raise ImageTooLarge("the image", size=end, limit=size, what=disk)
        if odd := end % SECTOR:
            data += bytes(min(SECTOR - odd, size - end))
        if len(data) <= PIECE:
            if data:
                yield Piece(offset, data)
            continue
        for start in range(0, len(data), PIECE):
            yield Piece(offset + start, data[start : start + PIECE])
