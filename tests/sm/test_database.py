"""The first service makes the tables, once; the error of an unusable database says what to do."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.sm.conftest import on_every_database, on_servers
from xenvol.session import Session
from xenvol.sm import Database, StorageManager, default_url, flavor_rows
from xenvol.sm import database as database_module
from xenvol.sm.errors import DatabaseError
from xenvol.sm.records import Flavor
from xenvol.sm.tables import REVISION, metadata

machines = multiprocessing.get_context("forkserver")
machines.set_forkserver_preload(["xenvol.sm"])
KINDS = ["sqlite", "postgresql", "mariadb"]


@pytest.fixture
def fresh_url(request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[str], str]) -> str:
    """The URL of a database without tables."""
    kind: str = request.param
    return f"sqlite:///{tmp_path / 'fresh.sqlite'}" if kind == "sqlite" else new_database(kind)


def _engine(url: str) -> sa.Engine:
    return Database(url)._engine


def _upgrade(url: str, at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
    Database(url).upgrade()


def _flavor(connection: sa.Connection, label: str) -> Flavor:
    values = {"description": "", "policy": "first_fit", "over_subscription": 1.0, "reserved_percentage": 0}
    flavor_rows.add(connection, label=label, **values)  # type: ignore[arg-type]  # the keywords are of several types
    return flavor_rows.get(connection, label)


@pytest.mark.parametrize("fresh_url", KINDS, indirect=True)
class TestTheTables:
    def test_that_the_migrations_make_are_those_of_the_code(self, fresh_url: str) -> None:
        database = Database(fresh_url)
        database.upgrade()
        with database._engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "version_table": "sm_alembic_version"}
            )
            differences = [
                each
                for each in compare_metadata(context, metadata)
                if not (each[0] == "remove_table" and each[1].name == "sm_alembic_version")
            ]
        assert differences == []
        database.close()

    def test_are_made_once_by_eight_processes_at_once(self, fresh_url: str) -> None:
        at = time.monotonic() + 1
        processes = [machines.Process(target=_upgrade, args=(fresh_url, at)) for _ in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 8
        database = Database(fresh_url)
        assert database.read(flavor_rows.all_of) == []
        with database._engine.connect() as connection:
            assert list(connection.exec_driver_sql("SELECT * FROM sm_alembic_version")) == [(REVISION,)]
        database.close()

    def test_are_gone_on_with_where_an_upgrade_was_killed(self, fresh_url: str) -> None:
        """MariaDB commits every statement by itself, so a killed upgrade has made some of the tables."""
        database = Database(fresh_url)
        database.upgrade()
        with database._engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM sm_alembic_version")
            connection.exec_driver_sql("DROP TABLE sm_volume")
        database.close()
        database = Database(fresh_url)
        database.upgrade()
        assert set(metadata.tables) <= set(sa.inspect(database._engine).get_table_names())
        assert len(sa.inspect(database._engine).get_indexes("sm_volume")) >= 4
        database.close()

    def test_are_upgraded_again_in_silence(self, fresh_url: str) -> None:
        database = Database(fresh_url)
        for _ in range(2):
            database.upgrade()
        database.close()

    def test_of_a_newer_release_are_refused_with_the_remedy(self, fresh_url: str) -> None:
        database = Database(fresh_url)
        database.upgrade()
        with database._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE sm_alembic_version SET version_num = '9999'")
        database.close()
        database = Database(fresh_url)
        for use in (database.upgrade, lambda: database.read(flavor_rows.all_of)):
            with pytest.raises(DatabaseError, match=r"9999.*install the release that made them"):
                use()
        database.close()

    def test_tell_ids_apart_byte_by_byte(self, fresh_url: str) -> None:
        database = Database(fresh_url)
        database.upgrade()
        labels = ["gold", "Gold", "gold ", "göld", "gôld", "ɡold"]
        for label in labels:
            database.write(_flavor, label)
        assert [flavor.label for flavor in database.read(flavor_rows.all_of)] == labels
        for label in labels:
            assert database.read(flavor_rows.get, label).label == label
        database.close()


@pytest.mark.parametrize("fresh_url", KINDS, indirect=True)
def test_an_upgrade_waits_for_another(fresh_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_WAIT", 1)
    first, second = Database(fresh_url), Database(fresh_url)
    with first._connected() as connection, connection.begin(), first._upgrading_alone(connection):
        with pytest.raises(DatabaseError, match=r"lock|being upgraded"):
            second.upgrade()
    second.upgrade()
    assert first.read(flavor_rows.all_of) == []
    first.close()
    second.close()


@pytest.mark.parametrize("fresh_url", ["postgresql", "mariadb"], indirect=True)
def test_a_server_without_tables_names_the_command_that_makes_them(fresh_url: str) -> None:
    database = Database(fresh_url)
    with pytest.raises(DatabaseError, match=r"has no tables; run `xenvol sm db_upgrade`"):
        database.read(flavor_rows.all_of)
    database.upgrade()
    assert database.read(flavor_rows.all_of) == []
    database.close()


class TestASQLiteFile:
    @pytest.fixture(params=["{}", "file:{}?uri=true"])
    def url(self, request: pytest.FixtureRequest, path: Path) -> str:
        return f"sqlite:///{request.param.format(path)}"

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "a" / "b" / "sm.sqlite"

    def test_that_is_not_there_is_not_made_by_a_question(self, url: str, path: Path) -> None:
        """Its path may be mistyped, and an empty answer would read as if all volumes were lost."""
        database = Database(url)
        for use in (database.read, database.write):
            with pytest.raises(DatabaseError, match=r"no such file.*db_upgrade"):
                use(flavor_rows.all_of)  # type: ignore[operator]  # two methods of one signature
        assert not path.parent.exists()
        database.upgrade()
        assert database.read(flavor_rows.all_of) == []
        database.close()

    def test_is_made_with_its_directory_by_the_first_flavor(
        self, url: str, path: Path, xapi_session: Session
    ) -> None:
        manager = StorageManager(xapi_session, url)
        manager.create_flavor("gold", "x")
        assert [flavor.label for flavor in manager.list_flavors()] == ["gold"]
        assert path.exists()

    def test_gets_its_tables_by_itself_where_it_is_there_and_empty(self, url: str, path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.touch()
        database = Database(url)
        assert database.read(flavor_rows.all_of) == []
        database.close()

    def test_and_its_journals_are_for_their_owner_alone(self, url: str, path: Path) -> None:
        mask = os.umask(0)
        try:
            database = Database(url)
            database.upgrade()
            with database.transaction() as connection:
                _flavor(connection, "gold")
                modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
        finally:
            os.umask(mask)
        assert {"sm.sqlite": 0o600, "sm.sqlite-wal": 0o600}.items() <= modes.items()
        assert set(modes.values()) == {0o600}
        database.close()

    def test_keeps_the_mode_that_an_operator_gave_it(self, url: str, path: Path) -> None:
        Database(url).upgrade()
        path.chmod(0o640)
        Database(url).upgrade()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_that_cannot_be_made_is_a_database_error(self) -> None:
        with pytest.raises(DatabaseError, match="cannot be made"):
            Database("sqlite:////proc/nowhere/sm.sqlite").upgrade()


def _use(url: str, at: float, number: int) -> None:
    time.sleep(max(0.0, at - time.monotonic()))
    database = Database(url)
    database.make_file()
    database.write(_flavor, f"label {number}")


def test_a_sqlite_file_that_eight_processes_begin_to_use_at_once_gets_its_tables_once(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'sm.sqlite'}"
    at = time.monotonic() + 1
    processes = [machines.Process(target=_use, args=(url, at, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    database = Database(url)
    assert len(database.read(flavor_rows.all_of)) == 8
    database.close()


class TestAURL:
    @pytest.mark.parametrize(
        "url",
        [
            "nonsense",
            "",
            "postgresql://user:canary@host:port/db",
            "postgresql://user:canary@[::1/db",
            "oracle://user:canary@host/db",
            "mysql+nodriver://user:canary@host/db",
            "sqlite://",
            "sqlite:///:memory:",
        ],
    )
    def test_that_cannot_be_is_refused_without_a_password(self, url: str) -> None:
        with pytest.raises(DatabaseError) as caught:
            Database(url)
        assert "canary" not in str(caught.value) + repr(caught.value)
        assert "canary" not in str(caught.value.__cause__)
        assert caught.value.__cause__ is not None or caught.value.__context__ is None

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:canary@127.0.0.1:1/db",
            "postgresql://user@127.0.0.1:1/db?password=canary&sslpassword=canary",
            "mariadb://user:canary@127.0.0.1:1/db",
            "mysql://user@127.0.0.1:1/db?password=canary",
        ],
    )
    def test_shows_no_password_wherever_it_is_shown(self, url: str) -> None:
        database = Database(url)
        assert "canary" not in repr(database) + database.url
        with pytest.raises(DatabaseError, match="cannot be reached") as caught:
            database.read(flavor_rows.all_of)
        error: BaseException | None = caught.value
        while error is not None:
            assert "canary" not in str(error) + repr(error)
            error = error.__cause__ or error.__context__
        database.close()

    def test_is_a_file_in_the_users_data_directory_by_default(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert default_url() == f"sqlite:///{tmp_path}/xenvol/sm.sqlite"
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_url() == f"sqlite:///{tmp_path}/.local/share/xenvol/sm.sqlite"


@on_every_database
class TestATransaction:
    def test_that_fails_leaves_nothing(self, database: Database) -> None:
        def insert_and_fail(connection: sa.Connection) -> None:
            _flavor(connection, "gold")
            raise KeyError("gold")

        with pytest.raises(KeyError):
            database.write(insert_and_fail)
        assert database.read(flavor_rows.all_of) == []

    def test_that_deadlocks_with_another_is_tried_again(self, database: Database) -> None:
        """Two transactions take the same two rows in opposite order."""
        first, second = (database.write(_flavor, label) for label in ("a", "b"))
        barrier = threading.Barrier(2, timeout=20)
        attempts: list[int] = []

        def rename(one: Flavor, other: Flavor) -> None:
            waits = [True]

            def work(connection: sa.Connection) -> None:
                attempts.append(one.id)
                table = metadata.tables["sm_flavors"]
                for flavor in (one, other):
                    connection.execute(
                        table.update().where(table.c.id == flavor.id).values(description=one.label)
                    )
                    if waits and database.url.startswith("sqlite"):
                        waits.clear()  # there the second waits before it begins
                    elif waits:
                        waits.clear()
                        barrier.wait()

            database.write(work)

        with ThreadPoolExecutor(2) as executor:
            for future in [executor.submit(rename, first, second), executor.submit(rename, second, first)]:
                future.result(60)
        descriptions = {flavor.description for flavor in database.read(flavor_rows.all_of)}
        assert len(descriptions) == 1
        assert len(attempts) == (2 if database.url.startswith("sqlite") else 3)

    def test_that_waits_too_long_for_another_says_so(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_module, "LOCK_WAIT", 1)
        database = Database(database_url)
        flavor = database.write(_flavor, "gold")
        table = metadata.tables["sm_flavors"]
        change = table.update().where(table.c.id == flavor.id).values(description="changed")
        with database.transaction() as connection:
            connection.execute(change)
            started = time.monotonic()
            with pytest.raises(DatabaseError, match=r"(?i)lock"):
                database.write(lambda other: other.execute(change))
            assert time.monotonic() - started < 10
        database.close()

    def test_whose_connection_is_lost_is_a_database_error_that_quotes_no_row(
        self, database: Database
    ) -> None:
        database.write(_flavor, "canary")
        dialect: Any = database._engine.dialect

        def lose(*args: Any, **kwargs: Any) -> None:
            raise sqlite3.OperationalError("server closed the connection\nwith a second line")

        really, dialect.do_execute = dialect.do_execute, lose
        loses = dialect.dbapi.OperationalError
        with pytest.raises(Exception, match="server closed the connection") as caught:
            database.read(flavor_rows.get, "canary")
        dialect.do_execute = really
        if loses is sqlite3.OperationalError:
            assert isinstance(caught.value, DatabaseError)
            assert "second line" not in str(caught.value)
            assert "canary" not in str(caught.value.__cause__)
        assert database.read(flavor_rows.get, "canary").label == "canary"


@on_servers
def test_a_connection_that_the_server_has_closed_meanwhile_is_replaced(database: Database) -> None:
    """Servers close idle connections; a service that idles over night must serve the next request."""
    database.write(_flavor, "gold")
    kill = {
        "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
        "mysql": "",
    }
    other = Database(database._engine.url.render_as_string(hide_password=False))
    with other._engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(kill["postgresql"])
        else:
            rows = connection.exec_driver_sql(
                "SELECT id FROM information_schema.processlist "
                "WHERE db = DATABASE() AND id <> CONNECTION_ID()"
            )
            for (number,) in rows.all():
                connection.exec_driver_sql(f"KILL {number}")
    other.close()
    assert [flavor.label for flavor in database.read(flavor_rows.all_of)] == ["gold"]


def test_the_revision_that_is_expected_is_that_of_the_last_migration() -> None:
    """It is a constant, so that the check needs no reading of migrations."""
    assert ScriptDirectory.from_config(database_module._alembic()).get_current_head() == REVISION


def test_a_command_that_upgrades_nothing_does_not_load_alembic(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path / 'sm.sqlite'}").upgrade()
    program = (
        "import sys; from xenvol.sm import Database, flavor_rows;"
        "Database(sys.argv[1]).read(flavor_rows.all_of); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, f"sqlite:///{tmp_path / 'sm.sqlite'}"], check=True)
