"""An audit reports how database and pool differ, repairs what a crash has left, and destroys no disk in use."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.sm.conftest import (
    GIB,
    NFS,
    NFS_2,
    Finished,
    Paused,
    marks,
    on_every_database,
    vdi_uuids,
)
from xenvol.errors import XapiUnreachable
from xenvol.pool.marks import CREATING, MANAGED
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager, vdis, volume_rows
from xenvol.sm.database import Database
from xenvol.sm.records import Backend, Volume


def kinds(manager: StorageManager, *, repair: bool = False) -> list[str]:
    return sorted(finding.kind for finding in manager.audit(repair=repair).findings)


def sr_of(pool: Simulator, backend: Backend) -> str:
    ref = pool.db.by_uuid("SR", backend.sr_uuid or "")
    assert ref is not None
    return ref


def vdi_of(pool: Simulator, volume: Volume) -> str:
    ref = pool.db.by_uuid("VDI", volume.vdi_uuid or "")
    assert ref is not None
    return ref


def marked(pool: Simulator, backend: Backend, *keys: str, **more: object) -> str:
    """A VDI with a mark of its making."""
    vdi = pool.add_vdi(sr_of(pool, backend), "left over", size=GIB)
    with pool.xapi.lock:
        pool.db.set("VDI", vdi, other_config=dict.fromkeys(keys, "v9"), **more)
    return vdi


def die_at(pool: Simulator, method: str, work: Callable[[], object]) -> None:
    """The answer is lost, and no later call gets through."""
    pool.faults.die(after=method)
    with pytest.raises(XapiUnreachable):
        work()
    pool.faults.come_back()


@on_every_database
class TestWhatACrashHasLeft:
    def test_of_a_volume_that_has_no_disk_yet_is_the_row_and_goes(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        free = manager.list_backends()[0].free
        pool.faults.lose_request("VDI.create")
        with pytest.raises(XapiUnreachable):
            manager.create_volume("v1", "gold", GIB)
        assert kinds(manager) == ["half_made"]
        assert kinds(manager, repair=True) == ["half_made"]
        assert kinds(manager) == []
        assert manager.list_volumes() == []
        assert manager.list_backends()[0].free == free

    @pytest.mark.parametrize("method", ["VDI.create", "event.from", "VDI.remove_from_other_config"])
    def test_of_a_volume_that_has_a_disk_is_completed(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, method: str
    ) -> None:
        die_at(pool, method, lambda: manager.create_volume("v1", "gold", GIB))
        assert kinds(manager) == ["half_made"]
        assert manager.audit(repair=True).agrees
        assert kinds(manager) == []
        volume = manager.get_volume("v1")
        assert volume.state == "available"
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert marks(pool) == []

    def test_of_a_larger_clone_is_completed_to_its_size(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        die_at(pool, "VDI.clone", lambda: manager.clone_volume("c1", "v1", size=2 * GIB))
        assert manager.audit(repair=True).agrees
        assert manager.get_volume("c1").virtual_size == 2 * GIB
        assert kinds(manager) == []

    @pytest.mark.parametrize("method", ["VDI.get_record", "VDI.destroy"])
    def test_of_a_deletion_is_completed(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, method: str
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        die_at(pool, method, lambda: manager.delete_volume("v1"))
        assert kinds(manager) == ["half_deleted"]
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == []
        assert manager.list_volumes() == []

    def test_is_a_disk_for_which_there_is_no_row_and_is_erased(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        marked(pool, nfs, f"{CREATING}token", MANAGED)
        (finding,) = manager.audit().findings
        assert (finding.kind, finding.vdi_uuid) == ("orphan_vdi", vdi_uuids(pool)[0])
        assert "made for volume v9" in finding.text
        assert manager.audit(repair=True).agrees
        assert vdi_uuids(pool) == []
        assert manager.list_volumes() == []

    def test_is_a_second_disk_of_a_volume_and_is_erased(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        marked(pool, nfs, CREATING + volume.token)
        assert kinds(manager, repair=True) == ["orphan_vdi"]
        assert vdi_uuids(pool) == [volume.vdi_uuid]

    def test_is_a_row_that_stands_for_a_disk_being_erased(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        vdi = marked(pool, nfs, f"{CREATING}token")
        uuid = pool.db.get("VDI", vdi, "uuid")
        claim = volume_rows.claim_for_erasing
        manager._context.database.write(claim, backend_id=nfs.id, vdi_uuid=uuid)
        assert kinds(manager, repair=True) == ["half_deleted"]
        assert vdi_uuids(pool) == []
        assert manager.list_volumes() == []

    def test_is_a_registered_backend_without_an_sr(self, pool: Simulator, manager: StorageManager) -> None:
        die_at(pool, "SR.probe", lambda: manager.add_backend("gold", "nfs", NFS))
        assert kinds(manager) == ["backend_not_made"]
        assert manager.audit(repair=True).agrees
        assert manager.list_backends()[0].state == "ready"

    def test_is_a_backend_that_is_not_plugged_and_what_is_wrong_in_it(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """Its volumes are compared as soon as it is plugged."""
        volume = manager.create_volume("v1", "gold", GIB)
        marked(pool, nfs, f"{CREATING}token")
        for pbd in pool.db.refs("PBD"):
            manager._context.session.call("PBD.unplug", pbd)
        assert kinds(manager) == ["backend_unreachable"]
        assert kinds(manager, repair=True) == ["backend_unreachable", "orphan_vdi"]
        assert kinds(manager) == []
        assert vdi_uuids(pool) == [volume.vdi_uuid]


class TestADiskThatIsSomebodys:
    def test_is_one_without_a_mark(self, pool: Simulator, manager: StorageManager, nfs: Backend) -> None:
        """A copy of a volume's disk is marked as that volume, and belongs to the tool that made it."""
        manager.create_volume("v9", "gold", GIB)
        pool.add_vdi(sr_of(pool, nfs), "payroll", size=GIB)
        marked(pool, nfs, MANAGED)
        before = pool.snapshot()
        assert manager.audit(repair=True, scan=False).findings == []
        assert before.difference(pool.snapshot()) == []

    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    def test_is_one_that_a_vm_has_whatever_it_says(
        self, pool: Simulator, manager: StorageManager, nfs: Backend, power_state: str
    ) -> None:
        vdi = marked(pool, nfs, f"{CREATING}token")
        pool.add_vm("web", power_state=power_state, disks=[vdi])
        assert manager.audit(repair=True).agrees
        assert pool.db.exists("VDI", vdi)
        assert kinds(manager) == []

    def test_is_one_that_is_connected_without_a_vm(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        vdi = marked(pool, nfs, f"{CREATING}token", "xenvol:connected")
        (finding,) = manager.audit(repair=True).findings
        assert "not repaired" in finding.text
        assert pool.db.exists("VDI", vdi)
        assert manager.list_volumes() == []

    def test_that_a_vm_got_since_its_erasing_was_begun_is_spared(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """The service that was erasing it died, and a VM uses it now."""
        vdi = marked(pool, nfs, f"{CREATING}token")
        uuid = pool.db.get("VDI", vdi, "uuid")
        claim = volume_rows.claim_for_erasing
        manager._context.database.write(claim, backend_id=nfs.id, vdi_uuid=uuid)
        pool.add_vm("web", power_state="Halted", disks=[vdi])
        manager.audit(repair=True)
        assert pool.db.exists("VDI", vdi)
        assert manager.list_volumes() == []
        assert kinds(manager) == []

    def test_whose_erasing_was_begun_and_that_says_nothing_by_now_is_spared(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """Only a VDI with a mark of its making may be erased this way; since then, another tool has taken it and its
        mark."""
        vdi = pool.add_vdi(sr_of(pool, nfs), "payroll", size=GIB)
        uuid = pool.db.get("VDI", vdi, "uuid")
        claim = volume_rows.claim_for_erasing
        manager._context.database.write(claim, backend_id=nfs.id, vdi_uuid=uuid)
        assert kinds(manager, repair=True) == ["half_deleted"]
        assert pool.db.exists("VDI", vdi)
        assert manager.list_volumes() == []

    def test_is_the_source_of_a_copy_and_keeps_its_mark_while_the_call_may_be_under_way(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        """If the mark of a slow copy were removed, the copy would become an orphan."""
        volume = manager.create_volume("v1", "gold", GIB)
        for age, is_stale in ((vdis.AT_WORK - 60, False), (vdis.AT_WORK + 1, True)):
            key = f"{CREATING}token:{volume.vdi_uuid}:VDI.clone:{int(time.time()) - age}:0"
            manager._context.session.call("VDI.add_to_other_config", vdi_of(pool, volume), key, "c1")
            assert kinds(manager) == ["unsettled"] * is_stale
            manager.audit(repair=True)
        assert vdi_uuids(pool) == [volume.vdi_uuid]
        assert kinds(manager) == []
        assert len(marks(pool)) == 1


class TestARow:
    def test_whose_disk_has_another_size_is_told_the_size(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        volume = manager.create_volume("v1", "gold", GIB)
        manager._context.session.call("VDI.resize", vdi_of(pool, volume), 2 * GIB)
        assert kinds(manager, repair=True) == ["size_differs"]
        assert manager.get_volume("v1").virtual_size == 2 * GIB
        assert kinds(manager) == []

    def test_whose_disk_does_not_say_so_is_put_right_without_touching_what_others_say(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        manager.create_volume("v1", "gold", GIB)
        clone = manager.clone_volume("c1", "v1")
        with pool.xapi.lock:
            pool.db.set("VDI", vdi_of(pool, clone), other_config={"folder": "/a", MANAGED: "v1"})
        assert kinds(manager, repair=True) == ["unsettled"]
        assert pool.db.get("VDI", vdi_of(pool, clone), "other_config") == {"folder": "/a", MANAGED: "c1"}

    def test_whose_disk_was_lost_while_it_was_made_goes(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        die_at(pool, "VDI.remove_from_other_config", lambda: manager.create_volume("v1", "gold", GIB))
        (vdi,) = pool.db.refs("VDI")
        manager._context.session.call("VDI.destroy", vdi)
        assert kinds(manager, repair=True) == ["half_made"]
        assert manager.list_volumes() == []

    def test_of_a_dead_backend_keeps_no_other_from_being_looked_at(
        self, pool: Simulator, manager: StorageManager, nfs: Backend
    ) -> None:
        second = manager.add_backend("gold", "nfs", NFS_2)
        marked(pool, second, f"{CREATING}token")
        for pbd in pool.db.children(sr_of(pool, nfs), "PBDs"):
            manager._context.session.call("PBD.unplug", pbd)
        pool.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_47", "", "dead", "", every=True)
        report = manager.audit(repair=True)
        assert [(finding.kind, finding.repaired) for finding in report.findings] == [
            ("backend_unreachable", False),
            ("orphan_vdi", True),
        ]
        assert not report.agrees
        assert report.as_dict()["backends"] == 2


class Step:
    """An operation of a running service, and its result when an audit has repaired beside it."""

    def __init__(
        self,
        name: str,
        work: Callable[[StorageManager], object],
        *,
        prepare: Callable[[StorageManager], object] = lambda manager: None,
        left: tuple[str, ...],
    ) -> None:
        self.name, self.work, self.prepare, self.left = name, work, prepare, left

    def __repr__(self) -> str:
        return self.name


def _volume(manager: StorageManager) -> None:
    manager.create_volume("v1", "gold", GIB)


STEPS = [
    Step("create", lambda m: m.create_volume("v1", "gold", GIB), left=("v1",)),
    Step("snapshot", lambda m: m.create_snapshot("s1", "v1"), prepare=_volume, left=("s1", "v1")),
    Step("clone", lambda m: m.clone_volume("c1", "v1"), prepare=_volume, left=("c1", "v1")),
    Step(
        "clone-larger",
        lambda m: m.clone_volume("c1", "v1", size=2 * GIB),
        prepare=_volume,
        left=("c1", "v1"),
    ),
    Step("extend", lambda m: m.extend_volume("v1", 2 * GIB), prepare=_volume, left=("v1",)),
    Step("delete", lambda m: m.delete_volume("v1"), prepare=_volume, left=()),
]
_LONGEST = 20  # calls of one of them, at most


@pytest.mark.parametrize("answer", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_an_audit_beside_a_live_service_costs_nobody_a_disk(
    pool: Simulator, manager: StorageManager, nfs: Backend, database: Database, step: Step, answer: bool
) -> None:
    """The service stops before, or after, each of its calls while an audit repairs; then it continues."""
    step.prepare(manager)
    before = {volume.id for volume in manager.list_volumes()}
    for nth in range(1, _LONGEST):
        try:
            paused = Paused(pool, "*", step.work, database, nth=nth, answer=answer)
        except Finished:
            break
        manager.audit(repair=True)
        manager.audit(repair=True)
        paused.go_on()
        volumes = manager.list_volumes()
        assert tuple(volume.id for volume in volumes) == step.left, nth
        assert sorted(volume.vdi_uuid or "" for volume in volumes) == vdi_uuids(pool), nth
        assert {volume.state for volume in volumes} <= {"available"}, nth
        assert manager.audit().findings == [], nth
        for volume in volumes:
            if volume.id not in before:
                manager.delete_volume(volume.id)
        if before and not volumes:
            step.prepare(manager)
        if step.name == "extend":
            manager.delete_volume("v1")
            step.prepare(manager)
    assert nth > 3
