"""Where the tables are: SQLite without any set-up, PostgreSQL or MariaDB where several services share them.

Whoever works with a pool works in short transactions and looks, in each, whether what it decided on is still so.
The one lock that is held while a pool is called is the row of a backend whose SR is being made; it is a lock of the
database, so it ends with whoever held it, killed or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from xenvol.sm.errors import DatabaseError

T = TypeVar("T")
P = ParamSpec("P")

LOCK_WAIT: Final = (
    120  # seconds to wait for another transaction: to make an SR takes one of the slow arrays so long
)
_ATTEMPTS: Final = 20  # at a transaction that lost to another: each time one of the others has got through
_VERSION_TABLE: Final = "sm_alembic_version"
_READING: Final = "xenvol_is_reading"  # an execution option: the transaction takes no lock

_LOST_TO_ANOTHER: Final = frozenset(
    {
        "40001",  # PostgreSQL: serialization failure
        "40P01",  # PostgreSQL: deadlock
        "1205",  # MariaDB: lock wait timeout
        "1213",  # MariaDB: deadlock
        "1020",  # MariaDB: record has changed since last read
    }
)


def default_url() -> str:
    """A SQLite file in the data directory of the user (XDG_DATA_HOME)."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{home / 'xenvol' / 'sm.sqlite'}"


class Database:
    """Safe from several threads. The constructor connects to nothing."""

    def __init__(self, url: str) -> None:
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            elif parsed.drivername in ("mysql", "mariadb"):
                parsed = parsed.set(drivername=f"{parsed.drivername}+pymysql")
            self.url = parsed.render_as_string(hide_password=True)
            self._engine = sa.create_engine(
                parsed,
                hide_parameters=True,  # an error shall not quote what was in a row
                pool_pre_ping=parsed.get_backend_name() != "sqlite",
                isolation_level=None if parsed.get_backend_name() == "sqlite" else "READ COMMITTED",
                connect_args=_connect_args(parsed),
            )
        except ArgumentError:
            raise DatabaseError(
                "(not shown)",
                problem="is no database URL; write sqlite:////path, postgresql://…, mariadb://…",
            ) from None  # it quotes the URL, password and all
        except NoSuchModuleError as error:
            raise DatabaseError(self.url, problem=f"no such kind of database ({error})") from error
        except ModuleNotFoundError as error:
            extra = "postgresql" if "postgresql" in self.url else "mariadb"
            problem = f"needs {error.name}, which is not installed: pip install 'xenvol[{extra}]'"
            raise DatabaseError(self.url, problem=problem) from error
        if self.is_sqlite:
            if parsed.database in (None, "", ":memory:"):
                raise DatabaseError(
                    self.url, problem="must be a file: every thread has a connection of its own"
                )
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            _prepare_sqlite(self._engine)
        self._is_checked = False

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, is_reading: bool = False) -> Iterator[sa.Connection]:
        """Committed at the end, rolled back by an exception. Raises DatabaseError where there is no database."""
        self._check()
        with self._connected(**{_READING: is_reading}) as connection, connection.begin():
            yield connection

    def read(
        self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What `work` finds, in one transaction, which waits for nobody."""
        with self.transaction(is_reading=True) as connection:
            return work(connection, *args, **kwargs)

    def write(
        self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Have `work` done in one transaction; from the start again where it lost to another."""
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_lost_to_another),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_random(0, 0.1),
            reraise=True,
        )

        def once() -> T:
            with self.transaction() as connection:
                return work(connection, *args, **kwargs)

        result: T = again(once)
        return result

    def upgrade(self) -> None:
        """Make the tables, or bring them to this release. Idempotent; several at once wait for each other."""
        with self._connected() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(7305938)")
                )  # any number that is ours
            elif not self.is_sqlite:
                connection.execute(
                    sa.text("SELECT GET_LOCK('xenvol_sm_upgrade', :wait)"), {"wait": LOCK_WAIT}
                )
            try:
                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            finally:
                if connection.dialect.name in ("mysql", "mariadb"):
                    connection.execute(sa.text("SELECT RELEASE_LOCK('xenvol_sm_upgrade')"))
        self._is_checked = True

    def close(self) -> None:
        self._engine.dispose()

    def _check(self) -> None:
        """The tables are those of this release; a SQLite file gets them by itself."""
        if self._is_checked:
            return
        expected = ScriptDirectory.from_config(_alembic()).get_current_head()
        with self._connected() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
            found = context.get_current_revision()
        if found != expected:
            if not self.is_sqlite:
                what = "has no tables" if found is None else f"has the tables of another release ({found})"
                raise DatabaseError(
                    self.url, problem=f"{what}; run `xenvol sm db_upgrade`, with the services stopped"
                )
            self.upgrade()
        self._is_checked = True

    @contextmanager
    def _connected(self, **options: object) -> Iterator[sa.Connection]:
        try:
            connection = self._engine.connect().execution_options(**options)
        except (OperationalError, DBAPIError) as error:
            raise DatabaseError(self.url, problem=f"cannot be reached ({_first_line(error)})") from error
        with connection:
            yield connection

    def __repr__(self) -> str:
        return f"<Database {self.url}>"


def _connect_args(url: sa.URL) -> dict[str, Any]:
    match url.get_backend_name():
        case "sqlite":
            return {"timeout": LOCK_WAIT}
        case "postgresql":
            return {"options": f"-c lock_timeout={LOCK_WAIT}s"}
        case "mysql" | "mariadb":
            return {"init_command": f"SET innodb_lock_wait_timeout={LOCK_WAIT}", "charset": "utf8mb4"}
    return {}


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Transactions that begin where they say so, with the write lock, since the rest of them would wait for it."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        is_reading = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "xenvol.sm:migrations")
    return config


def _lost_to_another(error: BaseException) -> bool:
    if not isinstance(error, DBAPIError) or error.orig is None:
        return False
    code = getattr(error.orig, "sqlstate", None) or next(iter(error.orig.args), "")
    return str(code) in _LOST_TO_ANOTHER or "database is locked" in str(error.orig)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
