"""The checks of every call, in order, and the messages that follow from the data model alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from direct import Direct, refusal
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator import datamodel, dispatch
from xenvol.simulator.conversion import decode, encode, parse_type
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.ocaml import ocaml_int64
from xenvol.simulator.rulebook import RULES
from xenvol.simulator.values import Base64, Date, Int32, Marshalled, show

MODEL = datamodel.load("24.16.0")


@pytest.fixture(scope="module")
def pool() -> Iterator[Direct]:
    with Direct() as found:
        yield found


@pytest.fixture
def network(pool: Direct) -> str:
    """Add an object for reading and writing that nothing else needs."""
    with pool.xapi.lock:
        ref: str = pool.db.create("network", name_label="lan", other_config={"k": "v"}, tags=["t"])
    return ref


# ---- the order of the checks (gen_server.ml)


def test_parameters_are_counted_before_anything_else(pool: Direct) -> None:
    assert refusal(lambda: pool.raw("VM.get_record", "nonsense")) == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "1", "0",
    ]  # fmt: skip  # an ErrorDescription is one line
    assert refusal(lambda: pool.raw("VM.get_record")) == [
        "MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "1", "-1",
    ]  # fmt: skip  # an ErrorDescription is one line


def test_types_are_checked_before_the_session(pool: Direct) -> None:
    assert refusal(lambda: pool.raw("VM.get_record", "nonsense", 5)) == [
        "INTERNAL_ERROR", "Failure(\"Expected string, got 'I(5)'\")",
    ]  # fmt: skip  # an ErrorDescription is one line


def test_the_session_is_checked_before_the_object(pool: Direct) -> None:
    assert refusal(lambda: pool.raw("VM.get_record", "nonsense", NULL)) == ["SESSION_INVALID", "nonsense"]


def test_a_removed_message_says_so_to_who_has_a_session(pool: Direct) -> None:
    assert pool.refusal("VBD_metrics.get_record", 5) == ["MESSAGE_REMOVED"]
    assert refusal(lambda: pool.raw("VBD_metrics.get_record", "nonsense", NULL)) == [
        "SESSION_INVALID",
        "nonsense",
    ]


def test_a_removed_message_may_come_back_in_a_later_release() -> None:
    states = {
        v: datamodel.load(v).classes["VDI"].messages["resize_online"].state for v in ("25.33.1", "26.16.1")
    }
    assert states == {"25.33.1": "Removed", "26.16.1": "Published"}


def test_an_unknown_message_might_be_an_extension_so_the_session_is_checked(pool: Direct) -> None:
    assert pool.refusal("VM.frobnicate") == ["MESSAGE_METHOD_UNKNOWN", "VM.frobnicate"]
    assert refusal(lambda: pool.raw("VM.frobnicate", "nonsense")) == ["SESSION_INVALID", "nonsense"]
    assert refusal(lambda: pool.raw("VM.frobnicate")) == ["MESSAGE_METHOD_UNKNOWN", "VM.frobnicate"]


def test_a_message_goes_by_two_names(pool: Direct) -> None:
    assert pool.call("host_get_all") == pool.call("host.get_all")
    assert pool.call("VM_metrics_get_all") == pool.call("VM_metrics.get_all")


def test_surplus_parameters_are_ignored_where_some_are_optional(pool: Direct) -> None:
    assert pool.raw("session.login_with_password", "root", "secret", "1.0", "me", "and", "more").startswith(
        "Opaque"
    )
    assert pool.refusal("host.get_all", "more")[0] == "MESSAGE_PARAMETER_COUNT_MISMATCH"


def test_the_server_tells_that_it_is_alive_and_what_it_knows(pool: Direct) -> None:
    assert pool.raw("system.isAlive:anything", "x") == "x"
    methods = pool.raw("system.listMethods")
    assert {"VM.start", "Bond.get_all", "session.login_with_password"} <= set(methods)
    assert len(methods) == len(set(methods)) > 1300


def test_every_message_of_the_data_model_answers_or_is_not_implemented(pool: Direct) -> None:
    """No message without parameters breaks; a broken rule answers INTERNAL_ERROR."""
    broken = []
    for message in MODEL.wire_names.values():
        if message.takes_session and not message.params and message.cls not in ("session", "event"):
            try:
                pool.call(message.full_name)
            except Failure as failure:
                if failure.code == "INTERNAL_ERROR" and not message.intra_pool_only:
                    broken.append((message.full_name, failure.params))
    assert broken == []


def test_a_rule_that_breaks_is_an_internal_error(pool: Direct, caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: object) -> None:
        raise ZeroDivisionError("oops")

    original = RULES["session.get_all_subject_identifiers"]
    RULES["session.get_all_subject_identifiers"] = broken
    try:
        with caplog.at_level(logging.ERROR):
            description = pool.refusal("session.get_all_subject_identifiers")
    finally:
        RULES["session.get_all_subject_identifiers"] = original
    assert description == ["INTERNAL_ERROR", "ZeroDivisionError('oops')"]
    assert "session.get_all_subject_identifiers failed" in caplog.text


def test_a_rule_that_returns_what_it_does_not_declare_is_an_internal_error(pool: Direct) -> None:
    original = RULES["event.get_current_id"]
    RULES["event.get_current_id"] = lambda call: "0"
    try:
        assert pool.refusal("event.get_current_id") == ["INTERNAL_ERROR", "TypeError(\"'0' is no int\")"]
    finally:
        RULES["event.get_current_id"] = original


def test_every_rule_is_for_a_message_that_some_release_has() -> None:
    dispatch.load_rules()
    known = {
        name for version in ("24.16.0", "25.33.1", "26.17.0") for name in datamodel.load(version).wire_names
    }
    assert sorted(set(RULES) - known) == []


# ---- what follows from the fields


def test_a_field_is_read_and_written(pool: Direct, network: str) -> None:
    assert pool.call("network.get_name_label", network) == "lan"
    assert pool.call("network.set_name_label", network, "wan") == ""
    assert network in pool.call("network.get_by_name_label", "wan")
    assert network not in pool.call("network.get_by_name_label", "lan")


def test_a_key_is_added_once_and_removed_however_often(pool: Direct, network: str) -> None:
    pool.call("network.add_to_other_config", network, "a", "1")
    duplicate = ["MAP_DUPLICATE_KEY", "network", "other_config", network, "a"]
    assert pool.refusal("network.add_to_other_config", network, "a", "1") == duplicate
    for _ in range(2):
        pool.call("network.remove_from_other_config", network, "a")
    assert pool.call("network.get_other_config", network) == {"k": "v"}


def test_a_map_has_no_empty_key(pool: Direct, network: str) -> None:
    empty = ["INTERNAL_ERROR", "Db_exn.Empty_key_in_map"]
    assert pool.refusal("network.add_to_other_config", network, "", "v") == empty
    assert pool.refusal("network.set_other_config", network, {"": "v"}) == empty


def test_an_element_of_a_set_is_added_once_but_may_be_set_twice(pool: Direct, network: str) -> None:
    pool.call("network.add_tags", network, "u")
    pool.call("network.add_tags", network, "u")
    assert sorted(pool.call("network.get_tags", network)) == ["t", "u"]
    pool.call("network.set_tags", network, ["x", "x"])
    assert pool.call("network.get_tags", network) == ["x", "x"]
    pool.call("network.remove_tags", network, "x")
    assert pool.call("network.get_tags", network) == []


def test_a_dead_reference_is_named_with_its_class(pool: Direct, network: str) -> None:
    for method, *params in (
        ("get_record",), ("get_name_label",), ("set_name_label", "x"), ("add_to_other_config", "k", "v"),
        ("remove_from_other_config", "k"), ("add_tags", "t"), ("remove_tags", "t"),
    ):  # fmt: skip  # one message per line says no more
        assert pool.refusal(f"network.{method}", NULL, *params) == ["HANDLE_INVALID", "network", NULL]
    assert pool.refusal("VM.get_record", network) == ["HANDLE_INVALID", "VM", network]
    assert pool.refusal("network.get_by_uuid", "x") == ["UUID_INVALID", "network", "x"]


def test_an_object_is_found_by_its_uuid_in_any_case(pool: Direct, network: str) -> None:
    uuid = pool.call("network.get_uuid", network)
    assert pool.call("network.get_by_uuid", uuid.upper()) == network


def test_a_field_that_is_read_only_has_no_setter(pool: Direct, network: str) -> None:
    assert pool.refusal("network.set_VIFs", network, []) == ["MESSAGE_METHOD_UNKNOWN", "network.set_VIFs"]


def test_a_class_that_has_no_objects_anywhere_is_known_nevertheless(pool: Direct) -> None:
    assert pool.call("Bond.get_all") == []
    assert pool.refusal("Bond.get_by_name_label", "x") == ["MESSAGE_METHOD_UNKNOWN", "Bond.get_by_name_label"]
    assert pool.call("VMSS.get_by_name_label", "x") == []
    assert pool.refusal("VMPP.get_all") == ["MESSAGE_REMOVED"]


def test_a_string_is_kept_up_to_the_first_character_that_xml_cannot_hold(pool: Direct, network: str) -> None:
    pool.call("network.set_name_label", network, "tab\t\x7f😀\x00rest")
    assert pool.call("network.get_name_label", network) == "tab\t\x7f😀"


def test_each_release_has_its_own_messages_and_classes() -> None:
    old, new = datamodel.load("24.16.0"), datamodel.load("25.33.1")
    assert "VM_group" not in old.classes
    assert "VM_group.get_all" in new.wire_names
    assert "SR.get_all_where" not in old.wire_names
    assert "SR.get_all_where" in new.wire_names
    assert "task.set_other_config" in old.wire_names


# ---- constructors


def test_a_constructor_needs_the_keys_that_have_no_default(pool: Direct) -> None:
    missing = ["INTERNAL_ERROR", 'Server_helpers.Dispatcher_FieldNotFound("value")']
    assert pool.refusal("secret.create", {"other_config": {}}) == missing
    secret = pool.call("secret.create", {"value": "x", "uuid": "ignored", "nonsense": 5})
    record = pool.call("secret.get_record", secret)
    assert (record["value"], record["other_config"]) == ("x", {})
    assert record["uuid"] != "ignored"


def test_a_constructor_wants_a_record(pool: Direct) -> None:
    assert pool.refusal("secret.create", "x") == ["INTERNAL_ERROR", 'Failure("bad __structure")']


# ---- types


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("-3", -3), ("+5", 5), ("0x10", 16), ("0Xff", 255), ("0b11", 3), ("0o17", 15), ("1_000", 1000),
        ("0u5", 5), ("-0x1", -1), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
        ("0xffffffffffffffff", -1), ("0u18446744073709551615", -1),
    ],
)  # fmt: skip  # a table reads better
def test_integers_are_read_as_ocaml_reads_them(text: str, number: int) -> None:
    assert ocaml_int64(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " 5", "5 ", "5.0", "_1", "0x", "--1", "9223372036854775808", "0x10000000000000000", "٣", "1e3"],
)
def test_what_ocaml_does_not_read_is_no_integer(text: str) -> None:
    assert refusal(lambda: ocaml_int64(text)) == ["INTERNAL_ERROR", 'Failure("Int64.of_string")']


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_is_read_in_every_base(number: int) -> None:
    unsigned = number % 2**64
    spellings = (str(number), f"0x{unsigned:x}", f"0o{unsigned:o}", f"0b{unsigned:b}", f"0u{unsigned}")
    assert {ocaml_int64(spelling) for spelling in spellings} == {number}


@pytest.mark.parametrize(
    ("kind", "wire", "value"),
    [
        ("int", 5, 5), ("int", "5", 5), ("float", 2, 2.0), ("float", "2.5", 2.5), ("float", "1_0.", 10.0),
        ("enum on_boot", "PERSIST", "persist"), ("datetime", Date("20200101T00:00:00Z"), "20200101T00:00:00Z"),
        ("datetime", "2020-01-01T00:00:00Z", "20200101T00:00:00Z"), ("string set", ["a"], ["a"]),
        ("(int -> string set) map", {"1": ["a"]}, {1: ["a"]}), ("SR ref", "rubbish", "rubbish"),
        ("string option", None, None), ("string option", "x", "x"),
    ],
)  # fmt: skip  # a table reads better
def test_a_parameter_is_converted_to_its_type(kind: str, wire: Any, value: Any) -> None:
    decoded = decode(MODEL, parse_type(kind), wire)
    assert (decoded, type(decoded)) == (value, type(value))


@pytest.mark.parametrize(
    ("kind", "wire", "complaint"),
    [
        ("string", 5, "Expected string, got 'I(5)'"),
        ("string", None, "Expected string, got 'N'"),
        ("string", True, "Expected string, got 'B(true)'"),
        ("string", 5.5, "Expected string, got 'F(5.5)'"),
        ("string", Base64(b"abc"), "Expected string, got 'B64(abc)'"),
        ("string", Date("20200101T00:00:00Z"), "Expected string, got 'D(20200101T00:00:00Z)'"),
        ("SR ref", ["x"], "Expected string, got '[S(x)]'"),
        ("string", {"x": "y"}, "Expected string, got '{x:S(y)}'"),
        ("int", True, "Expected int64, got 'B(true)'"),
        ("int", 5.0, "Expected int64, got 'F(5)'"),
        ("bool", 1, "Expected bool, got 'I(1)'"),
        ("bool", "true", "Expected bool, got 'S(true)'"),
        ("float", True, "Expected float, got 'B(true)'"),
        ("float", "x", "float_of_string"),
        ("enum on_boot", "never", "Unknown tag/contents"),
        ("enum on_boot", 5, "Unknown tag/contents"),
        ("string set", "x", "Expecting Rpc.Enum, but found 'S(x)'"),
        ("string set", [1], "Expected string, got 'I(1)'"),
        ("(string -> string) map", [], "Expecting Rpc.Dict, but found '[]'"),
        ("(string -> string) map", {"k": 5}, "Expected string, got 'I(5)'"),
        ("(int -> string) map", {"k": "v"}, "Int64.of_string"),
    ],
)
def test_a_wrong_type_is_complained_about_in_xapis_words(kind: str, wire: Any, complaint: str) -> None:
    description = refusal(lambda: decode(MODEL, parse_type(kind), wire))
    assert description == ["INTERNAL_ERROR", f'Failure("{complaint}")']


def test_a_bad_date_is_refused() -> None:
    assert refusal(lambda: decode(MODEL, parse_type("datetime"), "yesterday"))[0] == "INTERNAL_ERROR"


def test_a_result_is_encoded_by_its_declared_type() -> None:
    assert encode(MODEL, parse_type("void"), None) == ""
    assert encode(MODEL, parse_type("datetime set"), ["19700101T00:00:00Z"]) == [Date("19700101T00:00:00Z")]
    assert encode(MODEL, parse_type("(int -> float) map"), {1: 2}) == {"1": 2.0}
    assert encode(MODEL, parse_type("int"), Marshalled(Int32(1))) == Int32(1)
    assert show(Int32(1)) == "I32(1)"
    for kind, value in (("int", True), ("string", 5), ("bool", 1), ("VM ref", None)):
        with pytest.raises(TypeError, match="is no"):
            encode(MODEL, parse_type(kind), value)


def test_every_type_of_the_data_model_can_be_parsed() -> None:
    for message in datamodel.load("26.17.0").wire_names.values():
        for kind in (message.result, *(param.type for param in message.params)):
            parsed = parse_type(kind)
            assert parsed.kind in (
                "string", "int", "float", "bool", "datetime", "void", "ref", "enum", "record", "set", "map", "option"
            ), (message, parsed)  # fmt: skip  # one list


def test_a_default_belongs_to_the_call_and_not_to_the_table(
    pool: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(call: object, record: dict[str, Any]) -> str:
        record["other_config"]["mine"] = "now"
        return NULL

    monkeypatch.setitem(RULES, "secret.create", greedy)
    pool.call("secret.create", {"value": "x"})
    monkeypatch.undo()
    secret = pool.call("secret.create", {"value": "x"})
    assert pool.call("secret.get_other_config", secret) == {}


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Bond.create", (NULL, [], "", "lacp", {})),
        ("VLAN.create", (NULL, "7", NULL)),
        ("VM_appliance.start", (NULL, False)),
        ("Cluster.create", (NULL, "corosync", True, 1.0, 1.0)),
        ("VTPM.create", (NULL, False)),
        ("Repository.introduce", ("a", "", "http://x", "http://y", False, "")),
    ],
)
def test_a_message_of_xapi_without_a_rule_is_known_and_not_implemented(
    pool: Direct, message: str, arguments: tuple[object, ...]
) -> None:
    """An unknown one would tell a client that this xapi is too old."""
    assert pool.refusal(message, *arguments) == ["NOT_IMPLEMENTED", message]
    assert message in pool.call("host.list_methods")


@pytest.mark.parametrize("message", ["Rate_limit.add_caller", "VM_group.create", "Caller.add_group"])
def test_a_message_of_a_later_release_is_unknown(pool: Direct, message: str) -> None:
    assert pool.refusal(message) == ["MESSAGE_METHOD_UNKNOWN", message]
    later = datamodel.load("26.17.0").wire_names
    assert message in later
