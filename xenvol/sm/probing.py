"""What SR.probe answers: the SRs that are on the storage, or, where the question was incomplete, what could be asked.

A driver that misses a key refuses, with the choices as XML in its refusal (facts/xapi.md 5.3). A probe tells of SRs
and of nothing else: a disk that holds a file system looks to it like a blank one (facts/sm-truth.md, lvm, ext).
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping

from xenvol.errors import XapiError
from xenvol.refs import HostRef
from xenvol.sm.errors import IncompleteConfig
from xenvol.sm.srtypes import SRType
from xenvol.view import View

_SM = "SR_BACKEND_FAILURE_"
_INCOMPLETE = {96: "targetIQN", 101: "serverpath", 107: "SCSIid"}
"""Refusals that come with choices, and the key that they are for."""
LISTED = frozenset(_INCOMPLETE.values())
"""Keys that may be left out, to be told what there is."""
_CHOICES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "targetIQN": ("TGT", {"targetIQN": "TargetIQN", "target": "IPAddress"}),
    "serverpath": ("Export", {"serverpath": "Path"}),
    "SCSIid": ("*", {"SCSIid": "SCSIid", "LUN": "LUNid", "size": "size", "path": "path"}),
}
"""The elements that are choices, and which of their children to show under which key."""


def probe(
    view: View,
    host_ref: HostRef,
    sr_type: SRType,
    device_config: Mapping[str, str],
    sm_config: Mapping[str, str],
) -> list[str]:
    """The uuids of the SRs on the storage. Changes nothing on it.

    Raises IncompleteConfig with what the storage offers, XapiError where it cannot be reached.
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
    """``<SRlist><SR><UUID>…``; an answer that is no XML, such as an empty one, tells of none."""
    root = _parsed(answer)
    return [] if root is None else [(uuid.text or "").strip() for uuid in root.iter("UUID")]


def choices_in(key: str, answer: str) -> list[str]:
    """Each as ``key=value …``, the key that is missing first; a target that stands for any is left out."""
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
        return None  # entities are declared nowhere in what drivers say
    try:
        return ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return None


def _is_numbered(code: str) -> bool:
    return code.startswith(_SM) and code.removeprefix(_SM).isdecimal()
