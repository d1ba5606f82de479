"""Recorded: a local directory as an SR, with sizes, snapshots and clones, foreign files, a lost mount."""

from recorded_files import (
    broken_vhd,
    files_are_as_seen,
    foreign_files,
    no_disk,
    no_file,
    others_store,
    unmounted,
    vhd_with_a_foreign_name,
)
from recorded_world import Script, Storage, looked_up, play


def arrange(storage: Storage) -> None:
    storage.host.mounts.make_directory("/srv/file1", size=270553174016, used=31156850688 - 4096)


SCRIPT = Script(
    "21-file",
    start=arrange,
    storage={
        14: looked_up,  # the bare directories
        34: others_store("/srv/file1", 16384),
        37: files_are_as_seen("store"),
        57: files_are_as_seen("store"),
        58: others_store("/srv/file1", -3809280),
        65: files_are_as_seen("store"),
        66: foreign_files("store"),
        69: no_file("store", "not-a-uuid.raw"),
        72: broken_vhd("store"),
        75: vhd_with_a_foreign_name("store"),
        78: no_file("store", "not-a-uuid.vhd"),
        81: no_disk("store", "odd"),
        87: no_disk("store", "small"),
        95: looked_up,  # mount points
        100: others_store("/srv/file1", 5660672),
        111: unmounted("again"),
        132: files_are_as_seen("again"),
        135: looked_up,  # the same files
    },
    unjudged={68: "which disks a failed scan had introduced depends on the order of a Python set"},
    same={"uuid1": "sr.uuid"},
)


def test_recording_21_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
