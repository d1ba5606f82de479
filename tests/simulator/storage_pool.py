"""A pool whose SRs are of types dummy and flaky, with shortcuts for tests of the storage rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import XenAPI
from xapi_client import log_in

from xenvol.simulator import Simulator

NULL = "OpaqueRef:NULL"
DEAD = "OpaqueRef:deadbeef-dead-dead-dead-deadbeefdead"
GIB = 1 << 30


class StoragePool:
    def __init__(self, simulator: Simulator, x: Any) -> None:
        self.simulator = simulator
        self.x = x
        """The ``xenapi`` object of a session."""
        self.db = simulator.db
        self.master: str = simulator.xapi.master
        self.hosts: list[str] = self.db.refs("host")

    def introduced(self, sr_type: str = "dummy", *, shared: bool = True, uuid: str = "") -> str:
        return str(self.x.SR.introduce(uuid, "sr", "", sr_type, "user", shared, {}))

    def pbd(self, sr: str, host: str | None = None, **config: str) -> str:
        record = {"host": host or self.master, "SR": sr, "device_config": config}
        return str(self.x.PBD.create(record))

    def sr(self, sr_type: str = "dummy", *, shared: bool = True, **config: str) -> str:
        """Create an SR, plugged if the driver allows it."""
        return str(self.x.SR.create(self.master, config, "0", "sr", "", sr_type, "user", shared, {}))

    def vdi(self, sr: str, **values: Any) -> str:
        record: dict[str, Any] = {
            "name_label": "disk",
            "name_description": "",
            "SR": sr,
            "virtual_size": str(GIB),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        }
        return str(self.x.VDI.create({**record, **values}))

    def introduced_vdi(self, sr: str, uuid: str, location: str) -> str:
        return str(self.x.VDI.introduce(uuid, "disk", "", sr, "user", False, False, {}, location, {}, {}))

    def vbd(self, vdi: str, *, attached: bool = False, mode: str = "RW") -> str:
        """Add a VBD of a VM that runs on the master, directly to the database."""
        with self.simulator.xapi.lock:
            metrics = self.db.create("VM_metrics", current_domain_type="pv")
            vm = self.db.create("VM", power_state="Running", resident_on=self.master, metrics=metrics)
            return self.db.create("VBD", VM=vm, VDI=vdi, mode=mode, type="Disk", currently_attached=attached)

    def the_pbd(self, sr: str) -> str:
        (pbd,) = self.x.SR.get_PBDs(sr)
        return str(pbd)


@contextmanager
def storage_pool(version: str = "24.16.0", *, hosts: int = 1) -> Iterator[StoragePool]:
    with Simulator(version, hosts=hosts) as simulator, log_in(simulator) as x:
        yield StoragePool(simulator, x)


def refusal(call: Callable[..., object], *arguments: object) -> list[str]:
    """Return the call's ErrorDescription; fails if the call succeeds."""
    try:
        result = call(*arguments)
    except XenAPI.Failure as failure:
        return list(failure.details)
    raise AssertionError(f"not refused, but answered with {result!r}")
