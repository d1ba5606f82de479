"""A backend's SR in a pool is made, introduced, shared, plugged, marked and removed, and is found again after a
crash.
"""

from __future__ import annotations

import pytest
from backend_lab import (
    BY_NAME,
    PASSWORD,
    UNKNOWN_UUID,
    another_pool,
    forgotten,
    secrets_of,
    session_of,
    somebodys_sr,
)

from xenvol.errors import HostNotReady, UnknownHost, UnsupportedSRType, XapiError, XapiUnreachable
from xenvol.pool.marks import BACKEND, MARK
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.session.refs import SRRef
from xenvol.simulator import Simulator
from xenvol.sm import passwords, srs
from xenvol.sm.errors import BackendNotReady, NoSuchStorageDriver
from xenvol.sm.records import Backend, now
from xenvol.sm.srs import SRMaking
from xenvol.storage import find_sr
from xenvol.storage.srtypes import sr_type_of
from xenvol.testing.residue import changes, touch_hosts

TOKEN = "70000000-0000-4000-8000-000000000001"


def making_of(name: str, **more: str) -> SRMaking:
    world = BY_NAME[name]
    return SRMaking(
        sr_type=world.sr_type,
        is_shared=sr_type_of(world.sr_type).is_shared,
        name_label="toy box",
        name_description="for toys",
        device_config={**passwords.referred(TOKEN, world.config), **more},
        sm_config={},
        token=TOKEN,
    )


def backend(**values: object) -> Backend:
    plain: dict[str, object] = dict.fromkeys(Backend.__dataclass_fields__)
    return Backend(**{**plain, "id": 7, "created_at": now(), "token": TOKEN, **values})  # type: ignore[arg-type]  # the keywords are of several types


def plugged_on(xapi: Simulator) -> set[str]:
    """Return the names of the hosts on which the only SR is plugged."""
    rows = [xapi.db.row("PBD", ref) for ref in xapi.db.refs("PBD")]
    return {xapi.db.get("host", row["host"], "name_label") for row in rows if row["currently_attached"]}


@pytest.fixture
def view(xapi_session: Session) -> View:
    return View(xapi_session)


@pytest.fixture
def nfs(xapi: Simulator, view: View) -> SRRef:
    """An SR that was just made."""
    BY_NAME["nfs"].arrange(xapi)
    return srs.create_sr(view, making_of("nfs"), view.master)


class TestTheStorageDriver:
    def test_is_the_pools(self, view: View) -> None:
        assert srs.require_driver(view, "nfs")["type"] == "nfs"

    def test_that_is_not_there_is_asked_for(self, view: View) -> None:
        with pytest.raises(UnsupportedSRType, match="install the storage driver") as caught:
            srs.require_driver(view, "acme")
        assert "nfs" in caught.value.offered

    @pytest.mark.xapi(world={"hosts": [{"name": "host1"}], "pool": {"sm_types": ["nfs", "lvm"]}})
    @pytest.mark.parametrize("sr_type", ["netapp", "equal", "cslg"])
    def test_that_nobody_ships_any_more_is_not_asked_for(self, view: View, sr_type: str) -> None:
        with pytest.raises(NoSuchStorageDriver, match="neither XCP-ng nor any current XenServer"):
            srs.require_driver(view, sr_type)


