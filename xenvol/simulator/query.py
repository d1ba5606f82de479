"""get_all_records_where: evaluate an expression on a class, through an index if one fits.

Fields have their database spelling (``name__label``) and compare as strings, in the form in which xapi's
database stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from xenvol.simulator.conversion import Type, parse_type
from xenvol.simulator.database import Database
from xenvol.simulator.datamodel import Class
from xenvol.simulator.expressions import Chain, Constant, Equal, Expression, FieldName, Not, matches, parse
from xenvol.simulator.failure import Failure


def select(db: Database, cls: str, text: str) -> list[str]:
    """Return the references for which the expression is true, newest first."""
    expression = parse(text, db.model.release)
    columns = _columns(db.model.classes[cls])
    chosen = None
    if all(name in columns for name in _names(expression)):
        chosen = _candidates(db, cls, columns, expression)
    if chosen is None or (len(chosen) > 1 and _has_or(expression)):  # a union of indexes is in no order
        refs = [ref for ref in db.refs(cls) if chosen is None or ref in chosen]
    else:
        refs = [ref for ref in chosen if db.exists(cls, ref)]
    return [ref for ref in reversed(refs) if matches(expression, _reader(db, cls, columns, ref))]


def _columns(cls: Class) -> dict[str, tuple[str, Type]]:
    """Return database spelling -> (field, type)."""
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


def _has_or(expression: Expression) -> bool:
    match expression:
        case Chain(first, rest):
            return _has_or(first) or any(word == "or" or _has_or(operand) for word, operand in rest)
    return False


def _candidates(
    db: Database, cls: str, columns: dict[str, tuple[str, Type]], expression: Expression
) -> dict[str, None] | None:
    """Return rows from an index that include every row for which the expression is true; None if no index helps."""
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


# ---- the database's spelling of values


def db_string(declared: Type, value: Any) -> str:
    """Return a value in the form that expressions compare."""
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
    assert declared is not None  # parse_type gives one
    text = db_string(declared, value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
