"""A password reaches a storage driver as a xapi secret that we make and remove; nowhere else is it ever written.

`PBD.create` copies the secret that a ``*password_secret`` key names, and that copy goes with the PBD. A password
given to it in the clear leaves a second secret behind that nothing removes (docs/background/recordings.md, CHAP
secrets).

`secret.introduce` takes a uuid, as `secret.create` does not. Ours is derived from what the password is for and a
slot, of which each attempt takes a free one; so whoever comes after a crash finds what was left, and a lost answer
can be looked up.
"""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial

from xenvol.errors import XapiError
from xenvol.pool.changes import is_no_more, make, unmake
from xenvol.pool.undo import Undo
from xenvol.pool.view import View, gone_is_fine, is_gone
from xenvol.secret import Secret
from xenvol.session.refs import SecretRef

SLOTS = 32  # as many attempts may have a secret for one key of one SR at a time, the dead ones included
_TOKEN = "xenvol:attempt"
"""In a secret's other_config: which attempt made it."""
_NAMESPACE = uuid.UUID("6d4b1a52-60a2-5f0e-9d5c-7f7f3b1c2a90")


@contextlib.contextmanager
def copies_of_passwords(
    view: View, undo: Undo, sr_uuid: str, device_config: Mapping[str, str | Secret]
) -> Iterator[dict[str, str]]:
    """A device_config for `PBD.create`: every Secret is replaced by the uuid of a xapi secret, removed on leaving."""
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


def forget_leftovers(view: View, sr_uuids: Iterable[str], keys: Collection[str]) -> None:
    """Remove the secrets that an attempt which died between two calls has left for one of these SRs; one call."""
    uuids = [each for sr_uuid in sr_uuids for key in keys for each in _uuids_of(sr_uuid, key)]
    for secret_ref in view.find("secret", {"uuid": uuids}):
        destroy_secret(view, SecretRef(secret_ref))


def _introduce(view: View, undo: Undo, key: str, uuids: list[str], value: Secret) -> tuple[str, SecretRef]:
    """Take a free slot. Raises XapiError when there is none, or when xapi makes no secrets.

    The token tells this attempt's secret from another's in the same slot, whose password may be another: a slot that
    is taken and a refusal that came after the deed are the same error to xapi.
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
            # xapi has no code of its own for a uuid that is taken; its owner may have removed it by now
            if error.code != "INTERNAL_ERROR" and find_secret(view, secret_uuid) is None:
                raise
    raise refusal


def _find_own(view: View, secret_uuid: str, token: str) -> SecretRef | None:
    """The secret, if the attempt with that token made it. Reads no password."""
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
    """Idempotent."""
    with gone_is_fine("secret"):
        unmake(
            view, ("secret.destroy", secret_ref), is_undone=partial(is_no_more, view, "secret", secret_ref)
        )
