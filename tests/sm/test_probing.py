"""The answers of SR.probe are parsed: SRs, choices, refusals. The simulator's storage drivers answer."""

from __future__ import annotations

import pytest
from backend_lab import BY_NAME, DEVICE, GIB, IQN, LUN, PORTAL, UNKNOWN_UUID, StorageWorld, somebodys_sr

from xenvol.errors import XapiError
from xenvol.pool.view import View
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.sm import config, probing
from xenvol.sm.errors import DeviceNotBlank, IncompleteConfig, InvalidConfig
from xenvol.storage.srtypes import sr_type_of


def ask(session: Session, sr_type: str, given: dict[str, str]) -> list[str]:
    view = View(session)
    return probing.probe(view, view.master, sr_type_of(sr_type), given, {})


def check(session: Session, sr_type: str, given: dict[str, str], format_device: str | None = None) -> None:
    view, wanted = View(session), config.parse(sr_type, given)
    device_config = {key: str(value) for key, value in wanted.device_config.items()}
    probing.check(view, view.master, wanted, device_config, can_probe=True, format_device=format_device)


class TestChoices:
    """The error for a key that is missing, or names nothing that exists, lists what exists."""

    def test_an_nfs_server_lists_its_exports(self, xapi: Simulator, xapi_session: Session) -> None:
        server = xapi.storage.shares.add_nfs("10.0.0.2")
        server.export("/a", size=GIB)
        server.export("/b c", size=GIB)
        with pytest.raises(IncompleteConfig) as caught:
            ask(xapi_session, "nfs", {"server": "10.0.0.2"})
        assert (caught.value.key, caught.value.choices) == (
            "serverpath",
            ["serverpath=/a", "serverpath=/b c"],
        )

    @pytest.mark.parametrize(
        ("sr_type", "given"),
        [("iscsi", {}), ("lvmoiscsi", {}), ("lvmoiscsi", {"targetIQN": "iqn.of.nobody:x"})],
    )
    def test_a_portal_lists_its_targets(
        self, xapi: Simulator, xapi_session: Session, sr_type: str, given: dict[str, str]
    ) -> None:
        xapi.storage.san.add_target(IQN, f"{PORTAL}:3261")
        with pytest.raises(IncompleteConfig) as caught:
            ask(xapi_session, sr_type, {"target": PORTAL, "port": "3261", "SCSIid": "3600a", **given})
        assert caught.value.key == "targetIQN"
        assert caught.value.choices == [f"targetIQN={IQN} target={PORTAL} port=3261"]

    def test_a_target_lists_its_luns(self, xapi: Simulator, xapi_session: Session) -> None:
        xapi.storage.san.add_target(IQN, f"{PORTAL}:3260")
        xapi.storage.san.add_lun(IQN, 0, GIB, scsi_id=LUN)
        with pytest.raises(IncompleteConfig) as caught:
            ask(xapi_session, "lvmoiscsi", {"target": PORTAL, "targetIQN": IQN})
        assert caught.value.key == "SCSIid"
        assert caught.value.choices == [f"SCSIid={LUN} LUN=0 size={GIB}"]

    def test_adapters_list_their_luns(self, xapi: Simulator, xapi_session: Session) -> None:
        BY_NAME["lvmohba"].arrange(xapi)
        with pytest.raises(IncompleteConfig) as caught:
            ask(xapi_session, "lvmohba", {})
        assert caught.value.choices == [f"SCSIid={LUN} size={100 * GIB} path=/dev/sdb"]

    def test_the_storage_that_offers_nothing_says_so(self, xapi: Simulator, xapi_session: Session) -> None:
        xapi.storage.shares.add_nfs("10.0.0.2")
        with pytest.raises(IncompleteConfig, match="offers: nothing"):
            ask(xapi_session, "nfs", {"server": "10.0.0.2"})

    def test_another_refusal_is_passed_on(self, xapi: Simulator, xapi_session: Session) -> None:
        with pytest.raises(XapiError) as caught:
            ask(xapi_session, "nfs", {"server": "10.0.0.2", "serverpath": "/a"})
        assert caught.value.code == "SR_BACKEND_FAILURE_108"

    @pytest.mark.parametrize(
        "answer", ["", "no XML", "<a><b></a>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"]
    )
    def test_what_is_no_xml_tells_of_nothing(self, answer: str) -> None:
        assert probing.srs_in(answer) == []
        assert probing.choices_in("SCSIid", answer) == []


