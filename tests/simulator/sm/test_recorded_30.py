"""Recorded answers of the image handlers: heads, pages, second answers in a body, and the task's outcome."""

from recorded_http import Upload, exchange
from recorded_world import Script, Storage, looked_up, play

UPLOAD = Upload()


def arrange(storage: Storage) -> None:
    storage.host.mounts.make_directory("/srv/images", size=1 << 40)
    dead = "OpaqueRef:deadbeef-0000-0000-0000-000000000000"
    assert storage.symbols.match("$ref4", dead)


def sr_uuid_was_asked_for(storage: Storage) -> None:
    """Read the SR's uuid, as a call did that was not recorded."""
    sr = storage.symbols.resolve("$sr")
    assert storage.symbols.match("$sr.uuid", storage.simulator.db.row("SR", sr)["uuid"])


RAW = {1: {"sm_config": {"type": "raw"}}}
SCRIPT = Script(
    "30-http-image",
    start=arrange,
    storage={
        4: looked_up,
        14: looked_up,  # test_images.py compares the received data with the sent data
        357: looked_up,
    },
    meanwhile={72: sr_uuid_was_asked_for, 357: UPLOAD.begin, 367: UPLOAD.end},
    # the recorded SR type was made for the recording: raw files
    params={5: {2: {"location": "/srv/images"}, 6: "file"}, 6: RAW, 349: RAW},
    free={358: ("sm_config",)},
    http=exchange,
    unjudged={295: "the recorded server had a stand-in for vhd-tool, which sent the disk itself"},
    same={"uuid1": "vdi_a.uuid", "uuid22": "sr.uuid"},
)


def test_recording_30_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
