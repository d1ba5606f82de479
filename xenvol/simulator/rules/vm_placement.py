"""Which hosts can run a VM, and which host xapi chooses (xapi_vm_helpers.ml; docs/background/xapi.md 7).

A host qualifies if it is up and enabled, has every SR of the VM's disks plugged and can reach its networks.
xapi chooses at random among the best hosts; the simulator chooses the first one, so that tests are
deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import sr_hosts, vm_facts
from xenvol.simulator.rules.vm_memory import assert_coercible, free_memory, memory_to_start

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi


@rule("VM.assert_can_boot_here")
def vm_assert_can_boot_here(call: Call, vm: str, host: str) -> None:
    assert_can_boot_here(call.xapi, vm, host)


@rule("VM.get_possible_hosts")
def vm_get_possible_hosts(call: Call, vm: str) -> list[str]:
    scheduled = call.db.row("VM", vm)["scheduled_to_be_resident_on"]
    if scheduled != NULL:
        return [scheduled]
    return possible_hosts(call.xapi, lambda host: assert_can_boot_here(call.xapi, vm, host))


@rule("VM.assert_agile")
def vm_assert_agile(call: Call, vm: str) -> None:
    """Require every SR shared and plugged on every enabled host; else HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED [sr]."""
    for vdi in vm_facts.vdis(call.db, vm):
        sr = call.db.row("VDI", vdi)["SR"]
        if not is_everywhere(call.xapi, sr):
            raise Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)


def choose(xapi: Xapi, vm: str) -> str:
    """Return the host for VM.start and VM.resume: the VM's preferred host, else the one with most free memory.

    Raises NO_HOSTS_AVAILABLE, for any reason that prevents it.
    """
    scheduled = xapi.db.row("VM", vm)["scheduled_to_be_resident_on"]
    if scheduled != NULL:
        return str(scheduled)

    def fits(host: str) -> None:
        assert_can_boot_here(xapi, vm, host)

    def fits_but_for_memory(host: str) -> None:
        assert_can_boot_here(xapi, vm, host, check_memory=False)

    hosts = possible_hosts(xapi, fits) or possible_hosts(xapi, fits_but_for_memory)
    if not hosts:
        raise Failure("NO_HOSTS_AVAILABLE")
    wished = xapi.db.row("VM", vm)["affinity"]
    return str(wished) if wished in hosts else max(hosts, key=lambda host: free_memory(xapi, host))


def choose_with_srs(xapi: Xapi, vm: str) -> str:
    """Return a host that sees all of the VM's disks, for work on a VM that does not run; NO_HOSTS_AVAILABLE."""
    return first_host(xapi, lambda host: assert_can_see_srs(xapi, vm, host))


def choose_seeing(xapi: Xapi, srs: Iterable[str]) -> str:
    """Return a host on which all of these SRs are plugged; NO_HOSTS_AVAILABLE."""
    wanted = list(srs)

    def sees(host: str) -> None:
        if unseen_srs(xapi, wanted, host):
            raise Failure("NO_HOSTS_AVAILABLE")

    return first_host(xapi, sees)


def first_host(xapi: Xapi, assert_suits: Callable[[str], None]) -> str:
    hosts = possible_hosts(xapi, assert_suits)
    if not hosts:
        raise Failure("NO_HOSTS_AVAILABLE")
    return hosts[0]


def possible_hosts(xapi: Xapi, assert_suits: Callable[[str], None]) -> list[str]:
    """Return the live hosts for which ``assert_suits`` does not raise."""

    def suits(host: str) -> bool:
        try:
            assert_suits(host)
        except Failure:
            return False
        return sr_hosts.is_live(xapi.db, host)

    return [host for host in xapi.db.refs("host") if suits(host)]


def assert_can_boot_here(xapi: Xapi, vm: str, host: str, *, check_memory: bool = True) -> None:
    """Raise the first reason why the VM cannot run on the host, in xapi's order."""
    db = xapi.db
    row = db.row("VM", vm)
    _assert_parameters(xapi, vm)
    if not sr_hosts.is_live(db, host):
        raise Failure("HOST_NOT_LIVE")
    if row["is_control_domain"] and row["affinity"] not in (NULL, host):
        text = "Cannot boot a control domain on a host different from its affinity"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    stays = row["power_state"] == "Running" and row["resident_on"] == host
    if not row["is_control_domain"] and not stays and not db.row("host", host)["enabled"]:
        raise Failure("HOST_DISABLED", host)
    assert_can_see_srs(xapi, vm, host)
    _assert_can_see_networks(xapi, vm, host)
    if check_memory:
        needed, free = memory_to_start(xapi, vm), free_memory(xapi, host, apart_from=vm)
        if free < needed:
            raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(needed), str(free))
    processors = int(db.row("host", host)["cpu_info"].get("cpu_count", "0"))
    if row["VCPUs_max"] > processors and not vm_facts.is_true(row["platform"].get("vcpu-unrestricted", "")):
        raise Failure("HOST_NOT_ENOUGH_PCPUS", str(row["VCPUs_max"]), str(processors))


