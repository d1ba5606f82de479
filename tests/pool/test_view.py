"""A view remembers what it has read, and reads again when told to."""

from __future__ import annotations

import pytest

from xenvol.errors import XapiError
from xenvol.pool.view import View, is_gone
from xenvol.session import Session
from xenvol.session.refs import NULL_REF
from xenvol.simulator import Simulator


@pytest.fixture
def view(xapi_session: Session) -> View:
    return View(xapi_session)


class TestRead:
    def test_reads_objects_of_several_classes_in_one_call(self, xapi: Simulator, view: View) -> None:
        sr = xapi.add_sr()
        vdis = xapi.add_vdis(sr, 3)
        with xapi.journal.recording() as calls:
            view.read({"VDI": vdis[:2], "SR": [sr]}, whole=["pool", "SM"])
            assert [view.record("VDI", ref)["uuid"] for ref in vdis[:2]] == [
                xapi.db.get("VDI", ref, "uuid") for ref in vdis[:2]
            ]
            assert view.record("SR", sr)["type"] == "dummy"
            assert view.master == xapi.xapi.master
            assert "iscsi" in view.sr_types
        assert calls.methods() == ["event.from"]
        assert view.known("VDI", vdis[2]) is None

    def test_gives_the_records_that_get_record_gives(self, xapi: Simulator, view: View) -> None:
        vm = xapi.add_vm("web")
        view.read({"VM": [vm]})
        assert view.known("VM", vm) == view.call("VM.get_record", vm)

    def test_forgets_what_is_gone(self, xapi: Simulator, view: View) -> None:
        vdi = xapi.add_vdi(xapi.add_sr())
        view.read({"VDI": [vdi]})
        view.call("VDI.destroy", vdi)
        assert view.known("VDI", vdi) is not None
        view.read({"VDI": [vdi, "OpaqueRef:never", NULL_REF]})
        assert view.known("VDI", vdi) is None

    def test_makes_the_records_known_that_are_there_in_the_order_asked_for(
        self, xapi: Simulator, view: View
    ) -> None:
        vdis = xapi.add_vdis(xapi.add_sr(), 3)
        view.read({"VDI": vdis})
        view.call("VDI.destroy", vdis[1])
        view.read({"VDI": vdis})
        with xapi.journal.recording() as calls:
            known = view.known_of("VDI", [vdis[2], vdis[1], vdis[0]])
        assert list(known) == [vdis[2], vdis[0]]
        assert known[vdis[0]] == view.known("VDI", vdis[0])
        assert not calls

    def test_of_nothing_makes_no_call(self, xapi: Simulator, view: View) -> None:
        with xapi.journal.recording() as calls:
            view.read({"VDI": [], "SR": [NULL_REF]})
        assert not calls


class TestFind:
    def test_always_asks_and_remembers_the_answer(self, xapi: Simulator, view: View) -> None:
        sr = xapi.add_sr("one")
        with xapi.journal.recording() as calls:
            assert list(view.find("SR", {"name_label": "one"})) == [sr]
            assert view.record("SR", sr)["name_label"] == "one"
            view.find("SR", {"name_label": "one"})
        assert calls.methods() == ["SR.get_all_records_where"] * 2


def test_a_view_of_a_view_is_itself_and_of_anything_else_a_new_one(view: View, xapi_session: Session) -> None:
    assert View.of(view) is view
    assert View.of(xapi_session) is not View.of(xapi_session)


def test_a_drivers_view_shares_what_is_remembered(xapi: Simulator, view: View) -> None:
    sr = xapi.add_sr()
    view.restricted("acme").record("SR", sr)
    assert view.known("SR", sr) is not None


def test_gone_is_told_from_other_refusals_by_class() -> None:
    dead = XapiError("HANDLE_INVALID", ["VDI", "OpaqueRef:x"], "VDI.get_record")
    assert is_gone(dead)
    assert is_gone(dead, "SR", "VDI")
    assert not is_gone(dead, "SR")
    assert not is_gone(XapiError("VDI_IN_USE", ["VDI"], "VDI.destroy"))


def test_vms_start_on_enabled_hosts_only(xapi: Simulator, view: View) -> None:
    (host,) = xapi.db.refs("host")
    xapi.add_host("in maintenance", enabled=False)
    assert view.hosts == [host]


def test_its_repr_tells_its_state(xapi: Simulator, view: View) -> None:
    view.record("SR", xapi.add_sr())
    assert "1 objects read" in repr(view)
