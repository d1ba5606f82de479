"""A simulator with one iSCSI target, and the calls that turn its LUNs into VDIs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import XenAPI
from recorded_world import derived_uuid

from xenvol.simulator import Simulator
from xenvol.simulator.rules import gc
from xenvol.simulator.sm.initiator import Initiator
from xenvol.simulator.sm.san import San

GIB = 1 << 30
TARGET = "iqn.2024-01.test:volumes"
OTHER = "iqn.2024-01.test:other"
ADDRESS, OTHER_ADDRESS = "10.0.0.1", "10.0.0.2"

LUNS = {0: ("3600a0", GIB), 1: ("3600a1", 2 * GIB), 5: ("3600a5", 5368710144)}
"""LUN number to SCSI id and size, for `TARGET`."""


class Lab:
    def __init__(self, simulator: Simulator, session: Any) -> None:
        self.simulator = simulator
        self.session = session
        self.x = session.xenapi
        (pool,) = self.x.pool.get_all()
        self.host: str = self.x.pool.get_master(pool)
        self.san.add_portal(f"{ADDRESS}:3260", TARGET)
        self.san.add_portal(f"{OTHER_ADDRESS}:3260", OTHER)
        for number, (scsi_id, size) in LUNS.items():
            self.san.add_lun(TARGET, number, size, scsi_id=scsi_id)
        self.san.add_lun(OTHER, 1, GIB, scsi_id="3600b1")

    # ---- the storage

    @property
    def san(self) -> San:
        return self.simulator.storage.san

    @property
    def initiator(self) -> Initiator:
        return self.simulator.storage.host("host1").initiator

    def collect(self) -> None:
        """Run the garbage collection that xapi runs every 30 seconds."""
        gc.collect(self.simulator.xapi)

    # ---- calls

    def introduce(
        self,
        config: dict[str, str] | None = None,
        *,
        type: str = "iscsi",
        sr_uuid: str = "",
        **sm_config: str,
    ) -> tuple[str, str]:
        """Introduce an SR, and return it and its unplugged PBD."""
        sr = self.x.SR.introduce(sr_uuid, "sr", "", type, "", True, sm_config)
        if config is None:
            config = {"target": ADDRESS, "targetIQN": TARGET}
        pbd = self.x.PBD.create({"host": self.host, "SR": sr, "device_config": config})
        return sr, pbd

    def plug(self, config: dict[str, str] | None = None, **kwargs: Any) -> tuple[str, str]:
        sr, pbd = self.introduce(config, **kwargs)
        self.x.PBD.plug(pbd)
        return sr, pbd

    def vdis(self, sr: str) -> dict[int, dict[str, Any]]:
        """Return the records of the SR's VDIs by LUN number, with their references."""
        records = {ref: self.x.VDI.get_record(ref) for ref in self.x.SR.get_VDIs(sr)}
        return {int(rec["sm_config"]["LUNid"]): {**rec, "ref": ref} for ref, rec in records.items()}

    def by_introduce(self, sr: str, sm_config: dict[str, str], *, location: str = "somewhere") -> str:
        """Call VDI.introduce with defaults for most of its parameters."""
        wanted = "22222222-0000-4000-8000-000000000007"
        new = self.x.VDI.introduce(
            wanted, "name", "text", sr, "user", False, True, {"k": "v"}, location, {}, sm_config
        )
        return str(new)

    def secrets(self) -> list[str]:
        """Return the values of all secrets but the pool's own."""
        own = self.x.pool.get_all_records().values()
        telemetry = {rec["telemetry_uuid"] for rec in own}
        return sorted(
            rec["value"] for ref, rec in self.x.secret.get_all_records().items() if ref not in telemetry
        )


@contextmanager
def lab(**kwargs: Any) -> Iterator[Lab]:
    with Simulator(**kwargs) as simulator:
        session = XenAPI.Session(simulator.url)
        session.login_with_password(simulator.user, simulator.password)
        try:
            yield Lab(simulator, session)
        finally:
            session("close")()


def refusal(call: Callable[..., Any], *params: Any) -> list[str]:
    """Return the call's ErrorDescription."""
    with pytest.raises(XenAPI.Failure) as failure:
        call(*params)
    return list(failure.value.details)


def lun_uuid(number: int) -> str:
    return derived_uuid(LUNS[number][0])
