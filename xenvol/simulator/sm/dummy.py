"""Disks that exist only in xapi's database: type `dummy`, and `flaky`, which fails or delays on request.

`dummy` behaves as SM's DummySR: it takes every device_config, and a scan makes the rows writable again and
empties their sm_config, because the driver knows nothing but their sizes. `flaky` is the recorded server's
own (the README of the recordings): ``device_config:fail_<op> = <Name>`` makes every such operation fail with
that fault of XE_SR_ERRORCODES, ``device_config:sleep_<op> = <seconds>`` delays it.
"""

from __future__ import annotations

import uuid as uuids
from pathlib import Path
from typing import ClassVar

from xenvol.simulator.sm.base import Driver, SMFailure, VDIInfo, VDISpec, XapiRefusal
from xenvol.simulator.sm.errorcodes import number
from xenvol.simulator.sm.scanning import SR_SCAN, scan_for

_SIZE = 2_000_000_000_000
_SAMPLE = {"samplekey": "This is a dummy SR VDI"}
_VDI_EXISTS = 43
_VDI_UNAVAILABLE = 46
_PYTHON_EXCEPTION = 1200


class Dummy(Driver):
    """A driver in which everything succeeds."""

    type: ClassVar[str] = "dummy"

    def happen(self, operation: str) -> None:
        """Hook at the start of every operation that `flaky` can make fail."""

    def attach(self) -> None:
        self.happen("attach")

    def detach(self) -> None:
        self.happen("detach")

    def create(self, size: int) -> None:
        self.happen("create")

    def delete(self) -> None:
        self.happen("delete")

    def probe(self) -> str:
        """Fail: the driver asks xapi about an SR that does not exist (trace 02#136)."""
        raise XapiRefusal("INTERNAL_ERROR", "Failure(\"Expected string, got 'N'\")")

    def scan(self) -> list[VDIInfo]:
        self.happen("scan")
        infos = [
            _info(row["uuid"], row["virtual_size"], used=row["physical_utilisation"])
            for row in self.xapi.vdis()
        ]
        self.xapi.set_sr(physical_size=_SIZE, physical_utilisation=0, virtual_allocation=0)
        scan_for(SR_SCAN, self, infos)
        return infos

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        self.happen("vdi_create")
        info = VDIInfo(
            uuid := str(uuids.uuid4()),
            uuid,
            _int64(spec.virtual_size),
            spec.virtual_size,
            read_only=spec.read_only,
            sharable=spec.sharable,
            name_label=spec.name_label,
            name_description=spec.name_description,
            type=spec.type,
            sm_config=_SAMPLE,
        )
        self.xapi.introduce(info)
        return info

    def vdi_delete(self, uuid: str) -> None:
        self.happen("vdi_delete")
        self.xapi.forget(uuid)

    def vdi_introduce(self, uuid: str, spec: VDISpec, location: str) -> VDIInfo:
        """Introduce any disk, with size 0; only a uuid in use is refused (trace 03#105)."""
        if self.xapi.vdi(uuid) is not None:
            raise SMFailure(_VDI_EXISTS)
        info = VDIInfo(uuid, location, 0, 0, sm_config={})
        self.xapi.introduce(info)
        return info

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        """Resize to any size; a read-only disk becomes writable, because the driver writes it so."""
        self.happen("vdi_resize")
        info = _info(uuid, _int64(size), used=size)
        self.xapi.update(info)
        return info

    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        self.happen("vdi_snapshot")
        return self._introduce_empty(read_only=True)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        return self._introduce_empty(read_only=False)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        self.happen("vdi_attach")

    def vdi_detach(self, uuid: str) -> None:
        """Do nothing: nothing was attached."""

    def vdi_file(self, uuid: str) -> Path:
        """Return a file of zeros, so that a guest has a disk to read."""
        row = self.xapi.vdi(uuid)
        if row is None:
            raise SMFailure(_VDI_UNAVAILABLE, f"VDI {uuid} not found")
        directory = self.world.directory / "dummy"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / uuid
        with path.open("ab") as file:
            file.truncate(row["virtual_size"])
        return path

    def _introduce_empty(self, *, read_only: bool) -> VDIInfo:
        uuid = str(uuids.uuid4())
        info = VDIInfo(uuid, uuid, 0, 0, read_only=read_only, sm_config={})
        self.xapi.introduce(info)
        return info


class Flaky(Dummy):
    """A driver that fails as its device_config says."""

    type: ClassVar[str] = "flaky"

    def happen(self, operation: str) -> None:
        if (seconds := self.config.get(f"sleep_{operation}")) is not None:
            self.xapi.delay(float(seconds))
        if (name := self.config.get(f"fail_{operation}")) is not None:
            fault = number(name)
            if fault is None:
                raise SMFailure(_PYTHON_EXCEPTION, text=f"no such error: {name}")
            raise SMFailure(fault, f"requested by fail_{operation}")


def _info(uuid: str, size: int, *, used: int) -> VDIInfo:
    """Return a disk as the driver knows it: without location and properties."""
    return VDIInfo(uuid, uuid, size, used, sm_config={})


def _int64(size: int) -> int:
    """Refuse a negative size: xapi gives it to the driver as a huge one, and refuses it on return (trace 03#22)."""
    if size < 0:
        raise XapiRefusal("INTERNAL_ERROR", 'Failure("Int64.of_string")')
    return size
