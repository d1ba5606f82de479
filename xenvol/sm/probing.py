"""SR.probe: the SRs that are on a storage; or, if a key is missing, the choices for it.

A driver that misses a key refuses, with the choices as XML in its error (docs/background/xapi.md 5.3). A probe sees SRs
only: to it, a disk with a file system is a blank one (docs/background/recordings.md, lvm, ext).
"""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable, Iterator, Mapping

from xenvol.errors import XapiError
from xenvol.pool.marks import CONNECTED, MANAGED
from xenvol.pool.view import View
from xenvol.session.refs import HostRef, SRRef
from xenvol.sm import same_storage
from xenvol.sm.config import BackendConfig
from xenvol.sm.errors import DeviceNotBlank, IncompleteConfig, InvalidConfig
from xenvol.storage import find_sr, find_vdi
from xenvol.storage.srtypes import SRType, sr_type_of

_SM = "SR_BACKEND_FAILURE_"
_INCOMPLETE = {83: "targetIQN", 96: "targetIQN", 101: "serverpath", 107: "SCSIid"}
"""Errors that come with choices, and the key that is missing, or names nothing that exists."""
_CHOICES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "targetIQN": ("TGT", {"targetIQN": "TargetIQN", "target": "IPAddress", "port": "Port"}),
    "serverpath": ("Export", {"serverpath": "Path"}),
    "SCSIid": ("*", {"SCSIid": "SCSIid", "LUN": "LUNid", "size": "size", "path": "path"}),
}
"""The XML elements that are choices, and which of their children to show under which key."""


def check(
    view: View,
    host_ref: HostRef,
    wanted: BackendConfig,
    device_config: Mapping[str, str],
    *,
    can_probe: bool,
    format_device: str | None,
) -> None:
    """Check the connection, that the SR that was named exists, and that no device is erased that the caller did not
    name.

    Raises IncompleteConfig, InvalidConfig, DeviceNotBlank, XapiError. Changes nothing.
    """
    kind = wanted.sr_type
    found = probe(view, host_ref, kind, device_config, wanted.sm_config) if can_probe else []
    wanted.check_complete()
    if kind.formats is not None:
        _check_no_disk(view, kind, device_config)
    if kind.luns:
        _check_luns(view, wanted)
    elif wanted.sr_uuid is None:
        if kind.formats is not None:
            found = [*found, *_of_other_types(view, host_ref, kind, device_config)]
            _check_device(view, kind, device_config[kind.formats], found, format_device=format_device)
    elif can_probe and wanted.has_uuid and wanted.sr_uuid not in found:
        remedy = f"on that storage there is {', '.join(found) or 'none'}"
        raise InvalidConfig(kind.name, "sr_uuid", problem="names no SR that exists", remedy=remedy)


def _of_other_types(
    view: View, host_ref: HostRef, kind: SRType, device_config: Mapping[str, str]
) -> Iterator[str]:
    """Yield the SRs of other types on the device: a probe for ``lvm`` does not see an ``ext`` SR."""
    for name in sorted(view.sr_types):
        other = sr_type_of(name)
        is_alike = other.formats == kind.formats == "device" and name == other.name != kind.name
        if is_alike and other.can_probe:
            with contextlib.suppress(XapiError, IncompleteConfig):  # this driver cannot read the device
                yield from probe(view, host_ref, other, {"device": device_config["device"]}, {})


def _check_device(
    view: View, kind: SRType, device: str, found: Collection[str], *, format_device: str | None
) -> None:
    """Refuse a device that the caller did not name, or that this pool uses. `found` are the SRs on it."""
    if set((format_device or "").split(",")) != set(device.split(",")):
        raise DeviceNotBlank(device, found=found)
    key = kind.formats or ""
    for sr_uuid in found:
        if (there := find_sr(view, sr_uuid)) is not None:
            problem = f"names the device of SR {_called(view, there)}, which this pool uses"
            remedy = f"give sr_uuid={sr_uuid} to use it, or destroy that SR first"
            raise InvalidConfig(kind.name, key, problem=problem, remedy=remedy)


