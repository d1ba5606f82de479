"""What each call is for, in words: a table to proof-read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_READS = (
    # method, what its parameters hold, what it finds out
    ("VM.get_all_records_where", "", "which VM has this name"),
    ("event.from", "'SM", "its disks; what the hosts offer"),
    ("event.from", "", "what there is now"),
    ("SR.get_all_records_where", '"type"', "is the target in an SR already?"),
    ("SR.get_all_records_where", "", "which SR shows it"),
    ("SM.get_all_records_where", "", "is there a storage driver for this SR type?"),
    ("host.get_record", "", "the host's name, for the error"),
    ("SR.probe", "", "which LUN has the number there?"),
    ("SR.get_record", "", "is it an SR of ours?"),
    ("VDI.get_all_records_where", '"SR"', "the disks that the SR shows"),
    ("VDI.get_all_records_where", "", "is the disk in the pool?"),
    ("VDI.get_record", "", "the disk"),
    ("VBD.get_all_records_where", "", "the VM's slots"),
    ("VBD.get_currently_attached", "", "did it happen?"),
    ("PBD.get_all_records_where", "", "the hosts that have it"),
    ("pool.get_all_records", "", "which host is the master"),
    ("secret.get_all_records_where", "", "what a crash may have left"),
)
_CHANGES = {
    "SR.introduce": "where the storage is",
    "SR.forget": "the record goes, the data stays",
    "secret.introduce": "the CHAP password, as a secret",
    "secret.destroy": "the PBDs have their own copies",
    "PBD.create": "how {host} reaches it",
    "PBD.destroy": "the record goes",
    "PBD.plug": "{host} logs in, or mounts",
    "PBD.unplug": "{host} logs out, or unmounts",
    "VBD.create": "a slot of the VM",
    "VBD.plug": "the running VM gets the disk",
    "VBD.unplug": "the guest lets go",
    "VBD.destroy": "the slot is empty",
}


def is_change(method: str) -> bool:
    """Return True if the call changes the pool."""
    return method in _CHANGES or not any(method == read for read, _, _ in _READS)


def about(method: str, params: Sequence[Any], hosts: Mapping[str, str]) -> str:
    """Return what the call is for, or nothing; `hosts` has the names by the references of hosts and PBDs."""
    if method in _CHANGES:
        return _CHANGES[method].format(host=_host(params, hosts))
    text = str(params)
    return next((words for read, has, words in _READS if read == method and has in text), "")


def _host(params: Sequence[Any], hosts: Mapping[str, str]) -> str:
    ref = params[0]["host"] if isinstance(params[0], Mapping) and "host" in params[0] else params[0]
    return hosts.get(ref, "a host") if isinstance(ref, str) else "a host"
