"""A directory of devices, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import Bench, fault

from xenvol.simulator.sm.base import VDISpec
from xenvol.simulator.sm.udev import UdevSR
from xenvol.simulator.sm.world import World

GIB = 1 << 30
DEVICE = "/dev/xapi/cd/sr0"
UUID = "33333333-0000-4000-8000-000000000001"


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, UdevSR, {"location": "/dev/xapi/cd"})
    made.mounts.devices[DEVICE] = world.shares.new_device(GIB)
    made.create()
    yield made
    world.close()


def test_a_device_keeps_its_row_as_long_as_it_is_plugged_in(bench: Bench) -> None:
    (first,) = bench.driver().scan()
    (second,) = bench.driver().scan()
    assert first.uuid == second.uuid
    assert (first.location, first.virtual_size, first.read_only) == (DEVICE, GIB, False)
    bench.mounts.devices.clear()
    assert bench.driver().scan() == []


def test_only_devices_right_below_the_location_count(bench: Bench) -> None:
    bench.mounts.devices["/dev/xapi/cd/deeper/sr1"] = bench.world.shares.new_device(GIB)
    bench.mounts.devices["/dev/xapi/cdx"] = bench.world.shares.new_device(GIB)
    assert [disk.location for disk in bench.driver().scan()] == [DEVICE]


def test_a_device_that_changes_keeps_the_name_that_a_client_gave_it(bench: Bench) -> None:
    (disk,) = bench.driver().scan()
    bench.port.rows[disk.uuid]["name_label"] = "mine"
    bench.mounts.devices[DEVICE].resize(2 * GIB)
    bench.driver().scan()
    row = bench.port.rows[disk.uuid]
    assert (row["name_label"], row["virtual_size"]) == ("mine", 2 * GIB)


def test_the_devices_of_a_cd_sr_are_read_only(bench: Bench) -> None:
    bench.port.sr["sm_config"] = {"type": "cd"}
    (disk,) = bench.driver().scan()
    assert disk.read_only


def test_a_device_is_introduced_by_its_path_under_the_uuid_that_was_asked_for(bench: Bench) -> None:
    info = bench.driver().vdi_introduce(UUID, VDISpec(0, name_label="mine"), DEVICE)
    assert (info.uuid, info.virtual_size) == (UUID, GIB)
    assert bench.port.rows[UUID]["name_label"] == "mine"
    assert bench.port.sr["physical_size"] == GIB


def test_a_device_that_is_gone_cannot_be_used(bench: Bench) -> None:
    (disk,) = bench.driver().scan()
    bench.driver().vdi_attach(disk.uuid, True)
    assert bench.driver().vdi_file(disk.uuid).stat().st_size == GIB
    bench.mounts.devices.clear()
    assert fault(bench.driver().vdi_attach, disk.uuid, True) == 46
