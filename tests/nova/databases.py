"""The tables of a run: made by the services' own programs once, and copied from then on.

OpenStack's migrations take half a minute, and make the same tables at every run. So the first run keeps what they made
as SQL in the virtual environment, and the next ones execute that, which takes a second.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pymysql.cursors

from tests.cinder.scratch import MARIADB, RABBITMQ, Scratch

_RUN = "@run@"
"""Stands for the name of a run in what is kept."""


def kept_in(made_by: Sequence[str], *sources: str) -> Path:
    """Return the file for tables that these distributions make; `sources` is whatever else decides how they look.

    The tables name the servers: nova has the addresses of its cells there.
    """
    versions = [f"{each}=={version(each)}" for each in made_by]
    digest = hashlib.sha256("\n".join([*versions, MARIADB, RABBITMQ, *sources]).encode()).hexdigest()
    return Path(sys.prefix) / f"tables-{digest[:16]}.sql"


def keep(scratch: Scratch, file: Path) -> None:
    """Write the statements that make this run's tables in the databases of another run."""
    text = "".join(f"{line}\n" for line in _statements(scratch.server, scratch.name))
    new = file.with_suffix(f".{secrets.token_hex(4)}")
    new.write_text(text.replace(scratch.name, _RUN), encoding="utf-8")
    os.replace(new, file)  # a run beside this one reads all of it or finds none


def restore(scratch: Scratch, file: Path) -> None:
    """Execute what `keep` wrote."""
    for line in file.read_text(encoding="utf-8").splitlines():
        scratch.server.execute(line.replace(_RUN, scratch.name))


def _statements(server: pymysql.cursors.Cursor, name: str) -> Iterator[str]:
    """One on each line. A table may refer to one that comes later."""
    yield "SET SESSION foreign_key_checks = 0"
    for database in _column(server, f"SHOW DATABASES LIKE '{name}%'"):
        tables = _column(server, f"SHOW TABLES FROM {database}")
        if tables:
            yield f"USE {database}"
        for table in tables:
            server.execute(f"SHOW CREATE TABLE {database}.{table}")
            ((_, statement),) = server.fetchall()
            yield statement.replace("\n", " ")
            server.execute(f"SELECT * FROM {database}.{table}")
            for row in server.fetchall():
                yield server.mogrify(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(row))})", row)
    yield "SET SESSION foreign_key_checks = 1"


def _column(server: pymysql.cursors.Cursor, query: str) -> list[str]:
    server.execute(query)
    return [row[0] for row in server.fetchall()]
