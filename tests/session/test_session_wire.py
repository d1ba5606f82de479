"""Tests of xenvol.session.wire: pure, by example and by property."""

from __future__ import annotations

import enum
import re
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenvol.errors import RequestError
from xenvol.secret import Secret, revealed
from xenvol.session.wire import Call, expression, mask, to_wire


class Mode(enum.StrEnum):
    READ_WRITE = "RW"


class TestCall:
    def test_a_call_is_taken_apart_and_put_together(self) -> None:
        """Its kind, its class, its method."""
        assert Call.parse("SR.scan") == ("", "SR", "scan")
        assert Call.parse("Async.VM_group.destroy") == ("Async", "VM_group", "destroy")
        for call in ("SR.scan", "Async.SR.scan", "InternalAsync.SR.scan"):
            assert str(Call.parse(call)) == call
            assert Call.parse(call).plain == "SR.scan"

    @pytest.mark.parametrize(
        "call",
        [
            "",
            "SR",
            "SR_scan",
            "Async.SR_scan",
            "Async.scan",
            "Async.Async.SR.scan",
            "SR.scan ",
            "SR.a.b",
            "SR..scan",
            "SR.scän",
        ],
    )
    def test_every_other_spelling_is_refused(self, call: str) -> None:
        """xapi takes SR_scan for SR.scan (docs/background/xapi.md 4.1); here it would slip past a ban."""
        with pytest.raises(ValueError, match=r"Class\.method"):
            Call.parse(call)

    @pytest.mark.parametrize(
        "call",
        [
            "SR.get_all",
            "VBD.get_all_records_where",
            "VDI.get_by_uuid",
            "VM.assert_can_boot_here",
            "event.from",
        ],
    )
    def test_what_changes_nothing_is_a_read(self, call: str) -> None:
        """It may be sent twice; as Async it may not, since that makes a task."""
        assert Call.parse(call).is_read
        assert not Call.parse(f"Async.{call}").is_read

    @pytest.mark.parametrize(
        "call",
        [
            "SR.scan",
            "SR.probe",
            "VDI.introduce",
            "VBD.plug",
            "event.next",
            "session.logout",
            "VM.set_name_label",
        ],
    )
    def test_everything_else_is_not_a_read(self, call: str) -> None:
        """A probe logs in to a target and leaves a secret behind (docs/background/recordings.md, CHAP secrets)."""
        assert not Call.parse(call).is_read

    def test_a_ban_by_name_covers_async_and_one_by_class_spares_reads(self) -> None:
        """So a driver sees VBDs and touches none."""
        forbidden = {"SR.destroy", "VBD.*"}
        for call in (
            "SR.destroy",
            "Async.SR.destroy",
            "InternalAsync.SR.destroy",
            "VBD.plug",
            "Async.VBD.plug",
        ):
            assert Call.parse(call).is_among(forbidden)
        for call in ("SR.forget", "VBD.get_all_records_where", "VBD.get_record", "VBD_metrics.get_record"):
            assert not Call.parse(call).is_among(forbidden)


class TestToWire:
    def test_ints_travel_as_digits_and_bools_as_bools(self) -> None:
        """2**31 and more do not fit into XML-RPC's int, and xapi reads digits (recordings.md, "int arguments")."""
        assert to_wire(2**40) == "1099511627776"
        assert to_wire(0) == "0"
        assert to_wire({"virtual_size": -1, "sharable": False, "timeout": 1.5, "none": None}) == {
            "virtual_size": "-1",
            "sharable": False,
            "timeout": 1.5,
            "none": None,
        }

    def test_any_collection_and_any_text_is_marshalled(self) -> None:
        """Read-only maps, tuples, enumerations: xmlrpc.client takes none of them."""
        given = types.MappingProxyType({"mode": Mode.READ_WRITE, "tags": ("a", "b"), 5: {7}})
        assert to_wire(given) == {"mode": "RW", "tags": ["a", "b"], "5": ["7"]}
        assert type(to_wire(Mode.READ_WRITE)) is str

    def test_a_secret_is_revealed_by_the_line_that_sends_it(self) -> None:
        """And nowhere before."""
        wire = to_wire({"value": [Secret("canary")]})
        assert wire == {"value": [Secret("canary")]}
        assert revealed(wire) == {"value": ["canary"]}

    def test_what_xml_cannot_carry_is_refused_unseen(self) -> None:
        """xapi would answer with a page of HTML; the text may be a secret, so it is not repeated."""
        for text in ("canary\x00", "canary\x1b", "canary\ud800", "canary\uffff"):
            with pytest.raises(RequestError) as caught:
                to_wire(Secret(text))
            assert "canary" not in str(caught.value)
        assert to_wire("tab\t, line\n, snowman ☃, 𝄞") == "tab\t, line\n, snowman ☃, 𝄞"

    def test_the_argument_is_not_changed(self) -> None:
        """The caller's map stays the caller's."""
        given = {"a": [1, {"b": 2}]}
        to_wire(given)
        assert given == {"a": [1, {"b": 2}]}


class TestExpression:
    def test_conditions_are_joined_with_and(self) -> None:
        """Each field quoted, each value quoted."""
        assert expression(
            {"VM": "OpaqueRef:1", "currently_attached": True, "empty": False, "userdevice": 0}
        ) == (
            'field "VM" = "OpaqueRef:1" and field "currently_attached" = "true" '
            'and field "empty" = "false" and field "userdevice" = "0"'
        )

    def test_a_collection_means_any_of_them(self) -> None:
        """In brackets, since "and" and "or" bind alike (db_filter_parse.mly)."""
        assert expression({"VDI": ["a", "b"], "VM": "v"}) == (
            '(field "VDI" = "a" or field "VDI" = "b") and field "VM" = "v"'
        )
        assert expression({"VDI": ["a"]}) == 'field "VDI" = "a"'
        assert expression({"VDI": []}) == "false"

    def test_either_is_one_condition_of_several(self) -> None:
        """A VM by uuid or by name, in one call."""
        assert expression({"is_a_template": False}, {"uuid": "x", "name_label": "x"}) == (
            'field "is_a_template" = "false" and (field "uuid" = "x" or field "name__label" = "x")'
        )
        assert expression({}, {"uuid": "x"}) == 'field "uuid" = "x"'
        assert expression({"type": "nfs"}, {}) == 'field "type" = "nfs" and false'

    def test_names_are_spelled_as_in_the_database(self) -> None:
        """`name_label` is missing there, `name__label` is not (trace 02-sr-pbd, expressions)."""
        assert (
            expression({"name_label": "n"}) == expression({"name__label": "n"}) == 'field "name__label" = "n"'
        )
        assert expression({"name_description": "d"}) == 'field "name__description" = "d"'

    def test_a_double_quote_cannot_be_asked_for(self) -> None:
        """The language has no escapes; half a value would be another question."""
        with pytest.raises(RequestError, match="double quote"):
            expression({"name_label": 'x" or true or field "uuid" = "'})

    @pytest.mark.parametrize("name", ["", 'a" = "b', "a b", "1a", "a-b"])
    def test_what_is_no_field_is_refused(self, name: str) -> None:
        """Field names come from code, so this is a bug of the caller."""
        with pytest.raises(ValueError, match="field"):
            expression({name: "x"})

    def test_an_empty_filter_is_refused(self) -> None:
        """It would be a walk over all objects, by accident."""
        with pytest.raises(ValueError, match="get_all_records"):
            expression({})

    @given(
        where=st.dictionaries(
            st.sampled_from("abcd"),
            st.text(alphabet="xy() =andor\\'\n", max_size=6)
            | st.booleans()
            | st.integers()
            | st.lists(st.text(alphabet="xy ", max_size=2), max_size=3),
            min_size=1,
        ),
        either=st.none()
        | st.dictionaries(st.sampled_from("abcd"), st.text(alphabet="xy", max_size=2), max_size=3),
        record=st.fixed_dictionaries({name: st.text(alphabet="xy ", max_size=2) for name in "abcd"}),
    )
    def test_it_means_what_was_asked(self, where: Any, either: Any, record: dict[str, str]) -> None:
        """Read by another reader, which knows only the grammar, it says the same of every record."""

        def fits(name: str, value: Any) -> bool:
            values = value if isinstance(value, list) else [value]
            return record[name] in [str(v).lower() if isinstance(v, bool) else str(v) for v in values]

        asked = all(fits(*each) for each in where.items())
        if either is not None:
            asked = asked and any(fits(*each) for each in either.items())
        assert _evaluate(expression(where, either), record) == asked


