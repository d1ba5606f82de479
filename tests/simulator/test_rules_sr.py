"""SRs are made, forgotten and erased as in xapi, with every refusal."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from storage_pool import DEAD, NULL, StoragePool, refusal, storage_pool

from xenvol.simulator.rules.rescan import scan_marked
from xenvol.simulator.sm.dummy import Flaky

UUID = "11111111-0000-4000-8000-000000000001"


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with storage_pool() as pool:
        yield pool


@pytest.fixture
def big_pool() -> Iterator[StoragePool]:
    """Three hosts, the first of them the master."""
    with storage_pool(hosts=3) as pool:
        yield pool


class TestIntroduce:
    def test_it_makes_a_row_and_looks_at_nothing(self, pool: StoragePool) -> None:
        sr = pool.introduced("NoSuchType", uuid="not-a-uuid")
        record = pool.x.SR.get_record(sr)
        assert (record["uuid"], record["type"], record["PBDs"]) == ("not-a-uuid", "nosuchtype", [])
        assert [record[f"physical_{what}"] for what in ("size", "utilisation")] == ["-1", "-1"]

    def test_an_empty_uuid_stands_for_a_new_one(self, pool: StoragePool) -> None:
        assert len(pool.x.SR.get_uuid(pool.introduced(uuid=""))) == 36

    def test_a_uuid_is_taken_once(self, pool: StoragePool) -> None:
        pool.introduced(uuid=UUID)
        assert refusal(lambda: pool.introduced(uuid=UUID)) == ["SR_UUID_EXISTS", UUID]

    def test_allowed_operations_follow_the_driver(self, pool: StoragePool) -> None:
        unknown = pool.x.SR.get_allowed_operations(pool.introduced("nosuchtype"))
        assert set(unknown) == {"unplug", "plug", "pbd_create", "pbd_destroy", "forget", "vdi_clone", "scan"}
        known = pool.x.SR.get_allowed_operations(pool.introduced())
        assert {"vdi_introduce", "vdi_create", "vdi_snapshot"} <= set(known)
        assert not {"update", "vdi_enable_cbt", "vdi_set_on_boot", "destroy"} & set(known)


class TestCreate:
    def test_it_is_plugged_everywhere_where_it_is_shared(self, big_pool: StoragePool) -> None:
        x = big_pool.x
        sr = x.SR.create(big_pool.hosts[2], {"a": "b"}, "0", "sr", "", "DUMMY", "user", True, {})
        records = [x.PBD.get_record(pbd) for pbd in x.SR.get_PBDs(sr)]
        assert {record["host"] for record in records} == set(big_pool.hosts)
        assert all(record["currently_attached"] for record in records)
        assert x.SR.get_type(sr) == "dummy"

    def test_it_is_plugged_on_the_given_host_where_it_is_not(self, big_pool: StoragePool) -> None:
        x = big_pool.x
        sr = x.SR.create(big_pool.hosts[2], {}, "0", "sr", "", "dummy", "user", False, {})
        assert x.PBD.get_host(big_pool.the_pbd(sr)) == big_pool.hosts[2]

    def test_a_driver_that_refuses_leaves_no_sr(self, pool: StoragePool) -> None:
        assert refusal(lambda: pool.sr("flaky", fail_create="SRUnavailable")) == [
            "SR_BACKEND_FAILURE_47",
            "",
            "The SR is not available [opterr=requested by fail_create]",
            "",
        ]
        assert (pool.x.SR.get_all(), pool.x.PBD.get_all()) == ([], [])

    def test_a_plug_that_fails_leaves_the_sr_unplugged(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", fail_attach="SRUnavailable")
        assert not pool.x.PBD.get_currently_attached(pool.the_pbd(sr))
        assert pool.x.SR.get_other_config(sr) == {"dirty": ""}
        assert pool.x.SR.get_physical_size(sr) == "2000000000000"

    def test_an_unknown_type_is_refused_and_its_secrets_stay(self, pool: StoragePool) -> None:
        before = len(pool.x.secret.get_all())
        assert refusal(lambda: pool.sr("NoSuch", password="p")) == ["SR_UNKNOWN_DRIVER", "nosuch"]
        assert pool.x.SR.get_all() == []
        assert len(pool.x.secret.get_all()) == before + 2

    def test_an_sr_with_an_unknown_secret_stays_behind(self, pool: StoragePool) -> None:
        assert refusal(lambda: pool.sr(password_secret=UUID)) == ["UUID_INVALID", "secret", UUID]
        assert len(pool.x.SR.get_all()) == 1

    def test_a_host_that_is_not_there_is_offline_unless_the_sr_is_shared(self, pool: StoragePool) -> None:
        arguments = ({}, "0", "sr", "", "dummy", "user")
        assert refusal(pool.x.SR.create, NULL, *arguments, False, {}) == ["HOST_OFFLINE", NULL]
        assert pool.x.SR.create(NULL, *arguments, True, {})


class TestForget:
    def test_it_takes_the_pbds_their_secrets_and_the_vdis(self, pool: StoragePool) -> None:
        x = pool.x
        sr = pool.sr(password="p")
        vdi, pbd = pool.vdi(sr), pool.the_pbd(sr)
        x.PBD.unplug(pbd)
        secrets = len(x.secret.get_all())
        x.SR.forget(sr)
        assert refusal(x.PBD.get_uuid, pbd) == ["HANDLE_INVALID", "PBD", pbd]
        assert refusal(x.VDI.get_uuid, vdi) == ["HANDLE_INVALID", "VDI", vdi]
        assert len(x.secret.get_all()) == secrets - 1
        assert refusal(x.SR.forget, sr) == ["HANDLE_INVALID", "SR", sr]

    def test_a_plugged_pbd_keeps_it(self, pool: StoragePool) -> None:
        sr = pool.sr()
        assert refusal(pool.x.SR.forget, sr) == ["SR_HAS_PBD", sr]

    def test_an_sr_that_is_not_there_is_refused(self, pool: StoragePool) -> None:
        for sr in (NULL, DEAD, pool.master):
            assert refusal(pool.x.SR.forget, sr) == ["HANDLE_INVALID", "SR", sr]

    def test_its_vbds_dangle(self, pool: StoragePool) -> None:
        sr = pool.sr()
        vdi = pool.vdi(sr)
        vbd = pool.vbd(vdi)
        pool.x.PBD.unplug(pool.the_pbd(sr))
        pool.x.SR.forget(sr)
        assert pool.x.VBD.get_VDI(vbd) == vdi

    def test_a_host_stumbles_over_a_short_uuid(self, pool: StoragePool) -> None:
        sr = pool.introduced(uuid="short")
        pool.x.PBD.plug(pbd := pool.pbd(sr))
        pool.x.PBD.unplug(pbd)
        assert refusal(pool.x.SR.forget, sr)[0] == "INTERNAL_ERROR"
        pool.x.PBD.destroy(pbd)
        pool.x.SR.forget(sr)


class TestDestroy:
    def test_it_wants_an_unplugged_pbd_and_no_managed_vdi(self, pool: StoragePool) -> None:
        x = pool.x
        assert refusal(x.SR.destroy, bare := pool.introduced()) == ["SR_HAS_NO_PBDS", bare]
        sr = pool.sr()
        vdi = pool.vdi(sr)
        assert refusal(x.SR.destroy, sr) == ["SR_HAS_PBD", sr]
        x.PBD.unplug(pool.the_pbd(sr))
        assert refusal(x.SR.destroy, sr) == ["SR_NOT_EMPTY"]
        x.VDI.forget(vdi)
        x.SR.destroy(sr)
        assert refusal(x.SR.get_uuid, sr) == ["HANDLE_INVALID", "SR", sr]

    def test_what_its_owner_protects_stays(self, pool: StoragePool) -> None:
        sr = pool.sr()
        pool.x.PBD.unplug(pool.the_pbd(sr))
        pool.x.SR.add_to_other_config(sr, "indestructible", "true")
        assert refusal(pool.x.SR.destroy, sr) == ["SR_INDESTRUCTIBLE", sr]

    @pytest.mark.parametrize("operation", ["attach", "delete"])
    def test_what_the_driver_refuses_leaves_it_as_it_was(self, pool: StoragePool, operation: str) -> None:
        sr = pool.introduced("flaky")
        pbd = pool.pbd(sr, **{f"fail_{operation}": "SRUnavailable"})
        assert refusal(pool.x.SR.destroy, sr)[0] == "SR_BACKEND_FAILURE_47"
        assert not pool.x.PBD.get_currently_attached(pbd)
        assert "destroy" in pool.x.SR.get_allowed_operations(sr)

    def test_an_sr_that_cannot_be_detached_again_stays_attached_below(self, pool: StoragePool) -> None:
        sr = pool.introduced("flaky")
        pbd = pool.pbd(sr, fail_delete="SRUnavailable", fail_detach="SRInUse")
        assert refusal(pool.x.SR.destroy, sr) == ["SR_DEVICE_IN_USE"]
        assert not pool.x.PBD.get_currently_attached(pbd)
        with pool.simulator.xapi.lock:
            pool.db.set("PBD", pbd, device_config={"fail_attach": "SRUnavailable"})
        pool.x.PBD.plug(pbd)
        assert pool.x.PBD.get_currently_attached(pbd)


class TestScan:
    def test_it_wants_a_plugged_pbd(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        pool.pbd(sr)
        for call in (pool.x.SR.scan, pool.x.SR.update):
            assert refusal(call, sr) == ["SR_HAS_NO_PBDS", sr]

    def test_it_adds_up_the_disks_and_takes_the_mark_away(self, pool: StoragePool) -> None:
        sr = pool.sr()
        pool.vdi(sr, virtual_size="1000")
        pool.vdi(sr, virtual_size="234")
        assert pool.x.SR.get_other_config(sr) == {"dirty": ""}
        pool.x.SR.scan(sr)
        assert pool.x.SR.get_other_config(sr) == {}
        assert pool.x.SR.get_virtual_allocation(sr) == "1234"

    def test_a_snapshot_whose_source_is_gone_loses_it(self, pool: StoragePool) -> None:
        sr = pool.sr()
        source = pool.vdi(sr)
        snapshot = pool.x.VDI.snapshot(source, {})
        pool.x.VDI.destroy(source)
        assert pool.x.VDI.get_snapshot_of(snapshot) == source
        pool.x.SR.scan(sr)
        assert pool.x.VDI.get_snapshot_of(snapshot) == NULL

    def test_its_failure_is_the_drivers(self, pool: StoragePool) -> None:
        sr = pool.sr("flaky", fail_scan="SRScan")
        text = "The SR scan failed  [opterr=requested by fail_scan]"
        assert refusal(pool.x.SR.scan, sr) == ["SR_BACKEND_FAILURE_40", "", text, ""]
        (message,) = pool.x.message.get_all_records().values()
        assert (message["name"], message["cls"]) == ("POST_ATTACH_SCAN_FAILED", "SR")

    def test_what_a_plug_left_dirty_is_scanned_by_itself(self, pool: StoragePool) -> None:
        good, bad, unplugged = pool.sr(), pool.sr("flaky", fail_scan="SRScan"), pool.introduced()
        assert scan_marked(pool.simulator.xapi) == [good]
        assert pool.x.SR.get_other_config(good) == pool.x.SR.get_other_config(unplugged) == {}
        assert pool.x.SR.get_other_config(bad) == {"dirty": ""}
        pool.x.SR.add_to_other_config(good, "auto-scan", "true")
        assert scan_marked(pool.simulator.xapi) == [good]

    @pytest.mark.parametrize(("version", "scans"), [("24.16.0", 1), ("25.33.1", 2)])
    def test_newer_xapi_scans_again_when_a_row_went_meanwhile(
        self, version: str, scans: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        happen, happened = Flaky.happen, list[str]()

        def note(driver: Flaky, operation: str) -> None:
            happened.append(operation)
            happen(driver, operation)

        with storage_pool(version) as pool:
            sr = pool.sr("flaky", sleep_scan="0.6")
            vdi = pool.vdi(sr)
            monkeypatch.setattr(Flaky, "happen", note)
            task = pool.x.Async.SR.scan(sr)
            while not happened:
                time.sleep(0.01)
            pool.x.VDI.forget(vdi)
            while pool.x.task.get_status(task) == "pending":
                time.sleep(0.01)
            assert happened.count("scan") == scans


class TestHosts:
    def test_a_shared_sr_needs_the_masters_pbd(self, big_pool: StoragePool) -> None:
        x, (master, second, _) = big_pool.x, big_pool.hosts
        sr = big_pool.introduced()
        x.PBD.plug(big_pool.pbd(sr, second))
        of_master = big_pool.pbd(sr, master)
        assert refusal(x.SR.scan, sr) == ["SR_HAS_NO_PBDS", sr]
        x.PBD.plug(of_master)
        x.SR.scan(sr)
        assert set(x.SR.get_live_hosts(sr)) == {master, second}

    def test_a_member_alone_cannot_change_a_shared_sr(self, big_pool: StoragePool) -> None:
        sr = big_pool.introduced()
        big_pool.x.PBD.plug(big_pool.pbd(sr, big_pool.hosts[1]))
        assert refusal(big_pool.x.SR.scan, sr) == ["SR_NOT_ATTACHED", sr]
        assert refusal(big_pool.vdi, sr) == ["SR_NOT_ATTACHED", sr]

    def test_an_sr_that_is_not_shared_may_have_one_pbd_only(self, big_pool: StoragePool) -> None:
        x = big_pool.x
        sr = big_pool.sr(shared=False)
        first = big_pool.the_pbd(sr)
        second = big_pool.pbd(sr, big_pool.hosts[1])
        uuids = {x.PBD.get_uuid(pbd) for pbd in (first, second)}
        assert refusal(x.SR.scan, sr)[0] == "INTERNAL_ERROR"
        code, *params = refusal(big_pool.vdi, sr)
        assert (code, set(params)) == ("SR_HAS_MULTIPLE_PBDS", uuids)
        code, *params = refusal(x.PBD.unplug, first)
        assert (code, set(params)) == ("SR_HAS_MULTIPLE_PBDS", uuids)
        code, *params = refusal(x.SR.set_shared, sr, False)
        assert (code, set(params)) == ("SR_HAS_MULTIPLE_PBDS", {first, second})
        x.SR.set_shared(sr, True)
        x.SR.scan(sr)

    def test_a_dead_host_runs_nothing(self, big_pool: StoragePool) -> None:
        x, host = big_pool.x, big_pool.hosts[1]
        sr = x.SR.create(host, {}, "0", "sr", "", "dummy", "user", False, {})
        with big_pool.simulator.xapi.lock:
            metrics = big_pool.db.row("host", host)["metrics"]
            big_pool.db.set("host_metrics", metrics, live=False)
        for call in (x.SR.scan, x.SR.update):
            assert refusal(call, sr) == ["HOST_OFFLINE", host]
        assert refusal(x.PBD.unplug, big_pool.the_pbd(sr)) == ["HOST_OFFLINE", host]
        assert refusal(x.SR.probe, host, {}, "dummy", {}) == ["HOST_OFFLINE", host]
        assert x.SR.get_live_hosts(sr) == []


class TestProperties:
    def test_names_need_a_plugged_pbd(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        for call in (pool.x.SR.set_name_label, pool.x.SR.set_name_description):
            assert refusal(call, sr, "x") == ["SR_HAS_NO_PBDS", sr]
        plugged = pool.sr()
        pool.x.SR.set_name_label(plugged, "new")
        assert pool.x.SR.get_name_label(plugged) == "new"

    def test_sizes_are_for_drivers(self, pool: StoragePool) -> None:
        sr = pool.sr()
        for what in ("physical_size", "virtual_allocation", "physical_utilisation"):
            assert refusal(getattr(pool.x.SR, f"set_{what}"), sr, "5") == ["PERMISSION_DENIED", ""]

    def test_a_session_that_says_which_sr_it_drives_is_a_driver(self, pool: StoragePool) -> None:
        sr = pool.sr()
        with pool.simulator.xapi.lock:
            for session in pool.db.refs("session"):
                pool.db.set("session", session, other_config={"_sm_session": sr})
        pool.x.SR.set_physical_size(sr, "5")
        assert pool.x.SR.get_physical_size(sr) == "5"

    def test_ha_and_disaster_recovery_ask_for_features(self, pool: StoragePool) -> None:
        x, sr = pool.x, pool.sr()
        for call in (
            x.SR.assert_can_host_ha_statefile,
            x.SR.assert_supports_database_replication,
            x.SR.enable_database_replication,
        ):
            assert refusal(call, sr) == ["SR_OPERATION_NOT_SUPPORTED", sr]
            assert refusal(call, bare := pool.introduced()) == ["SR_HAS_NO_PBDS", bare]
            assert refusal(call, NULL) == ["HANDLE_INVALID", "SR", NULL]

    def test_a_blobs_name_is_taken_once(self, pool: StoragePool) -> None:
        sr = pool.sr()
        blob = pool.x.SR.create_new_blob(sr, "b", "")
        assert pool.x.SR.get_blobs(sr) == {"b": blob}
        assert refusal(pool.x.SR.create_new_blob, sr, "b", "") == [
            "MAP_DUPLICATE_KEY",
            "SR",
            "blobs",
            sr,
            "b",
        ]

    def test_probing_takes_a_type_with_that_feature(self, pool: StoragePool) -> None:
        x, host = pool.x, pool.master
        assert refusal(x.SR.probe, host, {}, "NoSuch", {}) == ["SR_UNKNOWN_DRIVER", "nosuch"]
        assert "sr_probe' not supported" in refusal(x.SR.probe, host, {}, "iso", {})[1]
        assert refusal(x.SR.probe_ext, host, {}, "nfs", {})[0] == "SR_BACKEND_FAILURE_102"

    def test_make_is_history(self, pool: StoragePool) -> None:
        arguments = (pool.master, {}, "0", "sr", "", "dummy", "user")
        assert refusal(pool.x.SR.make, *arguments, {})[0] == "MESSAGE_DEPRECATED"
