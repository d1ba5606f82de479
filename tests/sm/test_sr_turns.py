"""The Storage Manager takes turns on an SR, as attaches do: so none of its calls waits inside xapi."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from backend_lab import BY_NAME, forgotten, somebodys_sr
from test_srs import making_of, plugged_on

import xenvol
from xenvol.errors import XenVolError
from xenvol.pool import waiting
from xenvol.pool.marks import TURN
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.session.refs import SRRef
from xenvol.simulator import Simulator
from xenvol.sm import srs
from xenvol.testing.residue import changes, touch_hosts
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.xapi(hosts=3)

MAKING = making_of("nfs")


@pytest.fixture
def views(xapi: Simulator) -> Iterator[list[View]]:
    """Of two services."""
    sessions = [xenvol.connect(xapi.url, xapi.user, xapi.password) for _ in range(2)]
    with waiting.grace(60):  # on a busy machine a living service may pause
        yield [View(session) for session in sessions]
    for session in sessions:
        session.close()


@pytest.fixture
def nfs(xapi: Simulator, views: list[View]) -> SRRef:
    """An SR that was made and is plugged on all three hosts. Its storage is slow."""
    BY_NAME["nfs"].arrange(xapi)
    touch_hosts(xapi)
    sr_ref = srs.create_sr(views[0], MAKING, views[0].master)
    for call in ("PBD.plug", "PBD.unplug", "SR.scan"):
        xapi.faults.delay(call, 0.1, inside=True, every=True)
    return sr_ref


def unplug_all(view: View, sr_ref: SRRef) -> None:
    for pbd_ref in view.call("SR.get_PBDs", sr_ref):
        view.call("PBD.unplug", pbd_ref)


def meanwhile(xapi: Simulator, first: Callable[[], object], method: str, *, nth: int = 2) -> threading.Thread:
    """Start the first, and return once its nth call of that method is under way."""
    mark = xapi.journal.mark()
    thread = threading.Thread(target=first)
    thread.start()
    until = time.monotonic() + 60
    while xapi.journal.since(mark).methods().count(method) < nth:
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)
    return thread


def test_two_services_that_plug_one_sr_plug_it_once_on_every_host(
    xapi: Simulator, views: list[View], nfs: SRRef
) -> None:
    unplug_all(views[0], nfs)
    xapi.journal.clear()
    other = meanwhile(xapi, lambda: srs.plug_sr(views[0], Undo(), nfs, MAKING, None), "PBD.plug")
    srs.plug_sr(views[1], Undo(), nfs, MAKING, None)
    other.join(60)
    assert plugged_on(xapi) == {"host1", "host2", "host3"}
    assert xapi.journal.methods().count("PBD.plug") == 3
    assert TURN not in xapi.db.get("SR", nfs, "other_config")
    assert xapi.journal.waits() == []


def test_a_service_that_removes_an_sr_waits_for_one_that_plugs_it(
    xapi: Simulator, views: list[View], nfs: SRRef
) -> None:
    unplug_all(views[0], nfs)
    other = meanwhile(xapi, lambda: srs.plug_sr(views[0], Undo(), nfs, MAKING, None), "PBD.plug")
    srs.remove_sr(views[1], nfs, destroy=False)
    other.join(60)
    assert xapi.db.refs("SR") == xapi.db.refs("PBD") == []
    assert xapi.journal.waits() == []


def test_a_service_that_plugs_an_sr_while_another_removes_it_is_told_that_it_is_gone(
    xapi: Simulator, views: list[View], nfs: SRRef
) -> None:
    view = views[0]
    pbd_ref = view.call("SR.get_PBDs", nfs)[0]
    view.call("PBD.unplug", pbd_ref)
    other = meanwhile(xapi, lambda: srs.remove_sr(views[1], nfs, destroy=True), "PBD.unplug")
    with pytest.raises(XenVolError):
        srs.plug_sr(view, Undo(), nfs, MAKING, None)
    other.join(60)
    assert xapi.db.refs("SR") == xapi.db.refs("PBD") == []
    assert xapi.journal.waits() == []


def test_a_service_waits_for_an_attach_that_plugs_the_sr_on_another_host(
    xapi: Simulator, views: list[View], nfs: SRRef
) -> None:
    view = views[0]
    vdi_ref = xapi.add_vdi(nfs, "data")
    data = {"sr_uuid": xapi.db.get("SR", nfs, "uuid"), "vdi_uuid": xapi.db.get("VDI", vdi_ref, "uuid")}
    xapi.add_vm("web", resident_on=xapi.find_host("host3"))
    for pbd_ref in view.call("SR.get_PBDs", nfs)[1:]:
        view.call("PBD.unplug", pbd_ref)
    info = {"driver_volume_type": "xensm", "data": data}
    ops = VolumeOps(views[1].session)
    other = meanwhile(xapi, lambda: ops.attach_volume(info, "web"), "PBD.plug", nth=1)
    srs.plug_sr(view, Undo(), nfs, MAKING, None)
    other.join(60)
    assert plugged_on(xapi) == {"host1", "host2", "host3"}
    assert xapi.db.count("VBD") == 1
    assert xapi.journal.waits() == []


def test_what_a_service_takes_back_it_takes_back_in_turn(
    xapi: Simulator, xapi_session: Session, views: list[View]
) -> None:
    """Its SR was introduced and plugged, and is forgotten again, while another service begins to plug it."""
    BY_NAME["nfs"].arrange(xapi)
    touch_hosts(xapi)
    sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, BY_NAME["nfs"]))
    before = xapi.snapshot()
    for call in ("PBD.plug", "PBD.unplug"):
        xapi.faults.delay(call, 0.1, inside=True, every=True)
    undo = Undo()
    sr_ref = srs.introduce_sr(views[0], undo, MAKING, sr_uuid)
    srs.plug_sr(views[0], undo, sr_ref, MAKING, None)
    other = meanwhile(xapi, undo.unwind, "PBD.unplug")
    with pytest.raises(XenVolError):
        srs.plug_sr(views[1], Undo(), sr_ref, MAKING, None)
    other.join(60)
    assert undo.pending == ()
    assert changes(before, xapi.snapshot()) == []
    assert xapi.journal.waits() == []


def test_a_host_that_refuses_leaves_no_turn_behind(xapi: Simulator, views: list[View], nfs: SRRef) -> None:
    view = views[0]
    unplug_all(view, nfs)
    before = xapi.snapshot()
    xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "no server", "")
    with pytest.raises(XenVolError, match="no server"):
        srs.plug_sr(view, Undo(), nfs, MAKING, None)
    assert changes(before, xapi.snapshot()) == []