@pytest.mark.parametrize("name", ["nfs", "smb", "cephfs", "glusterfs", "ext", "lvm", "lvmoiscsi", "netapp"])
def test_the_srs_on_the_storage_are_told_by_their_uuids(
    xapi: Simulator, xapi_session: Session, name: str
) -> None:
    world = BY_NAME[name]
    world.arrange(xapi)
    assert ask(xapi_session, world.sr_type, world.plain_config) == []
    sr_uuid = somebodys_sr(xapi, world)
    assert ask(xapi_session, world.sr_type, world.plain_config) == [sr_uuid]


class TestFormatting:
    @pytest.fixture
    def lvm(self, xapi: Simulator) -> StorageWorld:
        BY_NAME["lvm"].arrange(xapi)
        return BY_NAME["lvm"]

    @pytest.mark.parametrize("named", [None, "", "/dev/sdc", "/dev/sdb1", "/dev/sdb,/dev/sdc"])
    def test_a_device_that_is_not_named_is_refused(
        self, xapi_session: Session, lvm: StorageWorld, named: str | None
    ) -> None:
        with pytest.raises(DeviceNotBlank) as caught:
            check(xapi_session, "lvm", {"device": DEVICE}, named)
        assert (caught.value.device, caught.value.found) == (DEVICE, [])

    def test_several_devices_are_named_in_any_order(self, xapi_session: Session, lvm: StorageWorld) -> None:
        check(xapi_session, "lvm", {"device": "/dev/sdb,/dev/sdc"}, "/dev/sdc,/dev/sdb")

    def test_the_sr_on_a_device_is_told(
        self, xapi: Simulator, xapi_session: Session, lvm: StorageWorld
    ) -> None:
        sr_uuid = somebodys_sr(xapi, lvm)
        with pytest.raises(DeviceNotBlank, match=f"holds SR {sr_uuid}; to use it, give sr_uuid={sr_uuid}"):
            check(xapi_session, "lvm", {"device": DEVICE})

    def test_a_device_of_an_sr_of_this_pool_is_refused_even_if_it_is_named(
        self, xapi: Simulator, xapi_session: Session, lvm: StorageWorld
    ) -> None:
        somebodys_sr(xapi, lvm, "System disks")
        with pytest.raises(InvalidConfig, match="names the device of SR System disks"):
            check(xapi_session, "lvm", {"device": DEVICE}, DEVICE)

    def test_a_lun_that_a_vm_has_as_a_disk_is_refused_even_if_it_is_named(
        self, xapi: Simulator, xapi_session: Session
    ) -> None:
        """No probe shows VDIs that are LUNs."""
        xapi.storage.san.add_target(IQN, f"{PORTAL}:3260")
        xapi.storage.san.add_lun(IQN, 0, GIB, scsi_id=LUN)
        target = {"target": PORTAL, "targetIQN": IQN}
        sr = xapi.add_sr("LUNs", type="iscsi", device_config=target)
        check(xapi_session, "lvmoiscsi", {**target, "SCSIid": LUN}, LUN)
        (vdi,) = xapi.db.children(sr, "VDIs")
        xapi.add_vbd(xapi.add_vm("web", power_state="Halted"), vdi)
        with pytest.raises(InvalidConfig, match=r"of SR LUNs .* in use"):
            check(xapi_session, "lvmoiscsi", {**target, "SCSIid": LUN}, LUN)


class TestAnSRThatIsMeant:
    def test_is_looked_for_on_the_storage(self, xapi: Simulator, xapi_session: Session) -> None:
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        with pytest.raises(InvalidConfig, match="on that storage there is none"):
            check(xapi_session, "nfs", {**world.plain_config, "sr_uuid": UNKNOWN_UUID})
        sr_uuid = somebodys_sr(xapi, world)
        with pytest.raises(InvalidConfig, match=f"there is {sr_uuid}"):
            check(xapi_session, "nfs", {**world.plain_config, "sr_uuid": UNKNOWN_UUID})
        check(xapi_session, "nfs", {**world.plain_config, "sr_uuid": sr_uuid})

    def test_is_whatever_it_is_called_where_the_storage_does_not_know(
        self, xapi: Simulator, xapi_session: Session
    ) -> None:
        world = BY_NAME["nfs"]
        world.arrange(xapi)
        check(xapi_session, "nfs", {**world.plain_config, "nosubdir": "true", "sr_uuid": UNKNOWN_UUID})
