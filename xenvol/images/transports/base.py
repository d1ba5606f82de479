"""What a road promises: when `fill` returns, the host has the bytes; when it raises, nothing of the road remains.

A road makes no disk and destroys none. It may write a disk twice and reads it as often as one likes; whoever wants
old bytes gone writes `xenvol.images.disk_image.dense` pieces.
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
    """How long a road waits for what; seconds. The clock and the sleep are here so that a test need not wait."""

    connect: float = 10.0
    """For a connection, TCP and TLS each."""
    head: float = 60.0
    """For the head of an answer: xapi sends it before it reads a byte of the body, or plugs the disk."""
    stall: float = 360.0
    """For the next bytes to go or to come: a storage that fails over may stop for minutes."""
    finish: float = 1800.0
    """For a host to write out what it has been sent: a slow NFS server behind a large page cache."""
    settle: float = 60.0
    """For a task to be over when its connection is: some are pending for ever (facts/sm-truth.md)."""
    device: float = 30.0
    """For a device to appear when its VBD is plugged, and for it to be let go of."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def poll(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it becomes true in that time; asked at once, and then ever more seldom, at last every 5 seconds."""
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
    """One way to the bytes of disks. Not thread-safe, as its view is not."""

    name: str
    """``http``, ``block`` or ``device``."""

    @abc.abstractmethod
    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        """Write these onto the disk; when it returns, the host has them: flushed, and its task has succeeded.

        What no piece covers keeps its bytes. What the pieces raise leaves as it is, when the disk is released.
        Raises TransferFailed, ImageTooLarge for a piece behind the disk's end, XapiError, XapiUnreachable.
        """

    @abc.abstractmethod
    def contents(self, vdi_ref: VDIRef) -> AbstractContextManager[DiskImage]:
        """What the disk holds, to be read inside the block; holes are left out where they can be told.

        Raises, as its `pieces` do, TransferFailed, XapiError, XapiUnreachable.
        """


def fitting(pieces: Iterable[Piece], size: int, disk: str) -> Iterator[Piece]:
    """The same, none empty, none above `PIECE`, each of whole sectors: the odd end of a raw image gets zeros behind.

    Raises ImageTooLarge for the first that ends behind `size`, the bytes of the disk.
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
