"""A database for Cinder, one for the Storage Manager, and a RabbitMQ vhost, of one run: made by it, dropped by it.

A run that has more services names a database for each of them.

A run holds a lock of the database server that has its name. So a run knows which scratch is another's that is
alive, and which was left by one that was killed: that is dropped by whoever comes next.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import kombu
import pymysql
import sqlalchemy as sa

from tests import needs
from tests.cinder.processes import LIMIT

PREFIX = "xenvol_openstack_"
_NAME = re.compile(f"{PREFIX}[0-9a-f]{{12}}")
MARIADB = os.environ.get("XENVOL_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306")
RABBITMQ = os.environ.get("XENVOL_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672")
_PATIENCE = 60  # seconds until a server that does not answer counts as absent; an absent one refuses at once


@dataclass(frozen=True)
class Scratch:
    name: str
    """The name of Cinder's database and of the vhost, and how the names of the other databases begin."""
    transport_url: str
    """For oslo.messaging."""

    server: pymysql.cursors.Cursor = field(repr=False)
    _broker: kombu.Connection = field(repr=False)

    def database(self, service: str) -> str:
        """The URL for SQLAlchemy of the database that was made for this service."""
        return f"{MARIADB}/{self.name}_{service}?charset=utf8mb4"

    @property
    def cinder_database(self) -> str:
        return f"{MARIADB}/{self.name}?charset=utf8mb4"

    @property
    def sm_database(self) -> str:
        return f"{MARIADB}/{self.name}_sm"

    def is_consumed(self, queue: str) -> bool:
        """Whether a service takes messages from this queue. oslo.messaging drops what it sends to any other."""
        channel = self._broker.channel()  # of its own: the broker closes it when there is no such queue
        try:
            return bool(channel.queue_declare(queue, passive=True).consumer_count > 0)
        except self._broker.channel_errors:
            return False
        finally:
            channel.close()

    def status(self, table: str, row_id: str) -> str | None:
        """The status of a volume or snapshot in Cinder's own table, which its API may translate; None if deleted."""
        query = f"SELECT status FROM {self.name}.{table} WHERE id = %s AND NOT deleted"
        self.server.execute(query, [row_id])
        row = self.server.fetchone()
        return None if row is None else str(row[0])


@contextmanager
def scratch(*services: str) -> Iterator[Scratch]:
    """With a database for each of these further services. Skips the test if a server does not answer."""
    name = PREFIX + secrets.token_hex(6)
    with ExitStack() as undo:
        server = undo.enter_context(_mariadb())
        vhosts = set(_rabbitmqctl("list_vhosts", "name", "--no-table-headers").split())
        _sweep(server, vhosts)
        server.execute("SELECT GET_LOCK(%s, 0)", [name])
        for database in (name, *(f"{name}_{each}" for each in ("sm", *services))):
            server.execute(f"CREATE DATABASE {database} CHARACTER SET utf8mb4")
            undo.callback(server.execute, f"DROP DATABASE {database}")
        _rabbitmqctl("add_vhost", name)
        undo.callback(_rabbitmqctl, "delete_vhost", name)
        broker = kombu.Connection(f"{RABBITMQ}/{name}", connect_timeout=_PATIENCE)
        _rabbitmqctl("set_permissions", "--vhost", name, str(broker.userid), ".*", ".*", ".*")
        undo.enter_context(_connected(broker))
        yield Scratch(
            name,
            broker.as_uri(include_password=True).replace("amqp://", "rabbit://"),
            server,
            broker,
        )


@contextmanager
def _mariadb() -> Iterator[pymysql.cursors.Cursor]:
    url = sa.make_url(MARIADB)
    try:
        connection = pymysql.connect(
            host=url.host,
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            connect_timeout=_PATIENCE,
            autocommit=True,
        )
    except pymysql.MySQLError as error:
        needs.no_server("MariaDB", where=url.render_as_string(), reason=error, variable="XENVOL_TEST_MARIADB")
    with connection, connection.cursor() as cursor:
        yield cursor


def _rabbitmqctl(*arguments: str) -> str:
    """vhosts are made by this command or by a plugin that is not on by default; the queues go over AMQP."""
    done = subprocess.run(
        [needs.program("rabbitmqctl"), "--quiet", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).partition("\n")[0]
        needs.no_server(
            "RabbitMQ", where=f"`rabbitmqctl {arguments[0]}`", reason=said, variable="XENVOL_TEST_RABBITMQ"
        )
    return done.stdout


@contextmanager
def _connected(broker: kombu.Connection) -> Iterator[None]:
    try:
        broker.connect()
    except broker.connection_errors as error:
        needs.no_server("RabbitMQ", where=broker.as_uri(), reason=error, variable="XENVOL_TEST_RABBITMQ")
    with broker:
        yield


def _sweep(server: pymysql.cursors.Cursor, vhosts: set[str]) -> None:
    """Drop what runs left that are no more."""
    server.execute("SHOW DATABASES")
    databases = {name for (name,) in server.fetchall()}
    for name in {found[0] for each in databases | vhosts if (found := _NAME.match(each))}:
        server.execute("SELECT GET_LOCK(%s, 0)", [name])
        if server.fetchone() != (1,):
            continue  # its run is alive, or another one is sweeping
        for database in {each for each in databases if each.startswith(name)}:
            server.execute(f"DROP DATABASE IF EXISTS {database}")
        if name in vhosts:
            _rabbitmqctl("delete_vhost", name)
        server.execute("SELECT RELEASE_LOCK(%s)", [name])
