"""The room in a backend's row is right: by sizes, by what other services do meanwhile, by its flavor's rules."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.sm.backend_lab import ARRAY, DEVICE, WORLDS, StorageWorld
from tests.sm.conftest import NFS, NFS_2, log_in, on_every_database
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager, capacity, placement
from xenvol.sm.context import Context
from xenvol.sm.errors import NoBackendFits, UnknownBackend, UnknownFlavor
from xenvol.sm.records import Backend
from xenvol.storage.srtypes import VHD_MAX

MIB, GIB = 1 << 20, 1 << 30
TIB = 1 << 40
BOUNDARIES = {
    "vhd": [1, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 100 * MIB, 100 * MIB + 1, VHD_MAX - 1, VHD_MAX],
    "lun": [1, MIB - 1, MIB, MIB + 1, 100 * MIB, VHD_MAX, VHD_MAX + 1],
}


def sr_record(xapi: Simulator, backend: Backend) -> dict[str, Any]:
    return dict(xapi.db.record("SR", sr_of(xapi, backend)))


def used(xapi: Simulator, backend: Backend) -> int:
    return int(sr_record(xapi, backend)["physical_utilisation"])


def is_true(manager: StorageManager, xapi: Simulator, backend: Backend) -> bool:
    """Return True if the row has the free room that the pool has now, or at most a hundredth less, and never more."""
    sr_rec = sr_record(xapi, backend)
    there_is = placement.placeable(
        manager.flavor_of(backend),
        is_thin=backend.is_thin,
        physical_size=int(sr_rec["physical_size"]),
        physical_utilisation=int(sr_rec["physical_utilisation"]),
        virtual_allocation=int(sr_rec["virtual_allocation"]),
    )
    return 0 <= there_is - row(manager, backend).free <= int(sr_rec["physical_size"]) // 100


def row(manager: StorageManager, backend: Backend) -> Backend:
    return manager.list_backends(backend.id)[0]


def sr_of(xapi: Simulator, backend: Backend) -> str:
    """Return the reference of the backend's SR."""
    return next(ref for ref in xapi.db.refs("SR") if xapi.db.get("SR", ref, "uuid") == backend.sr_uuid)


def change(xapi: Simulator, cls: str, ref: str, **values: Any) -> None:
    """Change the pool behind xenvol's back."""
    with xapi.xapi.lock:
        xapi.db.set(cls, ref, **values)


# ---- sizes


def make_large(xapi: Simulator, world: StorageWorld) -> None:
    """Make room for the largest possible disk."""
    if world.disk is not None:
        world.disk(xapi).resize(3 * TIB)
    if (array := xapi.storage.san.arrays.get(ARRAY)) is not None:
        array.pools["pool0"] = 3 * TIB


@pytest.mark.parametrize("world", [world for world in WORLDS if not world.luns], ids=str)
def test_a_disk_has_the_size_and_takes_the_room_that_are_reckoned_with(
    world: StorageWorld, xapi: Simulator, database: Database
) -> None:
    """For each type, around every boundary: in the pool, in the volume's row, in the backend's row."""
    world.arrange(xapi)
    make_large(xapi, world)
    with log_in(xapi) as session:
        manager = StorageManager(session, database)
        manager.create_flavor("gold", "", over_subscription=1000.0)
        backend = manager.add_backend("gold", world.sr_type, world.config, format_device=world.format_device)
        kind = backend.type
        for size in BOUNDARIES["vhd" if kind.max_size is not None else "lun"]:
            before, free = used(xapi, backend), row(manager, backend).free
            volume = manager.create_volume("volume", "gold", size)
            (vdi,) = session.find("VDI", {"uuid": volume.vdi_uuid or ""}).values()
            assert int(vdi["virtual_size"]) == volume.virtual_size == kind.rounded(size)
            taken = used(xapi, backend) - before
            if backend.is_thin:
                assert 0 <= taken <= kind.rounded(size)
            else:
                assert taken == kind.taken(size) == volume.cost == free - row(manager, backend).free
            assert is_true(manager, xapi, backend)
            manager.delete_volume("volume")
            assert used(xapi, backend) == before
            assert is_true(manager, xapi, backend)
        if kind.max_size is not None:
            with pytest.raises(NoBackendFits, match="at most 2040 GiB"):
                manager.create_volume("volume", "gold", VHD_MAX + 1)


