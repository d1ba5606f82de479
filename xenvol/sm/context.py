"""What every operation of the Storage Manager is given: the pool's session and the database. It remembers nothing."""

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
        """A view of the pool for one operation."""
        return View(self.session)


def say_nothing(text: str) -> None:
    """The progress of whoever does not want to hear of it."""
