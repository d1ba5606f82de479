"""How the driver of gluster volumes differs from the other linked shares, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.glusterfs import GlusterFSSR
from xenvol.simulator.sm.world import World

GIB = 1 << 30


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    world.shares.add_gluster("gv0", "gl1", "gl2", size=GIB)
    yield Bench(world, GlusterFSSR, {"server": "gl1:/gv0"})
    world.close()


@pytest.mark.parametrize("server", ["gl1:/gv0", "gl1:gv0", "gl2:/gv0"])
def test_any_server_of_the_pool_names_the_volume(bench: Bench, server: str) -> None:
    bench.config["server"] = server
    bench.create()
    assert bench.mounts.is_mounted(f"/run/sr-mount/GlusterFS/{server[:3]}/{SR_UUID}")


@pytest.mark.parametrize("backups", ["gl9:gl2", "gl2"])
def test_backup_servers_are_asked_one_after_the_other(bench: Bench, backups: str) -> None:
    bench.world.shares.gluster[0].down.add("gl1")
    assert fault(bench.driver().probe) == 1200
    bench.config["backupservers"] = backups
    bench.create()
    bench.world.shares.gluster[0].down.add("gl2")
    assert fault(bench.driver().probe) == 1200


def test_without_a_server_it_is_102(bench: Bench) -> None:
    del bench.config["server"]
    assert fault(bench.driver) == 102


def test_a_uuid_that_is_not_on_the_volume_is_attached_and_has_no_file_system(bench: Bench) -> None:
    """Unlike smb, nothing tests writing: the link dangles, and the first access to it crashes."""
    bench.driver().attach()
    assert fault(bench.driver().scan) == 47
    assert fault(bench.driver().update) == 1200


def test_a_volume_that_cannot_be_unmounted_crashes_the_driver(bench: Bench) -> None:
    bench.create()
    bench.mounts.local.root.make_directory(f"/run/sr-mount/GlusterFS/gl1/{SR_UUID}/lost")
    assert fault(bench.driver().detach) == 1200


def test_no_note_about_hard_links_is_left_on_the_volume(bench: Bench) -> None:
    bench.create()
    assert list(bench.mounts.directory(f"/run/sr-mount/{SR_UUID}")) == []