@pytest.mark.parametrize("sr_type", ["cephfs", "glusterfs"])
def test_files_are_thin_whatever_their_driver_does_not_say(
    sr_type: str, xapi: Simulator, database: Database
) -> None:
    """These two drivers do not name the feature; counted as thick, their space would be promised again and again."""
    (world,) = [world for world in WORLDS if world.name == sr_type]
    world.arrange(xapi)
    with log_in(xapi) as session:
        manager = StorageManager(session, database)
        manager.create_flavor("gold", "")
        backend = manager.add_backend("gold", sr_type, world.config)
        assert "THIN_PROVISIONING" not in backend.features
        assert backend.is_thin
        manager.create_volume("first", "gold", 60 * GIB)
        with pytest.raises(NoBackendFits):
            manager.create_volume("second", "gold", 60 * GIB)


def test_an_sr_on_lvm_that_is_thin_is_seen_to_be(manager: StorageManager, pool: Simulator) -> None:
    """Also an SR of the pool that is registered by its uuid: the config does not say it, and the SR does."""
    thin = {"device": DEVICE, "allocation": "thin"}
    ref = pool.add_sr("somebody's", type="lvm", device_config=thin, create=True, shared=False)
    sr_uuid = pool.db.get("SR", ref, "uuid")
    for pbd in pool.db.children(ref, "PBDs"):
        change(pool, "PBD", pbd, device_config={"device": DEVICE})
    backend = manager.add_backend("gold", "lvm", {"sr_uuid": sr_uuid})
    assert "allocation" not in backend.params
    assert backend.is_thin


# ---- the flavor's rules, kept until nothing fits


def fill(manager: StorageManager, flavor: str, size: int) -> int:
    """Return how many volumes fit."""
    for number in range(1000):
        try:
            manager.create_volume(f"volume-{number}", flavor, size)
        except NoBackendFits:
            return number
    raise AssertionError("it never ends")


def in_use(xapi: Simulator, backend: Backend) -> tuple[int, int]:
    sr_rec = sr_record(xapi, backend)
    return int(sr_rec["physical_utilisation"]), int(sr_rec["virtual_allocation"])


class TestRules:
    @pytest.mark.parametrize(
        ("over_subscription", "reserved", "most"),
        [
            (1.0, 0, 100 * GIB),
            (1.0, 25, 75 * GIB),
            (2.0, 0, 200 * GIB),
            (2.5, 10, 225 * GIB),
            (0.5, 0, 50 * GIB),
        ],
    )
    def test_a_thin_backend_is_promised_up_to_the_factor_of_what_the_reserve_leaves(
        self, manager: StorageManager, pool: Simulator, over_subscription: float, reserved: int, most: int
    ) -> None:
        manager.create_flavor("silver", "", over_subscription=over_subscription, reserved_percentage=reserved)
        backend = manager.add_backend("silver", "nfs", NFS)
        size = 9 * GIB
        count = fill(manager, "silver", size)
        _, promised = in_use(pool, backend)
        assert promised == count * size
        assert most - size - GIB < promised <= most

    def test_a_thick_backend_keeps_its_reserve_and_is_never_promised_more_than_it_has(
        self, manager: StorageManager, pool: Simulator
    ) -> None:
        """With any factor: a thick disk takes all that it is promised."""
        manager.create_flavor("silver", "", over_subscription=3.0, reserved_percentage=20)
        backend = manager.add_backend("silver", "lvm", {"device": DEVICE}, format_device=DEVICE)
        fill(manager, "silver", 3 * GIB)
        taken, _ = in_use(pool, backend)
        whole = int(sr_record(pool, backend)["physical_size"])
        assert whole * 0.8 - 4 * GIB < taken <= whole * 0.8

    def test_what_guests_have_written_counts(self, manager: StorageManager, pool: Simulator) -> None:
        """No volume is larger than the free space times the factor, even if little is promised so far."""
        manager.create_flavor("silver", "", over_subscription=2.0)
        backend = manager.add_backend("silver", "nfs", NFS)
        pool.storage.shares.nfs_server("10.0.0.2").exports["/vols"].filesystem.fill(leaving=10 * GIB)
        manager.create_volume("first", "silver", GIB)  # from here on the pool knows
        assert 19 * GIB < row(manager, backend).free <= 20 * GIB
        with pytest.raises(NoBackendFits):
            manager.create_volume("large", "silver", 20 * GIB)
        manager.create_volume("second", "silver", 19 * GIB)

    def test_disks_of_others_count(self, manager: StorageManager, nfs: Backend, pool: Simulator) -> None:
        """They are promised too, although they belong to no volume."""
        sr_ref = sr_of(pool, nfs)
        pool.add_vdi(sr_ref, "somebody's", size=95 * GIB)
        (seen,) = manager.stats("gold")
        assert seen.backend.free == 5 * GIB
        with pytest.raises(NoBackendFits):
            manager.create_volume("volume", "gold", 6 * GIB)

    def test_what_a_flavor_may_not_take_of_its_backend_another_does_not_get(
        self, manager: StorageManager
    ) -> None:
        """A full flavor is full, even if the backends of other flavors are empty."""
        manager.create_flavor("silver", "")
        manager.add_backend("silver", "nfs", NFS)
        with pytest.raises(NoBackendFits, match="it has no backends"):
            manager.create_volume("volume", "gold", GIB)
        other = manager.add_backend("gold", "nfs", {"server": "10.0.0.2", "serverpath": "/small"})
        with pytest.raises(NoBackendFits) as caught:
            manager.create_volume("volume", "gold", 2 * GIB)
        assert list(caught.value.reasons) == [other.id]

    def test_a_snapshot_takes_what_is_stored_and_not_what_was_set_aside_for_it(
        self, manager: StorageManager, lvm: Backend, pool: Simulator
    ) -> None:
        """On LVM that is much less; the rest of the room is free again at once."""
        manager.create_volume("volume", "gold", 15 * GIB)
        for number in range(5):
            manager.create_snapshot(f"snapshot-{number}", "volume")
            assert is_true(manager, pool, lvm)
        assert row(manager, lvm).free > 15 * GIB


