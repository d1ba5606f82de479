"""Databases on real servers go when the run that made them does: at its end, or when the next run starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from tests.sm import servers

kinds = pytest.mark.parametrize("kind", servers.SERVERS)


def dead() -> int:
    """Return the process id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    return done.pid


@kinds
def test_a_database_goes_when_neither_its_process_nor_its_connection_is_left(kind: str) -> None:
    """The lock alone keeps it for a run on another machine, and the process id for a run that takes no lock."""
    # Another run may be sweeping meanwhile, so what is swept may be gone at any time.
    with servers.serving(kind) as (mine, _), servers.serving(kind) as (sweeper, _):
        left = f"xenvol_test_{dead()}_0123abcd"
        mine.exec_driver_sql(f"CREATE DATABASE {left}")
        of_this_run = servers.create(mine)
        elsewhere = servers.create(mine, pid=dead())
        servers.sweep(sweeper)
        assert left not in servers.databases(sweeper)
        assert {of_this_run, elsewhere} <= set(servers.databases(sweeper))
        mine.close()
        deadline = time.monotonic() + 60  # PostgreSQL notices in its own time that a client has gone
        while elsewhere in servers.databases(sweeper):
            assert time.monotonic() < deadline, "its lock is still held"
            servers.sweep(sweeper)
        assert of_this_run in servers.databases(sweeper)
        servers.drop(sweeper, of_this_run)
        assert of_this_run not in servers.databases(sweeper)


@kinds
def test_other_databases_stay(kind: str) -> None:
    """Also those whose names only begin like ours."""
    other = f"xenvol_test_{dead()}_mine"
    with servers.serving(kind) as (connection, _):
        connection.exec_driver_sql(f"CREATE DATABASE {other}")
        try:
            assert other not in servers.sweep(connection)
            assert other in servers.databases(connection)
        finally:
            servers.drop(connection, other)


@kinds
def test_a_server_that_does_not_answer_is_told_in_one_line(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, variable, default = servers.SERVERS[kind]
    monkeypatch.setenv(variable, str(sa.make_url(default).set(port=1)))
    with pytest.raises(pytest.skip.Exception) as caught, servers.serving(kind):
        pass
    message = str(caught.value)
    assert message.startswith(f"needs {label}, and none answers at 127.0.0.1:1 (")
    assert message.endswith(f"); {variable} names another one")
    assert "\n" not in message


def test_a_process_of_this_machine_is_alive() -> None:
    assert servers.is_alive(os.getpid())
    assert servers.is_alive(1)
    assert not servers.is_alive(dead())
