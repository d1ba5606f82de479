"""The storage itself is asked: what it has lost is told, and what can be put right is."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_lab import BY_NAME, GIB, IQN, LUN, WORLDS, StorageWorld, manager_of

from tests.scenarios import changes
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import StorageManager
from xenvol.sm.records import Backend
from xenvol.testing.residue import touch_hosts
from xenvol.volumeops import VolumeOps

NFS = BY_NAME["nfs"]


@pytest.fixture
def manager(xapi_session: Session, tmp_path: Path) -> StorageManager:
    return manager_of(xapi_session, tmp_path)


def add(xapi: Simulator, manager: StorageManager, world: StorageWorld) -> Backend:
    world.arrange(xapi)
    return manager.add_backend("gold", world.sr_type, world.config, format_device=world.format_device)


def mount_of(backend: Backend) -> str:
    return f"/run/sr-mount/{backend.sr_uuid}"


def kinds(manager: StorageManager, **how: bool) -> list[str]:
    return [finding.kind for finding in manager.audit(**how).findings]


def shut_down_server(xapi: Simulator) -> None:
    server = xapi.storage.shares.nfs_server("10.0.0.2")
    server.is_listening = False
    server.unexport("/vols")


def volume_of(xapi: Simulator, manager: StorageManager, world: StorageWorld) -> str:
    """Make a volume ``v``, or manage a LUN as one, and return its VDI's uuid."""
    if not world.luns:
        return str(manager.create_volume("v", "gold", GIB).vdi_uuid)
    (vdi,) = [ref for ref in xapi.db.refs("VDI") if xapi.db.get("VDI", ref, "sm_config")["SCSIid"] == LUN]
    if not xapi.db.get("VDI", vdi, "managed"):
        with xapi.xapi.lock:
            xapi.db.set("VDI", vdi, managed=True)  # as its administrator does by hand
    return str(manager.manage_volume("v", xapi.db.get("VDI", vdi, "uuid")).vdi_uuid)


class TestStorageThatIsWell:
    @pytest.mark.parametrize("world", WORLDS, ids=str)
    def test_is_well_to_every_question(
        self, xapi: Simulator, manager: StorageManager, world: StorageWorld
    ) -> None:
        add(xapi, manager, world)
        volume_of(xapi, manager, world)
        manager.audit()  # the first scan writes sizes, and removes what the driver has noted for it
        before = xapi.snapshot()
        assert [report.error for report in manager.do_setup()] == [None]
        assert [each.backend.problem for each in manager.stats(scan=True)] == [None]
        assert kinds(manager) == []
        assert changes(before, xapi.snapshot()) == []

    @pytest.mark.parametrize("name", ["iscsi", "hba"])
    def test_of_luns_is_never_scanned(self, xapi: Simulator, manager: StorageManager, name: str) -> None:
        """That would keep all disks of the SR from being unplugged if one of its LUNs is gone."""
        add(xapi, manager, BY_NAME[name])
        with xapi.journal.recording() as calls:
            manager.audit()
            manager.do_setup(replug=True)
            manager.stats(scan=True)
        assert "SR.scan" not in calls.methods()

    def test_is_left_alone_without_a_scan(self, xapi: Simulator, manager: StorageManager) -> None:
        add(xapi, manager, NFS)
        with xapi.journal.recording() as calls:
            assert manager.audit(scan=False).agrees
            manager.stats()
        assert not {"SR.scan", "SR.probe", "SR.update"} & set(calls.methods())


