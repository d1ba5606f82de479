"""Translate a disk's position in a VM: ``/dev/xvdb``, as the caller says it ⇄ userdevice ``"1"``, as xapi says it.

Positions are 0 to 254 (docs/background/xapi.md 3.1); a requested position is given or refused, never replaced.
The prefix depends on the guest's driver (xvd, vd, sd, hd). The letters are the position: a, b, … z, aa, … iu.
Position 3 is by convention the CD drive's: auto skips it, and a caller that names it gets it.
"""

import re
import sys
from collections.abc import Collection

from xenvol.errors import InvalidMountpoint, MountpointInUse, NoFreeMountpoint

LAST_POSITION = 254
CD_POSITION = 3

_AUTO = ("auto", "autodetect")  # the second is xapi's own word
_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
_NAME = re.compile(r"(?:/dev/)?(?:xvd|vd|sd|hd)(?P<letters>[a-z]+)(?P<partition>[0-9]*)")
_XAPI_NAME = re.compile(r"(?:xvd|sd|hd)(?P<letters>[a-z]+)[0-9]*|d?(?P<number>[0-9]{1,9})(?:p[0-9]+)?")


def userdevice_of(mountpoint: str | int | None) -> str | None:
    """Return the userdevice of a mountpoint, or None if xenvol chooses (auto, or None). Raises InvalidMountpoint."""
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
            raise InvalidMountpoint(mountpoint, problem=f"is a partition; name the whole disk: {disk}")
        number = _number_of(name["letters"])
    if number > LAST_POSITION:
        raise InvalidMountpoint(mountpoint, problem="is beyond the last position, which is 254 or xvdiu")
    return str(number)


def name_of(userdevice: str | int) -> str:
    """Return the name that a PV guest gives a position: xvdb for "1". Raises InvalidMountpoint outside 0..254."""
    text = str(userdevice)
    if isinstance(userdevice, bool) or not _NUMBER.fullmatch(text) or int(text) > LAST_POSITION:
        raise InvalidMountpoint(userdevice, problem="is not a userdevice")
    letters, rest = "", int(text) + 1
    while rest:
        rest, digit = divmod(rest - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"xvd{letters}"


def position_of(userdevice: str) -> str | None:
    """Return the position, in decimal, of any of xapi's spellings (xvdb, hdb, 01), or None if it is no position.

    xapi keeps what another tool gave a VBD as it is spelled, even a number beyond the last position
    (docs/background/recordings.md, VBD.create).
    """
    return next(map(str, _positions([userdevice])), None)


def shown_name(userdevice: str) -> str:
    """Return a VBD's position for messages: xvdb for "1". A userdevice that is no position is returned as it is."""
    position = position_of(userdevice)
    return userdevice if position is None or int(position) > LAST_POSITION else name_of(position)


def order_of(userdevice: str) -> tuple[int, str]:
    """Return a key that sorts VBDs by position, those without a position last."""
    position = position_of(userdevice)
    return (sys.maxsize if position is None else int(position), userdevice)


def choose(mountpoint: str | int | None, taken: Collection[str]) -> str:
    """Return the userdevice to create a VBD with.

    `taken`: the userdevice and device of the VM's VBDs, in any spelling of xapi's, empty ones included.
    Raises InvalidMountpoint, MountpointInUse (the named position is taken) or NoFreeMountpoint (auto).
    """
    used = _positions(taken)
    free = [number for number in range(LAST_POSITION + 1) if number not in used]
    userdevice = userdevice_of(mountpoint)
    if userdevice is None:
        for number in free:
            if number != CD_POSITION:
                return str(number)
        raise NoFreeMountpoint(taken=len([number for number in used if number <= LAST_POSITION]))
    if int(userdevice) not in free:
        raise MountpointInUse(mountpoint, free=[name_of(number) for number in free])
    return userdevice


def _positions(userdevices: Collection[str]) -> set[int]:
    """Return the positions that xapi's spellings mean. Floppies (fda) and VBDs without a position have none.

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
