"""No disk of a backend is given away as a volume, and no storage gets a second SR beside one of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_lab import (
    BY_NAME,
    DEVICE,
    GIB,
    IQN,
    LUN,
    PORTAL,
    WORLDS,
    StorageWorld,
    forgotten,
    manager_of,
    session_of,
    somebodys_sr,
)

from tests.scenarios import changes, iscsi
from xenvol.errors import VolumeInUse, XenVolError
from xenvol.pool.marks import BACKEND
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager, same_storage, volume_rows
from xenvol.sm.errors import DeviceNotBlank, InvalidConfig
from xenvol.sm.records import Backend
from xenvol.volumeops import VolumeOps

TARGET = {"target": PORTAL, "targetIQN": IQN}
ON_A_LUN = {**TARGET, "SCSIid": LUN}


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> StorageManager:
    return manager_of(xapi_session, tmp_path)


def add(manager: StorageManager, world: StorageWorld, **more: str) -> Backend:
    return manager.add_backend(
        "gold", world.sr_type, {**world.config, **more}, format_device=world.format_device
    )


def vdi_of_lun(xapi: Simulator) -> str:
    (vdi,) = [ref for ref in xapi.db.refs("VDI") if xapi.db.get("VDI", ref, "sm_config").get("SCSIid") == LUN]
    return str(xapi.db.get("VDI", vdi, "uuid"))


class TestALunUnderABackend:
    @pytest.mark.parametrize("first", ["lvmoiscsi", "iscsi"])
    def test_is_no_volume_in_whichever_order_the_backends_were_added(
        self, xapi: Simulator, manager: StorageManager, first: str
    ) -> None:
        BY_NAME["lvmoiscsi"].arrange(xapi)
        backends = [
            lambda: manager.add_backend("gold", "lvmoiscsi", ON_A_LUN, format_device=LUN),
            lambda: manager.add_backend("gold", "iscsi", TARGET),
        ]
        for add_it in backends if first == "lvmoiscsi" else reversed(backends):
            add_it()
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="keeps its data on it"):
            manager.manage_volume("steal", vdi_of_lun(xapi))
        assert changes(before, xapi.snapshot()) == []
        assert manager.list_volumes() == []

    def test_is_none_where_the_pool_does_not_know_the_sr_on_it(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        """The database does."""
        BY_NAME["lvmoiscsi"].arrange(xapi)
        backend = manager.add_backend("gold", "lvmoiscsi", ON_A_LUN, format_device=LUN)
        manager.add_backend("gold", "iscsi", TARGET)
        forgotten(xapi_session, str(backend.sr_uuid))
        with pytest.raises(VolumeInUse, match=rf"backend {backend.id} \(lvmoiscsi\)"):
            manager.manage_volume("steal", vdi_of_lun(xapi))

    def test_is_none_under_an_sr_of_somebody_else(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["lvmoiscsi"].arrange(xapi)
        somebodys_sr(xapi, BY_NAME["lvmoiscsi"])
        manager.add_backend("gold", "iscsi", TARGET)
        with pytest.raises(VolumeInUse, match="of somebody else"):
            manager.manage_volume("steal", vdi_of_lun(xapi))

    def test_that_is_a_volume_all_the_same_is_attached_to_no_vm(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        """An earlier release made it a volume."""
        BY_NAME["lvmoiscsi"].arrange(xapi)
        manager.add_backend("gold", "lvmoiscsi", ON_A_LUN, format_device=LUN)
        luns = manager.add_backend("gold", "iscsi", TARGET)
        row = {"vdi_uuid": vdi_of_lun(xapi), "virtual_size": GIB}
        manager._context.database.write(
            volume_rows.add, "old", backend_id=luns.id, size=GIB, cost=GIB, state="available", **row
        )
        with pytest.raises(VolumeInUse, match="backend 1"):
            manager.initialize_connection("old")

    def test_is_attached_to_no_vm_under_a_file_system(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        """A host formatted the LUN by its device, without naming it."""
        BY_NAME["lvmoiscsi"].arrange(xapi)
        xapi.add_vm("web")
        xapi.storage.host("host1").mounts.devices[DEVICE] = disk = xapi.storage.san.volumes[LUN]
        disk.serial = LUN  # as the storage driver asks the device itself
        manager.add_backend("gold", "ext", {"device": DEVICE}, format_device=DEVICE)
        before = xapi.snapshot()
        with pytest.raises(VolumeInUse, match="SR SR-1"):
            VolumeOps(xapi_session).attach_volume(iscsi(0, target_iqn=IQN), "web")
        assert [line for line in changes(before, xapi.snapshot()) if "storage.servers" not in line] == []

    @pytest.mark.parametrize("is_known", [True, False])
    def test_is_not_formatted_while_it_is_a_volume(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, is_known: bool
    ) -> None:
        """Not even if the pool has forgotten its disk."""
        BY_NAME["lvmoiscsi"].arrange(xapi)
        luns = manager.add_backend("gold", "iscsi", TARGET)
        manager.manage_volume("mine", vdi_of_lun(xapi))
        if not is_known:
            forgotten(xapi_session, str(luns.sr_uuid))
        before = xapi.snapshot()
        with pytest.raises(InvalidConfig, match=r"is volume 'mine'.*unmanage"):
            manager.add_backend("gold", "lvmoiscsi", ON_A_LUN, format_device=LUN)
        assert changes(before, xapi.snapshot()) == []
        assert xapi.storage.san.volumes[LUN].content is None

    def test_is_not_introduced_as_an_sr_while_a_vm_has_it(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        BY_NAME["lvmoiscsi"].arrange(xapi)
        sr_uuid = forgotten(xapi_session, somebodys_sr(xapi, BY_NAME["lvmoiscsi"]))
        xapi.add_vm("web")
        VolumeOps(xapi_session).attach_volume(iscsi(0, target_iqn=IQN), "web")
        with pytest.raises(InvalidConfig, match=r"is VDI .*, in use"):
            manager.add_backend("gold", "lvmoiscsi", {**ON_A_LUN, "sr_uuid": sr_uuid})

    def test_is_named_by_its_scsi_id_or_by_the_path_of_its_device(self) -> None:
        named = {same_storage.lun_vdi(each) for each in ("3600a", "3600b")}
        assert same_storage.luns_under({"SCSIid": "3600a, 3600b"}) == named
        by_path = {"device": "/dev/disk/by-id/scsi-3600a,/dev/disk/by-id/scsi-3600b"}
        assert same_storage.luns_under(by_path) == named
        assert same_storage.luns_under({"device": "/dev/sdb", "server": "/scsi-3600a"}) == set()

    def test_beside_it_becomes_a_volume(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["lvmoiscsi"].arrange(xapi)
        manager.add_backend("gold", "lvmoiscsi", ON_A_LUN, format_device=LUN)
        manager.add_backend("gold", "iscsi", TARGET)
        (other,) = [
            xapi.db.get("VDI", ref, "uuid")
            for ref in xapi.db.refs("VDI")
            if xapi.db.get("VDI", ref, "sm_config").get("LUNid") == "1"
        ]
        manager.manage_volume("mine", other)
        assert manager.initialize_connection("mine")["data"]["vdi_uuid"] == other


@pytest.mark.parametrize("order", [["iscsi", "hba"], ["hba", "iscsi"]])
def test_luns_of_two_networks_are_two_backends_in_either_order(
    xapi: Simulator, manager: StorageManager, order: list[str]
) -> None:
    BY_NAME["iscsi"].arrange(xapi)
    xapi.storage.san.targets[IQN].chap = None
    xapi.storage.san.add_lun(IQN, 2, GIB, scsi_id="36001405000000000000000000000000e")
    BY_NAME["hba"].arrange(xapi)
    config = {"iscsi": TARGET, "hba": {"type": "FC"}}
    for sr_type in order:
        assert manager.add_backend("gold", sr_type, config[sr_type]).problem is None


class TestAnSROfOurs:
    @pytest.mark.parametrize("world", WORLDS, ids=str)
    def test_is_found_where_the_database_was_lost(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld, tmp_path: Path
    ) -> None:
        """The same command as a year ago neither makes a second SR nor erases the device."""
        world.arrange(xapi)
        backend = add(manager, world)
        if not world.luns:
            manager.create_volume("v", "gold", GIB)
        with session_of(xapi) as session:
            again = manager_of(session, tmp_path / "new")
            before = xapi.snapshot()
            try:
                found = add(again, world)
            except InvalidConfig as error:
                assert f"sr_uuid={backend.sr_uuid}" in str(error)  # noqa: PT017 - some types refuse
                assert world.luns
                return
            assert (found.sr_uuid, found.origin, found.problem) == (backend.sr_uuid, "found", None)
            again.remove_backend(found.id)
            assert changes(before, xapi.snapshot()) == []

    def test_of_a_removed_backend_is_found_on_the_storage(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        for name in ("nfs", "smb", "cephfs", "glusterfs", "netapp"):
            BY_NAME[name].arrange(xapi)
            backend = add(manager, BY_NAME[name])
            volume = manager.create_volume(name, "gold", GIB)
            manager.unmanage_volume(name)
            manager.remove_backend(backend.id)
            assert xapi.db.refs("SR") == []
            secrets = xapi.db.refs("secret")
            again = add(manager, BY_NAME[name])
            assert (again.sr_uuid, again.origin) == (backend.sr_uuid, "introduced")
            assert manager.manage_volume(name, str(volume.vdi_uuid)).size == volume.size
            manager.delete_volume(name)
            manager.remove_backend(again.id)
            assert xapi.db.refs("secret") == secrets

    def test_that_was_destroyed_is_made_anew(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        backend = add(manager, BY_NAME["nfs"])
        manager.remove_backend(backend.id, destroy=True)
        again = add(manager, BY_NAME["nfs"])
        assert again.origin == "created"
        assert again.sr_uuid != backend.sr_uuid

    def test_on_a_device_is_erased_only_if_the_command_names_the_device(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["lvm"].arrange(xapi)
        backend = add(manager, BY_NAME["lvm"])
        manager.remove_backend(backend.id)
        with pytest.raises(DeviceNotBlank, match=f"sr_uuid={backend.sr_uuid}"):
            manager.add_backend("gold", "lvm", {"device": DEVICE})

    @pytest.mark.xapi(hosts=2)
    def test_is_not_what_lies_on_another_hosts_device(
        self, xapi: Simulator, manager: StorageManager, tmp_path: Path
    ) -> None:
        world = BY_NAME["lvm"]
        world.arrange(xapi)
        ours = add(manager, world, host="host2")
        with session_of(xapi) as session:
            again = manager_of(session, tmp_path / "new")
            assert add(again, world, host="host1").sr_uuid != ours.sr_uuid
            assert add(again, world, host="host2").sr_uuid == ours.sr_uuid

    def test_beside_another_is_chosen_by_the_operator(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, tmp_path: Path
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        ours = [str(add(manager, BY_NAME["nfs"]).sr_uuid), somebodys_sr(xapi, BY_NAME["nfs"])]
        xapi_session.call("SR.add_to_other_config", xapi.db.by_uuid("SR", ours[1]), BACKEND, "a token")
        with session_of(xapi) as session:
            again = manager_of(session, tmp_path / "new")
            with pytest.raises(InvalidConfig, match="there are several") as caught:
                add(again, BY_NAME["nfs"])
            assert all(sr_uuid in str(caught.value) for sr_uuid in ours)
            assert add(again, BY_NAME["nfs"], sr_uuid=ours[0]).sr_uuid == ours[0]

    def test_of_somebody_else_is_left_alone(self, xapi: Simulator, manager: StorageManager) -> None:
        BY_NAME["nfs"].arrange(xapi)
        theirs = somebodys_sr(xapi, BY_NAME["nfs"])
        assert add(manager, BY_NAME["nfs"]).sr_uuid != theirs

    def test_of_storage_that_does_not_answer_is_not_looked_for(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        BY_NAME["nfs"].arrange(xapi)
        manager.remove_backend(add(manager, BY_NAME["nfs"]).id)
        xapi.faults.refuse("SR.probe", "SR_BACKEND_FAILURE_73", "", "NFS mount error", "", every=True)
        with pytest.raises(XenVolError, match="NFS mount error"):
            add(manager, BY_NAME["nfs"])
        assert manager.list_backends() == []
