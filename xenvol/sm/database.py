"""The database: SQLite without any set-up, PostgreSQL or MariaDB if several services share it.

Every operation on a pool uses short transactions, and each transaction checks that what was decided on is still so.
Only one lock is held during calls to a pool: the row of a backend whose SR is being made. It is a lock of the database,
so it ends with the process that holds it, even a killed one.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from xenvol.secret import MASK, is_secret_key
from xenvol.sm.errors import DatabaseError
from xenvol.sm.tables import REVISION

if TYPE_CHECKING:
    from alembic.config import Config

if importlib.util.find_spec("alembic") is None:
    raise ModuleNotFoundError(
        "No module named 'alembic'", name="alembic"
    )  # alembic is imported late; say at once that it is missing

T = TypeVar("T")
P = ParamSpec("P")

LOCK_WAIT: Final = 120  # seconds to wait for another transaction: a slow array takes so long to make an SR
_ATTEMPTS: Final = 20  # at a transaction that lost to another: each time one of the others has committed
_UPGRADE_LOCK: Final = 7305938  # any number that no other program uses
_VERSION_TABLE: Final = "sm_alembic_version"
_READING: Final = "xenvol_is_reading"  # an execution option: the transaction takes no lock

_LOST_TO_ANOTHER: Final = frozenset(
    {
        "40001",  # PostgreSQL: serialization failure
        "40P01",  # PostgreSQL: deadlock
        "1213",  # MariaDB: deadlock
        "1020",  # MariaDB: record has changed since last read
    }
)
"""Errors that end a transaction at once: it is retried. A transaction that waited for LOCK_WAIT is not."""


def default_url() -> str:
    """Return the URL of a SQLite file in the user's data directory (XDG_DATA_HOME)."""
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return f"sqlite:///{home / 'xenvol' / 'sm.sqlite'}"


