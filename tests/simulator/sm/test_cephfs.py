"""How the CephFS driver differs from the other linked shares, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.cephfs import CephFSSR
from xenvol.simulator.sm.world import World

GIB = 1 << 30
OPTIONS = "name=admin,secretfile=/etc/ceph/admin.secret"


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    cluster = world.shares.add_cephfs("10.0.0.1", "mon2", size=GIB)
    cluster.clients.append("admin")
    cluster.filesystem.root.make_directory("below")
    yield Bench(world, CephFSSR, {"server": "10.0.0.1", "serverpath": "/", "options": OPTIONS})
    world.close()


@pytest.mark.parametrize("server", ["10.0.0.1", "mon2", "no.such.host.invalid,mon2", "10.9.9.9,10.0.0.1"])
def test_one_monitor_that_answers_is_enough(bench: Bench, server: str) -> None:
    bench.config["server"] = server
    bench.create()
    assert bench.mounts.is_mounted(f"/run/sr-mount/CephFS/{SR_UUID}")


def test_the_sr_may_lie_in_a_directory_of_the_file_system(bench: Bench) -> None:
    bench.config["serverpath"] = "/below"
    bench.create()
    assert bench.world.shares.cephfs[0].filesystem.root.directory(f"below/{SR_UUID}") is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("options", "name=stranger"),
        ("options", ""),
        ("serverport", "3300"),
        ("serverport", "abc"),
        ("serverpath", "/nothing"),
        ("server", "no.such.host.invalid"),
    ],
)
def test_whatever_is_wrong_the_mount_fails(bench: Bench, key: str, value: str) -> None:
    bench.config[key] = value
    assert fault(bench.driver().create, 0) == 111
    assert fault(bench.driver().attach) == 12


def test_a_cluster_that_is_down_is_a_mount_that_fails(bench: Bench) -> None:
    bench.world.shares.cephfs[0].is_down = True
    assert fault(bench.driver().attach) == 12


@pytest.mark.parametrize(("key", "number"), [("server", 102), ("serverpath", 1200)])
def test_a_missing_key_is_refused_or_crashes_the_driver(bench: Bench, key: str, number: int) -> None:
    del bench.config[key]
    assert fault(bench.driver) == number
