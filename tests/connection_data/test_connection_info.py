"""A connection_info is read, or refused by the name of its key. It is not changed, and no secret shows."""

import copy
import dataclasses
import io
import json
import logging
import pickle
import traceback
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.connection_data.connection_info import ENVELOPE_KEYS, ConnectionInfo, parse
from xenvol.connection_data.frozen import FrozenMap, freeze
from xenvol.connection_data.gluster import GlusterConnectionData
from xenvol.connection_data.iscsi import ISCSIConnectionData, ISCSIVolume
from xenvol.connection_data.keys import accepted_keys
from xenvol.connection_data.nfs import NFSConnectionData
from xenvol.connection_data.xensm import XenSMConnectionData, XenSMVolume
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import SECRET_KEY_ENDINGS, Secret

NESTED: dict[str, Any] = {
    "driver_volume_type": "iscsi",
    "serial": "b1f3",
    "multiattach": True,
    "status": "attached",
    "data": {
        "target_portal": "10.0.0.1:3260",
        "target_iqn": "iqn.2010-10.org.openstack:volume-b1f3",
        "target_lun": 0,
        "volume_id": "b1f3",
        "access_mode": "rw",
        "auth_method": "CHAP",
        "auth_username": "u",
        "auth_password": "canary-1",
    },
}
FLAT: dict[str, Any] = {
    "driver_volume_type": "iscsi",
    "attachment_id": "a-7",
    "volume_id": "b1f3",
    "access_mode": "ro",
    "encrypted": False,
    "qos_specs": None,
    "target_portal": "10.0.0.1:3260",
    "target_iqn": "iqn.2010-10.org.openstack:volume-b1f3",
    "target_lun": 0,
    "target_discovered": False,
}


def info(**more: object) -> ConnectionInfo:
    return parse({"driver_volume_type": "iscsi", "data": more})


def test_the_nested_shape_is_read() -> None:
    """As nova keeps it: the volume's id and multiattach are beside the data."""
    parsed = parse(NESTED)
    assert parsed.driver_volume_type == "iscsi"
    assert parsed.volume_id == "b1f3"
    assert parsed.access_mode == "rw"
    assert parsed.multiattach is True
    assert parsed.data["target_lun"] == 0
    assert parsed.data["auth_password"] == Secret("canary-1")
    assert parsed.extra == {"status": "attached"}
    assert parsed.attachment_id is None


def test_the_flat_shape_is_read() -> None:
    """As the attachments API returns it: all keys are at one level."""
    parsed = parse(FLAT)
    assert parsed.driver_volume_type == "iscsi"
    assert parsed.volume_id == "b1f3"
    assert parsed.attachment_id == "a-7"
    assert parsed.access_mode == "ro"
    assert parsed.multiattach is False
    assert parsed.data == {key: value for key, value in FLAT.items() if key != "driver_volume_type"}
    assert parsed.extra == {}


def test_both_shapes_mean_the_same_volume_to_a_driver() -> None:
    """A driver reads the data, and cannot tell the shapes apart."""
    assert ISCSIVolume.parse(parse(FLAT).data).targets == ISCSIVolume.parse(parse(NESTED).data).targets


@pytest.mark.parametrize("name", ["iscsi", "iSCSI", "ISCSI", " iscsi "])
def test_a_type_is_known_in_any_case(name: str) -> None:
    """One array's driver of cinder says iSCSI."""
    assert parse({"driver_volume_type": name, "data": {}}).driver_volume_type == "iscsi"


def test_unknown_keys_are_kept() -> None:
    """A third party's driver may read them."""
    parsed = parse({"driver_volume_type": "x", "data": {"vendor": {"a": [1]}}, "instance": "i"})
    assert parsed.data == {"vendor": {"a": (1,)}}
    assert parsed.extra == {"instance": "i"}


