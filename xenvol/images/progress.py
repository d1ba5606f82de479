"""How far a transfer is, told to whoever waits for it, and whether he still does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from xenvol.images.disk_image import Piece
from xenvol.images.errors import TransferCancelled

Phase = Literal["staging", "reading", "writing", "verifying"]
"""``staging``: into a temporary file; ``reading``: for its checksum; ``writing``: the disk, or the image of it."""


@dataclass(frozen=True)
class Progress:
    """Of one phase. In bytes; `total` is None where nobody knows."""

    phase: Phase
    done: int
    total: int | None


def say_nothing(progress: Progress) -> None:
    """For who does not care."""


class Watch:
    """Tells of each piece as it passes. Raises TransferCancelled when `cancel` is set, there where it is noticed."""

    def __init__(
        self,
        what: str,
        tell: Callable[[Progress], None] = say_nothing,
        cancel: threading.Event | None = None,
    ) -> None:
        self.what = what
        self._tell = tell
        self._cancel = cancel

    def over(self, phase: Phase, pieces: Iterable[Piece], total: int | None) -> Iterator[Piece]:
        """The same pieces."""
        tick = self.counting(phase, total)
        for piece in pieces:
            tick(0)
            yield piece
            tick(len(piece.data))

    def counting(self, phase: Phase, total: int | None) -> Callable[[int], None]:
        """A function that is told of so many more bytes."""
        done = 0

        def tick(size: int) -> None:
            nonlocal done
            if self._cancel is not None and self._cancel.is_set():
                raise TransferCancelled(self.what)
            if size:
                done += size
                self._tell(Progress(phase, done, total))

        return tick