class TestSnapshots:
    """A base copy that the storage driver hides is promised to nobody."""

    @pytest.mark.parametrize(
        "world", [world for world in WORLDS if world.name in ("nfs", "ext", "smb")], ids=str
    )
    def test_take_their_room_once_whatever_has_been_scanned_or_collected(
        self, world: StorageWorld, xapi: Simulator, database: Database
    ) -> None:
        world.arrange(xapi)
        with log_in(xapi) as session:
            manager = StorageManager(session, database)
            manager.create_flavor("gold", "")
            backend = manager.add_backend(
                "gold", world.sr_type, world.config, format_device=world.format_device
            )
            manager.create_volume("volume", "gold", 33 * GIB)
            manager.create_snapshot("snapshot", "volume")
            sr_ref = sr_of(xapi, backend)
            found = [row(manager, backend).free, manager.stats()[0].backend.free]
            session.call("SR.scan", sr_ref)
            assert sr_record(xapi, backend)["virtual_allocation"] == 99 * GIB
            found += [row(manager, backend).free, manager.stats()[0].backend.free]
            manager.create_volume("between", "gold", GIB)
            manager.delete_volume("between")
            found.append(row(manager, backend).free)
            (base,) = [ref for ref in xapi.db.refs("VDI") if not xapi.db.get("VDI", ref, "managed")]
            with xapi.xapi.lock:
                xapi.db.delete(
                    "VDI", base
                )  # as the driver's collector does; the SR's number stays until a scan
            found += [row(manager, backend).free, manager.stats()[0].backend.free]
            assert max(found) - min(found) <= GIB // 10
            assert row(manager, backend).virtual_allocation == 66 * GIB
            manager.create_volume("last", "gold", 30 * GIB)

    def test_leave_the_disks_of_others_in_the_sum(
        self, manager: StorageManager, nfs: Backend, pool: Simulator
    ) -> None:
        manager.create_volume("volume", "gold", 10 * GIB)
        manager.create_snapshot("snapshot", "volume")
        pool.add_vdi(sr_of(pool, nfs), "somebody's", size=50 * GIB)
        manager._context.session.call("SR.scan", sr_of(pool, nfs))
        (seen,) = manager.stats()
        assert seen.backend.virtual_allocation == 70 * GIB
        manager.create_volume("another", "gold", GIB)
        assert row(manager, nfs).free <= 29 * GIB

    def test_cost_a_new_volume_no_call(self, manager: StorageManager, nfs: Backend, pool: Simulator) -> None:
        def calls_of(volume_id: str) -> list[str]:
            with pool.journal.recording() as calls:
                manager.create_volume(volume_id, "gold", GIB)
            return calls.methods()

        without = calls_of("first")
        manager.create_snapshot("snapshot", "first")
        manager._context.session.call("SR.scan", sr_of(pool, nfs))
        manager.stats()
        assert calls_of("second") == without