@pytest.mark.parametrize(
    ("beside", "within", "expected"),
    [
        ({"serial": "s", "volume_id": "v"}, {"volume_id": "d"}, "s"),
        ({"volume_id": "v"}, {"volume_id": "d"}, "v"),
        ({}, {"volume_id": "d"}, "d"),
        ({"serial": None}, {"volume_id": 7}, "7"),
        ({}, {}, None),
    ],
)
def test_the_volumes_id_comes_from_the_outermost_key(
    beside: dict[str, Any], within: dict[str, Any], expected: str | None
) -> None:
    """serial, then volume_id beside the data, then within."""
    assert parse({"driver_volume_type": "x", "data": within, **beside}).volume_id == expected


@pytest.mark.parametrize(
    ("beside", "within", "expected"),
    [
        ({"multiattach": "yes"}, {}, {"multiattach": True}),
        ({"multiattach": False}, {"multiattach": True}, {"multiattach": False}),
        ({}, {"multiattach": "no"}, {"multiattach": False}),
        ({"multiattach": False}, {}, {}),
        ({"serial": "s"}, {"volume_id": "d"}, {"volume_id": "s"}),
        ({}, {"volume_id": 7}, {"volume_id": "7"}),
    ],
)
def test_the_data_says_what_the_envelope_says(
    beside: dict[str, Any], within: dict[str, Any], expected: dict[str, Any]
) -> None:
    """A driver sees only the data; false beside the data outweighs true within."""
    assert parse({"driver_volume_type": "x", "data": within, **beside}).data == expected


@pytest.mark.parametrize("said", [True, "true", 1])
def test_multiattach_and_the_id_reach_the_parsed_volume(said: object) -> None:
    """The drivers read them there, not from the mapping."""
    for volume in (
        ISCSIVolume.parse(parse({**NESTED, "multiattach": said}).data),
        XenSMVolume.parse({"sr_uuid": "u", "volume_id": "b1f3", "multiattach": said}),
    ):
        assert (volume.volume_id, volume.multiattach) == ("b1f3", True)
    assert ISCSIVolume.parse(parse(FLAT).data).multiattach is False


@pytest.mark.parametrize(("said", "mode"), [("rw", "rw"), ("ro", "ro"), ("RO", "ro"), (None, "rw")])
def test_the_access_mode_is_read(said: str | None, mode: str) -> None:
    """The default is read-write."""
    assert info(access_mode=said).access_mode == mode


@pytest.mark.parametrize("said", [True, "true", "True", 1, "1"])
@pytest.mark.parametrize("key", ["multiattach", "discard"])
def test_yes_is_understood_in_any_spelling(key: str, said: object) -> None:
    """Services differ in the spelling."""
    assert getattr(info(**{key: said}), key) is True


@pytest.mark.parametrize("said", [False, "false", "False", 0, "0", None, ""])
@pytest.mark.parametrize("key", ["multiattach", "discard", "encrypted"])
def test_no_is_understood_in_any_spelling(key: str, said: object) -> None:
    """Null is as good as absent, and a volume that is not encrypted is read."""
    assert getattr(info(**{key: said}), key, False) is False


@pytest.mark.parametrize("where", ["beside", "within"])
def test_an_encrypted_volume_is_refused(where: str) -> None:
    """The guest would get the ciphertext."""
    told: dict[str, Any] = {"driver_volume_type": "iscsi", "data": {}}
    (told if where == "beside" else told["data"])["encrypted"] = True
    with pytest.raises(InvalidConnectionInfo) as caught:
        parse(told)
    assert caught.value.key == "encrypted"
    assert "LUKS" in str(caught.value)


def _nested(depth: int) -> dict[str, object]:
    data: dict[str, object] = {}
    for _ in range(depth):
        data = {"a": data}
    return data


