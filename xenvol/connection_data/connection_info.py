"""Parse a connection_info once, freeze it, and wrap its secrets.

Two shapes are accepted: nested (``driver_volume_type`` beside ``data``), and flat, as the attachments API sends it (all
keys at one level). This module reads the keys of every volume. The driver reads the keys of its protocol from
`ConnectionInfo.data`. docs/connection_info.md says of each key whether it is honoured, ignored or refused. The caller's
mapping is neither changed nor kept.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

from xenvol.connection_data.frozen import FrozenMap, freeze_map
from xenvol.errors import InvalidConnectionInfo
from xenvol.secret import Secret, scrubbing, secrets_in

logger = logging.getLogger(__name__)

AccessMode = Literal["rw", "ro"]
Operation = TypeVar("Operation", bound=Callable[..., Any])

ENVELOPE_KEYS: Final = frozenset(
    {
        "driver_volume_type",
        "data",
        "serial",
        "volume_id",
        "attachment_id",
        "access_mode",
        "multiattach",
        "encrypted",
        "discard",
        "qos_specs",
    }
)
"""The keys that this module reads."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")
_SCHEDULERS = ("rt", "real-time", "best-effort", "idle")
_CLASSES = ("highest", "high", "normal", "low", "lowest", *map(str, range(8)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """One volume, as its service described it. Safe to log."""

    driver_volume_type: str
    """The name of the driver, in lower case."""
    data: Mapping[str, object]
    """What the driver sees: read-only, secrets wrapped, with `volume_id` and `multiattach` from beside it."""
    volume_id: str | None = None
    attachment_id: str | None = None
    access_mode: AccessMode = "rw"
    multiattach: bool = False
    discard: bool = False
    """The service asks for trims. Ignored: XenAPI has no switch for them."""
    qos: Mapping[str, object] = FrozenMap({})
    """All qos_specs. xapi can apply those of `ionice` only."""
    extra: Mapping[str, object] = FrozenMap({})
    """The other keys beside `data`. Their secrets are masked in errors, too."""

    @property
    def ionice(self) -> dict[str, str]:
        """Return the qos_algorithm_params of a VBD with qos_algorithm_type ionice; empty if the service sets none."""
        return {key: str(self.qos[key]) for key in ("sched", "class") if self.qos.get(key) is not None}


def parse(connection_info: Mapping[str, object]) -> ConnectionInfo:
    """Parse a connection_info of either shape. Raises InvalidConnectionInfo, which names the key."""
    if not isinstance(connection_info, Mapping):
        raise _no_mapping(type(connection_info))
    if isinstance(connection_info, _NotAMapping):
        raise _no_mapping(connection_info.kind)
    whole = _frozen(connection_info)
    name = whole.get("driver_volume_type")
    if not isinstance(name, str) or not name.strip():
        raise _invalid("driver_volume_type", None, "the name of a driver, such as iscsi", given=name)
    driver = name.strip().lower()

    beside: Mapping[str, object]
    extra: Mapping[str, object]
    if whole.get("data") is None:
        data = FrozenMap(
            {key: value for key, value in whole.items() if key not in ("driver_volume_type", "data")}
        )
        beside, extra = FrozenMap({}), FrozenMap({})
    else:
        if not isinstance(whole["data"], FrozenMap):
            raise _invalid(
                "data", driver, "a mapping; or no data, with its keys one level up", given=whole["data"]
            )
        data = whole["data"]
        beside = whole
        extra = FrozenMap({key: value for key, value in whole.items() if key not in ENVELOPE_KEYS})

    if has_control_character(driver):
        raise _invalid(
            "driver_volume_type", None, "the name of a driver", problem="has a control character in it"
        )
    reader = _Reader(driver, beside, data)
    if reader.boolean("encrypted"):
        raise _invalid("encrypted", driver, "false: XenAPI cannot open a LUKS volume", problem="is true")
    volume_id = reader.text("serial", "volume_id") if beside else reader.text("volume_id", "serial")
    multiattach = reader.boolean("multiattach")
    for_driver: dict[str, object] = {}
    if volume_id is not None:
        for_driver["volume_id"] = volume_id
    if multiattach or "multiattach" in data:
        for_driver["multiattach"] = multiattach
    parsed = ConnectionInfo(
        driver_volume_type=driver,
        data=FrozenMap({**data, **for_driver}),
        volume_id=volume_id,
        attachment_id=reader.attachment_id(),
        access_mode=reader.access_mode(),
        multiattach=multiattach,
        discard=reader.boolean("discard"),
        qos=reader.qos(),
        extra=extra,
    )
    _log_what_is_ignored(parsed)
    return parsed


@dataclass(frozen=True, slots=True)
class _Reader:
    """Read a key from beside `data`, else from within. Null counts as absent."""

    driver: str
    beside: Mapping[str, object]
    data: Mapping[str, object]

    def value(self, key: str) -> object:
        beside = self.beside.get(key)
        return self.data.get(key) if beside is None else beside

    def text(self, *keys: str) -> str | None:
        for key in keys:
            value = self.value(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
            if value is not None and not isinstance(value, str):
                raise _invalid(key, self.driver, "a string", given=value)
            if has_control_character(value):
                raise _invalid(key, self.driver, "a string", problem="has a control character in it")
            if value:
                return value
        return None

    def attachment_id(self) -> str | None:
        """Return the attachment's id, or None. Refuses an empty id, which would fence nothing."""
        if self.value("attachment_id") == "":
            raise _invalid(
                "attachment_id", self.driver, "an id; without one, null or no such key", problem="is empty"
            )
        return self.text("attachment_id")

    def boolean(self, key: str) -> bool:
        value = self.value(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        if str(value).lower() in _TRUE:
            return True
        if str(value).lower() in _FALSE:
            return False
        raise _invalid(key, self.driver, "true or false", given=value)

    def access_mode(self) -> AccessMode:
        value = self.value("access_mode")
        match str(value).lower():
            case "rw" | "none" | "":
                return "rw"
            case "ro":
                return "ro"
        raise _invalid("access_mode", self.driver, "rw or ro", given=value)

    def qos(self) -> FrozenMap[object]:
        value = self.value("qos_specs")
        if value is None or value == "" or value == ():  # some languages send an empty map as a list
            return FrozenMap({})
        if not isinstance(value, FrozenMap):
            raise _invalid("qos_specs", self.driver, "a mapping", given=value)
        for key, words in (("sched", _SCHEDULERS), ("class", _CLASSES)):
            word = value.get(key)
            if word is not None and str(word) not in words:
                raise _invalid(f"qos_specs.{key}", self.driver, f"one of {', '.join(words)}", given=word)
        return value


def has_control_character(value: object) -> bool:
    """Return whether a text, a Secret or a tuple of them has a character that XML cannot carry unchanged.

    xapi receives a carriage return as a line feed, so it would not find an id with one again.
    """
    if isinstance(value, tuple):
        return any(has_control_character(item) for item in value)
    text = value.reveal() if isinstance(value, Secret) else value
    return isinstance(text, str) and _CONTROL.search(text) is not None


def _log_what_is_ignored(parsed: ConnectionInfo) -> None:
    volume = parsed.volume_id or "without an id"
    if limits := sorted(set(parsed.qos) - {"sched", "class"}):
        logger.warning(
            "volume %s: qos_specs %s ignored: XenAPI limits no throughput; it has sched and class (ionice)",
            *(volume, ", ".join(limits)),
        )
    if parsed.discard:
        logger.info("volume %s: discard ignored: XenAPI has no switch for it", volume)


def _no_mapping(kind: type) -> InvalidConnectionInfo:
    """Return the error for a value that is no mapping. It shows only the type, since the value may have a password."""
    problem = f"is a {kind.__name__}"
    if issubclass(kind, str | bytes | bytearray):
        problem += ", which is not parsed: pass the mapping that json.loads returns"
    return _invalid("connection_info", None, "a mapping with driver_volume_type and data", problem=problem)


class _NotAMapping(Mapping[str, object]):
    """Stands for an argument that is no mapping: keeps its type, and nothing of its text."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __getitem__(self, key: str) -> object:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def sealed(given: object) -> Mapping[str, object]:
    """Return a frozen copy with every secret wrapped. Accepts what is no mapping: `parse` refuses it.

    Raises InvalidConnectionInfo if it is nested too deeply.
    """
    return _frozen(given) if isinstance(given, Mapping) else _NotAMapping(type(given))


def keeps_secrets(operation: Operation) -> Operation:
    """Decorate an operation on a connection_info: seal it first, and mask its secrets in every error that leaves.

    So no frame of xenvol has a password in the clear but the one that sends it to xapi.
    """

    @functools.wraps(operation)
    def run(self: object, connection_info: object, *args: Any, **kwargs: Any) -> Any:
        connection_info = sealed(connection_info)
        with scrubbing(secrets_in(connection_info)):
            return operation(self, connection_info, *args, **kwargs)

    return cast("Operation", run)


def _frozen(given: Mapping[str, object]) -> FrozenMap[object]:
    try:
        return freeze_map(given)
    except ValueError:
        problem = "is nested too deeply"
    raise InvalidConnectionInfo("data", None, accepted="what a storage service sends", problem=problem)


def _invalid(
    key: str, driver: str | None, accepted: str, *, given: object = None, problem: str | None = None
) -> InvalidConnectionInfo:
    if problem is None:
        if given is None:
            problem = "is missing"
        elif isinstance(given, str | int | float):
            problem = f"is {given!r}"
        else:
            problem = f"is a {type(given).__name__}"
    return InvalidConnectionInfo(key, driver, accepted=accepted, problem=problem)
