"""Recorded: sizes of disks in LVM and ext SRs on a local disk; resizes, snapshots, clones and reattaching of ext."""

from recorded_world import Script, looked_up, play
from test_recorded_23 import arrange, wiped

SCRIPT = Script(
    "24-lvm-ext",
    start=arrange,
    storage={5: looked_up, 11: looked_up, 27: looked_up, 54: wiped, 60: looked_up, 76: looked_up},
    same={"uuid1": "lvm.uuid", "uuid3": "ext.uuid"},
)


def test_recording_24_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
