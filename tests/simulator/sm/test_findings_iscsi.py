"""docs/background/recordings.md, findings on LUN-per-VDI (type iscsi): one test for each number, over the wire."""

from collections.abc import Iterator

import pytest
from lab import ADDRESS, GIB, LUNS, OTHER, OTHER_ADDRESS, TARGET, Lab, lab, lun_uuid, refusal

CONFIG = {"target": ADDRESS, "targetIQN": TARGET}
TOTAL = sum(size for _, size in LUNS.values())


@pytest.fixture
def iscsi() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.mark.parametrize("has_it", [False, True])
def test_a_host_offers_what_its_sm_has_and_may_be_without_this_type(has_it: bool) -> None:
    """SM's own tree calls the driver rawiscsi, so a host may lack ``iscsi``; its SM records tell."""
    types = ["nfs", "lvmoiscsi", *(["iscsi"] if has_it else [])]
    with lab(world={"pool": {"sm_types": types}, "hosts": [{"name": "host1"}]}) as small:
        assert ("iscsi" in small.x.SR.get_supported_types()) is has_it
        listed = {record["type"] for record in small.x.SM.get_all_records().values()}
        assert ("iscsi" in listed) is has_it
        if not has_it:
            assert refusal(small.x.SR.probe, small.host, CONFIG, "iscsi", {}) == [
                "SR_UNKNOWN_DRIVER",
                "iscsi",
            ]


