"""Pass passwords to storage drivers as xapi secrets, which xenvol makes and removes. xenvol writes them nowhere else.

`PBD.create` copies the secret that a ``*password_secret`` key names, and that copy goes with the PBD. A password
given to it in the clear leaves a second secret behind that nothing removes (docs/background/recordings.md, CHAP
secrets).

`secret.introduce` takes a uuid, `secret.create` does not. xenvol derives the uuid from the SR, the key and a slot; each
attempt takes a free slot. So a later attempt finds the secrets that a crash left behind, and xenvol can look up the
secret if an answer is lost.
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

from xenvol.errors import XapiError
from xenvol.pool.changes import call_and_confirm, is_no_more, make
from xenvol.pool.undo import Undo
from xenvol.pool.view import View, gone_is_fine, is_gone
from xenvol.secret import Secret, secrets_in
from xenvol.session.refs import SecretRef

SLOTS = 32  # most secrets for one key of one SR at a time, including those of dead attempts
_TOKEN = "xenvol:attempt"
"""Key in a secret's other_config: the token of the attempt that made it."""
_NAMESPACE = uuid.UUID("6d4b1a52-60a2-5f0e-9d5c-7f7f3b1c2a90")


@contextlib.contextmanager
def copies_of_passwords(
    view: View, undo: Undo, sr_uuid: str, device_config: Mapping[str, str | Secret]
) -> Iterator[dict[str, str]]:
    """Yield a device_config for `PBD.create`, with a xapi secret for each Secret. Remove these secrets afterwards."""
    plain = {key: value for key, value in device_config.items() if not isinstance(value, Secret)}
    made: list[SecretRef] = []
    for key, value in device_config.items():
        if isinstance(value, Secret):
            view.hide(value)
            secret_uuid, secret_ref = _introduce(view, undo, key, _uuids_of(sr_uuid, key), value)
            made.append(secret_ref)
            plain[f"{key}_secret"] = secret_uuid
    yield plain
    for secret_ref in made:
        destroy_secret(view, secret_ref)


def with_passwords(view: View, device_config: Mapping[str, str]) -> dict[str, str | Secret]:
    """Return the device_config of a PBD with its passwords, for `copies_of_passwords`: xapi destroys the PBD's secrets
    with the PBD. A secret that is gone keeps its key, and `PBD.create` refuses it."""
    config: dict[str, str | Secret] = {}
    for key, value in device_config.items():
        plain = key.removesuffix("_secret")
        secret_ref = find_secret(view, value) if plain != key else None
        if secret_ref is None:
            config[key] = value
        else:
            config[plain] = Secret(view.call("secret.get_value", secret_ref))
    view.hide(*secrets_in(config))
    return config


def forget_leftovers(view: View, sr_uuids: Iterable[str], keys: Collection[str]) -> None:
    """Remove the secrets that dead attempts left for these SRs. One call if there are none. Idempotent."""
    uuids = [each for sr_uuid in sr_uuids for key in keys for each in _uuids_of(sr_uuid, key)]
    for secret_ref in view.find("secret", {"uuid": uuids}):
        destroy_secret(view, SecretRef(secret_ref))


def _introduce(view: View, undo: Undo, key: str, uuids: list[str], value: Secret) -> tuple[str, SecretRef]:
    """Make a secret in a free slot, and return its uuid and reference. Raises XapiError if no slot is free.

    xapi sends the same error for a slot in use and for a late refusal. So a token tells this attempt's secret from that
    of another attempt in the same slot, which may hold another password.
    """
    random.shuffle(uuids)
    token = str(uuid.uuid4())
    for secret_uuid in uuids:
        try:
            return secret_uuid, make(
                view,
                undo,
                f"made a secret for {key}",
                ("secret.introduce", secret_uuid, value, {_TOKEN: token}),
                look=partial(_find_own, view, secret_uuid, token),
                inverse=destroy_secret,
            )
        except XapiError as error:
            refusal = error
            # xapi has no error code for a uuid in use; its owner may have removed the secret since
            if error.code != "INTERNAL_ERROR" and find_secret(view, secret_uuid) is None:
                raise
    raise refusal


def _find_own(view: View, secret_uuid: str, token: str) -> SecretRef | None:
    """Return the secret if the attempt with this token made it, else None. Reads no password."""
    secret_ref = find_secret(view, secret_uuid)
    try:
        if secret_ref is None or view.call("secret.get_other_config", secret_ref).get(_TOKEN) != token:
            return None
    except XapiError as error:
        if is_gone(error, "secret"):
            return None
        raise
    return secret_ref


def _uuids_of(sr_uuid: str, key: str) -> list[str]:
    return [str(uuid.uuid5(_NAMESPACE, f"{sr_uuid}/{key}/{slot}")) for slot in range(SLOTS)]


def find_secret(view: View, secret_uuid: str) -> SecretRef | None:
    try:
        return SecretRef(view.call("secret.get_by_uuid", secret_uuid))
    except XapiError as error:
        if is_gone(error, "secret"):
            return None
        raise


def destroy_secret(view: View, secret_ref: SecretRef) -> None:
    """Remove the secret. Idempotent."""
    with gone_is_fine("secret"):
        call_and_confirm(
            view, ("secret.destroy", secret_ref), is_done=partial(is_no_more, view, "secret", secret_ref)
        )
