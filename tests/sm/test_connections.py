"""The connection_info of a volume: attaching with it needs only the pool and the storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from backend_lab import (
    BY_NAME,
    GIB,
    PASSWORD,
    WORLDS,
    StorageWorld,
    another_pool,
    manager_of,
    session_of,
)

from tests.scenarios import changes
from xenvol.connection_data.xensm import XenSMVolume
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.errors import BackendNotReady, NotSupported, UnknownVolume
from xenvol.volumeops import VolumeOps


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> StorageManager:
    return manager_of(xapi_session, tmp_path)


def add(xapi: Simulator, manager: StorageManager, name: str, **more: str) -> None:
    world = BY_NAME[name]
    world.arrange(xapi)
    manager.add_backend("gold", world.sr_type, {**world.config, **more}, format_device=world.format_device)


def the_volume(xapi: Simulator, manager: StorageManager, world: StorageWorld) -> None:
    """Register a backend, and make a volume ``v`` on it, or of its first LUN."""
    add(xapi, manager, world.name)
    if world.luns:
        manager.manage_volume("v", xapi.db.get("VDI", xapi.db.refs("VDI")[0], "uuid"))
    else:
        manager.create_volume("v", "gold", GIB)


class TestByDefault:
    @pytest.mark.parametrize("world", [world for world in WORLDS if world.name != "hba"], ids=str)
    def test_it_has_what_the_pool_needs_and_nothing_that_reaches_the_storage(
        self, xapi: Simulator, xapi_session: Session, manager: StorageManager, world: StorageWorld
    ) -> None:
        xapi.add_vm("web")
        the_volume(xapi, manager, world)
        info = manager.initialize_connection("v", {"host": "any"})
        assert set(info["data"]) == {
            "volume_id", "backend_id", "flavor_id", "sr_uuid", "vdi_uuid", "size_bytes"
        }  # fmt: skip  # because a set of words reads better in lines than in a column
        assert not [value for value in world.plain_config.values() if value in json.dumps(info)]
        before = xapi.snapshot()
        attachment = VolumeOps(xapi_session).attach_volume(info, "web")
        assert (attachment.vdi_uuid, attachment.is_plugged) == (manager.get_volume("v").vdi_uuid, True)
        VolumeOps(xapi_session).detach_volume(info, "web")
        assert changes(before, xapi.snapshot()) == []

    def test_no_secret_is_read(self, xapi: Simulator, manager: StorageManager) -> None:
        the_volume(xapi, manager, BY_NAME["smb"])
        with xapi.journal.recording() as calls:
            manager.initialize_connection("v")
        assert calls.methods() == []

    @pytest.mark.xapi(hosts=2)
    def test_a_host_that_lost_its_pbd_gets_one_with_the_password(
        self, xapi: Simulator, xapi_session: Session, manager: StorageManager
    ) -> None:
        the_volume(xapi, manager, BY_NAME["smb"])
        host = xapi.find_host("host2")
        (pbd,) = xapi_session.find("PBD", {"host": host})
        xapi_session.call("PBD.unplug", pbd)
        xapi_session.call("PBD.destroy", pbd)
        xapi.add_vm("web", resident_on="host2")
        attachment = VolumeOps(xapi_session).attach_volume(manager.initialize_connection("v"), "web")
        assert attachment.is_plugged

    def test_a_pool_without_the_sr_says_which_command_introduces_it(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        the_volume(xapi, manager, BY_NAME["nfs"])
        info = manager.initialize_connection("v")
        with another_pool(xapi) as other, session_of(other) as session:
            other.add_vm("there")
            before = other.snapshot()
            with pytest.raises(InvalidConnectionInfo, match="xenvol sm setup"):
                VolumeOps(session).attach_volume(info, "there")
            assert changes(before, other.snapshot()) == []


class TestASecret:
    """Which is handed out for a pool that does not have the SR."""

    def test_is_handed_out_if_it_is_named(self, xapi: Simulator, manager: StorageManager) -> None:
        the_volume(xapi, manager, BY_NAME["smb"])
        info = manager.initialize_connection("v", secrets=["chappassword", "password"])
        assert info["data"]["password"] == PASSWORD
        assert "password" in info["data"]["introduce_sr_keys"]

    @pytest.mark.parametrize("named", [[], ["password"]])
    def test_that_is_not_named_is_said_to_be_missing(
        self, xapi: Simulator, manager: StorageManager, named: list[str]
    ) -> None:
        the_volume(xapi, manager, BY_NAME["lvmoiscsi with CHAP"])
        with pytest.raises(NotSupported, match=r"its chappassword.*--secret chappassword"):
            manager.initialize_connection("v", introduce=True, secrets=named)


def test_it_says_how_the_sr_is_introduced(xapi: Simulator, manager: StorageManager) -> None:
    add(xapi, manager, "nfs", name_label="toy box", name_description="for toys", nosubdir="true")
    volume, (backend,) = manager.create_volume("v", "gold", GIB + 1), manager.list_backends()
    info = manager.initialize_connection("v", introduce=True)
    assert info == {
        "driver_volume_type": "xensm",
        "data": {
            "volume_id": "v",
            "backend_id": backend.id,
            "flavor_id": backend.flavor_id,
            "sr_uuid": backend.sr_uuid,
            "sr_type": "nfs",
            "vdi_uuid": volume.vdi_uuid,
            "size_bytes": volume.virtual_size,
            "server": "10.0.0.2",
            "serverpath": "/vols",
            "nosubdir": "true",
            "name_label": "toy box",
            "introduce_sr_keys": ["server", "serverpath", "nosubdir", "sr_type"],
        },
    }
    json.dumps(info)


def test_the_attach_driver_reads_it(xapi: Simulator, manager: StorageManager) -> None:
    add(xapi, manager, "lvmoiscsi with CHAP", nosubdir="false")
    manager.create_volume("v", "gold", GIB)
    read = XenSMVolume.parse(manager.initialize_connection("v", secrets=["chappassword"])["data"])
    world = BY_NAME["lvmoiscsi with CHAP"]
    assert read.device_config == world.config
    assert read.device_config["chappassword"] == Secret(PASSWORD)
    assert read.sm_config == {"nosubdir": "false"}
    assert (read.sr_type, read.vdi_uuid) == ("lvmoiscsi", manager.get_volume("v").vdi_uuid)


def test_it_is_the_same_for_every_host(xapi: Simulator, manager: StorageManager) -> None:
    add(xapi, manager, "smb")
    manager.create_volume("v", "gold", GIB)
    assert manager.initialize_connection("v", {"host": "a"}) == manager.initialize_connection(
        "v", {"host": "b"}
    )


def test_a_pool_that_has_lost_the_password_says_how_to_tell_it(
    xapi: Simulator, manager: StorageManager, xapi_session: Session
) -> None:
    add(xapi, manager, "smb")
    manager.create_volume("v", "gold", GIB)
    (backend,) = manager.list_backends()
    xapi_session.call(
        "secret.destroy", xapi_session.call("secret.get_by_uuid", backend.params["password_secret"])
    )
    with pytest.raises(BackendNotReady, match=f"backend_password {backend.id} password"):
        manager.initialize_connection("v", secrets=["password"])
    manager.set_backend_password(backend.id, "password", Secret(PASSWORD))
    assert manager.initialize_connection("v", secrets=["password"])["data"]["password"] == PASSWORD


def test_a_snapshot_is_not_attached(xapi: Simulator, manager: StorageManager) -> None:
    add(xapi, manager, "nfs")
    manager.create_volume("v", "gold", GIB)
    manager.create_snapshot("s", "v")
    with pytest.raises(NotSupported, match="clone it"):
        manager.initialize_connection("s")


def test_there_must_be_such_a_volume(manager: StorageManager) -> None:
    with pytest.raises(UnknownVolume):
        manager.initialize_connection("v")


def test_ending_it_is_nothing_to_be_done(xapi: Simulator, manager: StorageManager) -> None:
    with xapi.journal.recording() as calls:
        manager.terminate_connection("v")
    assert calls.methods() == []
