"""A xapi that is a dictionary, to test a storage driver alone, without rules and without a wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import pytest

from xenvol.simulator.sm.base import Driver, DuplicateVDI, HostInfo, Request, SMFailure, SRInfo, VDIInfo
from xenvol.simulator.sm.world import World

SR_UUID = "11111111-0000-4000-8000-000000000001"


class MemoryPort:
    """`XapiPort` for one SR."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.sr: dict[str, Any] = {"sm_config": {}, "virtual_allocation": 0}
        self.device_config: dict[str, str] = {}
        self.other: list[dict[str, Any]] = []
        self.pbds: list[dict[str, Any]] = []
        self.secrets: dict[str, str] = {}
        self.messages: list[tuple[str, int, str]] = []
        self.slept = 0.0

    def vdis(self) -> list[dict[str, Any]]:
        return list(self.rows.values())

    def vdi(self, uuid: str) -> dict[str, Any] | None:
        return self.rows.get(uuid)

    def introduce(self, info: VDIInfo) -> None:
        if info.uuid in self.rows:
            raise DuplicateVDI(info.uuid)
        blank = {"name_label": "", "name_description": "", "type": "user", "is_a_snapshot": False}
        self.rows[info.uuid] = {**blank, "sm_config": {}}
        self.update(info)

    def update(self, info: VDIInfo) -> None:
        self.rows[info.uuid].update({key: value for key, value in asdict(info).items() if value is not None})

    def forget(self, uuid: str) -> None:
        del self.rows[uuid]

    def set_sr(self, **fields: Any) -> None:
        self.sr.update(fields)

    def sr_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None:
        """Do nothing; no test reads it."""

    def pbd_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None:
        """Do nothing; no test reads it."""

    def pbd_device_config(self, add: Mapping[str, str]) -> None:
        self.device_config.update(add)

    def other_srs(self, sr_type: str | None = None) -> list[dict[str, Any]]:
        return [sr for sr in self.other if sr_type in (None, sr.get("type"))]

    def host_pbds(self) -> list[dict[str, Any]]:
        return self.pbds

    def secret(self, uuid: str) -> str | None:
        return self.secrets.get(uuid)

    def message(self, name: str, priority: int, body: str) -> None:
        self.messages.append((name, priority, body))

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


class Bench:
    """Makes drivers for one SR, as xapi does: one for each command."""

    def __init__(
        self, world: World, cls: type[Driver], config: dict[str, str], *, is_srmaster: bool = True
    ) -> None:
        self.world = world
        self.cls = cls
        self.config = config
        self.is_srmaster = is_srmaster
        self.port = MemoryPort()

    @property
    def mounts(self) -> Any:
        return self.world.host("host1").mounts

    def driver(self, *, host: str = "host1") -> Any:
        sr = self.port.sr
        request = Request(
            world=self.world,
            host=HostInfo(f"OpaqueRef:{host}", f"uuid of {host}", host, f"iqn.test:{host}", {}),
            sr=SRInfo(
                SR_UUID,
                self.cls.type,
                "user",
                True,
                sr["sm_config"],
                "the SR",
                sr["virtual_allocation"],
            ),
            device_config=self.config,
            is_srmaster=self.is_srmaster,
            xapi=self.port,
        )
        made = self.cls(request)
        made.load()
        return made

    def create(self) -> None:
        """Create the SR, and plug it."""
        self.driver().create(0)
        self.driver().attach()


def fault(call: Callable[..., Any], *params: Any) -> int:
    """Return the driver's fault number."""
    with pytest.raises(SMFailure) as refusal:
        call(*params)
    return refusal.value.number
