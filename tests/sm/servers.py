"""Databases of one test run on real servers. The run drops them; the next run drops what a killed one left.

A run is alive if the process is, whose id the name has, or if some connection holds the lock of that name on the
server. The lock matters where the machines of several runs share a server, or their containers share a machine.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tests import needs

SERVERS: Final = {
    "postgresql": ("PostgreSQL", "XENVOL_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/postgres"),
    "mariadb": ("MariaDB", "XENVOL_TEST_MARIADB", "mariadb://root@127.0.0.1:3306/"),
}
"""Where a real server is looked for: by a variable, else on the loopback. The user must be able to create databases."""
DRIVERS: Final = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
NAME: Final = re.compile(r"xenvol_test_(\d+)_[0-9a-f]{8}")

_DATABASES = {
    "postgresql": "SELECT datname FROM pg_database",
    "mariadb": "SELECT schema_name FROM information_schema.schemata",
}
_LOCK = {
    "postgresql": "SELECT pg_try_advisory_lock(hashtext(:name))",
    "mariadb": "SELECT GET_LOCK(:name, 0)",
}
_UNLOCK = {
    "postgresql": "SELECT pg_advisory_unlock(hashtext(:name))",
    "mariadb": "SELECT RELEASE_LOCK(:name)",
}
_DROP = {
    "postgresql": "DROP DATABASE IF EXISTS {} WITH (FORCE)",  # also if a test has left a connection
    "mariadb": "DROP DATABASE IF EXISTS {}",
}


@contextmanager
def serving(kind: str) -> Iterator[tuple[sa.Connection, sa.URL]]:
    """Yield a connection to a server of this kind, and its URL. Skips the test if no server answers."""
    label, variable, default = SERVERS[kind]
    url = sa.make_url(os.environ.get(variable, default))
    engine = sa.create_engine(
        url.set(drivername=DRIVERS[kind]), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    try:
        try:
            connection = engine.connect()
        except SQLAlchemyError as error:
            needs.no_server(
                label,
                where=f"{url.host}:{url.port}",
                reason=getattr(error, "orig", error),
                variable=variable,
            )
        with connection:
            yield connection, url
    finally:
        engine.dispose()


def create(connection: sa.Connection, pid: int | None = None) -> str:
    """Create an empty database, alive as long as the connection or the process, and return its name."""
    name = f"xenvol_test_{os.getpid() if pid is None else pid}_{secrets.token_hex(4)}"
    _ask(connection, _LOCK, name)
    connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return name


def drop(connection: sa.Connection, name: str) -> None:
    """Idempotent."""
    connection.exec_driver_sql(_DROP[connection.dialect.name].format(name))


def databases(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text(_DATABASES[connection.dialect.name])).scalars())


def sweep(connection: sa.Connection) -> list[str]:
    """Drop the databases of runs that are no longer alive, and return their names."""
    dropped = []
    for name in databases(connection):
        found = NAME.fullmatch(name)
        if found is None or is_alive(int(found[1])) or not _ask(connection, _LOCK, name):
            continue
        drop(connection, name)
        _ask(connection, _UNLOCK, name)
        dropped.append(name)
    return dropped


def is_alive(pid: int) -> bool:
    """Return False if this machine has no process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _ask(connection: sa.Connection, statement: dict[str, str], name: str) -> bool:
    return bool(connection.execute(sa.text(statement[connection.dialect.name]), {"name": name}).scalar_one())
