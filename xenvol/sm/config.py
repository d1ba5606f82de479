"""The parameters of a backend as the XenAPI command line writes them (``server=… serverpath=…``): read, checked,
written.

The stored form has no secret. A password is a xapi secret, and its key says so (``chappassword_secret=<uuid>``).
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xenvol.connection_data.frozen import FrozenMap
from xenvol.secret import Secret, has_secret, is_secret_key
from xenvol.session.refs import is_uuid
from xenvol.sm.errors import InvalidConfig
from xenvol.storage.srtypes import SRType, sr_type_of

LONGEST: Final = 2047  # characters of a config that fit into its column

_OF_THE_SR = frozenset({"sr_uuid", "name_label", "name_description", "host"})
_SM_CONFIG = frozenset({"nosubdir"})  # keys that SM reads only from the SR's sm_config
_FREE_TEXT = frozenset({"name_label", "name_description"})  # may mention passwords
_PASSWORD = "password"
"""xapi keeps a value as a secret if its key ends so (docs/background/xapi.md, PBD.create)."""


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """What an administrator gave, sorted by where it goes."""

    sr_type: SRType
    device_config: Mapping[str, str | Secret]
    sm_config: Mapping[str, str] = field(default_factory=dict)
    sr_uuid: str | None = None
    """An SR that exists already, in the pool or on the storage: it is used, and none is made."""
    name_label: str | None = None
    name_description: str | None = None
    host: str | None = None
    """The host that has a local SR, by name or uuid."""

    @property
    def locations(self) -> frozenset[str]:
        """Return the names of the storage, without its host: `SRType.locations`."""
        plain = {key: value for key, value in self.device_config.items() if isinstance(value, str)}
        return self.sr_type.locations(plain)

    @property
    def has_uuid(self) -> bool:
        """Return True if the storage itself knows the uuid of its SR."""
        return self.sr_type.has_uuid and self.sm_config.get("nosubdir") != "true"

    def check_complete(self, *, but: Collection[str] = ()) -> None:
        """Raise InvalidConfig if a required key is missing. Keys in `but`, which the storage can list, may be
        missing."""
        for key in self.sr_type.required:
            if not (self.device_config.get(key) or self.device_config.get(f"{key}_secret") or key in but):
                raise InvalidConfig(
                    self.sr_type.name,
                    key,
                    problem="is missing",
                    remedy=f"needed: {', '.join(f'{each}=…' for each in self.sr_type.required)}",
                )


def parse(sr_type: str, given: Mapping[str, str | Secret]) -> BackendConfig:
    """Check the parameters, and return them sorted by where they go. Raises InvalidConfig, which quotes no value."""
    kind = sr_type_of(sr_type)
    if kind.not_for_volumes is not None:
        remedy = "choose a type that holds disks"
        raise InvalidConfig(kind.name, "type", problem=f"{kind.not_for_volumes}, not volumes", remedy=remedy)
    for key, value in given.items():
        _check(kind, key, value)
    plain = {key: str(given[key]) for key in _OF_THE_SR if given.get(key)}
    sr_uuid = plain.get("sr_uuid")
    if sr_uuid is not None and not is_uuid(sr_uuid):
        raise InvalidConfig(
            kind.name, "sr_uuid", problem="is no uuid", remedy="8-4-4-4-12 hexadecimal digits"
        )
    return BackendConfig(
        sr_type=kind,
        device_config=FrozenMap(
            {key: value for key, value in given.items() if key not in _OF_THE_SR | _SM_CONFIG}
        ),
        sm_config=FrozenMap({key: str(value) for key, value in given.items() if key in _SM_CONFIG}),
        sr_uuid=None if sr_uuid is None else sr_uuid.lower(),
        name_label=plain.get("name_label"),
        name_description=plain.get("name_description"),
        host=plain.get("host"),
    )


def check_given(kind: SRType, given: Mapping[str, str | Secret], driver: Collection[str]) -> None:
    """Check what an administrator has typed: that the storage driver reads each key, and that no value begins or ends
    with a space. `driver` are the keys that the pool's storage driver names itself. Raises InvalidConfig.
    """
    for key, value in given.items():
        if isinstance(value, str) and value != value.strip():
            remedy = "take it off: nobody sees it"
            raise InvalidConfig(kind.name, key, problem="has a space at its beginning or end", remedy=remedy)
    if kind.optional is None:
        return
    known = {*kind.required, *kind.optional, *driver}
    for key in sorted(given.keys() - known - _OF_THE_SR - _SM_CONFIG):
        if key.removesuffix("_secret") in known and _is_reference(key, str(given[key])):
            continue
        meant = difflib.get_close_matches(key, sorted(known | _OF_THE_SR | _SM_CONFIG), n=1)
        question = f"did you mean {meant[0]!r}? " if meant else ""
        raise InvalidConfig(
            kind.name,
            key,
            problem="is not read by the storage driver",
            remedy=f"{question}it reads {', '.join(sorted(known))}",
        )


def _check(kind: SRType, key: str, value: str | Secret) -> None:
    """Refuse a secret in plain text, and a secret whose key xapi would not keep as one. Raises InvalidConfig."""
    if not key or "=" in key or any(c.isspace() for c in key):
        raise InvalidConfig(kind.name, key, problem="is no key", remedy="write key=value")
    if isinstance(value, Secret):
        if not key.endswith(_PASSWORD):
            remedy = f"xapi keeps a value secret only if its key ends in {_PASSWORD!r}, and shows all others"
            raise InvalidConfig(kind.name, key, problem="cannot be kept as a secret", remedy=remedy)
        return
    if is_secret_key(key) and not _is_reference(key, value):
        raise InvalidConfig(
            kind.name, key, problem="is a secret, and is plain text here", remedy="give it as a Secret"
        )
    if key not in _FREE_TEXT and has_secret(value):
        remedy = (
            "give it by a key of its own, or have the driver read it from a file on the hosts (secretfile=…)"
        )
        raise InvalidConfig(kind.name, key, problem="contains a secret", remedy=remedy)
    if any(ord(c) < ord(" ") or c == "\x7f" for c in value):
        raise InvalidConfig(
            kind.name, key, problem="has a control character", remedy="write it in one line of text"
        )


def to_text(params: Mapping[str, str]) -> str:
    """Return one line of shell words, which `from_text` reads back."""
    return shlex.join(f"{key}={value}" for key, value in params.items())


def from_text(text: str) -> dict[str, str]:
    return from_words(shlex.split(text))


def from_words(words: Iterable[str]) -> dict[str, str]:
    """Parse ``key=value`` words. A value may contain ``=`` and spaces. Raises ValueError for a word without ``=``."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not key=value")
        if key in pairs:
            raise ValueError(f"key {key!r} is given twice")
        pairs[key] = value
    return pairs


def _is_reference(key: str, value: str) -> bool:
    """Return True for the uuid of a xapi secret, which may be shown."""
    return key.endswith(f"{_PASSWORD}_secret") and is_uuid(value)
