"""Make thousands of objects quickly: the rules make the first one, and the others are copies of it.

So each object has what the rules would give it. A copy takes some microseconds, even if the rule is slow.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from xenvol.simulator.database import Row
from xenvol.simulator.failure import NULL
from xenvol.simulator.pool import PoolBuilder
from xenvol.simulator.rules.operations import update_allowed_operations


class BulkBuilder(PoolBuilder):
    """A `PoolBuilder` that makes many objects at once."""

    def add_srs(self, count: int, name: str = "sr", **like: Any) -> list[str]:
        """Add ``count`` SRs with their PBDs, called ``sr-1``, ``sr-2``...; ``like`` takes the arguments of `add_sr`."""
        with self.xapi.lock:
            if not count:
                return []
            first = self.add_sr(f"{name}-1", **like)
            pbds = [self.xapi.db.row("PBD", pbd) for pbd in self.xapi.db.children(first, "PBDs")]
            srs = [first]
            for number in range(2, count + 1):
                srs.append(self._likeness("SR", first, name_label=f"{name}-{number}"))
                for pbd in pbds:
                    self._copy("PBD", pbd, SR=srs[-1])
            return srs

    def add_vdis(self, sr: str, count: int, name: str = "vdi", **like: Any) -> list[str]:
        """Add ``count`` disks to an SR of type dummy, whose disks have no data; ``like`` is as for `add_vdi`."""
        with self.xapi.lock:
            if self.xapi.db.row("SR", sr)["type"] not in ("dummy", "flaky"):
                raise ValueError("add_vdis makes rows without data, and this SR holds data; use add_vdi")
            if not count:
                return []
            vdis = [self.add_vdi(sr, f"{name}-1", **like)]
            for number in range(2, count + 1):
                vdi_uuid = str(uuid.uuid4())
                label = f"{name}-{number}"
                vdis.append(
                    self._likeness("VDI", vdis[0], uuid=vdi_uuid, location=vdi_uuid, name_label=label)
                )
            return vdis

    def add_vms(self, count: int, name: str = "vm", **like: Any) -> list[str]:
        """Add ``count`` halted VMs without disks; ``like`` is as for `add_vm`."""
        with self.xapi.lock:
            if not count:
                return []
            vms = [self.add_vm(f"{name}-1", **{**like, "power_state": "Halted"})]
            row = self.xapi.db.row("VM", vms[0])
            metrics = self.xapi.db.row("VM_metrics", row["metrics"])
            for number in range(2, count + 1):
                vms.append(
                    self._likeness(
                        "VM",
                        vms[0],
                        name_label=f"{name}-{number}",
                        metrics=self._copy("VM_metrics", metrics),
                        other_config={**row["other_config"], "mac_seed": str(uuid.uuid4())},
                    )
                )
            return vms

    def add_vbds(self, vm: str, vdis: Sequence[str], **like: Any) -> list[str]:
        """Add a VBD for each VDI, in slots 0, 1, … of a VM that has no VBD yet; ``like`` is as for `add_vbd`."""
        with self.xapi.lock:
            if not vdis:
                return []
            db = self.xapi.db
            vbds = [self.add_vbd(vm, vdis[0], **{**like, "userdevice": "0"})]
            row = db.row("VBD", vbds[0])
            device = row["device"]
            has_metrics = db.exists("VBD_metrics", row["metrics"])
            metrics = db.row("VBD_metrics", row["metrics"]) if has_metrics else {}
            for number, vdi in enumerate(vdis[1:], 1):
                vbds.append(
                    self._likeness(
                        "VBD",
                        vbds[0],
                        VDI=vdi,
                        userdevice=str(number),
                        device=device and f"xvd{_letters(number)}",
                        metrics=self._copy("VBD_metrics", metrics) if has_metrics else NULL,
                    )
                )
                update_allowed_operations(self.xapi, "VDI", vdi)
            return vbds

    # ---- inside

    def _likeness(self, cls: str, ref: str, **changes: Any) -> str:
        return self._copy(cls, self.xapi.db.row(cls, ref), **changes)

    def _copy(self, cls: str, row: Row, **changes: Any) -> str:
        return self.xapi.db.create(cls, **{**row, "uuid": "", **changes})


def _letters(number: int) -> str:
    """Return ``a`` for 0, ``z`` for 25, ``aa`` for 26."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters
