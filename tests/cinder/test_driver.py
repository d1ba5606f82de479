"""The driver alone: Cinder's objects in, the Storage Manager and a simulated pool behind it, no service."""

from __future__ import annotations

import inspect
import logging
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cinder import context, exception, objects
from cinder.interface import volume_driver, volume_manageable_driver
from cinder.volume import configuration
from oslo_config import cfg

import xenvol
from xenvol.cinder import OPTIONS, XenSMDriver
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.database import Database
from xenvol.testing.residue import changes
from xenvol.volumeops import VolumeOps

objects.register_all()

GIB = 1 << 30
GROUP = "xen"
HOST = f"cinder-host@{GROUP}"
MakeDriver = Callable[..., XenSMDriver]


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sm.sqlite'}"


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the Storage Manager with its tables, and nothing in them."""
    directory = tmp_path_factory.mktemp("tables")
    made, whole = directory / "made.sqlite", directory / "whole.sqlite"
    Database(f"sqlite:///{made}").upgrade()
    with closing(sqlite3.connect(made)) as connection:
        connection.execute("VACUUM INTO ?", [str(whole)])  # what SQLite still has in files beside it, too
    return whole


@pytest.fixture
def manager(
    xapi: Simulator, xapi_session: Session, database: str, tables: Path, tmp_path: Path
) -> StorageManager:
    """With the flavors gold and silver, on one file server."""
    shutil.copyfile(tables, tmp_path / "sm.sqlite")  # to make the tables takes longer than to copy them
    server = xapi.storage.shares.add_nfs("10.0.0.20")
    manager = StorageManager(xapi_session, database)
    for label in ("gold", "silver"):
        server.export(f"/export/{label}", size=100 * GIB)
        manager.create_flavor(label, "for tests")
        manager.add_backend(label, "nfs", {"server": "10.0.0.20", "serverpath": f"/export/{label}"})
    return manager


@pytest.fixture
def make_driver(xapi: Simulator, database: str, tmp_path: Path) -> Iterator[MakeDriver]:
    """As cinder-volume makes it, with these options beside those that it needs; not set up."""
    made: list[XenSMDriver] = []
    password = tmp_path / "password"
    password.write_text(f"{xapi.password}\n")

    def make(**options: Any) -> XenSMDriver:
        conf = configuration.Configuration(OPTIONS, config_group=GROUP)
        needed = {
            "xenvol_url": [xapi.url],
            "xenvol_password_file": str(password),
            "xenvol_database": database,
        }
        for name, value in (needed | options).items():
            cfg.CONF.set_override(name, value, group=GROUP)
        made.append(XenSMDriver(host=HOST, configuration=conf))
        return made[-1]

    yield make
    for option in OPTIONS:
        cfg.CONF.clear_override(option.name, group=GROUP)
    for driver in made:
        with suppress(exception.DriverNotInitialized):
            driver.session.close()


@pytest.fixture
def driver(make_driver: MakeDriver, manager: StorageManager) -> XenSMDriver:
    made = make_driver()
    made.do_setup(context.get_admin_context())
    made.check_for_setup_error()
    return made


def a_volume(pool: str | None = "gold", size: int = 1, **extra_specs: str) -> Any:
    """As the scheduler hands it on; with extra specs it has a type."""
    volume_type = objects.VolumeType(id=str(uuid.uuid4()), extra_specs=extra_specs) if extra_specs else None
    return objects.Volume(
        context.get_admin_context(),
        id=str(uuid.uuid4()),
        _name_id=None,
        size=size,
        host=HOST if pool is None else f"{HOST}#{pool}",
        encryption_key_id=None,
        volume_type_id=None if volume_type is None else volume_type.id,
        volume_type=volume_type,
    )


def a_snapshot(volume: Any) -> Any:
    return objects.Snapshot(
        context.get_admin_context(), id=str(uuid.uuid4()), volume_id=volume.id, volume=volume
    )


class TestTheInterface:
    @pytest.mark.parametrize(
        "interface", [volume_driver.VolumeDriverCore, volume_manageable_driver.VolumeListManageableDriver]
    )
    def test_is_fulfilled_method_by_method(self, interface: type) -> None:
        """Cinder's own check counts methods, and finds none in any class: int passes it. So the calls are tried."""
        names = [name for name in vars(interface) if not name.startswith("_")]
        assert names
        for name in names:
            demanded = inspect.signature(getattr(interface, name)).parameters.values()
            required = [each.name for each in demanded if each.default is each.empty]
            method = getattr(XenSMDriver, name)
            if not isinstance(method, property) and required:
                inspect.signature(method).bind(*required)

    def test_is_what_the_class_says_of_itself_where_cinder_asks(self) -> None:
        assert XenSMDriver.get_driver_options() == OPTIONS
        assert XenSMDriver.VERSION != "N/A"


