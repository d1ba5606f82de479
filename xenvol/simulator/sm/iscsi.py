"""LUN-per-VDI over iSCSI: type ``iscsi``, in SM's own tree ``rawiscsi``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xenvol.simulator.sm import iscsiconfig, xmlout
from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.initiator import Disk
from xenvol.simulator.sm.iscsilogin import DEVICE_SECONDS, TargetLogin
from xenvol.simulator.sm.lunpervdi import LUNPerVDI

SR_IN_USE = 16
INTRODUCE_SECONDS = 60.0
"""How long VDI.introduce waits for a missing LUN (trace sm/20b#43)."""


class ISCSI(LUNPerVDI):
    type = "iscsi"
    rows_are_managed = True

    def load(self) -> None:
        self.login = TargetLogin(self.request, iscsiconfig.read(self.request))
        self.login.check_iqn()

    @property
    def is_attached(self) -> bool:
        return self.login.is_attached

    def disks(self) -> Sequence[Disk]:
        return self.login.disks()

    def reads(self, disk: Disk) -> bool:
        return self.login.reads(disk)

    def refresh(self) -> None:
        self.login.rescan()

    # ---- the SR

    def attach(self) -> None:
        self.login.attach()

    def detach(self) -> None:
        self.xapi.pbd_other_config({}, remove=["multipathed", "iscsi_sessions"])
        self.login.detach(forget=True)

    def create(self, size: int) -> None:
        """Create the SR; 16 if any SR's sm_config has this target.

        A later failure leaves the session (20d#184).
        """
        iqn = self.login.target.iqn
        if self._is_named_in(self.sr.sm_config) or self._same_target(self.xapi.other_srs()):
            raise SMFailure(SR_IN_USE)
        self.login.attach()
        if not self.disks():
            self.xapi.sleep(DEVICE_SECONDS)
        self.introduce_all()
        self.login.detach(forget=True)
        filled = {
            "disktype": "Raw",
            "datatype": "ISCSI",
            "target": self.login.target.address,
            "targetIQN": iqn,
            "multipathable": "true",
        }
        self.xapi.set_sr(sm_config={**self.sr.sm_config, **filled})

    def delete(self) -> None:
        """Log out; the LUNs keep their data."""
        self.login.detach(forget=True)

    def probe(self) -> str:
        """Return the SRs that name this target in sm_config, without contact to a portal.

        docs/background/recordings.md, finding 13 (storage).
        """
        return xmlout.pretty(
            "SRlist",
            (
                ("SR", [("UUID", uuid), ("Target", config["target"]), ("TargetIQN", config["targetIQN"])])
                for uuid, config in self._same_target(self.xapi.other_srs())
            ),
        )

    # ---- VDIs

    def disk_numbered(self, number: str | None) -> Disk:
        if number is None or not number.strip().isdigit():
            return super().disk_numbered(number)
        disk = self.login.add_disk(int(number))
        if disk is None:
            self.xapi.sleep(INTRODUCE_SECONDS)
            return super().disk_numbered(number)
        return disk

    def _same_target(self, srs: Iterable[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, str]]]:
        """Return uuid and sm_config of the SRs whose sm_config, not device_config, names this target."""
        return [(sr["uuid"], sr["sm_config"]) for sr in srs if self._is_named_in(sr["sm_config"])]

    def _is_named_in(self, sm_config: Mapping[str, str]) -> bool:
        return sm_config.get("targetIQN") == self.login.target.iqn
