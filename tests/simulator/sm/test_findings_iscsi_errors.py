"""docs/background/recordings.md, "iSCSI errors": the answer for each cause, when probing and when plugging."""

from collections.abc import Callable, Iterator

import pytest
from lab import ADDRESS, GIB, LUNS, OTHER, OTHER_ADDRESS, TARGET, Lab, lab, refusal

LOGIN = (
    "ISCSI login failed - check access settings for the initiator on the storage, "
    "if CHAP is used verify CHAP credentials"
)
EMPTY = "10.0.0.3"
REFUSING_PORT = "3999"


@pytest.fixture
def iscsi() -> Iterator[Lab]:
    with lab() as made:
        made.san.add_portal(f"{EMPTY}:3260")
        yield made


def targets(*offered: str, port: str = "", address: str = ADDRESS) -> str:
    """Return the list of targets in errors 83 and 96."""
    entries = [
        f"\t<TGT>\n\t\t<Index>{index}</Index>\n\t\t<IPAddress>{address}</IPAddress>\n"
        + (f"\t\t<Port>{port}</Port>\n" if port else "")
        + f"\t\t<TargetIQN>{iqn}</TargetIQN>\n\t</TGT>\n"
        for index, iqn in enumerate((*offered, "*"))
    ]
    return '<?xml version="1.0" ?>\n<iscsi-target-iqns>\n' + "".join(entries) + "</iscsi-target-iqns>\n\n"


def failure(number: int, text: str, output: str = "") -> list[str]:
    return [f"SR_BACKEND_FAILURE_{number}", "", text, output]


UNFINISHED = [
    pytest.param({}, failure(95, "The request is missing the target parameter"), id="no target"),
    pytest.param(
        {"target": "", "targetIQN": TARGET},
        failure(95, "The request is missing the target parameter"),
        id="empty target",
    ),
    pytest.param(
        {"target": ADDRESS},
        failure(96, "The request is missing or has an incorrect target IQN parameter", targets(TARGET)),
        id="no targetIQN",
    ),
    pytest.param(
        {"target": ADDRESS, "targetIQN": ""},
        failure(96, "The request is missing or has an incorrect target IQN parameter", targets(TARGET)),
        id="empty targetIQN",
    ),
    *(
        pytest.param(
            {"target": ADDRESS, "targetIQN": TARGET, "port": port},
            failure(142, "Incorrect value for iSCSI port, must be a number between 1 and 65535"),
            id=f"port {port}",
        )
        for port in ("0", "abc", "70000", "-1")
    ),
    pytest.param(
        {"target": "no.such.host", "targetIQN": TARGET},
        failure(140, "Incorrect DNS name, unable to resolve."),
        id="unknown name",
    ),
    pytest.param(
        {"target": ADDRESS, "port": REFUSING_PORT},
        failure(141, "Unable to connect to ISCSI service on target"),
        id="no targetIQN, and the port refuses",
    ),
    pytest.param({"target": EMPTY}, failure(68, LOGIN), id="no targetIQN, and the portal offers none"),
]
"""Refusals before any contact with the storage; a probe gives the same answer."""


@pytest.mark.parametrize(("config", "expected"), UNFINISHED)
def test_an_incomplete_device_config_is_refused_by_a_probe(
    iscsi: Lab, config: dict[str, str], expected: list[str]
) -> None:
    assert refusal(iscsi.x.SR.probe, iscsi.host, config, "iscsi", {}) == expected


