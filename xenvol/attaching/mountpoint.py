"""A disk's position in a VM, both ways: ``/dev/xvdb`` as callers say it ⇄ userdevice ``"1"`` as xapi says it.

Positions are 0 to 254 (docs/background/xapi.md 3.1); what was asked for is given or refused, never moved. The prefix
differs from one Linux driver to another (xvd, vd, sd, hd), the letters are the position: a, b, … z, aa, … iu.
Position 3 is by convention the CD drive's: an explicit wish for it is honoured, auto goes around it.
"""

import re
import sys
from collections.abc import Collection

from xenvol.errors import InvalidMountpoint, MountpointInUse, NoFreeMountpoint

LAST_POSITION = 254
CD_POSITION = 3

_AUTO = ("auto", "autodetect")  # the second is xapi's own word for it
_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
_NAME = re.compile(r"(?:/dev/)?(?:xvd|vd|sd|hd)(?P<letters>[a-z]+)(?P<partition>[0-9]*)")
_XAPI_NAME = re.compile(r"(?:xvd|sd|hd)(?P<letters>[a-z]+)[0-9]*|d?(?P<number>[0-9]{1,9})(?:p[0-9]+)?")


def userdevice_of(mountpoint: str | int | None) -> str | None:
    """The userdevice that a mountpoint asks for; None when it leaves the choice to us (auto, or None).

    Raises InvalidMountpoint.
    """
    if mountpoint is None or mountpoint in _AUTO:
        return None
    if isinstance(mountpoint, bool) or not isinstance(mountpoint, str | int):
        raise InvalidMountpoint(mountpoint)
    text = str(mountpoint)
    if _NUMBER.fullmatch(text):
        number = int(text)
    else:
        name = _NAME.fullmatch(text)
        if name is None:
            raise InvalidMountpoint(mountpoint)
        if name["partition"]:
            disk = text.removesuffix(name["partition"])
            raise InvalidMountpoint(mountpoint, problem=f"is a partition, and a volume a whole disk: {disk}")
        number = _number_of(name["letters"])
    if number > LAST_POSITION:
        raise InvalidMountpoint(mountpoint, problem="is beyond the last position, which is 254 or xvdiu")
    return str(number)


def name_of(userdevice: str | int) -> str:
    """The name that a PV guest gives a position: xvdb for "1". Raises InvalidMountpoint outside 0..254."""
    text = str(userdevice)
    if isinstance(userdevice, bool) or not _NUMBER.fullmatch(text) or int(text) > LAST_POSITION:
        raise InvalidMountpoint(userdevice, problem="is not a userdevice")
    letters, rest = "", int(text) + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"xvd{letters}"


def position_of(userdevice: str) -> str | None:
    """The position, in decimal, that any of xapi's spellings stands for (xvdb, hdb, 01); None where it is none.

    Other tools give a VBD what they like: xapi keeps it as it is spelled, or even beyond the last position
    (docs/background/recordings.md, VBD.create).
    """
    return next(map(str, _positions([userdevice])), None)


def shown_name(userdevice: str) -> str:
    """The name of a VBD's position for messages: xvdb for "1", and what is no position as it is spelled."""
    position = position_of(userdevice)
    return userdevice if position is None or int(position) > LAST_POSITION else name_of(position)


def order_of(userdevice: str) -> tuple[int, str]:
    """What VBDs are sorted by: their positions, and last those that have none."""
    position = position_of(userdevice)
    return (sys.maxsize if position is None else int(position), userdevice)


def choose(mountpoint: str | int | None, taken: Collection[str]) -> str:
    """Return the userdevice to create a VBD with.

    `taken`: the userdevice and device of the VM's VBDs, in any spelling of xapi's, empty ones included.
    Raises InvalidMountpoint, MountpointInUse (the named position is taken) or NoFreeMountpoint (auto).
    """
    used = _positions(taken)
    free = [number for number in range(LAST_POSITION + 1) if number not in used]
    wish = userdevice_of(mountpoint)
    if wish is None:
        for number in free:
            if number != CD_POSITION:
                return str(number)
        raise NoFreeMountpoint(taken=len([number for number in used if number <= LAST_POSITION]))
    if int(wish) not in free:
        raise MountpointInUse(mountpoint, free=[name_of(number) for number in free])
    return wish


def _positions(userdevices: Collection[str]) -> set[int]:
    """The positions that xapi's spellings stand for; floppies (fda) and VBDs without a position have none.

    hda, xvda and 0 are one position to xapi (docs/background/recordings.md, VBD.create); a partition takes its whole
    disk.
    """
    names = filter(None, map(_XAPI_NAME.fullmatch, userdevices))
    return {int(name["number"]) if name["number"] else _number_of(name["letters"]) for name in names}


def _number_of(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1
