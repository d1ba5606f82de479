"""The San in a world file, read and written as plain values.

Keys of the section, all optional:

``portals``
    Portal (``"10.0.0.1:3260"``, ``"[fd00::1]:3260"``) to a list of IQNs, or to a map with ``targets`` (that
    list), ``state`` (``answers``, ``refuses``, ``silent``) and ``discovery_chap`` (``[user, password]``).
``targets``
    IQN to a map with ``luns``, ``maps``, ``chap`` and ``mutual_chap`` (each ``[user, password]``), and
    ``initiators`` (a list of IQNs; without it, all).
``fc_targets``
    WWPN of an array's port to a map with ``luns``, ``maps`` and ``initiators`` (a list of WWPNs of hosts).
``luns``, in a target
    Number to a map with ``size`` (bytes, or ``"10 GiB"``), ``scsi_id`` (derived if missing; the same one twice
    is one volume shown twice), ``vendor``, ``serial``, and ``content`` unless it is blank
    (`xenvol.simulator.sm.contentfile`).
``maps``, in a target
    The host groups of an array: initiator (IQN or WWPN) to a map of numbers, as that initiator sees them, to the
    ``scsi_id`` of a volume that a target shows, or to a map as in ``luns``. Such an initiator sees nothing else.
``arrays``
    Management address of an array that makes LUNs on demand to a map with ``type`` (``netapp``, ``equal``),
    ``login`` (``[user, password]``) and ``pools`` (name of an aggregate or storage pool to its size).
``names``
    Host name to address: names that ``target`` in a device_config may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from xenvol.simulator.sm import contentfile, worldfile
from xenvol.simulator.sm.arrays import Array, ArrayKind
from xenvol.simulator.sm.san import Lun, Portal, PortalState, San, Target
from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.simulator.sm.worldfile import WorldError

_LUN_TEXTS = ("scsi_id", "vendor", "serial")


def load(san: San, values: Any, where: str = "san") -> None:
    """Add what the section describes; `WorldError` names the wrong key."""
    given = worldfile.section(values, where, "portals", "targets", "fc_targets", "arrays", "names")
    for iqn, entry in worldfile.section(given.get("targets", {}), f"{where}.targets").items():
        _load_target(san, san.targets, iqn, entry, f"{where}.targets.{iqn}")
    for wwpn, entry in worldfile.section(given.get("fc_targets", {}), f"{where}.fc_targets").items():
        _load_target(san, san.fc_targets, wwpn, entry, f"{where}.fc_targets.{wwpn}")
    for known, section in ((san.targets, "targets"), (san.fc_targets, "fc_targets")):
        for name, entry in given.get(section, {}).items():  # after all volumes exist
            _load_maps(san, known[name], entry.get("maps", {}), f"{where}.{section}.{name}.maps")
    for key, entry in worldfile.section(given.get("portals", {}), f"{where}.portals").items():
        _load_portal(san, key, entry, f"{where}.portals.{key}")
    for address, entry in worldfile.section(given.get("arrays", {}), f"{where}.arrays").items():
        _load_array(san, address, entry, f"{where}.arrays.{address}")
    for name, address in worldfile.section(given.get("names", {}), f"{where}.names").items():
        san.names[name] = worldfile.text(address, f"{where}.names.{name}")


def as_dict(san: San) -> dict[str, Any]:
    """Return what `load` would read to make this again, without the bytes."""
    return {
        "portals": {portal.key: _portal_as_dict(portal) for portal in san.portals.values()},
        "targets": {name: _target_as_dict(san, target) for name, target in san.targets.items()},
        "fc_targets": {name: _target_as_dict(san, target) for name, target in san.fc_targets.items()},
        "arrays": {address: _array_as_dict(array) for address, array in san.arrays.items()},
        "names": dict(san.names),
    }


def _load_target(san: San, into: dict[str, Target], name: str, entry: Any, where: str) -> None:
    keys = ["luns", "maps", "initiators", *(() if into is san.fc_targets else ("chap", "mutual_chap"))]
    given = worldfile.section(entry, where, *keys)
    target = into.setdefault(name, Target(name))
    if "chap" in given:
        target.chap = worldfile.credentials(given["chap"], f"{where}.chap")
    if "mutual_chap" in given:
        target.mutual_chap = worldfile.credentials(given["mutual_chap"], f"{where}.mutual_chap")
    if "initiators" in given:
        target.initiators = set(worldfile.texts(given["initiators"], f"{where}.initiators"))
    for number, lun in worldfile.section(given.get("luns", {}), f"{where}.luns").items():
        _load_lun(san, name, number, lun, f"{where}.luns.{number}")


def _load_maps(san: San, target: Target, values: Any, where: str) -> None:
    for initiator, numbers in worldfile.section(values, where).items():
        target.maps[initiator] = {}
        for number, entry in worldfile.section(numbers, f"{where}.{initiator}").items():
            place = f"{where}.{initiator}.{number}"
            scsi_id = entry
            if isinstance(entry, Mapping):
                scsi_id = _volume(san, f"{target.name} {initiator}", number, entry, place).scsi_id
            san.map_lun(target.name, initiator, _number(number, place), worldfile.text(scsi_id, place))


def _load_lun(san: San, target: str, number: Any, entry: Any, where: str) -> None:
    san.target(target).luns[_number(number, where)] = _volume(san, target, number, entry, where)


def _number(number: Any, where: str) -> int:
    if not str(number).isdigit():
        raise WorldError(f"{where}: {number!r} is not a LUN number")
    return int(number)


def _volume(san: San, target: str, number: Any, entry: Any, where: str) -> Lun:
    given = worldfile.section(entry, where, "size", "content", *_LUN_TEXTS)
    size = worldfile.size_in_bytes(worldfile.required(given, "size", where), f"{where}.size")
    other = {key: worldfile.words(given[key], f"{where}.{key}") for key in _LUN_TEXTS if key in given}
    volume = san.volume(f"{target} {_number(number, where)}", size, **other)
    if "content" in given:
        contentfile.fill(volume, given["content"], f"{where}.content")
    return volume


def _load_portal(san: San, key: str, entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        entry = {"targets": entry}
    given = worldfile.section(entry, where, "targets", "state", "discovery_chap")
    portal = san.add_portal(key, *worldfile.texts(given.get("targets", []), f"{where}.targets"))
    state = given.get("state", "answers")
    if state not in get_args(PortalState):
        raise WorldError(f"{where}.state: {state!r}; known are {', '.join(get_args(PortalState))}")
    portal.state = state
    if "discovery_chap" in given:
        portal.discovery_chap = worldfile.credentials(given["discovery_chap"], f"{where}.discovery_chap")


def _load_array(san: San, address: str, entry: Any, where: str) -> None:
    given = worldfile.section(entry, where, "type", "login", "pools")
    kind = worldfile.required(given, "type", where)
    if kind not in get_args(ArrayKind):
        raise WorldError(f"{where}.type: {kind!r}; known are {', '.join(get_args(ArrayKind))}")
    user, password = worldfile.credentials(worldfile.required(given, "login", where), f"{where}.login")
    pools = {
        name: worldfile.size_in_bytes(size, f"{where}.pools.{name}")
        for name, size in worldfile.section(given.get("pools", {}), f"{where}.pools").items()
    }
    san.add_array(address, kind, user, password, pools)


def _array_as_dict(array: Array) -> dict[str, Any]:
    return {"type": array.kind, "login": [array.username, array.password], "pools": dict(array.pools)}


def _portal_as_dict(portal: Portal) -> dict[str, Any]:
    values: dict[str, Any] = {"targets": list(portal.targets), "state": portal.state}
    if portal.discovery_chap is not None:
        values["discovery_chap"] = list(portal.discovery_chap)
    return values


def _target_as_dict(san: San, target: Target) -> dict[str, Any]:
    values: dict[str, Any] = {"luns": {str(number): _lun_as_dict(lun) for number, lun in target.luns.items()}}
    for key, pair in (("chap", target.chap), ("mutual_chap", target.mutual_chap)):
        if pair is not None:
            values[key] = list(pair)
    if target.initiators is not None:
        values["initiators"] = sorted(target.initiators)
    if target.maps:
        values["maps"] = {
            initiator: {str(number): _mapped_as_value(san, lun) for number, lun in luns.items()}
            for initiator, luns in target.maps.items()
        }
    return values


def _mapped_as_value(san: San, lun: Lun) -> Any:
    """Return the SCSI id of a volume that a target shows to all initiators, else its whole map."""
    targets = [*san.targets.values(), *san.fc_targets.values()]
    is_shown = any(lun in target.luns.values() for target in targets)
    return lun.scsi_id if is_shown else _lun_as_dict(lun)


def _lun_as_dict(lun: Lun) -> dict[str, Any]:
    values: dict[str, Any] = {"size": lun.size, **{key: getattr(lun, key) for key in _LUN_TEXTS}}
    if isinstance(lun.content, VolumeGroup):
        values["content"] = contentfile.as_dict(lun.content)
    return values
