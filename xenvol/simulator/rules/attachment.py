"""Attach an SR to a host and detach it, below PBD.plug: the storage layer and the driver.

The storage layer of a host remembers which SRs it attached, even if their rows in the database vanish, and
attaches none twice (storage_smapiv1_wrapper.ml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.rules import backend, sr_hosts

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.sm.base import Driver


def attach(call: Call, sr: str, host: str) -> None:
    """Attach an SR to a host; idempotent. On the SRmaster the SR is marked for a scan, and scanned."""
    uuid = call.db.row("SR", sr)["uuid"]
    with backend.holding(call, "SR", host, uuid):
        if (host, uuid) in call.xapi.attached_srs:
            return
        with backend.inside_storage_layer():
            is_srmaster = sr_hosts.srmaster(call.xapi, sr) == host

        def command(driver: Driver) -> None:
            if not is_srmaster:
                driver.attach()
                return
            call.db.map_add("SR", sr, "other_config", "dirty", "")
            try:
                driver.attach()
            finally:
                driver.after_master_attach()

        with backend.holding(call, "attach or detach", host):
            backend.run(call, sr, host, command)
        call.xapi.attached_srs.add((host, uuid))


def detach(call: Call, sr: str, host: str) -> None:
    uuid = call.db.row("SR", sr)["uuid"]
    with backend.holding(call, "SR", host, uuid), backend.holding(call, "attach or detach", host):
        backend.run(call, sr, host, lambda driver: driver.detach())
        call.xapi.attached_srs.discard((host, uuid))
