"""The storage network of the recordings 20a to 20e, and how their notes change it."""

from __future__ import annotations

import re

from recorded_world import Step, Storage

GIB = 1 << 30
VOLUME_A = "iqn.2010-10.org.openstack:volume-a"
VOLUME_C = "iqn.2010-10.org.openstack:volume-c"
VOLUME_CHAP = "iqn.2010-10.org.openstack:volume-chap"
INITIATOR = "iqn.2024-01.test:host1"


def scsi_id(letter: str, digit: int) -> str:
    return f"36001405{letter * 8}{str(digit) * 17}"


def arrange(storage: Storage) -> None:
    """Arrange what trace sm/20a#4 describes, and every file of the series has."""
    storage.world.san.add_portal("127.0.0.1:3260", VOLUME_A, VOLUME_CHAP)
    storage.world.san.add_portal("127.0.0.2:3260", VOLUME_C)
    storage.world.san.add_portal("127.0.0.3:3260")
    san = storage.world.san
    san.targets[VOLUME_CHAP].chap = ("user1", "sekret12chap")
    for number, size in ((0, GIB), (1, 2 * GIB), (5, 5368710144)):
        san.add_lun(VOLUME_A, number, size, scsi_id=scsi_id("a", number))
    san.add_lun(VOLUME_CHAP, 1, GIB, scsi_id=scsi_id("c", 1))
    san.add_lun(VOLUME_C, 1, 3 * GIB, scsi_id=scsi_id("d", 1))


def lun(
    number: int, size: int, *, letter: str = "a", digit: int | None = None, target: str = VOLUME_A
) -> Step:
    """Show that LUN in the target from now on, replacing one of that number."""

    def step(storage: Storage) -> None:
        named = scsi_id(letter, number if digit is None else digit)
        storage.world.san.add_lun(target, number, size, scsi_id=named)

    return step


def no_lun(*numbers: int, target: str = VOLUME_A) -> Step:
    def step(storage: Storage) -> None:
        for number in numbers:
            storage.world.san.remove_lun(target, number)

    return step


def together(*steps: Step) -> Step:
    def step(storage: Storage) -> None:
        for one in steps:
            one(storage)

    return step


def sessions_are_as_seen(storage: Storage) -> None:
    """Give the control domain the recorded sessions, and each SR the target that it used."""
    text = "\n".join(value for value in storage.seen.values() if isinstance(value, str))
    sessions = re.findall(r"^tcp: \[\d+\] (\S+),1 (\S+)", text, re.MULTILINE)
    initiator = storage.host.initiator
    assert [(session.portal, session.iqn) for session in initiator.sessions] == sessions, initiator
    if users := re.findall(r"^([0-9a-f]{8}-[0-9a-f-]{27})$", text, re.MULTILINE):
        listed = [user for users in initiator.references.values() for user in users]
        assert set(users) <= set(listed), listed
