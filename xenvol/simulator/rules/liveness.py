"""Hosts that die: when the master notices, what it refuses then, and what ``host.declare_dead`` does.

Sources: db_gc.ml (check_host_liveness), xapi_host.ml (is_host_alive, declare_dead), xapi_pool.ml (hello),
message_forwarding.ml; docs/background/xapi.md 7.1. A host that dies stays ``live`` in the database until it has been
silent for `Xapi.host_assumed_dead_interval`. Until then a call that it should run gets CANNOT_CONTACT_HOST,
afterwards HOST_OFFLINE (`sr_hosts.assert_live`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.xapi import Death

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi


def die(xapi: Xapi, host: str) -> None:
    """Let the host fall silent; its VMs and its storage stay as they are. Idempotent."""
    xapi.dead.setdefault(host, Death(xapi.clock(), bool(xapi.db.row("host", host)["enabled"])))


def come_back(xapi: Xapi, host: str) -> None:
    """Let the host announce itself to the master, which takes it for live at once (xapi_pool.ml, hello). Idempotent.

    A host that was declared dead enables itself when it has started.
    """
    death = xapi.dead.pop(host, None)
    if death is not None and xapi.db.exists("host", host):
        xapi.db.set("host_metrics", xapi.db.row("host", host)["metrics"], live=True)
        xapi.db.set("host", host, enabled=death.was_enabled)


def check(xapi: Xapi) -> None:
    """Take every host for dead that has been silent for too long, as the master does every 30 seconds."""
    if xapi.master in xapi.dead:
        return
    for host, death in xapi.dead.items():
        is_late = xapi.clock() - death.since >= xapi.host_assumed_dead_interval
        if is_late and sr_hosts.is_live(xapi.db, host):
            xapi.db.set("host_metrics", xapi.db.row("host", host)["metrics"], live=False)


def is_alive(xapi: Xapi, host: str) -> bool:
    """Return whether a host that the database calls live answers now (xapi_host.ml, is_host_alive)."""
    return sr_hosts.is_live(xapi.db, host) and host not in xapi.dead


def assert_dead(xapi: Xapi, host: str) -> None:
    """Raise HOST_IS_LIVE [host] for the master and for a host that answers (precheck_destroy_declare_dead)."""
    xapi.db.row("host", host)
    if host == xapi.master or is_alive(xapi, host):
        raise Failure("HOST_IS_LIVE", host)


def assert_runs_calls(xapi: Xapi, vm: str) -> None:
    """Raise what `sr_hosts.assert_live` raises for the host on which the VM is; none for a VM that is on no host.

    (message_forwarding.ml, forward_vm_op and forward_vbd_op)
    """
    host = xapi.db.row("VM", vm)["resident_on"]
    if host != NULL:
        sr_hosts.assert_live(xapi, host)


@rule("host.declare_dead")
def host_declare_dead(call: Call, host: str) -> None:
    """Reset the VMs of a host that does not answer, and disable it. Its PBDs stay plugged, and it may stay ``live``."""
    assert_dead(call.xapi, host)
    for vm in resident_vms(call, host):
        invoke(call, "VM.power_state_reset", vm)
    call.db.set("host", host, enabled=False)


def resident_vms(call: Call, host: str) -> list[str]:
    """Return the VMs that are on the host, without its control domain."""
    vms = call.db.children(host, "resident_VMs")
    return [vm for vm in vms if not call.db.row("VM", vm)["is_control_domain"]]