class TestFittingBackend:
    """Among backends that do not fit, the one that fits is found; the error gives the reason of each."""

    def test_has_the_features_that_are_needed(self, manager: StorageManager) -> None:
        raw = manager.add_backend("gold", "nfs", {**NFS, "type": "raw"})
        vhd = manager.add_backend("gold", "nfs", NFS_2)
        assert manager.create_volume("plain", "gold", GIB).backend_id == raw.id
        for needs in (["snapshot"], ["clone"], ["resize"], ["resize", "snapshot"]):
            volume = manager.create_volume(f"needs-{needs}", "gold", GIB, needs=needs)
            assert volume.backend_id == vhd.id
        manager.create_snapshot("snapshot", "needs-['snapshot']")
        with pytest.raises(NoBackendFits) as caught:
            manager.create_volume("volume", "gold", GIB, needs=["resize_online", "clone"])
        assert caught.value.reasons == {
            raw.id: "its raw disks cannot clone or resize_online",
            vhd.id: "its storage driver, nfs, cannot resize_online",
        }

    def test_is_the_one_that_is_in_order(self, manager: StorageManager, pool: Simulator) -> None:
        first = manager.add_backend("gold", "nfs", NFS)
        second = manager.add_backend("gold", "nfs", NFS_2)
        sr_ref = sr_of(pool, first)
        for pbd in pool.db.children(sr_ref, "PBDs"):
            change(pool, "PBD", pbd, currently_attached=False)
        assert manager.create_volume("volume", "gold", GIB).backend_id == second.id
        with pytest.raises(NoBackendFits) as caught:
            manager.create_volume("large", "gold", 200 * GIB)
        assert caught.value.reasons[first.id] == "is out of order: its SR is plugged on no host"
        assert " free, and" in caught.value.reasons[second.id]

    def test_is_not_one_of_luns(self, xapi: Simulator, database: Database) -> None:
        (luns,) = [world for world in WORLDS if world.name == "iscsi"]
        luns.arrange(xapi)
        with log_in(xapi) as session:
            manager = StorageManager(session, database)
            manager.create_flavor("gold", "")
            backend = manager.add_backend("gold", "iscsi", luns.config)
            assert (backend.free, backend.physical_size > 0) == (0, True)
            with xapi.journal.recording() as calls, pytest.raises(NoBackendFits, match="manage its VDI"):
                manager.create_volume("volume", "gold", MIB)
            assert "VDI.create" not in calls.methods()


# ---- what other services do during a reading


@contextlib.contextmanager
def another_service(
    pool: Simulator, database: Database, work: Callable[[StorageManager], object], order: Any
) -> Iterator[Future[object]]:
    """A service that stops where the order strikes during the block, and continues when the block is left."""
    with log_in(pool) as session, ThreadPoolExecutor(1) as executor:
        future = executor.submit(work, StorageManager(session, database))
        try:
            while not order.hits and not future.done():
                time.sleep(0.002)
            assert order.hits, future.result()
            yield future
        finally:
            order.release()
        future.result(60)


