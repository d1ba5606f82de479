"""docs/background/recordings.md, "CHAP secrets": which credentials log in, and which secret is left behind."""

from collections.abc import Iterator

import pytest
from lab import ADDRESS, TARGET, Lab, lab, refusal

USER, PASSWORD = "user1", "sekret12chap"
CONFIG = {"target": ADDRESS, "targetIQN": TARGET}
LOGIN = [
    "SR_BACKEND_FAILURE_68",
    "",
    "ISCSI login failed - check access settings for the initiator on the storage, "
    "if CHAP is used verify CHAP credentials",
    "",
]


@pytest.fixture
def chap() -> Iterator[Lab]:
    with lab() as made:
        made.san.targets[TARGET].chap = (USER, PASSWORD)
        yield made


def own_secret(chap: Lab, value: str = PASSWORD) -> tuple[str, str]:
    """Make a secret as a caller would, and return its reference and uuid."""
    ref = chap.x.secret.create({"value": value, "other_config": {}})
    return ref, chap.x.secret.get_uuid(ref)


class TestLogin:
    @pytest.mark.parametrize(
        "credentials",
        [
            {},
            {"chapuser": USER, "chappassword": "wrong"},
            {"chapuser": "nobody", "chappassword": PASSWORD},
            {"chapuser": USER},
            {"chappassword": PASSWORD},
        ],
    )
    def test_wrong_or_half_credentials_are_refused(self, chap: Lab, credentials: dict[str, str]) -> None:
        _, pbd = chap.introduce({**CONFIG, **credentials})
        assert refusal(chap.x.PBD.plug, pbd) == LOGIN
        assert chap.initiator.sessions == []

    def test_right_ones_are_accepted(self, chap: Lab) -> None:
        sr, _ = chap.plug({**CONFIG, "chapuser": USER, "chappassword": PASSWORD})
        assert sorted(chap.vdis(sr)) == [0, 1, 5]

    def test_they_do_no_harm_where_none_are_wanted(self, chap: Lab) -> None:
        """Passes if nothing is raised."""
        chap.san.targets[TARGET].chap = None
        chap.plug({**CONFIG, "chapuser": USER, "chappassword": PASSWORD})

    def test_in_sm_config_they_stay_readable_and_are_not_used(self, chap: Lab) -> None:
        sr, pbd = chap.introduce(chapuser=USER, chappassword=PASSWORD)
        assert chap.x.SR.get_sm_config(sr)["chappassword"] == PASSWORD
        assert chap.secrets() == []
        assert refusal(chap.x.PBD.plug, pbd) == LOGIN

    def test_a_secret_that_is_gone_cannot_be_looked_up(self, chap: Lab) -> None:
        _, pbd = chap.introduce({**CONFIG, "chapuser": USER, "chappassword": PASSWORD})
        uuid = chap.x.PBD.get_device_config(pbd)["chappassword_secret"]
        chap.x.secret.destroy(chap.x.secret.get_by_uuid(uuid))
        text = f"No such secret. [opterr=Unable to look up secret [{uuid}]]"
        assert refusal(chap.x.PBD.plug, pbd) == ["SR_BACKEND_FAILURE_20", "", text, ""]


class TestMutualLogin:
    @pytest.fixture
    def mutual(self, chap: Lab) -> Lab:
        chap.san.targets[TARGET].mutual_chap = ("array", "proof12chap")
        return chap

    def config(self, password: str) -> dict[str, str]:
        own = {**CONFIG, "chapuser": USER, "chappassword": PASSWORD}
        return {**own, "incoming_chapuser": "array", "incoming_chappassword": password}

    def test_a_target_that_proves_itself_is_used(self, mutual: Lab) -> None:
        sr, pbd = mutual.plug(self.config("proof12chap"))
        assert sorted(mutual.vdis(sr)) == [0, 1, 5]
        assert "incoming_chappassword_secret" in mutual.x.PBD.get_device_config(pbd)

    def test_one_that_cannot_is_not(self, mutual: Lab) -> None:
        _, pbd = mutual.introduce(self.config("another"))
        assert refusal(mutual.x.PBD.plug, pbd) == LOGIN


class TestDiscovery:
    @pytest.fixture
    def guarded(self, chap: Lab) -> Lab:
        """Require credentials to list the portal's targets, and none for the target itself."""
        chap.san.targets[TARGET].chap = None
        chap.san.portals[f"{ADDRESS}:3260"].discovery_chap = ("duser", "dpass12")
        return chap

    def test_without_credentials_it_fails_like_a_login(self, guarded: Lab) -> None:
        _, pbd = guarded.introduce()
        assert refusal(guarded.x.PBD.plug, pbd) == LOGIN
        assert refusal(guarded.x.SR.probe, guarded.host, {"target": ADDRESS}, "iscsi", {}) == LOGIN

    def test_with_them_it_succeeds(self, guarded: Lab) -> None:
        """Passes if nothing is raised."""
        guarded.plug({**CONFIG, "chapuser": "duser", "chappassword": "dpass12"})

    def test_a_node_record_of_an_earlier_login_makes_it_unnecessary(self, guarded: Lab) -> None:
        """Passes if nothing is raised."""
        guarded.initiator.start(guarded.x.host.get_iscsi_iqn(guarded.host))
        guarded.initiator.records.append((f"{ADDRESS}:3260", TARGET))
        guarded.plug()


class TestSecretsLeftBehind:
    def test_a_password_becomes_two_secrets_of_which_one_goes_with_the_pbd(self, chap: Lab) -> None:
        sr, pbd = chap.plug({**CONFIG, "chapuser": USER, "chappassword": PASSWORD})
        config = chap.x.PBD.get_device_config(pbd)
        assert sorted(config) == ["chappassword_secret", "chapuser", "target", "targetIQN"]
        assert chap.secrets() == [PASSWORD, PASSWORD]
        chap.x.PBD.unplug(pbd)
        chap.x.PBD.destroy(pbd)
        assert chap.secrets() == [PASSWORD]
        chap.x.SR.forget(sr)
        assert chap.secrets() == [PASSWORD]

    def test_forgetting_the_sr_removes_the_referenced_one_as_well(self, chap: Lab) -> None:
        sr, _ = chap.introduce({**CONFIG, "chapuser": USER, "chappassword": PASSWORD})
        chap.x.SR.forget(sr)
        assert chap.secrets() == [PASSWORD]

    def test_a_probe_leaves_one(self, chap: Lab) -> None:
        config = {**CONFIG, "chapuser": USER, "chappassword": PASSWORD}
        chap.x.SR.probe(chap.host, config, "iscsi", {})
        assert chap.secrets() == [PASSWORD]

    def test_our_own_secret_is_copied_and_nothing_is_left_when_we_destroy_ours(self, chap: Lab) -> None:
        mine, uuid = own_secret(chap)
        sr, pbd = chap.plug({**CONFIG, "chapuser": USER, "chappassword_secret": uuid})
        assert chap.x.PBD.get_device_config(pbd)["chappassword_secret"] != uuid
        assert chap.secrets() == [PASSWORD, PASSWORD]
        chap.x.PBD.unplug(pbd)
        chap.x.SR.forget(sr)
        assert chap.secrets() == [PASSWORD]
        chap.x.secret.destroy(mine)
        assert chap.secrets() == []
