"""What a host offers, in the words of nova's database and of placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nova.conf
from nova.objects import fields
from nova.virt import node
from nova.virt.xenvol.machines import MIB
from oslo_serialization import jsonutils
from oslo_utils import versionutils

CONF = nova.conf.CONF


def compute_node(host: Mapping[str, Any], node_name: str) -> dict[str, Any]:
    """Return what the host has, from its record. nova counts by itself what its servers use of that."""
    cpu, software = host["cpu_info"], host["software_version"]
    return {
        "uuid": node.get_local_node_uuid(),
        "hypervisor_hostname": node_name,
        "hypervisor_type": "XenServer",
        "hypervisor_version": versionutils.convert_version_to_int(software["product_version"]),
        "supported_instances": [(fields.Architecture.X86_64, fields.HVType.XEN, fields.VMMode.HVM)],
        "cpu_info": jsonutils.dumps({"vendor": cpu["vendor"], "model": cpu["modelname"]}),
        "numa_topology": None,
        "vcpus": int(cpu["cpu_count"]),
        "memory_mb": host["memory_total"] // MIB,
        **dict.fromkeys(("vcpus_used", "memory_mb_used"), 0),
        **dict.fromkeys(("local_gb", "local_gb_used", "disk_available_least"), 0),
    }


def inventory(host: Mapping[str, Any], ratios: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Return the inventory of a host. It has no disk, so the scheduler sends no server with a local one."""
    totals = {
        "VCPU": (int(host["cpu_info"]["cpu_count"]), CONF.reserved_host_cpus),
        "MEMORY_MB": (host["memory_total"] // MIB, CONF.reserved_host_memory_mb),
    }
    return {
        kind: {
            "total": total,
            "reserved": reserved,
            "min_unit": 1,
            "max_unit": total,
            "step_size": 1,
            "allocation_ratio": ratios[kind],
        }
        for kind, (total, reserved) in totals.items()
    }
