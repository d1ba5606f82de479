"""A driver's own unit of work, on a mocked session: which calls it makes, and with what."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_mock import MockerFixture
from XenAPI import Failure

from tests.scenarios import (
    IQN,
    NFS_XENSM,
    PORTAL,
    SR_UUID,
    VDI_UUID,
    arrange_nfs,
    arrange_target,
    iscsi,
    iscsi_data,
)
from xenvol.drivers.gluster import GlusterDriver
from xenvol.drivers.iscsi import ISCSIDriver, sr_uuid_of
from xenvol.drivers.nfs import NFSDriver
from xenvol.drivers.xensm import AnySRDriver
from xenvol.errors import (
    ForbiddenCall,
    InvalidConnectionInfo,
    UnsupportedSRType,
    VolumeNotFound,
    WrongVolume,
    XapiError,
)
from xenvol.session import Session
from xenvol.session.refs import HostRef
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

HOST = HostRef("OpaqueRef:host")
GIB = 1024**3


@pytest.fixture
def session(mocker: MockerFixture) -> Any:
    """A mocked xapi without objects, which has a driver for every SR type and creates every object."""
    mock = mocker.MagicMock(name="session", spec=["xenapi"])
    xenapi = mock.xenapi
    types = ["iscsi", "nfs", "glusterfs"]
    xenapi.SM.get_all_records_where.return_value = {f"OpaqueRef:{name}": {"type": name} for name in types}
    xenapi.pool.get_all_records.return_value = {"OpaqueRef:pool": {"master": HOST}}
    xenapi.SR.get_all_records_where.return_value = {}
    xenapi.SR.introduce.return_value = "OpaqueRef:sr"
    xenapi.PBD.create.return_value = "OpaqueRef:pbd"
    xenapi.VDI.get_all_records_where.return_value = {}
    return mock


def vdi(**fields: Any) -> dict[str, Any]:
    return {
        "uuid": VDI_UUID,
        "SR": "OpaqueRef:sr",
        "sm_config": {"LUNid": "0", "SCSIid": "36001405"},
        "virtual_size": str(GIB),
        "sharable": False,
        "VBDs": [],
        **fields,
    }


def test_iscsi_introduces_the_target_and_returns_the_lun(session: Any) -> None:
    session.xenapi.VDI.get_all_records_where.return_value = {"OpaqueRef:vdi": vdi()}
    driver = ISCSIDriver(session, hosts=[HOST])
    assert driver.connect_volume(iscsi_data(0)) == "OpaqueRef:vdi"
    (uuid, name, _, sr_type, _, shared, sm_config) = session.xenapi.SR.introduce.call_args.args
    assert (sr_type, shared, IQN in name) == ("iscsi", True, True)
    assert uuid == "6102ad98-4796-5916-85f2-8f1cb6c48394", (
        "others, and our own last version, must mean the same SR"
    )
    assert sm_config == {"target": "10.0.0.1", "targetIQN": IQN, "xenvol": uuid}
    (pbd,) = session.xenapi.PBD.create.call_args.args
    assert pbd["device_config"] == {"target": "10.0.0.1", "port": "3260", "targetIQN": IQN}
    session.xenapi.PBD.plug.assert_called_once_with("OpaqueRef:pbd")
    session.xenapi.SR.scan.assert_not_called()


def test_iscsi_takes_back_what_it_did_newest_first(session: Any) -> None:
    session.xenapi.PBD.plug.side_effect = Failure(["SR_BACKEND_FAILURE_68", "", "login failed", ""])
    driver = ISCSIDriver(session, hosts=[HOST])
    with pytest.raises(XapiError):
        driver.connect_volume(iscsi_data(0))
    driver.rollback(iscsi_data(0))
    verbs = [
        str(call) for call in session.xenapi.mock_calls if "destroy" in str(call) or "forget" in str(call)
    ]
    assert verbs == ["call.PBD.destroy('OpaqueRef:pbd')", "call.SR.forget('OpaqueRef:sr')"]
    driver.rollback(iscsi_data(0))
    session.xenapi.SR.forget.assert_called_once()


def test_nfs_introduces_the_export_itself_for_a_file_that_lies_right_in_it(session: Any) -> None:
    session.xenapi.VDI.get_all_records_where.side_effect = [{}, {"OpaqueRef:vdi": vdi(sm_config={})}]
    driver = NFSDriver(session, hosts=[HOST])
    assert driver.connect_volume({"export": "nas:/vols", "name": f"{VDI_UUID}.vhd"}) == "OpaqueRef:vdi"
    (uuid, _, _, *others) = session.xenapi.SR.introduce.call_args.args
    assert others == ["nfs", "user", True, {"nosubdir": "true", "xenvol": uuid}]
    (pbd,) = session.xenapi.PBD.create.call_args.args
    assert pbd["device_config"] == {"server": "nas", "serverpath": "/vols"}


def test_gluster_introduces_the_directory_of_the_sr(session: Any) -> None:
    session.xenapi.VDI.get_all_records_where.side_effect = [{}, {"OpaqueRef:vdi": vdi(sm_config={})}]
    data = {"export": "g1:/vol", "name": f"{SR_UUID}/{VDI_UUID}.vhd", "options": "-o backupvolfile-server=g2"}
    assert GlusterDriver(session, hosts=[HOST]).connect_volume(data) == "OpaqueRef:vdi"
    assert session.xenapi.SR.introduce.call_args.args[0] == SR_UUID
    (pbd,) = session.xenapi.PBD.create.call_args.args
    assert pbd["device_config"] == {"server": "g1:/vol", "backupservers": "g2"}


def test_xensm_makes_the_device_config_of_the_keys_that_are_listed(session: Any) -> None:
    session.xenapi.VDI.get_all_records_where.side_effect = [{}, {"OpaqueRef:vdi": vdi(sm_config={})}]
    assert AnySRDriver(session, hosts=[HOST]).connect_volume(NFS_XENSM["data"]) == "OpaqueRef:vdi"
    (pbd,) = session.xenapi.PBD.create.call_args.args
    assert pbd["device_config"] == {"server": "10.0.0.2", "serverpath": "/export/vols"}


def test_xensm_without_a_type_needs_an_sr_that_is_there(session: Any) -> None:
    with pytest.raises(InvalidConnectionInfo) as caught:
        AnySRDriver(session, hosts=[HOST]).connect_volume({"sr_uuid": SR_UUID, "vdi_uuid": VDI_UUID})
    assert caught.value.key == "sr_type"
    session.xenapi.SR.introduce.assert_not_called()


def test_xensm_with_a_type_alone_needs_an_sr_that_is_there(session: Any) -> None:
    data = {"sr_uuid": SR_UUID, "vdi_uuid": VDI_UUID, "sr_type": "nfs"}
    with pytest.raises(InvalidConnectionInfo, match="the pool has no SR") as caught:
        AnySRDriver(session, hosts=[HOST]).connect_volume(data)
    assert caught.value.key == "introduce_sr_keys"
    session.xenapi.SR.introduce.assert_not_called()


@pytest.mark.parametrize(
    ("driver_class", "data"),
    [
        (ISCSIDriver, iscsi_data(0)),
        (NFSDriver, {"export": "nas:/vols", "name": VDI_UUID}),
        (GlusterDriver, {"export": "g1:/vol", "name": f"{SR_UUID}/{VDI_UUID}"}),
        (AnySRDriver, NFS_XENSM["data"]),
    ],
    ids=["iscsi", "nfs", "gluster", "xensm"],
)
class TestEveryDriver:
    def test_makes_no_call_in_its_constructor(self, session: Any, driver_class: Any, data: Any) -> None:
        driver_class(session)
        assert session.xenapi.mock_calls == []

    def test_makes_nothing_where_the_sr_type_is_not_offered(
        self, session: Any, driver_class: Any, data: Any
    ) -> None:
        session.xenapi.SM.get_all_records_where.return_value = {}
        session.xenapi.SM.get_all_records.return_value = {"OpaqueRef:iso": {"type": "iso"}}
        with pytest.raises(UnsupportedSRType, match="iso"):
            driver_class(session, hosts=[HOST]).connect_volume(data)
        session.xenapi.SR.introduce.assert_not_called()


@pytest.mark.parametrize(
    ("driver_class", "data"),
    [
        (NFSDriver, {"export": "nas:/vols", "name": VDI_UUID}),
        (GlusterDriver, {"export": "g1:/vol", "name": f"{SR_UUID}/{VDI_UUID}"}),
        (AnySRDriver, NFS_XENSM["data"]),
    ],
    ids=["nfs", "gluster", "xensm"],
)
def test_a_disk_file_of_another_size_is_another_disk(session: Any, driver_class: Any, data: Any) -> None:
    session.xenapi.VDI.get_all_records_where.side_effect = [{}, {"OpaqueRef:vdi": vdi(sm_config={})}]
    with pytest.raises(WrongVolume):
        driver_class(session, hosts=[HOST]).connect_volume({**data, "size": 2})


def test_xensm_with_neither_uuid_nor_lun_takes_the_only_disk_and_no_other(session: Any) -> None:
    data = {key: value for key, value in NFS_XENSM["data"].items() if key != "vdi_uuid"}
    disks = {"OpaqueRef:one": vdi(), "OpaqueRef:other": vdi()}
    session.xenapi.VDI.get_all_records_where.return_value = disks
    with pytest.raises(VolumeNotFound, match="the only VDI"):
        AnySRDriver(session, hosts=[HOST]).connect_volume(data)
    del disks["OpaqueRef:other"]
    assert AnySRDriver(session, hosts=[HOST]).connect_volume(data) == "OpaqueRef:one"


def test_xensm_sees_a_lun_grow_by_a_new_log_in_and_a_disk_file_by_a_scan(
    xapi: Simulator, volume_ops: VolumeOps
) -> None:
    arrange_target(xapi)
    arrange_nfs(xapi)
    lun = volume_ops.connect_volume(iscsi(0))
    volume_ops.connect_volume(NFS_XENSM)
    of_lun = {"driver_volume_type": "xensm", "data": {"sr_uuid": lun.sr_uuid, "vdi_uuid": lun.vdi_uuid}}
    seen_by = []
    for info in (of_lun, NFS_XENSM):
        with xapi.journal.recording() as calls:
            assert volume_ops.extend_volume(info) == GIB
        seen_by.append({"PBD.unplug", "PBD.plug", "SR.scan"} & set(calls.methods()))
    assert seen_by == [{"PBD.unplug", "PBD.plug"}, {"SR.scan"}]


def test_the_sr_of_a_target_is_the_same_by_any_portal() -> None:
    from xenvol.connection_data.iscsi import ISCSIVolume

    one = ISCSIVolume.parse(iscsi_data(0)).targets[0]
    other = ISCSIVolume.parse(iscsi_data(5, target_portal="[fd00::1]:3261")).targets[0]
    assert sr_uuid_of(one) == sr_uuid_of(other)
    assert one.portal == PORTAL


@pytest.mark.parametrize(
    "call", ["SR.create", "SR.destroy", "VDI.create", "VDI.destroy", "Async.VDI.destroy", "VBD.create"]
)
def test_the_session_of_a_driver_refuses_what_could_format_or_erase(session: Any, call: str) -> None:
    from xenvol.pool.view import View

    with pytest.raises(ForbiddenCall, match="acme"):
        View(Session(session)).restricted("acme").call(call, "OpaqueRef:x")
    assert session.xenapi.mock_calls == []