@pytest.mark.xapi(hosts=3)
class TestMaking:
    def test_it_is_plugged_on_every_host_and_found_by_its_description(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        assert srs.find_made(view, TOKEN) == nfs
        assert srs.find_made(view, "another") is None
        assert srs.is_made_for(view.record("SR", nfs), TOKEN)
        assert plugged_on(xapi) == {"host1", "host2", "host3"}

    def test_an_answer_that_is_lost_is_looked_up(self, xapi: Simulator, view: View) -> None:
        BY_NAME["nfs"].arrange(xapi)
        xapi.faults.lose_answer("SR.create")
        made = srs.create_sr(view, making_of("nfs"), view.master)
        assert xapi.db.refs("SR") == [made]

    def test_a_silence_that_leaves_nothing_is_a_silence(self, xapi: Simulator, view: View) -> None:
        BY_NAME["nfs"].arrange(xapi)
        xapi.faults.lose_request("SR.create")
        with pytest.raises(XapiUnreachable):
            srs.create_sr(view, making_of("nfs"), view.master)
        assert xapi.db.refs("SR") == []

    def test_each_pbd_has_a_copy_of_the_password_for_itself(self, xapi: Simulator, view: View) -> None:
        """SR.create would leave all copies but one in the pool for ever, and give that one to all PBDs."""
        world, making, undo = BY_NAME["smb"], making_of("smb"), Undo()
        world.arrange(xapi)
        passwords.keep(view, TOKEN, world.config)
        sr_ref = srs.create_sr(view, making, view.master)
        srs.share_sr(view, sr_ref, making)
        srs.plug_sr(view, undo, sr_ref, making, None)
        assert plugged_on(xapi) == {"host1", "host2", "host3"}
        assert xapi.db.get("SR", sr_ref, "shared") is True
        copies = {xapi.db.row("PBD", pbd)["device_config"]["password_secret"] for pbd in xapi.db.refs("PBD")}
        assert len(copies) == 3
        assert secrets_of(xapi) == dict.fromkeys([*copies, passwords.uuid_of(TOKEN, "password")], PASSWORD)

    def test_sharing_is_asked_for_once_and_never_for_what_is_local(self, xapi: Simulator, view: View) -> None:
        BY_NAME["ext"].arrange(xapi)
        making = making_of("ext")
        sr_ref = srs.create_sr(view, making, view.master)
        with xapi.journal.recording() as calls:
            srs.share_sr(view, sr_ref, making)
        assert "SR.set_shared" not in calls.methods()


@pytest.mark.xapi(hosts=3)
class TestPlugging:
    def test_a_pbd_that_is_missing_is_made_like_one_that_is_there(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        pbds = view.call("SR.get_PBDs", nfs)
        for pbd in pbds:
            view.call("PBD.unplug", pbd)
        view.call("PBD.destroy", pbds[0])
        srs.plug_sr(view, Undo(), nfs, making_of("nfs", server="10.9.9.9"), None)
        assert plugged_on(xapi) == {"host1", "host2", "host3"}
        servers = {xapi.db.row("PBD", pbd)["device_config"]["server"] for pbd in xapi.db.refs("PBD")}
        assert servers == {"10.0.0.2"}

    def test_what_is_plugged_is_left_alone(self, xapi: Simulator, view: View, nfs: SRRef) -> None:
        with xapi.journal.recording() as calls:
            srs.plug_sr(view, Undo(), nfs, making_of("nfs"), None)
        assert not {"PBD.create", "PBD.plug"} & set(calls.methods())

    def test_one_host_that_refuses_does_not_keep_the_others_from_it(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        for pbd in view.call("SR.get_PBDs", nfs):
            view.call("PBD.unplug", pbd)
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "no cable", "", nth=2)
        with pytest.raises(XapiError) as caught:
            srs.plug_sr(view, Undo(), nfs, making_of("nfs"), None)
        assert len(plugged_on(xapi)) == 2
        (missing,) = {"host1", "host2", "host3"} - plugged_on(xapi)
        assert caught.value.__notes__ == [f"this was on host {missing}"]

    def test_the_refusals_of_several_hosts_are_told_together(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        for pbd in view.call("SR.get_PBDs", nfs):
            view.call("PBD.unplug", pbd)
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "no cable", "", nth=2, every=True)
        with pytest.raises(XapiError) as caught:
            srs.plug_sr(view, Undo(), nfs, making_of("nfs"), None)
        assert "host2" in "".join(caught.value.__notes__)
        assert "host3" in "".join(caught.value.__notes__)

    def test_the_masters_refusal_is_everybodys(self, xapi: Simulator, view: View, nfs: SRRef) -> None:
        for pbd in view.call("SR.get_PBDs", nfs):
            view.call("PBD.unplug", pbd)
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "no server", "")
        with pytest.raises(XapiError):
            srs.plug_sr(view, Undo(), nfs, making_of("nfs"), None)
        assert plugged_on(xapi) == set()

    def test_a_host_that_is_down_gets_it_later(self, xapi: Simulator, view: View, nfs: SRRef) -> None:
        for pbd in view.call("SR.get_PBDs", nfs):
            view.call("PBD.unplug", pbd)
        host2 = xapi.find_host("host2")
        with xapi.xapi.lock:
            xapi.db.set("host_metrics", xapi.db.get("host", host2, "metrics"), live=False)
        srs.plug_sr(view, Undo(), nfs, making_of("nfs"), None)
        assert plugged_on(xapi) == {"host1", "host3"}

    def test_a_local_sr_is_plugged_where_it_is(self, xapi: Simulator, view: View) -> None:
        BY_NAME["ext"].arrange(xapi)
        host_ref, _ = srs.find_host(view, "host2")
        sr_ref = srs.create_sr(view, making_of("ext"), host_ref)
        (pbd,) = view.call("SR.get_PBDs", sr_ref)
        view.call("PBD.unplug", pbd)
        srs.plug_sr(view, Undo(), sr_ref, making_of("ext"), host_ref)
        assert plugged_on(xapi) == {"host2"}
        view.call("PBD.unplug", pbd)
        view.call("PBD.destroy", pbd)
        srs.plug_sr(view, Undo(), sr_ref, making_of("ext"), host_ref)
        assert plugged_on(xapi) == {"host2"}


class TestIntroducing:
    @pytest.fixture
    def sr_uuid(self, xapi: Simulator, xapi_session: Session) -> str:
        """The uuid of an SR that only the storage has."""
        BY_NAME["nfs"].arrange(xapi)
        touch_hosts(xapi)
        return forgotten(xapi_session, somebodys_sr(xapi, BY_NAME["nfs"]))

    def test_it_is_taken_back_with_its_pbds(self, xapi: Simulator, view: View, sr_uuid: str) -> None:
        before, undo, making = xapi.snapshot(), Undo(), making_of("nfs")
        sr_ref = srs.introduce_sr(view, undo, making, sr_uuid)
        srs.plug_sr(view, undo, sr_ref, making, None)
        assert srs.find_made(view, TOKEN) == sr_ref
        assert undo.unwind() == []
        assert changes(before, xapi.snapshot()) == []

    def test_what_somebody_else_introduces_meanwhile_is_theirs(
        self, xapi: Simulator, view: View, sr_uuid: str
    ) -> None:
        theirs = xapi.add_sr("theirs", type="nfs", sr_uuid=sr_uuid, device_config=BY_NAME["nfs"].plain_config)
        undo = Undo()
        assert srs.introduce_sr(view, undo, making_of("nfs"), sr_uuid) == theirs
        assert undo.pending == ()
        assert not srs.is_made_for(view.record("SR", theirs), TOKEN)


class TestOwning:
    def test_it_says_whose_it_is_and_is_described_for_people(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        srs.own_sr(view, nfs, making_of("nfs"))
        row = xapi.db.row("SR", nfs)
        assert (row["name_label"], row["name_description"]) == ("toy box", "for toys")
        assert row["other_config"][BACKEND] == TOKEN
        assert srs.is_made_for(row, TOKEN)
        assert not srs.is_made_for(row, "another")
        with xapi.journal.recording() as calls:
            srs.own_sr(view_again(view), nfs, making_of("nfs"))
        assert calls.methods() == ["SR.get_record"]

    def test_what_was_there_before_us_is_not_touched(self, xapi: Simulator, view: View) -> None:
        BY_NAME["nfs"].arrange(xapi)
        sr_ref = find_sr(view, somebodys_sr(xapi, BY_NAME["nfs"]))
        assert sr_ref is not None
        before = xapi.snapshot()
        srs.own_sr(view, sr_ref, making_of("nfs"))
        assert xapi.snapshot() == before

    def test_what_an_attachment_introduced_is_owned_and_no_longer_the_attachments(
        self, xapi: Simulator, view: View
    ) -> None:
        sr_ref = xapi.add_sr("x", sm_config={MARK: "", "kept": "1"})
        view.call("SR.add_to_other_config", sr_ref, MARK, "")
        srs.own_sr(view, SRRef(sr_ref), making_of("nfs"))
        row = xapi.db.row("SR", sr_ref)
        assert row["sm_config"] == {"kept": "1"}
        assert row["other_config"].get(BACKEND) == TOKEN
        assert MARK not in row["other_config"]

    def test_the_mark_of_a_backend_that_is_no_more_is_replaced(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        view.call("SR.add_to_other_config", nfs, BACKEND, "of another")
        srs.own_sr(view, nfs, making_of("nfs"))
        assert xapi.db.row("SR", nfs)["other_config"][BACKEND] == TOKEN


@pytest.mark.xapi(hosts=2)
class TestTakingAway:
    def test_the_data_stays_or_goes(self, xapi: Simulator, view: View, nfs: SRRef) -> None:
        root = xapi.storage.shares.nfs[0].exports["/vols"].filesystem.root
        srs.remove_sr(view, nfs, destroy=False)
        assert xapi.db.refs("SR") == xapi.db.refs("PBD") == []
        assert len(root) == 1
        again = srs.create_sr(view, making_of("nfs"), view.master)
        srs.remove_sr(view, again, destroy=True)
        assert len(root) == 1

    def test_it_is_plugged_again_where_one_host_does_not_let_go(
        self, xapi: Simulator, view: View, nfs: SRRef
    ) -> None:
        xapi.faults.refuse("PBD.unplug", "VDI_IN_USE", "OpaqueRef:x", nth=2)
        with pytest.raises(XapiError):
            srs.remove_sr(view, nfs, destroy=False)
        assert plugged_on(xapi) == {"host1", "host2"}

    def test_one_that_is_gone_is_taken_away(self, xapi: Simulator, view: View, nfs: SRRef) -> None:
        """Passes if nothing is raised."""
        srs.remove_sr(view, nfs, destroy=False)
        srs.remove_sr(view, nfs, destroy=False)


@pytest.mark.xapi(hosts=2)
class TestHosts:
    def test_are_found_by_name_and_uuid(self, xapi: Simulator, view: View) -> None:
        host2 = xapi.find_host("host2")
        for name in ("host2", xapi.db.get("host", host2, "uuid"), host2):
            assert srs.find_host(view, name)[0] == host2
        assert srs.find_host(view, None)[0] == view.master

    def test_none_or_several_of_a_name_are_an_error(self, xapi: Simulator, view: View) -> None:
        with pytest.raises(UnknownHost):
            srs.find_host(view, "host9")
        with xapi.xapi.lock:
            xapi.db.set("host", xapi.find_host("host2"), name_label="host1", hostname="host1")
        with pytest.raises(UnknownHost) as caught:
            srs.find_host(view_again(view), "host1")
        assert len(caught.value.candidates) == 2

    def test_of_a_local_backend_is_one_of_this_pool(self, xapi: Simulator, view: View) -> None:
        assert srs.host_of(view, backend(host_uuid=None)) is None
        host2 = xapi.find_host("host2")
        assert srs.host_of(view, backend(host_uuid=xapi.db.get("host", host2, "uuid"))) == host2
        with pytest.raises(HostNotReady, match="is not in this pool"):
            srs.host_of(view, backend(host_uuid=UNKNOWN_UUID))


def test_the_sr_of_a_backend_is_looked_up_in_this_pool(xapi: Simulator, view: View, nfs: SRRef) -> None:
    uuid = xapi.db.get("SR", nfs, "uuid")
    assert srs.get_sr(view, backend(sr_uuid=uuid))[0] == nfs
    with pytest.raises(BackendNotReady, match="not made yet"):
        srs.get_sr(view, backend(sr_uuid=None))
    with another_pool(xapi) as other, session_of(other) as session:
        with pytest.raises(BackendNotReady, match="not known to this pool"):
            srs.get_sr(View(session), backend(sr_uuid=uuid))


def view_again(view: View) -> View:
    """A view that has read nothing."""
    return View(view._session)
