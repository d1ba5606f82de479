"""Parse the expressions of get_all_records_where by xapi's grammar, without knowledge of the compared values.

``not`` binds weaker than ``and`` and ``or``, which have the same precedence and associate to the left
(db_filter_parse.mly).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from xenvol.simulator.failure import Failure


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
    """Parse an expression; INVALID_VALUE [expression, OCaml's message] in the words of that release."""
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
    """The next characters form no token."""


class _NotExpected(Exception):
    """The grammar does not allow the next token."""


_TOKEN = re.compile(r'[ \t\n]*(?:(=|true|false|\(|\)|field|and|or|not)|"([^"]*)"|($))')


class _Parser:
    """Reads a token only when it needs one, so that the error names the first mistake."""

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


# ---- truth


def matches(expression: Expression, read: Callable[[str], str]) -> bool:
    """Return True if the expression is true of a row; ``read`` returns the row's fields."""
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
