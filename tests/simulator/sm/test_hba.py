"""LUNs of host bus adapters: as VDIs of their own (``hba``), and under LVM (``lvmohba``)."""

from collections.abc import Iterator

import pytest
from lab import GIB, Lab, derived_uuid, lab, refusal

from xenvol.simulator.sm.initiator import HBA
from xenvol.simulator.sm.san import Target

ARRAY = "50:06:01:60:aa:bb:cc:01"
PORT = "21:00:00:24:ff:00:00:01"
EMPTY_LIST = '<?xml version="1.0" ?>\n<SRlist/>\n'


@pytest.fixture
def bare() -> Iterator[Lab]:
    """A host without an adapter."""
    with lab() as made:
        yield made


@pytest.fixture
def fc(bare: Lab) -> Lab:
    """A host with an adapter to which an array shows two LUNs."""
    bare.san.fc_targets[ARRAY] = Target(ARRAY, initiators={PORT})
    bare.san.add_lun(ARRAY, 1, GIB, scsi_id="3600f1")
    bare.san.add_lun(ARRAY, 2, 2 * GIB, scsi_id="3600f2")
    bare.simulator.storage.host("host1").hbas.append(HBA(PORT, "20:00:00:24:ff:00:00:01"))
    return bare


def vdi_record(sr: str, size: int) -> dict[str, object]:
    return {
        "name_label": "x",
        "SR": sr,
        "virtual_size": str(size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }


class TestWithoutAdapter:
    def test_a_plug_succeeds_and_brings_nothing(self, bare: Lab) -> None:
        sr, _ = bare.plug({}, type="hba")
        assert bare.x.SR.get_VDIs(sr) == []

    def test_a_scan_is_refused(self, bare: Lab) -> None:
        sr, _ = bare.plug({}, type="hba")
        assert refusal(bare.x.SR.scan, sr) == ["SR_BACKEND_FAILURE_47", "", "The SR is not available", ""]

    def test_a_probe_finds_nothing(self, bare: Lab) -> None:
        assert bare.x.SR.probe(bare.host, {}, "hba", {}) == EMPTY_LIST
        assert bare.x.SR.probe(bare.host, {"SCSIid": "3600f1"}, "lvmohba", {}) == EMPTY_LIST

    def test_a_create_is_refused(self, bare: Lab) -> None:
        text = "No such device [opterr=No such HBA Device detected [any]]"
        params = [bare.host, {}, "0", "x", "", "hba", "user", False, {}]
        assert refusal(bare.x.SR.create, *params) == ["SR_BACKEND_FAILURE_19", "", text, ""]
        text = "No such device [opterr=Device /dev/disk/by-id/scsi-3600f1 does not exist]"
        params = [bare.host, {"SCSIid": "3600f1"}, "0", "x", "", "lvmohba", "user", False, {}]
        assert refusal(bare.x.SR.create, *params) == ["SR_BACKEND_FAILURE_19", "", text, ""]

    def test_lvm_needs_a_scsi_id_and_lists_nothing(self, bare: Lab) -> None:
        listed = '<?xml version="1.0" ?>\n<Devlist/>\n\n'
        text = "The SCSIid parameter is missing or incorrect"
        refused = refusal(bare.x.SR.probe, bare.host, {}, "lvmohba", {})
        assert refused == ["SR_BACKEND_FAILURE_107", "", text, listed]

    def test_lvm_on_a_lun_that_is_not_there_has_no_volume_group(self, bare: Lab) -> None:
        sr, pbd = bare.introduce({"SCSIid": "3600f1"}, type="lvmohba")
        text = (
            f"The SR is not available [opterr=no such volume group: VG_XenStorage-{bare.x.SR.get_uuid(sr)}]"
        )
        assert refusal(bare.x.PBD.plug, pbd) == ["SR_BACKEND_FAILURE_47", "", text, ""]


class TestLUNPerVDI:
    def test_a_plug_brings_every_lun_in_unmanaged(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        found = fc.vdis(sr)
        assert {number: record["uuid"] for number, record in found.items()} == {
            1: derived_uuid("3600f1"),
            2: derived_uuid("3600f2"),
        }
        assert {record["managed"] for record in found.values()} == {False}

    def test_utilisation_counts_what_is_managed_on_top(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        assert fc.x.SR.get_physical_utilisation(sr) == str(3 * GIB)
        fc.x.VDI.create(vdi_record(sr, GIB))
        fc.x.SR.scan(sr)
        assert fc.x.SR.get_physical_utilisation(sr) == str(4 * GIB)

    def test_creating_adopts_the_smallest_lun_that_is_large_enough(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        vdi = fc.x.VDI.create(vdi_record(sr, GIB - 1))
        assert fc.x.VDI.get_uuid(vdi) == derived_uuid("3600f1")
        assert fc.x.VDI.get_managed(vdi) is True
        second = fc.x.VDI.create(vdi_record(sr, 1))
        assert fc.x.VDI.get_uuid(second) == derived_uuid("3600f2")
        no_space = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
        assert refusal(fc.x.VDI.create, vdi_record(sr, 1)) == no_space

    def test_a_destroyed_one_comes_back_unmanaged(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        fc.x.VDI.destroy(fc.x.VDI.create(vdi_record(sr, GIB)))
        assert sorted(fc.vdis(sr)) == [2]
        fc.x.SR.scan(sr)
        assert fc.vdis(sr)[1]["managed"] is False

    def test_nothing_can_be_introduced(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        refused = refusal(lambda: fc.by_introduce(sr, {"LUNid": "1"}, location="loc"))
        assert refused == ["INTERNAL_ERROR", "Storage_error ([S(Vdi_does_not_exist);S(loc)])"]

    def test_a_scan_sees_new_grown_and_vanished_luns(self, fc: Lab) -> None:
        sr, _ = fc.plug({}, type="hba")
        fc.san.add_lun(ARRAY, 3, GIB, scsi_id="3600f3")
        fc.san.resize_lun(ARRAY, 2, 4 * GIB)
        fc.san.remove_lun(ARRAY, 1)
        fc.x.SR.scan(sr)
        found = fc.vdis(sr)
        assert {number: record["virtual_size"] for number, record in found.items()} == {
            2: str(4 * GIB),
            3: str(GIB),
        }

    def test_only_adapters_of_the_asked_kind_count(self, fc: Lab) -> None:
        sr, _ = fc.plug({"type": "SAS"}, type="hba")
        assert fc.x.SR.get_VDIs(sr) == []

    def test_a_zone_keeps_other_hosts_out(self, fc: Lab) -> None:
        fc.san.fc_targets[ARRAY].initiators = {"another port"}
        sr, _ = fc.plug({}, type="hba")
        assert fc.x.SR.get_VDIs(sr) == []

    def test_create_writes_the_kind_into_sm_config_and_happens_once(self, fc: Lab) -> None:
        params = [fc.host, {}, "0", "x", "", "hba", "user", True, {}]
        sr = fc.x.SR.create(*params)
        assert fc.x.SR.get_sm_config(sr) == {
            "disktype": "Raw",
            "datatype": "HBA",
            "hbatype": "any",
            "multipathable": "true",
        }
        assert refusal(fc.x.SR.create, *params) == ["SR_DEVICE_IN_USE"]
        assert fc.x.SR.get_uuid(sr) in fc.x.SR.probe(fc.host, {}, "hba", {})


class TestLVM:
    CONFIG = {"SCSIid": "3600f2"}

    def test_without_scsi_id_disks_and_adapters_are_listed(self, fc: Lab) -> None:
        listed = refusal(fc.x.SR.probe, fc.host, {}, "lvmohba", {})[3]
        assert "<SCSIid>3600f1</SCSIid>" in listed
        assert f"<port_name>{PORT}</port_name>" in listed

    def test_an_sr_keeps_its_disks(self, fc: Lab) -> None:
        sr = fc.x.SR.create(fc.host, self.CONFIG, "0", "x", "", "lvmohba", "user", True, {})
        vdi = fc.x.VDI.get_uuid(fc.x.VDI.create(vdi_record(sr, 100 << 20)))
        uuid = fc.x.SR.get_uuid(sr)
        (pbd,) = fc.x.SR.get_PBDs(sr)
        fc.x.PBD.unplug(pbd)
        fc.x.SR.forget(sr)
        again, _ = fc.plug(self.CONFIG, type="lvmohba", sr_uuid=uuid)
        assert [fc.x.VDI.get_uuid(ref) for ref in fc.x.SR.get_VDIs(again)] == [vdi]

    def test_a_lun_that_is_an_sr_is_in_use_and_not_listed(self, fc: Lab) -> None:
        params = [fc.host, self.CONFIG, "0", "x", "", "lvmohba", "user", True, {}]
        fc.x.SR.create(*params)
        assert refusal(fc.x.SR.create, *params) == ["SR_DEVICE_IN_USE"]
        assert "3600f2" not in refusal(fc.x.SR.probe, fc.host, {}, "lvmohba", {})[3]
