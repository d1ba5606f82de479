"""PBDs link hosts to SRs; their passwords become secrets, and one copy of each is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storage_pool import DEAD, NULL, StoragePool, refusal, storage_pool

UNKNOWN_UUID = "deadbeef-dead-dead-dead-deadbeefdead"


@pytest.fixture
def pool() -> Iterator[StoragePool]:
    with storage_pool() as pool:
        yield pool


class TestCreate:
    def test_a_host_has_one_pbd_for_an_sr(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        pbd = pool.pbd(sr)
        assert refusal(pool.pbd, sr) == ["PBD_EXISTS", sr, pool.master, pbd]

    def test_the_sr_is_looked_at_and_the_host_is_not(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        for host in (NULL, DEAD):
            assert pool.x.PBD.get_host(pool.pbd(sr, host)) == host
        for bad in (NULL, DEAD):
            assert refusal(pool.pbd, bad) == ["HANDLE_INVALID", "SR", bad]

    def test_other_config_is_not_kept(self, pool: StoragePool) -> None:
        record = {
            "host": pool.master,
            "SR": pool.introduced(),
            "device_config": {},
            "other_config": {"a": "b"},
        }
        assert pool.x.PBD.get_other_config(pool.x.PBD.create(record)) == {}

    def test_the_key_that_says_who_is_srmaster_is_xapis(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        reserved = ["VALUE_NOT_SUPPORTED", "SRmaster", "true", "This key is for internal use only"]
        assert refusal(lambda: pool.pbd(sr, SRmaster="true")) == reserved


class TestSecrets:
    def test_a_password_becomes_two_secrets_of_which_one_stays(self, pool: StoragePool) -> None:
        x = pool.x
        before = set(x.secret.get_all())
        pbd = pool.pbd(pool.introduced(), chappassword="p", chapuser="u")
        config = x.PBD.get_device_config(pbd)
        assert set(config) == {"chappassword_secret", "chapuser"}
        made = set(x.secret.get_all()) - before
        assert [x.secret.get_value(secret) for secret in made] == ["p", "p"]
        of_pbd = x.secret.get_by_uuid(config["chappassword_secret"])
        x.PBD.destroy(pbd)
        assert set(x.secret.get_all()) - before == made - {of_pbd}

    def test_a_secret_that_the_caller_made_is_copied_and_stays_the_callers(self, pool: StoragePool) -> None:
        x = pool.x
        mine = x.secret.create({"value": "p", "other_config": {}})
        before = set(x.secret.get_all())
        pbd = pool.pbd(pool.introduced(), chappassword_secret=x.secret.get_uuid(mine))
        assert len(x.secret.get_all()) == len(before) + 1
        x.PBD.destroy(pbd)
        assert set(x.secret.get_all()) == before

    def test_an_unknown_secret_is_refused(self, pool: StoragePool) -> None:
        sr = pool.introduced()
        invalid = ["UUID_INVALID", "secret", UNKNOWN_UUID]
        assert refusal(lambda: pool.pbd(sr, password_secret=UNKNOWN_UUID)) == invalid
        assert pool.x.SR.get_PBDs(sr) == []

    def test_a_refused_call_leaves_its_secret(self, pool: StoragePool) -> None:
        before = len(pool.x.secret.get_all())
        assert refusal(lambda: pool.pbd(NULL, password="p"))[0] == "HANDLE_INVALID"
        assert len(pool.x.secret.get_all()) == before + 1

    def test_device_config_is_for_drivers(self, pool: StoragePool) -> None:
        pbd = pool.pbd(pool.introduced(), a="b")
        assert refusal(pool.x.PBD.set_device_config, pbd, {"password": "p"}) == ["PERMISSION_DENIED", ""]
        assert refusal(pool.x.PBD.set_device_config, NULL, {}) == ["HANDLE_INVALID", "PBD", NULL]
        assert pool.x.PBD.get_device_config(pbd) == {"a": "b"}


class TestPlug:
    def test_plugging_and_unplugging_twice_is_like_once(self, pool: StoragePool) -> None:
        x = pool.x
        pbd = pool.pbd(pool.introduced())
        x.PBD.unplug(pbd)
        for _ in range(2):
            x.PBD.plug(pbd)
        assert x.PBD.get_currently_attached(pbd)
        for _ in range(2):
            x.PBD.unplug(pbd)
        assert not x.PBD.get_currently_attached(pbd)

    def test_it_marks_the_sr_and_names_the_driver_domain(self, pool: StoragePool) -> None:
        x = pool.x
        sr = pool.introduced()
        pbd = pool.pbd(sr)
        x.PBD.plug(pbd)
        dom0 = x.host.get_control_domain(pool.master)
        assert x.PBD.get_other_config(pbd) == {"storage_driver_domain": dom0}
        assert x.VM.get_other_config(dom0)["storage_driver_domain"] == pbd
        assert x.SR.get_other_config(sr) == {"dirty": ""}
        assert not {"forget", "destroy"} & set(x.SR.get_allowed_operations(sr))

    def test_an_unknown_type_is_found_out_now(self, pool: StoragePool) -> None:
        pbd = pool.pbd(pool.introduced("NoSuch"))
        assert refusal(pool.x.PBD.plug, pbd) == ["SR_UNKNOWN_DRIVER", "nosuch"]
        assert "storage_driver_domain" in pool.x.PBD.get_other_config(pbd)

    def test_a_missing_parameter_leaves_no_mark_on_the_sr(self, pool: StoragePool) -> None:
        sr = pool.introduced("iscsi")
        assert refusal(pool.x.PBD.plug, pool.pbd(sr))[0] == "SR_BACKEND_FAILURE_95"
        assert pool.x.SR.get_other_config(sr) == {}

    def test_a_host_that_is_not_there_is_offline(self, pool: StoragePool) -> None:
        pbd = pool.pbd(pool.introduced(), NULL)
        for call in (pool.x.PBD.plug, pool.x.PBD.unplug):
            assert refusal(call, pbd) == ["HOST_OFFLINE", NULL]

    def test_an_sr_that_is_not_shared_is_plugged_on_one_host(self) -> None:
        with storage_pool(hosts=2) as pool:
            sr = pool.sr(shared=False)
            pbd = pool.pbd(sr, pool.hosts[1])
            assert refusal(pool.x.PBD.plug, pbd) == ["SR_NOT_SHARABLE", sr, pool.master]

    def test_only_the_srmasters_plug_scans(self) -> None:
        with storage_pool(hosts=2) as pool:
            sr = pool.introduced()
            pool.x.PBD.plug(pool.pbd(sr, pool.hosts[1]))
            assert pool.x.SR.get_other_config(sr) == {}
            assert pool.x.SR.get_physical_size(sr) == "-1"


class TestUnplug:
    def test_a_plugged_disk_keeps_it(self, pool: StoragePool) -> None:
        sr = pool.sr()
        vdi, idle = pool.vdi(sr), pool.vdi(sr)
        pool.vbd(vdi, attached=True)
        pool.vbd(idle)
        assert refusal(pool.x.PBD.unplug, pool.the_pbd(sr)) == ["VDI_IN_USE", vdi]

    def test_a_vanished_disk_of_any_sr_makes_it_fail(self, pool: StoragePool) -> None:
        sr, other = pool.sr(), pool.sr()
        vdi = pool.vdi(sr)
        pool.vbd(vdi, attached=True)
        with pool.simulator.xapi.lock:
            pool.db.delete("VDI", vdi)
        assert refusal(pool.x.PBD.unplug, pool.the_pbd(other)) == ["HANDLE_INVALID", "VDI", vdi]

    def test_a_driver_that_refuses_keeps_it_plugged(self, pool: StoragePool) -> None:
        pbd = pool.the_pbd(pool.sr("flaky", fail_detach="SRInUse"))
        assert refusal(pool.x.PBD.unplug, pbd) == ["SR_DEVICE_IN_USE"]
        assert pool.x.PBD.get_currently_attached(pbd)

    def test_the_disks_rows_stay(self, pool: StoragePool) -> None:
        sr = pool.sr()
        vdi = pool.vdi(sr)
        pool.x.PBD.unplug(pool.the_pbd(sr))
        pool.x.PBD.destroy(pool.the_pbd(sr))
        assert pool.x.SR.get_VDIs(sr) == [vdi]

    @pytest.mark.parametrize(
        ("version", "error"),
        [
            ("24.16.0", ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]),
            ("25.33.1", ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED"]),
        ],
    )
    def test_a_protected_vm_needs_its_sr(self, version: str, error: list[str]) -> None:
        with storage_pool(version) as pool:
            sr = pool.sr()
            vbd = pool.vbd(pool.vdi(sr))
            with pool.simulator.xapi.lock:
                vm = pool.db.row("VBD", vbd)["VM"]
                pool.db.set("VM", vm, ha_always_run=True, ha_restart_priority="restart")
                pool.db.set("pool", pool.db.refs("pool")[0], ha_enabled=True)
            assert refusal(pool.x.PBD.unplug, pool.the_pbd(sr))[:1] == error


class TestDestroy:
    def test_a_plugged_one_stays(self, pool: StoragePool) -> None:
        pbd = pool.the_pbd(pool.sr())
        assert refusal(pool.x.PBD.destroy, pbd) == ["OPERATION_NOT_ALLOWED", "PBD is currently attached"]

    def test_one_that_is_not_there_is_refused(self, pool: StoragePool) -> None:
        for call in (pool.x.PBD.destroy, pool.x.PBD.plug, pool.x.PBD.unplug):
            assert refusal(call, NULL) == ["HANDLE_INVALID", "PBD", NULL]
