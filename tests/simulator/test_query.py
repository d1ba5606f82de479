"""get_all_records_where: the grammar, the database's spelling of values, and that an index changes no answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from direct import Direct, refusal
from hypothesis import given
from hypothesis import strategies as st

from xenvol.simulator import query
from xenvol.simulator.conversion import parse_type
from xenvol.simulator.expressions import Chain, Constant, Equal, Expression, FieldName, Not, matches, parse
from xenvol.simulator.failure import Failure

A, B, C = (Equal(FieldName("x"), letter) for letter in "abc")


def text_of(expression: Expression) -> str:
    """An expression as a client writes it, with every operand in parentheses."""
    match expression:
        case Constant(value):
            return str(value).lower()
        case Equal(left, right):
            return f"{side(left)} = {side(right)}"
        case Not(inner):
            return f"not ({text_of(inner)})"
        case Chain(first, rest):
            return f"({text_of(first)})" + "".join(f" {word} ({text_of(operand)})" for word, operand in rest)


def side(value: FieldName | str) -> str:
    return f'field "{value.name}"' if isinstance(value, FieldName) else f'"{value}"'


# ---- the grammar


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("true", Constant(True)),
        (' \n\tfield"x"="a"', A),
        ('"a" = "a"', Equal("a", "a")),
        ('"a" = field "x"', Equal("a", FieldName("x"))),
        ('(((field "x" = "a")))', A),
        (
            'field "x" = "a" and field "x" = "b" or field "x" = "c"',
            Chain(A, (("and", B), ("or", C))),
        ),
        ('not field "x" = "a" and field "x" = "b"', Not(Chain(A, (("and", B),)))),
        (
            'field "x" = "a" or not field "x" = "b" and field "x" = "c"',
            Chain(A, (("or", Not(Chain(B, (("and", C),)))),)),
        ),
        ('(not field "x" = "a") and field "x" = "b"', Chain(Not(A), (("and", B),))),
    ],
)
def test_not_binds_weakest_and_the_others_from_left_to_right(text: str, expression: Expression) -> None:
    assert parse(text) == expression


@pytest.mark.parametrize(
    "text", ["", "field", '"a"', '"a" =', "true true", "not", "()", "(true", "and true", '= "a"']
)
def test_tokens_in_a_wrong_place_are_a_parse_error(text: str) -> None:
    assert refusal(lambda: parse(text)) == ["INVALID_VALUE", text, "Stdlib.Parsing.Parse_error"]
    newer = "Xapi_database.Db_filter_parse.MenhirBasics.Error"
    assert refusal(lambda: parse(text, (25, 33, 1))) == ["INVALID_VALUE", text, newer]


@pytest.mark.parametrize(
    "text", ["TRUE", "trueish", 'field "x" != "a"', 'field "x', "field x", "# true", "true #"]
)
def test_what_is_no_token_is_a_lexing_error(text: str) -> None:
    assert refusal(lambda: parse(text)) == ["INVALID_VALUE", text, 'Failure("lexing: empty token")']


LITERAL = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), max_size=5)
EQUAL = st.builds(Equal, st.builds(FieldName, LITERAL) | LITERAL, st.builds(FieldName, LITERAL) | LITERAL)
EXPRESSION = st.recursive(
    st.builds(Constant, st.booleans()) | EQUAL,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(
            Chain,
            inner,
            st.lists(st.tuples(st.sampled_from(["and", "or"]), inner), min_size=1, max_size=3).map(tuple),
        )
    ),
    max_leaves=8,
)


@given(EXPRESSION)
def test_an_expression_that_is_written_down_is_read_as_the_same(expression: Expression) -> None:
    assert parse(text_of(expression)) == expression


@given(st.text(st.sampled_from('truefalsandoi dl"()=nx'), max_size=30))
def test_rubbish_is_an_invalid_value_and_nothing_else(text: str) -> None:
    with contextlib.suppress(Failure):
        parse(text)
        return  # by chance the text was an expression
    assert refusal(lambda: parse(text))[:2] == ["INVALID_VALUE", text]


def test_a_chain_of_thousands_is_no_problem() -> None:
    with Direct() as pool:
        many = " or ".join(f'field "uuid" = "{number}"' for number in range(5000))
        assert pool.call("VDI.get_all_records_where", many) == {}


# ---- answers


@pytest.fixture(scope="module")
def pool() -> Iterator[Direct]:
    """Two SRs, and VDIs in them that differ in every queried field."""
    pool = Direct("25.33.1")
    with pool.xapi.lock:
        srs = [pool.db.create("SR", name_label=name, uuid=f"sr-{name}") for name in ("one", "two")]
        for number in range(12):
            pool.db.create(
                "VDI",
                ref=f"OpaqueRef:{number}",
                uuid=f"vdi-{number}",
                name_label=f"disk {number % 3}",
                SR=srs[number % 2] if number < 10 else "OpaqueRef:gone",
                virtual_size=number % 4,
                sharable=number % 5 == 0,
                tags=["a", "it's"] if number == 3 else [],
                other_config={"k": "v\\"} if number == 4 else {},
            )
    yield pool
    pool.close()


def numbers(pool: Direct, expression: str) -> list[int]:
    """Return which of the pool's VDIs the expression finds."""
    found = pool.call("VDI.get_all_where", expression)
    assert set(pool.call("VDI.get_all_records_where", expression)) == set(found)
    return sorted(int(ref.removeprefix("OpaqueRef:")) for ref in found)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('field "uuid" = "vdi-7"', [7]),
        ('field "uuid" = "VDI-7"', []),
        ('field "ref" = "OpaqueRef:7"', [7]),
        ('field "ref" = "OpaqueRef:nosuch"', []),
        ('field "name__label" = "disk 1"', [1, 4, 7, 10]),
        ('field "SR" = "OpaqueRef:gone"', [10, 11]),
        ('field "virtual_size" = "3"', [3, 7, 11]),
        ('field "sharable" = "true"', [0, 5, 10]),
        ('field "type" = "system"', list(range(12))),
        ("field \"tags\" = \"('a' 'it\\'s')\"", [3]),
        ("field \"other_config\" = \"(('k' 'v\\\\'))\"", [4]),
        ('not field "tags" = "()"', [3]),
        ('field "name__label" = field "name__label" and field "SR" = "OpaqueRef:gone"', [10, 11]),
        ('field "uuid" = "vdi-1" or field "uuid" = "vdi-2"', [1, 2]),
        ('field "uuid" = "vdi-1" or field "virtual_size" = "3"', [1, 3, 7, 11]),
        ('not field "uuid" = "vdi-1" or true', []),
        ("false", []),
    ],
)
def test_values_compare_in_the_databases_spelling(pool: Direct, expression: str, expected: list[int]) -> None:
    assert numbers(pool, expression) == expected


