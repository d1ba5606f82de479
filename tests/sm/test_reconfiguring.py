"""A backend is reached another way, and its SR keeps its uuid, its disks and its volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_lab import BY_NAME, GIB, PASSWORD, StorageWorld, manager_of, secrets_of

from tests.scenarios import changes
from xenvol.errors import VolumeInUse, XapiError, XapiUnreachable
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.errors import BackendExists, InvalidConfig, NotSupported, UnknownBackend
from xenvol.sm.records import Backend
from xenvol.volumeops import VolumeOps

NFS = BY_NAME["nfs"]
MOVED = "10.0.0.22"


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> StorageManager:
    return manager_of(xapi_session, tmp_path)


def add(xapi: Simulator, manager: StorageManager, world: StorageWorld, **more: str) -> Backend:
    world.arrange(xapi)
    config = {**world.config, **more}
    return manager.add_backend("gold", world.sr_type, config, format_device=world.format_device)


def move(xapi: Simulator) -> None:
    xapi.storage.shares.nfs_server("10.0.0.2").addresses[:] = [MOVED]


def configs(xapi: Simulator) -> list[dict[str, str]]:
    return [xapi.db.get("PBD", ref, "device_config") for ref in xapi.db.refs("PBD")]


class TestANewAddress:
    @pytest.mark.xapi(hosts=2)
    def test_leads_every_host_to_the_same_sr(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        backend = add(xapi, manager, NFS)
        volume = manager.create_volume("v", "gold", GIB)
        move(xapi)
        changed = manager.update_backend(backend.id, {"server": MOVED})
        assert (changed.sr_uuid, changed.problem) == (backend.sr_uuid, None)
        assert changed.params == {"server": MOVED, "serverpath": "/vols"}
        assert [config["server"] for config in configs(xapi)] == [MOVED, MOVED]
        assert manager.audit().agrees
        xapi.add_vm("web")
        info = manager.initialize_connection("v")
        assert VolumeOps(xapi_session).attach_volume(info, "web").vdi_uuid == volume.vdi_uuid
        with pytest.raises(BackendExists):
            manager.add_backend("gold", "nfs", {"server": MOVED, "serverpath": "/vols"})

    def test_again_changes_nothing(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        move(xapi)
        manager.update_backend(backend.id, {"server": MOVED})
        with xapi.journal.recording() as calls:
            manager.update_backend(backend.id, {"server": MOVED})
        assert not {"PBD.unplug", "PBD.destroy", "PBD.create"} & set(calls.methods())

    def test_at_which_there_is_another_sr_is_refused(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        xapi.storage.shares.add_nfs("10.0.0.9").export("/vols", size=GIB)
        before = xapi.snapshot()
        with pytest.raises(InvalidConfig, match=f"without SR {backend.sr_uuid}"):
            manager.update_backend(backend.id, {"server": "10.0.0.9"})
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_backends() == [backend]

    def test_of_another_backend_is_refused(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        xapi.storage.shares.nfs_server("10.0.0.2").export("/more", size=GIB)
        other = manager.add_backend("gold", "nfs", {"server": "10.0.0.2", "serverpath": "/more"})
        before = xapi.snapshot()
        with pytest.raises((BackendExists, InvalidConfig)):
            manager.update_backend(other.id, {"serverpath": "/vols"})
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_backends()[0].sr_uuid == backend.sr_uuid

    def test_of_storage_that_cannot_prove_it_is_refused(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        backend = add(xapi, manager, BY_NAME["file"])
        with pytest.raises(NotSupported, match="does not tell which SR"):
            manager.update_backend(backend.id, {"location": "/srv/other"})

    def test_under_a_vm_that_has_a_disk_is_refused(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        backend = add(xapi, manager, NFS)
        manager.create_volume("v", "gold", GIB)
        xapi.add_vm("web")
        VolumeOps(xapi_session).attach_volume(manager.initialize_connection("v"), "web")
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="web"):
            manager.update_backend(backend.id, {"nfsversion": "4"})
        assert changes(before, xapi.snapshot()) == []


class TestOtherKeys:
    def test_are_added_changed_and_removed(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        for given, told in (
            ({"nfsversion": "4"}, "4"),
            ({"nfsversion": "4.1"}, "4.1"),
            ({"nfsversion": ""}, None),
        ):
            changed = manager.update_backend(backend.id, given)
            assert changed.params.get("nfsversion") == told
            assert [config.get("nfsversion") for config in configs(xapi)] == [told]

    def test_that_are_wrong_are_refused(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, BY_NAME["smb"])
        for given, said in (
            ({"usrname": "x"}, "username"),
            ({"sr_uuid": backend.sr_uuid}, "cannot be changed"),
            ({"server": ""}, "is missing"),
            ({"password": Secret("x")}, f"backend_password {backend.id} password"),
        ):
            with pytest.raises(InvalidConfig, match=said):
                manager.update_backend(backend.id, given)  # type: ignore[arg-type]  # mappings of several types
        with pytest.raises(UnknownBackend):
            manager.update_backend(99, {"server": "x"})

    def test_leave_the_password_where_it_is(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, BY_NAME["smb"])
        manager.update_backend(backend.id, {"name_label": "toy box"})
        assert set(secrets_of(xapi).values()) == {PASSWORD}
        assert manager.do_setup()[0].error is None
        assert xapi.db.get("SR", xapi.db.refs("SR")[0], "name_label") == "toy box"

    def test_and_the_weight(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        with xapi.journal.recording() as calls:
            assert manager.update_backend(backend.id, {}, weight=3).weight == 3
        assert "PBD.unplug" not in calls.methods()


CALLS = ("SR.probe", "PBD.unplug", "PBD.destroy", "PBD.create", "PBD.plug")


class TestACall:
    @pytest.mark.parametrize("method", CALLS)
    def test_that_is_refused_leaves_everything_as_it_was(
        self, xapi: Simulator, manager: StorageManager, method: str
    ) -> None:
        world = BY_NAME["smb"]
        backend = add(xapi, manager, world)
        before, secrets = xapi.snapshot(), sorted(secrets_of(xapi).values())
        xapi.faults.refuse(method, "SR_BACKEND_FAILURE_1200", "", "by order", "")
        with pytest.raises(XapiError, match="by order"):
            manager.update_backend(backend.id, {"username": "user", "server": "//10.0.0.4/vols"})
        assert [
            line for line in changes(before, xapi.snapshot()) if "PBD" not in line and "secret" not in line
        ] == []
        assert sorted(secrets_of(xapi).values()) == secrets
        assert manager.list_backends() == [backend]
        assert manager.do_setup()[0].error is None

    @pytest.mark.parametrize("fate", ["lose_answer", "lose_request"])
    @pytest.mark.parametrize("method", CALLS)
    def test_that_is_lost_is_completed_by_the_same_call_again(
        self, xapi: Simulator, manager: StorageManager, method: str, fate: str
    ) -> None:
        backend = add(xapi, manager, NFS)
        move(xapi)
        order: Callable[..., Any] = getattr(xapi.faults, fate)
        order(method)
        try:
            manager.update_backend(backend.id, {"server": MOVED})
        except XapiUnreachable:
            manager.update_backend(backend.id, {"server": MOVED})
        assert [config["server"] for config in configs(xapi)] == [MOVED]
        assert manager.audit().agrees