class TestMeanwhile:
    """An old reading of the pool does not give back room that other services have taken since."""

    @on_every_database
    def test_a_volume_is_made_while_another_service_looks(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """The other service's reading has the volume neither in the pool nor among those in the making."""
        order = pool.faults.hang("PBD.get_all_records_where")
        with another_service(pool, database, StorageManager.stats, order):
            manager.create_volume("volume", "gold", 60 * GIB)
        assert is_true(manager, pool, nfs)
        with pytest.raises(NoBackendFits):
            manager.create_volume("too-much", "gold", 60 * GIB)

    @on_every_database
    def test_a_volume_is_made_while_another_service_has_made_one(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """That service read the SR before the second disk existed, and stores it afterwards."""

        def create(service: StorageManager) -> object:
            return service.create_volume("first", "gold", 30 * GIB)

        order = pool.faults.hang("event.from", answer=True)
        with another_service(pool, database, create, order):
            manager.create_volume("second", "gold", 60 * GIB)
        assert is_true(manager, pool, nfs)
        assert row(manager, nfs).virtual_allocation == 90 * GIB

    @pytest.mark.parametrize("size", [30 * GIB, GIB // 2], ids=["large", "small"])
    def test_a_volume_is_half_made_while_another_service_has_made_one(
        self, size: int, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """Its row has just named its disk, so nothing is promised to it any more, and the other service has not read
        it."""

        def create(volume_id: str) -> Callable[[StorageManager], object]:
            return lambda service: service.create_volume(volume_id, "gold", size)

        looked = pool.faults.hang("event.from", answer=True)
        named = pool.faults.hang("VDI.remove_from_other_config")
        with contextlib.ExitStack() as half_made:
            with another_service(pool, database, create("first"), looked):
                half_made.enter_context(another_service(pool, database, create("second"), named))
            assert manager.get_volume("first").state == "available"
            assert manager.get_volume("second").state == "creating"
            assert is_true(manager, pool, nfs)

    def test_a_volume_is_deleted_while_another_service_has_made_one(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """The older reading does not lose the room of the deleted volume."""
        manager.create_volume("old", "gold", 60 * GIB)

        def create(service: StorageManager) -> object:
            return service.create_volume("new", "gold", 30 * GIB)

        order = pool.faults.hang("event.from", answer=True)
        with another_service(pool, database, create, order):
            manager.delete_volume("old")
        assert is_true(manager, pool, nfs)

    @on_every_database
    def test_a_volume_is_being_made_while_another_service_looks(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """Its room is promised, although no number of the pool shows it."""

        def create(service: StorageManager) -> object:
            return service.create_volume("volume", "gold", 60 * GIB)

        order = pool.faults.hang("VDI.create")
        with another_service(pool, database, create, order):
            (seen,) = manager.stats("gold")
            assert (
                seen.backend.free == 100 * GIB - 60 * GIB - used(pool, nfs) or seen.backend.free <= 40 * GIB
            )
            assert seen.backend.free > 39 * GIB
        assert is_true(manager, pool, nfs)

    def test_a_volume_is_deleted_while_another_service_looks(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        manager.create_volume("volume", "gold", 60 * GIB)
        order = pool.faults.hang("PBD.get_all_records_where")
        with another_service(pool, database, StorageManager.stats, order):
            manager.delete_volume("volume")
        assert is_true(manager, pool, nfs)

    def test_many_services_never_promise_more_than_there_is(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """Eight threads create volumes and read the pool; 100 GiB stay 100 GiB, and none of them is lost."""

        def work(number: int) -> None:
            for turn in range(3):
                with contextlib.suppress(NoBackendFits):
                    manager.create_volume(f"of-{number}-{turn}", "gold", 7 * GIB)
                manager.stats("gold")

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(work, range(8)))
        assert in_use(pool, nfs)[1] <= 100 * GIB
        manager.stats("gold")  # the last reading may include a disk in the making
        assert is_true(manager, pool, nfs)
        fill(manager, "gold", 7 * GIB)  # a disk that is just being made may have counted twice
        assert in_use(pool, nfs)[1] == 98 * GIB

    def test_a_backend_is_removed_while_another_service_looks(
        self, manager: StorageManager, nfs: Backend, pool: Simulator, database: Database
    ) -> None:
        """It is left out; if it was the only one, that is an error."""
        other = manager.add_backend("gold", "nfs", NFS_2)
        manager.remove_backend(nfs.id)
        with log_in(pool) as session:
            context = Context(session, database)
            assert [each.id for each in capacity.refresh(context, context.view(), [nfs, other])] == [other.id]
            with pytest.raises(UnknownBackend):
                capacity.refresh(context, context.view(), [nfs])
            capacity.note(context, nfs, sr_record(pool, other))


# ---- looking


class TestLook:
    def test_takes_as_many_calls_for_twenty_backends_as_for_one(
        self, manager: StorageManager, pool: Simulator
    ) -> None:
        server = pool.storage.shares.nfs_server("10.0.0.2")
        counts = []
        for number in range(20):
            server.export(f"/v{number}", size=GIB)
            manager.add_backend("gold", "nfs", {"server": "10.0.0.2", "serverpath": f"/v{number}"})
            with pool.journal.recording() as calls:
                manager.stats()
            counts.append(calls.methods())
        assert (
            counts[0] == counts[-1] == ["SR.get_all_records_where", "PBD.get_all_records_where", "event.from"]
        )

    @pytest.mark.xapi(hosts=2)
    def test_sees_what_is_wrong_with_an_sr_and_that_it_is_not_any_more(
        self, manager: StorageManager, nfs: Backend, pool: Simulator
    ) -> None:
        sr_ref = sr_of(pool, nfs)
        pbds = pool.db.children(sr_ref, "PBDs")
        master = pool.xapi.master

        def problem() -> str | None:
            (seen,) = manager.stats("gold")
            assert row(manager, nfs).problem == seen.backend.problem
            return seen.backend.problem

        for pbd in pbds:
            change(pool, "PBD", pbd, currently_attached=pool.db.get("PBD", pbd, "host") != master)
        assert problem() == ("its SR is not plugged on the pool's master, which does the work on a shared SR")
        for pbd in pbds:
            change(pool, "PBD", pbd, currently_attached=False)
        assert problem() == "its SR is plugged on no host"
        change(pool, "SR", sr_ref, uuid="0badcafe-0000-4000-8000-000000000001")
        assert problem() == "its SR is not known to the pool"
        change(pool, "SR", sr_ref, uuid=nfs.sr_uuid)
        pool.faults.refuse("PBD.get_all_records_where", "RBAC_PERMISSION_DENIED", "pbd.get", "no")
        assert "RBAC_PERMISSION_DENIED" in (problem() or "")
        change(pool, "PBD", pbds[0], currently_attached=True)
        change(pool, "PBD", pbds[1], currently_attached=True)
        assert problem() is None
        assert manager.create_volume("volume", "gold", GIB).backend_id == nfs.id

    def test_that_sees_nothing_leaves_the_sizes_that_were_seen(
        self, manager: StorageManager, nfs: Backend, pool: Simulator
    ) -> None:
        pool.faults.refuse("SR.get_all_records_where", "RBAC_PERMISSION_DENIED", "sr.get", "no")
        (seen,) = manager.stats("gold")
        assert seen.backend.problem is not None
        sizes = ("physical_size", "physical_utilisation", "virtual_allocation", "free", "features")
        for name in sizes:
            assert getattr(seen.backend, name) == getattr(nfs, name)

    def test_at_an_sr_that_was_never_plugged_sees_nothing_rather_than_less(
        self, manager: StorageManager, nfs: Backend, pool: Simulator
    ) -> None:
        """xapi says that it has -1 bytes."""
        change(pool, "SR", sr_of(pool, nfs), physical_size=-1, physical_utilisation=-1, virtual_allocation=-1)
        (seen,) = manager.stats("gold")
        assert (seen.backend.physical_size, seen.backend.physical_utilisation, seen.backend.free) == (0, 0, 0)


class TestStats:
    def test_have_each_backend_of_a_flavor_with_what_it_holds(
        self, manager: StorageManager, nfs: Backend
    ) -> None:
        manager.create_flavor("silver", "")
        other = manager.add_backend("silver", "nfs", NFS_2)
        for number in range(3):
            manager.create_volume(f"volume-{number}", "gold", GIB)
        manager.create_volume("deleted", "silver", GIB)
        manager.delete_volume("deleted")
        stats = manager.stats()
        assert [(each.backend.id, each.flavor.label, each.volumes) for each in stats] == [
            (nfs.id, "gold", 3),
            (other.id, "silver", 0),
        ]
        assert [each.backend.id for each in manager.stats("silver")] == [other.id]
        told = stats[0].as_dict()
        assert (told["flavor"], told["volumes"], told["thin"]) == ("gold", 3, True)
        assert told["physical_size"] == 100 * GIB
        assert told["virtual_allocation"] == 3 * GIB
        assert told["free"] == 97 * GIB

    def test_of_a_flavor_that_is_not_there_are_an_error(self, manager: StorageManager) -> None:
        with pytest.raises(UnknownFlavor):
            manager.stats("bronze")
        assert manager.stats() == []
