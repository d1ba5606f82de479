"""The storage drivers of the simulator: the class of an SR type, and its SM record.

A pool may lack a type that is known here: each pool has its own SM records, and xapi checks these first
(SR_UNKNOWN_DRIVER).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

from xenvol.simulator.sm.base import Driver
from xenvol.simulator.sm.cephfs import CephFSSR
from xenvol.simulator.sm.dummy import Dummy, Flaky
from xenvol.simulator.sm.ext import EXTSR
from xenvol.simulator.sm.file import FileSR
from xenvol.simulator.sm.glusterfs import GlusterFSSR
from xenvol.simulator.sm.hba import Hba
from xenvol.simulator.sm.iscsi import ISCSI
from xenvol.simulator.sm.iso import ISOSR
from xenvol.simulator.sm.lunondemand import EqualLogic, NetApp
from xenvol.simulator.sm.lvm import LVMSR
from xenvol.simulator.sm.lvmohba import LVMoFCoE, LVMoHBA
from xenvol.simulator.sm.lvmoiscsi import LVMoISCSI
from xenvol.simulator.sm.nfs import NFSSR
from xenvol.simulator.sm.smb import SMBSR
from xenvol.simulator.sm.udev import UdevSR

CLASSES: tuple[type[Driver], ...] = (
    CephFSSR,
    Dummy,
    EqualLogic,
    EXTSR,
    FileSR,
    Flaky,
    GlusterFSSR,
    Hba,
    ISCSI,
    ISOSR,
    LVMoFCoE,
    LVMoHBA,
    LVMoISCSI,
    LVMSR,
    NetApp,
    NFSSR,
    SMBSR,
    UdevSR,
)
"""Every driver that the simulator has."""

_UNKNOWN_TO_XAPI = frozenset({"ATOMIC_PAUSE"})
"""Capabilities of drivers that are not features of xapi (smint.ml), so no SM record has them."""

_FILE_STEMS = {
    "file": "File",
    "ext": "EXT",
    "lvm": "LVM",
    "lvhd": "LVHD",
    "lvmoiscsi": "LVMoISCSI",
    "lvhdoiscsi": "LVHDoISCSI",
    "lvmohba": "LVMoHBA",
    "lvhdohba": "LVHDoHBA",
    "lvmofcoe": "LVMoFCoE",
    "lvhdofcoe": "LVHDoFCoE",
    "iscsi": "ISCSI",
    "rawiscsi": "RawISCSI",
    "udev": "udev",
    "dummy": "Dummy",
    "flaky": "Flaky",
    "cephfs": "CephFS",
    "glusterfs": "GlusterFS",
    "moosefs": "MooseFS",
    "largeblock": "LargeBlock",
    "linstor": "Linstor",
    "netapp": "NetApp",
    "equal": "EQUAL",
}
"""The file names of drivers that are not in capitals (xapi derives the type from the name)."""


def driver(sr_type: str) -> type[Driver] | None:
    """Return the class for an SR type in lower case or an alias (``lvhd``); None without a driver."""
    return _by_type().get(sr_type) or _by_type().get(_canonical(sr_type))


def known_types() -> list[str]:
    """Return every type that has a description, aliases included, in the order of the data file."""
    return [name for main, entry in _table().items() for name in (main, *entry["aliases"])]


def sm_record(sr_type: str) -> dict[str, Any]:
    """Return the fields of the type's SM object, as xapi takes them from the driver's answer (trace sm/20a#5).

    KeyError for a type without a description. ``uuid`` and ``other_config`` are the pool's.
    """
    entry = _table()[_canonical(sr_type)]
    features = _features(entry["capabilities"])
    return {
        "name_label": entry["driver_name"],
        "name_description": entry["driver_description"],
        "type": sr_type,
        "vendor": entry["vendor"],
        "copyright": entry["copyright"],
        "version": entry["driver_version"],
        "required_api_version": entry["required_api_version"],
        "configuration": dict(entry["driver_configuration"]),
        "capabilities": list(features),
        "features": features,
        "driver_filename": f"/opt/xensource/sm/{_FILE_STEMS.get(sr_type, sr_type.upper())}SR",
        "required_cluster_stack": [],
    }


def _features(capabilities: list[str]) -> dict[str, int]:
    """Parse features:

    ``VDI_RESET_ON_BOOT/2`` is version 2 of that feature; without a number it is version 1.
    """
    split = (capability.partition("/") for capability in sorted(capabilities))
    return {name: int(version or 1) for name, _, version in split if name not in _UNKNOWN_TO_XAPI}


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    data = (importlib.resources.files("xenvol.simulator") / "data" / "sm-drivers.json").read_text()
    types: dict[str, dict[str, Any]] = json.loads(data)["types"]
    return types


@functools.cache
def _canonical(sr_type: str) -> str:
    """Return the type that an alias stands for, or the type itself."""
    return next((main for main, entry in _table().items() if sr_type in entry["aliases"]), sr_type)


@functools.cache
def _by_type() -> dict[str, type[Driver]]:
    return {cls.type: cls for cls in CLASSES}
