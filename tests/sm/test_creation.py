"""A volume is made on the first backend that takes it, and only once, however often it is asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.sm.conftest import (
    GIB,
    MIB,
    NFS,
    NFS_2,
    NFS_SMALL,
    Paused,
    marks,
    on_every_database,
    vdi_uuids,
)
from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager, creation, vdis, volume_rows
from xenvol.sm.database import Database
from xenvol.sm.errors import (
    InvalidSetting,
    NoBackendFits,
    UnknownFlavor,
    VolumeExists,
    VolumeNotReady,
)
from xenvol.sm.records import Backend

FULL = ("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")


def backends_of(manager: StorageManager, *configs: dict[str, str]) -> list[Backend]:
    return [manager.add_backend("gold", "nfs", config) for config in configs]


@on_every_database
class TestANewVolume:
    def test_is_a_disk_of_its_size_in_the_backends_sr(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", 3 * GIB, name="payroll")
        (ref,) = pool.db.refs("VDI")
        assert (volume.id, volume.state, volume.backend_id) == ("v1", "available", nfs.id)
        assert volume.vdi_uuid == pool.db.get("VDI", ref, "uuid")
        assert volume.virtual_size == pool.db.get("VDI", ref, "virtual_size") == 3 * GIB
        assert pool.db.get("VDI", ref, "name_label") == "payroll"
        assert pool.db.get("VDI", ref, "other_config") == {"xenvol:managed": "v1"}
        assert manager.get_volume("v1") == volume
        assert manager.audit().findings == []

    def test_costs_four_calls_or_a_second_look_at_the_room(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """The calls read the SR, make the disk, read both, and remove the mark."""
        with pool.journal.recording() as calls:
            manager.create_volume("v1", "gold", GIB)
        assert calls.methods()[:4] == [
            "SR.get_all_records_where",
            "VDI.create",
            "event.from",
            "VDI.remove_from_other_config",
        ]
        assert calls.methods()[4:] in ([], ["SR.get_all_records_where"])

    def test_is_at_least_as_large_as_asked(self, manager: StorageManager, nfs: Backend) -> None:
        volume = manager.create_volume("v1", "gold", 3_000_001)
        assert (volume.size, volume.virtual_size) == (3_000_001, 4 * MIB)

    def test_that_is_asked_for_again_is_the_same_and_costs_no_call(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        with pool.journal.recording() as calls:
            assert manager.create_volume("v1", "gold", GIB) == volume
        assert calls.methods() == []

    def test_of_the_same_id_but_another_size_or_flavor_is_refused(
        self, manager: StorageManager, nfs: Backend
    ) -> None:
        manager.create_flavor("silver", "")
        manager.create_volume("v1", "gold", GIB)
        with pytest.raises(VolumeExists, match="has 1 GiB"):
            manager.create_volume("v1", "gold", 2 * GIB)
        with pytest.raises(VolumeExists, match="another flavor"):
            manager.create_volume("v1", "silver", GIB)
        manager.clone_volume("c1", "v1")
        with pytest.raises(VolumeExists, match="copy of 'v1'"):
            manager.create_volume("c1", "gold", GIB)

    def test_may_have_the_id_of_one_that_was_deleted(self, manager: StorageManager, nfs: Backend) -> None:
        first = manager.create_volume("v1", "gold", GIB)
        manager.delete_volume("v1")
        again = manager.create_volume("v1", "gold", 2 * GIB)
        assert again.vdi_uuid != first.vdi_uuid
        assert manager.list_volumes() == [again]

    @pytest.mark.parametrize("volume_id", ["V1", "v1 x", "ö", "v1" * 100, "ｖ1", "a" * 255])
    def test_has_any_id_that_can_be_printed_and_no_other_volume_has_it(
        self, manager: StorageManager, nfs: Backend, volume_id: str
    ) -> None:
        """By default, databases fold case and spaces."""
        manager.create_volume("v1", "gold", GIB)
        manager.create_volume("o", "gold", GIB)
        volume = manager.create_volume(volume_id, "gold", 2 * GIB)
        assert manager.get_volume(volume_id) == volume
        assert len(manager.list_volumes()) == 3

    def test_that_eight_threads_ask_for_at_once_is_made_once(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        barrier = threading.Barrier(8)

        def create(number: int) -> object:
            barrier.wait()
            return manager.create_volume("v1", "gold", GIB)

        with ThreadPoolExecutor(8) as executor:
            volumes = set(executor.map(create, range(8)))
        (volume,) = volumes
        assert vdi_uuids(pool) == [manager.get_volume("v1").vdi_uuid]
        assert manager.audit().findings == []
        assert volume == manager.get_volume("v1")


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        "volume_id", ["", " v", "v ", "a\nb", "a\0b", "a" * 256, "\ud800", "\ufffe", "erasing:x"]
    )
    def test_an_id_is_refused_before_anything_is_done(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, volume_id: str
    ) -> None:
        with pool.journal.recording() as calls, pytest.raises(InvalidSetting, match="volume id"):
            manager.create_volume(volume_id, "gold", GIB)
        assert calls.methods() == []
        for make in (manager.create_snapshot, manager.clone_volume, manager.manage_volume):
            with pytest.raises(InvalidSetting, match="volume id"):
                make(volume_id, "v1")

    def test_a_name_is_refused(self, manager: StorageManager, nfs: Backend) -> None:
        for name in ("a" * 256, "a\x07"):
            with pytest.raises(InvalidSetting, match="name"):
                manager.create_volume("v1", "gold", GIB, name=name)

    @pytest.mark.parametrize("size", [0, -1, 1 << 63, 10**30])
    def test_a_size_that_no_disk_has_is_refused(
        self, manager: StorageManager, nfs: Backend, size: int
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        with pytest.raises(InvalidSetting, match="above 0"):
            manager.create_volume("v2", "gold", size)
        with pytest.raises(InvalidSetting, match="above 0"):
            manager.extend_volume("v1", size)
        with pytest.raises(InvalidSetting, match="above 0"):
            manager.clone_volume("v2", "v1", size=size)
        with pytest.raises(NoBackendFits):
            manager.create_volume("v2", "gold", (1 << 63) - 1)

    def test_an_unknown_flavor_names_those_there_are(self, manager: StorageManager) -> None:
        with pytest.raises(UnknownFlavor, match="known: gold"):
            manager.create_volume("v1", "platinum", GIB)


@on_every_database
class TestFallingThrough:
    @pytest.mark.parametrize(
        "refusal",
        [
            FULL,
            ("SR_BACKEND_FAILURE_78", "", "VDI Creation failed", ""),
            ("SR_BACKEND_FAILURE_79", "", "VDI Invalid size", ""),
            ("SR_BACKEND_FAILURE_47", "", "The SR is not available", ""),
            ("SR_HAS_NO_PBDS", "OpaqueRef:x"),
            ("SR_OPERATION_NOT_SUPPORTED", "OpaqueRef:x"),
            ("HOST_OFFLINE", "OpaqueRef:x"),
        ],
        ids=lambda refusal: refusal[0],
    )
    def test_a_backend_that_refuses_is_followed_by_the_next(
        self, pool: Simulator, manager: StorageManager, refusal: tuple[str, ...]
    ) -> None:
        _, second = backends_of(manager, NFS, NFS_2)
        pool.faults.refuse("VDI.create", *refusal)
        assert manager.create_volume("v1", "gold", GIB).backend_id == second.id
        assert manager.audit().findings == []

    def test_all_refusals_are_told_and_nothing_is_left(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        first, second = backends_of(manager, NFS, NFS_2)
        pool.faults.refuse("VDI.create", *FULL, every=True)
        with pytest.raises(NoBackendFits) as caught:
            manager.create_volume("v1", "gold", GIB)
        assert list(caught.value.reasons) == [first.id, second.id]
        assert all("insufficient space" in reason for reason in caught.value.reasons.values())
        assert manager.list_volumes() == []
        assert [each.backend.free for each in manager.stats()] == [first.free, second.free]

    def test_every_backend_of_the_flavor_has_its_own_reason(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        small, dead, refusing = backends_of(manager, NFS_SMALL, NFS, NFS_2)
        for pbd in pool.db.refs("PBD"):
            sr = pool.db.get("PBD", pbd, "SR")
            if pool.db.get("SR", sr, "uuid") == dead.sr_uuid:
                manager._context.session.call("PBD.unplug", pbd)
        pool.faults.refuse("VDI.create", *FULL, nth=2)
        with pytest.raises(NoBackendFits) as caught:
            manager.create_volume("v1", "gold", 20 * GIB)
        reasons = caught.value.reasons
        assert " free, and" in reasons[small.id]
        assert "SR_HAS_NO_PBDS" in reasons[dead.id]
        assert "insufficient space" in reasons[refusing.id]

    def test_a_backend_whose_sr_somebody_has_forgotten_is_passed_over(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        first, second = backends_of(manager, NFS, NFS_2)
        (sr,) = [ref for ref in pool.db.refs("SR") if pool.db.get("SR", ref, "uuid") == first.sr_uuid]
        for pbd in list(pool.db.children(sr, "PBDs")):
            manager._context.session.call("PBD.unplug", pbd)
        manager._context.session.call("SR.forget", sr)
        assert manager.create_volume("v1", "gold", GIB).backend_id == second.id

    def test_backends_are_filled_one_by_one_until_none_has_room(self, manager: StorageManager) -> None:
        backends_of(manager, NFS_SMALL, NFS)
        first = manager.create_volume("v1", "gold", 900 * MIB)
        second = manager.create_volume("v2", "gold", 900 * MIB)
        third = manager.create_volume("v3", "gold", 95 * GIB)
        assert first.backend_id != second.backend_id == third.backend_id
        with pytest.raises(NoBackendFits, match=r"backend \d+: has .* free.*; backend \d+: has"):
            manager.create_volume("v4", "gold", 10 * GIB)

    def test_a_flavor_without_backends_says_so(self, manager: StorageManager) -> None:
        with pytest.raises(NoBackendFits, match="it has no backends"):
            manager.create_volume("v1", "gold", GIB)

    def test_a_silence_is_no_refusal(self, pool: Simulator, manager: StorageManager) -> None:
        """The first backend may have made it, so no second one is tried; the same call again tries the first one
        last."""
        first, second = backends_of(manager, NFS, NFS_2)
        pool.faults.lose_request("VDI.create")
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        begun = manager.get_volume("v1")
        assert (begun.state, begun.backend_id) == ("creating", first.id)
        volume = manager.create_volume("v1", "gold", GIB)
        assert (volume.state, volume.backend_id) == ("available", second.id)
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert manager.stats()[0].backend.free == first.free

    def test_a_backend_that_was_silent_is_asked_again_when_all_others_refuse(
        self, pool: Simulator, manager: StorageManager
    ) -> None:
        first, _ = backends_of(manager, NFS, NFS_2)
        pool.faults.lose_request("VDI.create")
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        pool.faults.refuse("VDI.create", *FULL)
        volume = manager.create_volume("v1", "gold", GIB)
        assert (volume.state, volume.backend_id) == ("available", first.id)
        assert manager.audit().findings == []


class TestALostAnswer:
    def test_is_looked_up_and_the_disk_that_was_made_is_the_volume(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        pool.faults.lose_answer("VDI.create")
        volume = manager.create_volume("v1", "gold", GIB)
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert marks(pool) == []

    def test_after_which_the_host_is_silent_is_gone_on_with_by_the_next(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        pool.faults.lose_answer("VDI.create")
        order = pool.faults.lose_request("*", nth=3, every=True)
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        pool.faults.cancel(order.number)
        (made,) = vdi_uuids(pool)
        assert manager.create_volume("v1", "gold", GIB).vdi_uuid == made


@on_every_database
class TestTwoAtOnce:
    def test_the_one_that_comes_second_takes_back_its_disk(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        paused = Paused(pool, "VDI.create", lambda m: m.create_volume("v1", "gold", GIB), database)
        first = manager.create_volume("v1", "gold", GIB)
        assert paused.go_on() == first
        assert vdi_uuids(pool) == [first.vdi_uuid]
        assert marks(pool) == []
        assert manager.list_volumes() == [first]

    def test_a_disk_that_another_has_found_and_recorded_is_not_taken_back_by_its_maker(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        """Its service cannot read it back, and would erase a disk that is a volume by now."""
        pool.faults.refuse("event.from", "SR_BACKEND_FAILURE_1200", "", "ordered", "", nth=1)
        paused = Paused(pool, "event.from", lambda m: m.create_volume("v1", "gold", GIB), database)
        volume = manager.create_volume("v1", "gold", GIB)
        paused.go_on()
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert manager.audit().findings == []

    def test_deleted_while_it_is_made_it_leaves_nothing(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        paused = Paused(pool, "event.from", lambda m: m.create_volume("v1", "gold", GIB), database)
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []
        again = paused.go_on()
        assert again == manager.get_volume("v1")
        manager.delete_volume("v1")
        assert vdi_uuids(pool) == []
        assert manager.audit().findings == []

    def test_a_volume_is_told_to_nobody_while_its_disk_says_that_it_is_being_made(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        """A backup of a disk with a mark of its making has the mark too, and would be taken for an orphan."""
        paused = Paused(
            pool, "VDI.remove_from_other_config", lambda m: m.create_volume("v1", "gold", GIB), database
        )
        with pytest.raises(VolumeNotReady, match="creating"):
            manager.initialize_connection("v1")
        assert manager.get_volume("v1").state == "creating"
        volume = manager.create_volume("v1", "gold", GIB)
        assert marks(pool) == []
        assert paused.go_on() == volume

    def test_one_that_is_being_deleted_is_not_made_again(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, database: Database
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        paused = Paused(pool, "VDI.destroy", lambda m: m.delete_volume("v1"), database)
        with pytest.raises(VolumeNotReady, match="being deleted"):
            manager.create_volume("v1", "gold", GIB)
        paused.go_on()
        manager.create_volume("v1", "gold", GIB)


class TestADisk:
    def test_that_a_row_names_is_never_erased_by_another_row(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        (ref,) = pool.db.refs("VDI")
        context = manager._context
        assert not vdis.erase_unnamed(context, context.view(), nfs.id, ref, is_ours=True)  # type: ignore[arg-type]  # a plain text, from the rows
        assert vdi_uuids(pool) == [volume.vdi_uuid]

    def test_cannot_become_a_volume_while_it_is_erased(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        manager.unmanage_volume("v1")
        context = manager._context
        context.database.write(
            volume_rows.claim_for_erasing, backend_id=nfs.id, vdi_uuid=volume.vdi_uuid or ""
        )
        with pytest.raises(XenVolError, match="erasing:"):
            manager.manage_volume("v2", volume.vdi_uuid or "")

    def test_whose_refusal_comes_when_its_row_names_it_is_gone_on_with(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        pool.faults.refuse("VDI.remove_from_other_config", "SR_BACKEND_FAILURE_1200", "", "ordered", "")
        with pytest.raises(XapiError):
            manager.create_volume("v1", "gold", GIB)
        (made,) = vdi_uuids(pool)
        assert manager.create_volume("v1", "gold", GIB).vdi_uuid == made
        assert marks(pool) == []


def test_attempts_are_enough_for_a_crowd() -> None:
    assert creation.ATTEMPTS > 8
