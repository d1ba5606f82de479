"""A new volume is filled before it is anybody's, on a disk that no other attempt knows.

    a row that says what it will hold ─▶ a VDI there names the row ─▶ the VDI is filled ─▶ the row names the VDI

Two that are at the same volume never write to one disk: each fills its own, and the row takes the first that is whole.
A disk that names its row and is named by none may be a half, so nobody goes on with it (`vdis.find_made`). That
somebody is at it he says in the row, again and again: an audit lets him finish, and takes away what the dead have left.
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
"""Seconds from one word that somebody is at it to the next."""
SILENCE: Final = 900.0
"""Seconds without such a word after which he is taken for dead; machines' clocks may differ by minutes."""
LONGEST: Final = 255
"""Letters of an image's name that the row has room for."""


class Filling:
    """What a new volume shall hold, and how that gets onto its disk. Good for one disk: a stream comes once."""

    def __init__(
        self,
        image: str,
        write: Callable[[VDIRef], object],
        *,
        obstacle: Callable[[SRRef, Record], str | None] = lambda sr_ref, sr_rec: None,
    ) -> None:
        """`image` is what the volume's row says that it holds. `obstacle` says why no disk of an SR can be filled.

        When `write` returns, the disk holds the image; when it raises, nothing of it is under way any more.
        """
        if not 0 < len(image) <= LONGEST:
            raise ValueError(f"the name of an image has 1 to {LONGEST} letters")
        self.image = image
        self.obstacle = obstacle
        self.has_begun = False
        """Whether `write` was called. What fails from there on is no reason to try another backend."""
        self._write = write

    def run(self, context: Context, volume: Volume, vdi_ref: VDIRef) -> bool:
        """Fill the disk that was made for the volume; False where its row has changed, and nothing was written.

        Raises what `write` does, DatabaseError; Overtaken where it has run before.
        """
        if self.has_begun:
            raise Overtaken(volume.id)
        if not context.database.write(volume_rows.say_filling, volume):
            return False
        self.has_begun = True
        with _said(context, volume):
            self._write(vdi_ref)
        return True

    def give_up(self, context: Context, volume: Volume) -> None:
        """The row says no more that somebody is at it, so that an audit need not wait. Idempotent."""
        if not self.has_begun:
            return
        try:
            context.database.write(volume_rows.say_not_filling, volume)
        except DatabaseError as error:
            log.warning("volume %s: that it is not filled is not noted: %s", volume.id, error)

    def __repr__(self) -> str:
        return f"<Filling with {self.image}: {'begun' if self.has_begun else 'not begun'}>"


def is_at_work(connection: sa.Connection, volume: Volume, *, silence: float) -> bool:
    """Whether somebody fills a disk for the volume, and has said so within the last `silence` seconds."""
    at = volume_rows.filled_at(connection, volume)
    return at is not None and now() - at < datetime.timedelta(seconds=silence)


@contextmanager
def _said(context: Context, volume: Volume) -> Iterator[None]:
    """The row says that somebody is at it, again and again."""
    is_over = threading.Event()

    def say() -> None:
        while not is_over.wait(BEAT):
            try:
                if not context.database.write(volume_rows.say_filling, volume):
                    return
            except DatabaseError as error:
                log.warning("volume %s: that it is being filled is not noted: %s", volume.id, error)

    thread = threading.Thread(target=say, name=f"filling {volume.id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
