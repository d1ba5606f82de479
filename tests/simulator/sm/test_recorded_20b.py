"""Recorded VDIs when LUNs are added, grow, are removed and change, and when a session is lost."""

from recorded_san import GIB, VOLUME_A, arrange, lun, no_lun, sessions_are_as_seen, together
from recorded_world import Script, Storage, looked_up, play


def an_earlier_run_left_a_reference(storage: Storage) -> None:
    """Leave a reference of an earlier run:

    PBD.unplug logs out nowhere in the file (#72 took 0.1 s, #73 5 s).
    """
    storage.host.initiator.references[VOLUME_A] = ["6f8a0b1c-0000-4000-8000-000000000000"]


def session_is_lost(storage: Storage) -> None:
    storage.host.initiator.logout(VOLUME_A)


SCRIPT = Script(
    "20b-iscsi-lifecycle",
    start=together(arrange, an_earlier_run_left_a_reference),
    storage={
        9: lun(2, 4 * GIB),
        13: lun(1, 3 * GIB),
        18: no_lun(5),
        20: looked_up,  # commands
        22: lun(2, GIB, letter="b"),
        25: looked_up,  # commands
        30: lun(7, GIB),
        71: no_lun(0),
        75: no_lun(1, 2, 7),
        82: lun(1, GIB),
        85: session_is_lost,
        89: sessions_are_as_seen,
    },
)


def test_recording_20b_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
