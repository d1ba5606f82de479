"""Make the SRs, disks and VMs of a world file. An error names the entry that xapi refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from xenvol.simulator.failure import Failure
from xenvol.simulator.pool import Pool
from xenvol.simulator.sm.worldfile import WorldError
from xenvol.simulator.worldspec import SRSpec, VMSpec, WorldSpec


def furnish(pool: Pool, spec: WorldSpec) -> None:
    """Make the SRs, disks and VMs of the spec; WorldError names the entry that xapi refused."""
    vdis: dict[str, str] = {}
    for index, sr in enumerate(spec.srs):
        with _naming(f"srs[{index}] ({sr.name})"):
            vdis |= _add_sr(pool, sr)
    for index, vm in enumerate(spec.vms):
        with _naming(f"vms[{index}] ({vm.name})"):
            _add_vm(pool, vm, vdis)


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except Failure as failure:
        raise WorldError(f"{where}: {' '.join(failure.description)}") from failure


def _add_sr(pool: Pool, sr: SRSpec) -> dict[str, str]:
    """Add an SR and its disks, and return the disks by name."""
    ref = pool.add_sr(
        sr.name,
        type=sr.type,
        device_config=sr.device_config,
        sr_uuid=sr.uuid,
        content_type=sr.content_type,
        shared=sr.shared,
        create=sr.create,
        hosts=sr.hosts,
        plugged=sr.plugged,
    )
    if sr.plugged and sr.content_type == "iso":  # a plug shows no images, only a scan does
        pool.scan(ref)
    if sr.is_default:
        pool.xapi.db.set("pool", pool.xapi.db.refs("pool")[0], default_SR=ref)
    return {
        vdi.name: pool.add_vdi(ref, vdi.name, size=vdi.size, sharable=vdi.sharable, read_only=vdi.read_only)
        for vdi in sr.vdis
    }


def _add_vm(pool: Pool, vm: VMSpec, vdis: Mapping[str, str]) -> None:
    ref = pool.add_vm(
        vm.name,
        kind=vm.kind,
        power_state=vm.power_state,
        pv_drivers=vm.pv_drivers,
        resident_on=vm.resident_on,
        disks=[vdis[name] for name in vm.disks],
    )
    if vm.refuses_unplug:
        pool.guest(ref).refuses_unplug = True