def test_finding_1_a_plug_alone_introduces_every_lun_and_marks_the_sr_dirty_until_a_scan(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    assert sorted(iscsi.vdis(sr)) == [0, 1, 5]
    assert iscsi.x.SR.get_other_config(sr) == {"dirty": ""}
    iscsi.x.SR.scan(sr)
    assert iscsi.x.SR.get_other_config(sr) == {}


def test_finding_2_a_vdi_is_named_after_its_scsi_id_and_is_as_large_as_its_lun(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    record = iscsi.vdis(sr)[5]
    assert record["uuid"] == record["location"] == lun_uuid(5)
    assert record["virtual_size"] == "5368710144"
    assert record["physical_utilisation"] == "0"
    assert (record["name_label"], record["type"]) == ("", "user")
    assert (record["managed"], record["sharable"], record["read_only"]) == (True, False, False)
    assert record["sm_config"] == {"LUNid": "5", "SCSIid": "3600a5", "backend-kind": "vbd"}
    assert sorted(record["allowed_operations"]) == ["copy", "destroy", "forget"]


@pytest.mark.parametrize("content_type", ["", "user", "iso"])
@pytest.mark.parametrize("is_shared", [False, True])
def test_finding_2_what_the_sr_says_of_itself_changes_nothing_about_its_vdis(
    iscsi: Lab, content_type: str, is_shared: bool
) -> None:
    sr = iscsi.x.SR.introduce("", "sr", "", "iscsi", content_type, is_shared, {})
    iscsi.x.PBD.plug(iscsi.x.PBD.create({"host": iscsi.host, "SR": sr, "device_config": CONFIG}))
    assert sorted(iscsi.vdis(sr)) == [0, 1, 5]
    record = iscsi.vdis(sr)[1]
    assert (record["managed"], record["type"], record["sharable"]) == (True, "user", False)
    assert record["sm_config"] == {"LUNid": "1", "SCSIid": "3600a1", "backend-kind": "vbd"}


def test_finding_3_utilisation_is_twice_the_size_and_a_scan_halves_only_the_allocation(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    assert iscsi.x.SR.get_physical_size(sr) == str(TOTAL)
    assert iscsi.x.SR.get_physical_utilisation(sr) == str(2 * TOTAL)
    assert iscsi.x.SR.get_virtual_allocation(sr) == str(2 * TOTAL)
    iscsi.x.SR.scan(sr)
    assert iscsi.x.SR.get_physical_utilisation(sr) == str(2 * TOTAL)
    assert iscsi.x.SR.get_virtual_allocation(sr) == str(TOTAL)


def test_finding_4_a_plug_counts_sessions_in_the_pbd_and_an_unplug_takes_that_away(iscsi: Lab) -> None:
    _, pbd = iscsi.plug()
    assert iscsi.x.PBD.get_other_config(pbd)["iscsi_sessions"] == "1"
    assert "storage_driver_domain" in iscsi.x.PBD.get_other_config(pbd)
    iscsi.x.PBD.unplug(pbd)
    assert list(iscsi.x.PBD.get_other_config(pbd)) == ["storage_driver_domain"]
    assert iscsi.x.PBD.get_device_config(pbd) == CONFIG


def test_finding_5_rows_outlive_the_pbd_and_go_with_a_forget_and_come_back_without_names(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug(sr_uuid="11111111-0000-4000-8000-000000000001")
    vdi = iscsi.vdis(sr)[1]["ref"]
    iscsi.x.VDI.set_name_label(vdi, "named")
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.destroy(pbd)
    assert iscsi.vdis(sr)[1]["ref"] == vdi
    assert iscsi.x.VDI.get_name_label(vdi) == "named"
    iscsi.x.SR.forget(sr)
    assert refusal(iscsi.x.VDI.get_record, vdi) == ["HANDLE_INVALID", "VDI", vdi]
    again, _ = iscsi.plug(sr_uuid="11111111-0000-4000-8000-000000000001")
    record = iscsi.vdis(again)[1]
    assert record["uuid"] == lun_uuid(1)
    assert record["ref"] != vdi
    assert record["name_label"] == ""


def test_finding_6_a_scan_and_a_replug_keep_what_callers_wrote(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug()
    vdi = iscsi.vdis(sr)[1]["ref"]
    iscsi.x.VDI.set_name_label(vdi, "named")
    iscsi.x.VDI.add_to_other_config(vdi, "k", "v")
    iscsi.x.VDI.add_to_sm_config(vdi, "mine", "w")
    iscsi.x.VDI.add_tags(vdi, "tag")
    iscsi.x.SR.scan(sr)
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.plug(pbd)
    record = iscsi.vdis(sr)[1]
    assert (record["ref"], record["name_label"], record["tags"]) == (vdi, "named", ["tag"])
    assert record["other_config"] == {"k": "v"}
    assert record["sm_config"] == {"mine": "w", "LUNid": "1", "SCSIid": "3600a1", "backend-kind": "vbd"}


def test_finding_6_the_events_of_a_plug_are_added_vdis_and_a_changed_sr_and_pbd(iscsi: Lab) -> None:
    sr, pbd = iscsi.introduce()
    token = iscsi.x.event_from(["vdi", "sr", "pbd"], "", 1.0)["token"]
    iscsi.x.PBD.plug(pbd)
    events = iscsi.x.event_from(["vdi", "sr", "pbd"], token, 1.0)["events"]
    seen = {(event["class"], event["operation"], event["ref"]) for event in events}
    added = {("vdi", "add", record["ref"]) for record in iscsi.vdis(sr).values()}
    assert seen == {*added, ("sr", "mod", sr), ("pbd", "mod", pbd)}


def test_finding_7_a_new_lun_appears_with_a_scan_only(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    iscsi.san.add_lun(TARGET, 2, 4 * GIB)
    assert 2 not in iscsi.vdis(sr)
    iscsi.x.SR.scan(sr)
    assert iscsi.vdis(sr)[2]["virtual_size"] == str(4 * GIB)


def test_finding_7_a_scan_drops_the_row_of_a_lun_that_is_gone(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    iscsi.san.remove_lun(TARGET, 5)
    assert 5 in iscsi.vdis(sr)
    iscsi.x.SR.scan(sr)
    assert sorted(iscsi.vdis(sr)) == [0, 1]


def test_finding_7_a_number_that_is_another_volume_gets_another_row_in_one_scan(iscsi: Lab) -> None:
    sr, _ = iscsi.plug()
    old = iscsi.vdis(sr)[1]["ref"]
    iscsi.san.replace_lun(TARGET, 1, 3 * GIB, scsi_id="3600ff")
    iscsi.x.SR.scan(sr)
    record = iscsi.vdis(sr)[1]
    assert refusal(iscsi.x.VDI.get_uuid, old) == ["HANDLE_INVALID", "VDI", old]
    assert (record["virtual_size"], record["sm_config"]["SCSIid"]) == (str(3 * GIB), "3600ff")


def test_finding_7_a_grown_lun_is_seen_only_after_a_log_out(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug()
    vdi = iscsi.vdis(sr)[1]["ref"]
    iscsi.san.resize_lun(TARGET, 1, 3 * GIB)
    iscsi.x.SR.scan(sr)
    iscsi.x.SR.update(sr)
    assert iscsi.x.VDI.get_virtual_size(vdi) == str(2 * GIB)
    iscsi.initiator.take(TARGET, "another SR")  # so that the session stays
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.plug(pbd)
    assert iscsi.x.VDI.get_virtual_size(vdi) == str(2 * GIB)
    iscsi.initiator.release(TARGET, "another SR")
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.plug(pbd)
    assert iscsi.x.VDI.get_virtual_size(vdi) == str(3 * GIB)


def test_finding_8_a_scan_drops_the_row_of_a_plugged_disk_and_all_falls_over_until_the_collector_runs(
    iscsi: Lab,
) -> None:
    sr, pbd = iscsi.plug()
    other_sr, other_pbd = iscsi.plug({"target": OTHER_ADDRESS, "targetIQN": OTHER})
    assert sorted(iscsi.vdis(other_sr)) == [1]
    vdi = iscsi.vdis(sr)[1]["ref"]
    with iscsi.simulator.xapi.lock:
        vm = iscsi.simulator.add_vm("guest", power_state="Running", disks=[vdi])
    (vbd,) = iscsi.x.VM.get_VBDs(vm)
    iscsi.san.remove_lun(TARGET, 1)
    iscsi.x.SR.scan(sr)
    gone = ["HANDLE_INVALID", "VDI", vdi]
    assert refusal(iscsi.x.VDI.get_record, vdi) == gone
    assert iscsi.x.VBD.get_currently_attached(vbd) is True
    assert refusal(iscsi.x.VBD.unplug, vbd) == gone
    text = f"VBD '{iscsi.x.VBD.get_uuid(vbd)}' still attached to '{iscsi.x.VM.get_uuid(vm)}'"
    assert refusal(iscsi.x.VBD.destroy, vbd) == ["OPERATION_NOT_ALLOWED", text]
    assert refusal(iscsi.x.PBD.unplug, pbd) == gone
    assert refusal(iscsi.x.PBD.unplug, other_pbd) == gone
    assert refusal(iscsi.x.VM.hard_shutdown, vm) == gone
    iscsi.collect()
    assert iscsi.x.VM.get_VBDs(vm) == []
    iscsi.x.PBD.unplug(other_pbd)
    iscsi.x.PBD.unplug(pbd)


class TestFinding9:
    """VDI.introduce."""

    def test_it_brings_in_one_lun_without_a_scan_and_returns_another_uuid_than_was_asked_for(
        self, iscsi: Lab
    ) -> None:
        sr, _ = iscsi.plug()
        iscsi.san.add_lun(TARGET, 7, GIB, scsi_id="3600a7")
        vdi = iscsi.by_introduce(sr, {"LUNid": "7"})
        record = iscsi.vdis(sr)[7]
        assert record["ref"] == vdi
        assert record["uuid"] == record["location"] != "22222222-0000-4000-8000-000000000007"
        assert record["sm_config"] == {"LUNid": "7", "SCSIid": "3600a7", "backend-kind": "vbd"}
        assert (record["name_label"], record["other_config"]) == ("name", {"k": "v"})
        assert record["read_only"] is False

    def test_it_may_be_repeated_and_renames_a_row_that_is_there(self, iscsi: Lab) -> None:
        sr, _ = iscsi.plug()
        vdi = iscsi.vdis(sr)[1]["ref"]
        assert iscsi.by_introduce(sr, {"LUNid": "1"}) == vdi
        assert iscsi.by_introduce(sr, {"LUNid": "1"}) == vdi
        assert iscsi.x.VDI.get_name_label(vdi) == "name"

    def test_a_row_that_is_there_takes_all_that_the_caller_says_but_that_it_is_read_only(
        self, iscsi: Lab
    ) -> None:
        """Trace 20b#36-37."""
        sr, _ = iscsi.plug()
        before = iscsi.vdis(sr)[1]
        wanted = ("", "name", "text", sr, "user", True, True, {"k": "v"}, "anywhere", {}, {"LUNid": "1"})
        assert iscsi.x.VDI.introduce(*wanted) == before["ref"]
        after = iscsi.vdis(sr)[1]
        assert (after["name_label"], after["name_description"]) == ("name", "text")
        assert (after["sharable"], after["read_only"]) == (True, False)
        assert after["other_config"] == {"k": "v"}

    def test_a_number_that_is_another_volume_meanwhile_brings_in_that_one(self, iscsi: Lab) -> None:
        """Not recorded: libs/sm/BaseISCSI.py, _attach_LUN_bylunid, compares the SCSI ids.

        The old row stays.
        """
        sr, _ = iscsi.plug()
        old = iscsi.vdis(sr)[1]["ref"]
        iscsi.san.replace_lun(TARGET, 1, 3 * GIB, scsi_id="3600ff")
        vdi = iscsi.by_introduce(sr, {"LUNid": "1"})
        assert iscsi.x.VDI.get_sm_config(vdi)["SCSIid"] == "3600ff"
        assert iscsi.x.VDI.get_virtual_size(vdi) == str(3 * GIB)
        assert iscsi.x.VDI.get_uuid(old) == lun_uuid(1)

    def test_the_location_of_another_row_is_refused(self, iscsi: Lab) -> None:
        sr, _ = iscsi.plug()
        refused = refusal(lambda: iscsi.by_introduce(sr, {"LUNid": "0"}, location=lun_uuid(0)))
        assert refused == ["LOCATION_NOT_UNIQUE", sr, lun_uuid(0)]

    @pytest.mark.parametrize("sm_config", [{}, {"SCSIid": "3600a1"}, {"LUNid": "x"}, {"LUNid": "9"}])
    def test_without_the_number_of_a_lun_that_is_there_it_is_an_internal_error(
        self, iscsi: Lab, sm_config: dict[str, str]
    ) -> None:
        sr, _ = iscsi.plug()
        refused = refusal(lambda: iscsi.by_introduce(sr, sm_config, location="loc"))
        assert refused == ["INTERNAL_ERROR", "Storage_error ([S(Vdi_does_not_exist);S(loc)])"]


class TestFinding10:
    """What a LUN-per-VDI SR does not do."""

    def test_nothing_can_be_created(self, iscsi: Lab) -> None:
        sr, _ = iscsi.plug()
        record = {
            "name_label": "x",
            "SR": sr,
            "virtual_size": "1",
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
        no_space = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
        assert refusal(iscsi.x.VDI.create, record) == no_space
        vdi = iscsi.vdis(sr)[1]["ref"]
        assert refusal(iscsi.x.VDI.copy, vdi, sr) == no_space
        iscsi.x.VDI.destroy(vdi)
        assert refusal(iscsi.x.VDI.create, record) == no_space

    @pytest.mark.parametrize("message", ["destroy", "forget"])
    def test_destroying_or_forgetting_deletes_the_row_and_a_scan_brings_it_back_nameless(
        self, iscsi: Lab, message: str
    ) -> None:
        sr, _ = iscsi.plug()
        vdi = iscsi.vdis(sr)[1]["ref"]
        iscsi.x.VDI.set_name_label(vdi, "named")
        getattr(iscsi.x.VDI, message)(vdi)
        assert sorted(iscsi.vdis(sr)) == [0, 5]
        iscsi.x.SR.scan(sr)
        record = iscsi.vdis(sr)[1]
        assert (record["uuid"], record["managed"], record["name_label"]) == (lun_uuid(1), True, "")

    @pytest.mark.parametrize(
        ("message", "params"),
        [
            ("resize", [str(9 * GIB)]),
            ("snapshot", [{}]),
            ("clone", [{}]),
            ("enable_cbt", []),
            ("update", []),
            ("set_on_boot", ["reset"]),
        ],
    )
    def test_what_needs_a_feature_is_not_supported(
        self, iscsi: Lab, message: str, params: list[object]
    ) -> None:
        sr, _ = iscsi.plug()
        vdi = iscsi.vdis(sr)[1]["ref"]
        call = getattr(iscsi.x.VDI, message)
        assert refusal(call, vdi, *params) == ["SR_OPERATION_NOT_SUPPORTED", sr]


def test_finding_11_a_target_without_luns_can_be_plugged_and_scanned(iscsi: Lab) -> None:
    for number in LUNS:
        iscsi.san.remove_lun(TARGET, number)
    sr, _ = iscsi.plug()
    iscsi.x.SR.scan(sr)
    assert iscsi.vdis(sr) == {}


def test_finding_11_a_lost_session_is_repaired_by_unplugging_and_plugging_only(iscsi: Lab) -> None:
    sr, pbd = iscsi.plug()
    iscsi.initiator.logout(TARGET)
    lost = ["SR_BACKEND_FAILURE_47", "", "The SR is not available", ""]
    assert refusal(iscsi.x.SR.scan, sr) == lost
    iscsi.x.PBD.plug(pbd)
    assert iscsi.initiator.sessions == []
    assert refusal(iscsi.x.SR.scan, sr) == lost
    assert sorted(iscsi.vdis(sr)) == [0, 1, 5]
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.PBD.plug(pbd)
    iscsi.x.SR.scan(sr)


class TestFinding12:
    """Two SRs on one target."""

    REFUSED = "Db_exn.Uniqueness_constraint_violation"

    def test_the_second_plug_succeeds_without_vdis_and_leaves_a_message(self, iscsi: Lab) -> None:
        iscsi.plug()
        sr, _ = iscsi.plug()
        assert iscsi.vdis(sr) == {}
        (message,) = iscsi.x.message.get_all_records().values()
        uuid = iscsi.x.SR.get_uuid(sr)
        assert (message["name"], message["priority"], message["cls"]) == (
            "POST_ATTACH_SCAN_FAILED",
            "2",
            "SR",
        )
        assert message["obj_uuid"] == uuid
        assert message["body"].startswith(
            f"Failed to scan SR {uuid} after attaching, error ['INTERNAL_ERROR',"
        )
        assert self.REFUSED in message["body"]

    def test_the_second_can_never_be_scanned_and_the_first_is_unharmed(self, iscsi: Lab) -> None:
        first, _ = iscsi.plug()
        second, _ = iscsi.plug()
        iscsi.san.add_lun(TARGET, 7, GIB)
        code, _, text, _ = refusal(iscsi.x.SR.scan, second)
        assert code == "SR_BACKEND_FAILURE_40"
        assert text.startswith("The SR scan failed  [opterr=['INTERNAL_ERROR', '" + self.REFUSED)
        assert iscsi.vdis(second) == {}
        iscsi.x.SR.scan(first)
        assert sorted(iscsi.vdis(first)) == [0, 1, 5, 7]

    def test_one_lun_that_collides_is_enough(self, iscsi: Lab) -> None:
        iscsi.plug()
        iscsi.san.add_lun(OTHER, 0, LUNS[0][1], scsi_id=LUNS[0][0])
        sr, _ = iscsi.plug({"target": OTHER_ADDRESS, "targetIQN": OTHER})
        assert iscsi.vdis(sr) == {}
        assert refusal(iscsi.x.SR.scan, sr)[0] == "SR_BACKEND_FAILURE_40"

    def test_a_lun_cannot_be_introduced_into_the_second(self, iscsi: Lab) -> None:
        first, _ = iscsi.plug()
        second, _ = iscsi.plug()
        refused = refusal(lambda: iscsi.by_introduce(second, {"LUNid": "1"}, location="loc"))
        assert refused == ["INTERNAL_ERROR", "Storage_error ([S(Vdi_does_not_exist);S(loc)])"]
        assert iscsi.vdis(first)[1]["name_label"] == ""

    def test_an_sr_cannot_be_created_on_the_target_of_another(self, iscsi: Lab) -> None:
        iscsi.plug()
        params = [iscsi.host, CONFIG, "0", "new", "", "iscsi", "", True, {}]
        code, _, text, _ = refusal(iscsi.x.SR.create, *params)
        assert code == "SR_BACKEND_FAILURE_202"
        assert text.startswith("General backend error [opterr=['INTERNAL_ERROR', '" + self.REFUSED)
        assert iscsi.x.SR.get_by_name_label("new") == []

    def test_the_second_recovers_when_the_first_is_forgotten_and_not_before(self, iscsi: Lab) -> None:
        first, pbd = iscsi.plug()
        second, _ = iscsi.plug()
        iscsi.x.PBD.unplug(pbd)
        assert refusal(iscsi.x.SR.scan, second)[0] == "SR_BACKEND_FAILURE_40"
        iscsi.x.SR.forget(first)
        iscsi.x.SR.scan(second)
        assert sorted(iscsi.vdis(second)) == [0, 1, 5]

    def test_who_unplugs_last_logs_out(self, iscsi: Lab) -> None:
        _, first = iscsi.plug()
        _, second = iscsi.plug()
        iscsi.x.PBD.unplug(first)
        assert len(iscsi.initiator.sessions) == 1
        iscsi.x.PBD.unplug(second)
        assert iscsi.initiator.sessions == []
        assert iscsi.initiator.records == []

    def test_two_numbers_of_one_volume_are_one_vdi_with_the_later_number(self, iscsi: Lab) -> None:
        iscsi.san.add_lun(TARGET, 6, LUNS[0][1], scsi_id=LUNS[0][0])
        sr, _ = iscsi.plug()
        assert sorted(iscsi.vdis(sr)) == [1, 5, 6]
        assert iscsi.vdis(sr)[6]["uuid"] == lun_uuid(0)
        iscsi.san.remove_lun(TARGET, 6)
        iscsi.x.SR.scan(sr)
        assert sorted(iscsi.vdis(sr)) == [0, 1, 5]


class TestFinding13:
    """SR.create and SR.probe."""

    def create(self, iscsi: Lab, **sm_config: str) -> str:
        return str(iscsi.x.SR.create(iscsi.host, CONFIG, "0", "new", "", "iscsi", "", True, sm_config))

    def test_create_writes_the_target_into_sm_config(self, iscsi: Lab) -> None:
        assert iscsi.x.SR.get_sm_config(self.create(iscsi)) == {
            "disktype": "Raw",
            "datatype": "ISCSI",
            "target": ADDRESS,
            "targetIQN": TARGET,
            "multipathable": "true",
        }

    def test_a_second_create_on_the_target_is_refused(self, iscsi: Lab) -> None:
        self.create(iscsi)
        assert refusal(lambda: self.create(iscsi)) == ["SR_DEVICE_IN_USE"]

    def test_a_probe_lists_created_srs_and_contacts_no_portal(self, iscsi: Lab) -> None:
        created = iscsi.x.SR.get_uuid(self.create(iscsi))
        iscsi.san.unreachable(f"{ADDRESS}:3260")
        found = iscsi.x.SR.probe(iscsi.host, CONFIG, "iscsi", {})
        assert found == (
            '<?xml version="1.0" ?>\n<SRlist>\n\t<SR>\n'
            f"\t\t<UUID>{created}</UUID>\n\t\t<Target>{ADDRESS}</Target>\n\t\t<TargetIQN>{TARGET}</TargetIQN>\n"
            "\t</SR>\n</SRlist>\n"
        )

    def test_a_probe_lists_an_introduced_sr_only_if_its_sm_config_names_the_target(self, iscsi: Lab) -> None:
        iscsi.plug()
        assert iscsi.x.SR.probe(iscsi.host, CONFIG, "iscsi", {}) == '<?xml version="1.0" ?>\n<SRlist/>\n'
        sr, _ = iscsi.introduce(target=ADDRESS, targetIQN=TARGET)
        assert iscsi.x.SR.get_uuid(sr) in iscsi.x.SR.probe(iscsi.host, CONFIG, "iscsi", {})

    def test_destroy_needs_an_sr_without_rows(self, iscsi: Lab) -> None:
        sr = self.create(iscsi)
        (pbd,) = iscsi.x.SR.get_PBDs(sr)
        iscsi.x.PBD.unplug(pbd)
        assert refusal(iscsi.x.SR.destroy, sr) == ["SR_NOT_EMPTY"]
        iscsi.x.PBD.plug(pbd)
        for record in iscsi.vdis(sr).values():
            iscsi.x.VDI.destroy(record["ref"])
        iscsi.x.PBD.unplug(pbd)
        iscsi.x.SR.destroy(sr)
        assert iscsi.x.SR.get_all() == []
        assert iscsi.san.targets[TARGET].luns.keys() == LUNS.keys()
