"""The expressions of get_all_records_where: read as xapi's grammar reads them, answered through an index if one fits.

Fields go by their database spelling (``name__label``) and compare as strings, in the form in which xapi's database
stores them. ``not`` binds weaker than ``and`` and ``or``, which bind alike, to the left (db_filter_parse.mly).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xenvol.simulator.database import Database
from xenvol.simulator.datamodel import Class
from xenvol.simulator.failure import Failure
from xenvol.simulator.values import Type, parse_type


@dataclass(frozen=True, slots=True)
class FieldName:
    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    value: bool


@dataclass(frozen=True, slots=True)
class Equal:
    left: FieldName | str
    right: FieldName | str


@dataclass(frozen=True, slots=True)
class Not:
    inner: Expression


@dataclass(frozen=True, slots=True)
class Chain:
    """``first and/or x and/or y...``, from left to right."""

    first: Expression
    rest: tuple[tuple[str, Expression], ...]


Expression = Constant | Equal | Not | Chain


# ---- reading


def parse(text: str, release: tuple[int, ...] = (24, 16, 0)) -> Expression:
    """INVALID_VALUE [expression, OCaml's complaint] where it is none; the parsers complain in their own words."""
    try:
        return _Parser(text).whole()
    except _NoToken as complaint:
        raise Failure("INVALID_VALUE", text, 'Failure("lexing: empty token")') from complaint
    except _NotExpected as complaint:
        words = _YACC if release < _MENHIR_SINCE else _MENHIR
        raise Failure("INVALID_VALUE", text, words) from complaint


_YACC = "Stdlib.Parsing.Parse_error"
_MENHIR = "Xapi_database.Db_filter_parse.MenhirBasics.Error"
_MENHIR_SINCE = (24, 17, 0)


class _NoToken(Exception):
    """The next characters are no token."""


class _NotExpected(Exception):
    """The next token does not fit."""


_TOKEN = re.compile(r'[ \t\n]*(?:(=|true|false|\(|\)|field|and|or|not)|"([^"]*)"|($))')


class _Parser:
    """Reads a token only when it needs one, so that the first thing wrong is the one complained about."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._end = 0
        self._advance()

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._end)
        if found is None or (found[3] is not None and found.end() != len(self._text)):
            raise _NoToken
        self._end = found.end()
        self._word, self._literal = found[1], found[2]

    def _take(self, *words: str) -> str:
        word = self._word
        if word not in words:
            raise _NotExpected
        self._advance()
        return str(word)

    def whole(self) -> Expression:
        expression = self._expression()
        if self._word is not None or self._literal is not None:
            raise _NotExpected
        return expression

    def _expression(self) -> Expression:
        first = self._operand()
        rest = []
        while self._word in ("and", "or"):
            rest.append((self._take("and", "or"), self._operand()))
        return Chain(first, tuple(rest)) if rest else first

    def _operand(self) -> Expression:
        if self._word == "not":
            self._advance()
            return Not(self._expression())
        if self._word == "(":
            self._advance()
            inner = self._expression()
            self._take(")")
            return inner
        if self._word in ("true", "false"):
            return Constant(self._take("true", "false") == "true")
        left = self._value()
        self._take("=")
        return Equal(left, self._value())

    def _value(self) -> FieldName | str:
        is_field = self._word == "field"
        if is_field:
            self._advance()
        if self._literal is None:
            raise _NotExpected
        literal: str = self._literal
        self._advance()
        return FieldName(literal) if is_field else literal


# ---- answering


def select(db: Database, cls: str, text: str) -> list[str]:
    """The references for which the expression is true, newest first."""
    expression = parse(text, db.model.release)
    columns = _columns(db.model.classes[cls])
    chosen = None
    if all(name in columns for name in _names(expression)):
        chosen = _candidates(db, cls, columns, expression)
    refs = db.refs(cls) if chosen is None else [ref for ref in chosen if db.exists(cls, ref)]
    return [ref for ref in reversed(refs) if matches(expression, _reader(db, cls, columns, ref))]


def matches(expression: Expression, read: Callable[[str], str]) -> bool:
    """Whether it is true of a row whose fields ``read`` gives."""
    match expression:
        case Constant(value):
            return value
        case Not(inner):
            return not matches(inner, read)
        case Equal(left, right):
            return _side(left, read) == _side(right, read)
        case Chain(first, rest):
            truth = matches(first, read)
            for word, operand in rest:
                if truth == (word == "and"):
                    truth = matches(operand, read)
            return truth


def _side(side: FieldName | str, read: Callable[[str], str]) -> str:
    return read(side.name) if isinstance(side, FieldName) else side


def _columns(cls: Class) -> dict[str, tuple[str, Type]]:
    """Database spelling -> (field, type)."""
    return {field.db_name: (field.name, parse_type(field.type)) for field in cls.fields.values()}


def _reader(db: Database, cls: str, columns: dict[str, tuple[str, Type]], ref: str) -> Callable[[str], str]:
    def read(column: str) -> str:
        if column == "ref":
            return ref
        if column not in columns:
            raise Failure("INTERNAL_ERROR", "missing field", column, "")
        name, declared = columns[column]
        return db_string(declared, db.get(cls, ref, name))

    return read


def _names(expression: Expression) -> Iterator[str]:
    match expression:
        case Not(inner):
            yield from _names(inner)
        case Equal(left, right):
            yield from (s.name for s in (left, right) if isinstance(s, FieldName) and s.name != "ref")
        case Chain(first, rest):
            yield from _names(first)
            for _, operand in rest:
                yield from _names(operand)


def _candidates(
    db: Database, cls: str, columns: dict[str, tuple[str, Type]], expression: Expression
) -> dict[str, None] | None:
    """Rows found without a search, among them all for which the expression is true; None: no index helps."""
    match expression:
        case Constant(value):
            return None if value else {}
        case Equal(FieldName(column), str(literal)) | Equal(str(literal), FieldName(column)):
            found = _indexed(db, cls, columns, column, literal)
            return None if found is None else dict.fromkeys(found)
        case Chain(first, rest):
            chosen = _candidates(db, cls, columns, first)
            for word, operand in rest:
                other = _candidates(db, cls, columns, operand)
                if word == "and":
                    both = [c for c in (chosen, other) if c is not None]
                    chosen = min(both, key=len) if both else None
                else:
                    chosen = None if chosen is None or other is None else chosen | other
            return chosen
    return None


def _indexed(
    db: Database, cls: str, columns: dict[str, tuple[str, Type]], column: str, literal: str
) -> Iterable[str] | None:
    if column == "ref":
        return [literal]
    if column == "uuid":
        found = db.by_uuid(cls, literal)
        return [] if found is None else [found]
    if column == "name__label":
        return db.by_name(cls, literal)
    name, declared = columns[column]
    if declared.kind == "ref":
        return db.pointing_at(cls, name, literal)
    return None


# ---- how the database spells values


def db_string(declared: Type, value: Any) -> str:
    """A value in the form that expressions compare."""
    match declared.kind:
        case "bool":
            return str(value).lower()
        case "float":
            return f"{value:.18g}"
        case "set":
            return f"({' '.join(_quoted(declared.item, item) for item in value)})"
        case "map":
            pairs = (
                f"({_quoted(declared.key, key)} {_quoted(declared.item, item)})"
                for key, item in value.items()
            )
            return f"({' '.join(pairs)})"
        case "option":
            return "()" if value is None else f"({_quoted(declared.item, value)})"
        case "record":
            return ""
    return str(value)


def _quoted(declared: Type | None, value: Any) -> str:
    assert declared is not None  # by parse_type
    text = db_string(declared, value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
