"""Backends are registered, set up and removed: no foreign data is erased, no foreign SR forgotten, nothing left
behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from backend_lab import (
    BY_NAME,
    DEVICE,
    FORMATTING,
    GIB,
    LUN,
    PASSWORD,
    UNKNOWN_UUID,
    WORLDS,
    Config,
    StorageWorld,
    another_pool,
    arrays_of,
    database_in,
    forgotten,
    group_on,
    manager_of,
    secrets_of,
    session_of,
    somebodys_sr,
)

import xenvol
from tests.sm.conftest import on_every_database
from xenvol.errors import (
    HostNotReady,
    UnsupportedSRType,
    VolumeInUse,
    XapiError,
    XapiUnreachable,
    XenVolError,
)
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.simulator.orders import Order
from xenvol.sm import Database, StorageManager
from xenvol.sm.errors import (
    BackendExists,
    BackendInUse,
    BackendNotReady,
    DeviceNotBlank,
    FlavorInUse,
    IncompleteConfig,
    InvalidConfig,
    NoSuchStorageDriver,
    NotSupported,
    UnknownBackend,
    UnknownFlavor,
)
from xenvol.sm.records import Backend
from xenvol.testing.residue import changes, touch_hosts
from xenvol.volumeops import VolumeOps

CHANGING = ("create", "destroy", "introduce", "forget", "plug", "unplug", "set_", "add_to", "remove_from")
"""Parts of the names of calls that change something."""

every_world = pytest.mark.parametrize("world", WORLDS, ids=str)
formatting_world = pytest.mark.parametrize("world", FORMATTING, ids=str)


@pytest.fixture
def xapi_session(xapi: Simulator) -> Iterator[Session]:
    with session_of(xapi) as session:
        yield session


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> Iterator[StorageManager]:
    with contextlib.closing(Database(database_in(tmp_path))) as database:
        yield manager_of(xapi_session, database)


def add(manager: StorageManager, world: StorageWorld, **more: str | Secret) -> Backend:
    config = {**world.config, **more}
    format_device = None if "sr_uuid" in more else world.format_device
    return manager.add_backend("gold", world.sr_type, config, format_device=format_device)


@contextlib.contextmanager
def hanging(order: Order, work: Callable[[], object]) -> Iterator[None]:
    """Work in a thread, which stops where the order strikes during the block, and continues when the block is left."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not order.hits:
            time.sleep(0.01)
        yield
    finally:
        order.release()
        thread.join()


@contextlib.contextmanager
def another_add(
    xapi: Simulator, directory: Path, world: StorageWorld, order: Order
) -> Iterator[list[BaseException]]:
    """Add the backend as `hanging` works, with a session and a database object of its own; yields its errors."""
    errors: list[BaseException] = []

    def attempt() -> None:
        with session_of(xapi) as session:
            try:
                add(StorageManager(session, database_in(directory)), world)
            except XenVolError as error:
                errors.append(error)

    with hanging(order, attempt):
        yield errors


def rows(directory: Path) -> list[tuple[Any, ...]]:
    """Return all rows of backends, also of deleted ones."""
    with sqlite3.connect(directory / "sm.sqlite") as connection:
        return connection.execute("SELECT id, state FROM sm_backend_config ORDER BY id").fetchall()


def changing(methods: list[str]) -> list[str]:
    return [method for method in methods if any(word in method for word in CHANGING)]


def dead(xapi: Simulator, world: StorageWorld) -> None:
    """Take the storage away."""
    for server in xapi.storage.shares.nfs:
        server.is_listening = False
    for volume in xapi.storage.shares.gluster:
        volume.down.update(volume.servers)
    for cluster in xapi.storage.shares.cephfs:
        cluster.is_down = True
    for share in xapi.storage.shares.smb:
        share.is_down = True
    for portal in xapi.storage.san.portals.values():
        portal.state = "refuses"
    for array in xapi.storage.san.arrays.values():
        array.is_reachable = False
    xapi.storage.san.fc_targets.clear()
    for host in list(xapi.storage.hosts.values()):
        host.mounts.devices.clear()
        host.hbas.clear()


