"""Secrets: a password's value in a row of its own, and how passwords in a device_config become such rows.

A key that ends in ``password`` is turned into ``<key>_secret``, the uuid of a new secret, on the way in; PBD.create
then gives every PBD a copy of its own, so that the first row is left behind for ever (facts/sm-truth.md, CHAP
secrets; trace 11#17-30).
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
    """A new secret's reference."""
    return call.db.create("secret", value=value, other_config=dict(other_config or {}))


def move_passwords(call: Call, config: Mapping[str, str]) -> dict[str, str]:
    """The config without passwords: each has become a secret, and its key says so."""
    moved = {}
    for key, value in config.items():
        if key.endswith("password"):
            moved[f"{key}_secret"] = _uuid(call, new(call, value))
        else:
            moved[key] = value
    return moved


def duplicate(call: Call, config: Mapping[str, str]) -> dict[str, str]:
    """The config with a copy of each secret; UUID_INVALID where there is none of that uuid."""
    copied = dict(config)
    for key, value in config.items():
        if key.endswith("password_secret"):
            secret = call.db.by_uuid("secret", value)
            if secret is None:
                raise Failure("UUID_INVALID", "secret", value)
            copied[key] = _uuid(call, new(call, call.db.row("secret", secret)["value"]))
    return copied


def drop(call: Call, config: Mapping[str, str]) -> None:
    """Delete the secrets that a config names; those that are gone already are no matter."""
    for key, value in config.items():
        if key.endswith("password_secret") and (secret := call.db.by_uuid("secret", value)) is not None:
            call.db.delete("secret", secret)


def _uuid(call: Call, secret: str) -> str:
    return str(call.db.row("secret", secret)["uuid"])