def assert_can_see_srs(xapi: Xapi, vm: str, host: str) -> None:
    """Raise VM_REQUIRES_SR [vm, sr] for the first SR of the VM's disks that is not plugged on the host."""
    db = xapi.db
    disks = vm_facts.vdis(db, vm)
    memory = vm_facts.suspend_vdi(db, vm)
    srs = [db.row("VDI", vdi)["SR"] for vdi in (disks if memory is None else [*disks, memory])]
    if missing := unseen_srs(xapi, srs, host):
        raise Failure("VM_REQUIRES_SR", vm, missing[0])


def unseen_srs(xapi: Xapi, srs: Iterable[str], host: str) -> list[str]:
    """Return the SRs that are not plugged on the host."""
    db = xapi.db
    pbds = [db.row("PBD", pbd) for pbd in db.children(host, "PBDs")]
    plugged = {pbd["SR"] for pbd in pbds if pbd["currently_attached"]}
    return [sr for sr in srs if sr not in plugged]


def is_everywhere(xapi: Xapi, sr: str) -> bool:
    """Return True if the SR is shared, and plugged on every enabled host (agility.ml)."""
    hosts = [host for host in xapi.db.refs("host") if xapi.db.row("host", host)["enabled"]]
    return bool(xapi.db.row("SR", sr)["shared"]) and not any(unseen_srs(xapi, [sr], host) for host in hosts)


def _assert_parameters(xapi: Xapi, vm: str) -> None:
    row = xapi.db.row("VM", vm)
    if row["VCPUs_max"] < 1:
        raise Failure("INVALID_VALUE", "VCPUs_max", str(row["VCPUs_max"]))
    if row["VCPUs_at_startup"] < 1:
        raise Failure("INVALID_VALUE", "VCPUs-at-startup", str(row["VCPUs_at_startup"]))
    if row["VCPUs_at_startup"] > row["VCPUs_max"]:
        reason = "value greater than VCPUs-max"
        raise Failure("VALUE_NOT_SUPPORTED", "VCPUs-at-startup", str(row["VCPUs_at_startup"]), reason)
    assert_coercible(row)
    if row["HVM_shadow_multiplier"] < 1:
        raise Failure(
            "INVALID_VALUE", "HVM_shadow_multiplier", vm_facts.ocaml_float(row["HVM_shadow_multiplier"])
        )
    crash = row["actions_after_crash"]
    if crash == "rename_restart":
        reason = "option would leak a domain; VMs and not domains are managed by this API"
        raise Failure("VALUE_NOT_SUPPORTED", "VM.actions_after_crash", crash, reason)
    if crash.startswith("coredump") and vm_facts.domain_type(xapi.db, vm) != "pv":
        reason = "cannot invoke a coredump of an HVM, PVH or PV-in-PVH domain"
        raise Failure("VALUE_NOT_SUPPORTED", "VM.actions_after_crash", crash, reason)


def _assert_can_see_networks(xapi: Xapi, vm: str, host: str) -> None:
    """Check the VM's networks: one with PIFs is on their hosts, one without is on the host of its first VM."""
    db = xapi.db
    for vif in db.children(vm, "VIFs"):
        network = db.row("VIF", vif)["network"]
        row = db.row("network", network)
        pifs = db.children(network, "PIFs")
        if pifs:
            hosts = [db.row("PIF", pif)["host"] for pif in pifs]
        elif row["other_config"].get("assume_network_is_shared") == "true" or not row["managed"]:
            continue
        else:
            vms = [db.row("VM", db.row("VIF", other)["VM"]) for other in db.children(network, "VIFs")]
            hosts = [other["resident_on"] for other in vms if other["power_state"] == "Running"]
        if host not in hosts and (hosts or pifs):
            raise Failure("VM_REQUIRES_NET", vm, network)
