"""VDIs are created, changed, copied and destroyed as xapi allows."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from storage_pool import DEAD, GIB, NULL, StoragePool, refusal, storage_pool
from xapi_client import PlainClient, log_in

from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath
from xenvol.simulator.rules.port import Port
from xenvol.simulator.sm.base import VDIInfo, XapiRefusal

MIB = 1 << 20
UUID = "33333333-0000-4000-8000-000000000001"
OTHER_UUID = "33333333-0000-4000-8000-000000000002"


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with storage_pool() as pool:
        yield pool


@pytest.fixture
def sr(pool: StoragePool) -> str:
    return pool.sr()


class TestCreate:
    def test_the_driver_says_where_it_lies_and_what_it_is_like(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr, virtual_size="1048577", sm_config={"s": "t"}, tags=["t"], xenstore_data={"x": "y"})
        record = pool.x.VDI.get_record(vdi)
        assert record["location"] == record["uuid"]
        assert record["virtual_size"] == record["physical_utilisation"] == "1048577"
        assert record["sm_config"] == {"samplekey": "This is a dummy SR VDI"}
        assert (record["tags"], record["xenstore_data"]) == (["t"], {"x": "y"})
        assert record["metadata_of_pool"] == ""
        expected = {"forget", "destroy", "snapshot", "resize", "copy", "clone"}
        assert set(record["allowed_operations"]) == expected

    def test_changed_block_data_is_not_made_by_hand(self, pool: StoragePool, sr: str) -> None:
        error = ["VDI_INCOMPATIBLE_TYPE", "", "CBT metadata"]
        assert refusal(lambda: pool.vdi(sr, type="cbt_metadata")) == error

    def test_it_wants_an_sr_that_is_there_and_plugged(self, pool: StoragePool) -> None:
        for bad in (NULL, DEAD):
            assert refusal(pool.vdi, bad) == ["HANDLE_INVALID", "SR", bad]
        assert refusal(pool.vdi, bare := pool.introduced()) == ["SR_HAS_NO_PBDS", bare]

    def test_a_driver_that_refuses_leaves_nothing(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", fail_vdi_create="VDICreate")
        assert refusal(pool.vdi, sr)[:1] == ["SR_BACKEND_FAILURE_78"]
        assert pool.x.SR.get_VDIs(sr) == []

    def test_a_name_must_be_what_sm_takes_for_xml(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        for name in ("\x7f", "a\ufdd0", "\U0001fffe"):
            assert refusal(lambda name=name: pool.vdi(sr, name_label=name))[0] == "SR_BACKEND_FAILURE_447"
            assert refusal(pool.x.VDI.set_name_label, vdi, name)[0] == "INTERNAL_ERROR"
            assert refusal(pool.x.VDI.set_name_description, vdi, "fine")[0] == "INTERNAL_ERROR"
        assert pool.x.VDI.set_name_label(vdi, "tab\tline\n\x85é😀") == ""


class TestIntroduce:
    def test_the_row_has_the_drivers_sizes_and_the_callers_names(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.x.VDI.introduce(
            *(UUID, "lab", "desc", sr, "user", True, True, {"o": "c"}, "loc", {"x": "y"}, {"s": "m"}),
            *(False, "1048576", "1024"),
        )
        record = pool.x.VDI.get_record(vdi)
        assert (record["uuid"], record["location"], record["name_label"]) == (UUID, "loc", "lab")
        assert (record["virtual_size"], record["sm_config"]) == ("0", {})
        assert (record["sharable"], record["read_only"], record["managed"]) == (True, False, True)
        assert "snapshot" not in record["allowed_operations"]

    def test_a_location_is_taken_once(self, pool: StoragePool, sr: str) -> None:
        pool.introduced_vdi(sr, UUID, "loc")
        taken = ["LOCATION_NOT_UNIQUE", sr, "loc"]
        assert refusal(pool.introduced_vdi, sr, OTHER_UUID, "loc") == taken
        assert pool.introduced_vdi(pool.sr(), OTHER_UUID, "loc")

    @pytest.mark.parametrize("uuid", [UUID, "", "bad-uuid"])
    def test_whatever_the_driver_refuses_the_disk_is_said_to_be_absent(
        self, pool: StoragePool, sr: str, uuid: str
    ) -> None:
        pool.introduced_vdi(pool.sr(), UUID, "elsewhere")
        absent = "Storage_error ([S(Vdi_does_not_exist);S(loc)])"
        assert refusal(pool.introduced_vdi, sr, uuid, "loc") == ["INTERNAL_ERROR", absent]

    def test_an_empty_location_makes_it_a_snapshot_of_itself(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.introduced_vdi(sr, UUID, "")
        assert pool.x.VDI.get_snapshot_of(vdi) == vdi

    def test_not_every_driver_can(self, pool: StoragePool) -> None:
        sr = pool.introduced("nfs")
        assert refusal(pool.introduced_vdi, sr, UUID, "loc") == ["SR_OPERATION_NOT_SUPPORTED", sr]

    def test_rows_alone_are_for_drivers(self, pool: StoragePool, sr: str) -> None:
        arguments = (UUID, "l", "d", sr, "user", False, False, {}, "loc", {}, {})
        assert refusal(pool.x.VDI.db_introduce, *arguments) == ["PERMISSION_DENIED", ""]
        vdi = pool.vdi(sr)
        assert refusal(pool.x.VDI.db_forget, vdi) == ["PERMISSION_DENIED", ""]
        for field, value in (
            ("managed", False),
            ("read_only", True),
            ("virtual_size", "5"),
            ("missing", True),
        ):
            assert refusal(getattr(pool.x.VDI, f"set_{field}"), vdi, value) == ["PERMISSION_DENIED", ""]
            assert refusal(getattr(pool.x.VDI, f"set_{field}"), NULL, value) == [
                "HANDLE_INVALID",
                "VDI",
                NULL,
            ]


class TestDestroy:
    def test_unplugged_slots_go_with_it(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        vbd = pool.vbd(vdi)
        pool.x.VDI.destroy(vdi)
        assert refusal(pool.x.VBD.get_uuid, vbd) == ["HANDLE_INVALID", "VBD", vbd]
        assert refusal(pool.x.VDI.destroy, vdi) == ["HANDLE_INVALID", "VDI", vdi]

    def test_a_suspended_vm_loses_its_image(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr, type="suspend")
        with pool.simulator.xapi.lock:
            vm = pool.db.create("VM", suspend_VDI=vdi)
        pool.x.VDI.destroy(vdi)
        assert pool.x.VM.get_suspend_VDI(vm) == NULL

    def test_a_driver_that_refuses_keeps_it(self, pool: StoragePool) -> None:
        vdi = pool.vdi(pool.sr("flaky", fail_vdi_delete="VDIDelete"))
        assert refusal(pool.x.VDI.destroy, vdi)[0] == "SR_BACKEND_FAILURE_80"
        assert pool.x.VDI.get_current_operations(vdi) == {}

    def test_metrics_disks_stay(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr, type="rrd")
        for call in (pool.x.VDI.destroy, pool.x.VDI.forget):
            assert refusal(call, vdi) == ["VDI_HAS_RRDS", vdi]

    def test_what_is_not_managed_stays(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, managed=False)
        for call in (
            lambda: pool.x.VDI.destroy(vdi),
            lambda: pool.x.VDI.resize(vdi, "5"),
            lambda: pool.x.VDI.snapshot(vdi, {}),
            lambda: pool.x.VDI.clone(vdi, {}),
            lambda: pool.x.VDI.copy(vdi, sr),
        ):
            assert refusal(call) == ["VDI_NOT_MANAGED", vdi]

    @pytest.mark.parametrize("vdi_type", ["ha_statefile", "redo_log"])
    def test_ha_keeps_its_disks(self, pool: StoragePool, sr: str, vdi_type: str) -> None:
        vdi = pool.vdi(sr, type=vdi_type)
        with pool.simulator.xapi.lock:
            pool.db.set("pool", pool.db.refs("pool")[0], ha_enabled=True)
        for call in (pool.x.VDI.destroy, pool.x.VDI.forget):
            assert refusal(call, vdi) == ["HA_IS_ENABLED"]

    def test_an_unplugged_sr_is_no_place_to_change_disks(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        pool.x.PBD.unplug(pool.the_pbd(sr))
        for call in (
            lambda: pool.x.VDI.destroy(vdi),
            lambda: pool.x.VDI.resize(vdi, "5"),
            lambda: pool.x.VDI.snapshot(vdi, {}),
            lambda: pool.x.VDI.set_name_label(vdi, "x"),
        ):
            assert refusal(call) == ["SR_HAS_NO_PBDS", sr]
        assert "resize" not in pool.x.VDI.get_allowed_operations(vdi)
        pool.x.VDI.forget(vdi)


class TestUse:
    @pytest.mark.parametrize("operation", ["destroy", "forget", "resize", "copy"])
    def test_a_plugged_disk_is_in_use(self, pool: StoragePool, sr: str, operation: str) -> None:
        vdi = pool.vdi(sr)
        pool.vbd(vdi, attached=True)
        arguments = {"resize": ("5",), "copy": (sr,)}.get(operation, ())
        assert refusal(getattr(pool.x.VDI, operation), vdi, *arguments) == ["VDI_IN_USE", vdi, operation]

    def test_a_reader_does_not_keep_a_disk_from_being_copied(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        pool.vbd(vdi, attached=True, mode="RO")
        assert "NBD" in refusal(pool.x.VDI.copy, vdi, sr)[1]
        assert pool.x.SR.get_VDIs(sr) == [vdi]

    def test_a_plugged_disk_may_be_snapshotted_and_cloned(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        pool.vbd(vdi, attached=True)
        assert pool.x.VDI.snapshot(vdi, {}) != pool.x.VDI.clone(vdi, {})


class TestCopies:
    def test_a_snapshot_inherits_all_but_the_tags(self, pool: StoragePool, sr: str) -> None:
        source = pool.vdi(sr, tags=["t"], other_config={"o": "c"}, xenstore_data={"x": "y"}, type="system")
        snapshot = pool.x.VDI.snapshot(source, {})
        record = pool.x.VDI.get_record(snapshot)
        assert (record["is_a_snapshot"], record["snapshot_of"], record["read_only"]) == (True, source, True)
        assert (record["tags"], record["other_config"], record["xenstore_data"]) == (
            [],
            {"o": "c"},
            {"x": "y"},
        )
        assert (record["type"], record["name_label"], record["virtual_size"]) == ("system", "disk", "0")
        assert pool.x.VDI.get_snapshots(source) == [snapshot]

    def test_a_snapshot_of_a_snapshot_is_of_the_snapshot(self, pool: StoragePool, sr: str) -> None:
        first = pool.x.VDI.snapshot(pool.vdi(sr), {})
        assert pool.x.VDI.get_snapshot_of(pool.x.VDI.snapshot(first, {})) == first

    def test_a_sharable_disk_has_no_snapshot_but_its_clone_claims_one(
        self, pool: StoragePool, sr: str
    ) -> None:
        vdi = pool.vdi(sr, sharable=True)
        assert refusal(pool.x.VDI.snapshot, vdi, {}) == ["VDI_IS_SHARABLE", vdi]
        clone = pool.x.VDI.clone(vdi, {})
        assert pool.x.VDI.get_sharable(clone)
        assert "snapshot" in pool.x.VDI.get_allowed_operations(clone)
        assert refusal(pool.x.VDI.snapshot, clone, {}) == ["VDI_IS_SHARABLE", clone]

    def test_a_scan_makes_a_snapshot_writable(self, pool: StoragePool, sr: str) -> None:
        snapshot = pool.x.VDI.snapshot(pool.vdi(sr), {})
        pool.x.SR.scan(sr)
        assert not pool.x.VDI.get_read_only(snapshot)

    def test_a_driver_that_refuses_leaves_nothing(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", fail_vdi_snapshot="VDIInUse")
        vdi = pool.vdi(sr)
        assert refusal(pool.x.VDI.snapshot, vdi, {}) == ["VDI_IN_USE"]
        assert pool.x.SR.get_VDIs(sr) == [vdi]
        assert pool.x.VDI.clone(vdi, {})

    def test_a_copy_goes_into_a_disk_that_is_large_enough(self, pool: StoragePool, sr: str) -> None:
        source, small = pool.vdi(sr), pool.vdi(sr, virtual_size="5")
        read_only = pool.vdi(sr, read_only=True)
        copy = pool.x.VDI.copy
        assert refusal(copy, source, NULL, NULL, small) == ["VDI_TOO_SMALL", small, str(GIB)]
        assert refusal(copy, source, NULL, NULL, read_only) == ["VDI_READONLY", read_only]

    def test_a_disk_moves_only_with_a_vm(self, pool: StoragePool, sr: str) -> None:
        for vdi in (NULL, pool.vdi(sr)):
            assert refusal(pool.x.VDI.pool_migrate, vdi, sr, {}) == ["VDI_NEEDS_VM_FOR_MIGRATE", vdi]


class TestChanges:
    def test_any_size_will_do_and_makes_the_disk_writable(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr, read_only=True)
        for size in ("3000000", "5"):
            pool.x.VDI.resize(vdi, size)
            record = pool.x.VDI.get_record(vdi)
            assert record["virtual_size"] == record["physical_utilisation"] == size
        assert (record["sm_config"], record["read_only"]) == ({}, False)

    def test_resizing_online_is_history(self, pool: StoragePool, sr: str) -> None:
        assert refusal(pool.x.VDI.resize_online, pool.vdi(sr), "5") == ["MESSAGE_REMOVED"]

    @pytest.mark.parametrize("name", ["update", "enable_cbt", "disable_cbt", "data_destroy", "force_unlock"])
    def test_what_the_driver_lacks_is_refused(self, pool: StoragePool, sr: str, name: str) -> None:
        vdi = pool.vdi(sr)
        expected = ["MESSAGE_DEPRECATED"] if name == "force_unlock" else ["SR_OPERATION_NOT_SUPPORTED", sr]
        assert refusal(getattr(pool.x.VDI, name), vdi) == expected
        assert pool.x.SR.get_current_operations(sr) == {}

    def test_a_running_vm_keeps_how_its_disk_is_used(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        assert refusal(pool.x.VDI.set_on_boot, vdi, "reset") == ["SR_OPERATION_NOT_SUPPORTED", sr]
        pool.x.VDI.set_allow_caching(vdi, True)
        vm = pool.x.VBD.get_VM(pool.vbd(vdi))
        for call, value in ((pool.x.VDI.set_on_boot, "reset"), (pool.x.VDI.set_allow_caching, False)):
            assert refusal(call, vdi, value) == ["VM_BAD_POWER_STATE", vm, "halted", "running"]

    def test_every_call_refuses_a_disk_that_is_not_there(self, pool: StoragePool, sr: str) -> None:
        invalid = ["HANDLE_INVALID", "VDI", NULL]
        for name in ("destroy", "forget", "update", "enable_cbt", "data_destroy", "get_nbd_info", "checksum"):
            assert refusal(getattr(pool.x.VDI, name), NULL) == invalid
        for name, argument in (("resize", "5"), ("snapshot", {}), ("copy", sr), ("set_on_boot", "reset")):
            assert refusal(getattr(pool.x.VDI, name), NULL, argument) == invalid


class TestContent:
    @pytest.fixture
    def files(self, pool: StoragePool) -> str:
        """Return an SR whose disks have bytes."""
        pool.simulator.storage.shares.add_nfs("filer").export("/vms", size=100 * GIB)
        config = {"server": "filer", "serverpath": "/vms"}
        return str(pool.x.SR.create(pool.master, config, "0", "nfs", "", "nfs", "user", True, {}))

    def write(self, pool: StoragePool, vdi: str, at: int) -> None:
        with pool.simulator.xapi.lock:
            call = Call(pool.simulator.xapi, "", NULL, NULL, pool.master)
            with datapath.content(call, pool.master, vdi).open("r+b") as file:
                file.seek(at)
                file.write(b"x")

    def test_a_copy_keeps_the_holes_and_overwrites_what_was_there(
        self, pool: StoragePool, files: str
    ) -> None:
        source, target = (pool.vdi(files, virtual_size=str(64 * MIB)) for _ in range(2))
        self.write(pool, source, 3 * MIB)
        self.write(pool, target, 5 * MIB)
        pool.x.VDI.copy(source, NULL, NULL, target)
        assert pool.x.VDI.checksum(target) == pool.x.VDI.checksum(source)
        new = pool.x.VDI.copy(source, files)
        with pool.simulator.xapi.lock:
            file = datapath.content(Call(pool.simulator.xapi, "", NULL, NULL, pool.master), pool.master, new)
        assert file.stat().st_blocks * 512 < 2 * MIB

    @pytest.mark.parametrize("name", ["copy", "checksum", "list_changed_blocks", "pool_migrate"])
    def test_other_calls_go_on_while_bytes_are_read(
        self, pool: StoragePool, files: str, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        vdi = pool.vdi(files, virtual_size=str(MIB))
        pool.x.VDI.enable_cbt(vdi)
        snapshot = pool.x.VDI.snapshot(vdi, {})
        if name == "pool_migrate":
            pool.x.VDI.disable_cbt(vdi)
            pool.vbd(vdi)
        began, answered = threading.Event(), threading.Event()
        outside = Call.outside

        def waiting(call: Call, work: Callable[[], Any]) -> Any:
            def late() -> Any:
                began.set()
                assert answered.wait(60)
                return work()

            return outside(call, late)

        monkeypatch.setattr(Call, "outside", waiting)
        arguments = {
            "copy": (files,),
            "checksum": (),
            "list_changed_blocks": (snapshot,),
            "pool_migrate": (files, {}),
        }

        def run() -> None:
            with log_in(pool.simulator) as x:
                getattr(x.VDI, name)(vdi, *arguments[name])

        with ThreadPoolExecutor(1) as executor:
            running = executor.submit(run)
            assert began.wait(60)
            assert pool.x.VDI.get_uuid(vdi)
            answered.set()
            running.result(60)

    def test_a_copy_tells_its_progress(self, pool: StoragePool, files: str) -> None:
        vdi = pool.vdi(files, virtual_size=str(4 * MIB))
        for at in range(0, 4 * MIB, 2 * MIB):
            self.write(pool, vdi, at)
        seen = []
        pool.simulator.xapi.observers.append(
            lambda cls, ref: seen.append(pool.db.row(cls, ref)["progress"]) if cls == "task" else None
        )
        task = PlainClient(pool.simulator).call("Async.VDI.copy", vdi, files)[1]
        while pool.x.task.get_status(task) == "pending":
            time.sleep(0.01)
        assert any(0 < progress < 1 for progress in seen)
        assert seen == sorted(seen)

    def test_a_copy_has_the_bytes(self, pool: StoragePool, files: str) -> None:
        vdi = pool.vdi(files, virtual_size="4194304")
        self.write(pool, vdi, 70_000)
        copy = pool.x.VDI.copy(vdi, files)
        assert pool.x.VDI.checksum(copy) == pool.x.VDI.checksum(vdi)
        self.write(pool, copy, 0)
        assert pool.x.VDI.checksum(copy) != pool.x.VDI.checksum(vdi)

    @pytest.mark.parametrize("state", ["Halted", "Running"])
    def test_a_vms_disk_moves_to_another_sr_with_its_bytes(
        self, pool: StoragePool, files: str, state: str
    ) -> None:
        pool.simulator.storage.shares.add_nfs("other").export("/vms", size=100 * GIB)
        config = {"server": "other", "serverpath": "/vms"}
        target = pool.x.SR.create(pool.master, config, "0", "nfs", "", "nfs", "user", True, {})
        vdi = pool.vdi(files, virtual_size="4194304")
        self.write(pool, vdi, 70_000)
        checksum = pool.x.VDI.checksum(vdi)
        vbd = pool.vbd(vdi, attached=state == "Running")
        with pool.simulator.xapi.lock:
            pool.db.set("VM", pool.db.row("VBD", vbd)["VM"], power_state=state)
        moved = pool.x.VDI.pool_migrate(vdi, target, {})
        assert pool.x.VBD.get_VDI(vbd) == moved
        assert pool.x.VDI.checksum(moved) == checksum
        assert (pool.x.SR.get_VDIs(files), pool.x.SR.get_VDIs(target)) == ([], [moved])

    def test_changed_blocks_have_64_kib(self, pool: StoragePool, files: str) -> None:
        vdi = pool.vdi(files, virtual_size="2097152")
        assert refusal(pool.x.VDI.list_changed_blocks, vdi, vdi)[0] == "SR_BACKEND_FAILURE_460"
        pool.x.VDI.enable_cbt(vdi)
        snapshot = pool.x.VDI.snapshot(vdi, {})
        assert pool.x.VDI.get_cbt_enabled(snapshot)  # it continues the log of the disk
        self.write(pool, vdi, 65536)
        bitmap = base64.b64decode(pool.x.VDI.list_changed_blocks(snapshot, vdi))
        assert bitmap == b"\x40\x00\x00\x00"

    def test_the_data_of_a_snapshot_goes_when_its_slots_have_gone(
        self, pool: StoragePool, files: str
    ) -> None:
        vdi = pool.vdi(files)
        assert refusal(pool.x.VDI.data_destroy, vdi)[0] == "OPERATION_NOT_ALLOWED"
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, is_a_snapshot=True)
        assert refusal(pool.x.VDI.data_destroy, vdi) == ["VDI_NO_CBT_METADATA", vdi]
        with pool.simulator.xapi.lock:
            pool.db.set("VDI", vdi, cbt_enabled=True)
        vbd = pool.vbd(vdi)

        def vanish() -> None:
            time.sleep(0.1)
            with pool.simulator.xapi.lock:
                pool.db.delete("VBD", vbd)

        threading.Thread(target=vanish).start()
        pool.x.VDI.data_destroy(vdi)
        assert pool.x.VDI.get_type(vdi) == "cbt_metadata"

    def test_no_host_serves_blocks_without_a_network_for_it(self, pool: StoragePool, sr: str) -> None:
        vdi = pool.vdi(sr)
        assert pool.x.VDI.get_nbd_info(vdi) == []
        (network,) = pool.x.network.get_all()
        pool.x.network.add_purpose(network, "nbd")
        with pool.simulator.xapi.lock:
            pool.db.create("PIF", host=pool.master, network=network, IP="10.0.0.9", currently_attached=True)
        (server,) = pool.x.VDI.get_nbd_info(vdi)
        assert server["address"] == "10.0.0.9"
        assert server["exportname"].startswith(f"/{pool.x.VDI.get_uuid(vdi)}?session_id=OpaqueRef:")


class TestPort:
    """What drivers may do to rows; they get the same refusals as any client."""

    @pytest.fixture
    def port(self, pool: StoragePool, sr: str) -> Port:
        return Port(Call(pool.simulator.xapi, "SR.scan", NULL, NULL, pool.master), sr, pool.master)

    def test_a_row_is_introduced_updated_and_forgotten(self, pool: StoragePool, sr: str, port: Port) -> None:
        info = VDIInfo(UUID, "loc", 10, 5, name_label="n", sm_config={"a": "b"}, snapshot_of=OTHER_UUID)
        with pool.simulator.xapi.lock:
            port.introduce(info)
            port.update(VDIInfo(UUID, "loc", 20, 6, managed=False))
            row = port.vdi(UUID)
            assert row is not None
            assert [known["ref"] for known in port.vdis()] == [row["ref"]]
            port.forget(UUID)
            port.forget(UUID)
            assert port.vdis() == []
        assert (row["virtual_size"], row["managed"], row["name_label"]) == (20, False, "n")
        assert (row["sm_config"], row["snapshot_of"]) == ({"a": "b"}, NULL)
        assert "forget" in row["allowed_operations"]

    @pytest.mark.parametrize(
        ("uuid", "location", "code"),
        [
            (OTHER_UUID, "loc", "LOCATION_NOT_UNIQUE"),
            ("no-uuid", "elsewhere", "UUID_INVALID"),
            (UUID, "elsewhere", "INTERNAL_ERROR"),
        ],
    )
    def test_what_is_taken_or_wrong_is_refused(
        self, pool: StoragePool, port: Port, uuid: str, location: str, code: str
    ) -> None:
        with pool.simulator.xapi.lock:
            port.introduce(VDIInfo(UUID, "loc", 10, 5))
            with pytest.raises(XapiRefusal) as raised:
                port.introduce(VDIInfo(uuid, location, 10, 5))
        assert raised.value.description[0] == code

    def test_maps_lose_keys_before_they_gain_some(self, pool: StoragePool, sr: str, port: Port) -> None:
        with pool.simulator.xapi.lock:
            port.sr_other_config({"a": "1", "b": "2"})
            port.sr_other_config({"c": "3"}, remove=["a", "dirty"])
            port.pbd_device_config({"k": "v"})
        assert pool.x.SR.get_other_config(sr) == {"b": "2", "c": "3"}
        assert pool.x.PBD.get_device_config(pool.the_pbd(sr)) == {"k": "v"}
