"""A SQLite file with the tables in it: made once per process by the migrations, and then copied.

Alembic takes 60 ms of CPU, which is more than most tests of the Storage Manager need for their own work.
tests/sm/test_database.py tests the migrations themselves, on new files and on both servers.
"""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from xenvol.sm import Database


@sa.event.listens_for(sa.Pool, "checkout")
def _write_without_waiting(connection: Any, record: object, proxy: object) -> None:
    """Do not wait for the disk: no test needs its data after a power cut, and the wait took a third of these tests'
    time."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@functools.cache
def _content() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "sm.sqlite"
        database = Database(f"sqlite:///{path}")
        database.upgrade()
        database.close()  # which writes its log into the file
        return path.read_bytes()


def with_tables(path: Path) -> str:
    """Write the file, and return its URL. An existing file is kept."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content())
    return f"sqlite:///{path}"


def new_file(path: Path) -> str:
    """Write the file anew, and return its URL."""
    return replace(path, _content())


def replace(path: Path, content: bytes) -> str:
    """Write the content of a SQLite file, remove the log of the old one, and return its URL."""
    for old in path.parent.glob(f"{path.name}*"):
        old.unlink()
    path.write_bytes(content)
    return f"sqlite:///{path}"