class TestOptions:
    @pytest.mark.parametrize("name", ["xenvol_url", "xenvol_password_file", "xenvol_database"])
    def test_that_are_missing_are_named(self, make_driver: MakeDriver, name: str) -> None:
        with pytest.raises(exception.InvalidConfigurationValue, match=name):
            make_driver(**{name: None}).do_setup(None)

    def test_of_a_password_file_that_is_not_there_are_named(
        self, make_driver: MakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(exception.InvalidConfigurationValue, match="xenvol_password_file"):
            make_driver(xenvol_password_file="/nowhere").do_setup(None)
        assert "No such file" in caplog.text

    def test_that_would_send_the_password_in_the_clear_are_refused(self, make_driver: MakeDriver) -> None:
        with pytest.raises(exception.InvalidConfigurationValue, match="xenvol_url"):
            make_driver(xenvol_url=["http://xen.example.com"]).do_setup(None)

    def test_of_a_default_flavor_that_does_not_exist_are_named(
        self, make_driver: MakeDriver, manager: StorageManager
    ) -> None:
        driver = make_driver(xenvol_default_flavor="lead")
        driver.do_setup(None)
        with pytest.raises(exception.InvalidConfigurationValue, match="xenvol_default_flavor"):
            driver.check_for_setup_error()

    def test_that_are_secret_are_known_as_such(self) -> None:
        """oslo.config writes all others into the log at debug level."""
        assert [option.name for option in OPTIONS if option.secret] == ["xenvol_database"]

    @pytest.mark.xapi(tls=True)
    @pytest.mark.parametrize("way", ["ca_file", "insecure"])
    def test_of_trust_are_handed_on(
        self, xapi: Simulator, make_driver: MakeDriver, manager: StorageManager, way: str
    ) -> None:
        trust: dict[str, Any] = {"ca_file": str(xapi.ca_file), "insecure": True}
        with pytest.raises(exception.VolumeBackendAPIException, match="certificate"):
            make_driver().do_setup(None)
        if way == "insecure":
            with pytest.warns(match="certificate"):
                make_driver(xenvol_insecure=True).do_setup(None)
        else:
            make_driver(xenvol_ca_file=trust[way]).do_setup(None)


class TestStarting:
    def test_without_a_database_says_how_to_make_one(self, make_driver: MakeDriver) -> None:
        """And makes none: its path may be mistyped."""
        with pytest.raises(exception.VolumeBackendAPIException, match=r"no such file.*flavor_create"):
            make_driver().do_setup(None)

    def test_without_a_flavor_says_how_to_make_one(
        self, make_driver: MakeDriver, tables: Path, tmp_path: Path
    ) -> None:
        shutil.copyfile(tables, tmp_path / "sm.sqlite")
        driver = make_driver()
        driver.do_setup(None)
        with pytest.raises(exception.VolumeDriverException, match="flavor_create"):
            driver.check_for_setup_error()

    def test_again_leaves_no_session_behind(self, xapi: Simulator, driver: XenSMDriver) -> None:
        """Cinder does so when a start fails."""
        before = len(xapi.db.refs("session"))
        driver.do_setup(None)
        assert len(xapi.db.refs("session")) == before

    def test_with_a_pool_that_does_not_answer_is_an_error_of_the_backend(
        self, xapi: Simulator, make_driver: MakeDriver
    ) -> None:
        xapi.faults.die()
        with pytest.raises(exception.VolumeBackendAPIException, match="got no answer"):
            make_driver().do_setup(None)

    def test_is_needed_before_anything_else(self, make_driver: MakeDriver) -> None:
        with pytest.raises(exception.DriverNotInitialized):
            make_driver().create_volume(a_volume())

    def test_with_one_backend_out_of_order_warns_and_serves_on(
        self,
        xapi: Simulator,
        make_driver: MakeDriver,
        manager: StorageManager,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        unplug(xapi, "/export/silver")
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "NFS mount error", "")
        driver = make_driver()
        with caplog.at_level(logging.WARNING):
            driver.do_setup(None)
        driver.check_for_setup_error()
        assert "out of order" in caplog.text


class TestConnections:
    def test_have_the_uuids_and_say_how_to_introduce_the_sr_if_an_option_asks_for_it(
        self, make_driver: MakeDriver, manager: StorageManager
    ) -> None:
        volume = a_volume("gold")
        found = []
        for options in ({}, {"xenvol_introduce_sr": True}, {"xenvol_connection_secrets": ["password"]}):
            driver = make_driver(**options)
            driver.do_setup(None)
            driver.create_volume(volume)
            found.append(driver.initialize_connection(volume, {"host": "any"}))
        secrets = {"secrets": ["password"]}
        assert found == [
            manager.initialize_connection(volume.id, **asked)  # type: ignore[arg-type]  # keywords of two types
            for asked in ({}, {"introduce": True}, secrets)
        ]
        assert ["serverpath" in info["data"] for info in found] == [False, True, True]


class TestFlavors:
    @pytest.mark.parametrize(
        ("extra_specs", "default", "pool", "expected"),
        [
            ({"xenvol:flavor": "gold"}, "silver", "silver", "gold"),
            ({"pool_name": "gold"}, "silver", "gold", "silver"),
            ({}, "silver", "gold", "silver"),
            ({}, None, "gold", "gold"),
        ],
    )
    def test_are_chosen_by_the_type_then_the_default_then_the_scheduler(
        self,
        make_driver: MakeDriver,
        manager: StorageManager,
        extra_specs: dict[str, str],
        default: str | None,
        pool: str,
        expected: str,
    ) -> None:
        """And the volume says where it is, where that is not what the scheduler chose."""
        driver = make_driver(xenvol_default_flavor=default)
        driver.do_setup(None)
        volume = a_volume(pool, **extra_specs)
        update = driver.create_volume(volume)
        assert update == ({} if pool == expected else {"host": f"{HOST}#{expected}"})
        assert driver.get_pool(volume) == expected

    def test_are_demanded(self, driver: XenSMDriver) -> None:
        with pytest.raises(exception.InvalidVolumeType, match="xenvol_default_flavor"):
            driver.create_volume(a_volume(None))

    def test_that_are_not_known_are_a_wrong_type(self, driver: XenSMDriver) -> None:
        with pytest.raises(exception.InvalidVolumeType, match="known: gold, silver"):
            driver.create_volume(a_volume("gold", **{"xenvol:flavor": "lead"}))

    def test_are_the_same_for_a_copy_as_for_its_source(self, driver: XenSMDriver) -> None:
        """It lies on the same SR, whatever the scheduler chose for it; its type may not ask for another one."""
        source = a_volume("gold")
        driver.create_volume(source)
        assert driver.create_cloned_volume(a_volume("silver"), source) == {"host": f"{HOST}#gold"}
        with pytest.raises(exception.InvalidVolumeType, match="silver"):
            driver.create_cloned_volume(a_volume("silver", **{"xenvol:flavor": "silver"}), source)

    @pytest.mark.parametrize(("flavor", "is_done"), [("gold", True), ("silver", False)])
    def test_do_not_change_by_a_retype(self, driver: XenSMDriver, flavor: str, is_done: bool) -> None:
        volume = a_volume()
        driver.create_volume(volume)
        new_type = objects.VolumeType(extra_specs={"xenvol:flavor": flavor})
        assert driver.retype(None, volume, new_type, {}, {"host": volume.host}) is is_done


class TestErrors:
    """Cinder's words for what to do, xenvol's for what is wrong."""

    def test_of_the_pool_keep_their_code(self, xapi: Simulator, driver: XenSMDriver) -> None:
        xapi.faults.refuse("VDI.create", "SR_FULL", "1", "0")
        with pytest.raises(exception.VolumeBackendAPIException, match="SR_FULL"):
            driver.create_volume(a_volume())

    def test_of_no_answer_say_so(self, xapi: Simulator, driver: XenSMDriver) -> None:
        xapi.faults.die()
        with pytest.raises(exception.VolumeBackendAPIException, match="got no answer"):
            driver.create_volume(a_volume())

    def test_of_a_volume_in_use_are_busy(
        self, xapi: Simulator, driver: XenSMDriver, manager: StorageManager
    ) -> None:
        """Which for Cinder is no error of the volume: it goes on as before."""
        volume = a_volume()
        driver.create_volume(volume)
        snapshot = a_snapshot(volume)
        driver.create_snapshot(snapshot)
        vm = xapi.add_vm("web")
        xapi.add_vbd(vm, ref_of(xapi, manager.get_volume(snapshot.id).vdi_uuid))
        with pytest.raises(exception.SnapshotIsBusy, match="in use by"):
            driver.delete_snapshot(snapshot)
        with pytest.raises(exception.VolumeIsBusy, match="has snapshots"):
            driver.delete_volume(volume)
        xapi.add_vbd(vm, ref_of(xapi, manager.get_volume(volume.id).vdi_uuid))
        with pytest.raises(exception.VolumeIsBusy, match="in use by"):
            driver.delete_volume(volume)

    def test_of_a_source_that_is_not_there_name_its_kind(self, driver: XenSMDriver) -> None:
        volume = a_volume()
        with pytest.raises(exception.VolumeNotFound, match=volume.id):
            driver.create_cloned_volume(a_volume(), volume)
        with pytest.raises(exception.SnapshotNotFound):
            driver.create_volume_from_snapshot(a_volume(), a_snapshot(volume))

    def test_of_the_request_are_an_invalid_input(self, driver: XenSMDriver) -> None:
        volume = a_volume(size=2)
        driver.create_volume(volume)
        with pytest.raises(exception.InvalidInput):
            driver.extend_volume(volume, 1)


class TestExtending:
    """Cinder calls a volume attached that a server has, also while the server is shut down."""

    @pytest.mark.parametrize("power_state", ["Halted", "Running"])
    def test_is_refused_only_while_a_vm_has_the_disk_plugged(
        self, xapi: Simulator, xapi_session: Session, driver: XenSMDriver, power_state: str
    ) -> None:
        volume = a_volume()
        driver.create_volume(volume)
        xapi.add_vm("web", power_state=power_state)
        attached = VolumeOps(xapi_session).attach_volume(driver.initialize_connection(volume, {}), "web")
        if power_state == "Running":
            with pytest.raises(exception.InvalidInput, match=r"web.*shut the VM down"):
                driver.extend_volume(volume, 2)
        else:
            driver.extend_volume(volume, 2)
        size = int(xapi.db.get("VDI", attached.vdi_ref, "virtual_size"))
        assert size == (1 if power_state == "Running" else 2) * GIB

    def test_is_offered_to_the_scheduler_where_a_backend_resizes(
        self, xapi: Simulator, driver: XenSMDriver, manager: StorageManager
    ) -> None:
        """It takes one word for both, a volume of a server that runs and of one that is shut down."""
        xapi.storage.san.add_target("iqn.2000-01.example:luns", "10.0.0.30:3260")
        manager.create_flavor("luns", "of an array")
        config = {"target": "10.0.0.30", "targetIQN": "iqn.2000-01.example:luns"}
        manager.add_backend("luns", "iscsi", config)
        pools = {pool["pool_name"]: pool for pool in driver.get_volume_stats(refresh=True)["pools"]}
        assert {name: pool["online_extend_support"] for name, pool in pools.items()} == {
            "gold": True,
            "silver": True,
            "luns": False,
        }
        unplug(xapi, "/export/silver")
        pools = {pool["pool_name"]: pool for pool in driver.get_volume_stats(refresh=True)["pools"]}
        assert pools["silver"]["online_extend_support"] is False


class TestAMigration:
    """Of a volume that a server has, to another flavor: nova swaps the disks, then Cinder the ids.

    The code of Cinder that calls the driver is its own; only its database is left out.
    """

    @pytest.fixture(autouse=True)
    def without_a_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects.Volume, "save", lambda self: None)

    @staticmethod
    def of_cinder(pool: str) -> Any:
        volume = a_volume(pool)
        for name, value in {"provider_location": None, "status": "in-use", "migration_status": None}.items():
            setattr(volume, name, value)
        volume.display_description = ""
        return volume

    @staticmethod
    def complete(driver: XenSMDriver, volume: Any, new_volume: Any) -> Any:
        """Do what Cinder's manager does at the end of a migration; return the volume that it deletes then."""
        from cinder.volume.manager import (
            VolumeManager,
        )  # late: its classes name objects that are registered above

        ctxt = context.get_admin_context()
        VolumeManager.update_migrated_volume(
            SimpleNamespace(driver=driver), ctxt, volume, new_volume, "in-use"
        )
        return volume.finish_volume_migration(new_volume)

    def test_ends_with_the_new_disk_under_the_old_id_and_the_old_one_erased(
        self, xapi: Simulator, xapi_session: Session, driver: XenSMDriver, manager: StorageManager
    ) -> None:
        """Also the second one of a volume, whose row has the temporary id of the first by then."""
        ops = VolumeOps(xapi_session)
        xapi.add_vm("web")
        before = xapi.snapshot()
        volume = self.of_cinder("gold")
        driver.create_volume(volume)
        info = driver.initialize_connection(volume, {})
        ops.attach_volume(info, "web", "xvdb")
        for pool in ("silver", "gold"):
            new_volume = self.of_cinder(pool)
            driver.create_volume(new_volume)
            new_info = driver.initialize_connection(new_volume, {})
            ops.detach_volume(info, "web")
            ops.attach_volume(new_info, "web", "xvdb")
            old_vdi, new_vdi = info["data"]["vdi_uuid"], new_info["data"]["vdi_uuid"]
            driver.delete_volume(self.complete(driver, volume, new_volume))
            assert xapi_session.find("VDI", {"uuid": old_vdi}) == {}
            info = driver.initialize_connection(volume, {})
            assert (info["data"]["vdi_uuid"], info["data"]["volume_id"]) == (new_vdi, volume.id)
            assert [each.vdi_uuid for each in ops.list_volumes("web")] == [new_vdi]
            assert driver.get_pool(volume) == pool
            assert [each.id for each in manager.list_volumes()] == [volume.name_id]
        assert manager.audit().findings == []
        ops.detach_volume(info, "web", "xvdb")
        driver.delete_volume(volume)
        assert manager.list_volumes() == []
        assert changes(before, xapi.snapshot()) == []

    def test_erases_no_disk_that_a_vm_has(
        self, xapi: Simulator, xapi_session: Session, driver: XenSMDriver
    ) -> None:
        """As where nova could not take the old disk out of the guest."""
        xapi.add_vm("web")
        volume, new_volume = self.of_cinder("gold"), self.of_cinder("silver")
        for each in (volume, new_volume):
            driver.create_volume(each)
            VolumeOps(xapi_session).attach_volume(driver.initialize_connection(each, {}), "web")
        before = xapi.snapshot()
        with pytest.raises(exception.VolumeIsBusy, match="web"):
            driver.delete_volume(self.complete(driver, volume, new_volume))
        assert changes(before, xapi.snapshot()) == []

    def test_leaves_a_volume_with_which_cinder_can_do_all(
        self, xapi: Simulator, driver: XenSMDriver, manager: StorageManager
    ) -> None:
        volume, new_volume = self.of_cinder("gold"), self.of_cinder("gold")
        for each in (volume, new_volume):
            driver.create_volume(each)
        driver.delete_volume(self.complete(driver, volume, new_volume))
        driver.extend_volume(volume, 2)
        snapshot, copy, from_snapshot = a_snapshot(volume), a_volume(size=2), a_volume(size=2)
        driver.create_snapshot(snapshot)
        driver.create_cloned_volume(copy, volume)
        driver.create_volume_from_snapshot(from_snapshot, snapshot)
        driver.terminate_connection(volume, {})
        same, other = (SimpleNamespace(extra_specs={"xenvol:flavor": each}) for each in ("gold", "silver"))
        assert driver.retype(None, volume, same, {}, {}) is True
        assert driver.retype(None, volume, other, {}, {}) is False
        listed = driver.get_manageable_volumes([volume], None, 10, 0, ["size"], ["asc"])
        assert [entry["cinder_id"] for entry in listed if entry["cinder_id"] is not None] == [volume.id]
        driver.delete_snapshot(snapshot)
        driver.unmanage(volume)
        assert {each.id for each in manager.list_volumes()} == {copy.id, from_snapshot.id}


class TestWhatIsNotSupported:
    def test_is_an_encrypted_type(self, driver: XenSMDriver) -> None:
        volume = a_volume()
        volume.encryption_key_id = str(uuid.uuid4())
        for make in (
            lambda: driver.create_volume(volume),
            lambda: driver.create_cloned_volume(volume, a_volume()),
            lambda: driver.manage_existing(volume, {"source-id": "x"}),
        ):
            with pytest.raises(exception.InvalidVolumeType, match="ciphertext"):
                make()

    def test_is_managing_snapshots(self, driver: XenSMDriver) -> None:
        """The base class does nothing at all, and Cinder would believe it."""
        for refused in (
            lambda: driver.manage_existing_snapshot(None, {}),
            lambda: driver.manage_existing_snapshot_get_size(None, {}),
            lambda: driver.unmanage_snapshot(None),
        ):
            with pytest.raises(NotImplementedError):
                refused()


class TestReferences:
    @pytest.mark.parametrize("key", ["source-id", "source-name"])
    def test_name_a_vdi_by_its_uuid(self, xapi: Simulator, driver: XenSMDriver, key: str) -> None:
        vdi_uuid = a_vdi_of_somebody(xapi, size=GIB + 1)
        assert driver.manage_existing_get_size(a_volume(), {key: vdi_uuid.upper()}) == 2
        assert driver.manage_existing(a_volume(), {key: vdi_uuid}) == {}

    @pytest.mark.parametrize("reference", [{}, {"source-id": ""}, {"source-id": "a", "source-name": "a"}])
    def test_that_are_none_are_refused(self, driver: XenSMDriver, reference: dict[str, str]) -> None:
        with pytest.raises(exception.ManageExistingInvalidReference, match="uuid"):
            driver.manage_existing_get_size(a_volume(), reference)

    def test_to_a_vdi_outside_the_backends_are_refused(self, xapi: Simulator, driver: XenSMDriver) -> None:
        vdi = xapi.add_vdi(xapi.add_sr("elsewhere"), "disk", size=GIB)
        reference = {"source-id": xapi.db.record("VDI", vdi)["uuid"]}
        with pytest.raises(exception.ManageExistingInvalidReference, match="none of the Storage Manager's"):
            driver.manage_existing(a_volume(), reference)

    def test_to_another_flavor_than_the_types_are_a_mismatch(
        self, xapi: Simulator, driver: XenSMDriver
    ) -> None:
        reference = {"source-id": a_vdi_of_somebody(xapi)}
        with pytest.raises(exception.ManageExistingVolumeTypeMismatch):
            driver.manage_existing(a_volume("silver", **{"xenvol:flavor": "silver"}), reference)

    def test_to_a_vdi_that_is_a_volume_already_are_refused(
        self, xapi: Simulator, driver: XenSMDriver
    ) -> None:
        reference = {"source-id": a_vdi_of_somebody(xapi)}
        driver.manage_existing(a_volume(), reference)
        with pytest.raises(exception.ManageExistingInvalidReference, match="already"):
            driver.manage_existing(a_volume(), reference)

    def test_are_listed_with_what_speaks_against_each(self, xapi: Simulator, driver: XenSMDriver) -> None:
        volume, other = a_volume(), a_volume()
        for each in (volume, other):
            driver.create_volume(each)
        free, taken = a_vdi_of_somebody(xapi), a_vdi_of_somebody(xapi)
        xapi.add_vbd(xapi.add_vm("web"), ref_of(xapi, taken))
        listed = driver.get_manageable_volumes([volume], None, 10, 0, ["size"], ["asc"])
        found = {entry["reference"]["source-name"]: entry for entry in listed}
        assert len(found) == 4
        assert found[free]["safe_to_manage"] is True
        assert found[taken]["reason_not_safe"] == "a VM has it as a disk"
        reasons = {entry["cinder_id"]: entry["reason_not_safe"] for entry in found.values()}
        assert reasons[volume.id] == "it is a volume already"
        assert other.id not in reasons