def _check_no_disk(view: View, kind: SRType, device_config: Mapping[str, str]) -> None:
    """Refuse a LUN that this pool uses as a disk: the SR and the user of the disk would overwrite each other."""
    for vdi_uuid in sorted(same_storage.luns_under(device_config)):
        shown = find_vdi(view, vdi_uuid)
        if shown is not None and (shown[1]["VBDs"] or {CONNECTED, MANAGED} & set(shown[1]["other_config"])):
            sr = _called(view, SRRef(shown[1]["SR"]))
            problem = f"names the LUN that is VDI {vdi_uuid} of SR {sr}, in use"
            raise InvalidConfig(
                kind.name, kind.formats or "", problem=problem, remedy="detach it, and unmanage it, first"
            )


def _check_luns(view: View, wanted: BackendConfig) -> None:
    """Refuse LUNs that another SR of this pool has: this SR would stay empty (docs/background/recordings.md, finding
    12)."""
    for pbd in view.all("PBD").values():
        sr_rec = view.record("SR", pbd["SR"])
        its_type = sr_type_of(sr_rec["type"])
        if its_type.luns and not its_type.locations(pbd["device_config"]).isdisjoint(wanted.locations):
            key = wanted.sr_type.listed[0] if wanted.sr_type.listed else "type"
            problem = f"names the LUNs of SR {_called(view, SRRef(pbd['SR']))}, which this pool has"
            remedy = f"give sr_uuid={sr_rec['uuid']} to use that SR, or forget it first"
            raise InvalidConfig(wanted.sr_type.name, key, problem=problem, remedy=remedy)


def _called(view: View, sr_ref: SRRef) -> str:
    sr_rec = view.record("SR", sr_ref)
    return f"{sr_rec['name_label']} ({sr_rec['uuid']})"


def probe(
    view: View,
    host_ref: HostRef,
    sr_type: SRType,
    device_config: Mapping[str, str],
    sm_config: Mapping[str, str],
) -> list[str]:
    """Return the uuids of the SRs on the storage. Changes nothing on it.

    Raises IncompleteConfig with the choices that the storage offers, XapiError if the storage cannot be reached.
    """
    try:
        answer: str = view.call("SR.probe", host_ref, dict(device_config), sr_type.name, dict(sm_config))
    except XapiError as error:
        key = _INCOMPLETE.get(int(error.code.removeprefix(_SM))) if _is_numbered(error.code) else None
        if key is None:
            raise
        raise IncompleteConfig(sr_type.name, key, choices=choices_in(key, error.params[-1])) from error
    return srs_in(answer)


def srs_in(answer: str) -> list[str]:
    """Parse ``<SRlist><SR><UUID>…``. An answer that is not XML, such as an empty one, lists no SRs."""
    root = _parsed(answer)
    return [] if root is None else [(uuid.text or "").strip() for uuid in root.iter("UUID")]


def choices_in(key: str, answer: str) -> list[str]:
    """Return each choice as ``key=value …``, the missing key first. A target that stands for all targets is left
    out."""
    root = _parsed(answer)
    if root is None:
        return []
    tag, children = _CHOICES[key]
    found = []
    for element in root.iter(None if tag == "*" else tag):
        told = {name: (element.findtext(child) or "").strip() for name, child in children.items()}
        if told.get(key) and told[key] != "*":
            found.append(_words(told.items()))
    return list(dict.fromkeys(found))


def _words(pairs: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{name}={value}" for name, value in pairs if value)


def _parsed(answer: str) -> ElementTree.Element | None:
    if "<!DOCTYPE" in answer.upper() and "[" in answer:
        return None  # no driver declares entities
    try:
        return ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return None


def _is_numbered(code: str) -> bool:
    return code.startswith(_SM) and code.removeprefix(_SM).isdecimal()
