"""LUN-per-VDI over Fibre Channel and other adapters with LUNs of their own: type ``hba``.

Two differences from `iscsi`: there is no log-in, so a plug succeeds on a host without any adapter (trace
sm/23#53); and a LUN that was found is not managed before VDI.create adopts it (docs/background/xapi.md 5.4).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from xenvol.simulator.sm import xmlout
from xenvol.simulator.sm.base import Request, SMFailure
from xenvol.simulator.sm.initiator import HBA, Disk
from xenvol.simulator.sm.lunpervdi import LUNPerVDI

SR_IN_USE = 16
NO_DEVICE = 19
DRIVER = "qla2xxx"
"""The kernel's driver of every adapter here."""


class Hba(LUNPerVDI):
    type = "hba"
    rows_are_managed = False

    @property
    def kind(self) -> str:
        """Which adapters to use: ``any``, or one kind."""
        return self.config.get("type") or "any"

    @property
    def is_attached(self) -> bool:
        return bool(adapters(self.request, self.kind))

    def disks(self) -> Sequence[Disk]:
        return [disk for hba in adapters(self.request, self.kind) for disk in hba.visible(self.world.san)]

    def reads(self, disk: Disk) -> bool:
        return True  # listing the disks has forced a rescan

    # ---- the SR

    def attach(self) -> None:
        """Do nothing: the LUNs are there."""

    def detach(self) -> None:
        """Do nothing."""

    def create(self, size: int) -> None:
        """Create the SR; 16 if an SR of these adapters was created already, 19 without an adapter."""
        if any(_is_hba(config) and config.get("hbatype") == self.kind for config in self._sm_configs()):
            raise SMFailure(SR_IN_USE)
        if not self.is_attached:
            raise SMFailure(NO_DEVICE, f"No such HBA Device detected [{self.kind}]")
        self.introduce_all()
        filled = {"disktype": "Raw", "datatype": "HBA", "hbatype": self.kind, "multipathable": "true"}
        self.xapi.set_sr(sm_config={**self.sr.sm_config, **filled})

    def delete(self) -> None:
        """Do nothing: the LUNs keep their data."""

    def probe(self) -> str:
        """Return the SRs created on adapters; introduced ones only if the caller passed the same sm_config."""
        srs = self.xapi.other_srs()
        return xmlout.pretty(
            "SRlist", (("SR", [("UUID", sr["uuid"])]) for sr in srs if _is_hba(sr["sm_config"]))
        )

    def _sm_configs(self) -> Iterator[Mapping[str, str]]:
        yield self.sr.sm_config
        for sr in self.xapi.other_srs():
            yield sr["sm_config"]


def _is_hba(sm_config: Mapping[str, str]) -> bool:
    return sm_config.get("datatype") == "HBA"


def adapters(request: Request, kind: str = "any") -> list[HBA]:
    """Return the host's adapters, of one kind or all."""
    return [hba for hba in request.world.host(request.host.name).hbas if kind in ("any", hba.kind)]


def device_list(request: Request) -> str:
    """Return the disks of the adapters, for error 107 (no SCSIid); disks of plugged SRs are left out."""
    taken = {pbd["device_config"].get("SCSIid") for pbd in request.xapi.host_pbds()}
    found: dict[str, list[tuple[int, str, Disk]]] = {}
    letters = itertools.count(ord("b"))  # sda is the host's own
    for host, hba in enumerate(adapters(request)):
        for disk in hba.visible(request.world.san):
            found.setdefault(disk.scsi_id, []).append((host, f"sd{chr(next(letters))}", disk))
    devices: list[xmlout.Tree] = []
    for scsi_id, paths in found.items():
        if scsi_id in taken:
            continue
        host, _, disk = paths[0]
        names = [name for _, name, _ in paths]
        facts: dict[str, object] = {
            "path": " ".join([f"/dev/{names[0]}", *(f"[{name}]" for name in names[1:])]),
            "numpaths": len(paths),
            "SCSIid": scsi_id,
            "vendor": disk.volume.vendor,
            "serial": disk.volume.serial,
            "size": disk.size,
            "adapter": host,
            "channel": 0,
            "id": 0,
            "lun": disk.number,
            "hba": DRIVER,
        }
        devices.append(("BlockDevice", [(key, str(value)) for key, value in facts.items()]))
    for host, hba in enumerate(adapters(request)):
        facts = {"host": f"host{host}", "name": DRIVER, "manufacturer": "Unknown", "id": host}
        facts |= {"node_name": hba.wwnn, "port_name": hba.wwpn, "port_state": "Online"}
        devices.append(("Adapter", [(key, str(value)) for key, value in facts.items() if value != ""]))
    return xmlout.printed("Devlist", devices)
