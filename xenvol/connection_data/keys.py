"""Read connection_data by a table of keys: a `msgspec.Struct` whose fields describe the form of each key.

Unknown keys are ignored, null counts as absent, numbers may be strings. A wrong value becomes an
`InvalidConnectionInfo` with the description of its field.
"""

import functools
import logging
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from xenvol.connection_data.connection_info import ENVELOPE_KEYS, has_control_character
from xenvol.connection_data.frozen import freeze_map
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import Secret

logger = logging.getLogger(__name__)

Uuid = Annotated[
    str, Meta(pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", max_length=36)
]  # the length, because $ lets a newline pass
Positive = Annotated[int, Meta(ge=1)]
Keys = TypeVar("Keys", bound=msgspec.Struct)

_SEVERAL_LINES: Final = frozenset({"name_label", "name_description", "options"})
"""Keys whose text may have line breaks: xenvol finds no disk by them."""
_PATH = re.compile(r" - at `\$\.(?P<key>\w+)[^`]*`$")


class CommonKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every built-in driver accepts."""

    volume_id: Annotated[str | int | None, Meta(description="the service's id of the volume")] = None
    name_label: Annotated[str | None, Meta(description="the name of an SR that is introduced")] = None
    name_description: Annotated[str | None, Meta(description="the description of that SR")] = None
    size: Annotated[
        Positive | None, Meta(description="the volume's size in GiB, a whole number; proves a disk")
    ] = None
    volume_size: Annotated[Positive | None, Meta(description="the same as size")] = None
    size_bytes: Annotated[
        Positive | None, Meta(description="the volume's exact size in bytes; proves a disk")
    ] = None

    @property
    def service_id(self) -> str | None:
        """Return `volume_id` as text, or None."""
        return None if self.volume_id is None else str(self.volume_id)


def read(table: type[Keys], connection_data: Mapping[str, object], *, driver: str) -> Keys:
    """Return the keys of the table, read from the data. Other keys are ignored, with a log line.

    A field without a default is a required key. A word out of a list is accepted in any case of letters. Raises
    InvalidConnectionInfo.
    """
    data = freeze_map(connection_data)  # wraps secrets, so that no error below shows one
    known = {key: data[key] for key in table.__struct_fields__ if data.get(key) is not None}
    for key, value in known.items():
        if value == "null":  # msgspec reads this text as None, and the LUN would be lost
            raise refusal(key, table, driver=driver, problem="is the text null")
        if key not in _SEVERAL_LINES and has_control_character(value):
            raise refusal(key, table, driver=driver, problem="has a control character in it")
        if isinstance(value, str) and value.lower() in (words := _words(table).get(key, {})):
            known[key] = words[value.lower()]
    for field in msgspec.structs.fields(table):
        if field.required and field.name not in known:
            raise refusal(field.name, table, driver=driver)
    try:
        keys = msgspec.convert(known, table, strict=False, dec_hook=_to_secret)
    except msgspec.ValidationError as error:
        at = _PATH.search(str(error))
        if at is None:  # an error that names no key is a fault of the table
            raise
        problem = f"is wrong ({str(error).removesuffix(at[0]).replace('`', '')})"
        raise refusal(at["key"], table, driver=driver, problem=problem) from error
    log_ignored(set(data) - set(known), driver=driver)
    return keys


def log_ignored(keys: set[str], *, driver: str) -> None:
    """Log the keys that are not read, without their values."""
    if ignored := sorted(map(str, keys - ENVELOPE_KEYS)):
        logger.info("connection_info for driver %r: ignored: %s", driver, ", ".join(ignored))


def refusal(key: str, table: type, *, driver: str, problem: str = "is missing") -> InvalidConnectionInfo:
    """Return the error for a key, with the table's description of it. `problem` must not show a secret."""
    return InvalidConnectionInfo(key, driver, accepted=accepted_keys(table)[key], problem=problem)


@functools.cache
def accepted_keys(table: type) -> Mapping[str, str]:
    """Return the description of each key of a table, for help texts. The table is any class with annotations."""
    return {
        key: next((meta.description for meta in _metas(hint) if meta.description), "")
        for key, hint in get_type_hints(table, include_extras=True).items()
    }


def json_schema(table: type) -> dict[str, Any]:
    """Return the table as JSON Schema. A secret is a string of format password."""
    return msgspec.json.schema(table, schema_hook=_schema_of_secret)


@functools.cache
def _words(table: type) -> Mapping[str, Mapping[str, str]]:
    """Return, for each key that takes a word of a list, the words by their lower-case spelling."""
    return {
        key: {str(word).lower(): str(word) for word in words}
        for key, hint in get_type_hints(table).items()
        if (
            words := [
                word
                for part in (hint, *get_args(hint))
                if get_origin(part) is Literal
                for word in get_args(part)
            ]
        )
    }


def _metas(hint: object) -> list[Meta]:
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _to_secret(kind: type, value: object) -> object:
    if kind is not Secret:
        raise TypeError(f"cannot read a {kind.__name__}")
    if isinstance(value, bool) or not isinstance(value, str | int | Secret):
        raise ValueError("Expected a string")
    return value if isinstance(value, Secret) else Secret(str(value))


def _schema_of_secret(kind: type) -> dict[str, Any]:
    if kind is not Secret:
        raise TypeError(f"no schema for {kind.__name__}")
    return {"type": "string", "format": "password", "writeOnly": True}
