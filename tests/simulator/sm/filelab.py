"""A simulator whose storage a test arranges, and the calls that tests of file SRs repeat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import XenAPI

from xenvol.simulator import Simulator
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.mounts import HostMounts
from xenvol.simulator.sm.shares import Shares

MIB, GIB = 1 << 20, 1 << 30
SR_UUID = "11111111-0000-4000-8000-000000000001"
OTHER_UUID = "11111111-0000-4000-8000-000000000002"
DISK, OTHER_DISK = "33333333-0000-4000-8000-000000000001", "33333333-0000-4000-8000-000000000002"
TOO_BIG_OR_SMALL = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]"
LARGEST = 2190433320960


class FileLab:
    def __init__(self, simulator: Simulator, session: Any) -> None:
        self.simulator = simulator
        self.x = session.xenapi
        self.host: str = self.x.pool.get_master(self.x.pool.get_all()[0])

    # ---- the storage

    @property
    def shares(self) -> Shares:
        return self.simulator.storage.shares

    @property
    def mounts(self) -> HostMounts:
        return self.simulator.storage.host("host1").mounts

    def disks_of(self, sr: str) -> Directory:
        """Return the directory in which the host sees the SR's files."""
        directory = self.mounts.directory(f"/run/sr-mount/{self.x.SR.get_uuid(sr)}")
        assert directory is not None, "the SR is mounted"
        return directory

    # ---- calls

    def create(self, sr_type: str, config: dict[str, str], *, shared: bool = False, **sm_config: str) -> str:
        created: str = self.x.SR.create(
            self.host, config, "0", sr_type, "", sr_type, "user", shared, sm_config
        )
        return created

    def probe(self, sr_type: str, config: dict[str, str]) -> str:
        found: str = self.x.SR.probe(self.host, config, sr_type, {})
        return found

    def introduce(
        self, sr_type: str, config: dict[str, str], *, uuid: str = SR_UUID, **sm_config: str
    ) -> tuple[str, str]:
        """Introduce an SR, and return it and its unplugged PBD."""
        sr = self.x.SR.introduce(uuid, sr_type, "", sr_type, "user", True, sm_config)
        return sr, self.x.PBD.create({"host": self.host, "SR": sr, "device_config": config})

    def plug(
        self, sr_type: str, config: dict[str, str], *, uuid: str = SR_UUID, **sm_config: str
    ) -> tuple[str, str]:
        sr, pbd = self.introduce(sr_type, config, uuid=uuid, **sm_config)
        self.x.PBD.plug(pbd)
        return sr, pbd

    def pbd(self, sr: str) -> str:
        pbd: str = self.x.SR.get_PBDs(sr)[0]
        return pbd

    def vdi(self, sr: str, size: int = 1 << 30, **fields: Any) -> str:
        record = {
            "name_label": "disk",
            "SR": sr,
            "virtual_size": str(size),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            **fields,
        }
        created: str = self.x.VDI.create(record)
        return created

    def sizes(self, vdi: str) -> tuple[int, int]:
        """Return virtual size and physical utilisation."""
        return int(self.x.VDI.get_virtual_size(vdi)), int(self.x.VDI.get_physical_utilisation(vdi))

    def rows(self, sr: str) -> dict[str, dict[str, Any]]:
        """Return the records of the SR's VDIs by uuid."""
        records = self.x.VDI.get_all_records_where(f'field "SR" = "{sr}"')
        return {record["uuid"]: record for record in records.values()}

    def forget_and_plug_again(self, sr: str, config: dict[str, str]) -> str:
        sr_type, uuid, pbd = self.x.SR.get_type(sr), self.x.SR.get_uuid(sr), self.pbd(sr)
        sm_config = self.x.SR.get_sm_config(sr)
        self.x.PBD.unplug(pbd)
        self.x.SR.forget(sr)
        again, _pbd = self.plug(sr_type, config, uuid=uuid, **sm_config)
        return again


@contextmanager
def file_lab(**kwargs: Any) -> Iterator[FileLab]:
    with Simulator(**kwargs) as simulator:
        session = XenAPI.Session(simulator.url)
        session.login_with_password(simulator.user, simulator.password)
        try:
            yield FileLab(simulator, session)
        finally:
            session("close")()