class TestWhatTheStorageHasLost:
    @pytest.mark.parametrize("name", ["nfs", "ext", "file"])
    def test_is_a_file_of_a_volume(self, xapi: Simulator, manager: StorageManager, name: str) -> None:
        backend = add(xapi, manager, BY_NAME[name])
        vdi_uuid = volume_of(xapi, manager, BY_NAME[name])
        directory = xapi.storage.host("host1").mounts.find(mount_of(backend))
        directory.remove(f"{vdi_uuid}.vhd")
        assert kinds(manager, scan=False) == []
        (finding,) = manager.audit().findings
        assert (finding.kind, finding.volume_id, finding.repaired) == ("vdi_missing", "v", False)
        assert kinds(manager, scan=False) == ["vdi_missing"]

    @pytest.mark.parametrize("name", ["iscsi", "hba"])
    def test_is_a_lun(self, xapi: Simulator, manager: StorageManager, name: str) -> None:
        """And the pool keeps its record, since a VM may have it."""
        add(xapi, manager, BY_NAME[name])
        volume_of(xapi, manager, BY_NAME[name])
        assert kinds(manager) == []
        target = IQN if name == "iscsi" else next(iter(xapi.storage.san.fc_targets))
        xapi.storage.san.remove_lun(target, 0)
        disks = len(xapi.db.refs("VDI"))
        (finding,) = manager.audit().findings
        assert (finding.kind, finding.volume_id) == ("vdi_missing", "v")
        assert LUN in finding.text
        assert len(xapi.db.refs("VDI")) == disks

    @pytest.mark.parametrize("question", ["setup", "stats", "audit"])
    def test_is_a_server(self, xapi: Simulator, manager: StorageManager, question: str) -> None:
        """It is told, no volume is placed there, and the SR stays plugged: the server may come back."""
        add(xapi, manager, NFS)
        shut_down_server(xapi)
        before = xapi.snapshot()
        told = {
            "setup": lambda: [str(report.error) for report in manager.do_setup()],
            "stats": lambda: [str(each.backend.problem) for each in manager.stats(scan=True)],
            "audit": lambda: [finding.text for finding in manager.audit().findings],
        }[question]()
        assert len(told) == 1
        assert "SR_BACKEND_FAILURE" in told[0]
        (backend,) = manager.list_backends()
        assert "SR_BACKEND_FAILURE" in str(backend.problem)
        assert [line for line in changes(before, xapi.snapshot()) if "dirty" not in line] == []

    def test_is_an_sr(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = add(xapi, manager, NFS)
        root = xapi.storage.shares.nfs_server("10.0.0.2").exports["/vols"].filesystem.root
        for name in list(root.directory(str(backend.sr_uuid))):
            root.directory(str(backend.sr_uuid)).remove(name)
        root.remove(str(backend.sr_uuid))
        assert kinds(manager) == ["backend_unreachable"]
        (report,) = manager.do_setup()
        assert report.error is not None

    def test_gets_no_volume_while_another_backend_takes_it(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        add(xapi, manager, NFS)
        other = add(xapi, manager, BY_NAME["ext"])
        shut_down_server(xapi)
        manager.do_setup()
        assert manager.create_volume("v", "gold", GIB).backend_id == other.id
        server = xapi.storage.shares.nfs_server("10.0.0.2")
        server.is_listening = True
        server.export("/vols", size=100 * GIB)
        assert [each.backend.problem for each in manager.stats()] == [None, None]


class TestAMountThatWasLost:
    def lose(self, xapi: Simulator, manager: StorageManager, host: str = "host1") -> Backend:
        backend = add(xapi, manager, NFS)
        xapi.storage.host(host).mounts.lose_mount(str(backend.sr_uuid))
        return backend

    def is_mounted(self, xapi: Simulator, backend: Backend, host: str = "host1") -> bool:
        return bool(xapi.storage.host(host).mounts.is_mounted(mount_of(backend)))

    def test_is_mounted_again_by_setup(self, xapi: Simulator, manager: StorageManager) -> None:
        backend = self.lose(xapi, manager)
        assert [report.error for report in manager.do_setup()] == [None]
        assert self.is_mounted(xapi, backend)

    def test_is_told_by_an_audit_and_mounted_again_by_its_repair(
        self, xapi: Simulator, manager: StorageManager
    ) -> None:
        backend = self.lose(xapi, manager)
        assert kinds(manager) == ["backend_unreachable"]
        assert manager.audit(repair=True).agrees
        assert self.is_mounted(xapi, backend)

    @pytest.mark.xapi(hosts=2)
    @pytest.mark.parametrize("replug", [False, True])
    def test_under_a_running_vm_is_told_and_left_alone(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, replug: bool
    ) -> None:
        """Other hosts are left alone too, unless the operator says so."""
        backend = add(xapi, manager, NFS)
        manager.create_volume("v", "gold", GIB)
        xapi.add_vm("web", resident_on="host1")
        VolumeOps(xapi_session).attach_volume(manager.initialize_connection("v"), "web")
        xapi.storage.host("host1").mounts.lose_mount(str(backend.sr_uuid))
        with xapi.journal.recording() as calls:
            (report,) = manager.do_setup(replug=replug)
        assert report.error is not None
        assert calls.methods().count("PBD.unplug") == (1 if replug else 0)  # of the other host

    @pytest.mark.xapi(hosts=2)
    def test_on_another_host_than_the_master_is_mounted_again_if_the_operator_says_so(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        """xapi cannot tell that it is lost. A host on which a VM has a disk of the SR is left as it is."""
        backend = add(xapi, manager, NFS)
        manager.create_volume("v", "gold", GIB)
        xapi.add_vm("web", resident_on="host1")
        VolumeOps(xapi_session).attach_volume(manager.initialize_connection("v"), "web")
        xapi.storage.host("host2").mounts.lose_mount(str(backend.sr_uuid))
        assert [report.error for report in manager.do_setup()] == [None]
        assert not self.is_mounted(xapi, backend, "host2")
        touch_hosts(xapi)
        before = xapi.snapshot()
        with xapi.journal.recording() as calls:
            assert [report.error for report in manager.do_setup(replug=True)] == [None]
        assert self.is_mounted(xapi, backend, "host2")
        assert calls.methods().count("PBD.unplug") == 1
        assert [line for line in changes(before, xapi.snapshot()) if "mounts" not in line] == []


class TestAPBDThatIsUnplugged:
    @pytest.mark.xapi(hosts=2)
    @pytest.mark.parametrize("is_destroyed", [False, True])
    def test_on_one_host_is_told_with_the_host_and_plugged_by_the_repair(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session, is_destroyed: bool
    ) -> None:
        add(xapi, manager, NFS)
        host2 = xapi.find_host("host2")
        (pbd,) = xapi_session.find("PBD", {"host": host2})
        xapi_session.call("PBD.unplug", pbd)
        if is_destroyed:
            xapi_session.call("PBD.destroy", pbd)
        (finding,) = manager.audit(scan=False).findings
        assert (finding.kind, "host2" in finding.text) == ("host_unplugged", True)
        assert manager.audit(repair=True).agrees
        assert kinds(manager) == []
        (pbd,) = xapi_session.find("PBD", {"host": host2}).values()
        assert pbd["currently_attached"]

    @pytest.mark.xapi(hosts=2)
    def test_on_a_host_that_runs_no_vms_is_not(
        self, xapi: Simulator, manager: StorageManager, xapi_session: Session
    ) -> None:
        add(xapi, manager, NFS)
        host2 = xapi.find_host("host2")
        (pbd,) = xapi_session.find("PBD", {"host": host2})
        xapi_session.call("PBD.unplug", pbd)
        xapi_session.call("host.disable", host2)
        assert kinds(manager) == []
