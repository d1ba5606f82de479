"""An attempt waits for others only while they work, and spends little on the waiting."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

import xenvol
from tests.scenarios import arrange_target, iscsi
from xenvol.pool import waiting
from xenvol.session import CallRecord
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps


@pytest.mark.parametrize(
    ("looked", "waited", "pause"),
    [
        (0.001, 0.0, waiting.FLOOR - 0.001),  # seconds
        (0.001, 0.5, 0.0),
        (0.02, 0.0, 0.06),
        (0.02, 0.04, 0.02),
        (3.0, 0.0, 0.5),
    ],
)
def test_a_pause_makes_looking_a_quarter_of_the_time_and_is_never_longer_than_a_wait(
    looked: float, waited: float, pause: float
) -> None:
    assert waiting.pause_after_round(100.0, 100.0 + looked, 100.0 + looked + waited) == pytest.approx(pause)


@pytest.mark.xapi(hosts=2)
def test_events_without_end_do_not_make_an_attempt_look_without_end(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """An operator scans the SR, and other disks of the SR change all the time."""
    arrange_target(xapi, luns=100)
    xapi.add_vm("near", resident_on=xapi.db.refs("host")[0])
    xapi.add_vm("far", resident_on=xapi.db.refs("host")[1])
    sr = volume_ops.attach_volume(iscsi(0), "near").sr_ref
    other = next(vdi for vdi in xapi.db.refs("VDI") if not xapi.db.get("VDI", vdi, "VBDs"))
    with xapi.xapi.lock:
        xapi.db.set("SR", sr, current_operations={"OpaqueRef:theirs": "scan"})
    is_over = threading.Event()
    calls: list[
        tuple[float, float]
    ] = []  # alternating reads and waits: when each began, and how long it took

    def change_a_disk() -> None:
        while not is_over.wait(0.001):
            with xapi.xapi.lock:
                xapi.db.set("VDI", other, name_label=str(time.monotonic()))

    def seen(record: CallRecord) -> None:
        if record.call == "event.from":
            calls.append((time.monotonic() - record.seconds, record.seconds))
        elif record.call.startswith("PBD.get_all"):  # the attach sees the SR unplugged, and waits to plug it
            calls.clear()
        if len(calls) == 12:
            is_over.set()

    with xenvol.connect(xapi.url, xapi.user, xapi.password, on_call=seen) as session:
        attach = threading.Thread(target=VolumeOps(session).attach_volume, args=(iscsi(1), "far"))
        changing = threading.Thread(target=change_a_disk)
        changing.start()
        attach.start()
        assert is_over.wait(60)
        looks = calls[:12:2]
        with xapi.xapi.lock:
            xapi.db.set("SR", sr, current_operations={})
        attach.join(60)
        changing.join(60)
    for (began, took), (next_began, _) in pairwise(looks):
        assert next_began - began >= min(took / waiting.SHARE, took + 0.5)
    assert xapi.db.count("VBD") == 2
    assert xapi.journal.waits() == []
