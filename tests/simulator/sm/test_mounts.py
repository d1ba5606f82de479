"""A host's mounts, and the bare directory that shows after an unmount."""

import errno

import pytest

from xenvol.simulator.sm.filesystem import FileSystem
from xenvol.simulator.sm.mounts import HostMounts

POINT = "/run/sr-mount/11111111-0000-4000-8000-000000000001"


@pytest.fixture
def mounts() -> HostMounts:
    return HostMounts()


def share() -> FileSystem:
    filesystem = FileSystem(1 << 30)
    filesystem.root.add_file("remote")
    return filesystem


def test_a_mount_hides_what_its_mount_point_holds(mounts: HostMounts) -> None:
    mounts.make_directory(POINT).add_file("local")
    mounts.mount(POINT, share().root)
    assert mounts.find(f"{POINT}/local") is None
    assert mounts.find(f"{POINT}/remote") is not None
    mounts.unmount(POINT)
    assert mounts.find(f"{POINT}/local") is not None
    assert mounts.find(f"{POINT}/remote") is None


def test_a_mount_point_with_something_in_it_is_not_removed(mounts: HostMounts) -> None:
    mounts.mount(POINT, share().root)
    mounts.unmount(POINT)
    mounts.make_directory(POINT).add_file("lost")
    with pytest.raises(OSError, match="not empty") as refusal:
        mounts.remove_mount_point(POINT)
    assert refusal.value.errno == errno.ENOTEMPTY


def test_a_link_leads_into_another_mount_and_a_lost_mount_leaves_it_dangling(mounts: HostMounts) -> None:
    filesystem = share()
    filesystem.root.make_directory("sr").add_file("disk")
    mounts.mount("/run/sr-mount/SMB/server/x", filesystem.root, is_read_only=True)
    mounts.link(POINT, "/run/sr-mount/SMB/server/x/sr")
    assert mounts.find(f"{POINT}/disk") is not None
    assert mounts.is_read_only(POINT)
    mounts.lose_mount(POINT.rpartition("/")[2])
    assert mounts.find(POINT) is None


def test_the_innermost_mount_is_the_one_that_counts(mounts: HostMounts) -> None:
    outer, inner = share(), FileSystem(1 << 30)
    inner.root.add_file("inside")
    mounts.mount("/srv", outer.root)
    mounts.mount("/srv/deep", inner.root)
    assert mounts.find("/srv/deep/inside") is not None
    assert mounts.find("/srv/remote") is not None
    assert mounts.find("/srvother") is None


def test_a_directory_of_a_given_size_is_a_file_system_of_its_own(mounts: HostMounts) -> None:
    directory = mounts.make_directory("/srv/store", size=1 << 20)
    assert directory.filesystem.size == 1 << 20
    assert mounts.directory("/srv/store") is directory
    assert list(mounts.own_file_systems()) == ["/srv/store"]
