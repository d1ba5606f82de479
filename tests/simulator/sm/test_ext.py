"""A file system on local disks, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.base import VDISpec
from xenvol.simulator.sm.ext import EXTSR
from xenvol.simulator.sm.world import World

GIB = 1 << 30
POINT = f"/run/sr-mount/{SR_UUID}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, EXTSR, {"device": "/dev/sdb,/dev/sdc"})
    for path, serial in (("/dev/sdb", "s1"), ("/dev/sdc", "")):
        made.mounts.devices[path] = world.shares.new_device(GIB, serial=serial)
    made.create()
    yield made
    world.close()


def test_two_disks_are_one_file_system_and_both_are_found(bench: Bench) -> None:
    assert bench.mounts.directory(POINT).filesystem.size > 1.8 * GIB
    assert "<Devlist>/dev/sdb,/dev/sdc</Devlist>" in bench.driver().probe()
    assert bench.port.sr["sm_config"] == {"devserial": "scsi-s1"}


def test_a_disk_that_another_sr_wrote_down_is_in_use(bench: Bench) -> None:
    bench.port.other.append({"sm_config": {"devserial": "scsi-s0,scsi-s1"}})
    assert fault(bench.driver().create, 0) == 16


def test_disks_survive_an_unplug_and_another_path(bench: Bench) -> None:
    """LVM finds its groups by name, on any disk."""
    vdi = bench.driver().vdi_create(VDISpec(GIB)).uuid
    bench.driver().detach()
    devices = bench.mounts.devices
    devices["/dev/sdx"] = devices.pop("/dev/sdb")
    bench.driver().attach()
    assert [disk.uuid for disk in bench.driver().scan()] == [vdi]


def test_a_device_that_is_no_disk_cannot_be_made_one(bench: Bench) -> None:
    bench.config["device"] = "/dev/null"
    assert fault(bench.driver().create, 0) == 77


def test_without_its_key_a_plug_mounts_and_then_crashes(bench: Bench) -> None:
    """sm/EXTSR.py, attach: the key is looked up when the file system is mounted."""
    bench.driver().detach()
    del bench.config["device"]
    assert fault(bench.driver().attach) == 1200
    assert bench.mounts.is_mounted(POINT)


def test_erasing_asks_for_the_sr_on_every_disk(bench: Bench) -> None:
    bench.mounts.devices["/dev/sdc"].content = None
    assert fault(bench.driver().delete) == 92