@pytest.mark.parametrize(
    ("told", "key", "words"),
    [
        ({}, "driver_volume_type", "is missing"),
        ({"driver_volume_type": None}, "driver_volume_type", "is missing"),
        ({"driver_volume_type": " "}, "driver_volume_type", "iscsi"),
        ({"driver_volume_type": 7, "data": {}}, "driver_volume_type", "is 7"),
        ({"driver_volume_type": "nfs", "data": "x"}, "data", "is 'x'"),
        ({"driver_volume_type": "nfs", "data": ["x"]}, "data", "is a tuple"),
        ({"driver_volume_type": "nfs", "data": {"access_mode": "wo"}}, "access_mode", "rw or ro"),
        ({"driver_volume_type": "nfs", "multiattach": "maybe", "data": {}}, "multiattach", "true or false"),
        ({"driver_volume_type": "nfs", "data": {"qos_specs": "fast"}}, "qos_specs", "a mapping"),
        ({"driver_volume_type": "nfs", "data": {"qos_specs": {"class": 9}}}, "qos_specs.class", "highest"),
        ({"driver_volume_type": "nfs", "data": {"qos_specs": {"sched": "x"}}}, "qos_specs.sched", "idle"),
        ({"driver_volume_type": "nfs", "volume_id": ["v"], "data": {}}, "volume_id", "a string"),
        ({"driver_volume_type": "x", "data": _nested(60)}, "data", "nested too deeply"),
        ({"driver_volume_type": "x", "data": _nested(100_000)}, "data", "nested too deeply"),
        ("iscsi", "connection_info", "a mapping"),
        (None, "connection_info", "a mapping"),
    ],
)
def test_what_is_wrong_is_named(told: Any, key: str, words: str) -> None:
    """The key, the driver once it is known, and the accepted form."""
    with pytest.raises(InvalidConnectionInfo) as caught:
        parse(told)
    assert caught.value.key == key
    assert caught.value.accepted in str(caught.value)
    assert words in str(caught.value)
    if isinstance(told, dict) and told.get("driver_volume_type") == "nfs":
        assert caught.value.driver == "nfs"


def test_limits_that_xenapi_has_not_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The operator set a limit, and must learn that it does not apply."""
    with caplog.at_level(logging.INFO):
        parsed = info(volume_id="v1", qos_specs={"total_iops_sec": "500", "sched": "rt", "class": 0})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "v1" in caplog.text
    assert "total_iops_sec" in caplog.text
    assert "500" not in caplog.text
    assert parsed.qos["total_iops_sec"] == "500"
    assert parsed.ionice == {"sched": "rt", "class": "0"}


def test_no_wish_for_ionice_is_an_empty_one() -> None:
    """A VBD then gets no qos_algorithm_type."""
    assert info().ionice == {}
    assert info(qos_specs={"total_iops_sec": 5}).ionice == {}


def test_discard_is_ignored_with_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """It is an optimisation, so no warning."""
    with caplog.at_level(logging.INFO):
        info(discard=True)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "discard" in caplog.text


def test_the_data_is_read_only_all_the_way_down() -> None:
    """A driver cannot change what another reads after it."""
    parsed = parse({"driver_volume_type": "x", "data": {"a": {"b": [1, {"c": {2}}]}}})
    inner = parsed.data["a"]
    assert inner == {"b": (1, {"c": frozenset({2})})}
    assert isinstance(inner, FrozenMap)
    with pytest.raises(TypeError):
        inner["b"] = 1  # type: ignore[index]  # the attempt is the test
    with pytest.raises(AttributeError):
        parsed.data.update({})  # type: ignore[attr-defined]  # the attempt is the test
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.volume_id = "other"  # type: ignore[misc]  # the attempt is the test


def test_a_parsed_connection_info_is_a_value() -> None:
    """Equal, hashable, and its own deep copy."""
    assert parse(NESTED) == parse(copy.deepcopy(NESTED))
    assert hash(parse(NESTED)) == hash(parse(NESTED))
    assert copy.deepcopy(parse(NESTED)) == parse(NESTED)
    assert copy.copy(parse(NESTED).data) is not None
    assert parse(NESTED) != parse(FLAT)


def test_reading_twice_gives_the_same() -> None:
    """What was frozen freezes to itself, secrets included."""
    assert freeze(freeze(NESTED)) == freeze(NESTED)
    volume = ISCSIVolume.parse(parse(NESTED).data)
    assert volume == ISCSIVolume.parse({**NESTED["data"], "multiattach": True})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *["data", "serial", "volume_id", "access_mode", "multiattach", "qos_specs", "discard", "encrypted"],
        *["target_portal", "target_iqn", "target_lun", "target_portals", "target_luns", "auth_method", "x"],
    ]
)


@given(st.dictionaries(KEYS, JSON, max_size=6), st.sampled_from(["iscsi", "nfs", None, 3]))
def test_any_json_is_read_or_refused_and_never_changed(told: dict[str, Any], name: object) -> None:
    """It raises only InvalidConnectionInfo, and the caller's mapping is as before."""
    told["driver_volume_type"] = name
    before = copy.deepcopy(told)
    try:
        parsed = parse(told)
        ISCSIVolume.parse(parsed.data)
    except InvalidConnectionInfo as refusal:
        assert refusal.key in str(refusal)  # noqa: PT017  # both outcomes are right, and are told apart here
    assert told == before


