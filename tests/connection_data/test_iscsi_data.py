"""Every spelling of a target gives the same targets, and a missing or wrong key is named."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.connection_data.iscsi import Chap, ISCSIConnectionData, ISCSITarget, ISCSIVolume
from xenvol.connection_data.keys import accepted_keys, json_schema
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import Secret

PORTAL, IQN = "10.0.0.1:3260", "iqn.2010-10.org.openstack:volume-1"
MINIMAL = {"target_portal": PORTAL, "target_iqn": IQN}


def target(host: str = "10.0.0.1", port: int = 3260, iqn: str = IQN, lun: int | None = None) -> ISCSITarget:
    return ISCSITarget(host=host, port=port, iqn=iqn, lun=lun)


def targets_of(**data: Any) -> list[ISCSITarget]:
    return list(ISCSIVolume.parse(data).targets)


def refusal_of(**data: Any) -> InvalidConnectionInfo:
    with pytest.raises(InvalidConnectionInfo) as caught:
        ISCSIVolume.parse(data)
    assert caught.value.driver == "iscsi"
    assert caught.value.accepted in str(caught.value)
    return caught.value


@pytest.mark.parametrize("lun", [0, "0", 0.0])
def test_lun_0_is_a_lun(lun: object) -> None:
    """As a number and as a string; only its absence is none."""
    assert targets_of(**MINIMAL, target_lun=lun) == [target(lun=0)]
    assert targets_of(**MINIMAL) == [target(lun=None)]
    assert targets_of(**MINIMAL, target_lun=None) == [target(lun=None)]


def test_the_singular_and_the_plural_are_one_list_without_repetition() -> None:
    """The singular target is the preferred one, and comes first."""
    assert targets_of(
        target_portal="10.0.0.2:3260",
        target_iqn="iqn.b",
        target_lun=2,
        target_portals=["10.0.0.1:3260", "10.0.0.2:3260,1", "10.0.0.1"],
        target_iqns=["iqn.a", "iqn.b", "iqn.a"],
        target_luns=["1", 2, 1],
    ) == [target("10.0.0.2", iqn="iqn.b", lun=2), target("10.0.0.1", iqn="iqn.a", lun=1)]


def test_the_plural_alone_is_enough() -> None:
    """With a LUN for each target, or one for all."""
    both = [target("10.0.0.1", iqn="iqn.a", lun=0), target("10.0.0.2", iqn="iqn.b", lun=0)]
    plural = {"target_portals": ["10.0.0.1", "10.0.0.2"], "target_iqns": ["iqn.a", "iqn.b"]}
    assert targets_of(**plural, target_luns=[0, 0]) == both
    assert targets_of(**plural, target_luns=["0"]) == both
    assert targets_of(**plural, target_lun=0) == both


def test_one_target_may_have_many_portals() -> None:
    """One IQN stands for all portals, in the singular or as a list of one."""
    both = [target("10.0.0.1", lun=1), target("10.0.0.2", lun=1)]
    assert targets_of(target_portals=["10.0.0.1", "10.0.0.2"], target_iqn=IQN, target_lun=1) == both
    assert targets_of(target_portals=["10.0.0.1", "10.0.0.2"], target_iqns=[IQN], target_luns=[1]) == both


def test_an_empty_list_is_no_list() -> None:
    """Some services send all keys always."""
    empty: dict[str, list[object]] = {"target_portals": [], "target_iqns": [], "target_luns": []}
    assert targets_of(**MINIMAL, target_lun=0, **empty) == [target(lun=0)]


def test_a_lun_that_one_key_leaves_open_is_filled_by_the_other() -> None:
    """The singular without a LUN, the plural with."""
    assert targets_of(**MINIMAL, target_portals=[PORTAL], target_luns=[5]) == [target(lun=5)]


@pytest.mark.parametrize(
    ("mode", "lun", "seen"),
    [
        ("SAM", 300, 300),
        ("transparent", 300, 300),
        (None, 300, 300),
        ("SAM2", 255, 255),
        ("SAM2", 256, 16640),
        ("SAM3-flat", 1, 16385),
        ("SAM3-flat", 0, 16384),
    ],
)
def test_a_lun_is_numbered_as_the_host_sees_it(mode: str | None, lun: int, seen: int) -> None:
    """Flat space addressing shows in the number that the kernel gives."""
    assert targets_of(**MINIMAL, target_lun=lun, addressing_mode=mode) == [target(lun=seen)]


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({}, "target_portal", "is missing"),
        ({"target_portal": PORTAL}, "target_iqn", "is missing"),
        ({"target_iqn": IQN}, "target_portal", "is missing"),
        ({"target_portal": None, "target_iqn": IQN}, "target_portal", "is missing"),
        ({"target_portal": 7, "target_iqn": IQN}, "target_portal", "got int"),
        ({**MINIMAL, "target_portal": "10.0.0.1:0"}, "target_portal", "port 0"),
        ({**MINIMAL, "target_portals": [PORTAL, "a b"]}, "target_portals", "'a b'"),
        ({**MINIMAL, "target_portals": PORTAL}, "target_portals", "a list"),
        ({**MINIMAL, "target_iqn": "volume-1"}, "target_iqn", "'volume-1'"),
        ({**MINIMAL, "target_iqn": "iqn.a b"}, "target_iqn", "iqn.…"),
        ({**MINIMAL, "target_iqns": ["*"]}, "target_iqns", "'*'"),
        ({**MINIMAL, "target_lun": -1}, "target_lun", "0 or more"),
        ({**MINIMAL, "target_lun": "one"}, "target_lun", "got str"),
        ({**MINIMAL, "target_lun": ""}, "target_lun", "got str"),
        ({**MINIMAL, "target_lun": "null"}, "target_lun", "null"),
        ({**MINIMAL, "target_lun": True}, "target_lun", "got bool"),
        ({**MINIMAL, "target_lun": 1.5}, "target_lun", "got float"),
        ({**MINIMAL, "target_luns": [1, "x"]}, "target_luns", "got str"),
        ({**MINIMAL, "target_portals": ["a", "b"], "target_iqns": ["iqn.a"] * 3}, "target_portals", "3 targets"),
        ({**MINIMAL, "target_portals": ["a", "b"], "target_luns": [1, 2, 3]}, "target_luns", "2 targets"),
        ({**MINIMAL, "target_lun": 0, "target_luns": [1]}, "target_luns", "LUN 1"),
        ({**MINIMAL, "addressing_mode": "flat"}, "addressing_mode", "SAM3-flat"),
        ({**MINIMAL, "auth_method": "SRP"}, "auth_method", "'SRP'"),
        ({**MINIMAL, "auth_method": "CHAP"}, "auth_username", "is missing"),
        ({**MINIMAL, "auth_username": "u"}, "auth_password", "is missing"),
        ({**MINIMAL, "auth_password": "canary"}, "auth_username", "is missing"),
        ({**MINIMAL, "auth_username": "u", "auth_password": ["canary"]}, "auth_password", "a string"),
        ({**MINIMAL, "discovery_auth_method": "CHAP"}, "discovery_auth_username", "is missing"),
        ({**MINIMAL, "incoming_auth_username": "t"}, "incoming_auth_password", "is missing"),
        (
            {**MINIMAL, "incoming_auth_username": "t", "incoming_auth_password": "canary"},
            "auth_username",
            "mutual CHAP needs it",
        ),
        ({**MINIMAL, "vdi_uuid": "b1f3"}, "vdi_uuid", "VDI"),
        ({**MINIMAL, "size": 0}, "size", "GiB"),
        ({**MINIMAL, "size": "10G"}, "size", "GiB"),
    ],
)  # fmt: skip  # a table
def test_what_is_missing_or_wrong_is_named(data: dict[str, Any], key: str, words: str) -> None:
    """The key, the driver, what is wrong, and what would be accepted; never a secret."""
    refusal = refusal_of(**data)
    assert refusal.key == key
    assert words in str(refusal)
    assert "canary" not in str(refusal)


@pytest.mark.parametrize("method", ["CHAP", "chap", None])
def test_chap_is_read(method: str | None) -> None:
    """A user and a password are CHAP, whether auth_method says so or not."""
    volume = ISCSIVolume.parse(
        {**MINIMAL, "auth_method": method, "auth_username": 7, "auth_password": 12345, "name_label": "n"}
    )
    assert volume.chap == Chap("7", Secret("12345"))
    assert volume.incoming_chap is None
    assert "12345" not in repr(volume)


@pytest.mark.parametrize("method", ["None", "none", "", None])
def test_no_chap_is_no_chap(method: str | None) -> None:
    """In each spelling of "none"."""
    assert ISCSIVolume.parse({**MINIMAL, "auth_method": method}).chap is None


@pytest.mark.parametrize(
    "keys",
    [("incoming_auth_username", "incoming_auth_password"), ("incoming_chapuser", "incoming_chappassword")],
)
def test_mutual_chap_is_read(keys: tuple[str, str]) -> None:
    """With xenvol's key names or the storage manager's."""
    login = {"auth_username": "u", "auth_password": "p"}
    volume = ISCSIVolume.parse({**MINIMAL, **login, keys[0]: "t", keys[1]: "q"})
    assert volume.chap == Chap("u", Secret("p"))
    assert volume.incoming_chap == Chap("t", Secret("q"))


def test_the_user_of_the_discovery_serves_when_there_is_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The storage manager has one pair for both; of two that differ the login's is taken, with a warning."""
    discovery = {"discovery_auth_username": "d", "discovery_auth_password": "canary"}
    assert ISCSIVolume.parse({**MINIMAL, **discovery}).chap == Chap("d", Secret("canary"))
    same = {"auth_username": "d", "auth_password": "canary"}
    assert ISCSIVolume.parse({**MINIMAL, **discovery, **same}).chap == Chap("d", Secret("canary"))
    assert not caplog.records
    other = {"auth_username": "u", "auth_password": "p"}
    assert ISCSIVolume.parse({**MINIMAL, **discovery, **other}).chap == Chap("u", Secret("p"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "canary" not in caplog.text


def test_the_proofs_are_collected() -> None:
    """Spellings of one SCSI id count once."""
    volume = ISCSIVolume.parse(
        {**MINIMAL, "wwn": "naa.6001ABCD", "SCSIid": "36001abcd", "scsi_id": "0x6001abcd", "volume_size": "5"}
    )
    assert volume.identity.scsi_ids == ("6001abcd", "36001abcd")
    assert volume.identity.size_gib == 5


def test_keys_that_are_not_read_are_logged_without_their_values(caplog: pytest.LogCaptureFixture) -> None:
    """The keys of the envelope are not among them."""
    with caplog.at_level(logging.INFO):
        ISCSIVolume.parse(
            {**MINIMAL, "target_discovered": "canary", "zeta": 1, "access_mode": "rw", "volume_id": 7}
        )
    assert [record.getMessage() for record in caplog.records] == [
        "connection_info for driver 'iscsi': ignored: target_discovered, zeta"
    ]


def test_the_keys_are_told_as_json_schema_and_as_words() -> None:
    """Every key has a description, and a secret is of format password."""
    schema = json_schema(ISCSIConnectionData)["$defs"]["ISCSIConnectionData"]["properties"]
    words = accepted_keys(ISCSIConnectionData)
    assert set(schema) == set(words)
    assert all(words.values())
    assert {"type": "string", "format": "password", "writeOnly": True} in schema["auth_password"]["anyOf"]


LUNS = st.none() | st.integers(0, 65535)
HOSTS = st.sampled_from(["10.0.0.1", "fd00::1", "array"])


@given(
    st.lists(
        st.tuples(HOSTS, st.integers(1, 3), st.sampled_from(["iqn.a", "eui.b"])), min_size=1, max_size=5
    ),
    LUNS,
)
def test_targets_come_in_order_each_once(rows: list[tuple[str, int, str]], lun: int | None) -> None:
    """For any list, however often it repeats itself."""
    expected = [target(host, port, iqn, lun) for host, port, iqn in dict.fromkeys(rows)]
    told = {
        "target_portals": [target(host, port).portal for host, port, _ in rows],
        "target_iqns": [iqn for _, _, iqn in rows],
        "target_lun": lun if lun is None or lun % 2 else str(lun),
    }
    assert targets_of(**told) == expected
    singular = {"target_portal": told["target_portals"][-1], "target_iqn": rows[-1][2]}
    assert targets_of(**told, **singular)[0] == target(*rows[-1], lun)
