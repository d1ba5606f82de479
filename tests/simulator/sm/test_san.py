"""Arrays, and what a host's initiator sees of them."""

from pathlib import Path

import pytest

from xenvol.simulator.sm import sanfile
from xenvol.simulator.sm.initiator import HBA, Initiator, LoginRefused, OtherInitiatorName
from xenvol.simulator.sm.san import San, Target, parse_portal
from xenvol.simulator.sm.world import World
from xenvol.simulator.sm.worldfile import WorldError

MIB = 1 << 20
IQN = "iqn.2024-01.test:disks"
HOST = "iqn.2024-01.test:host"
SR = "11111111-0000-4000-8000-000000000001"
VDI = "22222222-0000-4000-8000-000000000001"
PORTAL = "10.0.0.1:3260"


@pytest.fixture
def san(tmp_path: Path) -> San:
    san = San(tmp_path)
    san.add_portal(PORTAL, IQN)
    san.add_lun(IQN, 0, MIB, scsi_id="3aaa")
    san.add_lun(IQN, 5, 2 * MIB, scsi_id="3bbb")
    return san


@pytest.fixture
def initiator(san: San) -> Initiator:
    initiator = Initiator()
    initiator.start(HOST)
    initiator.login(san, PORTAL, IQN, None, None)
    return initiator


def seen(initiator: Initiator) -> dict[int, tuple[str, int]]:
    return {disk.number: (disk.scsi_id, disk.size) for disk in initiator.disks()}


class TestArrays:
    def test_a_volume_has_a_sparse_file_of_its_size(self, san: San) -> None:
        volume = san.add_lun(IQN, 7, 1 << 40)
        assert volume.path.stat().st_size == 1 << 40
        assert volume.path.stat().st_blocks == 0

    def test_a_lun_that_is_not_read_costs_no_file(self, san: San) -> None:
        san.add_lun(IQN, 7, MIB)
        assert list(san.directory.iterdir()) == []

    def test_the_same_target_and_number_always_get_the_same_made_up_scsi_id(self, san: San) -> None:
        first = san.add_lun(IQN, 7, MIB).scsi_id
        san.remove_lun(IQN, 7)
        assert san.add_lun(IQN, 7, MIB).scsi_id == first
        assert san.add_lun(IQN, 8, MIB).scsi_id != first

    def test_one_scsi_id_is_one_volume_wherever_it_is_shown(self, san: San) -> None:
        other = san.add_target("iqn.2024-01.test:other", "10.0.0.2:3260")
        san.add_lun(other.name, 3, MIB, scsi_id="3aaa")
        assert other.luns[3] is san.targets[IQN].luns[0]

    def test_a_removed_lun_comes_back_with_its_bytes(self, san: San) -> None:
        san.remove_lun(IQN, 0).path.write_bytes(b"data")
        assert san.add_lun(IQN, 3, MIB, scsi_id="3aaa").path.read_bytes()[:4] == b"data"

    def test_resizing_changes_the_file_and_keeps_its_bytes(self, san: San) -> None:
        path = san.targets[IQN].luns[0].path
        path.write_bytes(b"data")
        san.resize_lun(IQN, 0, 4 * MIB)
        assert path.stat().st_size == 4 * MIB
        assert path.read_bytes()[:4] == b"data"

    def test_a_removed_target_is_offered_nowhere(self, san: San) -> None:
        san.remove_target(IQN)
        assert san.portals[PORTAL].targets == []

    @pytest.mark.parametrize(
        ("written", "meant"),
        [
            ("10.0.0.1", ("10.0.0.1", 3260)),
            ("10.0.0.1:3261", ("10.0.0.1", 3261)),
            ("[fd00:0::1]:860", ("fd00::1", 860)),
            ("fd00::1", ("fd00::1", 3260)),
        ],
    )
    def test_portals_have_one_spelling(self, written: str, meant: tuple[str, int]) -> None:
        assert parse_portal(written) == meant

    def test_a_target_that_is_not_there_is_named_with_those_that_are(self, san: San) -> None:
        with pytest.raises(WorldError, match=IQN):
            san.add_lun("iqn.nope", 0, MIB)

    @pytest.mark.parametrize(
        ("address", "port", "answer"),
        [
            ("10.0.0.1", 3260, "answers"),
            ("10.0.0.1", 3999, "refuses"),
            ("10.9.9.9", 3260, "silent"),
        ],
    )
    def test_a_known_address_refuses_on_other_ports_and_an_unknown_one_is_silent(
        self, san: San, address: str, port: int, answer: str
    ) -> None:
        assert san.knock(address, port) == answer


