"""Leftovers are reported in words, without the traces of a host's first use."""

from __future__ import annotations

from tests.scenarios import SR_UUID, VDI_UUID
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.testing.residue import changes, touch_hosts


def test_nothing_done_leaves_nothing(xapi: Simulator) -> None:
    touch_hosts(xapi)
    assert changes(xapi.snapshot(), xapi.snapshot()) == []


def test_what_is_left_is_named(xapi: Simulator) -> None:
    before = xapi.snapshot()
    sr = xapi.add_sr("store")
    xapi.add_vdi(sr, "disk")
    lines = changes(before, xapi.snapshot())
    assert [line.split(" ")[0] for line in lines] == ["PBD", "SR", "VDI"]
    assert '"disk"' in lines[2]


def test_an_sr_that_was_plugged_and_forgotten_leaves_only_the_traces_of_a_first_use(
    xapi: Simulator, xapi_session: Session
) -> None:
    """The driver has tested whether the server has hard links: no client can undo that."""
    export = xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=1 << 30)
    export.filesystem.root.make_directory(SR_UUID).add_vhd(VDI_UUID, 1 << 30)
    touch_hosts(xapi)
    before = xapi.snapshot()
    device_config = {"server": "10.0.0.2", "serverpath": "/vols"}
    sr = xapi.add_sr("store", type="nfs", sr_uuid=SR_UUID, device_config=device_config)
    (pbd,) = xapi.db.children(sr, "PBDs")
    assert changes(before, xapi.snapshot()) != []
    xapi_session.call("PBD.unplug", pbd)
    xapi_session.call("SR.forget", sr)
    assert before.difference(xapi.snapshot()) != []
    assert changes(before, xapi.snapshot()) == []
