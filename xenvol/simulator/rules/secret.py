"""Secrets: a password's value has a row of its own, and passwords in a device_config become such rows.

On the way in, a key that ends in ``password`` becomes ``<key>_secret``, the uuid of a new secret. PBD.create
then gives every PBD a copy, and the first row is never deleted (docs/background/recordings.md, "CHAP
secrets"; trace 11#17-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call


@rule("secret.create")
def create(call: Call, record: dict[str, Any]) -> str:
    return new(call, record["value"], record["other_config"])


@rule("secret.introduce")
def introduce(call: Call, uuid: str, value: str, other_config: dict[str, str]) -> str:
    if call.db.by_uuid("secret", uuid) is not None:
        raise internal_error(f'Db_exn.Uniqueness_constraint_violation("secret", "uuid", "{uuid}")')
    return call.db.create("secret", uuid=uuid, value=value, other_config=other_config)


@rule("secret.destroy")
def destroy(call: Call, secret: str) -> None:
    call.db.delete("secret", secret)


def new(call: Call, value: str, other_config: Mapping[str, str] | None = None) -> str:
    """Create a secret, and return its reference."""
    return call.db.create("secret", value=value, other_config=dict(other_config or {}))


def move_passwords(call: Call, config: Mapping[str, str]) -> dict[str, str]:
    """Return the config with each password replaced by the uuid of a new secret, under ``<key>_secret``."""
    moved = {}
    for key, value in config.items():
        if key.endswith("password"):
            moved[f"{key}_secret"] = _uuid(call, new(call, value))
        else:
            moved[key] = value
    return moved


def duplicate(call: Call, config: Mapping[str, str]) -> dict[str, str]:
    """Return the config with a copy of each secret; UUID_INVALID if a secret does not exist."""
    copied = dict(config)
    for key, value in config.items():
        if key.endswith("password_secret"):
            secret = call.db.by_uuid("secret", value)
            if secret is None:
                raise Failure("UUID_INVALID", "secret", value)
            copied[key] = _uuid(call, new(call, call.db.row("secret", secret)["value"]))
    return copied


def drop(call: Call, config: Mapping[str, str]) -> None:
    """Delete the secrets that a config names; ignore those that are gone."""
    for key, value in config.items():
        if key.endswith("password_secret") and (secret := call.db.by_uuid("secret", value)) is not None:
            call.db.delete("secret", secret)


def _uuid(call: Call, secret: str) -> str:
    return str(call.db.row("secret", secret)["uuid"])
