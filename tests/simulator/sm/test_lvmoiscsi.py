"""LVM on an iSCSI LUN: its required keys, its lists, and that its disks outlive the SR's record."""

from collections.abc import Iterator

import pytest
from lab import ADDRESS, GIB, LUNS, OTHER, OTHER_ADDRESS, TARGET, Lab, lab, refusal

from xenvol.simulator.sm import sanfile

SCSI_ID = LUNS[5][0]
CONFIG = {"target": ADDRESS, "targetIQN": TARGET, "SCSIid": SCSI_ID}
BLANK = '<?xml version="1.0" ?>\n<SRlist/>\n'


@pytest.fixture
def san() -> Iterator[Lab]:
    with lab() as made:
        yield made


def create(san: Lab, config: dict[str, str] | None = None) -> str:
    params = [san.host, config or CONFIG, "0", "lvm", "", "lvmoiscsi", "user", True, {}]
    return str(san.x.SR.create(*params))


def new_disk(san: Lab, sr: str, size: int = 100 << 20) -> str:
    record = {
        "name_label": "disk",
        "SR": sr,
        "virtual_size": str(size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }
    return str(san.x.VDI.create(record))


def unplug(san: Lab, sr: str) -> None:
    for pbd in san.x.SR.get_PBDs(sr):
        san.x.PBD.unplug(pbd)


class TestProbe:
    def test_without_scsi_id_it_lists_the_luns_and_leaves_no_session(self, san: Lab) -> None:
        refused = refusal(san.x.SR.probe, san.host, {"target": ADDRESS, "targetIQN": TARGET}, "lvmoiscsi", {})
        luns = "".join(
            f"\t<LUN>\n\t\t<vendor>LIO-ORG</vendor>\n\t\t<serial>{scsi_id[1:]}</serial>\n"
            f"\t\t<LUNid>{number}</LUNid>\n\t\t<size>{size}</size>\n\t\t<SCSIid>{scsi_id}</SCSIid>\n\t</LUN>\n"
            for number, (scsi_id, size) in LUNS.items()
        )
        listed = f'<?xml version="1.0" ?>\n<iscsi-target>\n{luns}</iscsi-target>\n\n'
        text = "The SCSIid parameter is missing or incorrect"
        assert refused == ["SR_BACKEND_FAILURE_107", "", text, listed]
        assert san.initiator.sessions == []

    def test_of_a_lun_that_is_not_there_it_is_refused_without_a_list_and_leaves_the_session(
        self, san: Lab
    ) -> None:
        config = {**CONFIG, "SCSIid": "3600ff"}
        text = "The SCSIid parameter is missing or incorrect"
        refused = refusal(san.x.SR.probe, san.host, config, "lvmoiscsi", {})
        assert refused == ["SR_BACKEND_FAILURE_107", "", text, ""]
        assert len(san.initiator.sessions) == 1

    def test_of_a_blank_lun_it_finds_nothing(self, san: Lab) -> None:
        assert san.x.SR.probe(san.host, CONFIG, "lvmoiscsi", {}) == BLANK
        assert san.initiator.sessions == []

    def test_of_a_lun_with_an_sr_it_names_the_sr(self, san: Lab) -> None:
        uuid = san.x.SR.get_uuid(create(san))
        found = san.x.SR.probe(san.host, CONFIG, "lvmoiscsi", {})
        assert f"<UUID>{uuid}</UUID>" in found
        assert f"<Devlist>/dev/disk/by-id/scsi-{SCSI_ID}</Devlist>" in found


class TestPlug:
    @pytest.mark.parametrize("missing", ["target", "targetIQN", "SCSIid"])
    def test_each_missing_key_has_its_own_number(self, san: Lab, missing: str) -> None:
        config = {key: value for key, value in CONFIG.items() if key != missing}
        _, pbd = san.introduce(config, type="lvmoiscsi")
        number = {"target": 95, "targetIQN": 96, "SCSIid": 107}[missing]
        assert refusal(san.x.PBD.plug, pbd)[0] == f"SR_BACKEND_FAILURE_{number}"

    def test_a_blank_lun_has_no_volume_group_and_the_session_is_closed(self, san: Lab) -> None:
        sr, pbd = san.introduce(CONFIG, type="lvmoiscsi")
        uuid = san.x.SR.get_uuid(sr)
        text = f"The SR is not available [opterr=no such volume group: VG_XenStorage-{uuid}]"
        assert refusal(san.x.PBD.plug, pbd) == ["SR_BACKEND_FAILURE_47", "", text, ""]
        assert san.initiator.sessions == []


class TestCreated:
    def test_disks_come_back_with_their_names_after_a_forget(self, san: Lab) -> None:
        sr = create(san)
        uuid = san.x.SR.get_uuid(sr)
        disk = san.x.VDI.get_uuid(new_disk(san, sr))
        unplug(san, sr)
        assert san.initiator.sessions == []
        san.x.SR.forget(sr)
        again, _ = san.plug(CONFIG, type="lvmoiscsi", sr_uuid=uuid)
        (vdi,) = san.x.SR.get_VDIs(again)
        assert san.x.VDI.get_uuid(vdi) == disk
        assert san.x.VDI.get_name_label(vdi) == "disk"

    def test_sm_config_tells_the_lun_and_that_it_may_be_multipathed(self, san: Lab) -> None:
        sm_config = san.x.SR.get_sm_config(create(san))
        assert sm_config["devserial"] == f"scsi-{SCSI_ID}"
        assert sm_config["multipathable"] == "true"

    def test_a_lun_that_is_an_sr_cannot_be_formatted_again(self, san: Lab) -> None:
        create(san)
        assert refusal(lambda: create(san)) == ["SR_DEVICE_IN_USE"]

    def test_a_lun_that_vanished_takes_the_sr_away(self, san: Lab) -> None:
        sr = create(san)
        new_disk(san, sr)
        san.san.remove_lun(TARGET, 5)
        assert refusal(san.x.SR.scan, sr)[0] == "SR_BACKEND_FAILURE_47"
        assert len(san.x.SR.get_VDIs(sr)) == 1

    def test_a_destroyed_sr_leaves_a_blank_lun(self, san: Lab) -> None:
        sr = create(san)
        unplug(san, sr)
        san.x.SR.destroy(sr)
        assert san.x.SR.probe(san.host, CONFIG, "lvmoiscsi", {}) == BLANK
        assert san.initiator.sessions == []

    def test_a_lun_that_is_not_there_cannot_be_formatted(self, san: Lab) -> None:
        refused = refusal(lambda: create(san, {**CONFIG, "SCSIid": "3600ff"}))
        assert refused[0] == "SR_BACKEND_FAILURE_107"
        assert san.x.SR.get_all() == []


def test_an_sr_of_a_world_file_is_there_to_be_introduced(san: Lab) -> None:
    uuid, disk = "11111111-0000-4000-8000-000000000001", "22222222-0000-4000-8000-000000000001"
    content = {"type": "lvm", "sr": uuid, "disks": {disk: {"size": "100 MiB"}}}
    lun = {"size": "10 GiB", "scsi_id": "3600e1", "content": content}
    sanfile.load(san.san, {"targets": {TARGET: {"luns": {"9": lun}}}})
    sr, _ = san.plug({**CONFIG, "SCSIid": "3600e1"}, type="lvmoiscsi", sr_uuid=uuid)
    (vdi,) = san.x.SR.get_VDIs(sr)
    assert (san.x.VDI.get_uuid(vdi), san.x.VDI.get_virtual_size(vdi)) == (disk, str(100 << 20))


class TestSeveralTargets:
    """``target`` lists two portals, and ``targetIQN`` is ``*``."""

    @pytest.fixture
    def two(self, san: Lab) -> Lab:
        san.san.add_lun(OTHER, 9, LUNS[5][1], scsi_id=SCSI_ID)
        return san

    CONFIG = {"target": f"{ADDRESS},{OTHER_ADDRESS}", "targetIQN": "*", "SCSIid": SCSI_ID}

    def test_every_target_is_logged_in_to_and_noted(self, two: Lab) -> None:
        sr = create(two, self.CONFIG)
        assert {session.iqn for session in two.initiator.sessions} == {TARGET, OTHER}
        (pbd,) = two.x.SR.get_PBDs(sr)
        noted = two.x.PBD.get_device_config(pbd)["multiSession"]
        assert noted == f"{ADDRESS},3260,{TARGET}|{OTHER_ADDRESS},3260,{OTHER}|"
        unplug(two, sr)
        assert two.initiator.sessions == []

    def test_one_that_is_silent_does_not_matter_as_long_as_another_shows_the_lun(self, two: Lab) -> None:
        sr = create(two, self.CONFIG)
        unplug(two, sr)
        two.san.unreachable(f"{ADDRESS}:3260")
        (pbd,) = two.x.SR.get_PBDs(sr)
        two.x.PBD.plug(pbd)
        assert [session.iqn for session in two.initiator.sessions] == [OTHER]
        assert two.x.VDI.get_virtual_size(new_disk(two, sr)) == str(100 << 20)

    def test_when_all_are_silent_the_plug_is_refused(self, two: Lab) -> None:
        sr = create(two, self.CONFIG)
        unplug(two, sr)
        for address in (ADDRESS, OTHER_ADDRESS):
            two.san.unreachable(f"{address}:3260")
        (pbd,) = two.x.SR.get_PBDs(sr)
        assert refusal(two.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_141"

    def test_without_scsi_id_the_luns_of_all_are_listed(self, two: Lab) -> None:
        two.san.add_lun(OTHER, 10, GIB, scsi_id="3600c1")
        config = {key: value for key, value in self.CONFIG.items() if key != "SCSIid"}
        listed = refusal(two.x.SR.probe, two.host, config, "lvmoiscsi", {})[3]
        assert "<SCSIid>3600a0</SCSIid>" in listed
        assert "<SCSIid>3600c1</SCSIid>" in listed
