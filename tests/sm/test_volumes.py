"""A volume grows, never shrinks, and is erased once, if no VM has it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sm.conftest import (
    DEVICE,
    GIB,
    MIB,
    Paused,
    log_in,
    on_every_database,
    vdi_uuids,
)
from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError, XapiUnreachable
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager, volumes
from xenvol.sm.database import Database
from xenvol.sm.errors import BackendNotReady, NoBackendFits, NotSupported, UnknownVolume, VolumeNotReady
from xenvol.sm.records import Backend, Volume
from xenvol.volumeops import VolumeOps


@pytest.fixture
def volume(manager: StorageManager, nfs: Backend) -> Volume:
    return manager.create_volume("v1", "gold", GIB)


def vdi_of(pool: Simulator, volume: Volume) -> str:
    ref = pool.db.by_uuid("VDI", volume.vdi_uuid or "")
    assert ref is not None
    return ref


@on_every_database
class TestExtending:
    def test_makes_the_disk_and_the_row_larger(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        extended = manager.extend_volume("v1", 2 * GIB + 1)
        assert (extended.size, extended.virtual_size) == (2 * GIB + 1, 2 * GIB + 2 * MIB)
        assert pool.db.get("VDI", vdi_of(pool, volume), "virtual_size") == extended.virtual_size
        assert manager.audit().findings == []

    def test_to_the_size_that_it_has_is_quiet(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        with pool.journal.recording() as calls:
            assert manager.extend_volume("v1", GIB).size == GIB
        assert "VDI.resize" not in calls.methods()

    def test_never_shrinks(self, manager: StorageManager, volume: Volume) -> None:
        with pytest.raises(NotSupported, match="1 GiB already"):
            manager.extend_volume("v1", GIB - 1)

    def test_beyond_what_the_backend_or_its_type_has_is_refused(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        with pytest.raises(NoBackendFits, match="more are needed"):
            manager.extend_volume("v1", 101 * GIB)
        with pytest.raises(NoBackendFits, match="has at most"):
            manager.extend_volume("v1", 2041 * GIB)
        assert pool.db.get("VDI", vdi_of(pool, volume), "virtual_size") == GIB

    @pytest.mark.parametrize("is_done", [False, True], ids=["before its call", "after its call"])
    @pytest.mark.parametrize("is_over", [False, True], ids=["being deleted", "deleted"])
    def test_of_what_another_service_deletes_says_so(
        self,
        pool: Simulator,
        manager: StorageManager,
        volume: Volume,
        database: Database,
        is_done: bool,
        is_over: bool,
    ) -> None:
        """And not that a call which the operator did not make was refused."""
        grow = Paused(pool, "VDI.resize", lambda m: m.extend_volume("v1", 2 * GIB), database, answer=is_done)
        if is_over:
            manager.delete_volume("v1")
        else:
            pool.faults.lose_answer("VDI.destroy")
            with pytest.raises(XapiUnreachable):
                manager.delete_volume("v1")
        with pytest.raises(UnknownVolume if is_over else VolumeNotReady) as caught:
            grow.go_on()
        assert "v1" in str(caught.value)
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []

    def test_by_two_at_once_gives_the_larger(
        self, pool: Simulator, manager: StorageManager, volume: Volume, database: Database
    ) -> None:
        """The smaller one was overtaken after its disk had grown, and writes its row last."""
        paused = Paused(pool, "event.from", lambda m: m.extend_volume("v1", 2 * GIB), database, nth=2)
        manager.extend_volume("v1", 3 * GIB)
        paused.go_on()
        extended = manager.get_volume("v1")
        assert (extended.size, extended.virtual_size) == (3 * GIB, 3 * GIB)
        assert manager.audit().findings == []

    def test_of_what_somebody_deletes_meanwhile_is_no_success(
        self, pool: Simulator, manager: StorageManager, volume: Volume, database: Database
    ) -> None:
        extending = Paused(
            pool, "VDI.resize", lambda m: m.extend_volume("v1", 2 * GIB), database, answer=True
        )
        deleting = Paused(pool, "VDI.destroy", lambda m: m.delete_volume("v1"), database)
        with pytest.raises(VolumeNotReady, match="deleting"):
            extending.go_on()
        deleting.go_on()
        assert manager.audit().findings == []

    def test_that_nobody_recorded_is_completed_by_the_same_call_or_an_audit(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        pool.faults.lose_answer("VDI.resize")
        with pytest.raises(XapiUnreachable):
            manager.extend_volume("v1", 2 * GIB)
        assert [finding.kind for finding in manager.audit().findings] == ["size_differs"]
        assert manager.audit(repair=True).agrees
        assert manager.get_volume("v1").virtual_size == 2 * GIB
        assert manager.extend_volume("v1", 2 * GIB).size == 2 * GIB


class TestExtendingWhatIsInUse:
    def test_is_refused_where_the_storage_cannot_and_names_the_vm(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        pool.add_vm("web", disks=[vdi_of(pool, volume)])
        with pytest.raises(NotSupported, match=r"web .* has it plugged.*grows no plugged disk"):
            manager.extend_volume("v1", 2 * GIB)

    def test_of_a_halted_vm_is_done(self, pool: Simulator, manager: StorageManager, volume: Volume) -> None:
        pool.add_vm("web", power_state="Halted", disks=[vdi_of(pool, volume)])
        assert manager.extend_volume("v1", 2 * GIB).virtual_size == 2 * GIB

    def test_is_done_online_where_the_storage_says_that_it_can(
        self, pool: Simulator, manager: StorageManager, volume: Volume, nfs: Backend
    ) -> None:
        """No current driver can: VDI.resize_online is gone from present releases."""
        pool.add_vm("web", disks=[vdi_of(pool, volume)])
        (sm,) = [ref for ref in pool.db.refs("SM") if pool.db.get("SM", ref, "type") == "nfs"]
        with pool.xapi.lock:
            features = {**pool.db.get("SM", sm, "features"), "VDI_RESIZE_ONLINE": 1}
            pool.db.set("SM", sm, features=features)
        manager.stats()
        with pool.journal.recording() as calls, pytest.raises(XapiError):
            manager.extend_volume("v1", 2 * GIB)
        assert "VDI.resize_online" in calls.methods()


@on_every_database
class TestDeleting:
    def test_erases_the_disk_and_gives_back_the_room(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        before = manager.list_backends()[0].free
        manager.delete_volume("v1")
        assert pool.db.refs("VDI") == []
        assert manager.list_backends()[0].free >= before + GIB - MIB
        with pytest.raises(UnknownVolume):
            manager.get_volume("v1")
        assert manager.list_volumes() == []

    def test_of_what_is_gone_is_quiet(self, manager: StorageManager, volume: Volume) -> None:
        """Passes if nothing is raised."""
        for _ in range(2):
            manager.delete_volume("v1")

    def test_of_what_never_was_is_an_error(self, manager: StorageManager, volume: Volume) -> None:
        """The id is mistyped, and the volume that was meant is still there."""
        with pytest.raises(UnknownVolume, match="'vl'"):
            manager.delete_volume("vl")
        assert manager.get_volume("v1") == volume

    @pytest.mark.parametrize("power_state", ["Running", "Halted", "Suspended"])
    def test_is_refused_while_a_vm_has_the_disk(
        self, pool: Simulator, manager: StorageManager, volume: Volume, power_state: str
    ) -> None:
        pool.add_vm("web", power_state=power_state, disks=[vdi_of(pool, volume)])
        with pytest.raises(VolumeInUse, match="web"):
            manager.delete_volume("v1")
        assert manager.get_volume("v1") == volume
        assert volume.vdi_uuid in vdi_uuids(pool)

    def test_is_refused_while_it_is_connected_without_a_vm(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        with log_in(pool) as session:
            ops = VolumeOps(session)
            info = manager.initialize_connection("v1")
            ops.connect_volume(info)
            with pytest.raises(VolumeInUse, match="xenvol disconnect"):
                manager.delete_volume("v1")
            ops.disconnect_volume(info)
        manager.delete_volume("v1")
        assert pool.db.refs("VDI") == []

    def test_of_a_disk_that_a_vm_got_in_the_last_moment_spares_it_and_keeps_the_volume(
        self, pool: Simulator, manager: StorageManager, volume: Volume, database: Database
    ) -> None:
        """The VM got it between the check and the erase."""
        paused = Paused(pool, "VDI.get_record", lambda m: m.delete_volume("v1"), database)
        vm = pool.add_vm("web", power_state="Halted", disks=[vdi_of(pool, volume)])
        with pytest.raises(VolumeInUse):
            paused.go_on()
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert manager.get_volume("v1") == volume
        assert manager.audit().findings == []
        manager._context.session.call("VM.destroy", vm)
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []

    def test_by_two_of_whom_one_keeps_it_leaves_no_row_without_a_disk(
        self, pool: Simulator, manager: StorageManager, volume: Volume, database: Database
    ) -> None:
        """One service finds it in use; the other began before, and comes when it is no longer in use."""
        first = Paused(pool, "VDI.get_record", lambda m: m.delete_volume("v1"), database)
        second = Paused(pool, "VDI.get_record", lambda m: m.delete_volume("v1"), database)
        vm = pool.add_vm("web", power_state="Halted", disks=[vdi_of(pool, volume)])
        with pytest.raises(VolumeInUse):
            first.go_on()
        assert manager.get_volume("v1").state == "available"
        manager._context.session.call("VM.destroy", vm)
        second.go_on()
        assert vdi_uuids(pool) == []
        assert manager.list_volumes() == []
        assert manager.audit().findings == []

    def test_by_several_at_once_is_done_once(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        with ThreadPoolExecutor(8) as executor:
            list(executor.map(manager.delete_volume, ["v1"] * 8))
        calls = [entry for entry in pool.journal if entry.method == "VDI.destroy"]
        assert [entry.outcome for entry in calls].count("success") == 1
        assert manager.audit().findings == []

    def test_of_an_unfinished_volume_takes_away_what_was_made(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        pool.faults.lose_answer("VDI.create")
        order = pool.faults.lose_request("*", nth=3, every=True)
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        pool.faults.cancel(order.number)
        assert len(vdi_uuids(pool)) == 1
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []
        assert manager.list_volumes() == []

    def test_waits_for_a_snapshot_that_was_asked_for_before(
        self, pool: Simulator, manager: StorageManager, volume: Volume, database: Database
    ) -> None:
        paused = Paused(pool, "VDI.snapshot", lambda m: m.create_snapshot("s1", "v1"), database)
        with pytest.raises(NotSupported, match="snapshots: s1"):
            manager.delete_volume("v1")
        paused.go_on()
        assert manager.get_volume("v1").state == "available"


class TestADiskThatThePoolHasNot:
    def test_because_its_sr_was_introduced_anew_is_not_taken_for_erased(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        """Its records come with the plug: until then the pool shows none, and the data exists."""
        call = manager._context.session.call
        (sr,) = pool.db.refs("SR")
        record = call("SR.get_record", sr)
        device_config = call("PBD.get_device_config", record["PBDs"][0])
        call("PBD.unplug", record["PBDs"][0])
        call("SR.forget", sr)
        sr = call("SR.introduce", record["uuid"], "again", "", "nfs", "user", True, {})
        (host,) = pool.db.refs("host")
        pbd = call("PBD.create", {"SR": sr, "host": host, "device_config": device_config, "other_config": {}})
        with pytest.raises(XapiError, match="SR_HAS_NO_PBDS"):
            manager.delete_volume("v1")
        assert manager.get_volume("v1").state == "deleting"
        call("PBD.plug", pbd)
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []

    def test_because_its_sr_was_forgotten_is_still_a_volume(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        call = manager._context.session.call
        (sr,) = pool.db.refs("SR")
        for pbd in list(pool.db.children(sr, "PBDs")):
            call("PBD.unplug", pbd)
        call("SR.forget", sr)
        with pytest.raises(BackendNotReady, match="not known to this pool"):
            manager.delete_volume("v1")
        assert manager.get_volume("v1") == volume
        manager.do_setup()
        manager.delete_volume("v1")
        assert manager.list_volumes() == []

    def test_is_reported_and_not_mended(
        self, pool: Simulator, manager: StorageManager, volume: Volume
    ) -> None:
        manager._context.session.call("VDI.destroy", vdi_of(pool, volume))
        report = manager.audit(repair=True)
        assert [finding.kind for finding in report.findings] == ["vdi_missing"]
        assert not report.agrees
        with pytest.raises(VolumeNotFound, match="v1"):
            manager.extend_volume("v1", 2 * GIB)
        manager.delete_volume("v1")
        assert manager.audit().agrees


class TestWhatIsNotThere:
    def test_is_said_to_be_unknown(self, manager: StorageManager) -> None:
        for use in (
            manager.get_volume,
            manager.unmanage_volume,
            manager.initialize_connection,
            lambda volume_id: manager.extend_volume(volume_id, GIB),
            lambda volume_id: manager.create_snapshot("s1", volume_id),
            lambda volume_id: manager.clone_volume("c1", volume_id),
        ):
            with pytest.raises(UnknownVolume, match="'v9'"):
                use("v9")  # type: ignore[operator]  # mypy joins the six functions to an object

    def test_or_is_being_made_cannot_be_worked_with(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        paused = Paused(pool, "VDI.create", lambda m: m.create_volume("v1", "gold", GIB), database)
        with pytest.raises(VolumeNotReady, match="creating"):
            manager.extend_volume("v1", 2 * GIB)
        paused.go_on()
        manager.extend_volume("v1", 2 * GIB)


@on_every_database
def test_a_list_is_read_page_by_page(manager: StorageManager, nfs: Backend) -> None:
    for number in range(7):
        manager.create_volume(f"v{number}", "gold", MIB)
    manager.create_flavor("silver", "")
    found: list[str] = []
    while True:
        after = found[-1] if found else None
        page = manager.list_volumes(flavor_label="gold", backend_id=nfs.id, after=after, limit=3)
        found += [volume.id for volume in page]
        if len(page) < 3:
            break
    assert found == [f"v{number}" for number in range(7)]
    assert manager.list_volumes(flavor_label="silver") == []


def test_a_thick_volume_takes_more_than_its_size(manager: StorageManager, lvm: Backend) -> None:
    volume = manager.create_volume("v1", "gold", 100 * MIB)
    assert volume.cost == 108 * MIB
    assert manager.extend_volume("v1", 200 * MIB).cost > 200 * MIB
    assert DEVICE in lvm.config_params
    assert volumes.get_with_backend(manager._context, "v1")[1].id == lvm.id
