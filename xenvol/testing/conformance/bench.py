"""A pool with a vendor's storage behind it, as it was before the driver came; the driver, as the facade uses it."""

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
    """Every method of the driver is called on a new object, which can know nothing of the ones before."""

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
        """Calls that the driver's session refuses, beyond those that are refused to every driver."""
        self.refused: list[str] = []
        """The calls that it has refused."""
        self.begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log_out()

    def begin(self) -> Self:
        """Build pool and storage anew; what is there now is what the driver must leave."""
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
        """`sweep.each_call` in a pool that `begin` has built."""
        return sweep.each_call(self.xapi, begin or self.begin, run, strike, again=type(self).again)

    def again(self) -> Self:
        """Go on as `begin` left it, in a pool that was restored: with the first session and no later one."""
        first, *later = self._clients
        self._clients = [first]
        for client in later:
            client.close()
        self.session = _Watched(first, self.refused)
        self.forbidden = frozenset()
        self.refused.clear()
        return self

    def remember(self) -> None:
        """Let the pool as it is now be what the driver must leave."""
        self.before = self.xapi.snapshot()

    @property
    def hosts(self) -> list[HostRef]:
        return [HostRef(ref) for ref in self.xapi.db.refs("host")]

    @property
    def data(self) -> dict[str, object]:
        """What the driver sees, its secrets wrapped; a copy that it could change, so that it can be caught at it."""
        return dict(connection_info.parse(self.connection_info).data)

    # ---- the driver

    def log_in(self) -> None:
        """Go on as another process would, with a session of its own."""
        client = xenvol.connect(self.xapi.url, self.xapi.user, self.xapi.password)
        self._clients.append(client)
        self.session = _Watched(client, self.refused)

    def driver(self, *, hosts: Iterable[HostRef] | None = None) -> VolumeDriver:
        """A new object with a session that is restricted as the facade does."""
        view = View(self.session.restricted(self.forbidden))
        return self.driver_class(view.restricted(self.name), hosts=hosts)

    def connect(
        self, *, hosts: Iterable[HostRef] | None = None, data: Mapping[str, object] | None = None
    ) -> VDIRef:
        """connect_volume; when it fails, rollback, which must raise nothing."""
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
        """The facade, with this driver."""
        return VolumeOps(self.session, prefer=self._prefer)

    def changing_calls(self, calls: Iterable[str]) -> list[str]:
        """Those that are not reads."""
        return [call for call in calls if not Call.parse(call).is_read]

    # ---- what became of the pool

    def changes(self) -> list[str]:
        """What is not as it was; empty: nothing was left."""
        return residue.changes(self.before, self.xapi.snapshot())

    def check_nothing_left(self, when: str, remedy: str) -> None:
        left = self.changes()
        require(not left, f"{when}, the pool is not as it was:\n{listed(left)}\n{remedy}")

    def sr_of(self, vdi_ref: VDIRef) -> SRRef:
        return SRRef(self.xapi.db.get("VDI", vdi_ref, "SR"))

    def check_reachable(self, vdi_ref: VDIRef, hosts: Iterable[HostRef]) -> None:
        """The VDI's SR is plugged on all these hosts."""
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
        """A method of the driver, for messages."""
        return f"{self.driver_class.__qualname__}.{name}"

    def _log_out(self) -> None:
        while self._clients:
            self._clients.pop().close()

    def __repr__(self) -> str:
        return f"<Bench of driver {self.name!r} on {self.xapi!r}>"


class _Watched(Session):
    """Notes what was refused, so that a driver which swallows the refusal is found out."""

    def __init__(self, wrapped: Any, refused: list[str]) -> None:
        super().__init__(wrapped, sleep=lambda seconds: None)
        self._refused = refused

    def call(self, call: str, *params: Any) -> Any:
        try:
            return super().call(call, *params)
        except ForbiddenCall as error:
            self._refused.append(error.call)
            raise
