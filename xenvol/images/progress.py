"""Report progress to the caller, and stop when the caller has cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from xenvol.images.disk_image import Piece
from xenvol.images.errors import TransferCancelled

Phase = Literal["staging", "reading", "writing", "verifying"]
"""``staging``: into a temporary file; ``reading``: for the checksum; ``writing``: the disk, or the image of it."""


@dataclass(frozen=True)
class Progress:
    """How far one phase is, in bytes; `total` is None if it is not known."""

    phase: Phase
    done: int
    total: int | None


def ignore_progress(progress: Progress) -> None:
    """Do nothing: the default for `progress`."""


class Watch:
    """Reports each piece to the caller. Raises TransferCancelled at the next piece after `cancel` was set."""

    def __init__(
        self,
        what: str,
        tell: Callable[[Progress], None] = ignore_progress,
        cancel: threading.Event | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.what = what
        self._sleep = sleep
        self._tell = tell
        self._cancel = cancel

    def pause(self, seconds: float) -> None:
        """Wait so many seconds. Raises TransferCancelled at once when the caller cancels."""
        if self._cancel is None:
            self._sleep(seconds)
        elif self._cancel.wait(seconds):
            raise TransferCancelled(self.what)

    def over(self, phase: Phase, pieces: Iterable[Piece], total: int | None) -> Iterator[Piece]:
        """Yield the same pieces, and report each. `total` may be too large: the end is reported as all of it."""
        tick = self.counting(phase, total)
        done = 0
        for piece in pieces:
            tick(0)
            yield piece
            tick(len(piece.data))
            done += len(piece.data)
        if total is not None and done < total:
            tick(total - done)

    def following(
        self, phase: Phase, total: int | None, position: Callable[[], int]
    ) -> Callable[[int], None]:
        """Return a function that reports the position of the source, whatever number it takes."""

        def tick(size: int) -> None:
            self._check_cancelled()
            self._tell(Progress(phase, position(), total))

        return tick

    def counting(self, phase: Phase, total: int | None) -> Callable[[int], None]:
        """Return a function that takes the number of further bytes, and reports the sum."""
        done = 0

        def tick(size: int) -> None:
            nonlocal done
            self._check_cancelled()
            if size:
                done += size
                self._tell(Progress(phase, done, total))

        return tick

    def _check_cancelled(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise TransferCancelled(self.what)
