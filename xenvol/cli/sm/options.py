"""What the commands of `xenvol sm` share: the database, with a pool or without one."""

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
from xenvol.cli.sizes import read_size as read_size  # the commands have it from here
from xenvol.cli.terminal import Terminal
from xenvol.secret import has_secret
from xenvol.sm import Database, StorageManager, default_url

DATABASE_VARIABLE = "XENVOL_SM_DATABASE"

NOT_WELL = 5  # the exit status of storage errors: `setup` found a dead backend, `audit` a disagreement

_PASSWORD_IN_URL = re.compile(
    r"^[^:]+://[^:/]*:[^@]+@"
)  # as SQLAlchemy reads it: it may hold any letter but @


class _NoPool:
    """In the place of a session, for the commands that ask the database alone."""

    @property
    def xenapi(self) -> Never:
        raise RuntimeError("this command asks no pool")


@dataclass(frozen=True, kw_only=True)
class Service:
    """Which database, and which pool; None: the command asks the database alone."""

    terminal: Terminal
    database: str
    pool: Pool | None = None

    @contextmanager
    def manager(self, doing: str) -> Iterator[StorageManager]:
        """The Storage Manager, logged in to the pool if there is one; the terminal says what is being done."""
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
    """The command gets a `Service` with a pool as its first argument."""

    @functools.wraps(command)
    def run(pool: Pool, /, database: str, **options: Any) -> None:
        command(Service(terminal=pool.terminal, database=database, pool=pool), **options)

    return pool_options(_database_option(run))


def database_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command gets a `Service` without a pool: it asks for none, and nobody logs in."""

    @functools.wraps(command)
    def run(terminal: Terminal, /, database: str, **options: Any) -> None:
        command(Service(terminal=terminal, database=database), **options)

    return output_options(_database_option(run))


def _read_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    """The URL, never with a password that stood on the command line."""
    if not value:
        return default_url()
    if value.startswith("@"):
        return first_line(value[1:], what="database file", holds="the URL").reveal()
    is_shown = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    if is_shown and (_PASSWORD_IN_URL.match(value) or has_secret(value)):
        raise click.BadParameter(
            "has a password in it, and every user of this machine can read a command line: "
            f"set {DATABASE_VARIABLE} instead, or write @FILE, where the URL is the file's first line",
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
        help="Where flavors, backends and volumes are kept: sqlite:////path, postgresql://…, mariadb://…, or "
        "@FILE, whose first line is the URL; else a SQLite file in your data directory.",
    )(command)
