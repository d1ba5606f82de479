"""What a pool removes by itself: rows whose other end is gone.

docs/background/xapi.md 2.4; docs/background/recordings.md, finding 8 (storage).
"""

from __future__ import annotations

import threading

import pytest
from vmkit import NULL, Client, client, disk, sr, vbd_record, wait_until

from xenvol.simulator import Simulator
from xenvol.simulator.rules import gc

__all__ = ["client", "disk", "sr"]  # fixtures


def lose(xapi: Simulator, cls: str, ref: str) -> None:
    with xapi.xapi.lock:
        xapi.xapi.db.delete(cls, ref)


def test_a_vbd_whose_disk_is_lost_goes_and_a_drive_is_emptied(
    xapi: Simulator, client: Client, disk: str
) -> None:
    vm = xapi.add_vm(disks=[disk])
    (vbd,) = client("VM.get_VBDs", vm)
    drive = client("VBD.create", vbd_record(vm, disk, type="CD", mode="RO"))
    lose(xapi, "VDI", disk)
    assert set(gc.collect(xapi.xapi)) == {vbd, drive}
    assert client("VM.get_VBDs", vm) == [drive]
    assert (client("VBD.get_empty", drive), client("VBD.get_VDI", drive)) == (True, NULL)


def test_what_hangs_on_a_lost_sr_goes(xapi: Simulator, client: Client, sr: str, disk: str) -> None:
    (pbd,) = client("SR.get_PBDs", sr)
    lose(xapi, "SR", sr)
    gc.collect(xapi.xapi)
    assert client.refused("VDI.get_uuid", disk) == ["HANDLE_INVALID", "VDI", disk]
    assert client.refused("PBD.get_uuid", pbd) == ["HANDLE_INVALID", "PBD", pbd]


def test_the_slots_of_a_lost_vm_go(xapi: Simulator, client: Client, disk: str) -> None:
    vm = xapi.add_vm(power_state="Halted", disks=[disk])
    (vbd,) = client("VM.get_VBDs", vm)
    lose(xapi, "VM", vm)
    gc.collect(xapi.xapi)
    assert client.refused("VBD.get_uuid", vbd)[0] == "HANDLE_INVALID"


def test_a_sound_pool_is_left_alone(xapi: Simulator, client: Client, disk: str) -> None:
    xapi.add_vm(disks=[disk])
    assert gc.collect(xapi.xapi) == []


def test_the_collector_works_until_it_is_stopped(xapi: Simulator, client: Client, disk: str) -> None:
    collector = gc.Collector(xapi.xapi, 0.01)
    assert repr(collector) == "<Collector stopped, every 0.01 s>"
    vm = xapi.add_vm(power_state="Halted", disks=[disk])
    lose(xapi, "VDI", disk)
    with collector:
        assert "running" in repr(collector)
        wait_until(lambda: client("VM.get_VBDs", vm) == [])
    collector.stop()
    assert "stopped" in repr(collector)


def test_a_pool_that_is_started_tidies_up_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc.Collector, "_run", lambda collector, stopped: seen.append((collector, stopped)))
    seen: list[tuple[gc.Collector, threading.Event]] = []
    simulator = Simulator()
    simulator.reset()
    assert seen == []
    with simulator:
        wait_until(lambda: len(seen) == 1)
        simulator.reset()
        wait_until(lambda: len(seen) == 2)
        assert [stopped.is_set() for _, stopped in seen] == [True, False]
    assert all(stopped.is_set() for _, stopped in seen)
