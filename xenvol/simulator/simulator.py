"""A whole pool on the loopback: the object that tests, the pytest plugin and the command line use.

    with Simulator() as xapi:
        session = XenAPI.Session(xapi.url)
        session.login_with_password(xapi.user, xapi.password)

Every host listens on an address of its own, 127.0.0.1 for the first. All hosts use one port, because
HOST_IS_SLAVE gives only the master's address.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.resources
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from xenvol.simulator import bootstrap, checkpoint, worlds
from xenvol.simulator.bulk import BulkBuilder
from xenvol.simulator.checkpoint import Checkpoint, Template
from xenvol.simulator.control import Control
from xenvol.simulator.database import Database
from xenvol.simulator.faults import Faults
from xenvol.simulator.furnish import furnish
from xenvol.simulator.hooks import Gate
from xenvol.simulator.journal import Journal
from xenvol.simulator.pool import Pool
from xenvol.simulator.rules import liveness
from xenvol.simulator.rules.gc import INTERVAL, Collector
from xenvol.simulator.server import Server
from xenvol.simulator.service import Service
from xenvol.simulator.sm.world import World
from xenvol.simulator.sm.worldfile import WorldError
from xenvol.simulator.snapshot import Snapshot, take
from xenvol.simulator.xapi import HOST_ASSUMED_DEAD_INTERVAL, Xapi

_DATA = importlib.resources.files("xenvol.simulator") / "data"
_PORT_ATTEMPTS = 20
"""How often to try another port, if a port that is free on the first address is taken on another."""


class Simulator(BulkBuilder):
    """A simulated pool, started by a ``with`` block or `start`; `reset` rebuilds everything but the ports.

    ``world`` is ``"recorded"``, ``"example"``, ``"demo"``, a world file or its content; without one, the pool
    has ``hosts`` hosts (1) and every storage driver. ``port`` 0 takes a free one. ``storage_delays`` makes
    storage take the time that real storage took, or with a number such as 0.01, that fraction of it. After
    ``host_assumed_dead_interval`` seconds of silence (600, as xapi's setting) the master takes a host for dead.
    """

    user = "root"
    password = "secret"

    def __init__(
        self,
        version: str = "24.16.0",
        *,
        world: str | Path | Mapping[str, Any] | None = None,
        hosts: int | None = None,
        port: int = 0,
        tls: bool = False,
        storage_delays: float = False,
        host_assumed_dead_interval: float = HOST_ASSUMED_DEAD_INTERVAL,
    ) -> None:
        self.version = version.removeprefix("v")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ValueError(f"version: {version!r} is not a release of xapi; write it as in 24.16.0")
        if host_assumed_dead_interval <= 0:
            raise ValueError(
                f"host_assumed_dead_interval: {host_assumed_dead_interval} is no number of seconds above 0"
            )
        if world is not None and hosts is not None:
            raise ValueError("hosts: a world has its own hosts; give either hosts or world")
        self.port = port
        self.tls = tls
        self._storage_delays = storage_delays
        self._host_assumed_dead_interval = host_assumed_dead_interval
        self._spec = worlds.default(hosts or 1) if world is None else worlds.load(world)
        is_shipped = world is None or world in worlds.NAMES
        self._kind = (self.version, hosts or 1, str(world)) if is_shipped else None
        """Equal for simulators with the same initial state; None for a world that only this one has."""
        self._addresses = [_address(spec.address, n) for n, spec in enumerate(self._spec.pool.hosts)]
        self.journal = Journal()
        """All calls (`xenvol.simulator.journal`)."""
        self.faults = Faults(self, met=self.journal.met_fault)
        """Ordered faults (`xenvol.simulator.faults`)."""
        self._hosts_of: WeakKeyDictionary[Xapi, list[str]] = WeakKeyDictionary()
        """The host of each listener, for each pool that this simulator has had."""
        self._control = Control(self)
        self._service = Service(
            self._build(), interceptor=self.faults, journal=self.journal, control=self._control
        )
        self._servers: list[Server] = []
        self._collector = self._collector_of(self.xapi)
        self._order_faults()

    def __repr__(self) -> str:
        return f"<Simulator of xapi {self.version}, {self.url if self._servers else 'not started'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- addresses

    @property
    def url(self) -> str:
        """The master's URL."""
        return self.urls[self._hosts.index(self.xapi.master)]

    @property
    def urls(self) -> list[str]:
        """The hosts' URLs, in the order in which the hosts were added."""
        if not self._servers:
            raise RuntimeError("the simulator is not started; use it in a with block, or call start()")
        return [server.url for server in self._servers]

    @property
    def is_started(self) -> bool:
        return bool(self._servers)

    @property
    def connections(self) -> int:
        """The number of open connections; one whose client has left counts until its call is over."""
        return sum(server.connections for server in self._servers)

    @property
    def ca_file(self) -> str:
        """The certificate that a client must trust if `tls` is set; its key is public and not a secret."""
        return str(_DATA / "loopback-cert.pem")

    @property
    def xapi(self) -> Xapi:
        return self._service.xapi

    @property
    def gate(self) -> Gate | None:
        """Holds and releases calls (`xenvol.simulator.hooks.Gate`); None lets every call pass."""
        return self._service.gate

    @gate.setter
    def gate(self, gate: Gate | None) -> None:
        self._service.gate = gate

    @property
    def db(self) -> Database:
        """The pool's objects; hold ``xapi.lock`` to change them while clients call."""
        return self.xapi.db

    @property
    def storage(self) -> World:
        """The storage behind the pool; a test can change it at any time."""
        return self.xapi.world

    @property
    def dev(self) -> Path:
        """The directory that stands for the master's ``/dev``:

        ``dev / VBD.device`` has the bytes of a plugged disk.
        """
        return self.dev_of(self.xapi.master)

    def dev_of(self, host: str) -> Path:
        """Return the directory that stands for a host's ``/dev``, by reference, uuid, name or address."""
        return self.storage.dev(self.db.row("host", self.find_host(host))["hostname"])

    def about(self) -> dict[str, Any]:
        """Return what a client needs to log in."""
        return {
            "version": self.version,
            "url": self.url,
            "urls": self.urls,
            "user": self.user,
            "password": self.password,
        }

    # ---- start and stop

    def start(self) -> None:
        """Listen, one address per host; OSError if the port is taken. Idempotent."""
        if self._servers:
            return
        attempts = 1 if self.port else _PORT_ATTEMPTS
        for left in reversed(range(attempts)):
            try:
                self._listen()
                self._collector.start()
                return
            except OSError as error:
                self._stop_listening()
                if error.errno != errno.EADDRINUSE or not left:
                    raise
                self.port = 0

    def close(self) -> None:
        """Stop listening, end what waits, and remove the storage. Idempotent."""
        self._stop_listening()
        self._collector.stop()
        self.faults.clear()
        _discard(self.xapi)

    def reset(self) -> None:
        """Restore the initial state: objects, storage, faults, journal.

        All hosts are up, without sessions and gate.
        """
        self.gate = None
        self._go_on_with(self._build(), self._addresses[: len(self._spec.pool.hosts)])
        self._control.forget_checkpoints()
        self.faults.start_over()
        self._order_faults()

    def checkpoint(self) -> Checkpoint:
        """Save the whole state for `restore`; RuntimeError while a call is under way."""
        kept = checkpoint.take(self.xapi)
        return dataclasses.replace(kept, hosts=tuple(zip(self._hosts, self._addresses, strict=True)))

    def restore(self, kept: Checkpoint) -> None:
        """Restore a checkpoint with its sessions and dead hosts; clear faults and journal.

        Calls under way end on the replaced pool.
        """
        with self.xapi.lock:
            xapi = checkpoint.make(kept, self.storage.give_up_directory())
        self._hosts_of[xapi] = [host for host, _ in kept.hosts]
        self._go_on_with(xapi, [address for _, address in kept.hosts])
        for server, (host, _) in zip(self._servers, kept.hosts, strict=False):
            if host in xapi.dead:
                server.go_down()

    def snapshot(self) -> Snapshot:
        """Return the whole state, to be compared with a later one."""
        return take(self.xapi)

    # ---- hosts

    def add_host(
        self, name: str | None = None, *, address: str = "", iscsi_iqn: str = "", enabled: bool = True
    ) -> str:
        """Add a member, which listens at once if the others do."""
        address = _address(address, len(self._hosts))
        host = super().add_host(name, address=address, iscsi_iqn=iscsi_iqn, enabled=enabled)
        self._hosts.append(host)
        self._addresses.append(address)
        if self._servers:
            self._servers.append(self._server(len(self._hosts) - 1))
            self._servers[-1].start()
        return host

    def die(self, host: str | None) -> None:
        """Let the host fall silent: close its listener and its connections. None means every host."""
        for found in self._hosts if host is None else [self.find_host(host)]:
            self._service.lose(found)
        for server in self._servers_of(host):
            server.go_down()

    def come_back(self, host: str | None) -> None:
        """Let the host answer again; the master takes it for live at once. None means every host."""
        with self.xapi.lock:
            for found in self._hosts if host is None else [self.find_host(host)]:
                liveness.come_back(self.xapi, found)
        for server in self._servers_of(host):
            server.come_back()

    def drop_connections(self, host: str | None) -> None:
        """Close the connections, and go on listening."""
        for server in self._servers_of(host):
            server.drop_connections()

    # ---- inside

    @property
    def _hosts(self) -> list[str]:
        return self._hosts_of[self.xapi]

    def _go_on_with(self, xapi: Xapi, addresses: list[str]) -> None:
        """Replace the pool by another one, at the same addresses."""
        self.faults.clear()
        self._collector.stop()
        old, self._service.xapi = self.xapi, xapi
        self._collector = self._collector_of(xapi)
        self._addresses[:] = addresses
        for server in self._servers[len(addresses) :]:
            server.close()
        del self._servers[len(addresses) :]
        for server in self._servers:
            server.come_back()
        if self.is_started:
            for index in range(len(self._servers), len(addresses)):
                self._servers.append(self._server(index))
                self._servers[-1].start()
            self._collector.start()
        self.journal.clear()
        _discard(old)

    def _collector_of(self, xapi: Xapi) -> Collector:
        """Return a collector that looks for dead hosts in time also if they are soon assumed dead."""
        return Collector(xapi, min(INTERVAL, self._host_assumed_dead_interval))

    def _build(self) -> Xapi:
        """Return a pool in its initial state; a copy, if this process has built one of the same kind."""
        if self._kind is None:
            return self._built()
        if self._kind not in _TEMPLATES:
            _TEMPLATES[self._kind] = Template(self._built)
        xapi = _TEMPLATES[self._kind].make()
        with xapi.lock:
            self._place(xapi)
        self._hosts_of[xapi] = xapi.db.refs("host")
        xapi.storage_delays = self._storage_delays
        xapi.host_assumed_dead_interval = self._host_assumed_dead_interval
        return xapi

    def _built(self) -> Xapi:
        spec = self._spec
        world = World.from_dict(spec.storage)
        try:
            xapi = Xapi(version=self.version, world=world)
            xapi.users = {self.user: self.password}
            with xapi.lock:
                bootstrap.build(xapi, spec.pool)
                self._place(xapi)
                furnish(Pool(xapi), spec)
                self._hosts_of[xapi] = xapi.db.refs("host")
        except BaseException:
            world.close()
            raise
        xapi.storage_delays = self._storage_delays
        xapi.host_assumed_dead_interval = self._host_assumed_dead_interval
        return xapi

    def _order_faults(self) -> None:
        for index, fault in enumerate(self._spec.faults):
            try:
                self.faults.order(fault)
            except (ValueError, KeyError) as error:
                raise WorldError(f"faults[{index}].{error.args[0]}") from error

    def _place(self, xapi: Xapi) -> None:
        """Write the members' addresses; a pool of one host needs none."""
        hosts = xapi.db.refs("host")
        for host, address in zip(hosts, self._addresses, strict=False):
            if len(hosts) > 1:
                xapi.db.set("host", host, address=address)

    def _listen(self) -> None:
        for index in range(len(self._hosts)):
            server = self._server(index)
            server.start()
            self.port = server.port
            self._servers.append(server)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _server(self, index: int) -> Server:
        return Server(
            self._service,
            host=self._addresses[index],
            port=self.port,
            tls=_tls() if self.tls else None,
            identity=lambda xapi: self._hosts_of[xapi][index],
        )

    def _servers_of(self, host: str | None) -> list[Server]:
        if host is None:
            return list(self._servers)
        return [self._servers[self._hosts.index(self.find_host(host))]]


_TEMPLATES: dict[tuple[str, int, str], Template] = {}
"""Templates by version, number of hosts, and world."""


def _address(wanted: str, index: int) -> str:
    if not wanted:
        return f"127.0.0.{index + 1}"
    if not wanted.startswith("127."):
        raise WorldError(
            f"hosts[{index}].address: {wanted!r} is not on the loopback, 127.0.0.1 to 127.255.255.254, "
            "and a simulator listens nowhere else"
        )
    return wanted


def _discard(xapi: Xapi) -> None:
    xapi.close()
    xapi.world.close()


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(_DATA / "loopback-cert.pem"), str(_DATA / "loopback-key.pem"))
    return context
