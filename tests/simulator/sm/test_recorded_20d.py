"""Recorded refusals of PBD.plug, secrets that CHAP passwords leave, and SR.create."""

from recorded_san import VOLUME_A, arrange, scsi_id, sessions_are_as_seen, together
from recorded_world import Script, Storage, looked_up, play, pool_secret_is, vdis_are


def discovery_needs_chap(storage: Storage) -> None:
    storage.world.san.portals["127.0.0.1:3260"].discovery_chap = ("duser", "dpass12")


def discovery_is_free(storage: Storage) -> None:
    storage.world.san.portals["127.0.0.1:3260"].discovery_chap = None


def target_knows_others_only(storage: Storage) -> None:
    storage.world.san.targets[VOLUME_A].initiators = {"iqn.2024-01.test:another"}


def target_knows_everybody(storage: Storage) -> None:
    storage.world.san.targets[VOLUME_A].initiators = None


SCRIPT = Script(
    "20d-iscsi-failures-chap",
    start=together(arrange, pool_secret_is("uuid5")),
    storage={
        125: looked_up,  # node records
        126: looked_up,  # a log file
        150: discovery_needs_chap,
        165: discovery_is_free,
        166: target_knows_others_only,
        171: target_knows_everybody,
        183: sessions_are_as_seen,
        188: vdis_are(ref13=scsi_id("a", 0), ref14=scsi_id("a", 1), ref15=scsi_id("a", 5)),
        196: sessions_are_as_seen,
    },
)


def test_recording_20d_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