def test_a_field_that_is_not_there_is_found_out_when_a_row_is_read(pool: Direct) -> None:
    missing = ["INTERNAL_ERROR", "missing field", "name_label", ""]
    expression = 'field "name_label" = "x"'
    assert pool.refusal("VDI.get_all_records_where", expression) == missing
    assert pool.refusal("VDI.get_all_records_where", f'field "uuid" = "vdi-1" and {expression}') == missing
    assert pool.call("VDI.get_all_records_where", f"false and {expression}") == {}
    assert pool.call("VBD.get_all_records_where", expression) == {}


COLUMNS = ["uuid", "ref", "name__label", "SR", "virtual_size", "sharable", "parent"]
VALUES = [
    "vdi-1",
    "OpaqueRef:2",
    "disk 0",
    "disk 1",
    "OpaqueRef:gone",
    "OpaqueRef:NULL",
    "2",
    "true",
    "nonsense",
]
KNOWN_EQUAL = st.builds(Equal, st.sampled_from(COLUMNS).map(FieldName), st.sampled_from(VALUES))
KNOWN_EXPRESSION = st.recursive(
    KNOWN_EQUAL | st.builds(Constant, st.booleans()),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(
            Chain,
            inner,
            st.lists(st.tuples(st.sampled_from(["and", "or"]), inner), min_size=1, max_size=4).map(tuple),
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "text",
    [
        '(field "ref" = "OpaqueRef:2" or false) or field "uuid" = "vdi-1"',
        'field "uuid" = "vdi-1" or field "uuid" = "vdi-2"',
        'field "uuid" = "vdi-2" or field "uuid" = "vdi-1"',
    ],
)
def test_what_several_indexes_find_is_newest_first(pool: Direct, text: str) -> None:
    expected = [
        ref for ref in reversed(pool.db.refs("VDI")) if pool.db.get("VDI", ref, "uuid") in ("vdi-1", "vdi-2")
    ]
    assert query.select(pool.db, "VDI", text) == expected


@given(KNOWN_EXPRESSION)
def test_an_index_finds_what_a_search_finds(pool: Direct, expression: Expression) -> None:
    def truth(ref: str) -> bool:
        row = {**pool.db.record("VDI", ref), "ref": ref}

        def read(column: str) -> str:
            value = row[column.replace("__", "_")]
            return str(value).lower() if isinstance(value, bool) else str(value)

        return matches(expression, read)

    found = query.select(pool.db, "VDI", text_of(expression))
    assert found == [ref for ref in reversed(pool.db.refs("VDI")) if truth(ref)]


@pytest.mark.parametrize(
    ("kind", "value", "spelled"),
    [
        ("bool", True, "true"),
        ("int", -5, "-5"),
        ("float", 2.5, "2.5"),
        ("float", 0.1, "0.100000000000000006"),
        ("datetime", "20260101T00:00:00Z", "20260101T00:00:00Z"),
        ("VDI ref set", [], "()"),
        ("(string -> string) map", {}, "()"),
        ("(int -> float) map", {1: 0.5, 2: 1.0}, "(('1' '0.5') ('2' '1'))"),
    ],
)
def test_the_database_spells_values_as_xapis(kind: str, value: object, spelled: str) -> None:
    assert query.db_string(parse_type(kind), value) == spelled