class TestHostGroups:
    """An array shows each initiator the LUNs of its own map, under numbers of its own."""

    def test_an_initiator_with_a_map_sees_that_and_nothing_else(self, san: San, initiator: Initiator) -> None:
        san.map_lun(IQN, HOST, 1, "3bbb")
        initiator.sessions[0].rescan(san)
        assert seen(initiator) == {1: ("3bbb", 2 * MIB)}
        san.map_lun(IQN, HOST, 2, "3aaa")
        san.unmap_lun(IQN, HOST, 1)
        initiator.sessions[0].rescan(san)
        assert seen(initiator) == {2: ("3aaa", MIB)}

    def test_an_initiator_without_a_map_sees_every_lun(self, san: San, initiator: Initiator) -> None:
        san.map_lun(IQN, "iqn.2024-01.test:other-host", 1, "3bbb")
        initiator.sessions[0].rescan(san)
        assert seen(initiator) == {0: ("3aaa", MIB), 5: ("3bbb", 2 * MIB)}

    def test_the_ports_of_an_array_have_maps_by_wwpn(self, san: San) -> None:
        wwpn, port = "2100000000000001", "5000000000000001"
        san.fc_targets[port] = Target(port, initiators={wwpn})
        san.add_lun(port, 0, MIB, scsi_id="3aaa")
        san.map_lun(port, wwpn, 7, "3bbb")
        assert [(disk.number, disk.scsi_id) for disk in HBA(wwpn, "2000000000000001").visible(san)] == [
            (7, "3bbb")
        ]


class TestInitiator:
    def test_a_login_shows_all_luns(self, initiator: Initiator) -> None:
        assert seen(initiator) == {0: ("3aaa", MIB), 5: ("3bbb", 2 * MIB)}

    def test_a_new_lun_is_seen_after_a_rescan(self, san: San, initiator: Initiator) -> None:
        san.add_lun(IQN, 7, MIB, scsi_id="3ccc")
        assert 7 not in seen(initiator)
        initiator.sessions[0].rescan(san)
        assert seen(initiator)[7] == ("3ccc", MIB)

    def test_a_rescan_drops_a_lun_that_is_gone(self, san: San, initiator: Initiator) -> None:
        san.remove_lun(IQN, 0)
        assert not initiator.sessions[0].reads(san, initiator.disks()[0])
        initiator.sessions[0].rescan(san)
        assert list(seen(initiator)) == [5]

    def test_a_rescan_sees_that_a_number_is_another_volume(self, san: San, initiator: Initiator) -> None:
        san.replace_lun(IQN, 0, 3 * MIB, scsi_id="3ddd")
        initiator.sessions[0].rescan(san)
        assert seen(initiator)[0] == ("3ddd", 3 * MIB)

    def test_a_grown_lun_keeps_its_old_size_until_the_next_login(
        self, san: San, initiator: Initiator
    ) -> None:
        san.resize_lun(IQN, 0, 8 * MIB)
        initiator.sessions[0].rescan(san)
        assert seen(initiator)[0] == ("3aaa", MIB)
        initiator.logout(IQN)
        initiator.login(san, PORTAL, IQN, None, None)
        assert seen(initiator)[0] == ("3aaa", 8 * MIB)

    def test_one_number_can_be_looked_at_alone(self, san: San, initiator: Initiator) -> None:
        san.add_lun(IQN, 7, MIB, scsi_id="3ccc")
        san.remove_lun(IQN, 5)
        assert initiator.sessions[0].add(san, 7)
        assert not initiator.sessions[0].add(san, 9)
        assert list(seen(initiator)) == [0, 5, 7]

    def test_nothing_is_learnt_through_a_portal_that_does_not_answer(
        self, san: San, initiator: Initiator
    ) -> None:
        san.unreachable(PORTAL)
        san.remove_lun(IQN, 0)
        initiator.sessions[0].rescan(san)
        assert list(seen(initiator)) == [0, 5]
        assert not any(initiator.sessions[0].reads(san, disk) for disk in initiator.disks())
        san.reachable(PORTAL)
        assert [initiator.sessions[0].reads(san, disk) for disk in initiator.disks()] == [False, True]

    def test_discovery_gives_every_portal_of_a_target(self, san: San) -> None:
        san.add_portal("10.0.0.2:3260", IQN)
        found = Initiator().discover(san, "10.0.0.1", 3260, None)
        assert [(portal.key, iqn) for portal, iqn in found] == [(PORTAL, IQN), ("10.0.0.2:3260", IQN)]

    def test_a_portal_without_targets_fails_discovery(self, san: San) -> None:
        san.add_portal("10.0.0.3:3260")
        with pytest.raises(LoginRefused):
            Initiator().discover(san, "10.0.0.3", 3260, None)

    def test_discovery_wants_the_portals_own_credentials(self, san: San) -> None:
        san.portals[PORTAL].discovery_chap = ("user", "right")
        with pytest.raises(LoginRefused):
            Initiator().discover(san, "10.0.0.1", 3260, ("user", "wrong"))
        assert Initiator().discover(san, "10.0.0.1", 3260, ("user", "right"))

    @pytest.mark.parametrize("given", [None, ("user", "wrong"), ("nobody", "right")])
    def test_a_target_with_chap_refuses_others(self, san: San, given: tuple[str, str] | None) -> None:
        san.targets[IQN].chap = ("user", "right")
        with pytest.raises(LoginRefused):
            Initiator().login(san, PORTAL, IQN, given, None)

    def test_credentials_that_the_target_did_not_ask_for_do_no_harm(self, san: San) -> None:
        assert Initiator().login(san, PORTAL, IQN, ("user", "any"), None).disks

    def test_a_target_must_prove_itself_when_it_is_asked(self, san: San) -> None:
        san.targets[IQN].mutual_chap = ("target", "secret")
        assert Initiator().login(san, PORTAL, IQN, None, ("target", "secret"))
        with pytest.raises(LoginRefused):
            Initiator().login(san, PORTAL, IQN, None, ("target", "other"))

    def test_a_target_admits_the_initiators_on_its_list(self, san: San) -> None:
        san.targets[IQN].initiators = {HOST}
        initiator = Initiator()
        with pytest.raises(LoginRefused):
            initiator.login(san, PORTAL, IQN, None, None)
        initiator.start(HOST)
        assert initiator.login(san, PORTAL, IQN, None, None)

    def test_the_name_cannot_change_while_there_is_a_session(self, san: San, initiator: Initiator) -> None:
        initiator.start(HOST)
        with pytest.raises(OtherInitiatorName):
            initiator.start("iqn.2024-01.test:other")
        initiator.logout(IQN)
        initiator.start("iqn.2024-01.test:other")
        assert initiator.records == []

    def test_the_repr_tells_the_sessions(self, initiator: Initiator) -> None:
        assert repr(initiator) == f"<Initiator {HOST}: {PORTAL} {IQN}>"
        assert repr(Initiator()) == "<Initiator not started: no session>"


