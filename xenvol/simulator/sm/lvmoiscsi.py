"""LVM on an iSCSI LUN: type ``lvmoiscsi``.

The check of the configuration already logs in: if SCSIid is missing, the error lists the target's LUNs.
``target`` may list several portals, and ``targetIQN`` may be ``*``: then SM logs in to every target found
there, and keeps the list of them in the PBD as ``multiSession``.
"""

from __future__ import annotations

from xenvol.simulator.sm import iscsiconfig, xmlout
from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.blockdevice import BlockDevice
from xenvol.simulator.sm.iscsilogin import (
    DEVICE_MISSING,
    DEVICE_SECONDS,
    DISCOVERY,
    UNREACHABLE,
    WRONG_SCSI_ID,
    TargetLogin,
)
from xenvol.simulator.sm.lvmonlun import LVMOnLUN

SR_UNAVAILABLE = 47
GENERAL = 202
LIST_SECONDS = 30.0
"""Seconds that SM waits for LUNs after its own log-in, before it lists them (trace sm/20a#32).

It waits until there are as many devices as the target has LUNs. With a session they are there already. (Known
from the source; the recorded host had no such devices, so no trace shows it.)
"""


class LVMoISCSI(LVMOnLUN):
    type = "lvmoiscsi"

    def load(self) -> None:
        """Raise 107 with the list of LUNs if SCSIid is missing."""
        self.logins = self._logins()
        if "SCSIid" not in self.config:
            raise SMFailure(WRONG_SCSI_ID, output=self._lun_list())

    def lun(self) -> BlockDevice | None:
        for login in self.logins:
            disk = login.disk_with(self.scsi_id)
            if disk is not None and login.reads(disk):
                return disk.volume
        return None

    # ---- the SR

    def attach(self) -> None:
        try:
            self._log_in()
            super().attach()
        except SMFailure:
            self._log_out()
            raise

    def detach(self) -> None:
        super().detach()
        keys = ["multipathed", "iscsi_sessions", f"mpath-{self.scsi_id}"]
        self.xapi.pbd_other_config({}, remove=keys)
        self._log_out()

    def create(self, size: int) -> None:
        """Create the SR; a failure after the LUN is found becomes 47, with the reason inside."""
        self.check_unused()
        self.logins[0].attach()
        try:
            self._await_lun(self.logins[0])
            super().create(size)
        except SMFailure as failure:
            raise SMFailure(SR_UNAVAILABLE, failure.reason) from failure
        finally:
            self.logins[0].detach(forget=False)

    def delete(self) -> None:
        super().delete()
        self._log_out()

    def probe(self) -> str:
        """Probe the LUN; if the target lacks the SCSIid, the session stays (trace sm/20a#36)."""
        self.logins[0].attach()
        self._await_lun(self.logins[0])
        found = super().probe()
        self.logins[0].detach(forget=False)
        return found

    # ---- sessions

    def _log_in(self) -> None:
        """Log in through every portal that answers; one is enough."""
        unreachable: SMFailure | None = None
        connected = False
        for login in self.logins:
            try:
                login.attach()
            except SMFailure as failure:
                if failure.number not in (UNREACHABLE, DISCOVERY):
                    raise
                unreachable = failure
                continue
            connected = True
            self._await_lun(login)
        if unreachable is not None and not connected:
            raise unreachable

    def _log_out(self) -> None:
        for login in self.logins:
            login.detach(forget=False)

    def _await_lun(self, login: TargetLogin) -> None:
        if self.lun() is None:
            login.rescan()
        if self.lun() is None:
            self.xapi.sleep(DEVICE_SECONDS)
            raise SMFailure(DEVICE_MISSING)

    def _logins(self) -> list[TargetLogin]:
        target = self.config.get("target", "")
        first = TargetLogin(self.request, iscsiconfig.read(self.request), listed_as=target)
        first.check_iqn()
        if "," not in target and first.target.iqn != "*":
            return [first]
        noted = self.config.get("multiSession", "")
        keys = [key for key in noted.split("|") if key] or self._found(first)
        if not keys:
            raise SMFailure(GENERAL, "list index out of range")
        if not noted:
            self.xapi.pbd_device_config({"multiSession": "".join(f"{key}|" for key in keys)})
        return [self._login(*key.split(",", 2)) for key in keys]

    def _login(self, address: str, _port: str = "", iqn: str = "") -> TargetLogin:
        return TargetLogin(self.request, iscsiconfig.read(self.request, address, iqn))

    def _found(self, first: TargetLogin) -> list[str]:
        """Return ``address,port,IQN`` of each reachable target that the configured portals offer."""
        wanted = first.target.iqn
        keys: dict[str, None] = {}
        for name in self.config["target"].split(","):
            for address, port, iqn in self._login(name).discover():
                if wanted in ("*", iqn):
                    keys[f"{address},{port},{iqn}"] = None
        return list(keys)

    # ---- lists

    def _lun_list(self) -> str:
        """Return the list of LUNs; logs in for it, and out again."""
        luns: dict[str, xmlout.Tree] = {}
        for login in self.logins:
            login.rescan()
            was_attached = login.is_attached
            login.attach()
            if not was_attached:
                self.xapi.sleep(LIST_SECONDS)
            for disk in login.disks():
                facts = {
                    "vendor": disk.volume.vendor,
                    "serial": disk.volume.serial,
                    "LUNid": str(disk.number),
                    "size": str(disk.size),
                    "SCSIid": disk.scsi_id,
                }
                luns[disk.scsi_id] = ("LUN", [(key, value) for key, value in facts.items() if value])
            login.detach(forget=False)
        return xmlout.printed("iscsi-target", luns.values())
