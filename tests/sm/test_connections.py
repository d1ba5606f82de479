"""The connection_info of a volume: attaching with it needs only the pool and the storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from backend_lab import BY_NAME, GIB, PASSWORD, manager_of

from xenvol.connection_data.xensm import XenSMVolume
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.errors import BackendNotReady, NotSupported, UnknownVolume


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> StorageManager:
    return manager_of(xapi_session, tmp_path)


def add(xapi: Simulator, manager: StorageManager, name: str, **more: str) -> None:
    world = BY_NAME[name]
    world.arrange(xapi)
    manager.add_backend("gold", world.sr_type, {**world.config, **more}, format_device=world.format_device)


def test_it_says_how_the_sr_is_introduced(xapi: Simulator, manager: StorageManager) -> None:
    add(xapi, manager, "nfs", name_label="toy box", name_description="for toys", nosubdir="true")
    volume, (backend,) = manager.create_volume("v", "gold", GIB + 1), manager.list_backends()
    info = manager.initialize_connection("v")
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
    read = XenSMVolume.parse(manager.initialize_connection("v")["data"])
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
        manager.initialize_connection("v")
    manager.set_backend_password(backend.id, "password", Secret(PASSWORD))
    assert manager.initialize_connection("v")["data"]["password"] == PASSWORD


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
