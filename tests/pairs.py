"""Two clients that meet on one pool, for each driver: what the explorer of schedules runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xenvol
from tests.scenarios import (
    GIB,
    IQN,
    SCENARIOS,
    SR_UUID,
    Scenario,
    touch_hosts,
)
from xenvol.errors import XapiError
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.vhd import Vhd
from xenvol.simulator.sm.volumegroup import LogicalVolume, VolumeGroup
from xenvol.testing.explorer import SLOW, Client, Report, explore
from xenvol.volumeops import VolumeOps

OTHER_VDI = "d1500000-0000-4000-8000-000000000002"

Info = dict[str, Any]


@dataclass(frozen=True)
class Driver:
    """A volume, and another one that lies on the same storage."""

    scenario: Scenario
    neighbour: Info

    @property
    def volume(self) -> Info:
        return self.scenario.connection_info

    def arrange(self, xapi: Simulator) -> None:
        self.scenario.arrange(xapi)
        _NEIGHBOURS[self.scenario.name](xapi)

    def __str__(self) -> str:
        return self.scenario.name


def _export(xapi: Simulator) -> Directory:
    return xapi.storage.shares.nfs_server("10.0.0.2").exports["/export/vols"].filesystem.root


def _add_vhd(directory: Directory | None) -> None:
    assert directory is not None
    directory.add_vhd(OTHER_VDI, GIB)


def _add_logical_volume(xapi: Simulator) -> None:
    (lun,) = xapi.storage.san.targets[IQN].luns.values()
    assert isinstance(lun.content, VolumeGroup)
    lun.content.add_disk(OTHER_VDI, LogicalVolume(2 * GIB, Vhd(GIB)))


_NEIGHBOURS: dict[str, Callable[[Simulator], None]] = {
    "iscsi": lambda xapi: None,
    "iscsi-chap": lambda xapi: None,
    "nfs": lambda xapi: _add_vhd(_export(xapi)),
    "gluster": lambda xapi: _add_vhd(
        xapi.storage.shares.gluster_volume("10.0.0.3", "vols").filesystem.root.directory(SR_UUID)
    ),
    "xensm-nfs": lambda xapi: _add_vhd(_export(xapi).directory(SR_UUID)),
    "xensm-lvmoiscsi": _add_logical_volume,
}


def _neighbour_of(scenario: Scenario) -> Info:
    info = scenario.connection_info
    changed: Info = {"volume_id": "volume-neighbour"}
    if scenario.name.startswith("iscsi"):
        changed["target_lun"] = 1
    elif scenario.name.startswith("xensm"):
        changed["vdi_uuid"] = OTHER_VDI
    else:
        directory, slash, _ = info["data"]["name"].rpartition("/")
        changed["name"] = f"{directory}{slash}{OTHER_VDI}.vhd"
    return {**info, "data": {**info["data"], **changed}}


DRIVERS = [Driver(scenario, _neighbour_of(scenario)) for scenario in SCENARIOS]


@dataclass(frozen=True)
class Pair:
    name: str
    begin: Callable[[Simulator, Driver], None]
    """What is there before; its VMs have a disk of their own, so that their operations take time."""
    first: Callable[[Driver], Client]
    second: Callable[[Driver], Client]
    hosts: int = 1

    def __str__(self) -> str:
        return self.name


def _vms(web: str = "Running", db: str = "Running") -> Callable[[Simulator, Driver], None]:
    def begin(xapi: Simulator, driver: Driver) -> None:
        local = xapi.add_sr("local", type="dummy")
        first = xapi.db.refs("host")[0]
        for name, state in (("web", web), ("db", db)):
            resident = {} if state == "Halted" else {"resident_on": first}
            xapi.add_vm(name, power_state=state, disks=[xapi.add_vdi(local, f"disk of {name}")], **resident)

    return begin


def _with_neighbour_in_db(xapi: Simulator, driver: Driver) -> None:
    _vms()(xapi, driver)
    _as_somebody(xapi, lambda ops: ops.attach_volume(driver.neighbour, "db"))


def _with_volume_in_db(xapi: Simulator, driver: Driver) -> None:
    _vms()(xapi, driver)
    _as_somebody(xapi, lambda ops: ops.attach_volume(driver.volume, "db"))


def _with_volume_in_web(xapi: Simulator, driver: Driver) -> None:
    _vms()(xapi, driver)
    _as_somebody(xapi, lambda ops: ops.attach_volume(driver.volume, "web"))


def _with_both(xapi: Simulator, driver: Driver) -> None:
    _with_volume_in_web(xapi, driver)
    _as_somebody(xapi, lambda ops: ops.attach_volume(driver.neighbour, "db"))


def _connected(xapi: Simulator, driver: Driver) -> None:
    _vms()(xapi, driver)
    _as_somebody(xapi, lambda ops: ops.connect_volume(driver.volume))


def _as_somebody(xapi: Simulator, act: Callable[[VolumeOps], object]) -> None:
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        act(VolumeOps(session))


def _doing(name: str, act: Callable[[VolumeOps, Driver], object]) -> Callable[[Driver], Client]:
    return lambda driver: Client(name, lambda session: act(VolumeOps(session), driver))


def _to_vm(name: str, *more: Any) -> Callable[[Driver], Client]:
    """What an operator does to the VM "web" meanwhile."""

    def run(session: Session) -> None:
        (vm,) = session.call("VM.get_by_name_label", "web")
        session.call(name, vm, *more)

    return lambda driver: Client(name, run)


def _migrate(session: Session) -> None:
    """As a service does it: again from the start if a disk came in between."""
    (vm,) = session.call("VM.get_by_name_label", "web")
    (host,) = session.call("host.get_by_name_label", "host2")
    for left in reversed(range(3)):
        VolumeOps(session).prepare_migration("web", "host2")
        try:
            session.call("VM.pool_migrate", vm, host, {"live": "true"})
            return
        except XapiError as error:
            if error.code != "VM_REQUIRES_SR" or not left:
                raise


_attach = _doing("attach", lambda ops, driver: ops.attach_volume(driver.volume, "web"))
_connect = _doing("connect", lambda ops, driver: ops.connect_volume(driver.volume))

PAIRS = [
    Pair(
        "attach x detach of a neighbour",
        _with_neighbour_in_db,
        _attach,
        _doing("detach", lambda ops, driver: ops.detach_volume(driver.neighbour, "db")),
    ),
    Pair(
        "detach x detach of a neighbour",
        _with_both,
        _doing("detach", lambda ops, driver: ops.detach_volume(driver.volume, "web")),
        _doing("detach neighbour", lambda ops, driver: ops.detach_volume(driver.neighbour, "db")),
    ),
    Pair(
        "attach x attach of a neighbour",
        _vms(),
        _attach,
        _doing("attach neighbour", lambda ops, driver: ops.attach_volume(driver.neighbour, "db")),
    ),
    Pair(
        "attach x attach of the same volume to the same VM",
        _vms(),
        _attach,
        _doing("attach too", lambda ops, driver: ops.attach_volume(driver.volume, "web")),
    ),
    Pair("attach x VM.start", _vms(web="Halted"), _attach, _to_vm("VM.start", False, False)),
    Pair("attach x VM.clean_shutdown", _vms(), _attach, _to_vm("VM.clean_shutdown")),
    Pair("attach x migrate", _vms(), _attach, lambda driver: Client("migrate", _migrate), hosts=2),
    Pair(
        "detach x VM.clean_shutdown",
        _with_volume_in_web,
        _doing("detach", lambda ops, driver: ops.detach_volume(driver.volume, "web")),
        _to_vm("VM.clean_shutdown"),
    ),
    Pair("connect x connect", _vms(), _connect, _connect),
    Pair(
        "connect x disconnect",
        _vms(),
        _connect,
        _doing("disconnect", lambda ops, driver: ops.disconnect_volume(driver.volume)),
    ),
    Pair(
        "connect x disconnect of what is connected",
        _connected,
        _connect,
        _doing("disconnect", lambda ops, driver: ops.disconnect_volume(driver.volume)),
    ),
    Pair(
        "connect x detach of the same volume",
        _with_volume_in_db,
        _connect,
        _doing("detach", lambda ops, driver: ops.detach_volume(driver.volume, "db")),
    ),
    Pair(
        "two VMs for one volume",
        _vms(),
        _attach,
        _doing("attach to db", lambda ops, driver: ops.attach_volume(driver.volume, "db")),
    ),
]


def run(pair: Pair, driver: Driver, *, preemptions: int, sample: int = 0, seed: int = 0) -> Report:
    """The pair explored, in a pool of its own."""
    with Simulator(hosts=pair.hosts) as xapi:

        def begin() -> None:
            driver.arrange(xapi)
            touch_hosts(xapi)
            pair.begin(xapi, driver)

        return explore(
            xapi,
            begin,
            pair.first(driver),
            pair.second(driver),
            preemptions=preemptions,
            sample=sample,
            seed=seed,
            slow=(*SLOW, "VM.start", "VM.clean_shutdown", "VM.pool_migrate"),
            may_wait=False,
        )
