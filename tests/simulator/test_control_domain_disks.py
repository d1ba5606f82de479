"""A disk plugged into a control domain is a device below the directory that stands for its /dev."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from imagekit import GIB, MIB, Doors, doors
from storage_pool import refusal

from xenvol.simulator import Simulator


@pytest.fixture
def pool() -> Iterator[Doors]:
    with doors() as made:
        yield made


def slot(pool: Doors, vdi: str, *, host: int = 0, mode: str = "RW") -> str:
    dom0 = pool.xapi.db.row("host", pool.xapi.db.refs("host")[host])["control_domain"]
    with pool.xapi.xapi.lock:
        return pool.xapi.add_vbd(dom0, vdi, mode=mode, plugged=False)


def plug(pool: Doors, vbd: str) -> str:
    """Plug the VBD, and return its device."""
    pool.x.VBD.plug(vbd)
    return str(pool.x.VBD.get_device(vbd))


def devices(xapi: Simulator) -> list[str]:
    return [str(path.relative_to(xapi.dev)) for path in xapi.dev.rglob("*") if path.is_symlink()]


def test_it_has_the_bytes_of_the_disk_and_its_size(pool: Doors) -> None:
    vdi = pool.vdi()
    pool.put(vdi, b"from the door")
    device = pool.xapi.dev / plug(pool, slot(pool, vdi))
    with device.open("r+b") as opened:
        assert opened.seek(0, os.SEEK_END) == 4 * MIB
        opened.seek(0)
        assert opened.read(13) == b"from the door"
        opened.seek(MIB)
        opened.write(b"from the device")
    assert pool.get(vdi)[MIB : MIB + 16] == b"from the device\0"


def test_it_is_gone_after_an_unplug_and_comes_with_the_next_plug(pool: Doors) -> None:
    vbd = slot(pool, pool.vdi())
    for unplug in (pool.x.VBD.unplug, pool.x.VBD.unplug_force):
        device = plug(pool, vbd)
        assert devices(pool.xapi) == [device]
        unplug(vbd)
        assert devices(pool.xapi) == []


def test_it_stays_for_as_long_as_one_slot_of_the_control_domain_has_the_disk(pool: Doors) -> None:
    vdi = pool.vdi()
    first, second = slot(pool, vdi), slot(pool, vdi)
    device = plug(pool, first)
    assert plug(pool, second) == device
    pool.x.VBD.unplug(first)
    assert devices(pool.xapi) == [device]
    pool.put(vdi, b"and a transfer comes and goes")
    assert devices(pool.xapi) == [device]
    pool.x.VBD.unplug(second)
    assert devices(pool.xapi) == []


def test_each_host_has_its_own() -> None:
    with doors(hosts=2) as pool:
        vdi = pool.vdi()
        device = plug(pool, slot(pool, vdi, host=1))
        assert devices(pool.xapi) == []
        assert (pool.xapi.dev_of("host2") / device).stat().st_size == 4 * MIB
        pool.x.host.get_all()


def test_a_disk_on_lvm_is_one_too(pool: Doors) -> None:
    with pool.xapi.xapi.lock:
        pool.xapi.storage.host("host1").mounts.devices["/dev/sdb"] = pool.xapi.storage.shares.new_device(GIB)
        config = {"device": "/dev/sdb"}
        lvm = pool.xapi.add_sr("lvm", type="lvm", device_config=config, create=True, shared=False)
    vdi = pool.vdi(8 * MIB, sr=lvm)
    (pool.xapi.dev / plug(pool, slot(pool, vdi))).write_bytes(b"x" * (8 * MIB))
    assert pool.get(vdi) == b"x" * (8 * MIB)


@pytest.mark.parametrize("sr_type", ["dummy", "flaky"])
def test_there_is_none_of_a_disk_that_cannot_be_plugged_there(pool: Doors, sr_type: str) -> None:
    with pool.xapi.xapi.lock:
        sr = pool.xapi.add_sr("none", type=sr_type)
    vbd = slot(pool, pool.vdi(sr=sr))
    assert refusal(pool.x.VBD.plug, vbd)[0] == "INTERNAL_ERROR"
    assert devices(pool.xapi) == []


def test_after_a_reset_there_are_none(pool: Doors) -> None:
    plug(pool, slot(pool, pool.vdi()))
    before = pool.xapi.dev
    pool.xapi.reset()
    assert devices(pool.xapi) == []
    assert not before.exists()
