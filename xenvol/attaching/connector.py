"""The connector: what a block-storage service must know of a host to export a volume to it. Modelled on os-brick's."""

from __future__ import annotations

import logging
import re
from typing import Any

from xenvol.attaching.migration import find_host
from xenvol.attaching.vm import VM
from xenvol.errors import XapiError
from xenvol.pool.view import HOST_IS_DOWN, View
from xenvol.session.refs import HostRef, Name

log = logging.getLogger(__name__)

_WWN = re.compile(
    r"<(?P<what>wwpn|wwnn|port_name|node_name|port|node)>\s*(?:0x)?(?P<wwn>[0-9a-fA-F]{16})\s*</"
)
_NODE_NAMES = frozenset({"wwnn", "node_name", "node"})
_READ = ("pool", "host")
"""The classes that a connector is made of, so that one call reads them."""


def get_connector(view: View, host: Name | None, *, fibre_channel: bool) -> dict[str, Any]:
    """Return the connector of a host; None is the master. Raises UnknownHost.

    Its keys: `initiator` (IQN; absent if the host has none), `multipath`, `host` (its name), `ip`, `uuid`, `pool_uuid`,
    `platform` and `os_type`; if `fibre_channel`, also `wwpns` and `wwnns` (lists of 16 hex digits). One call, and two
    more for Fibre Channel.
    """
    view.read({}, whole=_READ)
    host_ref = view.master if host is None else find_host(view, host)
    return _connector(view, host_ref, fibre_channel=fibre_channel, may_be_down=False)


def _connector(view: View, host_ref: HostRef, *, fibre_channel: bool, may_be_down: bool) -> dict[str, Any]:
    """Return the connector of a host, from the records that have been read.

    If `may_be_down`, a host that is down gets no Fibre Channel names, since only the host itself knows them; else its
    error is raised.
    """
    record = view.record("host", host_ref)
    other_config = record["other_config"]
    connector: dict[str, Any] = {
        "host": record["hostname"] or record["name_label"],
        "ip": record["address"],
        "multipath": record.get("multipathing", other_config.get("multipathing") == "true"),
        "uuid": record["uuid"],
        "pool_uuid": view.pool["uuid"],
        "platform": record["software_version"].get("machine", "x86_64"),
        "os_type": "linux",
    }
    if fibre_channel:
        connector["wwpns"], connector["wwnns"] = _fibre_channel_names(view, host_ref, may_be_down=may_be_down)
    initiator = record.get("iscsi_iqn") or other_config.get("iscsi_iqn")
    if initiator:
        connector["initiator"] = initiator
    return connector


def get_connectors(view: View, vm: VM, *, fibre_channel: bool) -> list[dict[str, Any]]:
    """Return a connector for every host to which the service must export a volume for this VM, the master first.

    The VM's host plugs the disk. xapi needs the master for every shared SR. A VM that is halted, or that HA protects,
    may start on any host, so it needs them all.
    """
    view.read({}, whole=_READ)
    may_start_anywhere = vm.resident_on is None or (vm.is_protected and view.pool["ha_enabled"])
    hosts = set(view.hosts) if may_start_anywhere else {vm.resident_on}
    others = sorted(str(host) for host in hosts - {view.master})
    return [
        _connector(view, HostRef(host), fibre_channel=fibre_channel, may_be_down=True)
        for host in (view.master, *others)
    ]


def _fibre_channel_names(view: View, host_ref: HostRef, *, may_be_down: bool) -> tuple[list[str], list[str]]:
    """Return the port names and node names of the host's Fibre Channel adapters.

    xapi has no field for them. A probe without a LUN is refused, and the last parameter of the refusal lists them
    (docs/background/xapi.md 5.3). If the probe fails otherwise, both lists are empty: iSCSI may work all the same.
    """
    if view.driver_of("lvmohba") is None:
        return [], []
    try:
        listing = str(view.call("SR.probe", host_ref, {}, "lvmohba", {}))
    except XapiError as error:
        is_passed_over = may_be_down and error.code in HOST_IS_DOWN
        if not error.code.startswith("SR_BACKEND_FAILURE") and not is_passed_over:
            raise
        if error.code != "SR_BACKEND_FAILURE_107":
            log.warning("host %s: its Fibre Channel adapters cannot be listed: %s", host_ref, error)
            return [], []
        listing = error.params[-1]
    names: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for match in _WWN.finditer(listing):
        names[match["what"] in _NODE_NAMES][match["wwn"].lower()] = None
    return list(names[False]), list(names[True])
