"""Many attach and detach at once, on one target, from threads that share a session and from others that do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import xenvol
from tests.scenarios import CHAP, arrange_target, changes, iscsi, touch_hosts
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

CHAP_DATA = {"auth_method": "CHAP", "auth_username": CHAP[0], "auth_password": CHAP[1]}


def at_once(*functions: Callable[[], object]) -> None:
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> object:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as executor:
        for future in [executor.submit(run, function) for function in functions]:
            future.result()


@pytest.mark.parametrize("is_shared", [True, False], ids=["one-session", "a-session-each"])
def test_eight_luns_of_one_target_go_in_and_out_together(xapi: Simulator, is_shared: bool) -> None:
    arrange_target(xapi, luns=8, chap=CHAP)
    touch_hosts(xapi)
    for number in range(8):
        xapi.add_vm(f"vm{number}")
    before = xapi.snapshot()
    sessions = [xenvol.connect(xapi.url, xapi.user, xapi.password) for _ in range(1 if is_shared else 8)]
    ops = [VolumeOps(sessions[number % len(sessions)]) for number in range(8)]
    for _ in range(3):
        at_once(*(lambda n=n: ops[n].attach_volume(iscsi(n, **CHAP_DATA), f"vm{n}") for n in range(8)))
        assert len(xapi.db.refs("SR")) == 1
        assert len(xapi.db.refs("VBD")) == 8
        at_once(*(lambda n=n: ops[n].detach_volume(iscsi(n, **CHAP_DATA), f"vm{n}") for n in range(8)))
        assert changes(before, xapi.snapshot()) == []
    for session in sessions:
        session.close()


@pytest.mark.parametrize("call", range(1, 10))
def test_an_attach_survives_the_last_detach_of_its_target_at_any_of_its_calls(
    xapi: Simulator, volume_ops: VolumeOps, call: int
) -> None:
    """The detach pauses before its n-th call; meanwhile another LUN of the target is attached from start to end."""
    arrange_target(xapi)
    xapi.add_vm("web")
    xapi.add_vm("db")
    volume_ops.attach_volume(iscsi(0), "web")
    order = xapi.faults.hang("*", nth=call)
    detach = threading.Thread(target=volume_ops.detach_volume, args=(iscsi(0), "web"))
    detach.start()
    while not order.is_spent:
        time.sleep(0.005)
    try:
        with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
            attachment = VolumeOps(session).attach_volume(iscsi(1), "db")
    finally:
        order.release()
        detach.join(60)
    assert not detach.is_alive()
    assert xapi.db.get("VBD", attachment.vbd_ref, "currently_attached")
    assert xapi.db.exists("VDI", attachment.vdi_ref)
    assert len(xapi.db.refs("VBD")) == 1


def test_attach_and_detach_race_freely_and_nothing_is_left(xapi: Simulator) -> None:
    arrange_target(xapi, luns=4)
    touch_hosts(xapi)
    for number in range(4):
        xapi.add_vm(f"vm{number}")
    before = xapi.snapshot()

    def cycle(number: int) -> None:
        with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
            ops = VolumeOps(session)
            for _ in range(5):
                attachment = ops.attach_volume(iscsi(number), f"vm{number}")
                assert xapi.db.get("VBD", attachment.vbd_ref, "currently_attached")
                ops.detach_volume(iscsi(number), f"vm{number}")

    at_once(*(lambda n=n: cycle(n) for n in range(4)))
    assert changes(before, xapi.snapshot()) == []
