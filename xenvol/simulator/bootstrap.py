"""Build a pool as an installation leaves it: hosts, their control domains, the SM types, and no SR.

``data/machine.json`` describes the simulated machine, which is the machine of the recordings. A `PoolSpec`
says what a pool adds to it. This module writes rows directly, because a real pool has them before a client
can call. `xenvol.simulator.pool` makes everything that a client could make.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import uuid
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.sm import registry
from xenvol.simulator.xapi import Xapi

RECORDED_SM_TYPES = (
    "smb",
    "iso",
    "lvm",
    "nfs",
    "udev",
    "flaky",
    "dummy",
    "lvmoiscsi",
    "lvhd",
    "ext",
    "file",
    "iscsi",
)
"""The drivers that the recorded server had."""

_CPUS = 16
"""The number of CPUs of each machine, as in ``cpu_info`` of machine.json."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One machine of a new pool."""

    name: str
    address: str = ""
    iscsi_iqn: str = ""
    multipathing: bool = False
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """The machines of a new pool, the master first, and the storage drivers that all of them have."""

    hosts: tuple[HostSpec, ...]
    name: str = ""
    sm_types: tuple[str, ...] = RECORDED_SM_TYPES
    domains_use_storage: bool = True
    """True if a VM's disks are attached through storage drivers; on the recorded server they were not (`Xapi`)."""


def build(xapi: Xapi, spec: PoolSpec) -> None:
    """Fill an empty database with the pool that the spec describes."""
    db = xapi.db
    machine = _machine()
    xapi.domains_use_storage = spec.domains_use_storage
    telemetry = db.create("secret", value=str(uuid.uuid4()))
    pool = db.create(
        "pool",
        **_pool_values(xapi.model.version),
        name_label=spec.name,
        telemetry_uuid=telemetry,
    )
    db.create("network", **machine["network"])
    db.create("user", short_name="root", fullname="root")
    for sr_type in spec.sm_types:
        db.create("SM", **registry.sm_record(sr_type))
    for host in spec.hosts:
        add_host(xapi, host)
    db.set("pool", pool, master=db.refs("host")[0])


def add_host(xapi: Xapi, spec: HostSpec) -> str:
    """Add a running host and its control domain; it has no PBD, as after a join to a pool without SRs."""
    db = xapi.db
    machine = _machine()
    host = f"OpaqueRef:{uuid.uuid4()}"
    dom0 = db.create(
        "VM",
        **machine["dom0"],
        name_label=f"Control domain on host: {spec.name}",
        resident_on=host,
        affinity=host,
        metrics=db.create("VM_metrics", VCPUs_number=2, state=["running"], current_domain_type="pv"),
    )
    for number in range(2):
        db.create("console", protocol="rfb" if number else "vt100", VM=dom0, port=-1)
    other_config = {**machine["host"]["other_config"]}
    if spec.iscsi_iqn:
        other_config["iscsi_iqn"] = spec.iscsi_iqn
    if spec.multipathing:
        other_config |= {"multipathing": "true", "multipathhandle": "dmp"}
    db.create(
        "host",
        ref=host,
        **{
            **machine["host"],
            "name_label": spec.name,
            "hostname": spec.name,
            "address": spec.address,
            "iscsi_iqn": spec.iscsi_iqn,
            "multipathing": spec.multipathing,
            "enabled": spec.enabled,
            "other_config": other_config,
            "license_params": machine["licence"],
            "control_domain": dom0,
            "metrics": db.create("host_metrics", **machine["host_metrics"]),
        },
    )
    cpu = machine["host"]["cpu_info"]
    for number in range(_CPUS):
        db.create(
            "host_cpu",
            host=host,
            number=number,
            vendor=cpu["vendor"],
            speed=2994,
            modelname=cpu["modelname"],
            family=int(cpu["family"]),
            model=int(cpu["model"]),
            stepping=cpu["stepping"],
            flags=cpu["flags"],
            features=cpu["features_hvm"],
        )
    return host


def _pool_values(version: str) -> dict[str, Any]:
    machine = _machine()
    values = {**machine["pool"], "restrictions": machine["licence"]}
    for since, more in machine["pool_since"].items():
        if _release(since) <= _release(version):
            values |= {name: [*values[name], *items] for name, items in more.items()}
    return values


def _release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@functools.cache
def _machine() -> dict[str, Any]:
    text = (importlib.resources.files("xenvol.simulator") / "data" / "machine.json").read_text()
    table: dict[str, Any] = json.loads(text)
    return table
