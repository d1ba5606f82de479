"""Networks: a bridge on every host, made when it is first needed (xapi_network.ml; trace 11#46-69)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.vif import delete_vif

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_DEFAULT_MTU = 1500
_LONGEST_BRIDGE_NAME = 15
_RESERVED_BRIDGES = ("xen", "xapi", "vif", "tap", "eth")
_MANAGEMENT = "is_host_internal_management_network"


@rule("network.create")
def network_create(call: Call, record: dict[str, Any]) -> str:
    db = call.db
    bridges = {db.row("network", network)["bridge"] for network in db.refs("network")}
    bridge = record["bridge"]
    if bridge == "":
        names = (f"xapi{number}" for number in itertools.count(1))
        bridge = next(name for name in names if name not in bridges)
    elif len(bridge) > _LONGEST_BRIDGE_NAME or bridge.startswith(_RESERVED_BRIDGES):
        raise Failure("INVALID_VALUE", "bridge", bridge)
    elif bridge in bridges:
        raise Failure("BRIDGE_NAME_EXISTS", bridge)
    mtu = record["MTU"] if record["MTU"] > 0 else _DEFAULT_MTU
    return db.create("network", **{**record, "bridge": bridge, "MTU": mtu})


@rule("network.destroy")
def network_destroy(call: Call, network: str) -> None:
    db = call.db
    row = db.row("network", network)
    vifs = db.children(network, "VIFs")
    plugged = [
        vif for vif in vifs if db.row("VIF", vif)["currently_attached"] or db.row("VIF", vif)["reserved"]
    ]
    if plugged:
        raise Failure("NETWORK_CONTAINS_VIF", *plugged)
    if pifs := db.children(network, "PIFs"):
        raise Failure("NETWORK_CONTAINS_PIF", *pifs)
    if row["other_config"].get(_MANAGEMENT) == "true":
        raise Failure("CANNOT_DESTROY_SYSTEM_NETWORK", network)
    for vif in vifs:
        delete_vif(call, vif)
    db.delete("network", network)


@rule("network.create_new_blob")
def network_create_new_blob(call: Call, network: str, name: str, mime_type: str, public: bool) -> str:
    call.db.row("network", network)
    blob: str = invoke(call, "blob.create", mime_type, public)
    call.db.map_add("network", network, "blobs", name, blob)
    return blob


@rule("network.set_default_locking_mode")
def network_set_default_locking_mode(call: Call, network: str, value: str) -> None:
    """Set the mode; VIF_IN_USE if a VIF is plugged into the network."""
    db = call.db
    db.row("network", network)
    for vif in db.children(network, "VIFs"):
        if db.row("VIF", vif)["currently_attached"]:
            raise Failure("VIF_IN_USE", network, vif)
    db.set("network", network, default_locking_mode=value)


@rule("network.add_purpose")
def network_add_purpose(call: Call, network: str, value: str) -> None:
    """Add a purpose; ``nbd`` and ``insecure_nbd`` exclude each other in a pool."""
    db = call.db
    present = db.row("network", network)["purpose"]
    if value in present:
        return
    conflicting = {"nbd": "insecure_nbd", "insecure_nbd": "nbd"}.get(value)
    for other in db.refs("network"):
        if conflicting in db.row("network", other)["purpose"]:
            raise Failure("NETWORK_INCOMPATIBLE_PURPOSES", value, str(conflicting))
    db.set("network", network, purpose=[value, *present])


@rule("network.remove_purpose")
def network_remove_purpose(call: Call, network: str, value: str) -> None:
    present = call.db.row("network", network)["purpose"]
    call.db.set("network", network, purpose=[other for other in present if other != value])
