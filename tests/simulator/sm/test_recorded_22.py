"""Recorded: an NFS export as an SR, with errors, probes, sizes, a lost mount, nosubdir, a full disk."""

from recorded_files import (
    broken_vhd,
    files_are_as_seen,
    foreign_files,
    no_disk,
    no_file,
    unmounted,
    vhd_with_a_foreign_name,
)
from recorded_world import Script, Storage, looked_up, play


def arrange(storage: Storage) -> None:
    """Arrange the servers: on 127.0.0.2 only the NFS port answers; on 127.0.0.9 nothing does."""
    server = storage.world.shares.add_nfs("127.0.0.1")
    server.export("/export/a", size=510873600, used=40960)
    server.export("/export/small", size=14410752, used=2048, block=1024)
    server.export("/export/ro", size=510873600, is_read_only=True)
    storage.world.shares.add_nfs("127.0.0.2").has_rpcbind = False


def one_block_is_lost(storage: Storage) -> None:
    """Use one more block, for the tree of extents of one of the disks that fill the file system."""
    storage.world.shares.nfs[0].exports["/export/small"].filesystem.used += 1024


SCRIPT = Script(
    "22-nfs",
    start=arrange,
    storage={
        4: looked_up,  # what `arrange` sets up
        28: looked_up,  # directories
        53: files_are_as_seen("store"),
        73: files_are_as_seen("store"),
        81: files_are_as_seen("store"),
        82: foreign_files("store"),
        85: no_file("store", "not-a-uuid.raw"),
        88: broken_vhd("store"),
        91: vhd_with_a_foreign_name("store"),
        94: no_file("store", "not-a-uuid.vhd"),
        97: no_disk("store", "odd"),
        103: no_disk("store", "small"),
        111: looked_up,  # mount points
        127: unmounted("again"),
        148: files_are_as_seen("again"),
        151: looked_up,  # the same files
        155: looked_up,  # the directory of a nosubdir SR's disks
        172: one_block_is_lost,
        175: looked_up,  # df
    },
    unjudged={84: "which disks a failed scan had introduced depends on the order of a Python set"},
    same={"uuid1": "sr.uuid"},
)


def test_recording_22_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
