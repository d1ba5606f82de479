"""Hosts: the settings for storage clients, and whether a host takes VMs (xapi_host.ml; trace 11#22-45)."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import liveness, sr_hosts, vm_placement
from xenvol.simulator.rules.nested import invoke

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_IQN = "iscsi_iqn"
_MULTIPATHING = "multipathing"
_MULTIPATH_HANDLE = "multipathhandle"


@rule("host.set_iscsi_iqn")
def host_set_iscsi_iqn(call: Call, host: str, value: str) -> None:
    """Set the IQN, any text but an empty one. It is also written to other_config, where SM reads it."""
    if value == "":
        raise Failure("INVALID_VALUE", "value", "")
    call.db.set("host", host, iscsi_iqn=value)
    call.db.map_add("host", host, "other_config", _IQN, value)


@rule("host.set_multipathing")
def host_set_multipathing(call: Call, host: str, value: bool) -> None:
    call.db.set("host", host, multipathing=value)
    call.db.map_add("host", host, "other_config", _MULTIPATHING, str(value).lower())
    call.db.map_add("host", host, "other_config", _MULTIPATH_HANDLE, "dmp")


@rule("host.set_other_config")
def host_set_other_config(call: Call, host: str, value: dict[str, str]) -> None:
    call.db.set("host", host, other_config=value)
    _mirror(call, host)


@rule("host.add_to_other_config")
def host_add_to_other_config(call: Call, host: str, key: str, value: str) -> None:
    if key in call.db.row("host", host)["other_config"]:
        raise Failure("MAP_DUPLICATE_KEY", "host", "other_config", host, key)
    call.db.map_add("host", host, "other_config", key, value)
    _mirror(call, host)


@rule("host.remove_from_other_config")
def host_remove_from_other_config(call: Call, host: str, key: str) -> None:
    call.db.map_remove("host", host, "other_config", key)
    _mirror(call, host)


def _mirror(call: Call, host: str) -> None:
    """Copy other_config to the fields, for clients that still write there (xapi_host_helpers.ml).

    If a key is removed, the field keeps its value.
    """
    row = call.db.row("host", host)
    if iqn := row["other_config"].get(_IQN, ""):
        call.db.set("host", host, iscsi_iqn=iqn)
    if (multipathing := row["other_config"].get(_MULTIPATHING)) is not None:
        call.db.set("host", host, multipathing=multipathing == "true")


@rule("host.enable")
def host_enable(call: Call, host: str) -> None:
    sr_hosts.assert_live(call.xapi, host)
    call.db.set("host", host, enabled=True)


@rule("host.disable")
def host_disable(call: Call, host: str, _auto_enable: bool = True) -> None:
    """Let the host take no more VMs; running VMs go on."""
    sr_hosts.assert_live(call.xapi, host)
    call.db.set("host", host, enabled=False)


@rule("host.evacuate")
def host_evacuate(call: Call, host: str, _network: str = NULL, _batch: int = 0) -> None:
    """Move every VM to a host that can take it; the first VM that cannot move ends the call with its error."""
    db = call.db
    db.row("host", host)
    for vm in liveness.resident_vms(call, host):
        others = vm_placement.possible_hosts(call.xapi, functools.partial(_assert_goes, call, vm, host))
        if not others:
            raise Failure("NO_HOSTS_AVAILABLE")
        invoke(call, "VM.pool_migrate", vm, others[0], {"live": "true"})


@rule("host.assert_can_evacuate")
def host_assert_can_evacuate(call: Call, host: str) -> None:
    if blocked := host_get_vms_which_prevent_evacuation(call, host):
        reasons = [f"{reason[0]},{vm}" for vm, reason in blocked.items()]
        raise Failure("CANNOT_EVACUATE_HOST", "|".join(reasons))


@rule("host.get_vms_which_prevent_evacuation")
def host_get_vms_which_prevent_evacuation(call: Call, host: str) -> dict[str, list[str]]:
    """Return VM -> the error that keeps it here: the error of the last host that was tried, or NO_HOSTS_AVAILABLE."""
    blocked: dict[str, list[str]] = {}
    call.db.row("host", host)
    for vm in liveness.resident_vms(call, host):
        reason = ["NO_HOSTS_AVAILABLE"]
        for other in call.db.refs("host"):
            try:
                _assert_goes(call, vm, host, other)
                break
            except Failure as failure:
                reason = failure.description if other != host else reason
        else:
            blocked[vm] = reason
    return blocked


def _assert_goes(call: Call, vm: str, host: str, other: str) -> None:
    if other == host:
        raise Failure("NO_HOSTS_AVAILABLE")
    vm_placement.assert_can_boot_here(call.xapi, vm, other)


@rule("host.destroy")
def host_destroy(call: Call, host: str) -> None:
    """Forget a dead host; the collector removes its PBDs."""
    db = call.db
    row = db.row("host", host)
    liveness.assert_dead(call.xapi, host)
    for vm in liveness.resident_vms(call, host):
        raise Failure("HOST_HAS_RESIDENT_VMS", host, vm)
    db.delete("VM", row["control_domain"])
    db.delete("host_metrics", row["metrics"])
    db.delete("host", host)


@rule("host.get_servertime")
def host_get_servertime(call: Call, host: str) -> str:
    call.db.row("host", host)
    return call.xapi.now()


@rule("host.get_server_localtime")
def host_get_server_localtime(call: Call, host: str) -> str:
    """Return the local time without a zone, unlike other dates."""
    call.db.row("host", host)
    return time.strftime("%Y%m%dT%H:%M:%S", time.localtime(call.xapi.clock()))


@rule("host.get_server_certificate")
def host_get_server_certificate(call: Call, host: str) -> str:
    """Raise CERTIFICATE_LIBRARY_CORRUPT: the recorded host had no certificate (trace 07#104)."""
    call.db.row("host", host)
    raise Failure("CERTIFICATE_LIBRARY_CORRUPT")


@rule("host.is_in_emergency_mode")
def host_is_in_emergency_mode(_call: Call) -> bool:
    return False


@rule("host.has_extension")
def host_has_extension(call: Call, host: str, _name: str) -> bool:
    call.db.row("host", host)
    return False


@rule("host.call_plugin")
def host_call_plugin(call: Call, host: str, plugin: str, _fn: str, _args: dict[str, str]) -> str:
    call.db.row("host", host)
    raise Failure("XENAPI_MISSING_PLUGIN", plugin)


@rule("host.list_methods")
def host_list_methods(call: Call) -> list[str]:
    classes = call.xapi.model.classes.values()
    return [message.full_name for cls in classes for message in cls.messages.values()]


@rule("host.create_new_blob")
def host_create_new_blob(call: Call, host: str, name: str, mime_type: str, public: bool) -> str:
    call.db.row("host", host)
    blob: str = invoke(call, "blob.create", mime_type, public)
    call.db.map_add("host", host, "blobs", name, blob)
    return blob