class TestAdding:
    def test_the_sr_is_made_named_and_told(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"], name_label="toy box", name_description="for toys")
        (sr,) = xapi.db.refs("SR")
        row = xapi.db.row("SR", sr)
        assert (row["name_label"], row["name_description"]) == ("toy box", "for toys")
        assert backend.sr_uuid == row["uuid"]
        assert (backend.state, backend.origin, backend.problem) == ("ready", "created", None)
        assert backend.free > 99 * GIB
        assert manager.list_backends() == manager.list_backends(backend.id) == [backend]

    def test_a_name_is_made_up_where_none_is_given(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        (sr,) = xapi.db.refs("SR")
        assert xapi.db.get("SR", sr, "name_label") == f"SR-{backend.id}"
        assert f"Backend {backend.id}" in xapi.db.get("SR", sr, "name_description")

    def test_the_flavor_must_be_there(self, xapi: Simulator, manager: StorageManager, tmp_path: Path) -> None:
        BY_NAME["nfs"].arrange(xapi)
        with pytest.raises(UnknownFlavor):
            manager.add_backend("lead", "nfs", BY_NAME["nfs"].config)
        assert xapi.db.refs("SR") == []
        assert rows(tmp_path) == []

    def test_what_is_too_long_for_its_column_is_refused(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        with pytest.raises(InvalidConfig, match="2047") as caught:
            add(manager, BY_NAME["nfs"], options="x" * 2047)
        assert caught.value.key == "options"
        assert rows(tmp_path) == []

    @pytest.mark.xapi(hosts=2)
    def test_a_local_sr_is_made_on_the_host_that_is_named(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["lvm"].arrange(xapi)
        backend = add(manager, BY_NAME["lvm"], host="host2")
        (pbd,) = xapi.db.refs("PBD")
        host2 = xapi.find_host("host2")
        assert xapi.db.get("PBD", pbd, "host") == host2
        assert backend.host_uuid == xapi.db.get("host", host2, "uuid")
        assert group_on(xapi.storage.host("host1").mounts.devices[DEVICE]) is None


class TestAnAddThatIsRefused:
    """It leaves no row, no SR, no secret, no session."""

    @pytest.mark.parametrize("world", [world for world in WORLDS if world.sr_type != "hba"], ids=str)
    def test_leaves_nothing_where_the_storage_is_dead(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld, tmp_path: Path
    ) -> None:
        world.arrange(xapi)
        dead(xapi, world)
        touch_hosts(xapi)
        before = xapi.snapshot()
        config = {**world.config, "location": "/srv/other/vols"} if world.sr_type == "file" else world.config
        with pytest.raises(XenVolError):
            manager.add_backend("gold", world.sr_type, config, format_device=world.format_device)
        assert changes(before, xapi.snapshot()) == []
        assert rows(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "left_out", "choice"),
        [
            ("nfs", "serverpath", "serverpath=/vols"),
            ("lvmoiscsi with CHAP", "targetIQN", "targetIQN=iqn.2010-10.org.example:store target=10.0.0.1"),
            ("lvmoiscsi with CHAP", "SCSIid", f"SCSIid={LUN} LUN=0 size={100 * GIB}"),
            ("lvmohba", "SCSIid", f"SCSIid={LUN} size={100 * GIB} path=/dev/sdb"),
            ("iscsi", "targetIQN", "targetIQN=iqn.2010-10.org.example:store target=10.0.0.1"),
        ],
    )
    def test_leaves_nothing_where_a_key_is_missing_and_lists_the_choices(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path, name: str, left_out: str, choice: str
    ) -> None:
        world = BY_NAME[name]
        world.arrange(xapi)
        touch_hosts(xapi)
        before = xapi.snapshot()
        config = {key: value for key, value in world.config.items() if key != left_out}
        with pytest.raises(IncompleteConfig) as caught:
            manager.add_backend("gold", world.sr_type, config, format_device=world.format_device)
        assert caught.value.key == left_out
        assert choice in caught.value.choices
        assert changes(before, xapi.snapshot()) == []
        assert rows(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "key"),
        [("cephfs", "serverpath"), ("iscsi", "target"), ("lvm", "device"), ("equal", "password")],
    )
    def test_asks_nobody_where_a_key_is_missing_that_nobody_can_list(
        self, xapi: Simulator, manager: StorageManager, name: str, key: str
    ) -> None:
        config = {k: v for k, v in BY_NAME[name].config.items() if k != key}
        with xapi.journal.recording() as calls, pytest.raises(InvalidConfig) as caught:
            manager.add_backend("gold", BY_NAME[name].sr_type, config)
        assert caught.value.key == key
        assert calls.methods() == ["SM.get_all_records_where"]

    def test_leaves_nothing_where_the_password_is_wrong(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        world = BY_NAME["lvmoiscsi with CHAP"]
        world.arrange(xapi)
        with pytest.raises(XapiError) as caught:
            add(manager, world, chappassword=Secret("wrong-p4ssword"))
        assert caught.value.code == "SR_BACKEND_FAILURE_68"
        assert secrets_of(xapi) == {}
        assert xapi.db.refs("SR") == []
        assert rows(tmp_path) == []

    @pytest.mark.parametrize("call", ["SR.create", "SR.probe", "secret.introduce"])
    def test_leaves_nothing_whichever_call_is_refused(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path, call: str
    ) -> None:
        BY_NAME["smb"].arrange(xapi)
        touch_hosts(xapi)
        before = xapi.snapshot()
        xapi.faults.refuse(call, "SR_BACKEND_FAILURE_1200", "", "by order", "")
        with pytest.raises(XapiError):
            add(manager, BY_NAME["smb"])
        assert changes(before, xapi.snapshot()) == []
        assert rows(tmp_path) == []

    def test_stays_registered_where_the_sr_is_made_and_cannot_be_plugged(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        """The SR on the storage is not erased; the next attempt continues."""
        BY_NAME["nfs"].arrange(xapi)
        xapi.faults.refuse("PBD.get_all_records_where", "SR_BACKEND_FAILURE_1200", "", "by order", "")
        with pytest.raises(XapiError) as caught:
            add(manager, BY_NAME["nfs"])
        assert "`xenvol sm setup` completes it" in caught.value.__notes__[0]
        assert rows(tmp_path) == [(1, "new")]
        assert add(manager, BY_NAME["nfs"]).id == 1
        assert len(xapi.db.refs("SR")) == 1

    def test_that_died_before_it_told_the_password_is_told_of(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        world = BY_NAME["lvmoiscsi with CHAP"]
        world.arrange(xapi)
        xapi.faults.lose_request("secret.*", every=True)
        with pytest.raises(XapiUnreachable):
            add(manager, world)
        xapi.faults.clear()
        (report,) = manager.do_setup()
        assert isinstance(report.error, BackendNotReady)
        assert "backend_password 1 chappassword" in str(report.error)
        manager.set_backend_password(1, "chappassword", Secret(PASSWORD))
        (report,) = manager.do_setup()
        assert isinstance(report.error, DeviceNotBlank)  # which only the same call may format
        assert add(manager, world).state == "ready"

    def test_stays_registered_where_there_was_no_answer_and_goes_on_with_what_is_given_now(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        world = BY_NAME["smb"]
        world.arrange(xapi)
        xapi.faults.lose_request("SR.create", every=True)
        with pytest.raises(XapiUnreachable) as caught:
            add(manager, world, name_label="first")
        assert "backend 1 is registered" in caught.value.__notes__[0]
        xapi.faults.clear()
        backend = add(manager, world, name_label="second")
        assert (backend.id, backend.params["name_label"]) == (1, "second")
        assert xapi.db.get("SR", xapi.db.refs("SR")[0], "name_label") == "second"
        manager.remove_backend(1)
        assert secrets_of(xapi) == {}

    def test_takes_the_sr_that_a_late_call_of_a_dead_attempt_makes_while_the_storage_is_asked(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        world = BY_NAME["lvmohba"]
        world.arrange(xapi)
        xapi.faults.lose_request("SR.create", every=True)
        with xapi.journal.recording() as calls, pytest.raises(XapiUnreachable):
            add(manager, world)
        (lost,) = [call for call in calls if call.method == "SR.create"]
        xapi.faults.clear()
        added: list[Backend] = []
        with hanging(xapi.faults.hang("SR.probe"), lambda: added.append(add(manager, world))):
            late = xapi_session.call("SR.create", *lost.params)
        (backend,) = added
        assert xapi.db.refs("SR") == [late]
        assert (backend.state, backend.sr_uuid) == ("ready", xapi.db.get("SR", late, "uuid"))

    @pytest.mark.parametrize("sr_type", ["netapp", "equal"])
    @pytest.mark.xapi(world={"hosts": [{"name": "host1"}], "pool": {"sm_types": ["nfs", "lvm", "iscsi"]}})
    def test_says_that_nobody_ships_that_driver_any_more(
        self, xapi: Simulator, manager: StorageManager, sr_type: str
    ) -> None:
        world = BY_NAME[sr_type]
        world.arrange(xapi)
        with pytest.raises(NoSuchStorageDriver, match="neither XCP-ng nor any current XenServer") as caught:
            add(manager, world)
        assert caught.value.offered == ["iscsi", "lvm", "nfs"]
        with pytest.raises(UnsupportedSRType):
            manager.add_backend("gold", "acme", {"x": "y"})

    @pytest.mark.parametrize(("sr_type", "reason"), [("iso", "CD images"), ("udev", "devices of a host")])
    def test_says_what_a_type_is_for_that_holds_no_volumes(
        self, manager: StorageManager, sr_type: str, reason: str
    ) -> None:
        with pytest.raises(InvalidConfig, match=reason):
            manager.add_backend("gold", sr_type, {"location": "/x"})


class FileSystem:
    """Data on a disk that XenAPI cannot see."""


class TestADevice:
    """It is formatted only by its name, and never while it has an SR of the pool."""

    @formatting_world
    @pytest.mark.parametrize("named", [None, "/dev/sdc", "3600ffff"])
    def test_that_is_not_named_is_not_touched_though_it_looks_blank(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld, named: str | None, tmp_path: Path
    ) -> None:
        world.arrange(xapi)
        assert world.disk is not None
        theirs = world.disk(xapi).content = FileSystem()
        with pytest.raises(DeviceNotBlank, match="cannot tell whether it holds a file system") as caught:
            manager.add_backend("gold", world.sr_type, world.config, format_device=named)
        assert (caught.value.device, caught.value.found) == (world.format_device, [])
        assert world.disk(xapi).content is theirs
        assert rows(tmp_path) == []
        assert secrets_of(xapi) == {}

    @formatting_world
    def test_with_an_sr_that_the_pool_does_not_know_is_told_and_used_by_its_uuid(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        assert world.disk is not None
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        theirs = world.disk(xapi).content
        for named in (None, "/dev/sdc"):
            with pytest.raises(DeviceNotBlank, match=f"give sr_uuid={sr_uuid}") as caught:
                manager.add_backend("gold", world.sr_type, world.config, format_device=named)
            assert caught.value.found == [sr_uuid]
        backend = add(manager, world, sr_uuid=sr_uuid)
        assert (backend.sr_uuid, backend.origin) == (sr_uuid, "introduced")
        assert world.disk(xapi).content is theirs

    @formatting_world
    def test_that_is_named_is_erased(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        assert world.disk is not None
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        backend = add(manager, world)
        assert backend.sr_uuid != sr_uuid
        assert backend.sr_uuid in str(group_on(world.disk(xapi)))

    @formatting_world
    def test_of_an_sr_of_the_pool_is_not_touched_even_if_it_is_named(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        assert world.disk is not None
        somebodys_sr(xapi, world, "System disks")
        theirs = world.disk(xapi).content
        with pytest.raises(InvalidConfig, match="names the device of SR System disks"):
            add(manager, world)
        assert world.disk(xapi).content is theirs
        assert manager.list_backends() == []

    @pytest.mark.parametrize(("theirs", "ours"), [("ext", "lvm"), ("lvm", "ext")])
    def test_of_an_sr_of_another_type_is_not_touched_either(
        self, xapi: Simulator, manager: StorageManager, theirs: str, ours: str
    ) -> None:
        """A probe for one type does not see it, so xenvol probes for the other types too."""
        BY_NAME[theirs].arrange(xapi)
        sr_uuid = somebodys_sr(xapi, BY_NAME[theirs])
        with pytest.raises(InvalidConfig, match=f"{sr_uuid}.*which this pool uses"):
            add(manager, BY_NAME[ours])
        assert sr_uuid in str(group_on(xapi.storage.host("host1").mounts.devices[DEVICE]))
        assert manager.list_backends() == []

    def test_is_not_erased_by_whoever_goes_on_once_its_sr_is_made(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, tmp_path: Path
    ) -> None:
        world = BY_NAME["lvm"]
        world.arrange(xapi)
        xapi.faults.refuse("PBD.get_all_records_where", "SR_BACKEND_FAILURE_1200", "", "by order", "")
        with pytest.raises(XapiError):
            add(manager, world)
        assert rows(tmp_path) == [(1, "new")]
        group = group_on(xapi.storage.host("host1").mounts.devices[DEVICE])
        assert group is not None
        (report,) = StorageManager(xapi_session, database_in(tmp_path)).do_setup()
        assert report.error is None
        assert group_on(xapi.storage.host("host1").mounts.devices[DEVICE]) == group


DUPLICATES: list[tuple[str, Config]] = [
    ("nfs", {"server": "10.0.0.2", "serverpath": "/vols/", "nfsversion": "4"}),
    ("nfs", {"serverpath": "//vols", "server": "10.0.0.2", "host": "host2", "name_label": "another"}),
    ("smb", {"server": "//10.0.0.4/VOLS/", "username": "other", "password": Secret("x")}),
    ("cephfs", {"server": "10.0.0.8", "serverpath": "/", "serverport": "6789"}),
    ("glusterfs", {"server": "10.0.0.6:vols", "backupservers": "10.0.0.5"}),
    ("file", {"location": "/srv//vols/"}),
    ("ext", {"device": "/dev//sdb"}),
    ("lvm", {"device": "/dev/sdc,/dev/sdb"}),
    ("lvmoiscsi", {"target": "10.0.0.9", "port": "3261", "targetIQN": "*", "SCSIid": LUN.upper()}),
    ("lvmohba", {"SCSIid": LUN}),
    ("iscsi", {"targetIQN": "IQN.2010-10.org.example:store", "target": "10.0.0.9", "port": "3261"}),
    ("hba", {"type": "fc"}),
    ("netapp", {"target": "10.0.1.1", "username": "b", "password": Secret("x"), "aggregate": "pool0"}),
]


@pytest.mark.xapi(hosts=2)
class TestTheSameStorageTwice:
    @pytest.mark.parametrize(("name", "config"), DUPLICATES)
    def test_is_refused_in_every_spelling_and_every_flavor(
        self, xapi: Simulator, manager: StorageManager, name: str, config: Mapping[str, str | Secret]
    ) -> None:
        world = BY_NAME[name]
        world.arrange(xapi)
        backend = add(manager, world)
        manager.create_flavor("lead", "cheap")
        before = xapi.snapshot()
        for flavor in ("gold", "lead"):
            with pytest.raises(BackendExists) as caught:
                manager.add_backend(flavor, world.sr_type, config, format_device=world.format_device)
            assert caught.value.backend_id == backend.id
        assert manager.list_backends() == [backend]
        assert changes(before, xapi.snapshot()) == []

    @every_world
    def test_is_refused_by_the_uuid_of_its_sr(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        backend = add(manager, world)
        with pytest.raises(BackendExists):
            add(manager, world, sr_uuid=str(backend.sr_uuid))
        with pytest.raises(BackendExists):  # the pool knows the rest
            manager.add_backend("gold", world.sr_type, {"sr_uuid": str(backend.sr_uuid)})

    @pytest.mark.parametrize("name", ["file", "iscsi", "hba"])
    def test_is_refused_under_another_uuid_where_the_storage_knows_none(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        BY_NAME[name].arrange(xapi)
        add(manager, BY_NAME[name])
        with pytest.raises(BackendExists):
            add(manager, BY_NAME[name], sr_uuid=UNKNOWN_UUID)

    def test_is_refused_where_an_sr_of_it_was_only_introduced(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        add(manager, world, sr_uuid=forgotten(xapi_session, somebodys_sr(xapi, world)))
        with pytest.raises(BackendExists):
            add(manager, world)

    def test_may_hold_several_srs_that_are_told_by_their_uuids(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        one, other = somebodys_sr(xapi, world, "one"), somebodys_sr(xapi, world, "other")
        backends = [add(manager, world, sr_uuid=sr_uuid) for sr_uuid in (one, other)]
        assert [backend.sr_uuid for backend in backends] == [one, other]

    def test_is_another_storage_on_another_host_where_it_is_local(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["lvm"].arrange(xapi)
        assert {add(manager, BY_NAME["lvm"], host=host).id for host in ("host1", "host2")} == {1, 2}
        with pytest.raises(BackendExists):
            add(manager, BY_NAME["ext"], host="host2")

    @pytest.mark.parametrize("name", ["iscsi", "hba"])
    def test_is_the_other_srs_where_the_pool_has_its_luns_already(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        """A second SR of these LUNs would be plugged, and stay empty for ever."""
        BY_NAME[name].arrange(xapi)
        sr_uuid = somebodys_sr(xapi, BY_NAME[name], "LUNs")
        for more in ({}, {"sr_uuid": UNKNOWN_UUID}):
            with pytest.raises(InvalidConfig, match=f"of SR LUNs .*give sr_uuid={sr_uuid}"):
                add(manager, BY_NAME[name], **more)
        assert add(manager, BY_NAME[name], sr_uuid=sr_uuid).origin == "found"

    def test_is_free_again_once_it_is_removed(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        first = add(manager, BY_NAME["nfs"])
        manager.remove_backend(first.id)
        assert add(manager, BY_NAME["nfs"]).id != first.id


class TestTwoAtOnce:
    @on_every_database
    @pytest.mark.parametrize("call", ["SR.probe", "SR.create", "SR.add_to_other_config"])
    def test_one_registers_it_and_the_others_are_refused(
        self, xapi: Simulator, xapi_session: Session, database: Database, database_url: str, call: str
    ) -> None:
        """The others come at any moment of the first."""
        world, manager = BY_NAME["lvmoiscsi with CHAP"], manager_of(xapi_session, database)
        world.arrange(xapi)
        xapi.faults.delay(call, 0.3, every=True)
        outcomes: list[object] = []

        def attempt() -> None:
            with session_of(xapi) as session, contextlib.closing(Database(database_url)) as theirs:
                try:
                    outcomes.append(add(StorageManager(session, theirs), world))
                except XenVolError as error:
                    outcomes.append(error)

        threads = [threading.Thread(target=attempt) for _ in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        (backend,) = manager.list_backends()
        assert [outcome.id for outcome in outcomes if isinstance(outcome, Backend)] == [backend.id]
        assert [type(each) for each in outcomes if not isinstance(each, Backend)] == [BackendExists] * 2
        assert len(xapi.db.refs("SR")) == 1
        assert backend.state == "ready"
        manager.create_volume("v", "gold", GIB)
        manager.delete_volume("v")
        manager.remove_backend(backend.id, destroy=True)
        assert secrets_of(xapi) == {}

    def test_one_sr_is_registered_once_under_two_names_of_its_storage(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, tmp_path: Path
    ) -> None:
        """A name and an address: xenvol cannot know that they are the same server until both have found the SR."""
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        xapi.faults.delay("SR.probe", 0.3, every=True)
        outcomes: list[object] = []

        def attempt(server: str) -> None:
            with session_of(xapi) as session:
                try:
                    other = StorageManager(session, database_in(tmp_path))
                    outcomes.append(add(other, world, server=server, sr_uuid=sr_uuid))
                except XenVolError as error:
                    outcomes.append(error)

        threads = [
            threading.Thread(target=attempt, args=[name]) for name in ("10.0.0.2", "filer.example.org")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Backend", "BackendExists"]
        assert len(manager.list_backends()) == len(rows(tmp_path)) == 1
        assert len(xapi.db.refs("SR")) == 1

    def test_a_dead_attempt_that_lives_on_lets_go_of_what_another_has_taken_over(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        """It removes neither the other attempt's row nor its secret."""
        world = BY_NAME["smb"]
        world.arrange(xapi)
        with another_add(xapi, tmp_path, world, xapi.faults.hang("SR.probe")) as errors:
            xapi.faults.refuse("SR.create", "SR_BACKEND_FAILURE_1200", "", "it exists already", "", nth=2)
            backend = add(manager, world)
        assert [type(error) for error in errors] == [BackendExists]
        assert manager.list_backends() == [backend]
        manager.create_volume("v", "gold", GIB)
        assert manager.initialize_connection("v", secrets=["password"])["data"]["password"] == PASSWORD

    def test_an_add_leaves_nothing_of_what_is_removed_under_it(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        world = BY_NAME["smb"]
        world.arrange(xapi)
        with another_add(xapi, tmp_path, world, xapi.faults.hang("secret.introduce")) as errors:
            manager.remove_backend(1)
        assert [type(error) for error in errors] == [UnknownBackend]
        assert (secrets_of(xapi), xapi.db.refs("SR")) == ({}, [])


class TestAnSRThatIsThere:
    @every_world
    def test_in_the_pool_is_used_and_never_forgotten(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld
    ) -> None:
        """Not even `destroy` forgets it."""
        world.arrange(xapi)
        sr_uuid = somebodys_sr(xapi, world)
        before = xapi.snapshot()
        backend = manager.add_backend("gold", world.sr_type, {"sr_uuid": sr_uuid})
        assert (backend.origin, backend.problem, backend.sr_uuid) == ("found", None, sr_uuid)
        assert backend.params["name_label"] == "of somebody else"
        assert set(backend.params) >= {key for key, v in world.config.items() if isinstance(v, str)}
        with pytest.raises(NotSupported, match=r"in the pool before|LUNs of an array"):
            manager.remove_backend(backend.id, destroy=True)
        manager.remove_backend(backend.id)
        assert changes(before, xapi.snapshot()) == []

    @every_world
    def test_on_the_storage_is_introduced_and_forgotten_again(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        touch_hosts(xapi)
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        before, arrays = xapi.snapshot(), arrays_of(xapi)
        backend = add(manager, world, sr_uuid=sr_uuid.upper())
        assert (backend.origin, backend.problem, backend.sr_uuid) == ("introduced", None, sr_uuid)
        manager.remove_backend(backend.id)
        assert changes(before, xapi.snapshot()) == []
        assert arrays_of(xapi) == arrays

    @pytest.mark.parametrize("name", ["nfs", "smb", "cephfs", "glusterfs", "ext", "lvm", "lvmohba", "netapp"])
    def test_nowhere_is_told_so_with_those_that_are(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, name: str
    ) -> None:
        world = BY_NAME[name]
        world.arrange(xapi)
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        with pytest.raises(InvalidConfig, match=f"names no SR that exists; .*{sr_uuid}"):
            add(manager, world, sr_uuid=UNKNOWN_UUID)
        assert manager.list_backends() == []
        assert xapi.db.refs("SR") == []

    def test_of_another_type_is_registered_as_what_it_is(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["ext"].arrange(xapi)
        sr_uuid = somebodys_sr(xapi, BY_NAME["ext"])
        with pytest.raises(InvalidConfig, match="is an SR of type ext"):
            manager.add_backend("gold", "lvm", {"sr_uuid": sr_uuid, "device": DEVICE})

    def test_by_an_old_name_of_its_type_is_the_same(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["lvm"].arrange(xapi)
        sr = xapi.add_sr("old", type="lvhd", device_config={"device": DEVICE}, create=True, shared=False)
        backend = manager.add_backend("gold", "lvm", {"sr_uuid": xapi.db.get("SR", sr, "uuid")})
        assert (backend.sr_type, backend.problem) == ("lvm", None)

    @pytest.mark.xapi(hosts=2)
    def test_on_a_host_is_found_there(self, xapi: Simulator, manager: StorageManager) -> None:
        world = BY_NAME["lvm"]
        world.arrange(xapi)
        sr = xapi.add_sr(
            "x", type="lvm", device_config=world.plain_config, create=True, shared=False, hosts=["host2"]
        )
        backend = manager.add_backend("gold", "lvm", {"sr_uuid": xapi.db.get("SR", sr, "uuid")})
        assert backend.host_uuid == xapi.db.get("host", xapi.find_host("host2"), "uuid")

    def test_with_a_password_is_used_with_it(self, xapi: Simulator, manager: StorageManager) -> None:
        """The pool knows the password, and a volume that is attached elsewhere needs it."""
        world = BY_NAME["lvmoiscsi with CHAP"]
        world.arrange(xapi)
        manager.add_backend("gold", world.sr_type, {"sr_uuid": somebodys_sr(xapi, world)})
        manager.create_volume("v", "gold", GIB)
        info = manager.initialize_connection("v", secrets=["chappassword"])
        assert info["data"]["chappassword"] == PASSWORD

    def test_is_registered_without_what_its_driver_wrote_for_itself(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        """The driver writes the portals of a multihomed SR into this pool's PBD."""
        BY_NAME["lvmoiscsi"].arrange(xapi)
        config = {**BY_NAME["lvmoiscsi"].plain_config, "multihomed": "true"}
        sr = xapi.add_sr("x", type="lvmoiscsi", device_config=config, create=True)
        assert "multihomelist" in xapi.db.get("PBD", xapi.db.refs("PBD")[0], "device_config")
        backend = manager.add_backend("gold", "lvmoiscsi", {"sr_uuid": xapi.db.get("SR", sr, "uuid")})
        assert "multihomelist" not in backend.params

    def test_of_an_attachment_becomes_the_backends(
        self, xapi: Simulator, xapi_session: Session, manager: StorageManager
    ) -> None:
        """The last detach no longer forgets it, and `backend_remove` does."""
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        with another_pool(xapi) as other, session_of(other) as session:
            add(manager, world)
            other.add_vm("there")
            touch_hosts(other)
            before = other.snapshot()
            manager.create_volume("v", "gold", GIB)
            info = manager.initialize_connection("v", introduce=True)
            VolumeOps(session).attach_volume(info, "there")
            there = StorageManager(session, manager._context.database)
            (report,) = there.do_setup()
            assert report.error is None
            VolumeOps(session).detach_volume(info, "there")
            assert len(other.db.refs("SR")) == 1
            there.delete_volume("v")
            there.remove_backend(1)
            assert [line for line in changes(before, other.snapshot()) if "storage.servers" not in line] == []


class TestSecrets:
    WITH_PASSWORDS = [world for world in WORLDS if any(isinstance(v, Secret) for v in world.config.values())]

    @pytest.mark.parametrize("world", WITH_PASSWORDS, ids=str)
    def test_lie_in_the_pool_and_nowhere_else(
        self,
        xapi: Simulator,
        manager: StorageManager,
        world: StorageWorld,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        world.arrange(xapi)
        backend = add(manager, world)
        assert set(secrets_of(xapi).values()) == {PASSWORD}
        assert len(secrets_of(xapi)) == 1 + len(xapi.db.refs("PBD"))
        manager.do_setup()
        manager.audit(repair=True)
        texts = [
            caplog.text,
            json.dumps([backend.as_dict(), *[each.as_dict() for each in manager.stats()]]),
            repr(backend),
            repr(manager),
            *(each.decode(errors="replace") for each in files_in(tmp_path)),
            *capfd.readouterr(),
        ]
        assert [text for text in texts if PASSWORD in text] == []
        manager.remove_backend(backend.id)
        assert secrets_of(xapi) == {}

    @pytest.mark.parametrize("world", [BY_NAME["smb"], BY_NAME["lvmoiscsi with CHAP"]], ids=str)
    @pytest.mark.parametrize("fate", ["refuse", "lose_answer", "lose_request"])
    def test_are_in_no_error(
        self,
        xapi: Simulator,
        manager: StorageManager,
        world: StorageWorld,
        fate: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Any call may fail, and xapi may quote any of its parameters."""
        caplog.set_level(logging.DEBUG)
        for call in (
            "secret.introduce",
            "SR.probe",
            "SR.create",
            "SR.set_shared",
            "PBD.get_all_records_where",
        ):
            xapi.reset()
            world.arrange(xapi)
            with session_of(xapi) as session:
                again = manager_of(session, tmp_path / f"{fate}-{call}")
                order: Callable[..., object] = getattr(xapi.faults, fate)
                order(
                    call, *(["INTERNAL_ERROR", f"cannot log in with {PASSWORD}"] if fate == "refuse" else [])
                )
                told = ""
                try:
                    add(again, world)
                except XenVolError as error:
                    told = f"{error!r} {error} {getattr(error, '__notes__', '')} {vars(error)}"
                assert PASSWORD not in told
                assert PASSWORD not in caplog.text
                assert not any(PASSWORD.encode() in each for each in files_in(tmp_path))

    def test_that_change_are_told_to_the_pbds(self, xapi: Simulator, manager: StorageManager) -> None:
        world = BY_NAME["lvmoiscsi with CHAP"]
        world.arrange(xapi)
        backend = add(manager, world)
        xapi.storage.san.targets["iqn.2010-10.org.example:store"].chap = ("initiator", "new-p4ssword")
        manager.set_backend_password(backend.id, "chappassword", Secret("new-p4ssword"))
        assert set(secrets_of(xapi).values()) == {"new-p4ssword"}
        (pbd,) = xapi.db.refs("PBD")
        with session_of(xapi) as session:
            session.call("PBD.unplug", pbd)
        (report,) = manager.do_setup()
        assert report.error is None
        manager.create_volume("v", "gold", GIB)
        info = manager.initialize_connection("v", secrets=["chappassword"])
        assert info["data"]["chappassword"] == "new-p4ssword"

    def test_of_an_sr_that_is_not_ours_are_not_changed(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        world = BY_NAME["smb"]
        world.arrange(xapi)
        backend = manager.add_backend("gold", "smb", {"sr_uuid": somebodys_sr(xapi, world)})
        theirs = {uuid for uuid in secrets_of(xapi) if uuid != backend.params["password_secret"]}
        manager.set_backend_password(backend.id, "password", Secret("new-p4ssword"))
        assert {secrets_of(xapi)[uuid] for uuid in theirs} == {PASSWORD}

    def test_that_a_backend_has_not_cannot_be_set(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["smb"].arrange(xapi)
        backend = add(manager, BY_NAME["smb"])
        with pytest.raises(InvalidConfig, match="its passwords: password"):
            manager.set_backend_password(backend.id, "chappassword", Secret("x"))


def files_in(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


@pytest.mark.xapi(hosts=2)
class TestRemoving:
    def test_is_refused_while_it_has_volumes_and_lists_them(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        for number in range(12):
            manager.create_volume(f"v{number:02}", "gold", GIB)
        before = xapi.snapshot()
        for destroy in (False, True):
            with pytest.raises(BackendInUse, match=r"v00, v01, .* and 2 more") as caught:
                manager.remove_backend(backend.id, destroy=destroy)
            assert (caught.value.count, len(caught.value.volumes)) == (12, 10)
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_backends()[0].id == backend.id

    def test_of_a_flavor_is_refused_while_it_has_backends_and_lists_them(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        with pytest.raises(FlavorInUse) as caught:
            manager.delete_flavor("gold")
        assert caught.value.backends == [backend.id]
        manager.remove_backend(backend.id)
        manager.delete_flavor("gold")
        assert manager.list_flavors() == []

    @pytest.mark.parametrize("power_state", ["Running", "Halted"])
    @pytest.mark.parametrize("destroy", [False, True])
    def test_is_refused_while_a_vm_has_a_disk_of_its_sr(
        self, xapi: Simulator, manager: StorageManager, power_state: str, destroy: bool
    ) -> None:
        """The disk may be no volume, and the VM may be shut down: the VM would lose the disk."""
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        (sr,) = xapi.db.refs("SR")
        xapi.add_vm("web", power_state=power_state, disks=[xapi.add_vdi(sr, "disk")])
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="web"):
            manager.remove_backend(backend.id, destroy=destroy)
        assert changes(before, xapi.snapshot()) == []

    def test_does_not_erase_an_sr_with_somebodys_disks(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        (sr,) = xapi.db.refs("SR")
        xapi.add_vdi(sr, "disk")
        before = xapi.snapshot()
        with pytest.raises(XapiError) as caught:
            manager.remove_backend(backend.id, destroy=True)
        assert caught.value.code == "SR_NOT_EMPTY"
        assert changes(before, xapi.snapshot()) == []
        manager.remove_backend(backend.id)
        assert xapi.db.refs("SR") == []

    @every_world
    def test_leaves_nothing_in_the_pool_and_with_destroy_nothing_anywhere(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        touch_hosts(xapi)
        before, arrays = xapi.snapshot(), arrays_of(xapi)
        backend = add(manager, world)
        if world.luns:
            with pytest.raises(NotSupported, match="LUNs of an array"):
                manager.remove_backend(backend.id, destroy=True)
        manager.remove_backend(backend.id, destroy=not world.luns)
        assert changes(before, xapi.snapshot()) == []
        assert arrays_of(xapi) == arrays
        with pytest.raises(UnknownBackend):
            manager.remove_backend(backend.id)

    def test_goes_on_where_somebody_has_forgotten_the_sr(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        world = BY_NAME["smb"]
        world.arrange(xapi)
        backend = add(manager, world)
        forgotten(xapi_session, str(backend.sr_uuid))
        with pytest.raises(NotSupported, match="not known to this pool"):
            manager.remove_backend(backend.id, destroy=True)
        manager.remove_backend(backend.id)
        assert secrets_of(xapi) == {}
        assert manager.list_backends() == []

    def test_does_not_say_that_it_is_erased_where_nobody_can_tell(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        """The type ``file`` cannot be probed, so an SR that the pool does not know may still exist."""
        BY_NAME["file"].arrange(xapi)
        backend = add(manager, BY_NAME["file"])
        forgotten(xapi_session, str(backend.sr_uuid))
        with pytest.raises(NotSupported, match="not known to this pool"):
            manager.remove_backend(backend.id, destroy=True)
        manager.remove_backend(backend.id)
        assert manager.list_backends() == []

    @pytest.mark.parametrize(
        "world", [world for world in WORLDS if not world.luns and world.sr_type != "file"], ids=str
    )
    def test_goes_on_where_an_earlier_call_has_erased_the_sr_and_died(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, world: StorageWorld
    ) -> None:
        world.arrange(xapi)
        touch_hosts(xapi)
        before = xapi.snapshot()
        backend = add(manager, world)
        sr_ref = xapi_session.call("SR.get_by_uuid", backend.sr_uuid)
        for pbd_ref in xapi_session.call("SR.get_PBDs", sr_ref):
            xapi_session.call("PBD.unplug", pbd_ref)
        xapi_session.call("SR.destroy", sr_ref)
        manager.remove_backend(backend.id, destroy=True)
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_backends() == []

    @pytest.mark.parametrize("destroy", [False, True])
    def test_is_done_where_the_answer_is_lost(
        self, xapi: Simulator, manager: StorageManager, destroy: bool
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        xapi.faults.lose_answer("SR.destroy" if destroy else "SR.forget")
        manager.remove_backend(backend.id, destroy=destroy)
        assert (manager.list_backends(), xapi.db.refs("SR")) == ([], [])

    def test_that_was_not_heard_of_leaves_it_plugged(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        before = xapi.snapshot()
        xapi.faults.lose_request("SR.forget")
        with pytest.raises(XapiUnreachable):
            manager.remove_backend(backend.id)
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_backends() != []

    def test_takes_away_what_a_dead_add_has_left(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        """It left an SR that was introduced and not recorded."""
        world = BY_NAME["smb"]
        world.arrange(xapi)
        touch_hosts(xapi)
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, world))
        before = xapi.snapshot()
        xapi.faults.lose_request("PBD.create", every=True)
        xapi.faults.lose_request("SR.forget", every=True)
        with pytest.raises(XapiUnreachable):
            add(manager, world, sr_uuid=sr_uuid)
        assert len(xapi.db.refs("SR")) == 1
        xapi.faults.clear()
        manager.remove_backend(1)
        assert changes(before, xapi.snapshot()) == []


@pytest.mark.xapi(hosts=2)
class TestSetUp:
    NAMES = ("nfs", "smb", "cephfs", "glusterfs", "lvmoiscsi with CHAP", "netapp")

    @pytest.fixture
    def backends(self, xapi: Simulator, manager: StorageManager) -> list[Backend]:
        for name in self.NAMES:
            BY_NAME[name].arrange(xapi)
        return [add(manager, BY_NAME[name]) for name in self.NAMES]

    def test_of_what_is_up_changes_nothing(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend]
    ) -> None:
        before = xapi.snapshot()
        for _ in range(2):
            with xapi.journal.recording() as calls:
                reports = manager.do_setup()
            assert [(report.backend.id, report.error) for report in reports] == [
                (backend.id, None) for backend in backends
            ]
            assert changing(calls.methods()) == []
        assert changes(before, xapi.snapshot()) == []

    def test_is_done_for_all_at_once(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], xapi_session: Session
    ) -> None:
        for pbd in xapi.db.refs("PBD"):
            xapi_session.call("PBD.unplug", pbd)
        order = xapi.faults.hang("PBD.plug", every=True)
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(manager.do_setup)
            deadline = time.monotonic() + 60
            while order.hits < 5 and time.monotonic() < deadline:
                time.sleep(0.01)
            hanging = order.hits
            order.release()
            assert [report.error for report in future.result()] == [None] * 6
        assert hanging >= 5

    def test_reports_what_is_dead_and_has_the_others_up(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], xapi_session: Session
    ) -> None:
        for pbd in xapi.db.refs("PBD"):
            xapi_session.call("PBD.unplug", pbd)
        xapi.storage.shares.smb[0].is_down = True
        told: list[str] = []
        reports = manager.do_setup(progress=told.append)
        errors = {report.backend.sr_type: report.error for report in reports}
        assert {sr_type for sr_type, error in errors.items() if error is not None} == {"smb"}
        assert isinstance(errors["smb"], XapiError)
        assert len(told) == 5
        problems = {backend.sr_type: backend.problem for backend in manager.list_backends()}
        assert {sr_type for sr_type, problem in problems.items() if problem is not None} == {"smb"}
        (dead_one,) = [report.backend for report in reports if report.error is not None]
        assert dead_one.problem == "its SR is plugged on no host"
        xapi.storage.shares.smb[0].is_down = False
        assert [report.error for report in manager.do_setup()] == [None] * 6
        assert [backend.problem for backend in manager.list_backends()] == [None] * 6

    def test_puts_right_what_somebody_has_taken_away(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], xapi_session: Session
    ) -> None:
        """An SR was forgotten, a PBD destroyed, or a PBD unplugged."""
        before = len(xapi.db.refs("PBD"))
        forgotten(xapi_session, str(backends[1].sr_uuid))
        one, other = (xapi_session.call("SR.get_by_uuid", backends[n].sr_uuid) for n in (0, 4))
        for pbd in xapi_session.call("SR.get_PBDs", one):
            xapi_session.call("PBD.unplug", pbd)
        pbd = next(
            pbd
            for pbd in xapi_session.call("SR.get_PBDs", other)
            if xapi_session.call("PBD.get_host", pbd) == xapi.find_host("host2")
        )
        xapi_session.call("PBD.unplug", pbd)
        xapi_session.call("PBD.destroy", pbd)
        assert [report.error for report in manager.do_setup()] == [None] * 6
        pbds = [xapi.db.row("PBD", ref) for ref in xapi.db.refs("PBD")]
        assert (len(pbds), all(row["currently_attached"] for row in pbds)) == (before, True)
        for backend in manager.list_backends():
            assert backend.problem is None
        for name in self.NAMES:
            manager.create_volume(name, "gold", 90 * GIB)

    def test_leaves_plugged_what_is_plugged_where_a_host_refuses(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], xapi_session: Session
    ) -> None:
        sr = xapi_session.call("SR.get_by_uuid", backends[0].sr_uuid)
        for pbd in xapi_session.call("SR.get_PBDs", sr):
            xapi_session.call("PBD.unplug", pbd)
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_73", "", "no cable", "", nth=2)
        reports = manager.do_setup()
        error = reports[0].error
        assert isinstance(error, XapiError)
        assert "host2" in error.__notes__[0]
        assert reports[0].backend.problem is None  # the master has it, so it can be used
        manager.create_volume("v", "gold", GIB)

    def test_goes_on_with_what_was_begun(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        xapi.faults.lose_request("SR.create", every=True)
        with pytest.raises(XapiUnreachable):
            add(manager, BY_NAME["nfs"])
        xapi.faults.clear()
        (report,) = manager.do_setup()
        assert (report.error, report.backend.state) == (None, "ready")
        assert len(xapi.db.refs("SR")) == 1

    def test_of_a_dead_one_that_was_begun_keeps_nobody_waiting(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], tmp_path: Path
    ) -> None:
        """On SQLite a lock blocks every service: none is held while dead storage is probed."""
        world = BY_NAME["equal"]
        world.arrange(xapi)
        xapi.faults.lose_request("SR.create", every=True)
        with pytest.raises(XapiUnreachable):
            add(manager, world)
        xapi.faults.clear()
        with session_of(xapi) as session:
            set_up = StorageManager(session, database_in(tmp_path)).do_setup
            with hanging(xapi.faults.hang("SR.probe"), set_up):
                started = time.monotonic()
                manager.create_volume("v", "gold", GIB)
                assert time.monotonic() - started < 60
        assert [backend.state for backend in manager.list_backends()] == ["ready"] * 7

    def test_a_silent_pool_is_reported_for_each(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend]
    ) -> None:
        xapi.faults.lose_request("SR.*", every=True)
        reports = manager.do_setup()
        assert [type(report.error) for report in reports] == [XapiUnreachable] * 6
        assert [backend.problem for backend in manager.list_backends()] == [None] * 6

    def test_of_one_that_is_removed_meanwhile_is_left_out(
        self, xapi: Simulator, manager: StorageManager, backends: list[Backend], tmp_path: Path
    ) -> None:
        order = xapi.faults.hang("SR.get_all_records_where", nth=6)
        reports: list[Any] = []
        with hanging(order, lambda: reports.extend(manager.do_setup())):
            with sqlite3.connect(tmp_path / "sm.sqlite") as connection:
                connection.execute("UPDATE sm_backend_config SET deleted = id")
        assert len(reports) < 6


class TestAnotherPool:
    """Two pools on the same storage, with one database."""

    @pytest.mark.parametrize("name", ["nfs", "cephfs", "glusterfs", "lvmoiscsi"])
    def test_gets_to_know_the_srs_by_their_uuids(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        BY_NAME[name].arrange(xapi)
        backend = add(manager, BY_NAME[name])
        manager.create_volume("v", "gold", GIB)
        with another_pool(xapi) as other, session_of(other) as session:
            touch_hosts(other)
            before = other.snapshot()
            there = StorageManager(session, manager._context.database)
            (report,) = there.do_setup()
            assert (report.error, report.backend.problem) == (None, None)
            (sr,) = other.db.refs("SR")
            assert other.db.get("SR", sr, "uuid") == backend.sr_uuid
            vdis = {other.db.get("VDI", ref, "uuid") for ref in other.db.refs("VDI")}
            assert vdis == {manager.get_volume("v").vdi_uuid}
            there.delete_volume("v")
            there.remove_backend(backend.id)
            assert [line for line in changes(before, other.snapshot()) if "storage." not in line] == []

    @pytest.mark.parametrize("name", ["smb", "lvmoiscsi with CHAP"])
    def test_is_told_a_password_before_it_can(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        world = BY_NAME[name]
        world.arrange(xapi)
        backend = add(manager, world)
        (key,) = [key for key, value in world.config.items() if isinstance(value, Secret)]
        with another_pool(xapi) as other, session_of(other) as session:
            there = StorageManager(session, manager._context.database)
            (report,) = there.do_setup()
            assert isinstance(report.error, BackendNotReady)
            assert f"backend_password {backend.id} {key}" in str(report.error)
            assert other.db.refs("SR") == []
            there.set_backend_password(backend.id, key, Secret(PASSWORD))
            (report,) = there.do_setup()
            assert report.error is None
            there.create_volume("v", "gold", GIB)
            there.delete_volume("v")
            there.remove_backend(backend.id)
            assert secrets_of(other) == {}

    def test_reports_what_is_local_to_a_host_of_this_one(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        """It does not store that the backend is out of order: the backend's own pool knows better."""
        BY_NAME["lvm"].arrange(xapi)
        BY_NAME["nfs"].arrange(xapi)
        local, _ = add(manager, BY_NAME["lvm"]), add(manager, BY_NAME["nfs"])
        with another_pool(xapi) as other, session_of(other) as session:
            reports = StorageManager(session, manager._context.database).do_setup()
            assert [type(report.error) for report in reports] == [HostNotReady, type(None)]
            assert f"backend {local.id}" in str(reports[0].error)
            assert len(other.db.refs("SR")) == 1
        assert [backend.problem for backend in manager.list_backends()] == [None, None]

    def test_keeps_an_sr_that_its_own_operator_has_made_known(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        backend = add(manager, world)
        with another_pool(xapi) as other, session_of(other) as session:
            other.add_sr("theirs", type="nfs", sr_uuid=str(backend.sr_uuid), device_config=world.plain_config)
            before = other.snapshot()
            there = StorageManager(session, manager._context.database)
            (report,) = there.do_setup()
            assert report.error is None
            there.remove_backend(backend.id)
            assert changes(before, other.snapshot()) == []

    @pytest.mark.parametrize(
        "name", ["nfs", "smb", "cephfs", "glusterfs", "lvmoiscsi", "lvmoiscsi with CHAP", "iscsi"]
    )
    def test_that_knows_nothing_attaches_a_volume_and_forgets_it_all(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        """LVM's drivers rewrite SR.sm_config at a plug, and remove the mark there."""
        world = BY_NAME[name]
        world.arrange(xapi)
        add(manager, world)
        if world.luns:
            manager.manage_volume("v", xapi.db.get("VDI", xapi.db.refs("VDI")[0], "uuid"))
        else:
            manager.create_volume("v", "gold", GIB)
        info = manager.initialize_connection("v", introduce=True, secrets=["password", "chappassword"])
        self.attach_and_detach(xapi, info)

    @pytest.mark.parametrize("name", ["lvm", "ext"])
    def test_whose_host_has_the_same_disk_attaches_a_volume_and_forgets_it_all(
        self, xapi: Simulator, manager: StorageManager, name: str
    ) -> None:
        BY_NAME[name].arrange(xapi)
        add(manager, BY_NAME[name])
        manager.create_volume("v", "gold", GIB)
        info = manager.initialize_connection("v", introduce=True)
        xapi.storage.host("other1").mounts.devices[DEVICE] = xapi.storage.host("host1").mounts.devices[DEVICE]
        self.attach_and_detach(xapi, info)

    @staticmethod
    def attach_and_detach(xapi: Simulator, info: dict[str, Any]) -> None:
        with another_pool(xapi) as other, session_of(other) as session:
            other.add_vm("there")
            touch_hosts(other)
            before, secrets = other.snapshot(), secrets_of(other)
            attachment = VolumeOps(session).attach_volume(info, "there")
            assert attachment.vdi_uuid == info["data"]["vdi_uuid"]
            VolumeOps(session).detach_volume(info, "there")
            assert changes(before, other.snapshot()) == []
            assert secrets_of(other) == secrets


def test_a_session_of_the_official_client_will_do(xapi: Simulator, tmp_path: Path) -> None:
    """`xenvol.connect` is not needed: one connection makes one call at a time."""
    import XenAPI

    session = XenAPI.Session(xapi.url)
    session.login_with_password(xapi.user, xapi.password)
    manager = StorageManager(session, database_in(tmp_path))
    manager.create_flavor("gold", "x")
    for name in ("nfs", "glusterfs"):
        BY_NAME[name].arrange(xapi)
        add(manager, BY_NAME[name])
    assert [report.error for report in manager.do_setup()] == [None, None]
    with xenvol.connect(xapi.url, xapi.user, xapi.password) as ours:
        assert len(ours.call("SR.get_all")) == 2
    session.logout()
    session("close")()