class Database:
    """A database and its transactions. Safe for several threads. The constructor does not connect."""

    def __init__(self, url: str) -> None:
        parsed = _parsed(url)
        self.url = _shown(parsed)
        try:
            self._engine = sa.create_engine(
                parsed,
                hide_parameters=True,  # an error must not quote the values of a row
                pool_pre_ping=parsed.get_backend_name() != "sqlite",
                isolation_level=None if parsed.get_backend_name() == "sqlite" else "READ COMMITTED",
                connect_args=_connect_args(parsed),
            )
        except NoSuchModuleError as error:
            raise DatabaseError(self.url, problem=f"no such kind of database ({error})") from error
        except ModuleNotFoundError as error:
            extra = "postgresql" if parsed.get_backend_name() == "postgresql" else "mariadb"
            problem = f"needs {error.name}, which is not installed: pip install 'xenvol[{extra}]'"
            raise DatabaseError(self.url, problem=problem) from error
        if self.is_sqlite:
            if parsed.database in (None, "", ":memory:"):
                raise DatabaseError(
                    self.url, problem="must be a file, since every thread has a connection of its own"
                )
            _prepare_sqlite(self._engine)
        self._file = _file_of(parsed)
        self._is_checked = False

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, is_reading: bool = False) -> Iterator[sa.Connection]:
        """Commit at the end of the block, or roll back on an exception.

        Raises DatabaseError if the database cannot be reached; if that happens at the end, the commit may or may not be
        done. sqlalchemy.exc.IntegrityError is raised as it is: the caller that writes handles it.
        """
        self._check()
        with (
            self._translating_errors(),
            self._connected(**{_READING: is_reading}) as connection,
            connection.begin(),
        ):
            yield connection

    def read(
        self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what `work` returns, in one transaction that waits for no lock."""
        with self.transaction(is_reading=True) as connection:
            return work(connection, *args, **kwargs)

    def write(
        self, work: Callable[Concatenate[sa.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work` in one transaction, and again from its start if it lost to another one. Raises DatabaseError."""
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

    def make_file(self) -> None:
        """Make the SQLite file if it is missing, for its owner alone. Idempotent.

        It tells which storage there is. SQLite gives its journals the mode of the file. Raises DatabaseError.
        """
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise DatabaseError(self.url, problem=f"cannot be made ({error})") from error

    def upgrade(self) -> None:
        """Make the tables, or bring them to this release. Idempotent; concurrent upgrades wait for each other.

        Raises DatabaseError, also for tables of a release that this one does not know.
        """
        self.make_file()
        with self._translating_errors(), self._connected() as connection, connection.begin():
            with self._upgrading_alone(connection):
                self._refuse_newer(_revision_of(connection))
                from alembic import command  # late, for its cost: a third of a command's start

                config = _alembic()
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        self._is_checked = True

    def close(self) -> None:
        self._engine.dispose()

    def _check(self) -> None:
        """Check that the tables are those of this release. A SQLite file is upgraded here, and never made: its path may
        be mistyped."""
        if self._is_checked:
            return
        if self._file is not None and not self._file.exists():
            problem = "no such file; `xenvol sm flavor_create` and `xenvol sm db_upgrade` make it"
            raise DatabaseError(self.url, problem=problem)
        with self._translating_errors(), self._connected(**{_READING: True}) as connection:
            found = _revision_of(connection)
        if found != REVISION:
            self._refuse_newer(found)
            if not self.is_sqlite:
                what = "has no tables" if found is None else f"has the tables of an older release ({found})"
                raise DatabaseError(
                    self.url, problem=f"{what}; run `xenvol sm db_upgrade`, with the services stopped"
                )
            self.upgrade()
        self._is_checked = True

    def _refuse_newer(self, found: str | None) -> None:
        from alembic.script import ScriptDirectory  # late, for its cost

        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        if found is not None and found not in known:
            problem = (
                f"has tables that this release does not know ({found}): install the release that made them"
            )
            raise DatabaseError(self.url, problem=problem)

    @contextmanager
    def _upgrading_alone(self, connection: sa.Connection) -> Iterator[None]:
        """Hold a lock of the database during the block. For SQLite the transaction itself is that lock."""
        match connection.dialect.name:
            case "postgresql":
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
                yield
            case "mysql" | "mariadb":
                name = {"name": f"xenvol_sm_{_UPGRADE_LOCK}"}
                got = connection.execute(
                    sa.text("SELECT GET_LOCK(:name, :wait)"), {**name, "wait": LOCK_WAIT}
                )
                if got.scalar() != 1:
                    raise DatabaseError(self.url, problem=f"is being upgraded for more than {LOCK_WAIT} s")
                yield
                connection.execute(sa.text("SELECT RELEASE_LOCK(:name)"), name)
            case _:
                yield

    @contextmanager
    def _connected(self, **options: object) -> Iterator[sa.Connection]:
        try:
            connection = self._engine.connect().execution_options(**options)
        except SQLAlchemyError as error:
            raise DatabaseError(self.url, problem=f"cannot be reached ({_first_line(error)})") from error
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        """Raise every error of the database as a DatabaseError, which contains no password."""
        try:
            yield
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise DatabaseError(self.url, problem=_first_line(error)) from error

    def __repr__(self) -> str:
        return f"<Database {self.url}>"


def _file_of(url: sa.URL) -> Path | None:
    """Return the SQLite file, or None for a database on a server. SQLite also accepts ``file:…?uri=true``."""
    if url.get_backend_name() != "sqlite":
        return None
    return Path(str(url.database).removeprefix("file:") if url.query.get("uri") else str(url.database))


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
    """Begin transactions where SQLAlchemy says so, with the write lock: taken later, it could fail halfway."""

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        # FULL: the row of an available volume must survive a power cut, or its VDI becomes an orphan
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        is_reading = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _alembic() -> Config:
    from alembic.config import Config  # late, for its cost

    config = Config()
    config.set_main_option("script_location", "xenvol.sm:migrations")
    return config


def _revision_of(connection: sa.Connection) -> str | None:
    """Return the revision of the tables, or None if there are none."""
    if not sa.inspect(connection).has_table(_VERSION_TABLE):
        return None
    found: str | None = connection.execute(sa.text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()
    return found


def _parsed(text: str) -> sa.URL:
    """Parse the URL. Raises DatabaseError, which does not quote the text: it may contain a password."""
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        url = None
    kind = None if url is None else _DRIVERS.get(url.drivername, url.drivername)
    if (
        url is None
        or kind is None
        or kind.partition("+")[0] not in ("sqlite", "postgresql", "mysql", "mariadb")
    ):
        raise DatabaseError(
            "(not shown)",
            problem="not the URL of a database: use sqlite:////path, postgresql://…, mariadb://…",
        )
    return url.set(drivername=kind)


_DRIVERS: Final = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}


def _shown(url: sa.URL) -> str:
    """Return the URL without passwords, also those in its parameters."""
    masked = {key: MASK for key in url.query if is_secret_key(key)}
    shown = url.update_query_dict(masked).render_as_string(hide_password=True)
    return shown.replace(quote(MASK, safe=""), MASK)


def _lost_to_another(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, DatabaseError) else error
    if not isinstance(cause, DBAPIError) or cause.orig is None:
        return False
    code = getattr(cause.orig, "sqlstate", None) or next(iter(cause.orig.args), "")
    return str(code) in _LOST_TO_ANOTHER


def _first_line(error: SQLAlchemyError) -> str:
    said = error.orig if isinstance(error, DBAPIError) else error
    return str(said).strip().partition("\n")[0]