_TOKEN = re.compile(r'\s*(?:field "([^"]*)" = "([^"]*)"|(true|false)|(and|or)|([()]))')


def _evaluate(text: str, record: dict[str, str]) -> bool:
    """The grammar of db_filter_parse.mly: and, or bind alike, to the left."""
    tokens = [match.groups() for match in _TOKEN.finditer(text)]
    assert "".join(match[0] for match in _TOKEN.finditer(text)) == text

    def value() -> bool:
        name, literal, constant, _, bracket = tokens.pop(0)
        if bracket == "(":
            inner = chain()
            assert tokens.pop(0)[4] == ")"
            return inner
        if constant:
            return constant == "true"
        return record[name] == literal

    def chain() -> bool:
        so_far = value()
        while tokens and tokens[0][3]:
            operator = tokens.pop(0)[3]
            right = value()
            so_far = (so_far and right) if operator == "and" else (so_far or right)
        return so_far

    result = chain()
    assert not tokens
    return result


class TestMask:
    @pytest.mark.parametrize(
        ("call", "params"),
        [
            ("secret.create", [{"value": "canary", "other_config": {}}]),
            ("secret.set_value", ["OpaqueRef:1", "canary"]),
            ("session.login_with_password", ["root", "canary"]),
            ("session.change_password", ["canary", "canary2"]),
            ("PBD.create", [{"device_config": {"chapuser": "u", "chappassword": "canary"}}]),
            ("Async.SR.create", ["host", {"incoming_ChapPassword": "canary"}, 0]),
            ("SR.add_to_sm_config", ["OpaqueRef:1", "password", "canary"]),
            ("pool.join", ["10.0.0.1", "root", "canary"]),
            ("VM.set_tags", ["OpaqueRef:1", [Secret("canary")]]),
            ("pool.set_repository_proxy_password", ["OpaqueRef:1", "canary"]),
        ],
    )
    def test_secrets_are_taken_out(self, call: str, params: list[Any]) -> None:
        """By the key, by the call, or because the caller said so."""
        shown, secrets = mask(Call.parse(call), params)
        assert "canary" not in repr(shown)
        assert "***" in repr(shown)
        assert Secret("canary") in secrets

    def test_the_rest_is_shown_as_it_is(self) -> None:
        """A log without references helps nobody."""
        params = ["OpaqueRef:1", {"device_config": {"target": "10.0.0.1"}, "size": 5}, ["a"]]
        assert mask(Call.parse("PBD.create"), params) == (params, frozenset())

    def test_the_uuid_of_a_secret_and_words_too_short_stay_in_errors(self) -> None:
        """UUID_INVALID [secret, uuid] must say which; and "1" is in every error."""
        uuid = "6f1e5c1e-7a3e-4a53-9c8d-1d3c2b1a0f00"
        shown, secrets = mask(Call.parse("PBD.create"), [{"chappassword_secret": uuid, "password": "1"}])
        assert shown == [{"chappassword_secret": "***", "password": "***"}]
        assert secrets == frozenset()