class TestStats:
    def test_of_a_backend_out_of_order_promise_nothing(self, xapi: Simulator, driver: XenSMDriver) -> None:
        """And the service is down when all are."""
        unplug(xapi, "/export/gold")
        pools = {pool["pool_name"]: pool for pool in driver.get_volume_stats(refresh=True)["pools"]}
        assert (pools["gold"]["total_capacity_gb"], pools["gold"]["free_capacity_gb"]) == (0, 0)
        assert pools["silver"]["free_capacity_gb"] > 0
        assert {pool["backend_state"] for pool in pools.values()} == {"up"}
        unplug(xapi, "/export/silver")
        pools = driver.get_volume_stats(refresh=True)["pools"]
        assert {pool["backend_state"] for pool in pools} == {"down"}

    def test_say_what_one_volume_can_have_and_not_what_all_can(
        self, xapi: Simulator, driver: XenSMDriver, manager: StorageManager
    ) -> None:
        """Else the scheduler would send a volume there that no backend takes. LUNs that exist are no room."""

        def gold() -> dict[str, Any]:
            (pool,) = [
                pool for pool in driver.get_volume_stats(refresh=True)["pools"] if pool["pool_name"] == "gold"
            ]
            return pool

        alone = gold()
        larger = alone["total_capacity_gb"] + 7
        iqn = "iqn.2010-10.org.example:store"
        xapi.storage.san.add_target(iqn, "10.0.0.1:3260")
        xapi.storage.san.add_lun(iqn, 0, int(larger * 9) * GIB)
        manager.add_backend("gold", "iscsi", {"target": "10.0.0.1", "targetIQN": iqn})
        assert gold() == alone
        xapi.storage.shares.add_nfs("10.0.0.9").export("/larger", size=int(larger * GIB))
        manager.add_backend("gold", "nfs", {"server": "10.0.0.9", "serverpath": "/larger"})
        assert gold()["total_capacity_gb"] == pytest.approx(larger, abs=0.1)
        assert gold()["free_capacity_gb"] <= larger

    def test_are_asked_of_the_pool_when_cinder_says_so(self, xapi: Simulator, driver: XenSMDriver) -> None:
        driver.get_volume_stats(refresh=True)
        with xapi.journal.recording() as calls:
            driver.get_volume_stats()
        assert list(calls) == []

    def test_count_what_was_promised(self, driver: XenSMDriver) -> None:
        before = driver.get_volume_stats(refresh=True)["pools"][0]
        driver.create_volume(a_volume("gold", size=7))
        after = driver.get_volume_stats(refresh=True)["pools"][0]
        assert after["provisioned_capacity_gb"] - before["provisioned_capacity_gb"] == pytest.approx(
            7, abs=0.1
        )
        assert after["total_volumes"] == 1


def unplug(xapi: Simulator, serverpath: str) -> None:
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
        for ref, pbd in session.call("PBD.get_all_records").items():
            if pbd["device_config"].get("serverpath") == serverpath:
                session.call("PBD.unplug", ref)


def ref_of(xapi: Simulator, vdi_uuid: str) -> str:
    (ref,) = [ref for ref in xapi.db.refs("VDI") if xapi.db.record("VDI", ref)["uuid"] == vdi_uuid]
    return ref


def a_vdi_of_somebody(xapi: Simulator, *, size: int = GIB) -> str:
    """The uuid of one on the SR of gold, which no volume has."""
    pbds = [xapi.db.record("PBD", ref) for ref in xapi.db.refs("PBD")]
    (sr,) = {pbd["SR"] for pbd in pbds if pbd["device_config"].get("serverpath") == "/export/gold"}
    vdi_uuid: str = xapi.db.record("VDI", xapi.add_vdi(sr, "somebody's", size=size))["uuid"]
    return vdi_uuid
