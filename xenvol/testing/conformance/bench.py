"""A fresh pool with a vendor's storage behind it, and the driver as the facade uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import xenvol
from xenvol.connection_data import connection_info
from xenvol.drivers import registry
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import ForbiddenCall
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.session.refs import HostRef, SRRef, VDIRef
from xenvol.session.wire import Call
from xenvol.simulator import Simulator
from xenvol.testing import residue, sweep
from xenvol.testing.conformance.requirement import listed, must_pass, require
from xenvol.volumeops import VolumeOps


class Bench:
    """A pool, the storage and the driver; each method of the driver runs on a new object without memory."""

    def __init__(
        self,
        xapi: Simulator,
        driver_volume_type: str,
        arrange: Callable[[Simulator], Mapping[str, object]],
        *,
        prefer: Mapping[str, str],
    ) -> None:
        self.xapi = xapi
        self.name = driver_volume_type
        self._arrange = arrange
        self._prefer = prefer
        self.driver_class = registry.get_driver_class(driver_volume_type, prefer=prefer)
        self._clients: list[Session] = []
        self.forbidden: frozenset[str] = frozenset()
        """Calls that the driver's session refuses, besides those that are refused to every driver."""
        self.refused: list[str] = []
        """The calls that the session has refused."""
        self.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log_out()

    def begin(self) -> Self:
        """Build pool and storage anew; the driver must leave the pool in this state."""
        self._log_out()
        self.xapi.reset()
        self.forbidden = frozenset()
        self.refused.clear()
        self.connection_info = {
            "driver_volume_type": self.name,
            "data": dict(self._arrange(self.xapi)),
        }
        residue.touch_hosts(self.xapi)
        self.remember()
        self.log_in()
        return self

    def each_call(
        self, run: Callable[[Self], object], strike: sweep.Strike, *, begin: Callable[[], Self] | None = None
    ) -> Iterator[sweep.Case[Self]]:
        """Iterate over the cases of `sweep.each_call`, each in a pool that `begin` has built."""
        return sweep.each_call(self.xapi, begin or self.begin, run, strike, again=type(self).again)

    def again(self) -> Self:
        """Return the bench after a restore of the pool, with its first session and no later one."""
        first, *later = self._clients
        self._clients = [first]
        for client in later:
            client.close()
        self.session = _Watched(first, self.refused)
        self.forbidden = frozenset()
        self.refused.clear()
        return self

    def remember(self) -> None:
        """Make the current pool the state that the driver must leave."""
        self.before = self.xapi.snapshot()

    @property
    def hosts(self) -> list[HostRef]:
        return [HostRef(ref) for ref in self.xapi.db.refs("host")]

    @property
    def data(self) -> dict[str, object]:
        """A copy of the data that the driver sees, with secrets wrapped.

        It is mutable, so that a change by the driver shows.
        """
        return dict(connection_info.parse(self.connection_info).data)

    # ---- the driver

    def log_in(self) -> None:
        """Continue with a new session, as another process would."""
        client = xenvol.connect(self.xapi.url, self.xapi.user, self.xapi.password)
        self._clients.append(client)
        self.session = _Watched(client, self.refused)

    def driver(self, *, hosts: Iterable[HostRef] | None = None) -> VolumeDriver:
        """Return a new driver object, with a session restricted as the facade does."""
        view = View(self.session.restricted(self.forbidden))
        return self.driver_class(view.restricted(self.name), hosts=hosts)

    def connect(
        self, *, hosts: Iterable[HostRef] | None = None, data: Mapping[str, object] | None = None
    ) -> VDIRef:
        """Call connect_volume; if it fails, call rollback, which must not raise."""
        data = self.data if data is None else data
        driver = self.driver(hosts=hosts)
        try:
            vdi_ref = driver.connect_volume(data)
        except BaseException:
            with must_pass(
                f"{self.method('rollback')} was called after a connect that failed",
                "a rollback raises nothing: it logs what it cannot take back (self.undo.unwind does so)",
            ):
                driver.rollback(data)
            raise
        self._check_reference(vdi_ref)
        return vdi_ref

    def disconnect(self, data: Mapping[str, object] | None = None) -> None:
        self.driver().disconnect_volume(self.data if data is None else data)

    def extend(self) -> int:
        return self.driver().extend_volume(self.data)

    def volume_ops(self) -> VolumeOps:
        """Return the facade, with this driver."""
        return VolumeOps(self.session, prefer=self._prefer)

    def changing_calls(self, calls: Iterable[str]) -> list[str]:
        """Return the calls that are not reads."""
        return [call for call in calls if not Call.parse(call).is_read]

    # ---- changes of the pool

    def changes(self) -> list[str]:
        """Return what differs from the remembered pool; empty if nothing was left."""
        return residue.changes(self.before, self.xapi.snapshot())

    def check_nothing_left(self, when: str, remedy: str) -> None:
        left = self.changes()
        require(not left, f"{when}, the pool is not as it was:\n{listed(left)}\n{remedy}")

    def sr_of(self, vdi_ref: VDIRef) -> SRRef:
        return SRRef(self.xapi.db.get("VDI", vdi_ref, "SR"))

    def check_reachable(self, vdi_ref: VDIRef, hosts: Iterable[HostRef]) -> None:
        """Require that the VDI's SR is plugged on all these hosts."""
        db = self.xapi.db
        sr_ref = self.sr_of(vdi_ref)
        pbds = [db.record("PBD", ref) for ref in db.children(sr_ref, "PBDs")]
        plugged = {pbd["host"] for pbd in pbds if pbd["currently_attached"]}
        missing = [db.get("host", ref, "name_label") for ref in hosts if ref not in plugged]
        require(
            not missing,
            f"after {self.method('connect_volume')} the SR of the VDI ({db.get('SR', sr_ref, 'name_label')}) is not "
            f"plugged on {', '.join(missing)}: give every host in `hosts` (None: every host of the pool) a PBD, and "
            "plug it",
        )

    def _check_reference(self, vdi_ref: object) -> None:
        require(
            isinstance(vdi_ref, str) and self.xapi.db.exists("VDI", vdi_ref),
            f"{self.method('connect_volume')} returned {vdi_ref!r}, which is the reference of no VDI: return the "
            "OpaqueRef of the one that shows the volume",
        )

    def method(self, name: str) -> str:
        """Return the name of a driver's method, for messages."""
        return f"{self.driver_class.__qualname__}.{name}"

    def _log_out(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def __repr__(self) -> str:
        return f"<Bench of driver {self.name!r} on {self.xapi!r}>"


class _Watched(Session):
    """Records refusals, so that a driver that swallows one is found."""

    def __init__(self, wrapped: Any, refused: list[str]) -> None:
        super().__init__(wrapped, sleep=lambda seconds: None)
        self._refused = refused

    def call(self, call: str, *params: Any) -> Any:
        try:
            return super().call(call, *params)
        except ForbiddenCall as error:
            self._refused.append(error.call)
            raise