@pytest.mark.parametrize(("config", "expected"), UNFINISHED)
def test_an_incomplete_device_config_is_refused_by_a_plug_and_leaves_no_mark(
    iscsi: Lab, config: dict[str, str], expected: list[str]
) -> None:
    sr, pbd = iscsi.introduce(config)
    assert refusal(iscsi.x.PBD.plug, pbd) == expected
    assert iscsi.x.PBD.get_currently_attached(pbd) is False
    assert iscsi.x.SR.get_other_config(sr) == {}
    assert iscsi.x.message.get_all() == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(
            {"target": ADDRESS, "targetIQN": TARGET, "port": REFUSING_PORT},
            failure(141, "Unable to connect to ISCSI service on target"),
            id="the port refuses",
        ),
        pytest.param(
            {"target": "10.9.9.9", "targetIQN": TARGET},
            failure(141, "Unable to connect to ISCSI service on target"),
            id="no answer",
        ),
        pytest.param(
            {"target": EMPTY, "targetIQN": TARGET}, failure(68, LOGIN), id="no target at all, not 83"
        ),
        pytest.param(
            {"target": ADDRESS, "targetIQN": f"{TARGET}-nope"},
            failure(83, "ISCSI discovery failed [opterr=check target settings]", targets(TARGET)),
            id="unknown IQN",
        ),
        pytest.param(
            {"target": ADDRESS, "targetIQN": OTHER},
            failure(83, "ISCSI discovery failed [opterr=check target settings]", targets(TARGET)),
            id="IQN of another portal",
        ),
        pytest.param(
            {"target": ADDRESS, "targetIQN": TARGET, "SCSIid": "3600ff"},
            failure(107, "The SCSIid parameter is missing or incorrect"),
            id="SCSIid of an absent LUN",
        ),
    ],
)
def test_a_plug_that_meets_the_storage_is_refused_as_the_real_one_was_and_leaves_its_mark(
    iscsi: Lab, config: dict[str, str], expected: list[str]
) -> None:
    sr, pbd = iscsi.introduce(config)
    assert refusal(iscsi.x.PBD.plug, pbd) == expected
    assert iscsi.x.PBD.get_currently_attached(pbd) is False
    assert iscsi.x.SR.get_other_config(sr) == {"dirty": ""}


def test_a_host_without_initiator_name_is_refused(iscsi: Lab) -> None:
    iscsi.x.host.remove_from_other_config(iscsi.host, "iscsi_iqn")
    expected = failure(97, "Unable to retrieve the host configuration ISCSI IQN parameter")
    config = {"target": ADDRESS, "targetIQN": TARGET}
    assert refusal(iscsi.x.SR.probe, iscsi.host, config, "iscsi", {}) == expected
    _, pbd = iscsi.introduce(config)
    assert refusal(iscsi.x.PBD.plug, pbd) == expected


def test_a_port_other_than_3260_is_listed(iscsi: Lab) -> None:
    iscsi.san.add_portal(f"{ADDRESS}:3261", OTHER)
    refused = refusal(iscsi.x.SR.probe, iscsi.host, {"target": ADDRESS, "port": "3261"}, "iscsi", {})
    # discovery returns every portal of a target, from any portal
    listed = refused[3]
    assert f"<IPAddress>{OTHER_ADDRESS}</IPAddress>\n\t\t<TargetIQN>{OTHER}" in listed
    assert f"<IPAddress>{ADDRESS}</IPAddress>\n\t\t<Port>3261</Port>\n\t\t<TargetIQN>{OTHER}" in listed
    assert "<Port>3261</Port>\n\t\t<TargetIQN>*</TargetIQN>" in listed


class TestProbeOfACompleteConfiguration:
    @pytest.mark.parametrize(
        "config",
        [
            {"target": ADDRESS, "targetIQN": TARGET},
            {"target": ADDRESS, "targetIQN": f"{TARGET}-nope"},
            {"target": ADDRESS, "targetIQN": TARGET, "port": REFUSING_PORT},
            {"target": "10.9.9.9", "targetIQN": "*"},
        ],
    )
    def test_it_contacts_no_portal_and_so_always_succeeds(self, iscsi: Lab, config: dict[str, str]) -> None:
        found = iscsi.x.SR.probe(iscsi.host, config, "iscsi", {})
        assert found == '<?xml version="1.0" ?>\n<SRlist/>\n'
        assert iscsi.initiator.sessions == []