CANARY = "canary-42e1"
SECRET_KEYS = st.sampled_from(
    [
        *["auth_password", "discovery_auth_password", "incoming_auth_password", "incoming_chappassword"],
        *["chappassword_secret", "keyring", "AUTH_PASSWORD", *SECRET_KEY_ENDINGS],
    ]
)
HOLDERS = st.recursive(
    st.just(CANARY),
    lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)
TEXTS_WITH_SECRETS = [f"-o username=me,password={CANARY}", f"smb://me:{CANARY}@nas/share"]
BURIED = st.recursive(
    st.dictionaries(SECRET_KEYS, HOLDERS, min_size=1, max_size=3)
    | st.dictionaries(
        st.sampled_from(["options", "url", "target_portal"]), st.sampled_from(TEXTS_WITH_SECRETS)
    ),
    lambda inner: st.dictionaries(
        st.sampled_from(["a", "b"]), inner | st.lists(inner, max_size=2), min_size=1
    ),
    max_leaves=4,
)
FLAWS = st.sampled_from([{}, {"encrypted": True}, {"access_mode": "wo"}, {"serial": []}, {"target_lun": "x"}])


@given(BURIED, st.booleans(), FLAWS)
def test_a_secret_never_shows(buried: dict[str, Any], is_nested: bool, flaw: Mapping[str, object]) -> None:
    """At any depth, under any of the keys, in either shape, in what is parsed, refused and logged."""
    target = {"target_portal": "a", "target_iqn": "iqn.a"}
    beside = {"driver_volume_type": "iscsi", "serial": "v", "discard": True, "qos_specs": {"x": 1}, **flaw}
    told = {**beside, "data": {**target, **buried}} if is_nested else {**beside, **target, **buried}
    assert not [text for text in everything_shown_of(told) if CANARY in text]


def everything_shown_of(told: Mapping[str, object]) -> Iterator[str]:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("xenvol")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        parsed = parse(told)
        logger.info("%s %r", parsed, parsed.data)
        yield from (repr(parsed), f"{parsed} {parsed.data} {parsed.extra}", str(dict(parsed.data)))
        yield from (str(dataclasses.asdict(parsed)), json.dumps(dict(parsed.data), default=str))
        yield str(ISCSIVolume.parse(parsed.data))
    except InvalidConnectionInfo as refusal:
        yield from (
            str(refusal),
            repr(refusal),
            str(refusal.__cause__),
            "".join(traceback.format_exception(refusal)),
        )
        yield pickle.dumps(refusal).decode("latin-1")
    finally:
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)
    yield log.getvalue()


def test_what_holds_a_secret_is_not_pickled() -> None:
    """A service that stores a parsed connection_info would store the password."""
    with pytest.raises(TypeError, match="reveal"):
        pickle.dumps(parse(NESTED))
    assert pickle.loads(pickle.dumps(parse(FLAT))) == parse(FLAT)


