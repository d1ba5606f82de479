"""The names of a disk's position: ``1``, ``xvdb``, ``hdb``, ``sdb``, ``d1``, and when two names mean one slot.

Pure functions. They follow both forms of xapi-idl's device_number.ml: older xapi accepts everything that
OCaml can parse, newer xapi checks ranges and refuses other text (`releases.CHECKED_DEVICE_NUMBERS`; trace
04#67-145).
"""

from __future__ import annotations

import re
from typing import NamedTuple

AUTODETECT = "autodetect"


class Device(NamedTuple):
    bus: str
    """``xen``, ``scsi``, ``floppy`` or ``ide``."""
    disk: int
    partition: int = 0


_PREFIXES = (("xvd", "xen"), ("sd", "scsi"), ("fd", "floppy"), ("hd", "ide"))
_LINUX_PREFIX = {"xen": "xvd", "scsi": "sd", "floppy": "fd", "ide": "xvd"}
_LAST_DISK = {"xen": (1 << 20) - 1, "scsi": 15, "floppy": 2, "ide": 19}

_OCAML_INT = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<x>[0-9a-fA-F][0-9a-fA-F_]*)|0[oO](?P<o>[0-7][0-7_]*)"
    r"|0[bB](?P<b>[01][01_]*)|0[uU](?P<u>[0-9][0-9_]*)|(?P<d>[0-9][0-9_]*))"
)


def ocaml_int(text: str) -> int | None:
    """Parse a text as OCaml's int_of_string does, 63 bits wide; None if OCaml refuses it."""
    if (match := _OCAML_INT.fullmatch(text)) is None:
        return None
    minus = match["sign"] == "-"
    if match["d"] is not None:
        value = -int(match["d"]) if minus else int(match["d"])
        return value if -(1 << 62) <= value < 1 << 62 else None
    kind, digits = next((kind, match[kind]) for kind in "xobu" if match[kind] is not None)
    value = int(digits.replace("_", ""), {"x": 16, "o": 8, "b": 2, "u": 10}[kind])
    if value >= 1 << 63:
        return None
    wrapped = value - (1 << 63) if value >= 1 << 62 else value
    return -wrapped if minus else wrapped


def parse(name: str, *, hvm: bool, checked: bool) -> Device | None:
    """Return the device that a name means in a VM of that kind; None if the name is invalid."""
    if (number := ocaml_int(name)) is not None:
        device = Device("ide" if hvm and number < 4 else "xen", number)
        if not checked or 0 <= number <= _LAST_DISK[device.bus]:
            return device
    return _parse_checked(name) if checked else _parse_lenient(name)


def possible(name: str, *, checked: bool) -> list[Device]:
    """Return all devices that a name may mean; two names clash if they share one of these."""
    readings = (parse(name, hvm=True, checked=checked), parse(name, hvm=False, checked=checked))
    return [device for device in readings if device is not None]


def is_valid(name: str, *, vbd_type: str, checked: bool) -> bool:
    """Return True if VBD.create accepts a userdevice.

    Numbers have no limit here, not even zero (trace 04#95-101).
    """
    if name == AUTODETECT:
        return True
    if checked:
        if parse(name, hvm=False, checked=True) is not None:
            return True
    elif match := re.match(r"(?:sd|xvd|hd)[a-p]|fd[ab]", name):
        rest = name[match.end() :]
        return rest == "" or ocaml_int(rest) is not None
    return vbd_type != "Floppy" and ocaml_int(name) is not None


def linux_name(device: Device) -> str:
    """Return the guest's name of the device, as in VBD.device: ``xvdb``, ``xvdaa``, ``xvdb1``."""
    partition = str(device.partition) if device.partition else ""
    return f"{_LINUX_PREFIX[device.bus]}{_letters(device.disk)}{partition}"


def candidates(*, vbd_type: str, hvm: bool, control_domain: bool) -> list[Device]:
    """Return the slots that a VM offers for disks or CDs, or (HVM only) for floppies."""
    if vbd_type == "Floppy":
        return [Device("floppy", number) for number in (0, 1)] if hvm else []
    last = 255 if control_domain and not hvm else 254
    return [Device("ide" if hvm and number < 4 else "xen", number) for number in range(last + 1)]


def _letters(disk: int) -> str:
    """Return a, b, ... z, aa, ab, ...; below 0 the result is not letters, because OCaml divides towards zero."""
    quotient = -(-disk // 26) if disk < 0 else disk // 26
    remainder = disk - quotient * 26
    high = "" if quotient == 0 else _letters(quotient - 1)
    return high + chr(remainder + ord("a"))


def _number(letters: str) -> int:
    value = 0
    for letter in letters:
        value = value * 26 + ord(letter) - ord("a") + 1
    return value - 1


def _parse_lenient(name: str) -> Device | None:
    for prefix, bus in _PREFIXES:
        if name.startswith(prefix):
            letters, rest = _span(name[len(prefix) :], r"[a-z]*")
            partition = 0 if rest == "" else ocaml_int(rest)
            return None if partition is None else Device(bus, _number(letters), partition)
    if name.startswith("d"):
        digits, rest = _span(name[1:], r"[0-9]*")
        if rest != "" and not rest.startswith("p"):
            return None
        disk = ocaml_int(digits)
        partition = 0 if rest == "" else ocaml_int(_span(rest[1:], r"[0-9]*")[0])
        return None if disk is None or partition is None else Device("xen", disk, partition)
    return None


def _parse_checked(name: str) -> Device | None:
    for prefix, bus in _PREFIXES:
        if name.startswith(prefix):
            match = re.fullmatch(r"([a-z]*)([0-9]*)", name[len(prefix) :])
            return Device(bus, _number(match[1]), int(match[2] or 0)) if match else None
    match = re.fullmatch(r"d([0-9]+)(?:p([0-9]+))?", name)
    return Device("xen", int(match[1]), int(match[2] or 0)) if match else None


def _span(text: str, pattern: str) -> tuple[str, str]:
    match = re.match(pattern, text)
    end = match.end() if match else 0
    return text[:end], text[end:]