@pytest.mark.parametrize("extra", [{"SCSIid": "3600a1"}, {"LUNid": "1"}, {"foo": "bar"}])
def test_keys_that_seem_to_choose_a_lun_choose_none(iscsi: Lab, extra: dict[str, str]) -> None:
    sr, _ = iscsi.plug({"target": ADDRESS, "targetIQN": TARGET, **extra})
    assert sorted(iscsi.vdis(sr)) == sorted(LUNS)


def test_a_plug_that_failed_for_its_scsi_id_leaves_a_session_that_stays_open(iscsi: Lab) -> None:
    sr, pbd = iscsi.introduce({"target": ADDRESS, "targetIQN": TARGET, "SCSIid": "3600ff"})
    assert refusal(iscsi.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_107"
    iscsi.x.PBD.unplug(pbd)
    iscsi.x.SR.forget(sr)
    _, pbd = iscsi.plug()
    iscsi.x.PBD.unplug(pbd)
    assert len(iscsi.initiator.sessions) == 1


class TestInitiatorName:
    def test_any_name_but_an_empty_one_is_taken(self, iscsi: Lab) -> None:
        iscsi.x.host.set_iscsi_iqn(iscsi.host, "bogus name")
        assert iscsi.x.host.get_iscsi_iqn(iscsi.host) == "bogus name"
        assert refusal(iscsi.x.host.set_iscsi_iqn, iscsi.host, "") == ["INVALID_VALUE", "value", ""]

    def test_changed_under_a_session_it_stops_further_targets_and_nothing_else(self, iscsi: Lab) -> None:
        sr, pbd = iscsi.plug()
        iscsi.x.host.set_iscsi_iqn(iscsi.host, "iqn.2024-01.test:renamed")
        iscsi.x.SR.scan(sr)
        _, other = iscsi.introduce({"target": OTHER_ADDRESS, "targetIQN": OTHER})
        text = (
            "Failed to set ISCSI initiator "
            "[opterr=Daemon already running with target(s) attached using different IQN]"
        )
        assert refusal(iscsi.x.PBD.plug, other) == failure(70, text)
        iscsi.x.PBD.unplug(pbd)
        iscsi.x.PBD.plug(pbd)
        assert iscsi.initiator.name == "iqn.2024-01.test:renamed"

    def test_a_target_may_admit_some_names_only(self, iscsi: Lab) -> None:
        iscsi.san.targets[TARGET].initiators = {"iqn.2024-01.test:friend"}
        _, pbd = iscsi.introduce()
        assert refusal(iscsi.x.PBD.plug, pbd) == failure(68, LOGIN)
        iscsi.x.host.set_iscsi_iqn(iscsi.host, "iqn.2024-01.test:friend")
        iscsi.x.PBD.plug(pbd)


def portal_down(iscsi: Lab) -> None:
    iscsi.san.unreachable(f"{ADDRESS}:3260")


def target_removed(iscsi: Lab) -> None:
    iscsi.san.remove_target(TARGET)


@pytest.mark.parametrize("happen", [portal_down, target_removed])
def test_disks_that_do_not_answer_fail_a_scan_and_keep_their_rows(
    iscsi: Lab, happen: Callable[[Lab], None]
) -> None:
    sr, _ = iscsi.plug()
    happen(iscsi)
    text = "The SR scan failed  [opterr=Command  failed (exec failed): Operation not permitted]"
    assert refusal(iscsi.x.SR.scan, sr) == failure(40, text)
    assert sorted(iscsi.vdis(sr)) == sorted(LUNS)


class TestAddresses:
    def test_a_target_may_be_named_where_the_name_resolves(self, iscsi: Lab) -> None:
        iscsi.san.names["array.test"] = ADDRESS
        sr, pbd = iscsi.plug({"target": "array.test", "targetIQN": TARGET})
        assert sorted(iscsi.vdis(sr)) == sorted(LUNS)
        assert iscsi.x.PBD.get_device_config(pbd)["target"] == "array.test"

    def test_an_ipv6_portal_serves_as_any_other(self, iscsi: Lab) -> None:
        iscsi.san.add_portal("[fd00::1]:3260", "iqn.2024-01.test:six")
        iscsi.san.add_lun("iqn.2024-01.test:six", 0, GIB)
        refused = refusal(iscsi.x.SR.probe, iscsi.host, {"target": "fd00:0::1"}, "iscsi", {})
        assert "<IPAddress>[fd00::1]</IPAddress>" in refused[3]
        sr, _ = iscsi.plug({"target": "fd00:0::1", "targetIQN": "iqn.2024-01.test:six"})
        assert sorted(iscsi.vdis(sr)) == [0]

    def test_of_several_portals_in_target_the_first_is_taken(self, iscsi: Lab) -> None:
        sr, _ = iscsi.plug({"target": f"{ADDRESS},{OTHER_ADDRESS}", "targetIQN": TARGET})
        assert sorted(iscsi.vdis(sr)) == sorted(LUNS)


class TestSeveralPortals:
    """A target behind two portals, and a host that uses both."""

    @pytest.fixture
    def both(self, iscsi: Lab) -> Lab:
        iscsi.san.portals[f"{OTHER_ADDRESS}:3260"].targets.append(TARGET)
        return iscsi

    def test_without_multihoming_one_session_is_made(self, both: Lab) -> None:
        _, pbd = both.plug()
        assert both.x.PBD.get_other_config(pbd)["iscsi_sessions"] == "1"
        assert "multihomelist" not in both.x.PBD.get_device_config(pbd)

    def test_with_multihoming_every_portal_is_used_and_noted(self, both: Lab) -> None:
        sr, pbd = both.plug({"target": ADDRESS, "targetIQN": TARGET, "multihomed": "true"})
        assert both.x.PBD.get_other_config(pbd)["iscsi_sessions"] == "2"
        noted = both.x.PBD.get_device_config(pbd)["multihomelist"]
        assert noted == f"{ADDRESS}:3260,{OTHER_ADDRESS}:3260"
        assert sorted(both.vdis(sr)) == sorted(LUNS)

    def test_one_portal_that_is_silent_does_not_matter_then(self, both: Lab) -> None:
        both.san.unreachable(f"{OTHER_ADDRESS}:3260")
        sr, pbd = both.plug({"target": ADDRESS, "targetIQN": TARGET, "multihomed": "true"})
        assert both.x.PBD.get_other_config(pbd)["iscsi_sessions"] == "1"
        assert sorted(both.vdis(sr)) == sorted(LUNS)

    def test_a_portal_noted_earlier_serves_when_the_first_is_silent(self, both: Lab) -> None:
        sr, pbd = both.plug({"target": ADDRESS, "targetIQN": TARGET, "multihomed": "true"})
        both.x.PBD.unplug(pbd)
        both.san.unreachable(f"{ADDRESS}:3260")
        both.x.PBD.plug(pbd)
        assert [session.portal for session in both.initiator.sessions] == [f"{OTHER_ADDRESS}:3260"]
        assert sorted(both.vdis(sr)) == sorted(LUNS)
        assert both.x.message.get_all() == []

    def test_a_note_that_makes_no_sense_is_an_error_of_the_driver(self, both: Lab) -> None:
        _, pbd = both.introduce({"target": ADDRESS, "targetIQN": TARGET, "multihomelist": "nonsense"})
        assert refusal(both.x.PBD.plug, pbd)[0] == "SR_BACKEND_FAILURE_1200"

    def test_the_disks_go_on_through_the_other_portal(self, both: Lab) -> None:
        sr, _ = both.plug({"target": ADDRESS, "targetIQN": TARGET, "multihomed": "true"})
        both.san.unreachable(f"{ADDRESS}:3260")
        both.x.SR.scan(sr)
        assert sorted(both.vdis(sr)) == sorted(LUNS)

    def test_a_multipathing_host_is_multihomed_unless_told_otherwise(self, both: Lab) -> None:
        both.x.host.add_to_other_config(both.host, "multipathing", "true")
        _, pbd = both.plug()
        assert both.x.PBD.get_other_config(pbd)["iscsi_sessions"] == "2"
