"""The options that the commands of `xenvol sm` share: the database, with or without a pool."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Never

import click
from click.core import ParameterSource

from xenvol.cli.options import Pool, first_line, output_options, pool_options
from xenvol.cli.sizes import read_size as read_size  # re-exported for the commands
from xenvol.cli.terminal import Terminal
from xenvol.secret import has_secret
from xenvol.sm import Database, StorageManager, default_url

DATABASE_VARIABLE = "XENVOL_SM_DATABASE"

NOT_WELL = 5  # the exit status of storage errors: `setup` found a dead backend, `audit` a disagreement

_PASSWORD_IN_URL = re.compile(r"^[^:]+://[^:/]*:[^@]+@")  # as SQLAlchemy reads it: any character but @


class _NoPool:
    """Stands for a session in commands that use the database only."""

    @property
    def xenapi(self) -> Never:
        raise RuntimeError("this command must not call a pool")


@dataclass(frozen=True, kw_only=True)
class Service:
    """The database and the pool of a command; None: the command uses the database only."""

    terminal: Terminal
    database: str
    pool: Pool | None = None

    @contextmanager
    def manager(self, doing: str) -> Iterator[StorageManager]:
        """Open the Storage Manager, and log in to the pool if there is one; the terminal shows what it is `doing`."""
        database = Database(self.database)
        try:
            if self.pool is None:
                with self.terminal.working(doing):
                    yield StorageManager(_NoPool(), database)
            else:
                with self.pool.session(doing) as session:
                    yield StorageManager(session, database)
        finally:
            database.close()


def service_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a `Service` with a pool as its first argument."""

    @functools.wraps(command)
    def run(pool: Pool, /, database: str, **options: Any) -> None:
        command(Service(terminal=pool.terminal, database=database, pool=pool), **options)

    return pool_options(_database_option(run))


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a `Service` without a pool as its first argument. The options of a pool are missing; no
    login."""

    @functools.wraps(command)
    def run(terminal: Terminal, /, database: str, **options: Any) -> None:
        command(Service(terminal=terminal, database=database), **options)

    return output_options(_database_option(run))


def _read_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """Return the URL. Refuses a password on the command line."""
    if not value:
        return default_url()
    if value.startswith("@"):
        return first_line(value[1:], what="database file", holds="the URL").reveal()
    is_shown = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    if is_shown and (_PASSWORD_IN_URL.match(value) or has_secret(value)):
        raise click.BadParameter(
            "has a password in it, and every user of this machine can read a command line: "
            f"set {DATABASE_VARIABLE} instead, or write @FILE with the URL in the file's first line",
            ctx,
            param,
        )
    return value


def _database_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--database",
        metavar="URL",
        envvar=DATABASE_VARIABLE,
        show_envvar=True,
        callback=_read_url,
        help="The database of flavors, backends and volumes: sqlite:////path, postgresql://…, mariadb://…, or "
        "@FILE, whose first line is the URL. Default: a SQLite file in your data directory.",
    )(command)
