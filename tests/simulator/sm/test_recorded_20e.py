"""Recorded: two SRs on one target, one volume in two targets, a session that stays open, discovery CHAP, an ACL."""

from recorded_san import GIB, VOLUME_A, VOLUME_C, arrange, lun, no_lun, sessions_are_as_seen, together
from recorded_world import Script, Storage, play
from test_recorded_20d import (
    discovery_is_free,
    discovery_needs_chap,
    target_knows_everybody,
    target_knows_others_only,
)


def control_domain_is_cleaned(storage: Storage) -> None:
    initiator = storage.host.initiator
    initiator.logout(VOLUME_A)
    initiator.forget(VOLUME_A)
    initiator.references.clear()


SCRIPT = Script(
    "20e-iscsi-two-srs",
    start=arrange,
    storage={
        24: lun(3, GIB),
        29: sessions_are_as_seen,
        31: sessions_are_as_seen,
        37: sessions_are_as_seen,
        47: lun(2, 2 * GIB, digit=1, target=VOLUME_C),
        55: lun(6, GIB, digit=0),
        60: no_lun(6),  # only the note of #61 says it
        64: sessions_are_as_seen,
        68: sessions_are_as_seen,
        71: sessions_are_as_seen,
        77: sessions_are_as_seen,
        78: together(control_domain_is_cleaned, discovery_needs_chap),
        88: together(discovery_is_free, target_knows_others_only),
        92: target_knows_everybody,
        100: sessions_are_as_seen,
    },
    unjudged={15: "which of the LUNs that SR 1 has is named is chance: the driver takes them out of a set"},
)


def test_recording_20e_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
