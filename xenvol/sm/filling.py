"""Fill a new volume with an image before its row names the VDI, on a VDI that no other attempt writes to.

    a row that says what it will hold ─▶ a VDI there names the row ─▶ the VDI is filled ─▶ the row names the VDI

Two services that fill the same volume never write to one VDI: each fills its own, and the row takes the first complete
one. A VDI that names its row, and that no row names, may be incomplete, so no attempt continues with it
(`vdis.find_made`). The filling process renews a mark in the row: an audit leaves its volume alone, and removes what
dead processes have left.
"""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from xenvol.pool.view import Record
from xenvol.session.refs import SRRef, VDIRef
from xenvol.sm import volume_rows
from xenvol.sm.context import Context
from xenvol.sm.errors import DatabaseError, Overtaken
from xenvol.sm.records import Volume, now

log = logging.getLogger(__name__)

BEAT: Final = 60.0
"""Seconds from one renewal of the mark to the next."""
SILENCE: Final = 900.0
"""Seconds without a renewal after which the process counts as dead; the clocks of machines may differ by minutes."""
LONGEST: Final = 255
"""Characters of an image's name that fit into the row."""


class Filling:
    """What a new volume will hold, and how it gets there. Good for one VDI, since a stream can be read only once."""

    def __init__(
        self,
        image: str,
        write: Callable[[VDIRef], object],
        *,
        obstacle: Callable[[SRRef, Record], str | None] = lambda sr_ref, sr_rec: None,
    ) -> None:
        """`image` is stored in the volume's row. `obstacle` returns why no VDI of an SR can be filled, or None.

        When `write` returns, the VDI holds the image. When it raises, no part of the transfer is still running.
        """
        if not 0 < len(image) <= LONGEST:
            raise ValueError(f"the name of an image must have 1 to {LONGEST} characters")
        self.image = image
        self.obstacle = obstacle
        self.has_begun = False
        """True once `write` was called. An error after that is no reason to try another backend."""
        self._write = write

    def run(self, context: Context, volume: Volume, vdi_ref: VDIRef) -> bool:
        """Fill the VDI. Return False if the volume's row has changed; then nothing was written.

        Raises what `write` raises, DatabaseError; Overtaken if it has run before.
        """
        if self.has_begun:
            raise Overtaken(volume.id)
        if not context.database.write(volume_rows.say_filling, volume):
            return False
        self.has_begun = True
        with _renewing_the_mark(context, volume):
            self._write(vdi_ref)
        return True

    def give_up(self, context: Context, volume: Volume) -> None:
        """Remove the mark from the row, so that an audit need not wait. Idempotent."""
        if not self.has_begun:
            return
        try:
            context.database.write(volume_rows.say_not_filling, volume)
        except DatabaseError as error:
            log.warning("volume %s: its mark of being filled stays: %s", volume.id, error)

    def __repr__(self) -> str:
        return f"<Filling with {self.image}: {'begun' if self.has_begun else 'not begun'}>"


def is_at_work(connection: sa.Connection, volume: Volume, *, silence: float) -> bool:
    """Return True if a process fills a VDI for the volume, and has renewed its mark within `silence` seconds."""
    at = volume_rows.filled_at(connection, volume)
    return at is not None and now() - at < datetime.timedelta(seconds=silence)


@contextmanager
def _renewing_the_mark(context: Context, volume: Volume) -> Iterator[None]:
    """Renew the mark in the row during the block."""
    is_over = threading.Event()

    def say() -> None:
        while not is_over.wait(BEAT):
            try:
                if not context.database.write(volume_rows.say_filling, volume):
                    return
            except DatabaseError as error:
                log.warning("volume %s: its mark of being filled is not renewed: %s", volume.id, error)

    thread = threading.Thread(target=say, name=f"filling {volume.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
