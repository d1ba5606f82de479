"""The session and the database that every operation of the Storage Manager gets. It keeps no other state."""

from __future__ import annotations

from dataclasses import dataclass

from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.sm.database import Database


@dataclass(frozen=True)
class Context:
    session: Session
    database: Database

    def view(self) -> View:
        """Return a new view of the pool, for one operation."""
        return View(self.session)


def say_nothing(text: str) -> None:
    """The default of `progress`: ignore the text."""