def test_an_adapter_sees_the_luns_that_are_zoned_to_it(san: San) -> None:
    sanfile.load(
        san,
        {
            "fc_targets": {
                "50:06:01": {"luns": {"0": {"size": MIB}}},
                "50:06:02": {"luns": {"3": {"size": MIB}}, "initiators": ["21:00:aa"]},
            }
        },
    )
    assert [disk.number for disk in HBA("21:00:aa").visible(san)] == [0, 3]
    assert [disk.number for disk in HBA("21:00:bb").visible(san)] == [0]


class TestWorldFiles:
    EVERYTHING = {
        "san": {
            "portals": {
                "10.0.0.1:3260": {"targets": [IQN], "state": "answers", "discovery_chap": ["d", "p"]},
                "[fd00::1]:3261": {"targets": [IQN], "state": "silent"},
            },
            "targets": {
                IQN: {
                    "luns": {
                        "0": {"size": MIB, "scsi_id": "3aaa", "vendor": "ACME", "serial": "S1"},
                        "1": {
                            "size": 1 << 30,
                            "scsi_id": "3bbb",
                            "vendor": "V",
                            "serial": "S2",
                            "content": {"type": "lvm", "sr": SR, "disks": {VDI: {"size": 8 * MIB}}},
                        },
                    },
                    "chap": ["u", "p"],
                    "mutual_chap": ["t", "q"],
                    "initiators": [HOST],
                    "maps": {
                        HOST: {"0": "3bbb", "7": "3b"},
                        "iqn.2024-01.test:other": {
                            "0": {"size": MIB, "scsi_id": "3ccc", "vendor": "V", "serial": ""}
                        },
                        "iqn.2024-01.test:nothing": {},
                    },
                }
            },
            "fc_targets": {
                "50:06:01": {
                    "luns": {"4": {"size": MIB, "scsi_id": "3b", "vendor": "V", "serial": ""}},
                    "maps": {"21:00:aa": {"1": "3aaa"}},
                }
            },
            "arrays": {"10.0.1.1": {"type": "netapp", "login": ["admin", "p"], "pools": {"aggr0": MIB}}},
            "names": {"localhost": "127.0.0.1", "array": "10.0.0.1"},
        },
        "hosts": {"host1": {"hbas": [{"wwpn": "21:00:aa", "wwnn": "20:00:aa", "type": "FC"}]}},
    }

    def test_what_is_written_is_what_was_read(self, tmp_path: Path) -> None:
        written = World.from_dict(self.EVERYTHING, tmp_path).as_dict()
        assert {key: written[key] for key in self.EVERYTHING} == self.EVERYTHING

    def test_a_map_is_what_its_initiator_sees_and_all_that_it_sees(self, tmp_path: Path) -> None:
        san = World.from_dict(self.EVERYTHING, tmp_path).san
        target = san.target(IQN)
        assert {n: lun.scsi_id for n, lun in target.luns_of(HOST).items()} == {0: "3bbb", 7: "3b"}
        assert target.luns_of("iqn.2024-01.test:nothing") == {}
        assert {n: lun.scsi_id for n, lun in target.luns_of("another").items()} == {0: "3aaa", 1: "3bbb"}
        assert {n: lun.scsi_id for n, lun in san.target("50:06:01").luns_of("21:00:aa").items()} == {
            1: "3aaa"
        }

    def test_a_volume_of_a_map_alone_has_a_made_up_id_that_stays_the_same(self, san: San) -> None:
        values = {"targets": {IQN: {"maps": {HOST: {"5": {"size": "1 MiB"}}}}}}
        sanfile.load(san, values)
        (first,) = san.target(IQN).luns_of(HOST).values()
        sanfile.load(san, values)
        assert san.target(IQN).luns_of(HOST) == {5: first}

    def test_a_portal_may_be_just_a_list_of_targets(self, san: San) -> None:
        sanfile.load(san, {"portals": {"10.0.0.9:3260": ["iqn.new"]}})
        assert san.portals["10.0.0.9:3260"].targets == ["iqn.new"]
        assert san.targets["iqn.new"].luns == {}

    def test_sizes_may_have_units(self, san: San) -> None:
        sanfile.load(san, {"targets": {IQN: {"luns": {"9": {"size": "1.5 GiB"}}}}})
        assert san.targets[IQN].luns[9].size == 3 << 29

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"lunz": {}}, "san.lunz"),
            ({"targets": {IQN: {"luns": {"x": {"size": 1}}}}}, f"san.targets.{IQN}.luns.x"),
            ({"targets": {IQN: {"luns": {"1": {}}}}}, f"san.targets.{IQN}.luns.1.size"),
            ({"targets": {IQN: {"luns": {"1": {"size": "big"}}}}}, f"san.targets.{IQN}.luns.1.size"),
            ({"targets": {IQN: {"chap": ["only-user"]}}}, f"san.targets.{IQN}.chap"),
            ({"targets": {IQN: {"maps": {HOST: {"0": "unknown"}}}}}, "no volume has the SCSI id 'unknown'"),
            ({"targets": {IQN: {"maps": {HOST: {"x": "3aaa"}}}}}, f"san.targets.{IQN}.maps.{HOST}.x"),
            ({"targets": {IQN: {"maps": {HOST: {"0": 5}}}}}, f"san.targets.{IQN}.maps.{HOST}.0"),
            ({"targets": {IQN: {"maps": {HOST: {"0": {}}}}}}, f"san.targets.{IQN}.maps.{HOST}.0.size"),
            ({"targets": {IQN: {"maps": {HOST: ["3aaa"]}}}}, f"san.targets.{IQN}.maps.{HOST}"),
            ({"portals": {"here:there:": []}}, "here:there:"),
            ({"portals": {PORTAL: {"state": "sleepy"}}}, f"san.portals.{PORTAL}.state"),
            ({"portals": {PORTAL: IQN}}, f"san.portals.{PORTAL}.targets"),
            ({"fc_targets": {"50:06": {"chap": ["u", "p"]}}}, "san.fc_targets.50:06.chap"),
            ({"arrays": {"10.0.1.1": {"type": "emc", "login": ["u", "p"]}}}, "san.arrays.10.0.1.1.type"),
            ({"arrays": {"10.0.1.1": {"type": "equal"}}}, "san.arrays.10.0.1.1.login"),
            ([], "san"),
        ],
    )
    def test_a_mistake_is_named(self, san: San, values: object, named: str) -> None:
        with pytest.raises(WorldError) as error:
            sanfile.load(san, values)
        assert named in str(error.value)
