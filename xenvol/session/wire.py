"""How xapi wants a call written, and what of it may be seen: pure functions of the call and its parameters.

A call is spelled `Class.method`, `Async.` before it for the kind that answers with a task. That is the only
spelling accepted here: xapi also understands `Class_method`, by which one could slip past a ban.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from xenvol.errors import RequestError
from xenvol.secret import LONG_ENOUGH, MASK, Secret, is_secret_key
from xenvol.session.refs import is_uuid

FilterValue = str | int | bool

_MODES: Final = ("Async", "InternalAsync")
_CALL = re.compile(rf"(?:({'|'.join(_MODES)})\.)?([A-Za-z]\w*)\.([A-Za-z]\w*)", re.ASCII)
_FIELD = re.compile(r"[A-Za-z]\w*", re.ASCII)
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

# Nothing changes when these are sent twice: getters, checks that only succeed or fail, and event.from, whose
# whole state is in its token (docs/background/xapi.md 4.6; event.next consumes what it answers).
_READ_METHODS: Final = ("get_", "assert_")
_READ_CALLS: Final = frozenset({"event.from"})

_SECRET_CALLS: Final = frozenset(
    {
        "secret.set_value",
        "session.change_password",
        "pool.join",  # master's address, user, password
        "pool.join_force",
        "pool.enable_external_auth",
        "host.enable_external_auth",
    }
)


class Call(NamedTuple):
    """A call's name, taken apart; `mode` is empty for a call that answers with its result."""

    mode: str
    cls: str
    method: str

    @classmethod
    def parse(cls, call: str) -> Call:
        match = _CALL.fullmatch(call)
        if match is None or match[2] in _MODES:
            raise ValueError(
                f"{call!r} is no call of XenAPI: it is spelled Class.method, or Async.Class.method"
            )
        return cls(match[1] or "", match[2], match[3])

    def __str__(self) -> str:
        return f"{self.mode}.{self.plain}" if self.mode else self.plain

    @property
    def plain(self) -> str:
        """What is called, whichever way it answers."""
        return f"{self.cls}.{self.method}"

    @property
    def is_read(self) -> bool:
        """Whether it may be sent twice. An Async call never: each makes a task."""
        return not self.mode and (self.method.startswith(_READ_METHODS) or self.plain in _READ_CALLS)

    def is_among(self, forbidden: Collection[str]) -> bool:
        """Whether `forbidden` has it: by name, or by its class as `Class.*`, which spares what only reads."""
        return self.plain in forbidden or (f"{self.cls}.*" in forbidden and not self.is_read)


def to_wire(value: Any) -> Any:
    """The value as it is marshalled, but for secrets, which stay wrapped.

    Every int becomes its decimal digits: XML-RPC ends at 2³¹, sizes do not, and xapi takes both forms for an
    int (docs/background/recordings.md, "int arguments"). A bool stays one. Any collection becomes a list.

    Raises RequestError for what cannot be sent.
    """
    match value:
        case bool() | None | float():
            return value
        case int():
            return str(int(value))
        case str():
            if _NOT_XML.search(value):
                raise _not_xml()
            return str.__str__(value)  # a subclass (an enumeration's member) is not marshalled
        case Secret():
            if _NOT_XML.search(value.reveal()):
                raise _not_xml()
            return value
        case Mapping():
            return {to_wire(key): to_wire(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_wire(item) for item in value]
        case _:
            return value


def _not_xml() -> RequestError:
    return RequestError("a text with control characters in it cannot be sent: XML has no way to write them")


def expression(
    where: Mapping[str, FilterValue | Collection[FilterValue]],
    either: Mapping[str, FilterValue | Collection[FilterValue]] | None = None,
) -> str:
    """xapi's filter for the objects of which each field in `where`, and any one in `either`, has the value
    given.

    A collection of values means any of them. Fields are named as in xapi's database; `name_label` and
    `name_description` (there `name__label`, …) are understood as well. References, bools and enumerations are
    values like any other; sets and maps cannot be asked for (docs/background/xapi.md 4.7).
    """
    terms = [_is_one_of(name, value) for name, value in where.items()]
    if either is not None:
        terms.append(_any(_is_one_of(name, value) for name, value in either.items()))
    if not terms:
        raise ValueError(
            "a filter without a condition asks for every object of the class: say so with get_all_records"
        )
    return " and ".join(terms)


def _is_one_of(name: str, value: FilterValue | Collection[FilterValue]) -> str:
    if not _FIELD.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a field")
    if name in ("name_label", "name_description"):
        name = name.replace("_", "__")
    values = [value] if isinstance(value, str | int) else value
    return _any(f'field "{name}" = "{_literal(name, each)}"' for each in values)


def _any(terms: Iterable[str]) -> str:
    listed = list(terms)
    if not listed:
        return "false"
    return listed[0] if len(listed) == 1 else f"({' or '.join(listed)})"  # "and" binds no closer than "or"


def _literal(name: str, value: FilterValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(to_wire(value))
    if '"' in text:
        raise RequestError(f"{name} {text!r}: xapi cannot be asked for a value with a double quote in it")
    return text


def mask(call: Call, params: Sequence[Any]) -> tuple[list[Any], frozenset[Secret]]:
    """The parameters as they may be logged, and the secrets that were taken out of them."""
    secrets: set[Secret] = set()

    def hide(value: Any) -> str:
        text = str(value.reveal() if isinstance(value, Secret) else value)
        if len(text) >= LONG_ENOUGH and not is_uuid(text):  # chappassword_secret=<uuid> tells nobody anything
            secrets.add(Secret(text))
        return MASK

    def seen(value: Any) -> Any:
        match value:
            case Secret():
                return hide(value)
            case Mapping():
                return {
                    key: hide(item) if _names_secret(call, key) else seen(item) for key, item in value.items()
                }
            case list() | tuple() | set() | frozenset():
                return [seen(item) for item in value]
            case _:
                return value

    if _is_secret(call):
        shown: list[Any] = [
            hide(param) if isinstance(param, str | Secret) else seen(param) for param in params
        ]
    elif call.method.startswith("add_to_") and len(params) == 3 and _names_secret(call, params[1]):
        shown = [params[0], params[1], hide(params[2])]
    else:
        shown = [seen(param) for param in params]
    return shown, frozenset(secrets)


def _is_secret(call: Call) -> bool:
    return call.plain in _SECRET_CALLS or "login" in call.method or is_secret_key(call.method)


def _names_secret(call: Call, key: object) -> bool:
    return is_secret_key(str(key)) or (call.cls == "secret" and key == "value")