@pytest.mark.parametrize(
    "table", [ISCSIConnectionData, NFSConnectionData, GlusterConnectionData, XenSMConnectionData]
)
def test_every_key_is_written_down(table: type) -> None:
    """docs/connection_info.md says of each whether it is honoured, ignored or refused."""
    page = (Path(__file__).parents[2] / "docs" / "connection_info.md").read_text()
    assert [key for key in {*accepted_keys(table), *ENVELOPE_KEYS} if f"`{key}`" not in page] == []


def text_and_bytes() -> list[object]:
    text = json.dumps(NESTED)
    return [text, text.encode(), bytearray(text.encode())]


@pytest.mark.parametrize("told", text_and_bytes())
def test_json_text_is_said_to_be_text_and_nothing_of_it_is_shown(told: Any) -> None:
    """ "is missing" would send the user to look for a key; and the text may hold a password."""
    with pytest.raises(InvalidConnectionInfo, match=r"json\.loads") as caught:
        parse(told)
    assert "missing" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_uuid_objects_are_taken_for_their_text() -> None:
    """Object-relational mappers give them, as ids and within the data."""
    an_id = uuid.UUID("72B1746E-5AEB-4690-B121-0E30887C98E3")
    parsed = parse(
        {
            "driver_volume_type": "nfs",
            "volume_id": an_id,
            "attachment_id": an_id,
            "data": {"vdi_uuid": [an_id]},
        }
    )
    assert (parsed.volume_id, parsed.attachment_id) == (str(an_id), str(an_id))
    assert parsed.data == {"vdi_uuid": (str(an_id),), "volume_id": str(an_id)}


@pytest.mark.parametrize("empty", ["", None, [], {}])
def test_empty_qos_specs_are_none(empty: object) -> None:
    """Services write "no map" in several ways."""
    assert info(qos_specs=empty).qos == {}


def test_an_empty_access_mode_is_none() -> None:
    """As if the key were absent."""
    assert info(access_mode="").access_mode == "rw"


@pytest.mark.parametrize("where", ["beside", "within"])
def test_an_empty_attachment_id_is_refused(where: str) -> None:
    """It would fence nothing."""
    told: dict[str, Any] = {"driver_volume_type": "iscsi", "data": {"attachment_id": "a"}}
    (told if where == "beside" else told["data"])["attachment_id"] = ""
    with pytest.raises(InvalidConnectionInfo, match="is empty") as caught:
        parse(told)
    assert caught.value.key == "attachment_id"


@pytest.mark.parametrize("character", ["\r", "\n", "\t", "\0", "\x1b", "\x7f"])
@pytest.mark.parametrize("key", ["volume_id", "serial", "attachment_id", "driver_volume_type"])
def test_a_control_character_in_an_id_is_refused(key: str, character: str) -> None:
    """xapi receives a carriage return as a line feed, and would not find the id again."""
    told = {"driver_volume_type": "iscsi", "data": {}, key: f"V{character}0"}
    with pytest.raises(InvalidConnectionInfo, match="control character") as caught:
        parse(told)
    assert caught.value.key == key


@pytest.mark.parametrize("name", ["iqn.2016-04.com.acme:vault-secret:prod", "IQN.2016-04.x:password:a"])
def test_the_name_of_a_target_is_no_secret(name: str) -> None:
    """Also with a word such as secret in it."""
    assert info(target_iqn=name, target_iqns=[name]).data == {"target_iqn": name, "target_iqns": (name,)}


def test_a_text_with_a_secret_in_it_is_one_though_it_has_a_target_in_it() -> None:
    """Only a text that is a target's name as a whole is exempt."""
    for text in (
        "iqn.2016-04.x:a password=hunter2",
        "iqn.2016-04.x:a;secret:hunter2",
        "iqn.2016-04.x:secret=hunter2",
    ):
        assert info(options=text).data == {"options": Secret(text)}
