"""Recorded: what drivers of local disks, adapters, devices, images and SMB shares find and refuse; LVM's sizes."""

from collections.abc import Mapping
from typing import Any

from recorded_san import arrange as arrange_san
from recorded_world import Script, Storage, looked_up, play

GIB = 1 << 30
TYPES = "smb iso lvm nfs udev lvmoiscsi ext file iscsi hba lvmohba"
WORLD: Mapping[str, Any] = {"pool": {"sm_types": TYPES.split()}, "hosts": [{"name": "xapihost"}]}


def arrange(storage: Storage) -> None:
    """Arrange trace sm/23#5, the NFS server of sm/22, the targets of sm/20a; without mount.cifs for SMB shares."""
    arrange_san(storage)
    server = storage.world.shares.add_nfs("127.0.0.1")
    server.export("/export/a", size=510873600, used=40960)
    mounts = storage.host.mounts
    mounts.make_directory("/srv")
    mounts.lacks.add("mount.cifs")
    for path in ("/dev/loop50", "/dev/loop51"):
        mounts.devices[path] = storage.world.shares.new_device(GIB)


def wiped(storage: Storage) -> None:
    storage.host.mounts.devices["/dev/loop50"].content = None


SCRIPT = Script(
    "23-block-probe",
    start=arrange,
    storage={5: looked_up, 94: looked_up, 110: looked_up, 135: wiped, 141: looked_up},
    same={"uuid1": "lvm.uuid", "uuid3": "ext.uuid"},
    world=WORLD,
)


def test_recording_23_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
